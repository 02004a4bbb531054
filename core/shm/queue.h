/* core/shm/queue.h: limits that are exact over all workers, and the line of those who wait for them
 * (DESIGN.md section 4). One queue a config service, in the shared segment. Nobody holds a grant: a worker
 * whose ticket may try does try, with a compare-and-swap on the counter itself, so a limit of 10 never sees
 * an 11th, and who dies strands nobody. */
#ifndef FLUXGATE_SHM_QUEUE_H
#define FLUXGATE_SHM_QUEUE_H
#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/base/compiler.h"
#include "core/shm/shm.h"

enum {
    QUEUES_MAX = 1024, /* services with limits, ever, in one supervisor's life */
    QUEUE_TICKETS_MAX =
        4096 /* waiting at once in one service, over all workers; limits.queue is at most this */
};

/* In place of a slot to insist on: any slot but this one (QUEUE_EXCEPT | slot), which the request has tried.
 * Its ticket keeps nobody from trying while there is room on that one. */
#define QUEUE_EXCEPT 0x80000000u
static_assert((SLOT_NONE & QUEUE_EXCEPT) != 0, "one test tells who insists on a slot");

struct queue;

/* The queue of a config service (its shm_name id), made on first use by any process and kept for ever. NULL:
 * too many. */
struct queue *shm_queue(struct shm *shm, uint32_t service);

/* slot_begin under a limit (0: none): false, and nothing counted, where `active` has reached it. Hot. */
MUST_CHECK
bool slot_try_begin(struct shm *shm, unsigned worker, uint32_t slot, uint32_t limit);

/* The same for a whole service. Each worker has a column, as for slots, which shm_worker_reap takes off. Hot.
 */
MUST_CHECK
bool queue_try_begin(struct shm *shm, struct queue *queue, unsigned worker, uint32_t limit);
void queue_end(struct shm *shm, struct queue *queue, unsigned worker);
uint32_t queue_active(const struct queue *queue);

/* Takes a place. `bound`: the slot this request insists on (a sticky session), else SLOT_NONE or
 * QUEUE_EXCEPT. `at_head`: a retry, before all who are no retries. 0: the line has `depth` waiting already
 * (or QUEUE_TICKETS_MAX). The ticket is never reused. */
MUST_CHECK
uint64_t queue_enter(
    struct shm *shm, struct queue *queue, unsigned worker, uint32_t bound, bool at_head, uint32_t depth);

/* May this ticket try now? Yes where everyone before it waits for a slot of its own that is still full
 * (`limit`), or is a dead worker's. Hot while somebody waits. */
bool queue_may_try(struct shm *shm, struct queue *queue, uint64_t ticket, uint32_t limit);

/* Gives the place up: served, timed out, gone. */
void queue_leave(struct shm *shm, struct queue *queue, uint64_t ticket);

/* The one ticket with which anything could be gained now, and its worker; 0: nobody's. A worker that was
 * woken, or that waits for itself, asks this once in place of queue_may_try for each of its tickets. */
MUST_CHECK
uint64_t queue_first(struct shm *shm, struct queue *queue, uint32_t limit, unsigned *worker);

/* How many wait. Hot: one load a worker; 0 lets a new request pass without a ticket. */
uint32_t queue_depth(const struct queue *queue);

/* After a slot or the service got room, a ticket left, an endpoint came, or a limit changed: calls `wake` for
 * the worker that owns the ticket of queue_first, if there is one, and before it for those of tickets with
 * QUEUE_EXCEPT that stand in nobody's way, since the room may be on another slot. Cheap when nobody waits. No
 * wake-up is lost between a failed try and this where the try came after queue_enter: who enters tries once
 * more, then sleeps. After shm_worker_reap its caller wakes every worker. */
void queue_wake(struct shm *shm, struct queue *queue, uint32_t limit,
    void (*wake)(void *context, unsigned worker), void *context);

/* Waiting time of those who were served, for the metrics: counted by queue_served, read by control. */
void queue_served(struct queue *queue, uint64_t waited_us);
struct queue_stats {
    uint32_t service, depth, active;
    uint64_t entered, served, timed_out, refused, waited_us_sum;
};
void queue_timed_out(struct queue *queue);
size_t shm_queues(struct shm *shm, struct queue_stats *rows, size_t cap);

#endif
