/* What a runaway leaves behind: a fresh state in place of the old one, in which everybody else goes on. */
#include "spec/unit/script/support.h"

#include "core/base/clock.h"
#include "core/script/script_internal.h"

enum { HARD_US = 20000 };

#define HANG "local x = 0 while true do x = x + 1 end"
#define STRATEGY(at)                                                                                         \
    "local S = {} S.__index = S function S.new() return setmetatable({}, S) end " at " return S"
#define PICK(body) "function S:pick(request, backends) " body " end "
#define FIRST      PICK("return backends[1]")

static uint64_t
total(struct fixture *f, size_t offset)
{
    return atomic_load((_Atomic uint64_t *)(void *)((char *)shm_totals(f->shm) + offset));
}
#define TOTAL(f, name) total(f, offsetof(struct shm_totals, name))

static void
load(struct fixture *f, const char *source)
{
    fixture_init(f);
    fixture_strategy(f, 0, "/mem/hostile.lua", source, "{}");
    fixture_strategy(f, 1, "/mem/counts.lua",
        STRATEGY(PICK("self.n = (self.n or 0) + 1 return backends[1 + self.n % 2]")), "{}");
    fixture_endpoint(f, 0, "a", SLOT_HEALTHY, 1);
    fixture_endpoint(f, 1, "b1", SLOT_HEALTHY, 1);
    fixture_endpoint(f, 1, "b2", SLOT_HEALTHY, 1);
    fixture_load(f);
    f->script->hard_budget_us = HARD_US;
}

static struct plugin *
hostile(struct fixture *f)
{
    return &f->script->services[0].strategy;
}

/* As if its quarantine were over. */
static void
let_back_in(struct fixture *f)
{
    hostile(f)->quarantined_until_us = 1;
    atomic_store(hostile(f)->stuck_until_us, 0);
}

static void
abandons_a_pick_and_serves_both_services_at_once(void **state)
{
    struct fixture f;
    struct script_status rows[4];
    (void)state;
    load(&f, STRATEGY(PICK(HANG)));
    assert_int_not_equal(fixture_pick(&f, 0), SLOT_NONE); /* by the fallback */
    assert_int_equal(TOTAL(&f, script_abandonments), 1);
    assert_int_equal(TOTAL(&f, script_fallbacks), 1);
    assert_non_null(f.script->L);
    for (int i = 0; i < 100; i++)
        assert_int_not_equal(fixture_pick(&f, 0), SLOT_NONE);
    assert_int_equal(TOTAL(&f, script_abandonments), 1); /* quarantined: nobody calls it */
    uint32_t first = fixture_pick(&f, 1), second = fixture_pick(&f, 1);
    assert_int_not_equal(first, second); /* its own strategy, not the fallback */
    for (int i = 0; i < 100; i++)
        assert_int_equal(fixture_pick(&f, 1), i % 2 == 0 ? first : second);
    assert_int_equal(script_status(f.script, rows, 4), 3);
    assert_true(rows[0].quarantined_until_us > 0);
    assert_non_null(
        strstr(rows[0].last_error, "pick: /mem/hostile.lua:1: did not return within 250 ms of CPU"));
    assert_int_equal(rows[1].errors, 0);
    assert_int_equal(rows[1].quarantined_until_us, 0);
    fixture_fini(&f);
}

static void
abandons_on_change_and_does_not_run_it_in_the_new_state(void **state)
{
    struct fixture f;
    (void)state;
    load(&f, STRATEGY(FIRST "function S:on_change(backends) if #backends > 1 then " HANG " end end "));
    fixture_endpoint(&f, 0, "a2", SLOT_HEALTHY, 1);
    script_refresh(f.script);
    assert_null(f.script->L);
    assert_int_not_equal(fixture_pick(&f, 1), SLOT_NONE); /* a pick mends it as well */
    assert_non_null(f.script->L);
    assert_int_equal(TOTAL(&f, script_abandonments), 1);
    fixture_endpoint(&f, 0, "a3", SLOT_HEALTHY, 1);
    script_refresh(f.script);
    assert_int_equal(TOTAL(&f, script_abandonments), 1);
    assert_int_not_equal(fixture_pick(&f, 0), SLOT_NONE);
    fixture_fini(&f);
}

static void
abandons_on_result(void **state)
{
    struct fixture f;
    (void)state;
    load(&f, STRATEGY(FIRST "function S:on_result() " HANG " end "));
    uint32_t slot = fixture_pick(&f, 0);
    script_result(f.script, fixture_request(&f, 0), slot, &(struct script_result){.status = 200});
    assert_non_null(f.script->L);
    assert_int_equal(TOTAL(&f, script_abandonments), 1);
    assert_int_equal(fixture_pick(&f, 0), slot);
    fixture_fini(&f);
}

static void
lets_it_back_in_when_its_quarantine_is_over(void **state)
{
    struct fixture f;
    (void)state;
    load(&f, STRATEGY("local calls = gateway.counter('calls') " PICK(
                 "if calls:next() < 2 then " HANG " end return nil, 'none'")));
    fixture_pick(&f, 0);
    assert_false(hostile(&f)->is_loaded); /* nothing of it runs, not even its new() */
    uint64_t first = hostile(&f)->quarantined_until_us - clock_now_us();
    let_back_in(&f);
    assert_int_not_equal(fixture_pick(&f, 0), SLOT_NONE); /* loads it, for the next */
    assert_true(hostile(&f)->is_loaded);
    assert_int_not_equal(fixture_pick(&f, 0), SLOT_NONE); /* and it hangs again */
    assert_int_equal(TOTAL(&f, script_abandonments), 2);
    uint64_t second = hostile(&f)->quarantined_until_us - clock_now_us();
    assert_true(second > first + first / 2); /* out for longer each time */
    let_back_in(&f);
    assert_int_not_equal(fixture_pick(&f, 0), SLOT_NONE);
    assert_int_equal(fixture_pick(&f, 0), SLOT_NONE); /* its own answer */
    fixture_fini(&f);
}

static void
keeps_out_what_hangs_while_the_new_state_is_built(void **state)
{
    struct fixture f;
    (void)state;
    load(&f, STRATEGY("local calls = gateway.counter('calls') local n = calls:next() " PICK(HANG)));
    fixture_strategy(&f, 2, "/mem/late.lua",
        STRATEGY(
            "if gateway.counter('loads'):next() > 0 then local s = ('a'):rep(100) s:find(('a-'):rep(60) .. "
            "'b') end " FIRST),
        "{}");
    fixture_endpoint(&f, 2, "c", SLOT_HEALTHY, 1);
    script_free(f.script);
    fixture_load(&f);
    f.script->hard_budget_us = HARD_US;
    assert_int_not_equal(fixture_pick(&f, 0), SLOT_NONE);
    for (int i = 0; i < 4; i++) {
        script_refresh(f.script);
        assert_int_not_equal(fixture_pick(&f, 0), SLOT_NONE);
        assert_int_not_equal(fixture_pick(&f, 1), SLOT_NONE);
        assert_int_not_equal(fixture_pick(&f, 2), SLOT_NONE);
    }
    assert_non_null(f.script->L);
    assert_true(f.script->services[1].strategy.is_loaded);
    assert_int_equal(f.script->services[1].strategy.errors, 0);
    assert_true(f.script->services[2].strategy.quarantined_until_us > 0);
    assert_non_null(strstr(f.script->services[2].strategy.last_error, "/mem/late.lua:1: did not return"));
    fixture_fini(&f);
}

static void
forgets_the_ctx_of_requests_that_began_in_the_old_state(void **state)
{
    struct fixture f;
    uint32_t slot;
    enum reason reason;
    (void)state;
    load(&f, STRATEGY(PICK(HANG)));
    fixture_strategy(&f, 2, "/mem/ctx.lua",
        STRATEGY(PICK("local n = request.ctx.n request.ctx.n = 1 if n then "
                      "return nil end return backends[1]")),
        "{}");
    fixture_endpoint(&f, 2, "c", SLOT_HEALTHY, 1);
    script_free(f.script);
    fixture_load(&f);
    f.script->hard_budget_us = HARD_US;
    struct script_request kept = *fixture_request(&f, 2);
    assert_int_equal(script_pick(f.script, &kept, &slot, &reason), SCRIPT_PICKED);
    assert_int_equal(script_pick(f.script, &kept, &slot, &reason), SCRIPT_NONE); /* it remembers */
    fixture_pick(&f, 0);
    assert_int_equal(TOTAL(&f, script_abandonments), 1);
    assert_int_equal(script_pick(f.script, &kept, &slot, &reason), SCRIPT_PICKED);
    script_request_done(f.script, &kept);
    fixture_fini(&f);
}

static void
reports_a_load_that_hangs_in_a_c_function_with_file_and_line(void **state)
{
    struct fixture f;
    (void)state;
    fixture_init(&f);
    fixture_strategy(
        &f, 0, "/mem/hang.lua", "local s = ('a'):rep(100)\nlocal x = 1\ns:find(('a-'):rep(60) .. 'b')", "{}");
    fixture_load_as(&f, SCRIPT_CHECKER);
    assert_non_null(f.script);
    assert_int_equal(f.diags.count, 1);
    assert_non_null(strstr(f.diags.rows[0].text, "/mem/hang.lua:3"));
    assert_non_null(strstr(f.diags.rows[0].text, "did not return: loading may take 2 s of CPU time"));
    fixture_fini(&f);
}

static void
drops_the_state_of_a_script_that_keeps_its_memory(void **state)
{
    struct fixture f;
    struct script_status rows[4];
    (void)state;
    load(
        &f, STRATEGY(PICK("kept = kept or {} kept[#kept + 1] = ('x'):rep(4e5) .. #kept return backends[1]")));
    for (int i = 0; i < 400; i++) {
        assert_int_not_equal(fixture_pick(&f, 0), SLOT_NONE);
        assert_int_not_equal(fixture_pick(&f, 1), SLOT_NONE);
    }
    assert_int_equal(TOTAL(&f, script_memory_runaways), 1);
    assert_int_equal(script_status(f.script, rows, 4), 3);
    assert_true(rows[0].quarantined_until_us > 0);
    assert_int_equal(rows[1].errors, 0);
    assert_true(script_memory_bytes(f.script) < (8u << 20));
    fixture_fini(&f);
}

/* It fills the heap to just below its cap, and the other, which asks for little, is the one that gets none.
 */
static void
finds_the_script_that_holds_the_memory_and_not_the_one_that_ran_out(void **state)
{
    struct fixture f;
    struct script_status rows[4];
    /* It fills the heap to just below its cap, and the other, which asks for little, is the one that gets
     * none. */
    (void)state;
    load(&f, STRATEGY(PICK(
                 "kept = kept or {} local room = 65000 * 1024 - collectgarbage('count') * 1024 if room > "
                 "2000 then kept[#kept + 1] = ('x'):rep(math.min(room - 1000, 5e5)) .. #kept end return "
                 "backends[1]")));
    fixture_strategy(&f, 2, "/mem/modest.lua",
        STRATEGY(PICK(
            "calls = (calls or 0) + 1 local text = calls > 300 and ('y'):rep(800000) return backends[1]")),
        "{}");
    fixture_endpoint(&f, 2, "c", SLOT_HEALTHY, 1);
    script_free(f.script);
    fixture_load(&f);
    for (int i = 0; i < 400; i++) {
        assert_int_not_equal(fixture_pick(&f, 0), SLOT_NONE);
        assert_int_not_equal(fixture_pick(&f, 2), SLOT_NONE);
        assert_int_not_equal(fixture_pick(&f, 1), SLOT_NONE);
    }
    assert_true(TOTAL(&f, script_memory_runaways) >= 1);
    assert_int_equal(script_status(f.script, rows, 4), 3);
    assert_true(rows[0].quarantined_until_us > 0);
    assert_int_equal(rows[1].quarantined_until_us, 0);
    assert_int_equal(rows[2].quarantined_until_us, 0);
    fixture_fini(&f);
}

static void
keeps_no_native_of_the_old_state(void **state)
{
    struct fixture f;
    (void)state;
    load(&f, "local set = gateway.ip_set { '10.0.0.0/8' } " STRATEGY(
                 PICK("local kept = set:has('10.0.0.1') " HANG)));
    assert_int_equal(f.script->native_count, 1);
    assert_int_not_equal(fixture_pick(&f, 0), SLOT_NONE);
    assert_int_equal(TOTAL(&f, script_abandonments), 1);
    assert_int_equal(f.script->native_count, 0); /* it is not loaded while it is out */
    assert_int_equal(f.script->prefix_count, 0);
    let_back_in(&f);
    assert_int_not_equal(fixture_pick(&f, 0), SLOT_NONE);
    fixture_fini(&f);
}

/* A plug-in that is let in is loaded by one pick and called by the next. */
static void
hang_again(struct fixture *f, unsigned times)
{
    for (int i = 0; i < 3 && TOTAL(f, script_abandonments) < times; i++)
        assert_int_not_equal(fixture_pick(f, 0), SLOT_NONE);
    assert_int_equal(TOTAL(f, script_abandonments), times);
}

/* Else each successor of a process that gave up would try again what hangs as if for the first time. */
static void
hands_on_how_often_it_hung_but_not_over_a_reload(void **state)
{
    struct fixture f;
    (void)state;
    load(&f, STRATEGY(PICK(HANG)));
    for (unsigned i = 1; i <= 2; i++) {
        hang_again(&f, i);
        assert_int_equal(hostile(&f)->runaways, i);
        let_back_in(&f);
    }
    script_free(f.script);
    fixture_load(&f); /* its successor */
    f.script->hard_budget_us = HARD_US;
    assert_int_equal(hostile(&f)->runaways, 2);
    let_back_in(&f);
    hang_again(&f, 3);
    assert_int_equal(hostile(&f)->runaways, 3);
    uint64_t left_us = hostile(&f)->quarantined_until_us - clock_now_us();
    assert_true(left_us > 2ull * SCRIPT_QUARANTINE_US && left_us <= 4ull * SCRIPT_QUARANTINE_US);
    struct script *old = f.script;
    struct script_env env = {.role = SCRIPT_WORKER, .config = &f.config, .bundle = f.bundle, .shm = f.shm};
    f.script = script_new(&env, old, &f.diags);
    script_free(old);
    assert_int_equal(hostile(&f)->runaways, 0);
    fixture_fini(&f);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(abandons_a_pick_and_serves_both_services_at_once),
        cmocka_unit_test(abandons_on_change_and_does_not_run_it_in_the_new_state),
        cmocka_unit_test(abandons_on_result),
        cmocka_unit_test(lets_it_back_in_when_its_quarantine_is_over),
        cmocka_unit_test(hands_on_how_often_it_hung_but_not_over_a_reload),
        cmocka_unit_test(keeps_out_what_hangs_while_the_new_state_is_built),
        cmocka_unit_test(forgets_the_ctx_of_requests_that_began_in_the_old_state),
        cmocka_unit_test(reports_a_load_that_hangs_in_a_c_function_with_file_and_line),
        cmocka_unit_test(drops_the_state_of_a_script_that_keeps_its_memory),
        cmocka_unit_test(keeps_no_native_of_the_old_state),
        cmocka_unit_test(finds_the_script_that_holds_the_memory_and_not_the_one_that_ran_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
