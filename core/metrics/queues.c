#include <stdlib.h>

#include "core/metrics/stats_internal.h"
#include "core/shm/queue.h"

/* field of struct queue_stats, metric, type, help */
#define QUEUE_SERIES(X)                                                                                      \
    X(depth, "fluxgate_queue_depth", "gauge", "Requests that wait for their turn, over all workers.")        \
    X(active, "fluxgate_queue_active", "gauge", "Requests under way that count against limits.active.")      \
    X(entered, "fluxgate_queue_entered_total", "counter", "Requests that began to wait.")                    \
    X(timed_out, "fluxgate_queue_timed_out_total", "counter", "Requests that waited for queue_timeout.")     \
    X(refused, "fluxgate_queue_refused_total", "counter", "Requests that found the queue full.")

static void
labels(struct shm *shm, struct strbuf *out, const char *name, const struct queue_stats *row)
{
    strbuf_printf(out, "%s{service=", name);
    stats_label(out, slice_of(shm_name_text(shm, row->service)));
    strbuf_add_text(out, "} ");
}

void
stats_expose_queues(struct shm *shm, struct strbuf *out)
{
    struct queue_stats *rows = calloc(QUEUES_MAX, sizeof(*rows));
    if (rows == NULL) {
        out->failed = true;
        return;
    }
    size_t count = shm_queues(shm, rows, QUEUES_MAX);
#define X(field, name, type, help)                                                                           \
    stats_family(out, name, type, help);                                                                     \
    for (size_t i = 0; i < count; i++) {                                                                     \
        labels(shm, out, name, &rows[i]);                                                                    \
        strbuf_printf(out, "%llu\n", (unsigned long long)rows[i].field);                                     \
    }
    QUEUE_SERIES(X)
#undef X
    stats_family(out, "fluxgate_queue_wait_seconds", "summary", "Waiting time of those whose turn came.");
    for (size_t i = 0; i < count; i++) {
        labels(shm, out, "fluxgate_queue_wait_seconds_sum", &rows[i]);
        strbuf_printf(out, "%llu.%06llu\n", (unsigned long long)(rows[i].waited_us_sum / 1000000),
            (unsigned long long)(rows[i].waited_us_sum % 1000000));
        labels(shm, out, "fluxgate_queue_wait_seconds_count", &rows[i]);
        strbuf_printf(out, "%llu\n", (unsigned long long)rows[i].served);
    }
    free(rows);
}
