#include "core/shm/shm.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "core/base/text.h"
#include "core/shm/shm_internal.h"

static uint64_t
round_up(uint64_t bytes, uint64_t unit)
{
    return (bytes + unit - 1) / unit * unit;
}

static uint64_t
power_of_two(uint64_t at_least)
{
    uint64_t n = 1;
    while (n < at_least)
        n *= 2;
    return n;
}

/* Offsets of everything behind the header; each part begins on a page, so that parts never share one. */
static void
lay_out(struct shm *shm, const struct shm_params *params, uint64_t page)
{
    uint64_t slots = params->max_endpoints, at = round_up(sizeof(*shm), page);
    shm->max_endpoints = params->max_endpoints;
    shm->dict_count = params->dicts == 0 ? DICTS_DEFAULT : params->dicts;
    shm->dict_shards = params->dict_bytes == 0
                           ? DICT_SHARDS_DEFAULT
                           : (uint32_t)(round_up(params->dict_bytes, DICT_SHARD_BYTES) / DICT_SHARD_BYTES);
    shm->index_cells = (uint32_t)power_of_two(slots * 2);
    shm->ring_bytes = power_of_two(params->ring_bytes < RING_BYTES_MIN ? RING_BYTES_MIN : params->ring_bytes);
    shm->ring_stride = round_up(256, page) + shm->ring_bytes;
    shm->stats_bytes = round_up(params->stats_bytes, page);
    shm->slots_at = at;
    at += round_up(slots * sizeof(struct slot), page);
    shm->texts_at = at;
    at += round_up(slots * sizeof(struct slot_text), page);
    shm->columns_at = at;
    at += round_up(slots * sizeof(uint32_t) * SHM_WORKERS_MAX, page);
    shm->gone_at = at;
    at += round_up(slots * sizeof(uint64_t), page);
    shm->index_at = at;
    at += round_up(shm->index_cells * sizeof(uint32_t), page);
    shm->rings_at = at;
    at += shm->ring_stride * SHM_WORKERS_MAX;
    shm->stats_at = at;
    at += shm->stats_bytes * SHM_WORKERS_MAX;
    shm->queues_at = at;
    at += round_up(QUEUES_MAX * sizeof(struct queue), page);
    shm->clients_at = at;
    at += round_up(CLIENT_CELLS * sizeof(struct client_cell), page) * SHM_WORKERS_MAX;
    shm->meters_at = at;
    at += round_up(meters_bytes(), page);
    shm->dicts_at = at;
    at += shm_dict_bytes(shm) * (shm->dict_count + 1);
    shm->bytes = at;
}

struct shm *
shm_create(const struct shm_params *params)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    /* The bounds keep every sum in lay_out far from overflow. */
    if (params->max_endpoints == 0 || params->max_endpoints > (1u << 24) || params->ring_bytes > (1u << 30) ||
        params->stats_bytes > ((size_t)1 << 34) || params->dicts > DICTS_MAX ||
        params->dict_bytes > DICT_BYTES_MAX) {
        errno = EINVAL;
        return NULL;
    }
    struct shm head = {0};
    lay_out(&head, params, page);
    struct shm *shm =
        mmap(NULL, head.bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (shm == MAP_FAILED) return NULL;
    lay_out(shm, params, page);
    /* getrandom of up to 256 bytes is never cut short (getrandom(2)) */
    if (getrandom(shm->secret, sizeof(shm->secret), 0) != (ssize_t)sizeof(shm->secret) ||
        getrandom(shm->hash_secret, sizeof(shm->hash_secret), 0) != (ssize_t)sizeof(shm->hash_secret)) {
        shm_destroy(shm);
        return NULL;
    }
    return shm;
}

void
shm_destroy(struct shm *shm)
{
    int saved = errno;
    if (shm != NULL) munmap(shm, shm->bytes);
    errno = saved;
}

struct shm_totals *
shm_totals(struct shm *shm)
{
    return &shm->totals;
}

struct shm_worker *
shm_worker(struct shm *shm, unsigned worker)
{
    assert(worker < SHM_WORKERS_MAX);
    return &shm->workers[worker];
}

void *
shm_stats_region(struct shm *shm, unsigned worker, size_t *bytes)
{
    assert(worker < SHM_WORKERS_MAX);
    *bytes = shm->stats_bytes;
    return shm_at(shm, shm->stats_at + worker * shm->stats_bytes);
}

const uint8_t *
shm_secret(const struct shm *shm)
{
    return shm->secret;
}

/* Id of `name`, and in *cell the free cell where the probe ended. */
static uint32_t
name_probe(struct shm *shm, struct slice name, uint64_t hash, uint32_t *cell)
{
    for (uint32_t i = 0; i < NAME_CELLS; i++) {
        *cell = (uint32_t)(hash + i) % NAME_CELLS;
        uint32_t id = atomic_load_explicit(&shm->name_cells[*cell], memory_order_acquire);
        if (id == 0) return UINT32_MAX;
        if (--id >= SHM_NAMES_MAX) continue;
        const struct name_row *row = &shm->names[id];
        if (row->hash == hash && row->len == name.len && memcmp(row->text, name.at, name.len) == 0) return id;
    }
    *cell = UINT32_MAX;
    return UINT32_MAX;
}

uint32_t
shm_name_add(struct shm *shm, struct slice name)
{
    uint32_t cell;
    if (name.len == 0 || name.len >= SHM_NAME_BYTES) return UINT32_MAX;
    uint64_t hash = text_hash(name);
    uint32_t id = name_probe(shm, name, hash, &cell);
    if (id != UINT32_MAX) return id;
    id = atomic_load_explicit(&shm->name_count, memory_order_relaxed);
    if (id >= SHM_NAMES_MAX || cell == UINT32_MAX) return UINT32_MAX;
    struct name_row *row = &shm->names[id];
    row->hash = hash;
    row->len = (uint32_t)name.len;
    memcpy(row->text, name.at, name.len);
    row->text[name.len] = '\0';
    atomic_store_explicit(&shm->name_count, id + 1, memory_order_release);
    atomic_store_explicit(&shm->name_cells[cell], id + 1, memory_order_release);
    return id;
}

uint32_t
shm_name_find(struct shm *shm, struct slice name)
{
    uint32_t cell;
    if (name.len == 0 || name.len >= SHM_NAME_BYTES) return UINT32_MAX;
    return name_probe(shm, name, text_hash(name), &cell);
}

const char *
shm_name_text(struct shm *shm, uint32_t id)
{
    if (id >= SHM_NAMES_MAX || id >= atomic_load_explicit(&shm->name_count, memory_order_acquire)) return "";
    return shm->names[id].text;
}

_Atomic uint64_t *
shm_counter_find(struct shm *shm, struct slice name)
{
    uint64_t tag = text_hash_secret(name, shm->hash_secret) | 1;
    for (uint32_t i = 0; i < COUNTER_CELLS && name.len < SHM_NAME_BYTES; i++) {
        struct counter_cell *cell = &shm->counters[((tag >> 1) + i) % COUNTER_CELLS];
        uint64_t seen = atomic_load_explicit(&cell->tag, memory_order_relaxed);
        if (seen == tag) return &cell->value;
        if (seen == 0) break;
    }
    return NULL;
}

_Atomic uint64_t *
shm_counter(struct shm *shm, struct slice name)
{
    if (name.len >= SHM_NAME_BYTES) return NULL;
    /* Under a secret, so that names made of a client's bytes can't be chosen to share a counter. */
    uint64_t tag = text_hash_secret(name, shm->hash_secret) | 1;
    for (uint32_t i = 0; i < COUNTER_CELLS; i++) {
        struct counter_cell *cell = &shm->counters[((tag >> 1) + i) % COUNTER_CELLS];
        uint64_t seen = atomic_load_explicit(&cell->tag, memory_order_relaxed);
        if (seen == tag) return &cell->value;
        if (seen != 0) continue;
        if (atomic_load_explicit(&shm->counter_count, memory_order_relaxed) >= SHM_COUNTERS_MAX) return NULL;
        if (atomic_compare_exchange_strong(&cell->tag, &seen, tag)) {
            atomic_fetch_add_explicit(&shm->counter_count, 1, memory_order_relaxed);
            return &cell->value;
        }
        if (seen == tag) return &cell->value;
    }
    return NULL;
}
