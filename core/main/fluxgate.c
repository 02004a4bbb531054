/* core/main/fluxgate.c: main(): finds the subcommand, reads its options, runs it. */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "core/base/slice.h"
#include "core/base/text.h"
#include "core/main/command.h"

static const struct command *const commands[] = {&command_run, &command_check, &command_config,
    &command_registry, &command_reload, &command_status, &command_test, &command_new, NULL};

static const struct option_row {
    char letter;
    const char *name, *argument, *help;
} options[] = {
    {'c', "--config", "FILE", "the configuration file (also -c FILE)"},
    {'a', "--admin", "ADDRESS", "the admin address, instead of the one in the configuration"},
    {'e', "--effective", NULL, "with every default and every include"},
    {'j', "--json", NULL, "as the admin API answers it"},
    {'w', "--watch", NULL, "stay, and run again whenever a Lua file changes"},
    {'f', "--filter", "PATTERN", "only the tests whose name this Lua pattern finds"},
    {'d', "--dir", "DIR", "where to write, instead of the current directory"},
    {0, NULL, NULL, NULL},
};

static void
print_usage(FILE *out)
{
    fputs("fluxgate " FLUXGATE_VERSION
          ": a gateway that people program in Lua\n\nusage: fluxgate COMMAND [OPTIONS]\n\n",
        out);
    for (size_t i = 0; commands[i] != NULL; i++)
        fprintf(out, "  %-10s %s\n", commands[i]->name, commands[i]->summary);
    fputs(
        "\n'fluxgate COMMAND --help' tells more of each; 'fluxgate --version' prints the version.\n"
        "A first look: examples/quickstart.sh in the source tree, or docs/config.md for the configuration.\n",
        out);
}

static void
print_command(const struct command *command, FILE *out)
{
    fprintf(out, "usage: fluxgate %s\n\n%s\n\noptions:\n", command->usage, command->help);
    for (const struct option_row *row = options; row->name != NULL; row++) {
        if (strchr(command->options, row->letter) == NULL) continue;
        fprintf(out, "  %-12s %-8s %s\n", row->name, row->argument == NULL ? "" : row->argument, row->help);
    }
    fputs("  --help                this text\n\nexit codes: 0 done, 1 failed (the message says why), 64 "
          "wrong usage, "
          "69 not reachable, 71 the system refused\n",
        out);
}

static int
usage_error(const struct command *command, const char *what, const char *word, const char *hint)
{
    fprintf(stderr, "fluxgate: %s '%s'", what, word);
    if (hint != NULL) fprintf(stderr, "; did you mean '%s'?", hint);
    fprintf(stderr, "\nTry 'fluxgate %s%s--help'.\n", command == NULL ? "" : command->name,
        command == NULL ? "" : " ");
    return EXIT_USAGE;
}

static void
set_option(struct command_args *args, char letter, const char *value)
{
    switch (letter) {
    case 'c': args->config = value; break;
    case 'a': args->admin = value; break;
    case 'e': args->effective = 1; break;
    case 'j': args->json = 1; break;
    case 'w': args->watch = 1; break;
    case 'f': args->filter = value; break;
    case 'd': args->dir = value; break;
    }
}

static const struct option_row *
find_option(const struct command *command, const char *word, const char **attached)
{
    size_t len = strcspn(word, "=");
    *attached = word[len] == '=' ? word + len + 1 : NULL;
    for (const struct option_row *row = options; row->name != NULL; row++) {
        char brief[3] = {'-', row->letter, '\0'};
        if (strchr(command->options, row->letter) == NULL) continue;
        if (strlen(row->name) == len && strncmp(row->name, word, len) == 0) return row;
        if (row->argument != NULL && strcmp(word, brief) == 0) return row;
    }
    return NULL;
}

/* A word, or "--" and all behind it. They are kept in argv itself, behind the command: never more than were
 * read. */
static bool
take_words(const struct command *command, int argc, char **argv, int *i, struct command_args *args)
{
    bool is_rest = strcmp(argv[*i], "--") == 0;
    if (strchr(command->options, '*') == NULL || (argv[*i][0] == '-' && !is_rest)) return false;
    if (!is_rest) args->words[args->word_count++] = argv[*i];
    while (is_rest && ++*i < argc)
        args->words[args->word_count++] = argv[*i];
    return true;
}

/* 0: go on; else *code is what to exit with. */
static int
read_options(const struct command *command, int argc, char **argv, struct command_args *args, int *code)
{
    for (int i = 2; i < argc; i++) {
        const char *attached;
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            print_command(command, stdout);
            *code = EXIT_DONE;
            return 1;
        }
        if (take_words(command, argc, argv, &i, args)) continue;
        const struct option_row *row = find_option(command, argv[i], &attached);
        if (row == NULL) {
            const char *names[8] = {"--help"};
            size_t n = 1;
            for (const struct option_row *r = options; r->name != NULL; r++) {
                if (strchr(command->options, r->letter) != NULL) names[n++] = r->name;
            }
            *code = usage_error(command, "no such option", argv[i], text_nearest(slice_of(argv[i]), names));
            return 1;
        }
        if (row->argument == NULL && attached != NULL) {
            *code = usage_error(command, "this option takes no value:", argv[i], NULL);
            return 1;
        }
        if (row->argument != NULL && attached == NULL && ++i >= argc) {
            *code = usage_error(command, "this option needs a value:", row->name, NULL);
            return 1;
        }
        set_option(args, row->letter, attached != NULL ? attached : argv[i]);
    }
    args->words[args->word_count] = NULL;
    if (args->config == NULL && args->admin == NULL && strchr(command->options, 'c') != NULL) {
        fprintf(stderr, "fluxgate %s: which configuration? Give it with -c FILE.\n", command->name);
        *code = EXIT_USAGE;
        return 1;
    }
    return 0;
}

int
main(int argc, char **argv)
{
    struct command_args args = {0};
    const char *names[16] = {"--help", "--version"};
    int code = 0;
    if (argc < 2) {
        print_usage(stderr);
        return EXIT_USAGE;
    }
    args.words = argv + 2;
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        print_usage(stdout);
        return EXIT_DONE;
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "version") == 0) {
        puts("fluxgate " FLUXGATE_VERSION);
        return EXIT_DONE;
    }
    for (size_t i = 0; commands[i] != NULL; i++) {
        names[i + 2] = commands[i]->name;
        if (strcmp(commands[i]->name, argv[1]) != 0) continue;
        return read_options(commands[i], argc, argv, &args, &code) != 0 ? code : commands[i]->run(&args);
    }
    return usage_error(NULL, "no such command", argv[1], text_nearest(slice_of(argv[1]), names));
}
