/* core/main/command_test.c: `fluxgate test` and `fluxgate new`: what a person who writes a plug-in works
 * with. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/main/command.h"
#include "core/main/folders.h"
#include "core/script/tool.h"

enum { SETTLE_MS = 60 }; /* an editor's save is several events */

static int
run_specs(const struct command_args *args)
{
    const char **arguments = calloc((size_t)args->word_count + 4, sizeof *arguments);
    int count = 0;
    if (arguments == NULL) return EXIT_OS;
    if (args->filter != NULL) {
        arguments[count++] = "--filter";
        arguments[count++] = args->filter;
    }
    for (int i = 0; i < args->word_count; i++)
        arguments[count++] = args->words[i];
    if (args->word_count == 0) arguments[count++] = ".";
    int code = script_tool("test", arguments);
    free(arguments);
    return code == 0 ? EXIT_DONE : EXIT_FAILED;
}

/* In a process of its own: each run begins with a fresh Lua, and one that loops is ended by Ctrl-C alone. */
static bool
run_child(const struct command_args *args)
{
    int status = 0;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        int code = run_specs(args);
        fflush(NULL);
        _exit(code);
    }
    if (child == -1) {
        perror("fluxgate test: fork");
        return false;
    }
    while (waitpid(child, &status, 0) == -1 && errno == EINTR) {
    }
    if (WIFSIGNALED(status)) fprintf(stderr, "fluxgate test: the run died of signal %d\n", WTERMSIG(status));
    return true;
}

static int
watch_specs(const struct command_args *args)
{
    for (;;) {
        struct folders *folders = folders_watch((const char *const *)args->words);
        if (folders == NULL) {
            perror("fluxgate test: the folders cannot be watched");
            return EXIT_OS;
        }
        if (!run_child(args)) return EXIT_OS;
        printf("\n-- watching the Lua files of %zu folder%s; Ctrl-C ends\n", folders_count(folders),
            folders_count(folders) == 1 ? "" : "s");
        fflush(stdout);
        bool changed = folders_wait(folders, ".lua", SETTLE_MS);
        folders_free(folders);
        if (!changed) return EXIT_OS;
        puts("");
    }
}

static int
run_test(const struct command_args *args)
{
    return args->watch ? watch_specs(args) : run_specs(args);
}

const struct command command_test = {
    .name = "test",
    .summary = "run the specs of your Lua files with the test kit, without a gateway",
    .usage = "test [--watch] [--filter PATTERN] [FILE|DIR]... [-- BUSTED-OPTIONS]",
    .help =
        "Runs busted over the files, or over every *_spec.lua below the folders (the current one without "
        "any).\n"
        "require \"fluxgate.testkit\" gives fake endpoints, requests, clock, dice, shared dictionaries and "
        "probe\n"
        "results; plug-ins are loaded by the gateway's own loader into its own sandbox. Exits 1 where a "
        "spec\n"
        "failed or none was found. What stands behind -- goes to busted: -- --shuffle, -- --output=TAP, ...",
    .options = "wf*",
    .run = run_test,
};

static int
run_new(const struct command_args *args)
{
    const char *arguments[] = {NULL, NULL, NULL, NULL};
    if (args->word_count != 2) {
        fputs("fluxgate new: which kind, and what name? For example: fluxgate new strategy my_strategy\n",
            stderr);
        return EXIT_USAGE;
    }
    arguments[0] = args->words[0];
    arguments[1] = args->words[1];
    arguments[2] = args->dir == NULL ? "." : args->dir;
    return script_tool("new", arguments);
}

const struct command command_new = {
    .name = "new",
    .summary = "write a strategy, policy or filter to begin from, and its spec",
    .usage = "new strategy|policy|filter NAME [--dir DIR]",
    .help = "Writes NAME.lua, which works, NAME_spec.lua, which passes, and a .luarc.json for editors with "
            "the Lua\n"
            "language server; prints the lines to add to the configuration. Files that are there are never "
            "written "
            "over.",
    .options = "d*",
    .run = run_new,
};
