/* core/metrics/stats.h: request counters and latency histograms. Workers count in their own region of the
 * shared segment; control adds up and formats at scrape time. */
#ifndef FLUXGATE_METRICS_STATS_H
#define FLUXGATE_METRICS_STATS_H
#include <stdbool.h>
#include <stdint.h>

#include "core/base/strbuf.h"
#include "core/http/reason.h"
#include "core/shm/shm.h"

/* What a series is counted by. Names are shm_name ids, so they hold across generations. */
struct stats_key {
    uint32_t route;   /* shm_name id; UINT32_MAX: no route */
    uint32_t service; /* shm_name id; UINT32_MAX: none */
    uint32_t slot;    /* SLOT_NONE: answered by the gateway itself */
    uint32_t incarnation;
    uint32_t strategy; /* shm_name id; UINT32_MAX: none */
    uint16_t status;   /* 100-599 */
    uint8_t method;    /* enum method */
    uint8_t reason;    /* enum reason */
};

enum { STATS_SERIES = 8192 }; /* a worker; past it requests are counted in stats_series_dropped */
size_t stats_region_bytes(void);

struct stats; /* one worker's view of its region */
MUST_CHECK
struct stats *stats_open(struct shm *shm, unsigned worker); /* heap; NULL: out of memory */
void stats_close(struct stats *stats);

/* One finished request. Hot: one probe of an open-addressing table, no allocation. */
void stats_add(struct stats *stats, const struct stats_key *key, uint64_t duration_us, uint64_t bytes_in,
    uint64_t bytes_out);
/* Drops the rows whose endpoint is gone; called by the worker when endpoints_version moved. */
void stats_purge(struct stats *stats);

/* Control: everything in Prometheus text format 0.0.4: the loadbalancer_ names of CONTRACT.md with their
 * labels, per-reason failures, endpoint states, worker blocks, totals. Series of gone endpoints are left out.
 */
void stats_expose(struct shm *shm, unsigned workers, struct strbuf *out);

/* Escapes a label value (backslash, quote, newline; bytes that are no UTF-8 become U+FFFD) with its quotes.
 */
void stats_label(struct strbuf *out, struct slice value);

#endif
