#include "registry/registry.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/log.h"
#include "registry/registry_internal.h"

enum { CONNECTIONS_MAX = 65536 };

static struct timeval
timeval_of(uint64_t us)
{
    return (struct timeval){(time_t)(us / 1000000), (suseconds_t)(us % 1000000)};
}

/* Sets the expiry timer for the model's next piece of work, unless it is set earlier already. */
static void
arm_expiry(struct registry *registry)
{
    uint64_t next = model_next_us(&registry->model), now = clock_now_us();
    if (next == UINT64_MAX || registry->draining) return;
    uint64_t at = (next > now ? next : now) + LAPSE_GRAIN_US;
    if (at >= registry->expire_at_us) return;
    struct timeval in = timeval_of(at - now);
    if (evtimer_add(&registry->expire_event, &in) == 0) registry->expire_at_us = at;
}

void
registry_changed(struct registry *registry)
{
    arm_expiry(registry);
    if (registry->notify_due || registry->watchers == NULL) return;
    uint64_t gap = NOTIFY_COST * registry->notify_cost_us, now = clock_now_us();
    if (gap < NOTIFY_GAP_US) gap = NOTIFY_GAP_US;
    if (gap > NOTIFY_GAP_MAX_US) gap = NOTIFY_GAP_MAX_US;
    uint64_t at = registry->notified_us + gap;
    struct timeval in = timeval_of(at > now ? at - now : 0);
    registry->notify_due = evtimer_add(&registry->notify_event, &in) == 0;
}

static void
on_expire(evutil_socket_t fd, short what, void *context)
{
    struct registry *registry = context;
    uint64_t now = clock_now_us(), index = registry->model.index;
    uint64_t late = now > registry->expire_at_us ? now - registry->expire_at_us : 0;
    (void)fd;
    (void)what;
    registry->expire_at_us = UINT64_MAX;
    model_expire(&registry->model, now, late);
    if (registry->model.index != index) registry_changed(registry);
    arm_expiry(registry);
}

static void
on_notify(evutil_socket_t fd, short what, void *context)
{
    struct registry *registry = context;
    (void)fd;
    (void)what;
    registry->notify_due = false;
    watch_notify(registry);
}

static void
on_tick(evutil_socket_t fd, short what, void *context)
{
    (void)fd;
    (void)what;
    watch_tick(context, clock_now_us());
}

static char *
listen_text(const struct config_registry *config)
{
    struct strbuf text = {0};
    strbuf_printf(&text, "%s %s", config->listen_http.text == NULL ? "" : config->listen_http.text,
        config->listen_grpc.text == NULL ? "" : config->listen_grpc.text);
    return text.at;
}

/* A watcher is a descriptor; the usual soft limit of 1024 is for programs that use select(). */
static void
raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == -1 || limit.rlim_cur == limit.rlim_max) return;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) == -1) log_warn("the descriptor limit stays as it is");
}

static bool
open_server(struct registry *registry, struct serve **serve, enum serve_protocol protocol,
    serve_handler handler, int *fd)
{
    struct serve_limits limits = {.connections = CONNECTIONS_MAX};
    if (*fd == -1) return true;
    *serve = serve_new(registry->base, protocol, &limits, handler, registry);
    if (*serve == NULL || !serve_listen(*serve, *fd)) return false;
    *fd = -1; /* the server's now */
    return true;
}

struct registry *
registry_new(
    struct event_base *base, const struct config_registry *config, int http_fd, int grpc_fd, const char **why)
{
    static char text[512];
    struct registry *registry = calloc(1, sizeof *registry);
    *why = "out of memory";
    if (registry == NULL) goto fail;
    raise_descriptor_limit();
    registry->base = base;
    registry->expire_at_us = UINT64_MAX;
    registry->listen_text = listen_text(config);
    registry->store_text = strdup(config->store == NULL ? "memory" : config->store);
    if (registry->listen_text == NULL || registry->store_text == NULL) goto fail;
    if (event_assign(&registry->expire_event, base, -1, 0, on_expire, registry) != 0 ||
        event_assign(&registry->notify_event, base, -1, 0, on_notify, registry) != 0 ||
        event_assign(&registry->tick_event, base, -1, 0, on_tick, registry) != 0) {
        goto fail;
    }
    registry->store = store_open(registry->store_text, why);
    if (registry->store == NULL) goto fail;
    uint64_t ttl = config->lease_ttl_us != 0 ? config->lease_ttl_us : UINT64_C(30000000);
    if (!model_init(&registry->model, registry->store, ttl, clock_now_us(), why)) {
        snprintf(text, sizeof text, "%s", *why); /* the store's own buffer goes with it */
        *why = text;
        goto fail;
    }
    *why = "the registry's servers could not be set up: out of memory or descriptors";
    if (!open_server(registry, &registry->http, SERVE_HTTP1, rest_handle, &http_fd) ||
        !open_server(registry, &registry->grpc, SERVE_GRPC, grpc_handle, &grpc_fd)) {
        goto fail;
    }
    if (registry->grpc != NULL) serve_set_streaming(registry->grpc, grpc_is_streaming);
    arm_expiry(registry);
    log_info("registry is up", F_STR("store", registry->store_text),
        F_UINT("instances", registry->model.count), F_STR("epoch", registry->model.epoch),
        F_UINT("index", registry->model.index));
    return registry;

fail:
    if (http_fd != -1) close(http_fd);
    if (grpc_fd != -1) close(grpc_fd);
    registry_free(registry);
    return NULL;
}

void
registry_use(struct registry *registry, const struct config_registry *config)
{
    char *listen = listen_text(config);
    uint64_t ttl = config->lease_ttl_us;
    if (listen != NULL && strcmp(listen, registry->listen_text) != 0) {
        log_warnx("registry.listen changed: a restart is needed for it", F_STR("now", registry->listen_text),
            F_STR("wanted", listen));
    }
    if (config->store != NULL && strcmp(config->store, registry->store_text) != 0) {
        log_warnx("registry.store changed: a restart is needed for it", F_STR("now", registry->store_text),
            F_STR("wanted", config->store));
    }
    free(listen);
    if (ttl == 0 || ttl == registry->model.lease_ttl_us) return;
    log_info("lease_ttl changed", F_US("from", registry->model.lease_ttl_us), F_US("to", ttl));
    model_set_ttl(&registry->model, ttl, clock_now_us());
    render_forget(registry); /* snapshots name the ttl */
    arm_expiry(registry);
}

static void
on_drained(void *context)
{
    struct registry *registry = context;
    if (registry->drains_left > 0 && --registry->drains_left > 0) return;
    void (*done)(void *) = registry->done;
    registry->done = NULL;
    if (done != NULL) done(registry->done_context);
}

void
registry_drain(struct registry *registry, uint64_t limit_us, void (*done)(void *), void *context)
{
    registry->draining = true;
    registry->done = done;
    registry->done_context = context;
    registry->drains_left = (registry->http != NULL) + (registry->grpc != NULL);
    event_del(&registry->expire_event);
    registry->expire_at_us = UINT64_MAX;
    watch_end_all(registry);
    bool none = registry->drains_left == 0;
    if (registry->http != NULL) serve_drain(registry->http, limit_us, on_drained, registry);
    if (registry->grpc != NULL) serve_drain(registry->grpc, limit_us, on_drained, registry);
    if (none) on_drained(registry);
}

void
registry_free(struct registry *registry)
{
    if (registry == NULL) return;
    serve_free(registry->http);
    serve_free(registry->grpc);
    if (event_initialized(&registry->expire_event)) event_del(&registry->expire_event);
    if (event_initialized(&registry->notify_event)) event_del(&registry->notify_event);
    if (event_initialized(&registry->tick_event)) event_del(&registry->tick_event);
    render_forget(registry);
    model_fini(&registry->model);
    if (registry->store != NULL) registry->store->ops->close(registry->store);
    free(registry->listen_text);
    free(registry->store_text);
    free(registry);
}
