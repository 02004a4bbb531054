#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/text.h"
#include "core/http/h1.h"
#include "core/metrics/stats_internal.h"

/* The value of a label that has nothing to say: an empty one would be no label at all to Prometheus. */
#define NOTHING "\"none\""

/* An endpoint as labels show it. Texts are finished label values with their quotes, so that two ids that only
 * differ in bytes which are no UTF-8 are found equal before they become the same series twice. */
struct endpoint {
    char *id, *host, *service; /* NULL: not shown */
    uint32_t slot, incarnation, state, weight;
    uint32_t active, failures, latency_us;
    double load;
};

struct series {
    const char *path, *service, *id, *strategy; /* finished label values */
    uint16_t status;
    uint8_t method, reason;
    uint64_t count, sum_us, bytes_in, bytes_out;
    uint64_t buckets[STATS_BUCKETS];
};

struct scrape {
    struct shm *shm;
    struct strbuf *out;
    struct endpoint *endpoints; /* by slot */
    uint32_t endpoint_count;
    struct series *series;
    size_t series_count, series_cap;
    char **names; /* finished label values by shm_name id, made when asked for */
};

static const char *const bound_texts[] = {
#define X(us, text) text,
    STATS_BOUNDS(X)
#undef X
        "+Inf",
};

void
stats_label(struct strbuf *out, struct slice value)
{
    strbuf_add_char(out, '"');
    while (value.len > 0) {
        size_t n = text_utf8_length(value);
        unsigned char c = (unsigned char)value.at[0];
        if (n == 0) {
            strbuf_add_text(out, "\xef\xbf\xbd");
            n = 1;
        } else if (c == '\\' || c == '"') {
            strbuf_add_char(out, '\\');
            strbuf_add_char(out, (char)c);
        } else if (c == '\n') {
            strbuf_add_text(out, "\\n");
        } else {
            strbuf_add(out, value.at, n);
        }
        value.at += n;
        value.len -= n;
    }
    strbuf_add_char(out, '"');
}

/* A finished label value on the heap; NULL, and the scrape failed, where memory is out. */
static char *
label_new(struct scrape *scrape, const char *text)
{
    struct strbuf label = {0};
    stats_label(&label, slice_of(text));
    if (label.failed) {
        strbuf_fini(&label);
        scrape->out->failed = true;
    }
    return label.at;
}

static const char *
name_label(struct scrape *scrape, uint32_t id)
{
    if (id >= SHM_NAMES_MAX) return NOTHING;
    if (scrape->names[id] == NULL) scrape->names[id] = label_new(scrape, shm_name_text(scrape->shm, id));
    return scrape->names[id] == NULL ? NOTHING : scrape->names[id];
}

/* ---- gathering ---- */

static void
endpoint_gather(struct scrape *scrape, uint32_t slot, uint64_t now_us)
{
    struct slot cold;
    struct slot_text text;
    struct endpoint *to = &scrape->endpoints[slot];
    if (!slot_read(scrape->shm, slot, &cold, &text) || cold.state == SLOT_GONE) return;
    to->id = label_new(scrape, text.id);
    to->host = label_new(scrape, text.host);
    to->service = label_new(scrape, shm_name_text(scrape->shm, cold.service));
    to->slot = slot;
    to->incarnation = cold.incarnation;
    to->state = cold.state;
    to->weight = cold.weight;
    to->active = atomic_load_explicit(&cold.active, memory_order_relaxed);
    to->failures = atomic_load_explicit(&cold.failures, memory_order_relaxed);
    to->latency_us = slot_latency_us(scrape->shm, slot, now_us);
    to->load = atomic_load_explicit(&cold.load_milli, memory_order_relaxed) / 1000.0;
}

static bool
series_add(struct scrape *scrape, const struct series *series)
{
    if (scrape->series_count == scrape->series_cap) {
        size_t cap = scrape->series_cap == 0 ? 256 : scrape->series_cap * 2;
        struct series *grown = realloc(scrape->series, cap * sizeof(*grown));
        if (grown == NULL) {
            scrape->out->failed = true;
            return false;
        }
        scrape->series = grown;
        scrape->series_cap = cap;
    }
    scrape->series[scrape->series_count++] = *series;
    return true;
}

static void
row_gather(struct scrape *scrape, struct stats_row *row)
{
    struct stats_key key;
    struct series series = {0};
    if (!stats_row_read(row, &key, series.buckets, &series.sum_us, &series.bytes_in, &series.bytes_out))
        return;
    series.id = NOTHING;
    if (key.slot != SLOT_NONE) {
        if (key.slot >= scrape->endpoint_count) return;
        const struct endpoint *endpoint = &scrape->endpoints[key.slot];
        if (endpoint->id == NULL || endpoint->incarnation != key.incarnation) return;
        series.id = endpoint->id;
    }
    series.path = name_label(scrape, key.route);
    series.service = name_label(scrape, key.service);
    series.strategy = name_label(scrape, key.strategy);
    series.status = key.status;
    series.method = key.method < METHOD_COUNT ? key.method : METHOD_OTHER;
    series.reason = key.reason < REASON_COUNT ? key.reason : REASON_NONE;
    for (int i = 0; i < STATS_BUCKETS; i++)
        series.count += series.buckets[i];
    (void)series_add(scrape, &series);
}

/* All regions, also of workers that a reload retired: what they counted stays counted. */
static void
rows_gather(struct scrape *scrape)
{
    for (unsigned worker = 0; worker < SHM_WORKERS_MAX; worker++) {
        struct stats_region *region = stats_region(scrape->shm, worker);
        uint32_t rows = region == NULL ? 0 : stats_rows(region);
        for (uint32_t i = 0; i < rows; i++)
            row_gather(scrape, &region->rows[i]);
    }
}

/* ---- adding up ---- */

typedef int (*series_order)(const void *a, const void *b);

#define FIRST_DIFFERENCE(expression)                                                                         \
    do {                                                                                                     \
        int difference = (expression);                                                                       \
        if (difference != 0) return difference;                                                              \
    } while (0)

/* The old label set: it has neither service nor reason. */
static int
by_request(const void *left, const void *right)
{
    const struct series *a = left, *b = right;
    FIRST_DIFFERENCE(strcmp(a->path, b->path));
    FIRST_DIFFERENCE(strcmp(a->id, b->id));
    FIRST_DIFFERENCE(strcmp(a->strategy, b->strategy));
    FIRST_DIFFERENCE((int)a->method - (int)b->method);
    return (int)a->status - (int)b->status;
}

static int
by_reason(const void *left, const void *right)
{
    const struct series *a = left, *b = right;
    FIRST_DIFFERENCE((int)a->reason - (int)b->reason);
    FIRST_DIFFERENCE(strcmp(a->path, b->path));
    FIRST_DIFFERENCE(strcmp(a->service, b->service));
    return strcmp(a->id, b->id);
}

static int
by_endpoint(const void *left, const void *right)
{
    const struct series *a = left, *b = right;
    FIRST_DIFFERENCE(strcmp(a->service, b->service));
    return strcmp(a->id, b->id);
}

/* Sorts, and calls `show` once for each run of equal series, added up. */
static void
each_sum(
    struct scrape *scrape, series_order order, void (*show)(struct strbuf *out, const struct series *sum))
{
    if (scrape->series_count > 0) qsort(scrape->series, scrape->series_count, sizeof(struct series), order);
    for (size_t i = 0; i < scrape->series_count;) {
        struct series sum = scrape->series[i++];
        while (i < scrape->series_count && order(&sum, &scrape->series[i]) == 0) {
            const struct series *more = &scrape->series[i++];
            sum.count += more->count;
            sum.sum_us += more->sum_us;
            sum.bytes_in += more->bytes_in;
            sum.bytes_out += more->bytes_out;
            for (int b = 0; b < STATS_BUCKETS; b++)
                sum.buckets[b] += more->buckets[b];
        }
        show(scrape->out, &sum);
    }
}

/* ---- text ---- */

void
stats_family(struct strbuf *out, const char *name, const char *type, const char *help)
{
    strbuf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void
request_labels(struct strbuf *out, const struct series *sum)
{
    strbuf_printf(out, "{path=%s,method=\"%s\",status=\"%u\",backend_id=%s,strategy=%s", sum->path,
        method_name(sum->method), sum->status, sum->id, sum->strategy);
}

static void
show_requests(struct strbuf *out, const struct series *sum)
{
    strbuf_add_text(out, "loadbalancer_total_requests");
    request_labels(out, sum);
    strbuf_printf(out, "} %llu\n", (unsigned long long)sum->count);
}

static void
show_durations(struct strbuf *out, const struct series *sum)
{
    uint64_t below = 0;
    for (int i = 0; i < STATS_BUCKETS; i++) {
        below += sum->buckets[i];
        strbuf_add_text(out, "loadbalancer_request_duration_seconds_bucket");
        request_labels(out, sum);
        strbuf_printf(out, ",le=\"%s\"} %llu\n", bound_texts[i], (unsigned long long)below);
    }
    strbuf_add_text(out, "loadbalancer_request_duration_seconds_sum");
    request_labels(out, sum);
    strbuf_printf(out, "} %llu.%06llu\n", (unsigned long long)(sum->sum_us / 1000000),
        (unsigned long long)(sum->sum_us % 1000000));
    strbuf_add_text(out, "loadbalancer_request_duration_seconds_count");
    request_labels(out, sum);
    strbuf_printf(out, "} %llu\n", (unsigned long long)below);
}

static void
show_failures(struct strbuf *out, const struct series *sum)
{
    if (sum->reason == REASON_NONE) return;
    strbuf_printf(out,
        "fluxgate_requests_failed_total{reason=\"%s\",path=%s,service=%s,backend_id=%s} %llu\n",
        reason_word(sum->reason), sum->path, sum->service, sum->id, (unsigned long long)sum->count);
}

static void
show_bytes_in(struct strbuf *out, const struct series *sum)
{
    strbuf_printf(out, "fluxgate_request_bytes_total{service=%s,backend_id=%s} %llu\n", sum->service, sum->id,
        (unsigned long long)sum->bytes_in);
}

static void
show_bytes_out(struct strbuf *out, const struct series *sum)
{
    strbuf_printf(out, "fluxgate_response_bytes_total{service=%s,backend_id=%s} %llu\n", sum->service,
        sum->id, (unsigned long long)sum->bytes_out);
}

static void
expose_requests(struct scrape *scrape)
{
    struct strbuf *out = scrape->out;
    stats_family(out, "loadbalancer_total_requests", "counter",
        "Requests finished, by route, method, status, endpoint and strategy.");
    each_sum(scrape, by_request, show_requests);
    stats_family(out, "loadbalancer_request_duration_seconds", "histogram",
        "Seconds from a request's first byte to the last byte of its response.");
    each_sum(scrape, by_request, show_durations);
    stats_family(out, "fluxgate_requests_failed_total", "counter",
        "Requests that failed, by the reason that the access log names.");
    each_sum(scrape, by_reason, show_failures);
    stats_family(
        out, "fluxgate_request_bytes_total", "counter", "Bytes of request bodies taken from clients.");
    each_sum(scrape, by_endpoint, show_bytes_in);
    stats_family(
        out, "fluxgate_response_bytes_total", "counter", "Bytes of response bodies sent to clients.");
    each_sum(scrape, by_endpoint, show_bytes_out);
}

/* ---- endpoints ---- */

static int
by_label(const void *left, const void *right)
{
    const struct endpoint *a = left, *b = right;
    FIRST_DIFFERENCE((a->id == NULL) - (b->id == NULL)); /* those not shown at the end */
    if (a->id == NULL) return 0;
    FIRST_DIFFERENCE(strcmp(a->service, b->service));
    FIRST_DIFFERENCE(strcmp(a->id, b->id));
    return (a->slot > b->slot) - (a->slot < b->slot);
}

static bool
may_be_picked(const struct endpoint *endpoint)
{
    return endpoint->weight > 0 && (endpoint->state == SLOT_HEALTHY || endpoint->state == SLOT_SUSPECT);
}

/* Sorted by label from here on; of two that print alike only the first stays. */
static uint32_t
endpoints_order(struct scrape *scrape)
{
    struct endpoint *rows = scrape->endpoints;
    uint32_t kept = 0;
    if (scrape->endpoint_count > 0) qsort(rows, scrape->endpoint_count, sizeof(*rows), by_label);
    for (uint32_t i = 0; i < scrape->endpoint_count && rows[i].id != NULL; i++) {
        if (kept > 0 && strcmp(rows[kept - 1].service, rows[i].service) == 0 &&
            strcmp(rows[kept - 1].id, rows[i].id) == 0)
            continue;
        struct endpoint swap = rows[kept];
        rows[kept++] = rows[i];
        rows[i] = swap;
    }
    return kept;
}

static void
expose_old_gauges(struct scrape *scrape, uint32_t count)
{
    struct strbuf *out = scrape->out;
    stats_family(out, "loadbalancer_backend_status", "gauge",
        "1 while the endpoint is in rotation (healthy or suspect), else 0.");
    for (uint32_t i = 0; i < count; i++) {
        const struct endpoint *at = &scrape->endpoints[i];
        strbuf_printf(out, "loadbalancer_backend_status{backend_host=%s,backend_id=%s,service=%s} %d\n",
            at->host, at->id, at->service, may_be_picked(at));
    }
    stats_family(out, "loadbalancer_backend_active_connections", "gauge",
        "Requests between pick and the end of their response, over all workers.");
    for (uint32_t i = 0; i < count; i++) {
        const struct endpoint *at = &scrape->endpoints[i];
        strbuf_printf(out,
            "loadbalancer_backend_active_connections{backend_host=%s,backend_id=%s,service=%s} %u\n",
            at->host, at->id, at->service, at->active);
    }
}

static void
expose_endpoint_states(struct scrape *scrape, uint32_t count)
{
    struct strbuf *out = scrape->out;
    stats_family(out, "fluxgate_endpoint_state", "gauge", "1 for the state that the endpoint is in.");
    for (uint32_t i = 0; i < count; i++) {
        const struct endpoint *at = &scrape->endpoints[i];
        strbuf_printf(out, "fluxgate_endpoint_state{service=%s,backend_id=%s,state=\"%s\"} 1\n", at->service,
            at->id, slot_state_word((enum slot_state)at->state));
    }
    stats_family(out, "fluxgate_service_endpoints", "gauge", "Endpoints of a service by state.");
    for (uint32_t i = 0; i < count;) {
        const char *service = scrape->endpoints[i].service;
        uint32_t states[SLOT_STATE_COUNT] = {0};
        for (; i < count && strcmp(scrape->endpoints[i].service, service) == 0; i++)
            states[scrape->endpoints[i].state]++;
        for (int state = SLOT_UNPROVEN; state < SLOT_GONE; state++)
            strbuf_printf(out, "fluxgate_service_endpoints{service=%s,state=\"%s\"} %u\n", service,
                slot_state_word((enum slot_state)state), states[state]);
    }
}

static void
expose_endpoint_measures(struct scrape *scrape, uint32_t count)
{
    struct strbuf *out = scrape->out;
    stats_family(out, "fluxgate_endpoint_consecutive_failures", "gauge", "Failed attempts in a row.");
    for (uint32_t i = 0; i < count; i++) {
        const struct endpoint *at = &scrape->endpoints[i];
        strbuf_printf(out, "fluxgate_endpoint_consecutive_failures{service=%s,backend_id=%s} %u\n",
            at->service, at->id, at->failures);
    }
    stats_family(out, "fluxgate_endpoint_latency_seconds", "gauge",
        "Moving average (10 s) of the time to the response head, falling while no traffic moves it.");
    for (uint32_t i = 0; i < count; i++) {
        const struct endpoint *at = &scrape->endpoints[i];
        strbuf_printf(out, "fluxgate_endpoint_latency_seconds{service=%s,backend_id=%s} %u.%06u\n",
            at->service, at->id, at->latency_us / 1000000, at->latency_us % 1000000);
    }
    stats_family(out, "fluxgate_endpoint_load", "gauge",
        "Load as the endpoint reported it last, 0 where it never did.");
    for (uint32_t i = 0; i < count; i++) {
        const struct endpoint *at = &scrape->endpoints[i];
        strbuf_printf(
            out, "fluxgate_endpoint_load{service=%s,backend_id=%s} %.3f\n", at->service, at->id, at->load);
    }
}

/* ---- workers and totals ---- */

/* field of struct shm_worker, metric, help */
#define WORKER_GAUGES(X)                                                                                     \
    X(connections, "fluxgate_worker_connections", "Client connections open.")                                \
    X(streams, "fluxgate_worker_streams", "Requests under way.")                                             \
    X(tunnels, "fluxgate_worker_tunnels", "Upgraded connections open.")                                      \
    X(generation, "fluxgate_worker_generation", "Configuration generation that new requests run on.")        \
    X(draining, "fluxgate_worker_draining", "1 while the worker finishes what it has.")

static bool
worker_is_shown(struct shm *shm, unsigned worker, unsigned workers)
{
    return worker < workers || atomic_load_explicit(&shm_worker(shm, worker)->pid, memory_order_relaxed) != 0;
}

static void
expose_workers(struct scrape *scrape, unsigned workers, uint64_t now_us)
{
    struct strbuf *out = scrape->out;
    stats_family(out, "fluxgate_worker_up", "gauge", "1 while the worker has a process.");
    for (unsigned i = 0; i < SHM_WORKERS_MAX; i++) {
        if (!worker_is_shown(scrape->shm, i, workers)) continue;
        strbuf_printf(out, "fluxgate_worker_up{worker=\"%u\"} %d\n", i,
            atomic_load_explicit(&shm_worker(scrape->shm, i)->pid, memory_order_relaxed) != 0);
    }
#define X(field, name, help)                                                                                 \
    stats_family(out, name, "gauge", help);                                                                  \
    for (unsigned i = 0; i < SHM_WORKERS_MAX; i++) {                                                         \
        if (!worker_is_shown(scrape->shm, i, workers)) continue;                                             \
        strbuf_printf(out, "%s{worker=\"%u\"} %u\n", name, i,                                                \
            atomic_load_explicit(&shm_worker(scrape->shm, i)->field, memory_order_relaxed));                 \
    }
    WORKER_GAUGES(X)
#undef X
    stats_family(out, "fluxgate_worker_script_memory_bytes", "gauge", "Memory of a worker's Lua state.");
    for (unsigned i = 0; i < SHM_WORKERS_MAX; i++) {
        if (!worker_is_shown(scrape->shm, i, workers)) continue;
        uint64_t bytes =
            atomic_load_explicit(&shm_worker(scrape->shm, i)->script_bytes, memory_order_relaxed);
        strbuf_printf(
            out, "fluxgate_worker_script_memory_bytes{worker=\"%u\"} %llu\n", i, (unsigned long long)bytes);
    }
    stats_family(out, "fluxgate_worker_heartbeat_age_seconds", "gauge",
        "Seconds since the worker's loop last turned.");
    for (unsigned i = 0; i < SHM_WORKERS_MAX; i++) {
        uint64_t beat = atomic_load_explicit(&shm_worker(scrape->shm, i)->heartbeat_us, memory_order_relaxed);
        if (!worker_is_shown(scrape->shm, i, workers) || beat == 0) continue;
        uint64_t age = now_us > beat ? now_us - beat : 0;
        strbuf_printf(out, "fluxgate_worker_heartbeat_age_seconds{worker=\"%u\"} %llu.%06llu\n", i,
            (unsigned long long)(age / 1000000), (unsigned long long)(age % 1000000));
    }
}

static const struct {
    const char *name, *help;
} total_helps[] = {
    {"worker_restarts", "Workers replaced after they died."},
    {"control_restarts", "Control processes replaced after they died."},
    {"registry_restarts", "Embedded registry processes replaced after they died."},
    {"reloads", "Configuration generations taken into use after the first."},
    {"reload_failures", "Reloads refused, the old generation staying."},
    {"log_dropped", "Log lines dropped because a worker's ring was full."},
    {"access_log_dropped", "Access log lines dropped: a worker's ring was full, or the file took none."},
    {"script_errors", "Errors raised by Lua plug-ins."},
    {"script_fallbacks", "Picks answered by the built-in fallback in place of a strategy."},
    {"script_quarantines", "Times a plug-in was set aside after too many errors."},
    {"script_runaways", "Times a plug-in ran past its time or memory."},
    {"metric_overflows", "Values of metrics of scripts counted in a series `other`: too many series."},
    {"dict_full", "Writes to shared dictionaries refused because they were full."},
    {"script_abandonments", "Lua states dropped because a plug-in did not return."},
    {"script_memory_runaways", "Lua states dropped because a plug-in held most of their memory."},
    {"stats_series_dropped", "Requests not counted by series because a worker's table was full."},
    {"connections_accepted", "Client connections accepted."},
    {"connections_refused", "Client connections closed at once because of a limit."},
    {"ejections", "Endpoints ejected on passive evidence."},
    {"panics", "Times that a service fell below its panic share of healthy endpoints."},
    {"bad_requests", "Requests refused as not valid HTTP."},
    {"retries", "Attempts after the first of a request."},
    {"upstream_connects", "Connections opened to endpoints."},
    {"upstream_reused", "Attempts that went out on a pooled connection."},
    {"registry_sync_errors", "Failed exchanges with the registry."},
    {"registry_sync_updates", "Registry answers that were taken into use."},
    {"probes", "Health probes sent."},
    {"probe_failures", "Health probes that failed."},
    {"registry_bad_instances", "Instances in registry answers that were left out as malformed."},
    {"tunnels", "Connections upgraded."},
    {"ipc_errors", "Messages between the processes that were refused."},
};

static void
total_show(struct strbuf *out, const char *name, uint64_t value)
{
    char metric[96];
    const char *help = "Events of this kind since the start.";
    for (size_t i = 0; i < sizeof(total_helps) / sizeof(total_helps[0]); i++) {
        if (strcmp(total_helps[i].name, name) == 0) help = total_helps[i].help;
    }
    snprintf(metric, sizeof(metric), "fluxgate_%s_total", name);
    stats_family(out, metric, "counter", help);
    strbuf_printf(out, "%s %llu\n", metric, (unsigned long long)value);
}

static void
expose_totals(struct scrape *scrape)
{
    struct shm_totals *totals = shm_totals(scrape->shm);
#define X(name) total_show(scrape->out, #name, atomic_load_explicit(&totals->name, memory_order_relaxed));
    SHM_TOTALS(X)
#undef X
    static const char *const words[] = {
#define X(name, word) word,
        SHM_CLOSES(X)
#undef X
    };
    stats_family(
        scrape->out, "fluxgate_connections_closed_total", "counter", "Client connections closed, by reason.");
    for (unsigned i = 0; i < SHM_CLOSE_COUNT; i++)
        strbuf_printf(scrape->out, "fluxgate_connections_closed_total{reason=\"%s\"} %llu\n", words[i],
            (unsigned long long)atomic_load_explicit(&totals->closed[i], memory_order_relaxed));
    stats_family(scrape->out, "fluxgate_build_info", "gauge", "Always 1; the version stands in the label.");
    strbuf_printf(scrape->out, "fluxgate_build_info{version=\"%s\"} 1\n", FLUXGATE_VERSION);
}

static void
scrape_fini(struct scrape *scrape)
{
    for (uint32_t i = 0; scrape->endpoints != NULL && i < scrape->endpoint_count; i++) {
        free(scrape->endpoints[i].id);
        free(scrape->endpoints[i].host);
        free(scrape->endpoints[i].service);
    }
    for (uint32_t i = 0; scrape->names != NULL && i < SHM_NAMES_MAX; i++)
        free(scrape->names[i]);
    free(scrape->endpoints);
    free(scrape->names);
    free(scrape->series);
}

void
stats_expose(struct shm *shm, unsigned workers, struct strbuf *out)
{
    struct scrape scrape = {.shm = shm, .out = out, .endpoint_count = shm_slots(shm)};
    uint64_t now_us = clock_now_us();
    scrape.endpoints = calloc(scrape.endpoint_count + 1u, sizeof(*scrape.endpoints));
    scrape.names = calloc(SHM_NAMES_MAX, sizeof(*scrape.names));
    if (scrape.endpoints == NULL || scrape.names == NULL) {
        out->failed = true;
        scrape_fini(&scrape);
        return;
    }
    for (uint32_t slot = 0; slot < scrape.endpoint_count; slot++)
        endpoint_gather(&scrape, slot, now_us);
    rows_gather(&scrape);
    if (!out->failed) {
        expose_requests(&scrape);
        uint32_t shown = endpoints_order(&scrape);
        expose_old_gauges(&scrape, shown);
        expose_endpoint_states(&scrape, shown);
        expose_endpoint_measures(&scrape, shown);
        stats_expose_queues(shm, out);
        stats_expose_meters(shm, out);
        expose_workers(&scrape, workers, now_us);
        expose_totals(&scrape);
    }
    scrape_fini(&scrape);
}
