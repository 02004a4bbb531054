/* flux/command/options.h: the command line of every subcommand, from one table. */
#ifndef FLUX_COMMAND_OPTIONS_H
#define FLUX_COMMAND_OPTIONS_H
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "core/base/compiler.h"
#include "flux/flux.h"

/* Exit codes: those of sysexits(3) where one fits; docs/flux.md lists them. */
enum {
    EXIT_USAGE = 64,       /* the command line or the environment is wrong */
    EXIT_UNKNOWN = 67,     /* the registry does not know the id */
    EXIT_UNAVAILABLE = 69, /* the registry cannot be reached */
    EXIT_SYSTEM = 71,      /* a system call failed, a port is taken, memory is out */
    EXIT_NOT_READY = 75,   /* run: the port did not accept within --ready-timeout */
    EXIT_REFUSED = 76,     /* the registry refused the call */
    EXIT_CANNOT_EXECUTE = 126,
    EXIT_NOT_FOUND = 127,
};
int exit_code_of(enum flux_error error);

enum command_bit { ON_RUN = 1, ON_REGISTER = 2, ON_DEREGISTER = 4, ON_HEARTBEAT = 8, ON_LIST = 16 };

struct options {
    struct flux_instance instance;
    struct flux_options client;
    uint64_t ready_timeout_us, grace_us, drain_us;
    bool json, quiet, help;
    char *metadata; /* of --metadata, owned */
    char **command; /* what stands behind "--", NULL-terminated */
};

struct command {
    const char *name;
    enum command_bit bit;
    const char *arguments, *summary;
    const char *details; /* for its --help */
    int (*run)(struct options *options);
};

extern const struct command command_run, command_register, command_deregister, command_heartbeat,
    command_list;

/* argv begins behind the subcommand's name. false: told on stderr what is wrong, with the nearest name. */
MUST_CHECK
bool options_parse(const struct command *command, int argc, char **argv, struct options *options);
void options_fini(struct options *options);
void options_help(const struct command *command, FILE *out);

/* The client of these options, its events going to the log. NULL: told, *exit_code set. */
struct flux_client *options_client(struct options *options, int *exit_code);

#endif
