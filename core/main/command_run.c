#include "core/main/command.h"
#include "core/main/supervisor.h"

static int
run_run(const struct command_args *args)
{
    return supervisor_main(args->config);
}

const struct command command_run = {
    .name = "run",
    .summary = "run the gateway (and the registry, where the configuration embeds it)",
    .usage = "run -c FILE",
    .help = "Starts supervisor, control and workers and stays in the foreground; the log goes to standard "
            "error.\n"
            "signals: SIGHUP reload (the same as `fluxgate reload`), SIGTERM or SIGINT drain and exit 0 (a "
            "second one skips\n"
            "drain.delay), SIGUSR1 reopen the access log, SIGUSR2 write every open stream to the log",
    .options = "c",
    .run = run_run,
};
