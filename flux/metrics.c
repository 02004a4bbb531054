#include "flux/internal.h"

#include <stdio.h>

/* The default buckets of Prometheus' client libraries, in seconds. */
static const double bounds[METRICS_BUCKETS] = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10};

#define X(name, label) label,
static const char *const operations[OP_COUNT] = {FLUX_OPERATIONS(X)};
#undef X

void
metrics_count(struct flux_client *client, enum operation operation, bool success, double seconds)
{
    struct metrics_series *series = &client->series[operation][success];
    pthread_mutex_lock(&client->lock);
    for (size_t i = 0; i < METRICS_BUCKETS; i++) {
        if (seconds > bounds[i]) continue;
        series->buckets[i]++;
        break;
    }
    series->count++;
    series->sum_s += seconds;
    pthread_mutex_unlock(&client->lock);
}

/* A label's value with its quotes; backslash, quote and newline are escaped. flux_new takes UTF-8 alone. */
static void
add_label(struct strbuf *out, const char *name, const char *value)
{
    strbuf_printf(out, "%s=\"", name);
    for (; *value != '\0'; value++) {
        if (*value == '\n')
            strbuf_add_text(out, "\\n");
        else if (*value == '\\' || *value == '"')
            strbuf_printf(out, "\\%c", *value);
        else
            strbuf_add_char(out, *value);
    }
    strbuf_add_char(out, '"');
}

static void
add_labels(struct strbuf *out, const struct flux_client *client, enum operation operation, bool success)
{
    strbuf_printf(out, "operation=\"%s\",protocol=\"%s\",status=\"%s\"", operations[operation],
        client->protocol == FLUX_GRPC ? "grpc" : "http", success ? "success" : "failure");
}

static void
add_histogram(struct strbuf *out, const struct flux_client *client, enum operation operation, bool success)
{
    const struct metrics_series *series = &client->series[operation][success];
    const char *name = "flux_registry_call_duration_seconds";
    uint64_t below = 0;
    for (size_t i = 0; i < METRICS_BUCKETS; i++) {
        below += series->buckets[i];
        strbuf_printf(out, "%s_bucket{", name);
        add_labels(out, client, operation, success);
        strbuf_printf(out, ",le=\"%g\"} %llu\n", bounds[i], (unsigned long long)below);
    }
    strbuf_printf(out, "%s_bucket{", name);
    add_labels(out, client, operation, success);
    strbuf_printf(out, ",le=\"+Inf\"} %llu\n%s_sum{", (unsigned long long)series->count, name);
    add_labels(out, client, operation, success);
    strbuf_printf(out, "} %.9g\n%s_count{", series->sum_s, name);
    add_labels(out, client, operation, success);
    strbuf_printf(out, "} %llu\n", (unsigned long long)series->count);
}

/* A series appears with its first call, as it does from Prometheus' own client libraries. */
static void
expose(struct strbuf *out, const struct flux_client *client)
{
    strbuf_add_text(out, "# HELP flux_registry_calls_total Calls to the service registry.\n"
                         "# TYPE flux_registry_calls_total counter\n");
    for (int operation = 0; operation < OP_COUNT; operation++) {
        for (int success = 0; success < 2; success++) {
            if (client->series[operation][success].count == 0) continue;
            strbuf_add_text(out, "flux_registry_calls_total{");
            add_labels(out, client, operation, success);
            strbuf_printf(out, "} %llu\n", (unsigned long long)client->series[operation][success].count);
        }
    }
    strbuf_add_text(out,
        "# HELP flux_registry_call_duration_seconds Time of each call to the service registry.\n"
        "# TYPE flux_registry_call_duration_seconds histogram\n");
    for (int operation = 0; operation < OP_COUNT; operation++) {
        for (int success = 0; success < 2; success++) {
            if (client->series[operation][success].count > 0) add_histogram(out, client, operation, success);
        }
    }
    strbuf_add_text(out, "# HELP flux_registrar_state 1 while the instance is registered, else 0.\n"
                         "# TYPE flux_registrar_state gauge\nflux_registrar_state{");
    add_label(out, "instance_id", client->id);
    strbuf_add_char(out, ',');
    add_label(out, "service_name", client->service_name);
    strbuf_printf(out, "} %d\n", atomic_load(&client->registered) ? 1 : 0);
}

char *
flux_metrics(const struct flux_client *client)
{
    struct strbuf out = {0};
    pthread_mutex_t *lock =
        (pthread_mutex_t *)&client->lock; /* const for the user: nothing visible changes */
    pthread_mutex_lock(lock);
    expose(&out, client);
    pthread_mutex_unlock(lock);
    if (!out.failed) return out.at;
    strbuf_fini(&out);
    return NULL;
}
