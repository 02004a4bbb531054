#include "core/main/supervisor_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/main/process.h"
#include "core/shm/dict.h"

enum {
    WORKER_STALE_US = 1000000,    /* DESIGN.md section 6 */
    WORKER_HELP_US = 250000,      /* five heartbeats missed: a sibling accepts for it meanwhile */
    CONTROL_STALE_US = 5000000,   /* a policy's own budget is far below */
    REGISTRY_STALE_US = 20000000, /* one slow fsync is no reason */
    LATE_US = 250000,             /* five heartbeats: what has work again says so within one */
    STARVED_LIMITS = 10           /* so many times longer for what gets no CPU to show a sign of life with */
};

static const char *const role_names[] = {"control", "registry", "worker"};

void
process_init(struct supervisor *sv)
{
    sv->control = (struct process){.role = ROLE_CONTROL, .channel = -1};
    sv->registry = (struct process){.role = ROLE_REGISTRY, .channel = -1};
    for (unsigned i = 0; i < SHM_WORKERS_MAX; i++) {
        sv->workers[i] = (struct process){.role = ROLE_WORKER, .index = i, .channel = -1};
    }
}

struct process *
process_next(struct supervisor *sv, struct process *after)
{
    if (after == NULL) return &sv->registry;
    if (after == &sv->registry) return &sv->control;
    if (after == &sv->control) return &sv->workers[0];
    return after->index + 1 < SHM_WORKERS_MAX ? after + 1 : NULL;
}

void
process_set_wanted(struct supervisor *sv)
{
    const struct config *config = sv->current.config;
    sv->control.wanted = true;
    sv->registry.wanted = config->registry.enabled && config->registry.embedded;
    for (unsigned i = 0; i < SHM_WORKERS_MAX; i++) {
        sv->workers[i].wanted = i < config->workers;
        sv->workers[i].place = i;
    }
}

bool
process_any_worker_runs(const struct supervisor *sv)
{
    for (unsigned i = 0; i < SHM_WORKERS_MAX; i++) {
        if (sv->workers[i].pid != 0) return true;
    }
    return false;
}

bool
process_all_workers_use(const struct supervisor *sv, uint32_t number)
{
    for (unsigned i = 0; i < SHM_WORKERS_MAX; i++) {
        const struct process *worker = &sv->workers[i];
        if (worker->wanted && (worker->pid == 0 || worker->using != number)) return false;
    }
    return true;
}

/* The child's side of the fork: nothing open but its channel, the supervisor's signals not its own. */
static _Noreturn void
run_child(struct supervisor *sv, enum role role, unsigned index, int channel)
{
    static char name[32];
    sigset_t none;
    const int ignored[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGPIPE};
    for (size_t i = 0; i < sizeof ignored / sizeof ignored[0]; i++)
        signal(ignored[i], SIG_IGN);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (channel > 3) close_range(3, (unsigned)channel - 1, 0);
    close_range((unsigned)channel + 1, ~0u, 0);
    if (role == ROLE_WORKER)
        snprintf(name, sizeof name, "worker.%u", index);
    else
        snprintf(name, sizeof name, "%s", role_names[role]);
    char title[16];
    snprintf(title, sizeof title, "fg-%.11s", name);
    prctl(PR_SET_NAME, title);
    log_init(name, sv->current.config->log.level, sv->current.config->log.format);
    int code = 1;
    switch (role) {
    case ROLE_CONTROL: code = control_main(sv->shm, channel); break;
    case ROLE_REGISTRY: code = registry_main(channel); break;
    case ROLE_WORKER: code = worker_main(sv->shm, channel, index); break;
    }
    exit(code);
}

static void
start(struct supervisor *sv, struct process *process)
{
    int ends[2];
    char event[32];
    uint64_t now = clock_now_us();
    backoff_start(&process->backoff, now);
    if (!ipc_pair(ends)) {
        log_warn("no channel for a child");
        return;
    }
    pid_t pid = fork();
    if (pid == -1) {
        log_warn("fork failed", F_STR("role", role_names[process->role]));
        close(ends[0]);
        close(ends[1]);
        return;
    }
    if (pid == 0) run_child(sv, process->role, process->index, ends[1]);
    close(ends[1]);
    process->pid = pid;
    process->channel = ends[0];
    process->alive_us = now;
    process->sent = process->using = 0;
    process->ready = process->killed = false;
    snprintf(event, sizeof event, "%s started", role_names[process->role]);
    if (process->role == ROLE_WORKER)
        log_info(event, F_UINT("worker", process->index), F_INT("pid", pid));
    else
        log_info(event, F_INT("pid", pid));
    if (process->role == ROLE_CONTROL) sv->reloads_asked = sv->reload_serial = 0;
    const struct generation_file *file = &sv->current;
    if (sv->phase == PHASE_CONTROL && process->role == ROLE_CONTROL) file = &sv->candidate;
    if (!process_send_generation(sv, process, file)) kill(pid, SIGKILL);
}

void
process_start_due(struct supervisor *sv)
{
    uint64_t now = clock_now_us();
    if (sv->phase >= PHASE_DRAINING) return;
    for (struct process *p = process_next(sv, NULL); p != NULL; p = process_next(sv, p)) {
        if (!p->wanted || p->pid != 0 || now < p->backoff.due_us) continue;
        if (p->role == ROLE_WORKER && sv->phase == PHASE_STARTING) continue;
        start(sv, p);
    }
}

/* A worker's are in the order of the config's listeners. */
static void
add_sockets(struct supervisor *sv, const struct process *process, const struct config *config,
    struct ipc_message *message)
{
    switch (process->role) {
    case ROLE_CONTROL:
        if (sv->admin.count > 0) message->fds[message->fd_count++] = sv->admin.fds[0];
        return;
    case ROLE_REGISTRY:
        if (sv->registry_http.count > 0) message->fds[message->fd_count++] = sv->registry_http.fds[0];
        if (sv->registry_grpc.count > 0) message->fds[message->fd_count++] = sv->registry_grpc.fds[0];
        return;
    case ROLE_WORKER:
        for (size_t i = 0; i < config->listener_count; i++) {
            const struct bound_socket *bound = sockets_listener(sv, config, i);
            if (bound != NULL && process->place < bound->count)
                message->fds[message->fd_count++] = bound->fds[process->place];
        }
        return;
    }
}

bool
process_send_generation(struct supervisor *sv, struct process *process, const struct generation_file *file)
{
    static struct ipc_message message; /* one at a time: the supervisor has one thread */
    memset(&message, 0, offsetof(struct ipc_message, fds));
    message.type = IPC_GENERATION;
    message.number = file->number;
    message.bound = sockets_bound(sv);
    memcpy(message.hash, file->hash, sizeof message.hash);
    message.text_len = (uint32_t)strlen(sv->path);
    if (message.text_len >= IPC_TEXT_MAX) return false;
    memcpy(message.text, sv->path, message.text_len);
    message.ok = sv->announced_ready && sv->phase < PHASE_DELAY;
    message.fds[0] = file->fd;
    message.fd_count = 1;
    if (process->role == ROLE_WORKER && process->sent == 0) {
        message.wake_count = SHM_WORKERS_MAX;
        memcpy(message.fds + 1, sv->wake, sizeof sv->wake);
        message.fd_count += SHM_WORKERS_MAX;
    }
    add_sockets(sv, process, file->config, &message);
    if (!ipc_send(process->channel, &message)) {
        log_warn("a generation cannot be sent", F_STR("role", role_names[process->role]));
        return false;
    }
    process->sent = file->number;
    return true;
}

bool
process_tell(struct process *process, enum ipc_type type, uint32_t number, bool ok, const char *text)
{
    static struct ipc_message message;
    if (process->pid == 0 || process->channel == -1) return false;
    memset(&message, 0, offsetof(struct ipc_message, fds));
    message.fd_count = 0;
    message.type = type;
    message.number = number;
    message.ok = ok;
    message.text_len = (uint32_t)strnlen(text, IPC_TEXT_MAX - 1);
    memcpy(message.text, text, message.text_len);
    if (ipc_send(process->channel, &message)) return true;
    log_warn("a child does not take messages", F_STR("role", role_names[process->role]));
    return false;
}

void
process_tell_drain(struct supervisor *sv, struct process *process)
{
    static struct ipc_message message;
    if (process->pid == 0) return;
    memset(&message, 0, offsetof(struct ipc_message, fds));
    message.fd_count = 0;
    message.type = IPC_DRAIN;
    message.requests_us = sv->current.config->drain.requests_us;
    message.tunnels_us = sv->current.config->drain.tunnels_us;
    if (!ipc_send(process->channel, &message)) kill(process->pid, SIGKILL);
}

static struct process *
find_pid(struct supervisor *sv, pid_t pid)
{
    for (struct process *p = process_next(sv, NULL); p != NULL; p = process_next(sv, p)) {
        if (p->pid == pid) return p;
    }
    return NULL;
}

/* Its places are free: whoever waits for one, in whichever worker, looks. */
static void
reap_worker(struct supervisor *sv, unsigned index)
{
    static const uint64_t one = 1;
    shm_worker_reap(sv->shm, index);
    for (unsigned i = 0; i < SHM_WORKERS_MAX; i++) /* EAGAIN: it is awake; anything else: its sweep looks */
        if (sv->wake[i] != -1) (void)!write(sv->wake[i], &one, sizeof one);
}

static void
ended(struct supervisor *sv, struct process *process, int status)
{
    uint64_t now = clock_now_us();
    bool expected = !process->wanted || sv->phase >= PHASE_DRAINING;
    char how[64];
    if (WIFSIGNALED(status))
        snprintf(how, sizeof how, "signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        snprintf(how, sizeof how, "exit %d", WEXITSTATUS(status));
    if (expected) {
        log_info("child ended", F_STR("role", role_names[process->role]), F_UINT("index", process->index),
            F_INT("pid", process->pid), F_STR("by", how));
    } else {
        log_warnx("child died, it is started again", F_STR("role", role_names[process->role]),
            F_UINT("index", process->index), F_INT("pid", process->pid), F_STR("by", how));
    }
    close(process->channel);
    process->channel = -1;
    process->pid = 0;
    process->ready = false;
    process->using = 0;
    if (process->role == ROLE_WORKER) reap_worker(sv, process->index);
    if (process->role == ROLE_CONTROL) dicts_reap(sv->shm, DICT_CONTROL);
    if (expected) { /* wanted again, it need not wait as one that died would */
        backoff_clear(&process->backoff);
        return;
    }
    struct shm_totals *totals = shm_totals(sv->shm);
    switch (process->role) {
    case ROLE_CONTROL: atomic_fetch_add(&totals->control_restarts, 1); break;
    case ROLE_REGISTRY: atomic_fetch_add(&totals->registry_restarts, 1); break;
    case ROLE_WORKER: atomic_fetch_add(&totals->worker_restarts, 1); break;
    }
    backoff_died(&process->backoff, now);
}

void
process_reap(struct supervisor *sv)
{
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        struct process *process = find_pid(sv, pid);
        if (process != NULL)
            ended(sv, process, status);
        else if (pid == sv->checker.pid)
            reload_checker_ended(sv, status);
    }
}

static uint64_t
cpu_us(pid_t pid)
{
    clockid_t clock;
    struct timespec used;
    if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &used) == -1) return 0;
    return (uint64_t)used.tv_sec * 1000000 + (uint64_t)used.tv_nsec / 1000;
}

/* Its main thread has work and waits for a CPU, or has one: "PID (NAME) R …" in proc(5). */
static bool
is_runnable(pid_t pid)
{
    char path[32], text[128];
    (void)snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd == -1) return false;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0) return false;
    text[n] = '\0';
    const char *name_end = strrchr(text, ')');
    return name_end != NULL && strncmp(name_end, ") R", 3) == 0;
}

/* A new sign of life, `sign_us`: what the process uses of a CPU is counted from here. */
static void
note_sign(struct process *process, uint64_t sign_us)
{
    if (process->sign_us == sign_us) return;
    process->sign_us = sign_us;
    process->late_us = 0;
    process->sign_cpu_us = cpu_us(process->pid);
}

/* Had it had the machine to itself, it would not be late yet. */
static bool
is_starved(const struct process *process, uint64_t age_us, uint64_t limit_us)
{
    return age_us < STARVED_LIMITS * limit_us && is_runnable(process->pid) &&
           cpu_us(process->pid) - process->sign_cpu_us < limit_us / 2;
}

/* One look is not enough: libevent reckons how long it may sleep from the time before its callbacks, so that
 * a loop which was starved in a script, and is through with it, sleeps on for up to a heartbeat with the last
 * one long overdue. */
static bool
is_stuck(struct process *process, uint64_t since_us, uint64_t now_us, uint64_t limit_us)
{
    bool is_late = now_us > since_us && now_us - since_us > limit_us &&
                   !is_starved(process, now_us - since_us, limit_us);
    if (!is_late)
        process->late_us = 0;
    else if (process->late_us == 0)
        process->late_us = now_us;
    return is_late && now_us - process->late_us >= LATE_US;
}

static void
end_stale(struct process *process, const char *why, uint64_t age_us, const char *script)
{
    if (clock_patience() == 0) return;
    log_warnx("child is stuck, it is killed", F_STR("role", role_names[process->role]),
        F_UINT("index", process->index), F_INT("pid", process->pid), F_STR("why", why), F_US("for", age_us),
        F_STR("script", script));
    kill(process->pid, SIGKILL);
    process->killed = true;
}

static bool
is_draining(const struct supervisor *sv, const struct process *worker)
{
    return atomic_load_explicit(&shm_worker(sv->shm, worker->index)->draining, memory_order_relaxed) != 0;
}

/* A worker that drains by itself takes as long as its longest request. Until its successor serves, another
 * one under a number beyond the configured ones accepts from its sockets. */
static void
stand_in(struct supervisor *sv, const struct process *worker)
{
    struct process *free_one = NULL;
    for (unsigned i = SHM_WORKERS_MAX; i-- > sv->current.config->workers;) {
        struct process *other = &sv->workers[i];
        if (other->wanted && other->place == worker->index) return;
        if (!other->wanted && other->pid == 0) free_one = other;
    }
    if (free_one == NULL) return; /* then siblings help */
    free_one->wanted = true;
    free_one->place = worker->index;
    backoff_clear(&free_one->backoff);
}

static void
watch_stand_ins(struct supervisor *sv)
{
    unsigned count = sv->current.config->workers;
    if (sv->phase != PHASE_SERVING) return; /* a reload ends them by itself */
    for (unsigned i = 0; i < count; i++) {
        const struct process *worker = &sv->workers[i];
        if (worker->using != 0 && is_draining(sv, worker)) stand_in(sv, worker);
    }
    for (unsigned i = count; i < SHM_WORKERS_MAX; i++) {
        struct process *other = &sv->workers[i];
        if (!other->wanted || sv->workers[other->place].using == 0) continue;
        if (is_draining(sv, &sv->workers[other->place])) continue;
        other->wanted = false;
        process_tell_drain(sv, other);
    }
}

/* What waits in the accept queues of a worker that stands still goes to a sibling that does not. */
static void
help_worker(struct supervisor *sv, struct process *process, uint64_t now)
{
    static struct ipc_message message;
    if (now - process->helped_us < WORKER_HELP_US || sv->phase >= PHASE_DRAINING) return;
    process->helped_us = now;
    for (unsigned i = 0; i < SHM_WORKERS_MAX; i++) {
        struct process *sibling = &sv->workers[i];
        uint64_t beat = atomic_load_explicit(&shm_worker(sv->shm, i)->heartbeat_us, memory_order_relaxed);
        if (sibling == process || sibling->pid == 0 || sibling->using == 0 || !sibling->wanted) continue;
        if (is_draining(sv, sibling)) continue;
        if (now > beat && now - beat > WORKER_HELP_US) continue;
        memset(&message, 0, offsetof(struct ipc_message, fds));
        message.type = IPC_HELP;
        message.fd_count = 0;
        add_sockets(sv, process, sv->current.config, &message);
        if (message.fd_count > 0 && !ipc_send(sibling->channel, &message)) continue;
        return;
    }
}

static void
watch_worker(struct supervisor *sv, struct process *process, uint64_t now)
{
    struct shm_worker *block = shm_worker(sv->shm, process->index);
    uint64_t limit = WORKER_STALE_US * clock_patience(), started = process->backoff.started_us;
    uint64_t beat = atomic_load_explicit(&block->heartbeat_us, memory_order_relaxed);
    uint64_t entered = atomic_load_explicit(&block->in_script_since_us, memory_order_relaxed);
    if (process->using == 0 && entered == 0) { /* still building its first generation */
        if (now - started > 10 * limit) end_stale(process, "no first heartbeat", now - started, "");
        return;
    }
    if (is_draining(sv, process)) help_worker(sv, process, now);
    if (beat < process->alive_us) beat = process->alive_us; /* also: not judged by its predecessor's beat */
    if (now > beat && now - beat > WORKER_HELP_US) help_worker(sv, process, now);
    note_sign(process, entered != 0 ? entered : beat);
    if (entered != 0 && entered >= started) { /* what it stands in; its beat is older than that */
        if (entered < process->alive_us) entered = process->alive_us;
        if (!is_stuck(process, entered, now, limit)) return;
        const char *script =
            shm_name_text(sv->shm, atomic_load_explicit(&block->script, memory_order_relaxed));
        if (clock_patience() != 0) atomic_fetch_add(&shm_totals(sv->shm)->script_runaways, 1);
        end_stale(process, "a script does not return", now - entered, script);
    } else if (is_stuck(process, beat, now, limit)) {
        end_stale(process, "no heartbeat", now - beat, "");
    }
}

void
process_watchdog(struct supervisor *sv)
{
    uint64_t now = clock_now_us();
    uint64_t gap = now - sv->last_turn_us;
    sv->last_turn_us = now;
    if (gap >
        WORKER_STALE_US / 2) { /* we did not run either: the machine was busy or asleep, nobody is to blame */
        for (struct process *p = process_next(sv, NULL); p != NULL; p = process_next(sv, p))
            p->alive_us = now;
        return;
    }
    watch_stand_ins(sv);
    for (struct process *p = process_next(sv, NULL); p != NULL; p = process_next(sv, p)) {
        if (p->pid == 0 || p->killed) continue;
        uint64_t limit = (p->role == ROLE_CONTROL ? CONTROL_STALE_US : REGISTRY_STALE_US) * clock_patience();
        if (p->role == ROLE_WORKER) {
            watch_worker(sv, p, now);
            continue;
        }
        note_sign(p, p->alive_us);
        if (is_stuck(p, p->alive_us, now, limit)) end_stale(p, "no sign of life", now - p->alive_us, "");
    }
}
