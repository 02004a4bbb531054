#include "core/metrics/stats.h"

#include <stdlib.h>

#include "core/metrics/stats_internal.h"

enum { CELLS = STATS_SERIES * 2, READ_TRIES = 8 };

/* The table itself is private to the process and made anew from the rows by each successor: what a killed
 * worker may have left half done is then at most one row. */
struct stats {
    struct shm *shm;
    struct stats_region *region;
    uint32_t free_count;
    uint16_t free_rows[STATS_SERIES];
    uint16_t cells[CELLS]; /* row + 1 */
};
static_assert(STATS_SERIES < UINT16_MAX, "rows are numbered in 16 bits");

static const uint64_t bounds_us[] = {
#define X(us, text) us,
    STATS_BOUNDS(X)
#undef X
};

size_t
stats_region_bytes(void)
{
    return sizeof(struct stats_region);
}

struct stats_region *
stats_region(struct shm *shm, unsigned worker)
{
    size_t bytes;
    if (worker >= SHM_WORKERS_MAX) return NULL;
    struct stats_region *region = shm_stats_region(shm, worker, &bytes);
    return bytes >= sizeof(*region) ? region : NULL;
}

uint32_t
stats_rows(const struct stats_region *region)
{
    uint32_t used = atomic_load_explicit(&region->used, memory_order_acquire);
    return used <= STATS_SERIES ? used : STATS_SERIES;
}

static void
key_load(struct stats_key *to, const struct stats_key *from)
{
    uint64_t words[3];
    for (int i = 0; i < 3; i++)
        words[i] = __atomic_load_n((const uint64_t *)(const void *)from + i, __ATOMIC_RELAXED);
    memcpy(to, words, sizeof(words));
}

static void
key_store(struct stats_key *to, const struct stats_key *from)
{
    uint64_t words[3];
    memcpy(words, from, sizeof(words));
    for (int i = 0; i < 3; i++)
        __atomic_store_n((uint64_t *)(void *)to + i, words[i], __ATOMIC_RELAXED);
}

static uint32_t
key_hash(const struct stats_key *key)
{
    uint64_t words[3], hash = 0x9e3779b97f4a7c15u;
    memcpy(words, key, sizeof(words));
    for (int i = 0; i < 3; i++) {
        hash = (hash ^ words[i]) * 0xff51afd7ed558ccdu;
        hash ^= hash >> 32;
    }
    return (uint32_t)hash;
}

bool
stats_row_read(struct stats_row *row, struct stats_key *key, uint64_t buckets[STATS_BUCKETS],
    uint64_t *sum_us, uint64_t *bytes_in, uint64_t *bytes_out)
{
    for (int tries = 0; tries < READ_TRIES; tries++) {
        uint32_t seq = atomic_load_explicit(&row->seq, memory_order_acquire);
        if (seq == 0 || (seq & 1) != 0) return false;
        key_load(key, &row->key);
        for (int i = 0; i < STATS_BUCKETS; i++)
            buckets[i] = atomic_load_explicit(&row->buckets[i], memory_order_relaxed);
        *sum_us = atomic_load_explicit(&row->sum_us, memory_order_relaxed);
        *bytes_in = atomic_load_explicit(&row->bytes_in, memory_order_relaxed);
        *bytes_out = atomic_load_explicit(&row->bytes_out, memory_order_relaxed);
        atomic_thread_fence(memory_order_acquire);
        if (atomic_load_explicit(&row->seq, memory_order_relaxed) == seq) return true;
    }
    return false;
}

static bool
row_is_used(const struct stats_row *row)
{
    uint32_t seq = atomic_load_explicit(&row->seq, memory_order_relaxed);
    return seq != 0 && (seq & 1) == 0;
}

/* The row's number or -1, and then in *cell where it belongs. */
static int
probe(const struct stats *stats, const struct stats_key *key, uint32_t *cell)
{
    uint32_t at = key_hash(key) % CELLS;
    for (; stats->cells[at] != 0; at = (at + 1) % CELLS) {
        const struct stats_row *row = &stats->region->rows[stats->cells[at] - 1];
        if (memcmp(&row->key, key, sizeof(*key)) == 0) return stats->cells[at] - 1;
    }
    *cell = at;
    return -1;
}

static void
index_rebuild(struct stats *stats)
{
    uint32_t used = stats_rows(stats->region), cell;
    memset(stats->cells, 0, sizeof(stats->cells));
    stats->free_count = 0;
    for (uint32_t i = 0; i < used; i++) {
        struct stats_row *row = &stats->region->rows[i];
        if (!row_is_used(row)) {
            stats->free_rows[stats->free_count++] = (uint16_t)i;
        } else if (probe(stats, &row->key, &cell) == -1) {
            stats->cells[cell] = (uint16_t)(i + 1);
        }
    }
}

struct stats *
stats_open(struct shm *shm, unsigned worker)
{
    struct stats_region *region = stats_region(shm, worker);
    struct stats *stats = region == NULL ? NULL : calloc(1, sizeof(*stats));
    if (stats == NULL) return NULL;
    stats->shm = shm;
    stats->region = region;
    index_rebuild(stats);
    return stats;
}

void
stats_close(struct stats *stats)
{
    free(stats);
}

/* Out of use: readers leave it out from here on. */
static void
row_close(struct stats_row *row)
{
    uint32_t seq = atomic_load_explicit(&row->seq, memory_order_relaxed);
    atomic_store_explicit(&row->seq, seq | 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
}

static void
row_begin(struct stats_row *row, const struct stats_key *key)
{
    row_close(row);
    key_store(&row->key, key);
    for (int i = 0; i < STATS_BUCKETS; i++)
        atomic_store_explicit(&row->buckets[i], 0, memory_order_relaxed);
    atomic_store_explicit(&row->sum_us, 0, memory_order_relaxed);
    atomic_store_explicit(&row->bytes_in, 0, memory_order_relaxed);
    atomic_store_explicit(&row->bytes_out, 0, memory_order_relaxed);
    uint32_t seq = atomic_load_explicit(&row->seq, memory_order_relaxed) + 1;
    atomic_store_explicit(&row->seq, seq == 0 ? 2 : seq, memory_order_release);
}

/* A row for a key that has none; -1 where all are taken. */
static int
row_new(struct stats *stats, const struct stats_key *key, uint32_t cell)
{
    uint32_t used = stats_rows(stats->region);
    uint16_t at;
    if (stats->free_count > 0) {
        at = stats->free_rows[--stats->free_count];
    } else if (used < STATS_SERIES) {
        at = (uint16_t)used;
        atomic_store_explicit(&stats->region->used, used + 1, memory_order_release);
    } else {
        return -1;
    }
    row_begin(&stats->region->rows[at], key);
    stats->cells[cell] = (uint16_t)(at + 1);
    return at;
}

/* Single writer, so that a load and a store do for an addition. */
static void
bump(_Atomic uint64_t *counter, uint64_t by)
{
    uint64_t now = atomic_load_explicit(counter, memory_order_relaxed);
    atomic_store_explicit(counter, now + by, memory_order_relaxed);
}

void
stats_add(struct stats *stats, const struct stats_key *key, uint64_t duration_us, uint64_t bytes_in,
    uint64_t bytes_out)
{
    uint32_t cell, bucket = 0;
    int at = probe(stats, key, &cell);
    if (at == -1) at = row_new(stats, key, cell);
    if (at == -1) {
        atomic_fetch_add_explicit(&shm_totals(stats->shm)->stats_series_dropped, 1, memory_order_relaxed);
        return;
    }
    struct stats_row *row = &stats->region->rows[at];
    while (bucket < STATS_BUCKETS - 1 && duration_us > bounds_us[bucket])
        bucket++;
    bump(&row->sum_us, duration_us);
    bump(&row->bytes_in, bytes_in);
    bump(&row->bytes_out, bytes_out);
    bump(&row->buckets[bucket], 1);
}

/* A row that control is writing right now says nothing yet: it counts as there. */
static bool
endpoint_is_gone(struct shm *shm, const struct stats_key *key)
{
    struct slot cold;
    if (key->slot == SLOT_NONE) return false;
    if (!slot_read(shm, key->slot, &cold, NULL))
        return (atomic_load_explicit(&cold.seq, memory_order_relaxed) & 1) == 0;
    return cold.state == SLOT_GONE || cold.incarnation != key->incarnation;
}

void
stats_purge(struct stats *stats)
{
    uint32_t used = stats_rows(stats->region);
    bool dropped = false;
    for (uint32_t i = 0; i < used; i++) {
        struct stats_row *row = &stats->region->rows[i];
        if (!row_is_used(row) || !endpoint_is_gone(stats->shm, &row->key)) continue;
        row_close(row);
        dropped = true;
    }
    if (dropped) index_rebuild(stats);
}
