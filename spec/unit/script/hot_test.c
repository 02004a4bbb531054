#include "spec/unit/script/support.h"

#include <lauxlib.h>

#include "core/base/clock.h"
#include "core/script/script_internal.h"

enum { BACKENDS = 10, WARM_UP = 20000, PICKS = 10000 };

static int
count_aborts(lua_State *L)
{
    lua_getglobal(L, "trace_aborts");
    int count = (int)lua_tointeger(L, -1);
    lua_pop(L, 1);
    return count;
}

static const char *
last_abort(lua_State *L)
{
    lua_getglobal(L, "last_abort");
    return lua_isstring(L, -1) ? lua_tostring(L, -1) : "";
}

/* Drives one strategy and fails on a trace that was aborted or on a byte that stayed. */
static void
drive(const char *name, const char *cookie)
{
    struct fixture f;
    char file[600], id[16], value[128];
    uint32_t slot;
    enum reason reason;
    fixture_init(&f);
    snprintf(file, sizeof file, "%s/strategies/%s.lua", bundle_share_dir(), name);
    f.services[0].strategy.name = name;
    f.services[0].strategy.file = file;
    for (int i = 0; i < BACKENDS; i++) {
        snprintf(id, sizeof id, "backend-%d", i);
        fixture_endpoint(&f, 0, id, SLOT_HEALTHY, 1 + (uint32_t)i % 3);
    }
    fixture_load(&f);
    /* Codes 8 to 10 are no verdict on the code: the recorder happened to begin near a loop's end or in an
     * inner loop, by the addresses of the day, and begins elsewhere the next time. */
    lua_State *L = f.script->L;
    assert_int_equal(
        luaL_dostring(L, "trace_aborts = 0 require('jit').attach(function(what, _, fn, pc, code, reason)\n"
                         "  if what == 'abort' and not (code >= 8 and code <= 10) then trace_aborts = "
                         "trace_aborts + 1 last_abort = code .. '/' "
                         ".. tostring(reason)\n"
                         "  end end, 'trace')"),
        0);
    if (cookie != NULL) {
        assert_int_equal(script_pick(f.script, fixture_request(&f, 0), &slot, &reason), SCRIPT_PICKED);
        struct slice sent = f.request.set_cookies.rows[0].value;
        snprintf(value, sizeof value, "%.*s", (int)strcspn(sent.at, ";"), sent.at);
        fixture_header(&f, "Cookie", value);
    }
    fixture_request(&f, 0);
    for (int i = 0; i < WARM_UP; i++)
        assert_int_equal(script_pick(f.script, &f.request, &slot, &reason), SCRIPT_PICKED);
    lua_gc(L, LUA_GCCOLLECT, 0);
    lua_gc(L, LUA_GCSTOP, 0);
    size_t before = script_memory_bytes(f.script);
    uint64_t start = clock_now_us();
    for (int i = 0; i < PICKS; i++)
        assert_int_equal(script_pick(f.script, &f.request, &slot, &reason), SCRIPT_PICKED);
    print_message("%s: %d ns a pick over %d endpoints\n", name,
        (int)((clock_now_us() - start) * 1000 / PICKS), BACKENDS);
    assert_int_equal(script_memory_bytes(f.script), before);
    if (count_aborts(L) != 0)
        fail_msg("%s: %d trace aborts, the last for %s", name, count_aborts(L), last_abort(L));
    assert_int_equal(atomic_load(&shm_totals(f.shm)->script_errors), 0);
    fixture_fini(&f);
}

static void
round_robin_makes_no_garbage_and_aborts_no_trace(void **state)
{
    (void)state;
    drive("round_robin", NULL);
}

static void
least_connections_makes_no_garbage_and_aborts_no_trace(void **state)
{
    (void)state;
    drive("least_connections", NULL);
}

static void
sticky_sessions_makes_no_garbage_and_aborts_no_trace(void **state)
{
    (void)state;
    drive("sticky_sessions", "SESSIONID");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_robin_makes_no_garbage_and_aborts_no_trace),
        cmocka_unit_test(least_connections_makes_no_garbage_and_aborts_no_trace),
        cmocka_unit_test(sticky_sessions_makes_no_garbage_and_aborts_no_trace),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
