/* core/main/backoff.h: when a child that ended is started again. Pure: the caller gives the time, in
 * microseconds of one monotonic clock. All zero is a child that was never started. */
#ifndef FLUXGATE_MAIN_BACKOFF_H
#define FLUXGATE_MAIN_BACKOFF_H
#include <stdbool.h>
#include <stdint.h>

struct backoff {
    uint64_t started_us;
    uint64_t due_us;       /* from when on it may be started */
    unsigned quick_deaths; /* in a row, each within a second of its start */
};

/* It is about to be started: should that fail, the next try is not at once. */
void backoff_start(struct backoff *backoff, uint64_t now_us);
/* It serves: what comes later has nothing to do with its start. */
void backoff_serves(struct backoff *backoff);
/* It died. The first quick death costs no pause, the next ones 50, 100, … ms, up to 5 s. */
void backoff_died(struct backoff *backoff, uint64_t now_us);
/* It ended as it was told, or is to stand in for another: wanted again, it may be started at once. */
void backoff_clear(struct backoff *backoff);
#endif
