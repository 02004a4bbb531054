/* core/shm/queue.c: a model. Whatever happens, in whatever order wake-ups arrive, nobody who could go is left
 * waiting. */
#include "spec/unit/shm/queue_world.h"

enum { MODEL_WORKERS = 5, MODEL_TICKETS = 64, MODEL_STEPS = 30000 };

struct model {
    struct world *world;
    uint64_t seed;
    uint32_t limit, service_limit, pending; /* pending: workers that were woken and did not run yet */
    struct {
        uint64_t ticket, came;
        uint32_t bound;
        unsigned worker;
        bool at_head;
    } waiting[MODEL_TICKETS];
    struct {
        unsigned worker;
        uint32_t slot;
    } held[256];
    uint32_t waiting_count, held_count;
    uint64_t clock;
};

static void
model_wake(struct model *model)
{
    queue_wake(model->world->shm, model->world->queue, model->limit, on_wake, &model->pending);
}

/* Looks before it takes the service's room: given back unused, that would wake the next, itself as a rule,
 * and so on without end. */
static bool
model_try(struct model *model, unsigned worker, uint32_t bound)
{
    struct world *world = model->world;
    if (model->held_count == 256) return false;
    for (int i = 0; i < 2; i++) {
        uint32_t slot = world->slots[i];
        if (bound != SLOT_NONE && bound != slot) continue;
        if (model->limit != 0 && slot_active(world->shm, slot) >= model->limit) continue;
        if (!queue_try_begin(world->shm, world->queue, worker, model->service_limit)) return false;
        assert_true(slot_try_begin(world->shm, worker, slot, model->limit));
        model->held[model->held_count].worker = worker;
        model->held[model->held_count++].slot = slot;
        return true;
    }
    return false;
}

static void
model_forget(struct model *model, uint32_t at)
{
    model->waiting[at] = model->waiting[--model->waiting_count];
}

/* Who goes was first of its kind: of the retries, or of the others while no retry waits. */
static void
model_check_order(struct model *model, uint32_t at)
{
    for (uint32_t i = 0; i < model->waiting_count; i++) {
        if (i == at || model->waiting[i].bound != SLOT_NONE) continue;
        bool before = model->waiting[i].at_head == model->waiting[at].at_head
                          ? model->waiting[i].came < model->waiting[at].came
                          : model->waiting[i].at_head;
        assert_false(before);
    }
}

static void
model_run(struct model *model, unsigned worker)
{
    struct world *world = model->world;
    for (;;) {
        unsigned owner;
        uint64_t ticket = queue_first(world->shm, world->queue, model->limit, &owner);
        if (ticket == 0 || owner != worker) return;
        uint32_t at = 0;
        while (model->waiting[at].ticket != ticket)
            assert_true(++at < model->waiting_count);
        if (!model_try(model, worker, model->waiting[at].bound)) return;
        model_check_order(model, at);
        model_forget(model, at);
        queue_leave(world->shm, world->queue, ticket);
        queue_served(world->queue, 1);
        model_wake(model);
    }
}

static void
model_arrive(struct model *model)
{
    struct world *world = model->world;
    unsigned worker = roll(&model->seed, MODEL_WORKERS);
    uint32_t bound = roll(&model->seed, 3) == 0 ? world->slots[roll(&model->seed, 2)] : SLOT_NONE;
    bool at_head = roll(&model->seed, 6) == 0;
    if (model->waiting_count == MODEL_TICKETS) return;
    if (queue_depth(world->queue) == 0 && model_try(model, worker, bound)) return;
    uint64_t ticket = queue_enter(world->shm, world->queue, worker, bound, at_head, MODEL_TICKETS);
    assert_int_not_equal(ticket, 0);
    uint32_t at = model->waiting_count++;
    model->waiting[at].ticket = ticket;
    model->waiting[at].came = ++model->clock;
    model->waiting[at].bound = bound;
    model->waiting[at].worker = worker;
    model->waiting[at].at_head = at_head;
    model_run(model, worker);
}

static void
model_finish(struct model *model)
{
    if (model->held_count == 0) return;
    uint32_t at = roll(&model->seed, model->held_count);
    slot_end(model->world->shm, model->held[at].worker, model->held[at].slot);
    queue_end(model->world->shm, model->world->queue, model->held[at].worker);
    model->held[at] = model->held[--model->held_count];
    model_wake(model);
}

static void
model_time_out(struct model *model)
{
    if (model->waiting_count == 0) return;
    uint32_t at = roll(&model->seed, model->waiting_count);
    queue_leave(model->world->shm, model->world->queue, model->waiting[at].ticket);
    queue_timed_out(model->world->queue);
    model_forget(model, at);
    model_wake(model);
}

static void
model_kill(struct model *model)
{
    unsigned worker = roll(&model->seed, MODEL_WORKERS);
    for (uint32_t i = model->waiting_count; i-- > 0;) {
        if (model->waiting[i].worker == worker) model_forget(model, i);
    }
    for (uint32_t i = model->held_count; i-- > 0;) {
        if (model->held[i].worker == worker) model->held[i] = model->held[--model->held_count];
    }
    shm_worker_reap(model->world->shm, worker);
    model->pending &= ~(1u << worker);
    model_wake(model);
}

static void
model_expect_nobody_stranded(struct model *model)
{
    struct world *world = model->world;
    while (model->pending != 0) {
        unsigned worker = roll(&model->seed, MODEL_WORKERS);
        if ((model->pending & 1u << worker) == 0) continue;
        model->pending &= ~(1u << worker);
        model_run(model, worker);
    }
    assert_int_equal(queue_depth(world->queue), model->waiting_count);
    assert_int_equal(queue_active(world->queue), model->held_count);
    if (model->service_limit != 0 && queue_active(world->queue) >= model->service_limit) return;
    for (uint32_t i = 0; i < model->waiting_count; i++) {
        for (int k = 0; k < 2; k++) {
            bool wants = model->waiting[i].bound == SLOT_NONE || model->waiting[i].bound == world->slots[k];
            bool has_room = model->limit == 0 || slot_active(world->shm, world->slots[k]) < model->limit;
            assert_false(wants && has_room);
        }
    }
}

static void
strands_nobody_whatever_happens(void **state)
{
    (void)state;
    struct world world = world_new();
    struct model model = {.world = &world, .seed = 42, .limit = 3, .service_limit = 5};
    for (int step = 0; step < MODEL_STEPS; step++) {
        uint32_t what = roll(&model.seed, 100);
        if (what < 46) model_arrive(&model);
        if (what >= 46 && what < 90) model_finish(&model);
        if (what >= 90 && what < 97) model_time_out(&model);
        if (what == 97) model_kill(&model);
        if (what == 98) model.limit = roll(&model.seed, 5), model_wake(&model);
        if (what == 99) model.service_limit = roll(&model.seed, 9), model_wake(&model);
        if (roll(&model.seed, 3) == 0) model_expect_nobody_stranded(&model);
    }
    while (model.held_count > 0 || model.waiting_count > 0) {
        model_finish(&model);
        model_expect_nobody_stranded(&model);
    }
    struct queue_stats row;
    assert_int_equal(shm_queues(world.shm, &row, 1), 1);
    assert_true(row.served > MODEL_STEPS / 10);
    world_free(&world);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(strands_nobody_whatever_happens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
