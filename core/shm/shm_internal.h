/* core/shm/shm_internal.h: the layout of the mapping, shared by the files of this room. */
#ifndef FLUXGATE_SHM_SHM_INTERNAL_H
#define FLUXGATE_SHM_SHM_INTERNAL_H
#include "core/shm/shm.h"

enum {
    NAME_CELLS = SHM_NAMES_MAX * 2,
    COUNTER_CELLS = SHM_COUNTERS_MAX * 2,
    RING_BYTES_MIN = 64 << 10, /* holds a line of 16 KiB wherever its head stands (ring.c) */
};

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

struct shm {
    /* shm_create writes; everyone reads */
    uint64_t bytes;
    uint64_t slots_at, texts_at, columns_at, gone_at, index_at, rings_at,
        stats_at; /* offsets from the handle */
    uint64_t ring_stride, ring_bytes, stats_bytes;
    uint32_t max_endpoints, index_cells;
    uint8_t secret[32];

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
    _Atomic uint32_t name_cells[NAME_CELLS]; /* id + 1; 0: free */
    struct name_row names[SHM_NAMES_MAX];
    struct counter_cell counters[COUNTER_CELLS];
};

static inline void *
shm_at(const struct shm *shm, uint64_t offset)
{
    return (char *)(uintptr_t)shm + offset;
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

#endif
