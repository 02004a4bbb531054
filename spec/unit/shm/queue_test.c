/* core/shm/queue.c: limits and the line of who waits, one call after the other. */
#include "spec/unit/shm/queue_world.h"

static void
gives_each_service_one_queue_for_ever(void **state)
{
    (void)state;
    struct shm *shm = shm_create(&(struct shm_params){.max_endpoints = 1});
    assert_non_null(shm);
    for (uint32_t service = 0; service < QUEUES_MAX; service++)
        assert_non_null(shm_queue(shm, 3000 + service));
    assert_ptr_equal(shm_queue(shm, 3000), shm_queue(shm, 3000));
    assert_ptr_not_equal(shm_queue(shm, 3000), shm_queue(shm, 3001));
    assert_null(shm_queue(shm, 1));
    assert_null(shm_queue(shm, SHM_NAMES_MAX));
    shm_destroy(shm);
}

static void
stops_at_the_limit_of_slot_and_service(void **state)
{
    (void)state;
    struct world world = world_new();
    for (unsigned i = 0; i < 10; i++) {
        assert_true(slot_try_begin(world.shm, i % 3, world.slots[0], 10));
        assert_true(queue_try_begin(world.shm, world.queue, i % 3, 10));
    }
    assert_false(slot_try_begin(world.shm, 5, world.slots[0], 10));
    assert_false(queue_try_begin(world.shm, world.queue, 5, 10));
    assert_true(slot_try_begin(world.shm, 5, world.slots[0], 0)); /* no limit */
    assert_false(slot_try_begin(world.shm, 5, 9999, 10));
    slot_end(world.shm, 5, world.slots[0]);
    queue_end(world.shm, world.queue, 5); /* never begun there: nothing happens */
    assert_int_equal(slot_active(world.shm, world.slots[0]), 10);
    assert_int_equal(queue_active(world.queue), 10);
    slot_end(world.shm, 0, world.slots[0]);
    queue_end(world.shm, world.queue, 0);
    assert_true(slot_try_begin(world.shm, 5, world.slots[0], 10));
    assert_true(queue_try_begin(world.shm, world.queue, 5, 10));
    world_free(&world);
}

static void
serves_in_the_order_of_coming_over_all_workers(void **state)
{
    (void)state;
    struct world world = world_new();
    uint64_t tickets[30];
    assert_int_equal(queue_depth(world.queue), 0);
    assert_int_equal(woken(&world, 10), 0);
    for (unsigned i = 0; i < 30; i++)
        tickets[i] = enter(&world, (i * 7) % 5, SLOT_NONE, false);
    assert_int_equal(queue_depth(world.queue), 30);
    for (unsigned i = 0; i < 30; i++) {
        for (unsigned k = i; k < 30; k++)
            assert_int_equal(may_try(&world, tickets[k], 10), k == i);
        assert_int_equal(woken(&world, 10), 1u << (i * 7) % 5);
        queue_leave(world.shm, world.queue, tickets[i]);
        queue_leave(world.shm, world.queue, tickets[i]); /* once is enough, twice no harm */
        assert_false(may_try(&world, tickets[i], 10));
        assert_int_equal(queue_depth(world.queue), 29 - i);
    }
    assert_int_equal(woken(&world, 10), 0);
    world_free(&world);
}

static void
lets_who_leaves_early_hold_up_nobody(void **state)
{
    (void)state;
    struct world world = world_new();
    uint64_t a = enter(&world, 0, SLOT_NONE, false), b = enter(&world, 1, SLOT_NONE, false);
    uint64_t c = enter(&world, 2, SLOT_NONE, false);
    queue_leave(world.shm, world.queue, b);
    uint64_t d = enter(&world, 1, SLOT_NONE, false); /* in b's cell, but behind c */
    assert_int_not_equal(b, d);
    queue_leave(world.shm, world.queue, a);
    assert_true(may_try(&world, c, 10));
    assert_false(may_try(&world, d, 10));
    world_free(&world);
}

static void
puts_retries_before_all_who_are_none(void **state)
{
    (void)state;
    struct world world = world_new();
    uint64_t a = enter(&world, 0, SLOT_NONE, false), b = enter(&world, 1, SLOT_NONE, true);
    uint64_t c = enter(&world, 2, SLOT_NONE, true), order[] = {b, c, a};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(first(&world, 10), order[i]);
        assert_true(may_try(&world, order[i], 10));
        for (int k = i + 1; k < 3; k++)
            assert_false(may_try(&world, order[k], 10));
        queue_leave(world.shm, world.queue, order[i]);
    }
    world_free(&world);
}

static void
lets_a_bound_ticket_wait_for_its_own_server_alone(void **state)
{
    (void)state;
    struct world world = world_new();
    uint32_t limit = 1;
    assert_true(slot_try_begin(world.shm, 0, world.slots[0], limit));
    uint64_t bound = enter(&world, 1, world.slots[0], false), again = enter(&world, 2, world.slots[0], false);
    uint64_t free_one = enter(&world, 3, SLOT_NONE, false), last = enter(&world, 0, SLOT_NONE, false);
    assert_true(may_try(&world, free_one, limit)); /* slots[1] has room, slots[0] has not */
    assert_false(may_try(&world, last, limit));
    assert_int_equal(woken(&world, limit), 1u << 3);
    assert_int_equal(woken(&world, 2), 1u << 1); /* a reload raised the limit: the bound one is first */
    assert_int_equal(woken(&world, 0), 1u << 1);
    slot_end(world.shm, 0, world.slots[0]);
    assert_int_equal(woken(&world, limit), 1u << 1);
    assert_false(may_try(&world, again, limit));
    assert_false(may_try(&world, free_one, limit)); /* the bound one came before it, and could go now */
    assert_true(may_try(&world, bound, limit));
    assert_true(slot_try_begin(world.shm, 1, world.slots[0], limit));
    queue_leave(world.shm, world.queue, bound);
    assert_int_equal(woken(&world, limit), 1u << 3);
    world_free(&world);
}

static void
lets_a_retry_hold_up_nobody_who_can_have_what_it_tried(void **state)
{
    (void)state;
    struct world world = world_new();
    uint32_t limit = 1;
    assert_true(slot_try_begin(world.shm, 0, world.slots[0], limit));
    assert_true(slot_try_begin(world.shm, 0, world.slots[1], limit));
    uint64_t retry = enter(&world, 1, QUEUE_EXCEPT | world.slots[0], true);
    uint64_t other = enter(&world, 2, SLOT_NONE, false);
    assert_false(may_try(&world, other, limit));
    assert_int_equal(first(&world, limit), retry);
    slot_end(world.shm, 0, world.slots[0]);
    assert_true(may_try(&world, other, limit));
    assert_true(may_try(&world, retry, limit));
    assert_int_equal(first(&world, limit), other);
    assert_int_equal(woken(&world, limit), 1u << 1 | 1u << 2); /* the room may be on the other slot */
    queue_leave(world.shm, world.queue, other);
    assert_int_equal(first(&world, limit), 0);
    assert_int_equal(woken(&world, limit), 1u << 1);
    world_free(&world);
}

static void
bounds_the_line_exactly(void **state)
{
    (void)state;
    struct world world = world_new();
    uint64_t tickets[5];
    for (unsigned i = 0; i < 5; i++)
        assert_int_not_equal(
            tickets[i] = queue_enter(world.shm, world.queue, i, SLOT_NONE, i % 2 == 0, 5), 0);
    assert_int_equal(queue_enter(world.shm, world.queue, 9, SLOT_NONE, false, 5), 0);
    assert_int_equal(queue_enter(world.shm, world.queue, 9, SLOT_NONE, true, 5), 0);
    assert_int_equal(queue_enter(world.shm, world.queue, 9, SLOT_NONE, true, 0), 0);
    assert_int_equal(queue_depth(world.queue), 5);
    queue_leave(world.shm, world.queue, tickets[3]);
    assert_int_equal(queue_enter(world.shm, world.queue, 9, SLOT_NONE, false, 3), 0); /* another route's */
    assert_int_not_equal(queue_enter(world.shm, world.queue, 9, SLOT_NONE, false, 5), 0);
    for (unsigned i = 5; i < QUEUE_TICKETS_MAX; i++)
        assert_int_not_equal(queue_enter(world.shm, world.queue, i % 64, SLOT_NONE, false, UINT32_MAX), 0);
    assert_int_equal(queue_enter(world.shm, world.queue, 9, SLOT_NONE, false, UINT32_MAX), 0);
    assert_int_equal(queue_enter(world.shm, world.queue, SHM_WORKERS_MAX, SLOT_NONE, false, LINE), 0);
    assert_int_equal(queue_depth(world.queue), QUEUE_TICKETS_MAX);
    world_free(&world);
}

static void
takes_a_dead_worker_out_of_line_and_counts(void **state)
{
    (void)state;
    struct world world = world_new();
    for (int i = 0; i < 3; i++)
        assert_true(queue_try_begin(world.shm, world.queue, 1, 5));
    assert_true(queue_try_begin(world.shm, world.queue, 2, 5));
    uint64_t dead = enter(&world, 1, SLOT_NONE, true), alive = enter(&world, 2, SLOT_NONE, false);
    (void)enter(&world, 1, world.slots[0], false);
    assert_false(may_try(&world, alive, 5));
    shm_worker_reap(world.shm, 1);
    assert_int_equal(queue_active(world.queue), 1);
    assert_int_equal(queue_depth(world.queue), 1);
    assert_true(may_try(&world, alive, 5));
    assert_false(may_try(&world, dead, 5));
    queue_leave(world.shm, world.queue, dead); /* a successor that found it in a dump: no harm */
    assert_int_equal(queue_depth(world.queue), 1);
    world_free(&world);
}

static void
counts_for_the_metrics(void **state)
{
    (void)state;
    struct world world = world_new();
    struct queue_stats rows[2];
    (void)enter(&world, 0, SLOT_NONE, false);
    (void)enter(&world, 1, SLOT_NONE, false);
    assert_int_equal(queue_enter(world.shm, world.queue, 1, SLOT_NONE, false, 2), 0);
    assert_true(queue_try_begin(world.shm, world.queue, 1, 5));
    queue_served(world.queue, 1500);
    queue_served(world.queue, 500);
    queue_timed_out(world.queue);
    assert_int_equal(shm_queues(world.shm, rows, 2), 1);
    assert_int_equal(rows[0].service, SERVICE);
    assert_int_equal(rows[0].depth, 2);
    assert_int_equal(rows[0].active, 1);
    assert_int_equal(rows[0].entered, 2);
    assert_int_equal(rows[0].served, 2);
    assert_int_equal(rows[0].timed_out, 1);
    assert_int_equal(rows[0].refused, 1);
    assert_int_equal(rows[0].waited_us_sum, 2000);
    assert_non_null(shm_queue(world.shm, SERVICE + 1));
    assert_int_equal(shm_queues(world.shm, rows, 1), 1);
    assert_int_equal(shm_queues(world.shm, rows, 2), 2);
    world_free(&world);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gives_each_service_one_queue_for_ever),
        cmocka_unit_test(stops_at_the_limit_of_slot_and_service),
        cmocka_unit_test(serves_in_the_order_of_coming_over_all_workers),
        cmocka_unit_test(lets_who_leaves_early_hold_up_nobody),
        cmocka_unit_test(puts_retries_before_all_who_are_none),
        cmocka_unit_test(lets_a_bound_ticket_wait_for_its_own_server_alone),
        cmocka_unit_test(lets_a_retry_hold_up_nobody_who_can_have_what_it_tried),
        cmocka_unit_test(bounds_the_line_exactly),
        cmocka_unit_test(takes_a_dead_worker_out_of_line_and_counts),
        cmocka_unit_test(counts_for_the_metrics),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
