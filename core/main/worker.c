/* core/main/worker.c: the data plane's process: a loop, a proxy, a heartbeat, and the supervisor's channel.
 */
#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/main/process.h"
#include "core/metrics/stats.h"
#include "core/proxy/proxy.h"
#include "core/script/script.h"
#include "core/shm/ring.h"

enum { HEARTBEAT_MS = 50, ORPHAN_DRAIN_US = 10000000 };

struct worker {
    struct shm *shm;
    unsigned index;
    int channel;
    struct event_base *base;
    struct event *on_channel, *on_heartbeat;
    struct stats *stats;
    struct proxy *proxy;
    struct config_drain limits; /* of the newest generation */
    bool hands_over;            /* it drains by itself, and a successor will start */
    int code;
};

static void
log_to_ring(void *context, enum log_level level, const char *line, size_t len)
{
    struct worker *worker = context;
    (void)level;
    if (!ring_put(shm_ring(worker->shm, worker->index), RING_LOG, line, len))
        atomic_fetch_add_explicit(&shm_totals(worker->shm)->log_dropped, 1, memory_order_relaxed);
}

static void
on_drained(void *context)
{
    struct worker *worker = context;
    event_base_loopexit(worker->base, NULL);
}

static void
use_generation(struct worker *worker, struct ipc_message *message)
{
    struct diags diags = {0};
    struct bundle *bundle;
    struct config *config = generation_load(message, &bundle);
    if (config == NULL) goto fail;
    if (message->fd_count < 1 + (size_t)message->wake_count) message->wake_count = 0; /* no message of ours */
    struct script_env env = {.role = SCRIPT_WORKER,
        .worker = worker->index,
        .config = config,
        .bundle = bundle,
        .shm = worker->shm,
        .was_checked = true};
    struct script *script = script_new(&env, proxy_script(worker->proxy), &diags);
    if (script == NULL || !diags_ok(&diags)) {
        const char *why =
            diags.count > 0 ? diags.rows[0].text : "out of memory while the scripts were loaded";
        strncpy(message->text, why, sizeof message->text - 1);
        script_free(script);
        config_free(config);
        bundle_free(bundle);
        goto fail;
    }
    if (message->wake_count > 0) proxy_set_wake(worker->proxy, message->fds + 1, message->wake_count);
    if (!proxy_use(worker->proxy, message->number, bundle, config, script)) {
        strncpy(message->text, "out of memory while the routes were built", sizeof message->text - 1);
        if (message->wake_count > 0)
            proxy_set_wake(worker->proxy, message->fds, 0); /* they are closed below */
        goto fail;
    }
    worker->limits = config->drain;
    size_t before = 1 + message->wake_count;
    if (!proxy_listen(worker->proxy, message->fds + before, message->fd_count - before))
        log_warnx("a listener could not be taken over");
    message->fd_count = 0; /* all taken */
    atomic_store(&shm_worker(worker->shm, worker->index)->generation, message->number);
    generation_report(worker->channel, message->number, true, "");
    diags_fini(&diags);
    return;
fail:
    generation_report(worker->channel, message->number, false, message->text);
    ipc_close_fds(message);
    diags_fini(&diags);
}

static void
dump_streams(struct worker *worker)
{
    struct strbuf text = {0};
    proxy_dump(worker->proxy, &text);
    for (char *line = text.at, *end; line != NULL && *line != '\0'; line = end) {
        end = strchr(line, '\n');
        if (end != NULL) *end++ = '\0';
        log_info("stream", F_STR("is", line));
    }
    strbuf_fini(&text);
}

static void
on_message(struct worker *worker, struct ipc_message *message)
{
    switch ((enum ipc_type)message->type) {
    case IPC_GENERATION: use_generation(worker, message); return;
    case IPC_DRAIN:
        atomic_store(&shm_worker(worker->shm, worker->index)->draining, 1);
        proxy_drain(worker->proxy, message->requests_us, message->tunnels_us, on_drained, worker);
        return;
    case IPC_DUMP: dump_streams(worker); return;
    case IPC_HELP:
        proxy_accept_from(worker->proxy, message->fds, message->fd_count);
        message->fd_count = 0;
        return;
    case IPC_COMMIT:
    case IPC_RELOADED:
    case IPC_REOPEN:
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
    struct worker *worker = context;
    int got = 0;
    (void)what;
    while ((got = ipc_receive(fd, &message)) == 1)
        on_message(worker, &message);
    if (got == 0) return;
    /* the supervisor is gone: finish what is under way, take nothing new */
    log_warn("the supervisor is gone");
    event_del(worker->on_channel);
    proxy_drain(worker->proxy, ORPHAN_DRAIN_US, ORPHAN_DRAIN_US, on_drained, worker);
}

/* Its sockets are the supervisor's too: a stand-in accepts from them until the successor does. */
static void
hand_over(struct worker *worker)
{
    worker->hands_over = true;
    log_warnx("many Lua states were dropped: the worker finishes and is replaced",
        F_UINT("states", script_states_dropped()));
    atomic_store(&shm_worker(worker->shm, worker->index)->draining, 1);
    proxy_drain(worker->proxy, worker->limits.requests_us, worker->limits.tunnels_us, on_drained, worker);
}

static void
on_heartbeat(evutil_socket_t fd, short what, void *context)
{
    struct worker *worker = context;
    (void)fd;
    (void)what;
    atomic_store_explicit(
        &shm_worker(worker->shm, worker->index)->heartbeat_us, clock_now_us(), memory_order_relaxed);
    if (UNLIKELY(script_states_dropped() >= SCRIPT_STATES_MAX) && !worker->hands_over) hand_over(worker);
}

static bool
prepare(struct worker *worker)
{
    const struct timeval beat = {0, HEARTBEAT_MS * 1000};
    struct event_config *options = event_config_new();
    if (options == NULL) return false;
    /* no locks (one thread); a cached clock would age timeouts, and vDSO reads are cheap */
    if (event_config_set_flag(options, EVENT_BASE_FLAG_NOLOCK) == -1) log_warnx("libevent keeps its locks");
    worker->base = event_base_new_with_config(options);
    event_config_free(options);
    if (worker->base == NULL) return false;
    worker->stats = stats_open(worker->shm, worker->index);
    worker->proxy =
        worker->stats == NULL ? NULL : proxy_new(worker->base, worker->shm, worker->index, worker->stats);
    if (worker->proxy == NULL) return false;
    worker->on_channel = event_new(worker->base, worker->channel, EV_READ | EV_PERSIST, on_channel, worker);
    worker->on_heartbeat = event_new(worker->base, -1, EV_PERSIST, on_heartbeat, worker);
    return worker->on_channel != NULL && worker->on_heartbeat != NULL &&
           event_add(worker->on_channel, NULL) == 0 && event_add(worker->on_heartbeat, &beat) == 0;
}

int
worker_main(struct shm *shm, int channel, unsigned index)
{
    struct worker worker = {.shm = shm, .index = index, .channel = channel};
    struct shm_worker *block = shm_worker(shm, index);
    log_set_sink(log_to_ring, &worker);
    atomic_store(&block->draining, 0);
    atomic_store(&block->in_script_since_us, 0);
    atomic_store(&block->heartbeat_us, clock_now_us());
    atomic_store(&block->pid, (int32_t)getpid());
    if (!prepare(&worker)) {
        log_error("the worker cannot start");
        worker.code = 1;
    } else if (event_base_dispatch(worker.base) == -1) {
        log_error("the event loop failed");
        worker.code = 1;
    }
    if (worker.proxy != NULL) proxy_free(worker.proxy);
    if (worker.stats != NULL) stats_close(worker.stats);
    if (worker.on_channel != NULL) event_free(worker.on_channel);
    if (worker.on_heartbeat != NULL) event_free(worker.on_heartbeat);
    if (worker.base != NULL) event_base_free(worker.base);
    close(channel);
    atomic_store(&block->pid, 0);
    return worker.code;
}
