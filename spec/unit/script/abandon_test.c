/* Abandons a lua_State again and again, wherever LuaJIT stands, and goes on in the next one.
 * FLUXGATE_ABANDONMENTS=N goes through all of them N times. */
#include "spec/unit/script/support.h"

#include <lualib.h>
#include <time.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/text.h"
#include "core/script/script_internal.h"

/* What an abandoned cjson.encode or decode had from malloc: one buffer, at most the text's size. */
const char *__lsan_default_suppressions(void);
const char *
__lsan_default_suppressions(void)
{
    return "leak:cjson.so\n";
}

enum { ROUNDS = 6, HOUR = 3600, LEAVE_MS = 2000 };

static char zeros[50000000]; /* never written: one page of the kernel's */

#define FOREVER(body) "while true do " body " end"

/* Chunks that never return, each in another part of LuaJIT: its interpreter, its compiler and what that made,
 * its library, collector and error handling, C of ours and of others below it. */
static const struct {
    const char *name, *source;
} hostile[] = {
    {"compiled loop", "local x = 0 " FOREVER("x = x + 1")},
    {"compiled loop over a table",
        "local t = {} for i = 1, 9 do t[i] = i end " FOREVER("for i = 1, 9 do t[i] = t[i] + t[10 - i] end")},
    {"interpreted loop", "jit.off() local x = 0 " FOREVER("x = x + 1")},
    {"loop inside pcall", "jit.off() " FOREVER("pcall(function() local x = 0 " FOREVER("x = x + 1") " end)")},
    {"compiled loop inside pcall", FOREVER("pcall(function() local x = 0 " FOREVER("x = x + 1") " end)")},
    {"errors", FOREVER("pcall(error, 'no')")},
    {"errors with a traceback",
        FOREVER("xpcall(function() error({}) end, function() return debug.traceback() end)")},
    {"errors through C", FOREVER("pcall(string.gsub, 'abc', '.', function() error('no') end)")},
    {"coroutine", "local c = coroutine.wrap(function() local x = 0 " FOREVER("x = x + 1") " end) c()"},
    {"coroutines that yield",
        FOREVER("local c = coroutine.wrap(function() for i = 1, 10 do coroutine.yield(i) "
                "end end) for i = 1, 10 do c() end")},
    {"coroutines that fail", FOREVER("coroutine.resume(coroutine.create(function() error('no') end))")},
    {"tail calls", "local function f(n) return f(n + 1) end f(1)"},
    {"tail calls, interpreted", "jit.off() local function f(n) return f(n + 1) end f(1)"},
    {"deep recursion", "local function f(n) return 1 + f(n + 1) end " FOREVER("pcall(f, 1)")},
    {"catastrophic pattern", "local s = ('a'):rep(60) " FOREVER("s:find(('a-'):rep(30) .. 'b')")},
    {"string.rep", "local x = 0 " FOREVER("x = x + #('abc'):rep(1000 + x % 7)")},
    {"strings that grow", FOREVER("local s = '' for i = 1, 500 do s = s .. i end")},
    {"string.format", FOREVER("local s = ('%s %5.3f %q %d'):format({}, 1 / 3, 'a\\nb', 12)")},
    {"string.gsub with a callback", FOREVER("(('x'):rep(100)):gsub('.', function(c) return c .. c end)")},
    {"table.concat", "local t = {} for i = 1, 1000 do t[i] = i end " FOREVER("table.concat(t, ',')")},
    {"table.sort", "local t = {} for i = 1, 1000 do t[i] = i % 17 end " FOREVER(
                       "table.sort(t, function(a, b) return a > b end)")},
    {"table.sort, no order", "local t = {} for i = 1, 100 do t[i] = i end " FOREVER(
                                 "pcall(table.sort, t, function() return true end)")},
    {"tables", "local kept " FOREVER("kept = {} for i = 1, 100 do kept[i] = { i, tostring(i) } end")},
    {"collector", "local t = {} for i = 1, 20000 do t[i] = { i } end " FOREVER("collectgarbage()")},
    {"metamethods",
        "local t = setmetatable({}, { __index = function(t, k) return k end, __add = function(a) "
        "return a end, __concat = function(a) return a end, __lt = function() return true end }) " FOREVER(
            "local x = t.a t = t + 1 t = t .. 'x' x = t < t")},
    {"__index that never ends", "local t = setmetatable({}, { __index = function() local x = 0 " FOREVER(
                                    "x = x + 1") " end }) return t.x"},
    {"finaliser", "local p = newproxy(true) getmetatable(p).__gc = function() local x = 0 " FOREVER(
                      "x = x + 1") " end p = nil collectgarbage() " FOREVER("collectgarbage()")},
    {"chunks that are compiled",
        FOREVER("loadstring('local x = 0 for i = 1, 200 do x = x + i % ' .. math.random(1e6) .. "
                "' end return x')()")},
    {"traces that are thrown away", "local x = 0 " FOREVER("for i = 1, 200 do x = x + i end jit.flush()")},
    {"FFI calls",
        "local ffi = require 'ffi' ffi.cdef 'double fg_now(void);' " FOREVER("local x = ffi.C.fg_now()")},
    {"FFI calls that take long",
        "local ffi = require 'ffi' ffi.cdef 'int fg_equal(const char *, size_t, const char *, size_t);' "
        "local s = ffi.cast('const char *', zeros) " FOREVER("ffi.C.fg_equal(s, 5e7, s, 5e7)")},
    {"FFI objects", "local ffi = require 'ffi' " FOREVER("local x = ffi.new('int[?]', 10)")},
    {"cjson",
        "local cjson = require('cjson').new() cjson.encode_keep_buffer(false) local t = { a = { 1, 2, { b = "
        "'text' } } } " FOREVER("t = cjson.decode(cjson.encode(t))")},
    {"out of memory",
        "local kept = {} " FOREVER("pcall(function() while true do kept[#kept + 1] = ('x'):rep(1e6) .. "
                                   "#kept end end) kept = {}")},
};
enum { HOSTILE = sizeof hostile / sizeof hostile[0] };

static size_t
resident_kib(void)
{
    size_t pages = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%zu %zu", &pages, &resident), 2);
    fclose(file);
    return resident * (size_t)sysconf(_SC_PAGESIZE) / 1024;
}

static uint64_t
cpu_ms(void)
{
    struct timespec now;
    assert_int_equal(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now), 0);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static unsigned
rounds(void)
{
    uint64_t wanted;
    const char *text = getenv("FLUXGATE_ABANDONMENTS");
    if (text == NULL || !text_parse_u64(slice_of(text), 1000000, &wanted)) return ROUNDS;
    return (unsigned)wanted;
}

/* No soft budget: what is abandoned is what would be, had no hook been taken. */
static void
abandon(struct fixture *f, size_t index, uint64_t hard_us)
{
    struct script *script = f->script;
    lua_State *L = script->L;
    if (getenv("VERBOSE") != NULL) fprintf(stderr, "%s\n", hostile[index].name);
    assert_int_equal(luaL_loadstring(L, hostile[index].source), 0);
    lua_pushlightuserdata(L, zeros);
    lua_setglobal(L, "zeros");
    script->memory_cap_bytes = SCRIPT_MEMORY_MAX;
    uint64_t start_ms = cpu_ms();
    guard_enter(L, (uint64_t)HOUR * 1000000, hard_us, NULL);
    int status = guard_pcall(L, 0, 0);
    if (status == GUARD_ABANDONED) script_drop(script);
    (void)!guard_leave();
    if (status != GUARD_ABANDONED) fail_msg("%s: %d %s", hostile[index].name, status, lua_tostring(L, -1));
    assert_null(script->L);
    if (cpu_ms() - start_ms > LEAVE_MS)
        fail_msg("%s: left after %u ms", hostile[index].name, (unsigned)(cpu_ms() - start_ms));
    script_mend(script);
    assert_non_null(script->L);
}

static void
leaves_a_state_wherever_it_stands_and_goes_on_in_another(void **state)
{
    struct fixture f;
    unsigned count = rounds() * HOSTILE;
    size_t before = 0;
    (void)state;
    fixture_init(&f);
    uint32_t a = fixture_endpoint(&f, 0, "a", SLOT_HEALTHY, 1);
    fixture_load(&f);
    for (unsigned i = 0; i < count; i++) {
        if (i == HOSTILE) before = resident_kib(); /* every kind of memory was touched once */
        abandon(&f, i % HOSTILE, i * 37 % 5000);
        assert_int_equal(fixture_pick(&f, 0), a);
    }
    assert_int_equal(f.script->dropped, count);
    assert_int_equal(atomic_load(&shm_totals(f.shm)->script_errors), 0);
    assert_int_equal(atomic_load(&shm_totals(f.shm)->script_fallbacks), 0);
    size_t after = resident_kib(), grown = after > before ? after - before : 0;
    if (before != 0) print_message("%u states, %d KiB each stay\n", count, (int)(grown / (count - HOSTILE)));
#ifndef __SANITIZE_ADDRESS__ /* which keeps what was freed for a while */
    if (count > 2 * HOSTILE)
        assert_true(grown / (count - HOSTILE) < 256); /* machine code, 64 KiB at a time */
#endif
    fixture_fini(&f);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(leaves_a_state_wherever_it_stands_and_goes_on_in_another),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
