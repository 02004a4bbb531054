/* spec/unit/shm/queue_world.h: a segment with one service, its queue and two endpoints: queue_test.c (one
 * call after the other), queue_race_test.c (workers at once) and queue_model_test.c (a model of all of it).
 */
#ifndef FLUXGATE_SPEC_QUEUE_WORLD_H
#define FLUXGATE_SPEC_QUEUE_WORLD_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <sys/mman.h>

#include "core/shm/shm_internal.h"

enum { SERVICE = 7, LINE = 1000, WORKERS = 4, PATIENCE_MS = 30000 };

struct world {
    struct shm *shm;
    struct queue *queue;
    uint32_t slots[2];
    struct common {
        _Atomic uint32_t inside, most, wrong, stop, ready;
        _Atomic uint64_t served;
    } * common; /* what the workers share beside the segment */
    int wake[WORKERS];
    int stop_before;
    unsigned steps;
};

static inline struct world
world_new(void)
{
    struct world world = {.shm = shm_create(&(struct shm_params){.max_endpoints = 16})};
    static struct slot_text text; /* zeroed */
    assert_non_null(world.shm);
    for (int i = 0; i < 2; i++) {
        snprintf(text.id, sizeof(text.id), "endpoint-%d", i);
        world.slots[i] = slot_claim(world.shm, SERVICE, SLOT_HEALTHY, 1, 80, &text);
        assert_int_not_equal(world.slots[i], SLOT_NONE);
    }
    world.queue = shm_queue(world.shm, SERVICE);
    assert_non_null(world.queue);
    world.common =
        mmap(NULL, sizeof(*world.common), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(world.common, MAP_FAILED);
    return world;
}

static inline void
world_free(struct world *world)
{
    munmap(world->common, sizeof(*world->common));
    shm_destroy(world->shm);
}

static inline uint64_t
enter(struct world *world, unsigned worker, uint32_t bound, bool at_head)
{
    uint64_t ticket = queue_enter(world->shm, world->queue, worker, bound, at_head, LINE);
    assert_int_not_equal(ticket, 0);
    return ticket;
}

static inline bool
may_try(struct world *world, uint64_t ticket, uint32_t limit)
{
    return queue_may_try(world->shm, world->queue, ticket, limit);
}

static inline uint64_t
first(struct world *world, uint32_t limit)
{
    unsigned worker;
    uint64_t ticket = queue_first(world->shm, world->queue, limit, &worker);
    return ticket;
}

static inline void
on_wake(void *context, unsigned worker)
{
    *(uint32_t *)context |= 1u << worker;
}

static inline uint32_t
woken(struct world *world, uint32_t limit)
{
    uint32_t mask = 0;
    queue_wake(world->shm, world->queue, limit, on_wake, &mask);
    return mask;
}

static inline uint32_t
roll(uint64_t *seed, uint32_t below)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*seed >> 33) % below;
}
#endif
