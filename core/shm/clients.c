#include "core/shm/shm_internal.h"

/* A cell whose count fell to 0 may be taken for another key, so a probe never ends early: CLIENT_PROBES cells
 * behind its hash are all where a key can be. */
static struct client_cell *
cells_of(struct shm *shm, unsigned worker)
{
    struct client_cell *cells = shm_at(shm, shm->clients_at);
    return cells + (size_t)worker * CLIENT_CELLS;
}

static struct client_cell *
client_find(struct client_cell *cells, uint64_t key, struct client_cell **vacant)
{
    *vacant = NULL;
    for (uint32_t i = 0; i < CLIENT_PROBES; i++) {
        struct client_cell *cell = &cells[(key + i) % CLIENT_CELLS];
        if (atomic_load_explicit(&cell->key, memory_order_relaxed) == key) return cell;
        if (*vacant == NULL && atomic_load_explicit(&cell->count, memory_order_relaxed) == 0) *vacant = cell;
    }
    return NULL;
}

/* Counted before it is compared, so that of two workers that take a client's last place together at most both
 * refuse, never both accept: the two halves are sequentially consistent. */
uint32_t
client_begin(struct shm *shm, unsigned worker, uint64_t key)
{
    struct client_cell *vacant, *own = client_find(cells_of(shm, worker), key, &vacant);
    uint32_t sum = 0;
    if (own == NULL) {
        if (vacant == NULL) return 0;
        own = vacant;
        atomic_store(&own->key, key);
    }
    atomic_fetch_add(&own->count, 1);
    for (unsigned w = 0; w < SHM_WORKERS_MAX; w++) {
        if (atomic_load_explicit(&shm->workers[w].connections, memory_order_relaxed) == 0 && w != worker)
            continue;
        const struct client_cell *cell = client_find(cells_of(shm, w), key, &vacant);
        if (cell != NULL) sum += atomic_load(&cell->count);
    }
    return sum;
}

void
client_end(struct shm *shm, unsigned worker, uint64_t key)
{
    struct client_cell *vacant, *own = client_find(cells_of(shm, worker), key, &vacant);
    if (own != NULL && atomic_load(&own->count) > 0) atomic_fetch_sub(&own->count, 1);
}

void
clients_clear(struct shm *shm, unsigned worker)
{
    struct client_cell *cells = cells_of(shm, worker);
    for (uint32_t i = 0; i < CLIENT_CELLS; i++) {
        if (atomic_load_explicit(&cells[i].count, memory_order_relaxed) != 0)
            atomic_store(&cells[i].count, 0);
    }
}
