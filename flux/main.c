/* The flux command. */
#include <string.h>

#include "core/base/text.h"
#include "flux/command/options.h"

static const struct command *const commands[] = {
    &command_run, &command_register, &command_heartbeat, &command_deregister, &command_list};
enum { COMMANDS = sizeof commands / sizeof commands[0] };

static void
usage(FILE *out)
{
    fprintf(out, "usage: flux COMMAND [options]\n\nflux makes a program an instance of a service in a "
                 "registry.\n\ncommands:\n");
    for (size_t i = 0; i < COMMANDS; i++)
        fprintf(out, "  %-12s %s\n", commands[i]->name, commands[i]->summary);
    fprintf(out, "\n'flux COMMAND --help' says more; 'flux --version' prints the version.\n");
}

static int
unknown(const char *name)
{
    const char *names[COMMANDS + 1], *near;
    for (size_t i = 0; i < COMMANDS; i++)
        names[i] = commands[i]->name;
    names[COMMANDS] = NULL;
    near = text_nearest(slice_of(name), names);
    fprintf(stderr, "flux: %s: no such command", name);
    if (near != NULL) fprintf(stderr, "; did you mean %s?", near);
    fprintf(stderr, "\nTry 'flux --help'.\n");
    return EXIT_USAGE;
}

static int
run(const struct command *command, int argc, char **argv)
{
    struct options options;
    int code = EXIT_USAGE;
    if (options_parse(command, argc, argv, &options)) {
        if (options.help) {
            options_help(command, stdout);
            code = 0;
        } else {
            code = command->run(&options);
        }
    }
    options_fini(&options);
    return code;
}

int
main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    if (argc < 2) {
        usage(stderr);
        return EXIT_USAGE;
    }
    if (strcmp(name, "--version") == 0 || strcmp(name, "version") == 0) {
        printf("flux %s\n", FLUXGATE_VERSION);
        return 0;
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        usage(stdout);
        return 0;
    }
    for (size_t i = 0; i < COMMANDS; i++) {
        if (strcmp(name, commands[i]->name) == 0) return run(commands[i], argc - 2, argv + 2);
    }
    return unknown(name);
}
