/* core/main/command.h: one subcommand is one file that exports one of these (the habit is tmux's). */
#ifndef FLUXGATE_MAIN_COMMAND_H
#define FLUXGATE_MAIN_COMMAND_H

/* Exit codes of every subcommand, after sysexits.h where it has a word for it. */
enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 64, EXIT_UNREACHABLE = 69, EXIT_OS = 71 };

struct command_args {
    const char *config; /* -c, --config */
    const char *admin;  /* --admin ADDRESS */
    int effective;      /* --effective */
    int json;           /* --json */
    int watch;          /* --watch */
    const char *filter; /* --filter PATTERN */
    const char *dir;    /* --dir DIR */
    char **words;       /* what is no option, NULL-terminated; behind "--" everything */
    int word_count;
};

struct command {
    const char *name;
    const char *summary;
    const char *usage;   /* "run -c FILE" */
    const char *help;    /* the paragraphs below the usage line */
    const char *options; /* letters it takes: c config (required), a admin, e effective, j json, w watch, f
                            filter, d dir; * takes words */
    int (*run)(const struct command_args *args);
};

extern const struct command command_run, command_check, command_config, command_registry, command_reload,
    command_status, command_test, command_new;

#endif
