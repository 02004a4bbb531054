#include "core/main/supervisor.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/main/command.h"
#include "core/main/supervisor_internal.h"
#include "core/metrics/stats.h"

enum {
    TURN_MS = 50,
    CONTROL_WAIT_US = 3000000, /* workers start without control's word after this long: static parts serve */
    STOP_LIMIT_US = 3000000,
    DRAIN_GRACE_US = 2000000, /* past the drain limits: then the workers are killed */
    RING_BYTES = 1 << 20,
};

static bool
prepare_signals(struct supervisor *sv)
{
    sigset_t set;
    const int taken[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGCHLD};
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof taken / sizeof taken[0]; i++)
        sigaddset(&set, taken[i]);
    signal(SIGPIPE, SIG_IGN);
    if (sigprocmask(SIG_BLOCK, &set, NULL) == -1) return false;
    sv->signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    return sv->signals != -1;
}

/* As many descriptors as the system lets us have; too few is a warning that says how many it takes. */
static void
raise_descriptor_limit(const struct config *config)
{
    struct rlimit limit;
    uint64_t wish = (uint64_t)config->limits.connections * 2 + 1024;
    if (getrlimit(RLIMIT_NOFILE, &limit) == -1) return;
    struct rlimit more = {wish, wish > limit.rlim_max ? wish : limit.rlim_max};
    if (limit.rlim_cur < wish && wish > limit.rlim_max && setrlimit(RLIMIT_NOFILE, &more) == 0)
        return; /* root may */
    if (limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) == -1) log_warn("the descriptor limit stays as it is");
    }
    if (limit.rlim_cur < wish)
        log_warnx("few file descriptors for limits.connections", F_UINT("have", limit.rlim_cur),
            F_UINT("want", wish));
}

static bool
open_wakes(struct supervisor *sv)
{
    for (unsigned i = 0; i < SHM_WORKERS_MAX; i++) {
        sv->wake[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        if (sv->wake[i] == -1) return false;
    }
    return true;
}

static void
begin_drain(struct supervisor *sv)
{
    if (sv->phase >= PHASE_DELAY) { /* asked twice: now */
        if (sv->phase == PHASE_DELAY) sv->phase_until_us = 0;
        return;
    }
    log_info("draining", F_US("delay", sv->current.config->drain.delay_us),
        F_US("requests", sv->current.config->drain.requests_us),
        F_US("tunnels", sv->current.config->drain.tunnels_us));
    if (!process_tell(&sv->control, IPC_DRAIN, 0, true, "")) log_warnx("/ready cannot be told of the drain");
    sv->phase = PHASE_DELAY;
    sv->phase_until_us = clock_now_us() + sv->current.config->drain.delay_us;
}

static void
drain_turn(struct supervisor *sv)
{
    uint64_t now = clock_now_us();
    const struct config_drain *drain = &sv->current.config->drain;
    if (sv->phase == PHASE_DELAY && now >= sv->phase_until_us) {
        uint64_t limit = drain->requests_us > drain->tunnels_us ? drain->requests_us : drain->tunnels_us;
        for (unsigned i = 0; i < SHM_WORKERS_MAX; i++)
            process_tell_drain(sv, &sv->workers[i]);
        sockets_close_listeners(sv);
        sv->phase = PHASE_DRAINING;
        sv->phase_until_us = now + limit + DRAIN_GRACE_US;
    }
    if (sv->phase == PHASE_DRAINING && !process_any_worker_runs(sv)) {
        process_tell_drain(sv, &sv->control); /* the second time it means: leave */
        process_tell_drain(sv, &sv->registry);
        sv->phase = PHASE_STOPPING;
        sv->phase_until_us = now + STOP_LIMIT_US;
    }
    if (sv->phase >= PHASE_DRAINING && now > sv->phase_until_us) {
        sv->phase_until_us = now + STOP_LIMIT_US;
        for (struct process *p = process_next(sv, NULL); p != NULL; p = process_next(sv, p)) {
            if (p->pid == 0 || (sv->phase == PHASE_DRAINING && p->role != ROLE_WORKER)) continue;
            log_warnx("child did not end in time, it is killed", F_INT("pid", p->pid));
            kill(p->pid, SIGKILL);
        }
    }
}

static void
on_signal(struct supervisor *sv, int signo)
{
    switch (signo) {
    case SIGHUP:
        log_info("reload asked for", F_STR("by", "SIGHUP"));
        reload_request(sv);
        return;
    case SIGTERM:
    case SIGINT: begin_drain(sv); return;
    case SIGUSR1:
        if (!process_tell(&sv->control, IPC_REOPEN, 0, true, "")) log_warnx("logs cannot be reopened now");
        return;
    case SIGUSR2:
        for (unsigned i = 0; i < SHM_WORKERS_MAX; i++) {
            if (sv->workers[i].pid != 0 && !process_tell(&sv->workers[i], IPC_DUMP, 0, true, ""))
                log_warnx("a worker cannot be asked for its streams", F_UINT("worker", i));
        }
        return;
    case SIGCHLD: return; /* process_reap runs each turn */
    }
}

static void
on_message(struct supervisor *sv, struct process *process, const struct ipc_message *message)
{
    process->alive_us = clock_now_us();
    switch ((enum ipc_type)message->type) {
    case IPC_USING: reload_used(sv, process, message); return;
    case IPC_READY: process->ready = true; return;
    case IPC_WANT_RELOAD:
        log_info("reload asked for", F_STR("by", "admin"));
        sv->reloads_asked = message->number;
        reload_request(sv);
        return;
    case IPC_WANT_DRAIN: begin_drain(sv); return;
    case IPC_ALIVE: return;
    case IPC_GENERATION:
    case IPC_COMMIT:
    case IPC_RELOADED:
    case IPC_DRAIN:
    case IPC_REOPEN:
    case IPC_DUMP:
    case IPC_HELP:
    case IPC_TYPE_COUNT:
        log_warnx("a child sent what only the supervisor sends", F_UINT("type", message->type));
        return;
    }
}

static void
read_channel(struct supervisor *sv, struct process *process)
{
    static struct ipc_message message;
    int got = 0;
    while (process->channel != -1 && (got = ipc_receive(process->channel, &message)) == 1) {
        ipc_close_fds(&message);
        on_message(sv, process, &message);
    }
    if (process->channel != -1 && got == -1 && errno == EPROTO) { /* gone peers are process_reap's */
        log_warnx("a child sent garbage, it is killed", F_INT("pid", process->pid));
        kill(process->pid, SIGKILL);
    }
}

static void
wait_turn(struct supervisor *sv)
{
    struct pollfd polls[SHM_WORKERS_MAX + 4];
    struct process *of[SHM_WORKERS_MAX + 4];
    nfds_t count = 0;
    polls[count++] = (struct pollfd){.fd = sv->signals, .events = POLLIN};
    polls[count++] = (struct pollfd){.fd = sv->checker.pid != 0 ? sv->checker.pipe : -1, .events = POLLIN};
    for (struct process *p = process_next(sv, NULL); p != NULL; p = process_next(sv, p)) {
        if (p->pid == 0) continue;
        of[count] = p;
        polls[count++] = (struct pollfd){.fd = p->channel, .events = POLLIN};
    }
    if (poll(polls, count, TURN_MS) <= 0) return;
    if ((polls[1].revents & (POLLIN | POLLHUP)) != 0) checker_read(&sv->checker);
    for (nfds_t i = 2; i < count; i++) {
        if ((polls[i].revents & POLLIN) != 0) read_channel(sv, of[i]);
    }
    struct signalfd_siginfo info;
    while (read(sv->signals, &info, sizeof info) == (ssize_t)sizeof info)
        on_signal(sv, (int)info.ssi_signo);
}

static void
starting_turn(struct supervisor *sv)
{
    if (sv->phase == PHASE_STARTING && (sv->control.ready || clock_now_us() > sv->phase_until_us)) {
        if (!sv->control.ready) log_warnx("control is not ready yet, workers start without it");
        sv->phase = PHASE_SERVING;
    }
    if (sv->announced_ready || sv->phase != PHASE_SERVING || !process_all_workers_use(sv, sv->current.number))
        return;
    sv->announced_ready = true;
    log_info(
        "ready", F_UINT("generation", sv->current.number), F_UINT("workers", sv->current.config->workers));
    if (!process_tell(&sv->control, IPC_COMMIT, sv->current.number, true, ""))
        log_warnx("control does not know that all serve");
}

static bool
all_gone(struct supervisor *sv)
{
    for (struct process *p = process_next(sv, NULL); p != NULL; p = process_next(sv, p)) {
        if (p->pid != 0) return false;
    }
    return true;
}

static int
prepare(struct supervisor *sv)
{
    char why[512];
    int memfd;
    if (!checker_run(sv->path, &memfd)) {
        fprintf(stderr, "fluxgate: %s cannot be used; nothing was started\n", sv->path);
        return EXIT_FAILED;
    }
    if (!generation_open(&sv->current, memfd, sv->path, why)) {
        fprintf(stderr, "fluxgate: %s\n", why);
        return EXIT_FAILED;
    }
    sv->current.number = 1;
    const struct config *config = sv->current.config;
    log_init("supervisor", config->log.level, config->log.format);
    struct shm_params params = {config->limits.max_endpoints, stats_region_bytes(), RING_BYTES,
        config->limits.shared_dict_bytes, config->limits.shared_dicts};
    sv->shm = shm_create(&params);
    if (sv->shm == NULL) {
        fprintf(stderr, "fluxgate: the shared segment cannot be mapped: %s\n", strerror(errno));
        return EXIT_OS;
    }
    if (!generation_name(sv, config)) {
        fputs("fluxgate: a name of a route or service is longer than 255 bytes, or there are too many\n",
            stderr);
        return EXIT_FAILED;
    }
    if (!sockets_open(sv, sv->current.config, why)) {
        fprintf(stderr, "%s\nfluxgate: is another server running there? 'ss -ltnp' shows who listens\n", why);
        return EXIT_FAILED;
    }
    raise_descriptor_limit(config);
    if (!open_wakes(sv) || !prepare_signals(sv)) {
        fprintf(stderr, "fluxgate: signals and events cannot be set up: %s\n", strerror(errno));
        return EXIT_OS;
    }
    return EXIT_DONE;
}

int
supervisor_main(const char *config_path)
{
    static struct supervisor sv; /* static: a worker's worth of arrays */
    sv = (struct supervisor){.path = config_path,
        .signals = -1,
        .current = {.fd = -1},
        .candidate = {.fd = -1},
        .checker = {.memfd = -1, .pipe = -1}};
    log_init("supervisor", LOG_INFO, LOG_LOGFMT);
    int code = prepare(&sv);
    if (code == EXIT_DONE) {
        log_info("starting", F_STR("version", FLUXGATE_VERSION), F_STR("config", config_path),
            F_STR("hash", sv.current.hash), F_INT("pid", getpid()));
        sockets_announce(&sv);
        process_init(&sv);
        process_set_wanted(&sv);
        sv.phase_until_us = clock_now_us() + CONTROL_WAIT_US;
        sv.last_turn_us = clock_now_us();
        while (sv.phase != PHASE_STOPPING || !all_gone(&sv)) {
            process_start_due(&sv);
            wait_turn(&sv);
            process_reap(&sv);
            starting_turn(&sv);
            reload_turn(&sv);
            drain_turn(&sv);
            process_watchdog(&sv);
        }
        log_info("stopped");
    }
    sockets_close_all(&sv);
    if (sv.checker.pid != 0) kill(sv.checker.pid, SIGKILL);
    strbuf_fini(&sv.checker.said);
    if (sv.signals != -1) close(sv.signals);
    generation_close(&sv.candidate);
    generation_close(&sv.current);
    if (sv.shm != NULL) shm_destroy(sv.shm);
    return code;
}
