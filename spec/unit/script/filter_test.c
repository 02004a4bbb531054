#include "spec/unit/script/filters.h"

#include <luajit.h>

/* Loops are interpreted here: compiled ones take no hook. */
static void
compiler_off(struct world *w)
{
    (void)luaJIT_setmode(w->f.script->L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF);
}

#define ORDER(n)                                                                                             \
    "function F:on_request(r) r:set_header('x-order', (r:header('x-order') or '') .. '" n "') end "          \
    "function F:on_response(r, a) a:set_header('x-back', (a:header('x-back') or '') .. '" n "') end"

static void
runs_in_order_and_back_in_reverse(void **state)
{
    struct world w;
    (void)state;
    world_init(&w);
    world_filter(&w, 2, ORDER("c"));
    world_filter(&w, 0, ORDER("a"));
    world_filter(&w, 0, ORDER("b"));
    world_load(&w);
    assert_true(filter_is_needed(w.f.script, 0, SLOT_NONE));
    assert_true(filter_is_needed(w.f.script, 1, 0));
    assert_false(filter_is_needed(w.f.script, 1, 1));
    assert_int_equal(world_begin(&w), FILTER_GO);
    assert_string_equal(world_header(&w, "x-order"), "ab");
    assert_int_equal(filter_run_request(w.chain), FILTER_GO);
    assert_string_equal(world_header(&w, "x-order"), "abc");
    assert_int_equal(world_respond(&w, 200), FILTER_GO);
    assert_string_equal(world_value(&w.answer_headers, "x-back"), "cba");
    world_fini(&w);
}

static void
lets_nobody_past_a_filter_that_could_not_be_loaded(void **state)
{
    struct world w;
    (void)state;
    world_init(&w);
    world_filter(&w, 0, ORDER("a"));
    world_filter(&w, 0, "error('in this worker alone')");
    w.f.was_checked = true;
    world_load(&w);
    assert_int_equal(world_begin(&w), FILTER_FAILED);
    assert_int_equal(w.request.failure.status, 503);
    world_fini(&w);
}

static void
ends_at_an_answer_that_those_before_it_see(void **state)
{
    struct world w;
    (void)state;
    world_init(&w);
    world_filter(&w, 0, ORDER("a"));
    world_filter(&w, 0,
        "function F:on_request(r) r:answer(403, 'no', { ['X-Why'] = { 'one', 'two' } }) end "
        "function F:on_response() error('ran') end");
    world_filter(&w, 0, "function F:on_request() error('ran') end");
    world_load(&w);
    assert_int_equal(world_begin(&w), FILTER_ANSWERED);
    assert_int_equal(w.request.answer->status, 403);
    assert_int_equal(w.request.answer->body.len, 2);
    assert_int_equal(w.request.answer->headers.count, 2);
    assert_string_equal(world_value(&w.request.answer->headers, "x-why"), "one");
    assert_int_equal(world_respond(&w, 403), FILTER_GO);
    assert_string_equal(world_value(&w.answer_headers, "x-back"), "a");
    world_fini(&w);
}

/* In other gateways a filter refuses by what it returns: here that must not let the request through. */
static void
takes_what_on_request_returns_for_a_mistake(void **state)
{
    static const struct {
        const char *code;
        bool is_wrong;
    } rows[] = {
        {"return false", true},
        {"return true", true},
        {"return 403", true},
        {"return 403, {}", true},
        {"return nil, 'denied'", true},
        {"return r", true},
        {"return", false},
        {"return nil", false},
        {"return nil, nil", false},
    };
    struct script_status status[16];
    struct world w;
    char code[120];
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        world_init(&w);
        snprintf(
            code, sizeof code, "function F:on_request(r) r:set_header('x-out', 'ran') %s end", rows[i].code);
        world_filter(&w, 0, code);
        world_load(&w);
        assert_int_equal(world_begin(&w), rows[i].is_wrong ? FILTER_FAILED : FILTER_GO);
        if (rows[i].is_wrong) {
            assert_int_equal(w.request.failure.status, 500);
            assert_int_equal(script_status(w.f.script, status, 16), 4);
            assert_non_null(strstr(status[3].last_error, "/mem/f0_0.lua:2: returned a "));
        }
        world_fini(&w);
    }
}

static struct slice
chunk(struct world *w, const char *text, bool is_last)
{
    struct slice out;
    assert_true(filter_body(w->chain, slice_of(text), is_last, &out));
    return out;
}

static void
passes_a_body_through_every_stage(void **state)
{
    struct world w;
    struct slice out;
    (void)state;
    world_init(&w);
    world_filter(&w, 0,
        "function F:on_response(r, a) a:on_body(function(c, last) return c .. (last and '!' or '') end) end");
    world_filter(&w, 0,
        "function F:on_response(r, a) a:on_body(function(c) if c ~= 'keep' then return c:upper() end end) "
        "end");
    world_load(&w);
    assert_int_equal(world_begin(&w), FILTER_GO);
    world_answer_header(&w, "Content-Length", "5");
    assert_int_equal(world_respond(&w, 200), FILTER_GO);
    assert_true(w.response.has_stages);
    assert_string_equal(world_value(&w.answer_headers, "content-length"), "");
    out = chunk(&w, "ab", false);
    assert_memory_equal(out.at, "AB", 2);
    assert_int_equal(chunk(&w, "keep", false).len, 4);
    out = chunk(&w, "c", true);
    assert_int_equal(out.len, 2);
    assert_memory_equal(out.at, "C!", 2);
    world_fini(&w);
}

static void
cuts_a_body_whose_stage_fails(void **state)
{
    static const char *const rows[] = {"error('x')", "return 5", "gateway.sleep(1)", "while true do end"};
    struct world w;
    struct slice out;
    char code[200];
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        snprintf(code, sizeof code, "a:on_body(function(c) %s end)", rows[i]);
        (void)respond_with(&w, code, FILTER_GO);
        compiler_off(&w);
        assert_false(filter_body(w.chain, SLICE_LIT("x"), true, &out));
        world_fini(&w);
    }
}

static void
shares_ctx_with_pick_and_on_log(void **state)
{
    struct world w;
    (void)state;
    world_init(&w);
    fixture_strategy(&w.f, 0, "/mem/s.lua",
        "local S = {} function S.new() return S end "
        "function S:pick(request, backends) request.ctx.picked = request.ctx.user .. '!' "
        "return backends[1] end return S",
        "{}");
    fixture_endpoint(&w.f, 0, "e1", SLOT_HEALTHY, 1);
    world_filter(&w, 0,
        "function F:on_request(r) r.ctx.user = 'ann\\0\\1\\2' r.ctx.deep = {} r.ctx.yes = true r.ctx.n = 1.5 "
        "end "
        "function F:on_response(r, a) a:set_header('x-picked', (r.ctx.picked:gsub('%c', '.'))) end "
        "function F:on_log(r, a) local c = r.ctx assert(c.user == 'ann\\0\\1\\2' and c.yes == true and c.n "
        "== 1.5) "
        "assert(c.deep == nil and c.picked == c.user .. '!' and r.ctx == c) "
        "assert(r.method == 'GET' and r.route == 'first' and r.service == 'a' and a.status == 200) "
        "assert(r.query == 'a=1' and a.endpoint == 'e1' and a.attempts == 2) "
        "assert(a.bytes == 10 and a.duration == 0.5 and a.reason == nil) "
        "assert(not pcall(r.header, r, 'x') and not pcall(gateway.sleep, 1)) "
        "F.kept = r gateway.log('warn', 'seen') F.count = (F.count or 0) + 1 end "
        "function F:on_request_count() end");
    world_filter(&w, 2, "function F:on_log(r) assert(r.ctx.user) end");
    world_load(&w);
    assert_int_equal(world_begin(&w), FILTER_GO);
    uint32_t slot;
    enum reason reason;
    assert_int_equal(script_pick(w.f.script, &w.f.request, &slot, &reason), SCRIPT_PICKED);
    assert_int_equal(world_respond(&w, 200), FILTER_GO);
    assert_string_equal(world_value(&w.answer_headers, "x-picked"), "ann...!");
    struct arena kept = {0};
    struct filter_log log = {.method = SLICE_LIT("GET"),
        .path = SLICE_LIT("/things"),
        .query = SLICE_LIT("a=1"),
        .endpoint = SLICE_LIT("e1"),
        .attempts = 2,
        .host = SLICE_LIT("h"),
        .route = SLICE_LIT("first"),
        .service = SLICE_LIT("a"),
        .route_index = 0,
        .ctx = filter_ctx(w.chain, &kept),
        .status = 200,
        .bytes = 10,
        .duration_us = 500000};
    assert_non_null(log.ctx);
    world_end(&w);
    assert_true(filter_wants_log(w.f.script, 0, SLOT_NONE));
    assert_true(filter_wants_log(w.f.script, 1, 0));
    assert_false(filter_wants_log(w.f.script, 1, 1));
    filter_run_log(w.f.script, &log);
    filter_run_log(w.f.script, &log);
    assert_int_equal(atomic_load(&shm_totals(w.f.shm)->script_errors), 0);
    arena_fini(&kept);
    world_fini(&w);
}

/* on_request that misbehaves: the request fails closed, or goes on without it where its use says so. */
static void
fails_closed_or_skips(void **state)
{
    static const char *const rows[] = {"error('x')", "r:answer(200, 'half') error('x')", "error(nil)",
        "error({})", "while true do end", "while true do pcall(function() while true do end end) end",
        "coroutine.yield()", "local t = {} for i = 1, 1e9 do t[i] = ('x'):rep(1000) .. i end",
        "return r.x.y.z", "('x'):rep(1e9)", "local function f() return f() + 1 end f()"};
    struct world w;
    char body[600];
    (void)state;
    for (int skip = 0; skip < 2; skip++) {
        for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
            world_init(&w);
            snprintf(body, sizeof body,
                "function F:on_request(r) %s end function F:on_response(r, a) a:set_header('x-ran', '1') end",
                rows[i]);
            world_filter(&w, 0, body)->skip_on_error = skip == 1;
            world_filter(&w, 0, ORDER("b"));
            world_load(&w);
            compiler_off(&w);
            if (skip == 0) {
                assert_int_equal(world_begin(&w), FILTER_FAILED);
                assert_int_equal(w.request.failure.reason, REASON_FILTER_ERROR);
                assert_int_equal(w.request.failure.status, 500);
                assert_string_equal(world_header(&w, "x-order"), "");
            } else {
                assert_int_equal(world_begin(&w), FILTER_GO);
                assert_null(w.request.answer);
                assert_string_equal(world_header(&w, "x-order"), "b");
                assert_int_equal(world_respond(&w, 200), FILTER_GO);
                assert_string_equal(world_value(&w.answer_headers, "x-ran"), "");
                assert_string_equal(world_value(&w.answer_headers, "x-back"), "b");
            }
            assert_int_equal(atomic_load(&shm_totals(w.f.shm)->script_errors), 1);
            world_fini(&w);
        }
    }
}

static void
answers_503_while_a_filter_is_quarantined(void **state)
{
    struct world w;
    struct script_status rows[16];
    (void)state;
    world_init(&w);
    world_filter(&w, 0, "function F:on_request(r) error('x') end");
    world_load(&w);
    for (int i = 0; i < 10; i++) {
        assert_int_equal(world_begin(&w), FILTER_FAILED);
        assert_int_equal(w.request.failure.status, 500);
        world_end(&w);
    }
    assert_int_equal(world_begin(&w), FILTER_FAILED);
    assert_int_equal(w.request.failure.status, 503);
    assert_int_equal(script_status(w.f.script, rows, 16), 4);
    assert_string_equal(rows[3].plugin, "/mem/f0_0.lua");
    assert_string_equal(rows[3].service, "first");
    assert_int_equal(rows[3].errors, 10);
    assert_true(rows[3].quarantined_until_us > 0);
    world_fini(&w);
}

static void
fails_on_an_error_in_on_response(void **state)
{
    struct world w;
    (void)state;
    (void)respond_with(&w, "error('x')", FILTER_FAILED);
    assert_int_equal(w.request.failure.status, 500);
    world_fini(&w);
}

static void
raises_for_views_past_their_callback(void **state)
{
    struct world w;
    (void)state;
    world_init(&w);
    world_filter(&w, 0,
        "local kept, answer\n"
        "function F:on_request(r) if kept then "
        "assert(not pcall(r.header, kept, 'x') and not pcall(r.set_header, kept, 'a', 'b')) "
        "assert(not pcall(r.answer, kept, 200) and not pcall(function() return kept.path end)) "
        "assert(not pcall(function() return kept.ctx end) and not pcall(r.body, kept) and not "
        "pcall(r.headers, kept)) "
        "assert(not pcall(function() return answer.status end) and not pcall(answer.set_status, answer, "
        "200)) "
        "assert(not pcall(answer.on_body, answer, print) and not pcall(answer.header, answer, 'x')) "
        "assert(not pcall(function() return kept.id end)) "
        "else kept = r end end\n"
        "function F:on_response(r, a) assert(not pcall(r.header, kept, 'x')) answer = answer or a end");
    world_load(&w);
    for (int i = 0; i < 10; i++) /* its turn in the pool has not come again */
        world_pass(&w);
    assert_int_equal(atomic_load(&shm_totals(w.f.shm)->script_errors), 0);
    world_fini(&w);
}

static void
follows_set_route_and_set_service_to_their_filters(void **state)
{
    struct world w;
    (void)state;
    world_init(&w);
    world_filter(&w, 0, "function F:on_request(r) r:set_route('second') end");
    world_filter(
        &w, 1, "function F:on_request(r) r:set_route('first') r:set_header('x-order', 'second') end");
    world_filter(&w, 2, ORDER("service"));
    world_load(&w);
    assert_int_equal(world_begin(&w), FILTER_GO);
    assert_string_equal(world_header(&w, "x-order"), "second");
    assert_int_equal(w.request.route, 0);
    assert_int_equal(filter_run_request(w.chain), FILTER_GO);
    assert_string_equal(world_header(&w, "x-order"), "secondservice");
    assert_int_equal(filter_run_request(w.chain), FILTER_GO);
    assert_string_equal(world_header(&w, "x-order"), "secondservice");
    world_fini(&w);
}

static void
reports_a_filter_that_does_not_load(void **state)
{
    struct world w;
    (void)state;
    world_init(&w);
    world_filter(&w, 0, "local x = nil + 1");
    world_filter(&w, 0, "F.on_request = 5");
    world_filter(&w, 2, "");
    world_filter(&w, 1, "function F.new(o, r) gateway.options(r, o, {}) end")->plugin.options.json =
        "{\"a\":1}";
    fixture_load_as(&w.f, SCRIPT_CHECKER);
    assert_false(diags_ok(&w.f.diags));
    assert_int_equal(w.f.diags.count, 4);
    char text[4096];
    FILE *out = fmemopen(text, sizeof text, "w");
    assert_non_null(out);
    diags_print(&w.f.diags, out);
    fclose(out);
    assert_non_null(
        strstr(text, "/mem/f0_0.lua:2: error: route first, plug-in /mem/f0_0.lua: attempt to perform"));
    assert_non_null(strstr(text, "on_request must be a function, it is a number"));
    assert_non_null(strstr(text, "a filter needs one of the functions on_request, on_response, on_log"));
    assert_non_null(strstr(text, "routes[1].filters[0].options.a: no such option"));
    world_fini(&w);
}

/* Compiled loops: only the state's end ends them. */
static void
fails_closed_when_its_state_is_dropped(void **state)
{
    static const char *const rows[] = {"local x = 0 while true do x = x + 1 end",
        "gateway.sleep(0.001) local x = 0 while true do x = x + 1 end",
        "local s = ('a'):rep(100) s:find(('a-'):rep(60) .. 'b')"};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct world w;
        char body[300];
        world_init(&w);
        snprintf(body, sizeof body, "function F:on_request(r) %s end", rows[i]);
        world_filter(&w, 0, body);
        world_filter(&w, 1, ORDER("b"));
        world_load(&w);
        enum filter_verdict verdict = world_begin(&w);
        for (int turns = 0; verdict == FILTER_WAIT && turns < 100; turns++) {
            assert_int_not_equal(event_base_loop(w.host.base, EVLOOP_ONCE), -1);
            verdict = filter_verdict(w.chain);
        }
        assert_int_equal(verdict, FILTER_FAILED);
        filter_end(w.chain);
        assert_int_equal(atomic_load(&shm_totals(w.f.shm)->script_abandonments), 1);
        assert_int_equal(world_begin(&w), FILTER_FAILED); /* quarantined, in the new state */
        assert_non_null(w.f.script->L);
        assert_int_equal(w.request.failure.status, 503);
        filter_end(w.chain);
        w.request.route = 1;
        w.request.failure.status = 0;
        w.chain = filter_begin(w.f.script, &w.request);
        assert_int_equal(filter_run_request(w.chain), FILTER_GO); /* the other route's */
        assert_int_equal(atomic_load(&shm_totals(w.f.shm)->script_abandonments), 1);
        world_fini(&w);
    }
}

static void
loads_no_filter_in_control(void **state)
{
    struct world w;
    (void)state;
    world_init(&w);
    world_filter(&w, 0, "error('loaded')");
    fixture_load_as(&w.f, SCRIPT_CONTROL);
    assert_true(diags_ok(&w.f.diags)); /* known, for admin, but never run */
    world_fini(&w);
}

static void
passes_ten_thousand_requests_without_growing(void **state)
{
    struct world w;
    (void)state;
    world_init(&w);
    world_filter(&w, 0,
        "function F:on_request(r) r:set_header('x-seen', (r:header('x-a') or '') .. (r:header('x-b') or '')) "
        "end "
        "function F:on_response(r, a) a:set_header('x-done', '1') end");
    world_load(&w);
    for (int i = 0; i < 2000; i++)
        world_pass(&w);
    lua_gc(w.f.script->L, LUA_GCCOLLECT, 0);
    size_t before = script_memory_bytes(w.f.script);
    uint64_t start = clock_now_us();
    for (int i = 0; i < 10000; i++)
        world_pass(&w);
    print_message("%d ns a request with two callbacks\n", (int)((clock_now_us() - start) / 10));
    lua_gc(w.f.script->L, LUA_GCCOLLECT, 0);
    assert_in_range(script_memory_bytes(w.f.script), 0, before + 4096);
    assert_int_equal(atomic_load(&shm_totals(w.f.shm)->script_errors), 0);
    world_fini(&w);
}

static void
makes_no_garbage(void **state)
{
    struct world w;
    (void)state;
    world_init(&w);
    world_filter(&w, 0,
        "function F:on_request(r) r:header('x-a') r:header('x-b') r:set_header('x-seen', '1') end "
        "function F:on_response(r, a) a:set_header('x-done', '1') end");
    world_load(&w);
    for (int i = 0; i < 5000; i++)
        world_pass(&w);
    lua_gc(w.f.script->L, LUA_GCCOLLECT, 0);
    lua_gc(w.f.script->L, LUA_GCSTOP, 0);
    size_t before = 1, after = 0;
    for (int round = 0; round < 8 && before != after; round++) { /* a late trace takes memory once */
        before = script_memory_bytes(w.f.script);
        for (int i = 0; i < 1000; i++)
            world_pass(&w);
        after = script_memory_bytes(w.f.script);
    }
    assert_int_equal(after, before);
    world_fini(&w);
}

int
main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_in_order_and_back_in_reverse),
        cmocka_unit_test(lets_nobody_past_a_filter_that_could_not_be_loaded),
        cmocka_unit_test(ends_at_an_answer_that_those_before_it_see),
        cmocka_unit_test(takes_what_on_request_returns_for_a_mistake),
        cmocka_unit_test(passes_a_body_through_every_stage),
        cmocka_unit_test(cuts_a_body_whose_stage_fails),
        cmocka_unit_test(shares_ctx_with_pick_and_on_log),
        cmocka_unit_test(fails_closed_or_skips),
        cmocka_unit_test(answers_503_while_a_filter_is_quarantined),
        cmocka_unit_test(fails_on_an_error_in_on_response),
        cmocka_unit_test(raises_for_views_past_their_callback),
        cmocka_unit_test(follows_set_route_and_set_service_to_their_filters),
        cmocka_unit_test(reports_a_filter_that_does_not_load),
        cmocka_unit_test(fails_closed_when_its_state_is_dropped),
        cmocka_unit_test(loads_no_filter_in_control),
        cmocka_unit_test(passes_ten_thousand_requests_without_growing),
        cmocka_unit_test(makes_no_garbage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
