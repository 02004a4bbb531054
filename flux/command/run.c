/* flux run: starts a program, joins the registry once its port accepts, leaves before it is told to stop. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/text.h"
#include "flux/command/options.h"
#include "flux/command/process.h"

enum { PROBE_EVERY_MS = 50 };

enum run_state {
    RUN_WAITING,  /* for the port; until = --ready-timeout */
    RUN_SERVING,  /* registered, or trying to; no limit */
    RUN_DRAINING, /* out of the registry; until = --drain, then the signal goes to the child */
    RUN_STOPPING, /* the child has the signal; until = --grace, then SIGKILL */
    RUN_KILLED,   /* SIGKILL is on its way to the whole group; no limit */
};

struct run {
    const struct options *options;
    struct flux_client *client;
    int port;
    int signal_fd;
    pid_t child;
    enum run_state state;
    uint64_t until_us; /* 0: no limit */
    int stop_signal;   /* what made us stop, forwarded to the child */
    int status;        /* of waitpid, once child is 0 */
    int forced_code;   /* instead of the child's: not ready, no metrics port */
};

static const int handled[] = {SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2, SIGCHLD};

static void
enter(struct run *run, enum run_state state, uint64_t limit_us)
{
    run->state = state;
    run->until_us = limit_us == 0 ? 0 : clock_now_us() + limit_us;
}

static void
forward(struct run *run, int signal)
{
    if (run->child > 0) kill(run->child, signal);
}

static void
signal_child(struct run *run)
{
    log_info("stopping", F_INT("pid", run->child), F_STR("signal", strsignal(run->stop_signal)));
    forward(run, SIGCONT); /* a stopped process could not end */
    forward(run, run->stop_signal);
    enter(run, RUN_STOPPING, run->options->grace_us == 0 ? 1 : run->options->grace_us);
}

/* Out of the registry first: from here on no gateway sends anything new, so that the child ends with nothing
 * under way. */
static void
begin_stop(struct run *run, int signal)
{
    bool was_serving = run->state == RUN_SERVING;
    run->stop_signal = signal;
    if (was_serving) (void)flux_stop(run->client); /* a failure is in the log; the lease ends by itself */
    enter(run, RUN_DRAINING, run->options->drain_us);
    if (!was_serving || run->options->drain_us == 0) signal_child(run);
}

static void
on_signal(struct run *run, int signal)
{
    int status;
    pid_t pid;
    if (signal == SIGCHLD) {
        /* all of them: as the first process of a container flux inherits orphans */
        while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
            if (pid != run->child) continue;
            run->status = status;
            kill(-run->child, SIGTERM); /* what it left behind in its group would hold the port */
            run->child = 0;
        }
        return;
    }
    if (signal != SIGTERM && signal != SIGINT && signal != SIGQUIT) {
        forward(run, signal);
        return;
    }
    if (run->state == RUN_WAITING || run->state == RUN_SERVING)
        begin_stop(run, signal);
    else if (run->state == RUN_DRAINING)
        signal_child(run); /* asked twice: the drain is over */
    else
        forward(run, signal);
}

static void
start_serving(struct run *run)
{
    enum flux_error error = flux_start(run->client, 0);
    if (error == FLUX_OK) {
        enter(run, RUN_SERVING, 0);
        return;
    }
    log_errorx("flux cannot start", F_STR("why", flux_strerror(error)));
    run->forced_code = exit_code_of(error);
    begin_stop(run, SIGTERM);
}

static void
on_limit(struct run *run)
{
    switch (run->state) {
    case RUN_WAITING:
        log_errorx("port not ready", F_INT("port", run->port), F_US("after", run->options->ready_timeout_us));
        run->forced_code = EXIT_NOT_READY;
        begin_stop(run, SIGTERM);
        return;
    case RUN_DRAINING: signal_child(run); return;
    case RUN_STOPPING:
        log_warnx("killing", F_INT("pid", run->child), F_US("after", run->options->grace_us));
        kill(-run->child, SIGKILL);
        forward(run, SIGKILL); /* it may have left its group */
        enter(run, RUN_KILLED, 0);
        return;
    case RUN_SERVING:
    case RUN_KILLED: return;
    }
}

/* Milliseconds until something is due, -1 for never. */
static int
wait_ms(const struct run *run)
{
    uint64_t now = clock_now_us(), left;
    if (run->state == RUN_WAITING) return PROBE_EVERY_MS;
    if (run->until_us == 0) return -1;
    left = run->until_us > now ? (run->until_us - now + 999) / 1000 : 0;
    return left > 60000 ? 60000 : (int)left;
}

static int
loop(struct run *run)
{
    struct signalfd_siginfo info;
    struct pollfd wait = {.fd = run->signal_fd, .events = POLLIN};
    while (run->child > 0) {
        if (poll(&wait, 1, wait_ms(run)) == -1 && errno != EINTR) {
            log_error("poll failed");
            run->forced_code = EXIT_SYSTEM;
            begin_stop(run, SIGKILL);
        }
        while (read(run->signal_fd, &info, sizeof info) == (ssize_t)sizeof info)
            on_signal(run, (int)info.ssi_signo);
        if (run->child <= 0) break;
        if (run->state == RUN_WAITING && port_accepts(run->port)) start_serving(run);
        if (run->until_us != 0 && clock_now_us() >= run->until_us) on_limit(run);
    }
    if (run->state == RUN_SERVING) {
        log_warnx("the command ended by itself",
            F_INT("code", WIFEXITED(run->status) ? WEXITSTATUS(run->status) : 128 + WTERMSIG(run->status)));
        (void)flux_stop(run->client);
    }
    if (run->forced_code != 0) return run->forced_code;
    return WIFEXITED(run->status) ? WEXITSTATUS(run->status) : 128 + WTERMSIG(run->status);
}

/* What the child sees: the two names it is known by; METRICS_PORT is flux's, which serves it. */
static bool
set_environment(const struct options *options, int port)
{
    char text[16];
    snprintf(text, sizeof text, "%d", port);
    if (setenv("PORT", text, 1) == -1) return false;
    if (options->instance.service_name != NULL &&
        setenv("SERVICE_NAME", options->instance.service_name, 1) == -1)
        return false;
    return unsetenv("METRICS_PORT") == 0;
}

static int
supervise(struct run *run, const sigset_t *mask)
{
    const char *stage;
    char **command = run->options->command;
    run->child = process_start(command, mask, &stage);
    if (run->child == -1) {
        fprintf(stderr, "flux run: %s: %s\n", stage[0] == 'e' ? command[0] : stage, strerror(errno));
        return stage[0] != 'e' ? EXIT_SYSTEM : errno == ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_EXECUTE;
    }
    log_info("started", F_INT("pid", run->child), F_STR("command", command[0]));
    enter(run, RUN_WAITING, run->options->ready_timeout_us);
    return loop(run);
}

static int
run_run(struct options *options)
{
    struct run run = {.options = options, .signal_fd = -1};
    sigset_t wanted, before;
    uint64_t port = 0;
    const char *from_env = getenv("PORT");
    int code = EXIT_SYSTEM;

    run.client = options_client(options, &code);
    if (run.client == NULL) return code;
    if (options->instance.port != 0)
        port = (uint64_t)options->instance.port;
    else if (!text_parse_u64(slice_of(from_env), 65535, &port))
        port = 0; /* flux_new has refused that already */
    run.port = (int)port;
    sigemptyset(&wanted);
    for (size_t i = 0; i < sizeof handled / sizeof handled[0]; i++)
        sigaddset(&wanted, handled[i]);
    signal(SIGPIPE, SIG_IGN); /* a closed log must not take the service down */
    if (sigprocmask(SIG_BLOCK, &wanted, &before) == 0 && set_environment(options, run.port)) {
        run.signal_fd = signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK);
    }
    if (run.signal_fd == -1) {
        log_error("signalfd failed");
    } else {
        code = supervise(&run, &before);
        close(run.signal_fd);
    }
    flux_free(run.client);
    return code;
}

const struct command command_run = {"run", ON_RUN, "-- COMMAND...",
    "run a program as an instance of a service",
    "Starts COMMAND with PORT and SERVICE_NAME in its environment, registers the instance once the port "
    "accepts\n"
    "connections, and beats. At SIGTERM, SIGINT or SIGQUIT it leaves the registry first and then forwards "
    "the signal;\n"
    "SIGHUP, SIGUSR1 and SIGUSR2 are forwarded at once. Exits with COMMAND's exit code, 128 + its signal "
    "where one\n"
    "ended it.",
    run_run};
