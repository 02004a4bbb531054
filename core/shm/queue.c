#include "core/shm/queue.h"

#include "core/shm/shm_internal.h"

/* A ticket, from its highest bit: reserved · not at the head · number (44 bits) · worker (6) · cell (12). So
 * the smaller of two goes first, and a ticket finds its cell and its owner. */
#define TICKET_RESERVED ((uint64_t)1 << 63)
#define TICKET_REST     ((uint64_t)1 << 62)
enum { TICKET_WORKER_SHIFT = 12, TICKET_NUMBER_SHIFT = 18 };
static_assert(QUEUE_TICKETS_MAX == 1 << TICKET_WORKER_SHIFT, "a cell fits its field");
static_assert(SHM_WORKERS_MAX == 1 << (TICKET_NUMBER_SHIFT - TICKET_WORKER_SHIFT), "a worker fits its field");
#define TICKET_NUMBER_MASK (((uint64_t)1 << 44) - 1)

static unsigned
ticket_worker(uint64_t ticket)
{
    return (unsigned)(ticket >> TICKET_WORKER_SHIFT) & (SHM_WORKERS_MAX - 1);
}

static uint32_t
ticket_cell(uint64_t ticket)
{
    return (uint32_t)ticket & (QUEUE_TICKETS_MAX - 1);
}

struct queue *
shm_queue(struct shm *shm, uint32_t service)
{
    if (service >= SHM_NAMES_MAX) return NULL;
    for (uint32_t i = 0; i < QUEUES_MAX; i++) {
        uint32_t at = (service + i) % QUEUES_MAX, seen = atomic_load(&shm->queue_services[at]);
        if (seen == 0 && atomic_compare_exchange_strong(&shm->queue_services[at], &seen, service + 1))
            return &shm_queue_rows(shm)[at];
        if (seen == service + 1) return &shm_queue_rows(shm)[at];
    }
    return NULL;
}

/* ---- the service's own limit ---- */

static uint32_t
queue_op(const struct shm *shm, const struct queue *queue)
{
    return OP_QUEUE | ((uint32_t)(queue - shm_queue_rows(shm)) + 1);
}

bool
queue_try_begin(struct shm *shm, struct queue *queue, unsigned worker, uint32_t limit)
{
    if (worker >= SHM_WORKERS_MAX) return false;
    op_open(shm, worker, queue_op(shm, queue));
    bool begun = active_try(&queue->active, limit);
    if (begun) {
        uint32_t count = atomic_load_explicit(&queue->columns[worker], memory_order_relaxed);
        atomic_store_explicit(&queue->columns[worker], count + 1, memory_order_release);
    }
    op_close(shm, worker);
    return begun;
}

void
queue_end(struct shm *shm, struct queue *queue, unsigned worker)
{
    if (worker >= SHM_WORKERS_MAX) return;
    uint32_t count = atomic_load_explicit(&queue->columns[worker], memory_order_relaxed);
    if (count == 0) return;
    op_open(shm, worker, queue_op(shm, queue));
    active_take(&queue->active, 1);
    atomic_store_explicit(&queue->columns[worker], count - 1, memory_order_release);
    op_close(shm, worker);
}

uint32_t
queue_active(const struct queue *queue)
{
    return atomic_load(&queue->active);
}

/* ---- the line ---- */

uint32_t
queue_depth(const struct queue *queue)
{
    uint32_t depth = 0, high = atomic_load(&queue->workers_high);
    for (uint32_t worker = 0; worker < high && worker < SHM_WORKERS_MAX; worker++)
        depth += atomic_load(&queue->waiting[worker]);
    return depth;
}

static void
raise_to(_Atomic uint32_t *high, uint32_t at_least)
{
    uint32_t seen = atomic_load(high);
    while (seen < at_least && !atomic_compare_exchange_weak(high, &seen, at_least)) {
    }
}

/* The first free one of the first `depth` cells: their number is the line's bound, which no counter would
 * keep so exactly. First fit keeps those that wait together, so that a scan is as long as the line. */
static uint32_t
cell_reserve(struct queue *queue, unsigned worker, uint32_t depth)
{
    for (uint32_t at = 0; at < depth;) {
        uint64_t shown = atomic_load_explicit(&queue->shown[at / 64], memory_order_relaxed) >> at % 64;
        if (shown == UINT64_MAX >> at % 64) {
            at = (at / 64 + 1) * 64;
            continue;
        }
        at += (uint32_t)__builtin_ctzll(~shown);
        if (at >= depth) break;
        uint64_t seen = 0;
        raise_to(&queue->cells_high, at + 1);
        if (atomic_compare_exchange_strong(
                &queue->cells[at].ticket, &seen, TICKET_RESERVED | (uint64_t)worker << TICKET_WORKER_SHIFT))
            return at;
        at++; /* another one's, who has not shown it yet or is about to free it */
    }
    return UINT32_MAX;
}

/* By its owner, or in its place once it is dead. */
static void
cell_free(struct queue *queue, uint32_t at)
{
    atomic_fetch_and(&queue->shown[at / 64], ~((uint64_t)1 << at % 64));
    atomic_store(&queue->cells[at].ticket, 0);
}

/* `waiting` goes up before there is a ticket and down after there is none, so that a depth of 0 means that
 * nobody waits. */
uint64_t
queue_enter(
    struct shm *shm, struct queue *queue, unsigned worker, uint32_t bound, bool at_head, uint32_t depth)
{
    (void)shm;
    if (worker >= SHM_WORKERS_MAX) return 0;
    if (depth > QUEUE_TICKETS_MAX) depth = QUEUE_TICKETS_MAX;
    uint32_t at = UINT32_MAX, waiting = atomic_load(&queue->waiting[worker]);
    if (queue_depth(queue) < depth) {
        raise_to(&queue->workers_high, worker + 1);
        atomic_store(&queue->waiting[worker], waiting + 1);
        at = cell_reserve(queue, worker, depth);
        if (at == UINT32_MAX) atomic_store(&queue->waiting[worker], waiting);
    }
    if (at == UINT32_MAX) {
        atomic_fetch_add_explicit(&queue->refused, 1, memory_order_relaxed);
        return 0;
    }
    uint64_t number = (atomic_fetch_add(&queue->next, 1) + 1) & TICKET_NUMBER_MASK;
    uint64_t ticket = (at_head ? 0 : TICKET_REST) | number << TICKET_NUMBER_SHIFT |
                      (uint64_t)worker << TICKET_WORKER_SHIFT | at;
    atomic_store(&queue->cells[at].bound, bound);
    atomic_fetch_or(&queue->shown[at / 64], (uint64_t)1 << at % 64);
    atomic_store(&queue->cells[at].ticket, ticket);
    atomic_fetch_add_explicit(&queue->entered, 1, memory_order_relaxed);
    return ticket;
}

static bool
stands_aside(struct shm *shm, uint32_t bound, uint32_t limit)
{
    if (bound == SLOT_NONE || limit == 0) return false;
    if ((bound & QUEUE_EXCEPT) != 0) return slot_active(shm, bound & ~QUEUE_EXCEPT) < limit;
    return slot_active(shm, bound) >= limit;
}

/* The ticket of a cell that keeps those behind it from trying; 0: none. `picky` gathers the workers of those
 * that could try all the same. */
static uint64_t
cell_blocks(struct shm *shm, struct queue *queue, uint32_t at, uint32_t limit, uint64_t *picky)
{
    struct queue_cell *cell = &queue->cells[at];
    uint64_t ticket = atomic_load(&cell->ticket);
    if (ticket == 0 || (ticket & TICKET_RESERVED) != 0) return 0;
    uint32_t bound = atomic_load(&cell->bound);
    if (atomic_load(&cell->ticket) != ticket) return 0;
    if (!stands_aside(shm, bound, limit)) return ticket;
    if ((bound & QUEUE_EXCEPT) != 0) *picky |= (uint64_t)1 << ticket_worker(ticket);
    return 0;
}

/* The first ticket that blocks, of those before `before`; `any`: the first that is found will do. */
static uint64_t
queue_scan(struct shm *shm, struct queue *queue, uint32_t limit, uint64_t before, bool any, uint64_t *picky)
{
    uint64_t first = before;
    uint32_t high = atomic_load(&queue->cells_high);
    for (uint32_t word = 0; word * 64 < high && word < QUEUE_TICKETS_MAX / 64; word++) {
        uint64_t shown = atomic_load(&queue->shown[word]);
        for (; shown != 0; shown &= shown - 1) {
            uint32_t at = word * 64 + (uint32_t)__builtin_ctzll(shown);
            uint64_t ticket = cell_blocks(shm, queue, at, limit, picky);
            if (ticket == 0 || ticket >= first) continue;
            first = ticket;
            if (any) return first;
        }
    }
    return first == before ? 0 : first;
}

bool
queue_may_try(struct shm *shm, struct queue *queue, uint64_t ticket, uint32_t limit)
{
    if (ticket == 0 || atomic_load(&queue->cells[ticket_cell(ticket)].ticket) != ticket) return false;
    uint64_t picky = 0;
    return queue_scan(shm, queue, limit, ticket, true, &picky) == 0;
}

uint64_t
queue_first(struct shm *shm, struct queue *queue, uint32_t limit, unsigned *worker)
{
    uint64_t picky = 0, first = 0;
    if (queue_depth(queue) != 0) first = queue_scan(shm, queue, limit, TICKET_RESERVED, false, &picky);
    *worker = ticket_worker(first);
    return first;
}

void
queue_leave(struct shm *shm, struct queue *queue, uint64_t ticket)
{
    (void)shm;
    uint32_t at = ticket_cell(ticket);
    _Atomic uint32_t *waiting = &queue->waiting[ticket_worker(ticket)];
    if (ticket == 0 || atomic_load(&queue->cells[at].ticket) != ticket) return;
    cell_free(queue, at);
    uint32_t count = atomic_load(waiting);
    if (count > 0) atomic_store(waiting, count - 1);
}

/* Of those that wait for a full slot of their own none could do anything, and behind the first of the others
 * nobody may try: so it is one worker or none, beside those that wait for any slot but one. */
void
queue_wake(struct shm *shm, struct queue *queue, uint32_t limit, void (*wake)(void *context, unsigned worker),
    void *context)
{
    if (queue_depth(queue) == 0) return;
    uint64_t picky = 0, first = queue_scan(shm, queue, limit, TICKET_RESERVED, false, &picky);
    for (uint64_t left = picky; left != 0; left &= left - 1)
        wake(context, (unsigned)__builtin_ctzll(left));
    if (first != 0 && (picky >> ticket_worker(first) & 1) == 0) wake(context, ticket_worker(first));
}

void
queues_reap(struct shm *shm, unsigned worker)
{
    for (uint32_t i = 0; i < QUEUES_MAX; i++) {
        if (atomic_load(&shm->queue_services[i]) == 0) continue;
        struct queue *queue = &shm_queue_rows(shm)[i];
        uint32_t high = atomic_load(&queue->cells_high), held = atomic_load(&queue->columns[worker]);
        for (uint32_t at = 0; at < high && at < QUEUE_TICKETS_MAX; at++) {
            uint64_t ticket = atomic_load(&queue->cells[at].ticket);
            if (ticket != 0 && ticket_worker(ticket) == worker) cell_free(queue, at);
        }
        atomic_store(&queue->waiting[worker], 0);
        atomic_store(&queue->columns[worker], 0);
        if (held > 0) active_take(&queue->active, held);
    }
}

/* ---- what is shown ---- */

void
queue_served(struct queue *queue, uint64_t waited_us)
{
    atomic_fetch_add_explicit(&queue->served, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&queue->waited_us_sum, waited_us, memory_order_relaxed);
}

void
queue_timed_out(struct queue *queue)
{
    atomic_fetch_add_explicit(&queue->timed_out, 1, memory_order_relaxed);
}

size_t
shm_queues(struct shm *shm, struct queue_stats *rows, size_t cap)
{
    size_t count = 0;
    for (uint32_t i = 0; i < QUEUES_MAX && count < cap; i++) {
        uint32_t service = atomic_load(&shm->queue_services[i]);
        if (service == 0) continue;
        const struct queue *queue = &shm_queue_rows(shm)[i];
        rows[count++] = (struct queue_stats){
            .service = service - 1,
            .depth = queue_depth(queue),
            .active = queue_active(queue),
            .entered = atomic_load_explicit(&queue->entered, memory_order_relaxed),
            .served = atomic_load_explicit(&queue->served, memory_order_relaxed),
            .timed_out = atomic_load_explicit(&queue->timed_out, memory_order_relaxed),
            .refused = atomic_load_explicit(&queue->refused, memory_order_relaxed),
            .waited_us_sum = atomic_load_explicit(&queue->waited_us_sum, memory_order_relaxed),
        };
    }
    return count;
}
