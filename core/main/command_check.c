/* core/main/command_check.c: `fluxgate check` and `fluxgate config`: what a person asks of a file before it
 * runs. */
#include <stdio.h>
#include <unistd.h>

#include "core/config/config.h"
#include "core/main/checker.h"
#include "core/main/command.h"

/* The checked bundle's config; NULL: the reasons are on standard error. */
static struct config *
load(const char *path, struct bundle **bundle)
{
    struct diags diags = {0};
    struct config *config = NULL;
    int memfd;
    *bundle = NULL;
    if (!checker_run(path, &memfd)) return NULL;
    *bundle = bundle_from_fd(memfd);
    if (*bundle != NULL) config = config_load(*bundle, path, &diags);
    if (config == NULL) {
        fputs("fluxgate: the checked configuration cannot be read back\n", stderr);
        bundle_free(*bundle);
    }
    diags_fini(&diags);
    return config;
}

static int
run_check(const struct command_args *args)
{
    char hash[17];
    struct bundle *bundle;
    struct config *config = load(args->config, &bundle);
    if (config == NULL) {
        fprintf(stderr, "%s: not valid\n", args->config);
        return EXIT_FAILED;
    }
    bundle_hash(bundle, hash);
    printf("%s: valid%s: %zu listener%s, %zu route%s, %zu service%s, %u worker%s, hash %s\n", args->config,
        config->is_flat ? " (the flat form of the replaced system)" : "", config->listener_count,
        config->listener_count == 1 ? "" : "s", config->route_count, config->route_count == 1 ? "" : "s",
        config->service_count, config->service_count == 1 ? "" : "s", config->workers,
        config->workers == 1 ? "" : "s", hash);
    config_free(config);
    bundle_free(bundle);
    return EXIT_DONE;
}

const struct command command_check = {
    .name = "check",
    .summary = "say whether a configuration and every script it names would load",
    .usage = "check -c FILE",
    .help = "Reads the file as a reload would, in a process of its own: YAML, includes, environment, and "
            "every Lua file, for\n"
            "real. Every error is printed as file:line:column with what was expected and the nearest valid "
            "name; then it exits 1.",
    .options = "c",
    .run = run_check,
};

static int
run_config(const struct command_args *args)
{
    struct bundle *bundle;
    struct config *config = load(args->config, &bundle);
    if (config == NULL) return EXIT_FAILED;
    if (args->effective) {
        config_print(config, stdout);
    } else {
        struct slice text;
        if (bundle_read(bundle, args->config, &text)) fwrite(text.at, 1, text.len, stdout);
    }
    config_free(config);
    bundle_free(bundle);
    return ferror(stdout) != 0 ? EXIT_FAILED : EXIT_DONE;
}

const struct command command_config = {
    .name = "config",
    .summary = "print a configuration, with --effective every default too",
    .usage = "config [--effective] -c FILE",
    .help = "Prints the file once it is found valid. With --effective: includes merged, the environment "
            "filled in, every\n"
            "default written out; what is printed loads again to the same.",
    .options = "ce",
    .run = run_config,
};
