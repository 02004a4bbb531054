/* links: shm http base */
/* Who waits for what after a policy passed its budget. */
#include "spec/unit/health/world.h"

static void
calls_no_policy_for_a_while_and_then_all(void **state)
{
    struct world *world = *state;
    uint64_t until = clock_now_us() + WAIT_US;
    backend_listen(&world->backend, world->base, 0, ok_answer);
    uint32_t slot = endpoint_add(world, "a", world->backend.port, SLOT_UNPROVEN);
    health_use(world->health, &world->config, NULL);
    health_overran(world->health);
    while (world->health->pace != PACE_ALL) { /* it has not answered yet, so it is not proven */
        assert_int_equal(policy.plans, 0);
        assert_true(turn(world, until));
    }
    WAIT_FOR(world, state_of(world, slot, NULL) == SLOT_HEALTHY);
}

static void
lets_those_that_answered_go_first(void **state)
{
    struct world *world = *state;
    backend_listen(&world->backend, world->base, 0, ok_answer);
    uint32_t slot = endpoint_add(world, "a", world->backend.port, SLOT_UNPROVEN);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, state_of(world, slot, NULL) == SLOT_HEALTHY);
    struct target *target = world->health->targets[slot];
    assert_true(pace_allows_probe(target));
    health_overran(world->health);
    assert_false(pace_allows_probe(target));
    unsigned plans = policy.plans, judgements = policy.judgements;
    uint64_t until = clock_now_us() + WAIT_US;
    while (world->health->pace == PACE_REST) {
        assert_int_equal(policy.plans, plans);
        assert_int_equal(policy.judgements, judgements);
        assert_true(turn(world, until));
    }
    assert_true(pace_allows_probe(target));
    world->health->counts[0].judges_well = false;
    assert_true(world->health->pace == PACE_ALL || !pace_allows_probe(target));
    WAIT_FOR(world, policy.judgements > judgements);
}

/* Else what another service's policy does to control would look like an endpoint that does not answer. */
static void
lets_the_time_of_probes_under_way_stand_still(void **state)
{
    struct world *world = *state;
    policy.timeout_us = 1000000;
    policy.fall = 1;
    backend_listen(&world->backend, world->base, 0, NULL);
    uint32_t slot = endpoint_add(world, "a", world->backend.port, SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, world->health->targets[slot]->probe != NULL);
    uint64_t begun = clock_now_us(), until = begun + 3 * WAIT_US;
    while (clock_now_us() - begun < 2 * policy.timeout_us) {
        health_overran(world->health);
        while (world->health->pace == PACE_REST)
            assert_true(turn(world, until));
    }
    assert_int_equal(policy.judgements, 0);
    WAIT_FOR(world, state_of(world, slot, NULL) == SLOT_UNHEALTHY);
}

/* A window that closed while its policy could not be called is observed afterwards. */
static void
keeps_a_windows_numbers_for_the_policy_that_waits(void **state)
{
    struct world *world = *state;
    policy.only_observes = true;
    policy.window_us = 1000;
    uint32_t slot = endpoint_add(world, "a", 1, SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    uint64_t now = clock_now_us();
    passive_scan(world->health, now);
    slot_observe(world->shm, slot, 2000, false, now);
    policy.overruns = world->health;
    passive_scan(world->health, now + 10000);
    assert_null(policy.overruns);
    assert_int_equal(policy.row_count, 1);
    assert_int_equal(policy.observations, 0);
    WAIT_FOR(world, policy.observations > 0);
    assert_true(policy.seen.is_new);
    assert_int_equal(policy.seen.requests, 1);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(calls_no_policy_for_a_while_and_then_all),
        TEST(lets_those_that_answered_go_first),
        TEST(lets_the_time_of_probes_under_way_stand_still),
        TEST(keeps_a_windows_numbers_for_the_policy_that_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
