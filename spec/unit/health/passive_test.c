/* links: shm http base */
/* What requests tell of an endpoint: ejections, trials, and policies that observe. */
#include "spec/unit/health/world.h"

/* ---- passive evidence */

static void
probes_at_once_what_fails_under_traffic(void **state)
{
    struct world *world = *state;
    world->service.health.interval_us = world->service.health.fast_interval_us = 3600000000000;
    uint32_t slot = endpoint_add(world, "a", refusing_port(), SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    passive_scan(world->health, clock_now_us());
    assert_true(is_left_alone(world, slot));
    uint64_t until = clock_now_us() + WAIT_US, begun = clock_now_us();
    while (state_of(world, slot, NULL) != SLOT_UNHEALTHY) {
        slot_observe(world->shm, slot, 1000, true, clock_now_us());
        assert_true(turn(world, until));
    }
    assert_int_equal(policy.plans, 3);
    assert_true(clock_now_us() - begun >= 400000); /* three probes, 200 ms apart at least */
}

static void
fail_in_a_row(struct world *world, uint32_t slot, unsigned times)
{
    for (unsigned i = 0; i < times; i++)
        slot_observe(world->shm, slot, 1000, true, clock_now_us());
}

static void
ejects_what_fails_where_nothing_probes_but_never_more_than_half(void **state)
{
    struct world *world = *state;
    char reason[128];
    uint32_t slots[4];
    world->service.health.enabled = false;
    for (unsigned i = 0; i < 4; i++) {
        char id[] = {(char)('a' + i), '\0'};
        slots[i] = endpoint_add(world, id, refusing_port(), SLOT_HEALTHY);
    }
    health_use(world->health, &world->config, NULL);
    fail_in_a_row(world, slots[0], 4);
    passive_scan(world->health, clock_now_us());
    assert_int_equal(state_of(world, slots[0], NULL), SLOT_HEALTHY);
    for (unsigned i = 0; i < 4; i++)
        fail_in_a_row(world, slots[i], 6);
    WAIT_FOR(world, state_of(world, slots[1], reason) == SLOT_EJECTED); /* control looks by itself */
    passive_scan(world->health, clock_now_us());
    unsigned ejected = 0;
    for (unsigned i = 0; i < 4; i++)
        ejected += state_of(world, slots[i], NULL) == SLOT_EJECTED;
    assert_int_equal(ejected, 2);
    assert_non_null(strstr(reason, "requests failed in a row"));
}

/* One request of some worker that is on trial; false: another one is. */
static bool
try_out(struct world *world, uint32_t slot, enum trial outcome)
{
    if (!slot_take_trial(world->shm, slot)) return false;
    slot_end_trial(world->shm, slot, outcome);
    return true;
}

static void
ejects_again_for_longer_where_the_trial_after_an_ejection_fails(void **state)
{
    struct world *world = *state;
    char reason[128];
    double span = 0;
    world->service.health.enabled = false;
    uint32_t slot = endpoint_add(world, "a", refusing_port(), SLOT_HEALTHY);
    endpoint_add(world, "b", refusing_port(), SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    uint64_t now = clock_now_us();
    fail_in_a_row(world, slot, 5);
    passive_scan(world->health, now);
    assert_int_equal(state_of(world, slot, NULL), SLOT_EJECTED);
    passive_scan(world->health, now += 8900000); /* 10 s ± 10 % */
    assert_false(try_out(world, slot, TRIAL_FAILED));
    passive_scan(world->health, now += 2200000);
    assert_int_equal(state_of(world, slot, reason), SLOT_EJECTED);
    assert_string_equal(reason, "its ejection is over: one request is its trial");
    passive_scan(world->health, now += 100000000); /* nobody came: nothing speaks for it or against it */
    assert_int_equal(state_of(world, slot, NULL), SLOT_EJECTED);
    assert_true(try_out(world, slot, TRIAL_FAILED));
    assert_false(try_out(world, slot, TRIAL_PASSED)); /* not before control has seen the first */
    passive_scan(world->health, now += 1000000);
    assert_int_equal(state_of(world, slot, reason), SLOT_EJECTED);
    assert_int_equal(sscanf(reason, "ejected for %lf s: its trial failed", &span), 1);
    assert_true(span >= 18 && span <= 22);
    assert_false(try_out(world, slot, TRIAL_PASSED));

    passive_scan(world->health, now += 22100000);
    assert_true(try_out(world, slot, TRIAL_PASSED));
    passive_scan(world->health, now += 1000000);
    assert_int_equal(state_of(world, slot, reason), SLOT_HEALTHY);
    assert_string_equal(reason, "its trial passed");
    fail_in_a_row(world, slot, 4);
    passive_scan(world->health, now += 1000000);
    assert_int_equal(state_of(world, slot, NULL), SLOT_HEALTHY); /* its success gave it a fresh start */
    fail_in_a_row(world, slot, 1);
    passive_scan(world->health, now += 1000000);
    assert_int_equal(state_of(world, slot, reason), SLOT_EJECTED);
    assert_int_equal(sscanf(reason, "ejected for %lf s: 5 requests failed in a row", &span), 1);
    assert_true(span >= 27 && span <= 33);
    assert_int_equal(atomic_load(&shm_totals(world->shm)->ejections), 3);
}

static void
offers_another_trial_where_nobody_says_how_the_last_one_went(void **state)
{
    struct world *world = *state;
    world->service.health.enabled = false;
    uint32_t slot = endpoint_add(world, "a", refusing_port(), SLOT_HEALTHY);
    endpoint_add(world, "b", refusing_port(), SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    uint64_t now = clock_now_us();
    fail_in_a_row(world, slot, 5);
    passive_scan(world->health, now);
    passive_scan(world->health, now += 12000000);
    assert_true(try_out(world, slot, TRIAL_OPEN)); /* its client left */
    assert_true(slot_take_trial(world->shm, slot));
    passive_scan(world->health, now += 1000000);
    passive_scan(world->health, now += 20000000);
    assert_false(slot_take_trial(world->shm, slot));
    passive_scan(world->health, now += 20000000); /* its worker was killed */
    assert_true(try_out(world, slot, TRIAL_PASSED));
    passive_scan(world->health, now);
    assert_int_equal(state_of(world, slot, NULL), SLOT_HEALTHY);
}

static void
keeps_an_ejection_over_a_restart_of_control(void **state)
{
    struct world *world = *state;
    char reason[128];
    double span = 0;
    world->service.health.enabled = false;
    uint32_t slot = endpoint_add(world, "a", refusing_port(), SLOT_HEALTHY);
    endpoint_add(world, "b", refusing_port(), SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    uint64_t now = clock_now_us();
    fail_in_a_row(world, slot, 5);
    passive_scan(world->health, now);
    passive_scan(world->health, now += 12000000);
    assert_true(try_out(world, slot, TRIAL_FAILED));
    passive_scan(world->health, now);
    health_free(world->health);
    shm_control_adopt(world->shm);
    world->health = health_new(world->base, world->shm, on_suspect_failed, world);
    health_use(world->health, &world->config, NULL);
    passive_scan(world->health, now += 17000000); /* it lasts 20 s ± 10 % */
    assert_false(slot_take_trial(world->shm, slot));
    passive_scan(world->health, now += 6000000);
    assert_true(try_out(world, slot, TRIAL_FAILED));
    passive_scan(world->health, now);
    assert_int_equal(state_of(world, slot, reason), SLOT_EJECTED);
    assert_int_equal(sscanf(reason, "ejected for %lf s", &span), 1);
    assert_true(span >= 27 && span <= 33);
}

/* ---- a policy that observes */

static void
observed_world(struct world *world, uint32_t slots[4], uint64_t *now)
{
    policy.only_observes = true;
    policy.window_us = 5000000;
    for (unsigned i = 0; i < 4; i++) {
        char id[] = {(char)('a' + i), '\0'};
        slots[i] = endpoint_add(world, id, refusing_port(), SLOT_UNPROVEN);
    }
    health_use(world->health, &world->config, NULL);
    *now = clock_now_us();
    passive_scan(world->health, *now);
}

static void
tells_a_policy_what_a_window_held_and_what_came_in_a_row(void **state)
{
    struct world *world = *state;
    uint32_t slots[4];
    uint64_t now;
    observed_world(world, slots, &now);
    assert_int_equal(state_of(world, slots[0], NULL), SLOT_HEALTHY); /* nothing will probe it */
    assert_int_equal(policy.observations, 0);
    for (unsigned i = 0; i < 6; i++)
        slot_observe(world->shm, slots[0], 2000, false, now);
    passive_scan(world->health, now);
    assert_int_equal(policy.observations, 0); /* good news may wait */
    slot_observe_error(world->shm, slots[0], 2000, now);
    slot_observe_error(world->shm, slots[0], 2000, now);
    passive_scan(world->health, now);
    assert_int_equal(policy.observations, 1);
    assert_false(policy.seen.is_new);
    assert_int_equal(policy.seen.requests, 0);
    assert_int_equal(policy.seen.errors_in_row, 2);
    assert_int_equal(policy.seen.failures_in_row, 0);
    fail_in_a_row(world, slots[0], 2);
    passive_scan(world->health, now);
    assert_int_equal(policy.seen.errors_in_row, 4);
    assert_int_equal(policy.seen.failures_in_row, 2);
    passive_scan(world->health, now += 5000000);
    assert_int_equal(policy.observations, 3);
    assert_true(policy.seen.is_new);
    assert_int_equal(policy.seen.requests, 10);
    assert_int_equal(policy.seen.failures, 2);
    assert_int_equal(policy.seen.errors, 4);
    assert_int_equal(policy.seen.endpoints, 4);
    assert_int_equal(policy.seen.ejected, 0);
    assert_int_equal(policy.row_count, 4);
    assert_int_equal(policy.rows[0].requests, 10);
    assert_int_equal(policy.rows[0].errors, 4);
    assert_int_equal(policy.rows[1].requests, 0);
    passive_scan(world->health, now += 5000000);
    assert_int_equal(policy.observations, 3); /* nothing happened */
    assert_int_equal(policy.rows[0].requests, 0);
    assert_int_equal(policy.plans, 0);
}

static void
bounds_what_a_policy_may_eject(void **state)
{
    struct world *world = *state;
    uint32_t slots[4];
    uint64_t now;
    char reason[128];
    observed_world(world, slots, &now);
    policy.word = (struct script_observation){OBSERVE_EJECT, 3000000, "it was told to"};
    for (unsigned i = 0; i < 4; i++)
        fail_in_a_row(world, slots[i], 1);
    passive_scan(world->health, now);
    unsigned ejected = 0;
    for (unsigned i = 0; i < 4; i++)
        ejected += state_of(world, slots[i], NULL) == SLOT_EJECTED;
    assert_int_equal(ejected, 2);
    assert_int_equal(state_of(world, slots[0], reason), SLOT_EJECTED);
    assert_string_equal(reason, "ejected for 3 s: it was told to");
    passive_scan(world->health, now += 3000000);
    assert_true(try_out(world, slots[0], TRIAL_ERROR));
    passive_scan(world->health, now);
    assert_int_equal(policy.seen.trial, TRIAL_ERROR);
    assert_int_equal(policy.seen.ejections, 1);
    assert_int_equal(policy.seen.ejected, 2);
    assert_int_equal(
        state_of(world, slots[0], NULL), SLOT_EJECTED); /* again: it holds its place in the half */
    policy.word = (struct script_observation){.action = OBSERVE_RESTORE};
    passive_scan(world->health, now += 3000000);
    assert_true(try_out(world, slots[0], TRIAL_FAILED));
    passive_scan(world->health, now);
    assert_int_equal(state_of(world, slots[0], NULL), SLOT_HEALTHY);
}

static void
ejects_by_its_own_rule_where_the_policy_that_observes_fails(void **state)
{
    struct world *world = *state;
    uint32_t slots[4];
    uint64_t now;
    observed_world(world, slots, &now);
    policy.fails = true;
    fail_in_a_row(world, slots[0], 4);
    passive_scan(world->health, now);
    assert_int_equal(state_of(world, slots[0], NULL), SLOT_HEALTHY);
    fail_in_a_row(world, slots[0], 1);
    passive_scan(world->health, now);
    assert_int_equal(state_of(world, slots[0], NULL), SLOT_EJECTED);
}

static void
lets_no_probe_end_an_ejection(void **state)
{
    struct world *world = *state;
    policy.window_us = 5000000;
    backend_listen(&world->backend, world->base, 0, ok_answer);
    uint32_t slot = endpoint_add(world, "a", world->backend.port, SLOT_HEALTHY);
    endpoint_add(world, "b", world->backend.port, SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    policy.word = (struct script_observation){OBSERVE_EJECT, 3600000000, "it was told to"};
    fail_in_a_row(world, slot, 1);
    passive_scan(world->health, clock_now_us());
    assert_int_equal(state_of(world, slot, NULL), SLOT_EJECTED);
    unsigned judged = policy.judgements;
    WAIT_FOR(world, policy.judgements >= judged + 6);
    assert_int_equal(state_of(world, slot, NULL), SLOT_EJECTED);
    backend_close(&world->backend);
    WAIT_FOR(world, state_of(world, slot, NULL) == SLOT_UNHEALTHY); /* worse news, though, is heard */
}

static void
counts_a_panic_once_until_it_is_over(void **state)
{
    struct world *world = *state;
    world->service.health.enabled = false;
    world->service.panic_percent = 60;
    uint32_t slot = endpoint_add(world, "a", refusing_port(), SLOT_HEALTHY);
    endpoint_add(world, "b", refusing_port(), SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    uint64_t now = clock_now_us();
    passive_scan(world->health, now);
    assert_int_equal(atomic_load(&shm_totals(world->shm)->panics), 0);
    fail_in_a_row(world, slot, 5);
    for (int i = 0; i < 3; i++)
        passive_scan(world->health, now);
    assert_int_equal(atomic_load(&shm_totals(world->shm)->panics), 1);
    health_use(world->health, &world->config, NULL); /* a reload does not begin it anew */
    passive_scan(world->health, now);
    assert_int_equal(atomic_load(&shm_totals(world->shm)->panics), 1);
    passive_scan(world->health, now += 11100000);
    assert_true(try_out(world, slot, TRIAL_PASSED));
    passive_scan(world->health, now);
    passive_scan(world->health, now);
    slot_set_state(world->shm, slot, SLOT_UNHEALTHY, "bad again");
    health_refresh(world->health);
    passive_scan(world->health, now);
    assert_int_equal(atomic_load(&shm_totals(world->shm)->panics), 2);
}

static void
never_ejects_the_last_one(void **state)
{
    struct world *world = *state;
    world->service.health.enabled = false;
    uint32_t slot = endpoint_add(world, "a", refusing_port(), SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    fail_in_a_row(world, slot, 50);
    for (int i = 0; i < 3; i++)
        passive_scan(world->health, clock_now_us());
    assert_int_equal(state_of(world, slot, NULL), SLOT_HEALTHY);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(probes_at_once_what_fails_under_traffic),
        TEST(ejects_what_fails_where_nothing_probes_but_never_more_than_half),
        TEST(ejects_again_for_longer_where_the_trial_after_an_ejection_fails),
        TEST(offers_another_trial_where_nobody_says_how_the_last_one_went),
        TEST(keeps_an_ejection_over_a_restart_of_control),
        TEST(tells_a_policy_what_a_window_held_and_what_came_in_a_row),
        TEST(bounds_what_a_policy_may_eject),
        TEST(ejects_by_its_own_rule_where_the_policy_that_observes_fails),
        TEST(lets_no_probe_end_an_ejection),
        TEST(counts_a_panic_once_until_it_is_over),
        TEST(never_ejects_the_last_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
