#include "core/proxy/proxy.h"

#include <stdlib.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>

#include "core/base/clock.h"
#include "core/proxy/filtering.h"
#include "core/proxy/proxy_internal.h"

enum {
    SWEEP_US = 250000,
    RETIRED_US = 60000000, /* for spawned functions, once nothing else needs their generation */
    /* listeners, the channel to the supervisor, epoll, bundles; an eventfd of each worker */
    SPARE_FDS = 48 + SHM_WORKERS_MAX,
};

/* generations */

void
generation_get(struct generation *generation)
{
    generation->refs++;
}

static void
generation_free(struct generation *generation)
{
    route_table_free(generation->routes);
    script_free(generation->script);
    config_free(generation->config);
    bundle_free(generation->bundle);
    free(generation);
}

/* Freed by the sweep: whoever put it last may have been called by its script. What that spawned may finish,
 * within RETIRED_US. */
void
generation_put(struct generation **given)
{
    struct generation *generation = *given;
    *given = NULL;
    if (generation == NULL || --generation->refs > 0) return;
    struct proxy *proxy = generation->proxy;
    generation->until_us = proxy->now_us + RETIRED_US;
    generation->next = proxy->retired;
    proxy->retired = generation;
}

static void
retired_sweep(struct proxy *proxy, bool is_over)
{
    for (struct generation **at = &proxy->retired; *at != NULL;) {
        struct generation *generation = *at;
        if (!is_over && generation->until_us > proxy->now_us && script_is_busy(generation->script)) {
            at = &generation->next;
            continue;
        }
        *at = generation->next;
        generation_free(generation);
    }
}

static bool
has_filters(const struct config *config)
{
    for (size_t i = 0; i < config->route_count; i++) {
        if (config->routes[i].filter_count > 0) return true;
    }
    for (size_t i = 0; i < config->service_count; i++) {
        if (config->services[i].filter_count > 0) return true;
    }
    return false;
}

/* A pipe takes the descriptors of a connection. */
static uint32_t
pipe_limit(uint32_t connections)
{
    return connections / 32 < PIPES_MAX ? connections / 32 : PIPES_MAX;
}

static uint32_t
connection_cap(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == -1 || limit.rlim_cur > UINT32_MAX) return UINT32_MAX;
    if (limit.rlim_cur <= SPARE_FDS + 2) return 1;
    uint32_t cap = (uint32_t)(limit.rlim_cur - SPARE_FDS) / 2;
    return cap - pipe_limit(cap);
}

bool
proxy_use(
    struct proxy *proxy, uint32_t number, struct bundle *bundle, struct config *config, struct script *script)
{
    struct generation *generation = calloc(1, sizeof *generation), *old = proxy->generation;
    if (generation == NULL) {
        script_free(script);
        config_free(config);
        bundle_free(bundle);
        return false;
    }
    *generation = (struct generation){.number = number,
        .bundle = bundle,
        .config = config,
        .script = script,
        .has_filters = has_filters(config),
        .proxy = proxy};
    generation->routes = route_table_new(proxy->shm, config, script);
    if (generation->routes == NULL || !script_set_host(script, &proxy->host)) {
        generation_free(generation);
        return false;
    }
    generation->refs = 1;
    proxy->generation = generation;
    proxy->connection_cap = connection_cap();
    proxy->pipes.limit = pipe_limit(proxy->connection_cap);
    proxy->endpoints_version = 0;
    proxy_enter(proxy);
    if (old != NULL) script_retire(old->script);
    generation_put(&old);
    proxy_refresh(proxy);
    conns_count_clients(proxy);
    accept_start(proxy);
    proxy_leave(proxy);
    return true;
}

struct script *
proxy_script(struct proxy *proxy)
{
    return proxy->generation == NULL ? NULL : proxy->generation->script;
}

/* turns */

void
proxy_refresh(struct proxy *proxy)
{
    uint64_t version = shm_endpoints_version(proxy->shm);
    if (LIKELY(version == proxy->endpoints_version) || proxy->generation == NULL) return;
    proxy->endpoints_version = version;
    script_refresh(proxy->generation->script);
    endpoints_check(proxy);
    proxy->is_woken = proxy->is_changed = proxy->waiting > 0;
    stats_purge(proxy->stats);
    atomic_store_explicit(&proxy->block->endpoints_seen, version, memory_order_release);
}

void
proxy_enter(struct proxy *proxy)
{
    proxy->now_us = clock_now_us();
}

static void
rest_end(struct proxy *proxy)
{
    while (!link_is_empty(&proxy->resting_streams)) {
        struct stream *stream = LINK_OF(proxy->resting_streams.next, struct stream, link);
        link_remove(&stream->link);
        stream_rest_free(proxy, stream);
    }
    while (!link_is_empty(&proxy->resting_upstreams)) {
        struct upstream *upstream = LINK_OF(proxy->resting_upstreams.next, struct upstream, link);
        link_remove(&upstream->link);
        upstream_free(upstream);
    }
    while (!link_is_empty(&proxy->resting_conns)) {
        struct conn *conn = LINK_OF(proxy->resting_conns.next, struct conn, link);
        link_remove(&conn->link);
        conn_free(conn);
    }
}

void
proxy_leave(struct proxy *proxy)
{
    if (UNLIKELY(outbox_is_full(proxy))) outbox_send(proxy);
    while (proxy->is_woken || !link_is_empty(&proxy->ready_conns)) {
        if (UNLIKELY(proxy->is_woken)) { /* who waits goes before who comes */
            queueing_run(proxy);
            filtering_run(proxy);
        } else {
            conn_begin(LINK_OF(proxy->ready_conns.next, struct conn, link));
        }
        rest_end(proxy);
    }
    rest_end(proxy);
    if (UNLIKELY(proxy->drain == DRAIN_RUNNING)) drain_check(proxy);
}

static void
on_sweep(evutil_socket_t fd, short what, void *context)
{
    struct proxy *proxy = context;
    (void)fd;
    (void)what;
    proxy_enter(proxy);
    proxy->wall_offset_us = clock_wall_us() - clock_now_us();
    proxy_refresh(proxy);
    upstream_sweep(proxy);
    queueing_sweep(proxy);
    stays_end(proxy, proxy->now_us);
    if (UNLIKELY(proxy->retired != NULL)) retired_sweep(proxy, false);
    proxy_leave(proxy);
}

/* deadlines */

static const struct timeval *
common_timeout(struct proxy *proxy, uint64_t us)
{
    struct timeval tv = {(time_t)(us / 1000000), (suseconds_t)(us % 1000000)};
    for (unsigned i = 0; i < proxy->common_count; i++) {
        if (proxy->common[i].us == us) return proxy->common[i].tv;
    }
    if (proxy->common_count == COMMON_TIMEOUTS) return NULL;
    const struct timeval *common = event_base_init_common_timeout(proxy->base, &tv);
    if (common == NULL) return NULL;
    proxy->common[proxy->common_count].us = us;
    proxy->common[proxy->common_count].tv = common;
    proxy->common_count++;
    return common;
}

static void
deadline_add(struct proxy *proxy, struct deadline *deadline, const struct timeval *common)
{
    uint64_t in_us = deadline->due_us > proxy->now_us ? deadline->due_us - proxy->now_us : 0;
    struct timeval tv = {(time_t)(in_us / 1000000), (suseconds_t)(in_us % 1000000)};
    if (event_add(&deadline->event, common != NULL ? common : &tv) == 0)
        deadline->fires_us = deadline->due_us;
}

void
deadline_set(struct proxy *proxy, struct deadline *deadline, uint64_t due_us)
{
    deadline->due_us = due_us;
    if (due_us == UINT64_MAX || (deadline->fires_us != 0 && deadline->fires_us <= due_us)) return;
    /* Only configured waits begin here, so their lengths are few: each has a queue of its own in libevent. */
    uint64_t in_us = due_us > proxy->now_us ? due_us - proxy->now_us : 0;
    deadline_add(proxy, deadline, in_us % 1000 == 0 ? common_timeout(proxy, in_us) : NULL);
}

bool
deadline_is_due(struct proxy *proxy, struct deadline *deadline)
{
    deadline->fires_us = 0;
    if (deadline->due_us <= proxy->now_us) return true;
    if (deadline->due_us != UINT64_MAX) deadline_add(proxy, deadline, NULL);
    return false;
}

void
deadline_stop(struct deadline *deadline)
{
    event_del(&deadline->event);
    deadline->fires_us = 0;
    deadline->due_us = UINT64_MAX;
}

/* small things that every request needs */

struct slice
proxy_date(struct proxy *proxy)
{
    uint64_t second = (proxy->now_us + proxy->wall_offset_us) / 1000000;
    if (second != proxy->date_second) {
        static const char days[] = "SunMonTueWedThuFriSat", months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
        struct tm tm;
        time_t now = (time_t)second;
        gmtime_r(&now, &tm);
        snprintf(proxy->date, sizeof proxy->date, "%.3s, %02d %.3s %04d %02d:%02d:%02d GMT",
            days + tm.tm_wday * 3, tm.tm_mday % 100, months + tm.tm_mon * 3, (tm.tm_year + 1900) % 10000,
            tm.tm_hour % 100, tm.tm_min % 100, tm.tm_sec % 100);
        proxy->date_second = second;
    }
    return slice_of(proxy->date);
}

/* xoshiro256**: ids and weighted choices, nothing secret. */
uint64_t
proxy_random(struct proxy *proxy)
{
    uint64_t *s = proxy->random, mixed = s[1] * 5, shifted = s[1] << 17;
    mixed = (mixed << 7 | mixed >> 57) * 9;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= shifted;
    s[3] = s[3] << 45 | s[3] >> 19;
    return mixed;
}

/* life */

static void
lists_init(struct proxy *proxy)
{
    link_init(&proxy->idle_conns);
    link_init(&proxy->busy_conns);
    link_init(&proxy->ready_conns);
    link_init(&proxy->lingering);
    link_init(&proxy->streams);
    link_init(&proxy->upstreams);
    link_init(&proxy->idle_upstreams);
    link_init(&proxy->resting_conns);
    link_init(&proxy->resting_streams);
    link_init(&proxy->resting_upstreams);
    link_init(&proxy->moved);
}

static void
on_accept_resume(evutil_socket_t fd, short what, void *context)
{
    (void)fd;
    (void)what;
    accept_resume(context);
}

struct proxy *
proxy_new(struct event_base *base, struct shm *shm, unsigned worker, struct stats *stats)
{
    struct timeval sweep = {0, SWEEP_US};
    struct proxy *proxy = calloc(1, sizeof *proxy);
    if (proxy == NULL) return NULL;
    proxy->base = base;
    proxy->shm = shm;
    proxy->worker = worker;
    proxy->stats = stats;
    proxy->block = shm_worker(shm, worker);
    proxy->totals = shm_totals(shm);
    proxy->ring = shm_ring(shm, worker);
    clients_clear(shm, worker);
    lists_init(proxy);
    filtering_host(proxy);
    if (getrandom(proxy->random, sizeof proxy->random, GRND_NONBLOCK) != (ssize_t)sizeof proxy->random) {
        proxy->random[0] = clock_now_us();
        proxy->random[1] = clock_wall_us() ^ worker;
    }
    proxy->random[3] |= 1; /* all zero is the one state it never leaves */
    if (!stays_init(proxy)) {
        free(proxy);
        return NULL;
    }
    event_assign(&proxy->accept_resume, base, -1, 0, on_accept_resume, proxy);
    queueing_init(proxy);
    outbox_init(proxy);
    event_assign(&proxy->sweep, base, -1, EV_PERSIST, on_sweep, proxy);
    proxy_enter(proxy);
    proxy->wall_offset_us = clock_wall_us() - proxy->now_us;
    if (event_add(&proxy->sweep, &sweep) == -1) {
        stays_fini(proxy);
        free(proxy);
        return NULL;
    }
    return proxy;
}

bool
proxy_is_idle(const struct proxy *proxy)
{
    return proxy->stream_count == 0;
}

static void
conns_close(struct link *list)
{
    while (!link_is_empty(list)) {
        struct conn *conn = LINK_OF(list->next, struct conn, link);
        if (conn->stream != NULL) stream_close(conn->stream, REASON_DRAINING);
        conn_close(conn);
    }
}

void
proxy_free(struct proxy *proxy)
{
    if (proxy == NULL) return;
    proxy_enter(proxy);
    proxy->drain = DRAIN_DONE;
    accept_stop(proxy);
    conns_close(&proxy->busy_conns);
    conns_close(&proxy->ready_conns);
    conns_close(&proxy->idle_conns);
    conns_close(&proxy->lingering);
    endpoints_fini(proxy);
    proxy_leave(proxy);
    while (proxy->free_stream_count > 0) {
        struct stream *stream = proxy->free_streams[--proxy->free_stream_count];
        arena_fini(&stream->arena);
        free(stream);
    }
    buf_pool_fini(&proxy->buffers);
    pipe_pool_fini(&proxy->pipes);
    event_del(&proxy->sweep);
    event_del(&proxy->accept_resume);
    stays_fini(proxy);
    queueing_fini(proxy);
    outbox_fini(proxy);
    generation_put(&proxy->generation); /* its tasks cancel what they fetch */
    retired_sweep(proxy, true);
    fetcher_free(proxy->fetcher);
    free(proxy->listeners);
    free(proxy);
}

void
proxy_dump(const struct proxy *proxy, struct strbuf *out)
{
    uint64_t now_us = clock_now_us();
    strbuf_printf(out, "worker=%u connections=%u streams=%u tunnels=%u generation=%u\n", proxy->worker,
        proxy->connections, proxy->stream_count, proxy->tunnels,
        proxy->generation == NULL ? 0 : proxy->generation->number);
    for (const struct link *at = proxy->streams.next; at != &proxy->streams; at = at->next) {
        const struct stream *stream = LINK_OF(at, struct stream, link);
        strbuf_printf(out,
            "stream state=%s age_us=%llu client=%s attempts=%u sent=%llu in=%llu out=%llu slot=%d path=\"",
            stream_state_word(stream->state), (unsigned long long)(now_us - stream->started_us),
            stream->conn->ip, stream->attempts, (unsigned long long)stream->sent,
            (unsigned long long)stream->bytes_in, (unsigned long long)stream->bytes_out,
            stream->slot == SLOT_NONE ? -1 : (int)stream->slot);
        strbuf_add_escaped(out, stream->path, 256);
        strbuf_add_text(out, "\"\n");
    }
}
