#include "core/shm/ring.h"

#include "core/shm/shm_internal.h"

/* Positions count bytes for ever and are taken modulo the size; both are multiples of 8, so that a record
 * header always fits before the end:
 *
 *     | ...free... | header line pad | header line pad | ...free... | WRAP |
 *                  ^ tail (consumer)                   ^ head (producer)
 *
 * Everything the producer writes lies between head and tail + size, where nobody reads; moving head publishes
 * it. */
enum { LINE_MAX_BYTES = 16 << 10, HEADER_BYTES = 8, WRAP = UINT32_MAX };

struct record {
    uint32_t len; /* of the line; WRAP: go on at the start */
    uint32_t kind;
};
static_assert(sizeof(struct record) == HEADER_BYTES, "headers keep positions multiples of 8");

struct ring {
    uint64_t size; /* of data; the owner of the mapping wrote it, a power of two */
    /* the worker writes */
    alignas(64) _Atomic uint64_t head;
    uint64_t reserved_at; /* position of the record being written */
    uint64_t reserved;    /* line bytes it may take; 0: none is being written */
    /* control writes */
    alignas(64) _Atomic uint64_t tail;
    alignas(64) char data[];
};
static_assert(sizeof(struct ring) <= 256, "shm.c keeps a page for it");

struct ring *
shm_ring(struct shm *shm, unsigned worker)
{
    assert(worker < SHM_WORKERS_MAX);
    struct ring *ring = shm_at(shm, shm->rings_at + worker * shm->ring_stride);
    if (ring->size == 0) ring->size = shm->ring_bytes; /* the same value, whoever is first */
    return ring;
}

static uint64_t
record_bytes(uint64_t len)
{
    return HEADER_BYTES + ((len + 7) & ~(uint64_t)7);
}

static struct record *
record_at(struct ring *ring, uint64_t position)
{
    return (struct record *)(void *)&ring->data[position & (ring->size - 1)];
}

char *
ring_reserve(struct ring *ring, size_t max)
{
    ring->reserved = 0;
    if (max == 0 || max > LINE_MAX_BYTES) return NULL;
    uint64_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
    uint64_t room = ring->size - (head - tail), need = record_bytes(max);
    uint64_t to_end = ring->size - (head & (ring->size - 1));
    if (head - tail > ring->size) return NULL; /* a damaged tail: control puts it right as it drains */
    if (to_end < need) {
        if (to_end + need > room) return NULL;
        *record_at(ring, head) = (struct record){WRAP, 0};
        head += to_end;
    } else if (need > room) {
        return NULL;
    }
    ring->reserved_at = head;
    ring->reserved = max;
    return (char *)record_at(ring, head) + HEADER_BYTES;
}

void
ring_commit(struct ring *ring, enum ring_kind kind, size_t used)
{
    if (ring->reserved == 0) return;
    assert(used <= ring->reserved);
    ring->reserved = 0;
    if (used == 0) return;
    *record_at(ring, ring->reserved_at) = (struct record){(uint32_t)used, (uint32_t)kind};
    atomic_store_explicit(&ring->head, ring->reserved_at + record_bytes(used), memory_order_release);
}

bool
ring_put(struct ring *ring, enum ring_kind kind, const char *line, size_t len)
{
    char *to = ring_reserve(ring, len);
    if (to == NULL) return false;
    memcpy(to, line, len);
    ring_commit(ring, kind, len);
    return true;
}

/* Bytes of the record at `tail`, 0 where what stands there can't be one. */
static uint64_t
record_check(struct ring *ring, uint64_t tail, uint64_t head, struct record *record)
{
    uint64_t to_end = ring->size - (tail & (ring->size - 1));
    if (head - tail > ring->size || ((head | tail) & 7) != 0) return 0;
    *record = *record_at(ring, tail);
    uint64_t bytes = record->len == WRAP ? to_end : record_bytes(record->len);
    if (record->len != WRAP && (record->len > LINE_MAX_BYTES || record->kind > RING_ACCESS || bytes > to_end))
        return 0;
    return bytes <= head - tail ? bytes : 0;
}

size_t
ring_drain(struct ring *ring, size_t max_lines, ring_take take, void *context)
{
    uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    size_t lines = 0;
    while (lines < max_lines) {
        struct record record;
        uint64_t head = atomic_load_explicit(&ring->head, memory_order_acquire);
        if (tail == head) break;
        uint64_t bytes = record_check(ring, tail, head, &record);
        if (bytes == 0) {
            /* damaged by a stray write: what is in it is lost, the ring goes on */
            atomic_store_explicit(&ring->tail, head & ~(uint64_t)7, memory_order_release);
            break;
        }
        if (record.len != WRAP) {
            take(context, (enum ring_kind)record.kind, (const char *)record_at(ring, tail) + HEADER_BYTES,
                record.len);
            lines++;
        }
        /* after the line was taken: a control process killed here leaves a repeated line, never a lost one */
        tail += bytes;
        atomic_store_explicit(&ring->tail, tail, memory_order_release);
    }
    return lines;
}

bool
ring_is_empty(const struct ring *ring)
{
    return atomic_load_explicit(&ring->head, memory_order_acquire) ==
           atomic_load_explicit(&ring->tail, memory_order_acquire);
}
