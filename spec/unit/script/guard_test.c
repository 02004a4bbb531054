#include "spec/unit/script/support.h"

#include <luajit.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/script/script_internal.h"

#define PICK(body)                                                                                           \
    "local S = {} S.__index = S function S.new(o, s) return setmetatable({ service = s }, S) end "           \
    "function S:pick(request, backends) " body " end return S"

#define STEP "n = (n or 0) + 1 "

static const struct {
    const char *name, *source;
    bool is_memory;
} hostile[] = {
    {"endless loop", PICK("while true do " STEP "end"), false},
    {"loop inside pcall", PICK("while true do pcall(function() while true do " STEP "end end) end"), false},
    {"pcall that calls itself again", PICK("local function f() pcall(f) " STEP " return f() end f()"), false},
    {"loop inside xpcall's handler",
        PICK("while true do xpcall(error, function() while true do " STEP "end end) end"), false},
    {"loop in a coroutine",
        PICK("while true do local c = coroutine.wrap(function() while true do " STEP "end end) pcall(c) end"),
        false},
    {"loop of yields",
        PICK("local c = coroutine.wrap(function() while true do " STEP
             "coroutine.yield() end end) while true do pcall(c) end"),
        false},
    {"loop in a sort",
        PICK("local t = {} for i = 1, 100 do t[i] = i end while true do table.sort(t, function(a, b) " STEP
             "return a > b end) end"),
        false},
    {"loop in a metamethod",
        PICK("local t = setmetatable({}, { __index = function(t, k) while true do " STEP
             "end end }) return t.x"),
        false},
    {"string that grows", PICK("local s = 'x' while true do s = s .. s end"), true},
    {"string.rep bomb", PICK("return ('x'):rep(1e9)"), true},
    {"table that grows", PICK("local t = {} for i = 1, 1e9 do t[i] = {} end"), true},
    {"table of strings kept in a global",
        PICK("kept = kept or {} while true do kept[#kept + 1] = ('x'):rep(1e6) .. #kept end"), true},
    {"deep recursion", PICK("local function f(n) return 1 + f(n + 1) end return f(1)"), true},
    {"deep metatable chain",
        PICK("local t = {} for _ = 1, 1e6 do t = setmetatable({}, { __index = t }) end return t.x"), true},
};

static void
ends_every_hostile_pick_and_serves_by_the_fallback(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof hostile / sizeof hostile[0]; i++) {
        struct fixture f;
        struct script_status rows[8];
        fixture_init(&f);
        fixture_strategy(&f, 0, "/mem/hostile.lua", hostile[i].source, "{}");
        uint32_t a = fixture_endpoint(&f, 0, "a", SLOT_HEALTHY, 1),
                 b = fixture_endpoint(&f, 1, "b", SLOT_HEALTHY, 1);
        fixture_load(&f);
        /* Compiled loops take no hooks; the supervisor's watchdog ends those, and its spec is an integration
         * spec. */
        luaJIT_setmode(f.script->L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF);
        for (int n = 0; n < 4; n++) {
            uint64_t start = clock_now_us();
            assert_int_equal(fixture_pick(&f, 0), a);
            uint64_t took = clock_now_us() - start;
            /* the budget is 50 ms of CPU; the rest is for a busy machine and the sanitizers */
            if (took > 3000000) fail_msg("%s took %d ms", hostile[i].name, (int)(took / 1000));
            assert_int_equal(fixture_pick(&f, 1), b); /* the other service does not notice */
        }
        assert_true(script_status(f.script, rows, 8) == 3);
        if (rows[0].errors == 0) fail_msg("%s raised nothing", hostile[i].name);
        if (!hostile[i].is_memory && strstr(rows[0].last_error, "ran too long") == NULL) {
            fail_msg("%s: %s", hostile[i].name, rows[0].last_error);
        }
        if (!hostile[i].is_memory)
            assert_true(rows[0].quarantined_until_us > 0); /* two runaways are enough */
        assert_int_equal(rows[1].errors, 0);
        assert_true(script_memory_bytes(f.script) < (64u << 20));
        fixture_fini(&f);
    }
}

/* A loop that LuaJIT compiles takes no hook. The worker that is in it is lost, but no other goes the same
 * way. */
static void
keeps_the_other_workers_out_of_a_script_that_one_is_stuck_in(void **state)
{
    struct fixture f;
    struct script_status rows[8];
    (void)state;
    fixture_init(&f);
    fixture_strategy(&f, 0, "/mem/stuck.lua", PICK("local x = 0 while true do x = x + 1 end"), "{}");
    uint32_t a = fixture_endpoint(&f, 0, "a", SLOT_HEALTHY, 1),
             b = fixture_endpoint(&f, 1, "b", SLOT_HEALTHY, 1);
    _Atomic uint64_t *stuck = shm_counter(f.shm, SLICE_LIT("fluxgate/stuck/strategy/a"));
    assert_non_null(stuck);
    pid_t pid = fork();
    assert_int_not_equal(pid, -1);
    if (pid == 0) {
        fixture_load(&f);
        fixture_pick(&f, 0);
        _exit(0); /* not reached */
    }
    for (uint64_t start = clock_now_us(); atomic_load(stuck) == 0 && clock_now_us() - start < 30000000;) {
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    uint64_t until = atomic_load(stuck);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_true(until > clock_now_us());
    fixture_load(&f); /* its successor */
    for (int i = 0; i < 10; i++) {
        assert_int_equal(fixture_pick(&f, 0), a);
        assert_int_equal(fixture_pick(&f, 1), b);
    }
    assert_true(script_status(f.script, rows, 8) == 3);
    assert_true(rows[0].quarantined_until_us > 0);
    assert_int_equal(rows[1].quarantined_until_us, 0);
    struct script *old = f.script;
    struct script_env env = {.role = SCRIPT_WORKER, .config = &f.config, .bundle = f.bundle, .shm = f.shm};
    f.script = script_new(&env, old, &f.diags); /* a reload: perhaps it is mended */
    script_free(old);
    assert_int_equal(atomic_load(stuck), 0);
    fixture_fini(&f);
}

static void
marks_the_worker_while_it_is_inside_a_script(void **state)
{
    struct fixture f;
    (void)state;
    fixture_init(&f);
    fixture_endpoint(&f, 0, "a", SLOT_HEALTHY, 1);
    uint32_t name = shm_name_add(f.shm, SLICE_LIT("round_robin"));
    fixture_load(&f);
    struct shm_worker *mark = shm_worker(f.shm, 0);
    assert_int_equal(atomic_load(&mark->in_script_since_us), 0);
    fixture_pick(&f, 0);
    assert_int_equal(atomic_load(&mark->in_script_since_us), 0);
    assert_int_equal(atomic_load(&mark->script), name);
    fixture_fini(&f);
}

static void
leaves_a_fast_script_alone_for_seconds_of_picks(void **state)
{
    struct fixture f;
    (void)state;
    fixture_init(&f);
    fixture_endpoint(&f, 0, "a", SLOT_HEALTHY, 1);
    fixture_load(&f);
    struct timespec cpu;
    do { /* the timer ticks over a hundred times meanwhile */
        for (int i = 0; i < 1000; i++)
            assert_int_not_equal(fixture_pick(&f, 0), SLOT_NONE);
        assert_int_equal(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu), 0);
    } while (cpu.tv_sec < 1);
    assert_int_equal(atomic_load(&shm_totals(f.shm)->script_errors), 0);
    assert_int_equal(atomic_load(&shm_totals(f.shm)->script_fallbacks), 0);
    fixture_fini(&f);
}

static void
collects_what_a_wasteful_strategy_leaves(void **state)
{
    struct fixture f;
    uint64_t longest_us = 0;
    (void)state;
    fixture_init(&f);
    fixture_strategy(&f, 0, "/mem/waste.lua",
        PICK("n = (n or 0) + 1 self.last = { n, { n }, 'request ' .. n, ('x'):rep(200) .. n } return "
             "backends[1]"),
        "{}");
    fixture_endpoint(&f, 0, "a", SLOT_HEALTHY, 1);
    fixture_load(&f);
    size_t before = script_memory_bytes(f.script);
    for (int i = 0; i < 100000; i++) { /* some 60 MB of garbage */
        uint64_t start = clock_now_us();
        assert_int_not_equal(fixture_pick(&f, 0), SLOT_NONE);
        uint64_t took = clock_now_us() - start;
        if (took > longest_us) longest_us = took;
    }
    print_message("longest pick: %d us\n", (int)longest_us);
    assert_true(script_memory_bytes(f.script) < before + (4u << 20));
    assert_int_equal(atomic_load(&shm_totals(f.shm)->script_errors), 0);
    fixture_fini(&f);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ends_every_hostile_pick_and_serves_by_the_fallback),
        cmocka_unit_test(keeps_the_other_workers_out_of_a_script_that_one_is_stuck_in),
        cmocka_unit_test(marks_the_worker_while_it_is_inside_a_script),
        cmocka_unit_test(collects_what_a_wasteful_strategy_leaves),
        cmocka_unit_test(leaves_a_fast_script_alone_for_seconds_of_picks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
