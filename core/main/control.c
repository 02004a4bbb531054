/* core/main/control.c: the process that knows and tells: endpoints, health, metrics, admin, and the workers'
 * log lines. */
#include <curl/curl.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/admin/admin.h"
#include "core/base/log.h"
#include "core/discovery/discovery.h"
#include "core/health/health.h"
#include "core/main/process.h"
#include "core/script/script.h"
#include "core/shm/ring.h"

enum { TURN_MS = 20, ALIVE_TURNS = 12, REAP_TURNS = 25, LINES_A_TURN = 20000, ACCESS_BYTES = 1 << 16 };

struct control {
    struct shm *shm;
    int channel;
    struct event_base *base;
    struct event *on_channel, *on_turn;
    struct discovery *discovery;
    struct health *health;
    struct admin *admin;
    struct bundle *bundle;
    struct config *config;
    struct script *script;
    uint32_t generation;
    unsigned turns;
    uint32_t reloads_wanted; /* by the admin address, ever: a verdict counts from the same number on */
    bool told_ready, serves, draining;
    bool hands_over; /* it ends by itself, and a successor will start */
    int access;      /* the access log; -1: none */
    size_t buffered;
    char buffer[ACCESS_BYTES];
};

static void
send_up(struct control *control, enum ipc_type type)
{
    static struct ipc_message message;
    message = (struct ipc_message){.type = type, .number = control->reloads_wanted};
    if (!ipc_send(control->channel, &message) && type != IPC_ALIVE)
        log_warn("the supervisor does not take messages");
}

/* A policy that loops costs its budget, and control is not stuck. */
static void
on_overrun(void *context)
{
    struct control *control = context;
    send_up(control, IPC_ALIVE);
    health_overran(control->health);
}

/* ---- log lines of the workers
 * ---------------------------------------------------------------------------------------- */

static uint64_t
count_lines(const char *bytes, size_t len)
{
    uint64_t count = 0;
    for (const char *at = bytes, *end = bytes + len; at < end && (at = memchr(at, '\n', (size_t)(end - at)));
         at++)
        count++;
    return count;
}

static void
access_flush(struct control *control)
{
    size_t at = 0;
    while (at < control->buffered && control->access != -1) {
        ssize_t n = write(control->access, control->buffer + at, control->buffered - at);
        if (n == -1 && errno == EINTR) continue;
        if (n <= 0) {
            static struct log_every every;
            uint64_t suppressed;
            atomic_fetch_add(&shm_totals(control->shm)->access_log_dropped,
                count_lines(control->buffer + at, control->buffered - at));
            if (log_every_due(&every, 10000000, &suppressed)) log_warn("the access log cannot be written");
            break;
        }
        at += (size_t)n;
    }
    control->buffered = 0;
}

static void
take_line(void *context, enum ring_kind kind, const char *line, size_t len)
{
    struct control *control = context;
    if (kind == RING_LOG) {
        ssize_t ignored = write(STDERR_FILENO, line, len); /* nowhere left to tell of a failure */
        (void)ignored;
        return;
    }
    if (control->access == -1 || len > sizeof control->buffer) {
        if (control->config != NULL && control->config->log.access != NULL)
            atomic_fetch_add(&shm_totals(control->shm)->access_log_dropped, 1);
        return;
    }
    if (control->buffered + len > sizeof control->buffer) access_flush(control);
    memcpy(control->buffer + control->buffered, line, len);
    control->buffered += len;
}

static void
drain_rings(struct control *control)
{
    for (unsigned i = 0; i < SHM_WORKERS_MAX; i++) {
        struct ring *ring = shm_ring(control->shm, i);
        if (!ring_is_empty(ring)) ring_drain(ring, LINES_A_TURN, take_line, control);
    }
    if (control->buffered > 0) access_flush(control);
}

/* A file that cannot be opened does not cost the lines: they go where they went. */
static void
access_open(struct control *control)
{
    const char *path = control->config == NULL ? NULL : control->config->log.access;
    int fd = -1;
    if (path != NULL && strcmp(path, "-") == 0) {
        fd = STDOUT_FILENO;
    } else if (path != NULL) {
        fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0640);
        if (fd == -1) {
            log_warn("the access log cannot be opened", F_STR("file", path));
            return;
        }
    }
    if (control->access > STDERR_FILENO) close(control->access);
    control->access = fd;
}

/* ---- admin's questions to us
 * ------------------------------------------------------------------------------------------ */

static bool
is_ready(void *context)
{
    const struct control *control = context;
    return control->serves && !control->draining;
}

static void
request_reload(void *context)
{
    struct control *control = context;
    control->reloads_wanted++;
    send_up(control, IPC_WANT_RELOAD);
}

static void
request_drain(void *context)
{
    send_up(context, IPC_WANT_DRAIN);
}

static void
on_left(void *context)
{
    struct control *control = context;
    event_base_loopexit(control->base, NULL);
}

/* Traffic and verdicts do not need this process, and the admin socket is the supervisor's too: who asks now
 * waits in it for the successor. */
static void
hand_over(struct control *control)
{
    if (control->draining || !admin_leave(control->admin, on_left, control)) return;
    control->hands_over = true;
    log_warnx("many Lua states were dropped: control finishes and is replaced",
        F_UINT("states", script_states_dropped()));
}

static void
on_suspect_failed(void *context, uint32_t slot)
{
    struct control *control = context;
    discovery_suspect_failed(control->discovery, slot);
}

/* ---- generations
 * ------------------------------------------------------------------------------------------------------- */

static void
use_generation(struct control *control, struct ipc_message *message)
{
    struct diags diags = {0};
    struct bundle *bundle;
    struct script *script = NULL;
    struct config *config = generation_load(message, &bundle);
    if (config == NULL) goto fail;
    struct script_env env = {.role = SCRIPT_CONTROL,
        .config = config,
        .bundle = bundle,
        .shm = control->shm,
        .was_checked = control->config == NULL, /* what only fails now keeps no successor from starting */
        .on_overrun = on_overrun,
        .context = control};
    script = script_new(&env, control->script, &diags);
    if (script == NULL || !diags_ok(&diags)) {
        const char *why =
            diags.count > 0 ? diags.rows[0].text : "out of memory while the policies were loaded";
        strncpy(message->text, why, sizeof message->text - 1);
        goto fail;
    }
    if (!discovery_use(control->discovery, config)) {
        strncpy(message->text, "out of memory while the endpoints were read", sizeof message->text - 1);
        goto fail;
    }
    health_use(control->health, config, script);
    health_refresh(control->health);
    admin_use(control->admin, config, script, message->number, message->hash);
    if (message->ok != 0) control->serves = true;
    if (message->fd_count > 1 && !control->hands_over) {
        if (!admin_listen(control->admin, message->fds[1])) log_warnx("the admin address is not served");
        message->fds[1] = -1;
    }
    ipc_close_fds(message);
    script_free(control->script);
    config_free(control->config);
    bundle_free(control->bundle);
    control->script = script;
    control->config = config;
    control->bundle = bundle;
    control->generation = message->number;
    access_open(control);
    generation_report(control->channel, message->number, true, "");
    diags_fini(&diags);
    return;
fail:
    generation_report(control->channel, message->number, false, message->text);
    ipc_close_fds(message);
    script_free(script);
    config_free(config);
    bundle_free(bundle);
    diags_fini(&diags);
}

static void
on_message(struct control *control, struct ipc_message *message)
{
    switch ((enum ipc_type)message->type) {
    case IPC_GENERATION: use_generation(control, message); return;
    case IPC_COMMIT:
        control->serves = true;
        discovery_commit(control->discovery);
        break;
    case IPC_RELOADED: /* the verdict of a reload that began before the last one asked for does not answer
                          that one */
        if (message->number >= control->reloads_wanted)
            admin_reloaded(control->admin, message->ok != 0, message->text);
        break;
    case IPC_DRAIN: /* the first begins the drain; the second, once the workers are gone, ends this process */
        if (control->draining) event_base_loopexit(control->base, NULL);
        control->draining = true;
        break;
    case IPC_REOPEN:
        access_open(control);
        log_info("logs reopened");
        break;
    case IPC_DUMP:
    case IPC_HELP:
    case IPC_USING:
    case IPC_ALIVE:
    case IPC_READY:
    case IPC_WANT_RELOAD:
    case IPC_WANT_DRAIN:
    case IPC_TYPE_COUNT: break;
    }
    ipc_close_fds(message);
}

static void
on_channel(evutil_socket_t fd, short what, void *context)
{
    static struct ipc_message message;
    struct control *control = context;
    int got = 0;
    (void)what;
    while ((got = ipc_receive(fd, &message)) == 1)
        on_message(control, &message);
    if (got == -1) event_base_loopexit(control->base, NULL); /* the supervisor is gone */
}

static void
on_turn(evutil_socket_t fd, short what, void *context)
{
    struct control *control = context;
    (void)fd;
    (void)what;
    control->turns++;
    drain_rings(control);
    health_refresh(control->health);
    if (control->turns % ALIVE_TURNS == 0) send_up(control, IPC_ALIVE);
    if (UNLIKELY(script_states_dropped() >= SCRIPT_STATES_MAX) && !control->hands_over) hand_over(control);
    if (control->turns % REAP_TURNS == 0) shm_reap(control->shm);
    if (!control->told_ready && control->config != NULL && discovery_is_ready(control->discovery)) {
        control->told_ready = true;
        send_up(control, IPC_READY);
    }
}

static bool
prepare(struct control *control)
{
    const struct timeval turn = {0, TURN_MS * 1000};
    struct admin_env env = {.shm = control->shm,
        .context = control,
        .is_ready = is_ready,
        .request_reload = request_reload,
        .request_drain = request_drain};
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != 0) return false;
    control->base = event_base_new();
    if (control->base == NULL) return false;
    shm_control_adopt(control->shm);
    control->discovery = discovery_new(control->base, control->shm);
    control->health = health_new(control->base, control->shm, on_suspect_failed, control);
    env.discovery = control->discovery;
    env.health = control->health;
    if (control->discovery == NULL || control->health == NULL) return false;
    control->admin = admin_new(control->base, &env);
    control->on_channel =
        event_new(control->base, control->channel, EV_READ | EV_PERSIST, on_channel, control);
    control->on_turn = event_new(control->base, -1, EV_PERSIST, on_turn, control);
    return control->admin != NULL && control->on_channel != NULL && control->on_turn != NULL &&
           event_add(control->on_channel, NULL) == 0 && event_add(control->on_turn, &turn) == 0;
}

int
control_main(struct shm *shm, int channel)
{
    static struct control control;
    int code = 0;
    control = (struct control){.shm = shm, .channel = channel, .access = -1};
    if (!prepare(&control)) {
        log_error("control cannot start");
        code = 1;
    } else if (event_base_dispatch(control.base) == -1) {
        log_error("the event loop failed");
        code = 1;
    }
    drain_rings(&control);
    if (control.admin != NULL) admin_free(control.admin);
    if (control.health != NULL) health_free(control.health);
    if (control.discovery != NULL) discovery_free(control.discovery);
    script_free(control.script);
    config_free(control.config);
    bundle_free(control.bundle);
    if (control.on_channel != NULL) event_free(control.on_channel);
    if (control.on_turn != NULL) event_free(control.on_turn);
    if (control.base != NULL) event_base_free(control.base);
    if (control.access > STDERR_FILENO) close(control.access);
    curl_global_cleanup();
    close(channel);
    return code;
}
