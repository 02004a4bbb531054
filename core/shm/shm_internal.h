/* core/shm/shm_internal.h: the layout of the mapping, shared by the files of this room. */
#ifndef FLUXGATE_SHM_SHM_INTERNAL_H
#define FLUXGATE_SHM_SHM_INTERNAL_H
#include "core/base/text.h"
#include "core/shm/dict.h"
#include "core/shm/meter.h"
#include "core/shm/queue.h"
#include "core/shm/shm.h"

enum {
    NAME_CELLS = SHM_NAMES_MAX * 2,
    COUNTER_CELLS = SHM_COUNTERS_MAX * 2,
    RING_BYTES_MIN = 64 << 10, /* holds a line of 16 KiB wherever its head stands (ring.c) */
};

/* Connections of one client address in one worker, which alone writes it. */
struct client_cell {
    _Atomic uint64_t key; /* 0: never used */
    _Atomic uint32_t count;
    uint32_t unused;
};
enum { CLIENT_CELLS = 8192, CLIENT_PROBES = 32 };

struct name_row {
    uint64_t hash;
    uint32_t len;
    char text[SHM_NAME_BYTES];
};

/* The keyed hash is the identity, so that claiming and publishing are one compare-and-swap: there is no
 * moment in between at which a claimer could die. */
struct counter_cell {
    _Atomic uint64_t tag; /* 0: free */
    _Atomic uint64_t value;
};

/* What a worker is in the middle of: a count and its own column of it are two words, and a worker may be
 * killed between them. Whoever reaps it finds here which of all counts to compare with its columns. The
 * worker alone writes it: number << 32 | (0: nothing; slot + 1; OP_QUEUE | queue + 1). */
struct shm_op {
    alignas(64) _Atomic uint64_t word;
};
#define OP_QUEUE 0x80000000u

/* A place in the line. `ticket` is 0: free; TICKET_RESERVED | owner: taken, not waiting yet; else the ticket,
 * which names its owner, so that a dead worker's places are found wherever it was killed. `bound` belongs to
 * a ticket that was the same before and after it was read. */
struct queue_cell {
    _Atomic uint64_t ticket;
    _Atomic uint32_t bound;
    uint32_t unused;
};

struct queue {
    /* every worker, under a limit of the service */
    alignas(64) _Atomic uint32_t active;
    /* every worker, while somebody waits */
    alignas(64) _Atomic uint64_t next; /* number of the last ticket given */
    _Atomic uint64_t entered, served, timed_out, refused, waited_us_sum;
    _Atomic uint32_t workers_high; /* no worker from here on ever waited */
    _Atomic uint32_t cells_high;   /* no cell from here on was ever taken */
    /* each worker its own */
    alignas(64) _Atomic uint32_t waiting[SHM_WORKERS_MAX]; /* at least as many as it has places */
    _Atomic uint32_t columns[SHM_WORKERS_MAX];             /* of active */
    /* the owner of a cell, while it owns it: set before its ticket is shown, cleared before the cell is free
     */
    alignas(64) _Atomic uint64_t shown[QUEUE_TICKETS_MAX / 64];
    struct queue_cell cells[QUEUE_TICKETS_MAX];
};

struct shm {
    /* shm_create writes; everyone reads */
    uint64_t bytes;
    uint64_t slots_at, texts_at, columns_at, gone_at, index_at, rings_at, stats_at,
        queues_at; /* offsets from the handle */
    uint64_t clients_at, dicts_at, meters_at;
    uint64_t ring_stride, ring_bytes, stats_bytes;
    uint32_t max_endpoints, index_cells;
    uint32_t dict_count, dict_shards; /* the gateway's own dictionary comes behind those */
    uint8_t secret[32];
    uint8_t hash_secret[TEXT_SECRET_BYTES];

    /* control writes */
    alignas(64) _Atomic uint64_t endpoints_version;
    _Atomic uint32_t slots_high; /* highest in use + 1 */
    _Atomic uint32_t slots_peak; /* the highest that slots_high ever was: no column is touched past it */
    uint32_t gone_count;
    uint32_t free_hint; /* no slot below it is free */

    /* the supervisor writes */
    alignas(64) _Atomic uint32_t name_count;

    /* everyone writes */
    alignas(64) struct shm_totals totals;
    _Atomic uint32_t counter_count;
    struct shm_worker workers[SHM_WORKERS_MAX];
    struct shm_op ops[SHM_WORKERS_MAX];
    _Atomic uint32_t
        queue_services[QUEUES_MAX];            /* id + 1; 0: free. Apart from the queues, whose pages cost */
    _Atomic uint64_t dict_tags[DICTS_MAX + 1]; /* keyed hash of the name; 0: free */
    _Atomic uint32_t name_cells[NAME_CELLS];   /* id + 1; 0: free */
    struct name_row names[SHM_NAMES_MAX];
    struct counter_cell counters[COUNTER_CELLS];
};

static inline void *
shm_at(const struct shm *shm, uint64_t offset)
{
    return (char *)(uintptr_t)shm + offset;
}

static inline uint64_t
shm_dict_bytes(const struct shm *shm)
{
    return (uint64_t)shm->dict_shards * DICT_SHARD_BYTES;
}

static inline struct slot *
shm_slot_rows(const struct shm *shm)
{
    return shm_at(shm, shm->slots_at);
}

/* How many requests of one worker are under way on a slot; that worker alone writes it. */
static inline _Atomic uint32_t *
shm_column(const struct shm *shm, unsigned worker, uint32_t slot)
{
    _Atomic uint32_t *columns = shm_at(shm, shm->columns_at);
    return &columns[(size_t)worker * shm->max_endpoints + slot];
}

static inline struct queue *
shm_queue_rows(const struct shm *shm)
{
    return shm_at(shm, shm->queues_at);
}

/* Around a change of a count and of the worker's column of it. */
static inline void
op_open(struct shm *shm, unsigned worker, uint32_t what)
{
    uint64_t number = atomic_load_explicit(&shm->ops[worker].word, memory_order_relaxed) >> 32;
    atomic_store_explicit(&shm->ops[worker].word, (number + 1) << 32 | what, memory_order_release);
}

static inline void
op_close(struct shm *shm, unsigned worker)
{
    uint64_t word = atomic_load_explicit(&shm->ops[worker].word, memory_order_relaxed);
    atomic_store_explicit(&shm->ops[worker].word, word >> 32 << 32, memory_order_release);
}

/* active.c: `count` of a worker's requests are over; and one more, unless `limit` (0: none) is reached.
 * Sequentially consistent against the tickets of queue.c: either who frees room sees the ticket, or who waits
 * sees the room. */
void active_take(_Atomic uint32_t *active, uint32_t count);
MUST_CHECK
bool active_try(_Atomic uint32_t *active, uint32_t limit);

/* meter.c: what it wants of the segment. */
size_t meters_bytes(void);

/* queue.c: what shm_worker_reap has to do there. */
void queues_reap(struct shm *shm, unsigned worker);

#endif
