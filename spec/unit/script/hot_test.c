#include "spec/unit/script/support.h"

#include <lauxlib.h>

#include "core/base/clock.h"
#include "core/script/script_internal.h"

enum { WARM_UP = 20000, PICKS = 10000, ROUNDS = 8 };

struct hot_case {
    const char *name;
    const char *options; /* NULL: none */
    bool has_cookie;     /* the strategy sets one; the picks carry it */
    bool has_results;    /* on_result is driven too */
};

/* Two kinds of aborts: what LuaJIT cannot compile at all (the numbers are of lj_traceerr.h; such code stays
 * interpreted for ever), and a recording that ended where it could not go on and is tried again later, which
 * must be over when the picks are counted. A function that was given up for good has an opcode of its own. */
static const char WATCH[] =
    "local never = { [5] = 1, [7] = 1, [12] = 1, [15] = 1, [20] = 1, [22] = 1, [23] = 1, [32] = 1 }\n"
    "local util = require 'jit.util'\n"
    "refused, retried, last_abort = 0, 0, ''\n"
    "require('jit').attach(function(what, _, fn, pc, code, reason)\n"
    "  if what ~= 'abort' then return end\n"
    "  if never[code] then refused = refused + 1 else retried = retried + 1 end\n"
    "  last_abort = code .. '/' .. tostring(reason)\n"
    "end, 'trace')\n"
    "local function opcode(f) return util.funcbc(f, 0) % 256 end\n"
    "function is_given_up(f) return opcode(f) == opcode(function() end) + 1 end";

static int
number_of(lua_State *L, const char *global)
{
    lua_getglobal(L, global);
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

static bool
is_given_up(lua_State *L, int function_ref)
{
    lua_getglobal(L, "is_given_up");
    lua_rawgeti(L, LUA_REGISTRYINDEX, function_ref);
    assert_int_equal(lua_pcall(L, 1, 1, 0), 0);
    bool answer = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return answer;
}

/* Endpoints in two zones, of weights 1 to 3. */
static void
load_case(struct fixture *f, const struct hot_case *row, int endpoints)
{
    static char file[600];
    char id[16];
    fixture_init(f);
    snprintf(file, sizeof file, "%s/strategies/%s.lua", bundle_share_dir(), row->name);
    f->services[0].strategy.name = row->name;
    f->services[0].strategy.file = file;
    if (row->options != NULL) f->services[0].strategy.options.json = row->options;
    for (int i = 0; i < endpoints; i++) {
        snprintf(id, sizeof id, "backend-%d", i);
        uint32_t slot = fixture_endpoint(f, 0, id, SLOT_HEALTHY, 1 + (uint32_t)i % 3);
        for (int held = 0; held < i % 3; held++)
            slot_begin(f->shm, 0, slot);
        slot_observe(f->shm, slot, 1000 + 100 * (uint32_t)i, i == 1, clock_now_us());
    }
    fixture_load(f);
}

static void
pick_times(struct fixture *f, const struct hot_case *row, int times)
{
    static const struct script_result answer = {.status = 200, .latency_us = 1000};
    uint32_t slot;
    enum reason reason;
    for (int i = 0; i < times; i++) {
        assert_int_equal(script_pick(f->script, &f->request, &slot, &reason), SCRIPT_PICKED);
        if (row->has_results) script_result(f->script, &f->request, slot, &answer);
    }
}

/* Drives one strategy and fails on a trace that was aborted or on a byte that stayed. */
static void
drive(const struct hot_case *row, int endpoints, bool is_retry)
{
    struct fixture f;
    char value[128];
    uint32_t slot;
    enum reason reason;
    load_case(&f, row, endpoints);
    lua_State *L = f.script->L;
    assert_int_equal(luaL_dostring(L, WATCH), 0);
    if (row->has_cookie) {
        assert_int_equal(script_pick(f.script, fixture_request(&f, 0), &slot, &reason), SCRIPT_PICKED);
        struct slice sent = f.request.set_cookies.rows[0].value;
        snprintf(value, sizeof value, "%.*s", (int)strcspn(sent.at, ";"), sent.at);
        fixture_header(&f, "Cookie", value);
    }
    fixture_request(&f, 0);
    if (is_retry) {
        f.request.attempt = 2;
        f.request.tried[f.request.tried_count++] = 1;
    }
    pick_times(&f, row, WARM_UP);
    lua_gc(L, LUA_GCCOLLECT, 0);
    lua_gc(L, LUA_GCSTOP, 0);
    size_t before = 0, after = 0;
    int tried = 0, retried = 0;
    /* A rare branch is compiled late, which takes memory once and may take a second try. Garbage and what
     * cannot be compiled would be there in every round. */
    for (int round = 0; round == 0 || (round < ROUNDS && (before != after || tried != retried)); round++) {
        before = script_memory_bytes(f.script);
        tried = number_of(L, "retried");
        uint64_t start = clock_now_us();
        pick_times(&f, row, PICKS);
        print_message("%s: %d ns a pick over %d endpoints%s\n", row->name,
            (int)((clock_now_us() - start) * 1000 / PICKS), endpoints, is_retry ? ", in a retry" : "");
        after = script_memory_bytes(f.script);
        retried = number_of(L, "retried");
    }
    assert_int_equal(after, before);
    if (number_of(L, "refused") != 0 || tried != retried)
        fail_msg("%s: traces are aborted, the last for %s", row->name, last_abort(L));
    assert_false(is_given_up(L, f.script->services[0].strategy.hot));
    assert_int_equal(atomic_load(&shm_totals(f.shm)->script_errors), 0);
    fixture_fini(&f);
}

static void
makes_no_garbage_and_aborts_no_trace(void **state)
{
    drive(*state, 3, false);
    drive(*state, 100, false);
    drive(*state, 100, true);
}

#define HOT_CASE(...)                                                                                        \
    {                                                                                                        \
        .name = (#__VA_ARGS__), .test_func = makes_no_garbage_and_aborts_no_trace,                           \
        .initial_state = &(struct hot_case)                                                                  \
        {                                                                                                    \
            __VA_ARGS__                                                                                      \
        }                                                                                                    \
    }

int
main(void)
{
    const struct CMUnitTest tests[] = {
        HOT_CASE("round_robin", NULL, false, false),
        HOT_CASE("least_connections", NULL, false, false),
        HOT_CASE("sticky_sessions", NULL, true, false),
        HOT_CASE("weighted_random", NULL, false, false),
        HOT_CASE("power_of_two", NULL, false, false),
        HOT_CASE("peak_ewma", NULL, false, true),
        HOT_CASE("consistent_hash", "{\"key\":\"path\"}", false, false),
        HOT_CASE(
            "consistent_hash", "{\"key\":\"header:X-None\",\"fallback\":\"power_of_two\"}", false, false),
        HOT_CASE("maglev", "{\"key\":\"query:user\"}", false, false),
        HOT_CASE("zone_aware", "{\"zone\":\"zone-1\"}", false, false),
        HOT_CASE("zone_aware", "{\"zone\":\"z\",\"strategy\":\"peak_ewma\"}", false, true),
        HOT_CASE("priority_failover", "{\"priorities\":{\"backend-0\":1}}", false, false),
        HOT_CASE("fill_first", "{\"limit\":2}", false, false),
        HOT_CASE("fill_first", "{\"limit\":1}", false, false),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
