/* core/metrics/stats_internal.h: what a worker's region of the shared segment looks like, for its writer and
 * its reader. */
#ifndef FLUXGATE_METRICS_STATS_INTERNAL_H
#define FLUXGATE_METRICS_STATS_INTERNAL_H
#include "core/metrics/stats.h"

/* microseconds, text of the `le` label. Prometheus' defaults, which the old system had, and finer ones below:
 * a proxied request on one machine takes some 100 us. */
#define STATS_BOUNDS(X)                                                                                      \
    X(100, "0.0001")                                                                                         \
    X(250, "0.00025")                                                                                        \
    X(500, "0.0005")                                                                                         \
    X(1000, "0.001")                                                                                         \
    X(2500, "0.0025")                                                                                        \
    X(5000, "0.005")                                                                                         \
    X(10000, "0.01")                                                                                         \
    X(25000, "0.025")                                                                                        \
    X(50000, "0.05")                                                                                         \
    X(100000, "0.1")                                                                                         \
    X(250000, "0.25")                                                                                        \
    X(500000, "0.5")                                                                                         \
    X(1000000, "1")                                                                                          \
    X(2500000, "2.5")                                                                                        \
    X(5000000, "5")                                                                                          \
    X(10000000, "10")

#define X(us, text) +1
enum { STATS_BUCKETS = 1 STATS_BOUNDS(X) }; /* the last one is +Inf */
#undef X

/* The worker writes; control reads at any time. `seq` is even and not 0 while the row is in use; it moves
 * only when the row changes its key, never when it counts. A row's count is the sum of its buckets, so the
 * two can't disagree. */
struct stats_row {
    _Atomic uint32_t seq;
    uint32_t unused;
    struct stats_key key;
    _Atomic uint64_t buckets[STATS_BUCKETS]; /* not cumulative */
    _Atomic uint64_t sum_us, bytes_in, bytes_out;
};
static_assert(sizeof(struct stats_key) == 24, "keys are hashed and copied as three words");
static_assert(sizeof(struct stats_row) == 192, "a row is three cache lines");

struct stats_region {
    alignas(64) _Atomic uint32_t used; /* rows past this one were never in use */
    alignas(64) struct stats_row rows[STATS_SERIES];
};

/* NULL where the segment's regions are too small. */
struct stats_region *stats_region(struct shm *shm, unsigned worker);
uint32_t stats_rows(const struct stats_region *region); /* `used`, in range whatever stands there */

/* A consistent key with the counters that belong to it; false where the row is free. */
bool stats_row_read(struct stats_row *row, struct stats_key *key, uint64_t buckets[STATS_BUCKETS],
    uint64_t *sum_us, uint64_t *bytes_in, uint64_t *bytes_out);

/* The two lines that stand before a metric's samples. */
void stats_family(struct strbuf *out, const char *name, const char *type, const char *help);

/* queues.c: the services that have limits. */
void stats_expose_queues(struct shm *shm, struct strbuf *out);

/* meters.c: what scripts count. */
void stats_expose_meters(struct shm *shm, struct strbuf *out);

#endif
