/* What pick() may answer, and what serves where it may not: core/script/pick.c. */
#include "spec/unit/script/picks.h"

static void
answers_a_wrong_return_value_by_the_fallback_and_counts_it(void **state)
{
    static const char *const bodies[] = {
        PICK("return 1"),
        PICK("return {}"),
        PICK("return 'x'"),
        PICK("return 1LL"),
        PICK("return request"),
        PICK("return backends"),
        PICK("return true"),
        PICK("error('no')"),
        PICK("error(nil)"),
        PICK("error({})"),
        PICK("return backends[1] + 1"),
        PICK("return nil .. 1"),
        PICK("return self.service:endpoints()[3]"),
        PICK("foreign = foreign or backends[1] return foreign"),
        PICK("backends[1].weight = 7 return backends[1]"),
        PICK("coroutine.yield(backends[1])"),
        PICK("return setmetatable({}, { __index = error })"),
        PICK("return request:bound('sick') or 1"),
    };
    (void)state;
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        struct fixture f;
        fixture_init(&f);
        fixture_strategy(&f, 0, "/mem/wrong.lua", bodies[i], "{}");
        fixture_strategy(&f, 1, "/mem/wrong.lua", bodies[i], "{}");
        uint32_t a = fixture_endpoint(&f, 0, "a", SLOT_HEALTHY, 1),
                 b = fixture_endpoint(&f, 0, "b", SLOT_HEALTHY, 3);
        fixture_endpoint(&f, 0, "sick", SLOT_UNHEALTHY, 1);
        fixture_endpoint(&f, 1, "other", SLOT_HEALTHY, 1);
        fixture_load(&f);
        if (strstr(bodies[i], "foreign") != NULL) fixture_pick(&f, 1); /* "other" of service b is kept */
        for (int n = 0; n < 5; n++) {
            uint32_t slot = fixture_pick(&f, 0);
            assert_true(slot == a || slot == b);
        }
        if (errors_of(&f, "a") != 5) fail_msg("%s: %d errors", bodies[i], (int)errors_of(&f, "a"));
        assert_int_equal(atomic_load(&shm_totals(f.shm)->script_fallbacks), 5);
        fixture_fini(&f);
    }
}

/* Both are there again, whatever became of the rows. */
static void
gives_back_the_rows_that_a_script_took_out_of_its_array(void **state)
{
    static const char *const bodies[] = {
        PICK("table.remove(backends, 1) return backends[1]"),
        PICK("rawset(backends, 1, nil) return backends[1]"),
        PICK("backends[1] = 'x' return backends[1]"),
        PICK("for i = #backends, 1, -1 do backends[i] = nil end return nil"),
        PICK("backends[2] = nil return backends[2].active > 0 and backends[2] or backends[1]"),
    };
    (void)state;
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        struct fixture f;
        fixture_init(&f);
        fixture_strategy(&f, 0, "/mem/taker.lua", bodies[i], "{}");
        uint32_t slots[2] = {
            fixture_endpoint(&f, 0, "a", SLOT_HEALTHY, 1), fixture_endpoint(&f, 0, "b", SLOT_HEALTHY, 1)};
        fixture_load(&f);
        for (int n = 0; n < 2 || errors_of(&f, "a") == 0; n++) {
            uint32_t slot = fixture_pick(&f, 0);
            assert_true(slot == slots[0] || slot == slots[1]);
        }
        assert_non_null(strstr(last_error(&f), "/mem/taker.lua:1: "));
        lua_State *L = f.script->L;
        lua_rawgeti(L, LUA_REGISTRYINDEX, f.script->services[0].offered_ref);
        for (int row = 1; row <= 2; row++) {
            lua_rawgeti(L, -1, row);
            assert_ptr_equal(lua_topointer(L, -1), f.script->by_slot[slots[row - 1]]->view);
            lua_pop(L, 1);
        }
        lua_pop(L, 1);
        fixture_fini(&f);
    }
}

/* Who finds everybody full is not asked what became of the array: what it got was another, and empty. */
static void
has_no_say_where_nobody_has_room(void **state)
{
    struct fixture f;
    uint32_t slot;
    enum reason reason;
    (void)state;
    fixture_init(&f);
    f.services[0].queue.active_per_endpoint = 1;
    fixture_strategy(&f, 0, "/mem/taker.lua", PICK("local b = backends[1] backends[1] = nil return b"), "{}");
    uint32_t only = fixture_endpoint(&f, 0, "a", SLOT_HEALTHY, 1);
    fixture_load(&f);
    assert_int_equal(fixture_pick(&f, 0), only);
    slot_begin(f.shm, 0, only);
    assert_int_equal(script_pick(f.script, fixture_request(&f, 0), &slot, &reason), SCRIPT_NONE);
    assert_int_equal(reason, REASON_ALL_FULL);
    assert_int_equal(errors_of(&f, "a"), 0);
    slot_end(f.shm, 0, only);
    assert_int_equal(fixture_pick(&f, 0), only); /* by the fallback */
    assert_int_equal(errors_of(&f, "a"), 1);
    fixture_fini(&f);
}

static void
takes_nil_for_none_and_counts_no_error(void **state)
{
    static const char *const bodies[] = {PICK("return nil"), PICK("return nil, 'because'"),
        PICK("table.sort(backends, function(x, y) return x.id > y.id end) return nil")};
    (void)state;
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        struct fixture f;
        uint32_t slot;
        enum reason reason;
        fixture_init(&f);
        fixture_strategy(&f, 0, "/mem/none.lua", bodies[i], "{}");
        fixture_endpoint(&f, 0, "a", SLOT_HEALTHY, 1);
        fixture_endpoint(&f, 0, "b", SLOT_HEALTHY, 1);
        fixture_load(&f);
        for (int n = 0; n < 2; n++) {
            assert_int_equal(script_pick(f.script, fixture_request(&f, 0), &slot, &reason), SCRIPT_NONE);
            assert_int_equal(reason, REASON_NO_ENDPOINTS);
        }
        assert_int_equal(atomic_load(&shm_totals(f.shm)->script_errors), 0);
        fixture_fini(&f);
    }
}

static void
refuses_a_backend_that_was_kept_after_it_went(void **state)
{
    struct fixture f;
    (void)state;
    fixture_init(&f);
    fixture_strategy(&f, 0, "/mem/keeper.lua",
        PICK("kept = kept or backends[1] assert(kept.id ~= nil) return kept"), "{}");
    uint32_t a = fixture_endpoint(&f, 0, "a", SLOT_HEALTHY, 1),
             b = fixture_endpoint(&f, 0, "b", SLOT_HEALTHY, 1);
    fixture_load(&f);
    assert_int_equal(fixture_pick(&f, 0), a);
    slot_remove(f.shm, a);
    script_refresh(f.script);
    assert_int_equal(fixture_pick(&f, 0), b);
    assert_int_equal(errors_of(&f, "a"), 1);
    shm_reap(f.shm);
    uint32_t again = fixture_endpoint(&f, 0, "new owner of the slot", SLOT_HEALTHY, 1);
    slot_set_state(f.shm, b, SLOT_UNHEALTHY, "test");
    script_refresh(f.script);
    assert_int_equal(fixture_pick(&f, 0), again); /* by the fallback: the old view is not the new endpoint */
    assert_int_equal(errors_of(&f, "a"), 2);
    fixture_fini(&f);
}

static void
falls_back_by_weight(void **state)
{
    struct fixture f;
    int heavy = 0;
    (void)state;
    fixture_init(&f);
    fixture_strategy(&f, 0, "/mem/wrong.lua", PICK("error('no')"), "{}");
    uint32_t slot = fixture_endpoint(&f, 0, "heavy", SLOT_HEALTHY, 3);
    fixture_endpoint(&f, 0, "light", SLOT_HEALTHY, 1);
    fixture_load(&f);
    for (int i = 0; i < 4000; i++)
        heavy += fixture_pick(&f, 0) == slot;
    assert_in_range(heavy, 3000 - 137, 3000 + 137); /* 5 standard deviations of B(4000, 3/4) */
    fixture_fini(&f);
}

static void
quarantines_a_strategy_that_keeps_failing(void **state)
{
    struct fixture f;
    struct script_status rows[8];
    (void)state;
    fixture_init(&f);
    fixture_strategy(&f, 0, "/mem/wrong.lua", PICK("calls = (calls or 0) + 1 error('call ' .. calls)"), "{}");
    uint32_t a = fixture_endpoint(&f, 0, "a", SLOT_HEALTHY, 1);
    fixture_endpoint(&f, 1, "b", SLOT_HEALTHY, 1);
    fixture_load(&f);
    for (int i = 0; i < 100; i++)
        assert_int_equal(fixture_pick(&f, 0), a);
    assert_int_equal(errors_of(&f, "a"), 10);
    assert_true(script_status(f.script, rows, 8) >= 2);
    assert_true(rows[0].quarantined_until_us > 0);
    assert_string_equal(rows[0].last_error, "pick: /mem/wrong.lua:1: call 10");
    assert_int_equal(rows[1].quarantined_until_us, 0);
    assert_int_equal(atomic_load(&shm_totals(f.shm)->script_quarantines), 1);
    f.script->services[0].strategy.quarantined_until_us = 1; /* its time is over */
    assert_int_equal(fixture_pick(&f, 0), a);
    assert_int_equal(errors_of(&f, "a"), 11);
    fixture_fini(&f);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_a_wrong_return_value_by_the_fallback_and_counts_it),
        cmocka_unit_test(gives_back_the_rows_that_a_script_took_out_of_its_array),
        cmocka_unit_test(has_no_say_where_nobody_has_room),
        cmocka_unit_test(takes_nil_for_none_and_counts_no_error),
        cmocka_unit_test(refuses_a_backend_that_was_kept_after_it_went),
        cmocka_unit_test(falls_back_by_weight),
        cmocka_unit_test(quarantines_a_strategy_that_keeps_failing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
