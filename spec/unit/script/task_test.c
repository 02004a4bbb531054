#include "spec/unit/script/filters.h"

#include <luajit.h>

static const struct fetch_answer *
answer_of(int status, const char *body, struct headers *headers)
{
    static struct fetch_answer answer;
    answer = (struct fetch_answer){.status = status, .headers = headers, .body = slice_of(body)};
    return &answer;
}

static void
waits_for_a_fetch_and_goes_on(void **state)
{
    struct world w;
    struct headers headers = {0};
    (void)state;
    world_init(&w);
    world_filter(&w, 0,
        "function F:on_request(r) local a, why = gateway.fetch('http://h/x', { method = 'PUT', body = 'b', "
        "headers = { ['X-A'] = 'v' }, timeout = 2, max_body = 10 }) "
        "r:set_header('x-out', a and a.status .. a.body .. a.headers['x-b'] or why) end");
    world_filter(&w, 0, "function F:on_request(r) r:set_header('x-next', r:header('x-out')) end");
    world_load(&w);
    assert_int_equal(world_begin(&w), FILTER_WAIT);
    assert_int_equal(w.fetch_count, 1);
    assert_string_equal(w.fetches[0].url, "http://h/x");
    assert_string_equal(w.fetches[0].method, "PUT");
    assert_string_equal(w.fetches[0].body, "b");
    assert_string_equal(w.fetches[0].field, "v");
    assert_int_equal(w.fetches[0].timeout_us, 2000000);
    assert_int_equal(w.fetches[0].max_body, 10);
    assert_true(headers_add(&headers, &w.f.arena, HEADER_OTHER, SLICE_LIT("X-B"), SLICE_LIT("1")));
    assert_true(headers_add(&headers, &w.f.arena, HEADER_OTHER, SLICE_LIT("x-b"), SLICE_LIT("2")));
    world_answer(&w, 0, answer_of(201, "body", &headers));
    assert_int_equal(w.moved, 1);
    assert_int_equal(filter_verdict(w.chain), FILTER_GO);
    assert_string_equal(world_header(&w, "x-next"), "201body1, 2");
    world_fini(&w);
}

static void
tells_why_a_fetch_failed(void **state)
{
    static const struct fetch_answer failed = {
        .failure = REASON_CONNECT_REFUSED, .detail = "refused by 127.0.0.1:9"};
    struct world w;
    (void)state;
    for (int at_once = 0; at_once < 2; at_once++) {
        world_init(&w);
        world_filter(&w, 0,
            "function F:on_request(r) local a, why = gateway.fetch('http://h/') "
            "r:set_header('x-out', tostring(a) .. why) end");
        world_load(&w);
        w.refuses_fetch = at_once == 1;
        if (at_once == 1) {
            assert_int_equal(world_begin(&w), FILTER_GO);
            assert_string_equal(world_header(&w, "x-out"), "nilno_endpoints: there is no service 'x'");
        } else {
            assert_int_equal(world_begin(&w), FILTER_WAIT);
            world_answer(&w, 0, &failed);
            assert_string_equal(world_header(&w, "x-out"), "nilconnect_refused: refused by 127.0.0.1:9");
        }
        world_fini(&w);
    }
}

static void
refuses_a_fetch_that_cannot_be_meant(void **state)
{
    static const char *const rows[] = {"'ftp://h/'", "'http:///x'", "nil", "'http://h/', { method = 'A B' }",
        "'http://h/', { headers = { ['Content-Length'] = '1' } }",
        "'http://h/', { headers = { a = 'x\\r\\ny' } }", "'http://h/', { headers = { ['a b'] = '' } }",
        "'http://h/', { headers = 'x' }", "'http://h/', 5", "'http://h/', { timeout = -1 }",
        "'http://h/', { timeout = 'x' }", "'http://h/', { body = {} }", "'http://h/', { max_body = 0/0 }",
        "'http://h/', { headers = { a = print } }"};
    struct world w;
    struct script_status status[16];
    char body[300];
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        world_init(&w);
        snprintf(body, sizeof body, "function F:on_request() gateway.fetch(%s) end", rows[i]);
        world_filter(&w, 0, body);
        world_load(&w);
        assert_int_equal(world_begin(&w), FILTER_FAILED);
        assert_int_equal(w.fetch_count, 0);
        (void)script_status(w.f.script, status, 16);
        if (strstr(status[3].last_error, "/mem/f0_0.lua:2: gateway.fetch") == NULL)
            fail_msg("%s: %s", rows[i], status[3].last_error);
        world_fini(&w);
    }
}

static void
sleeps_on_the_loop(void **state)
{
    struct world w;
    (void)state;
    world_init(&w);
    world_filter(&w, 0,
        "function F:on_request(r) local from = gateway.now() for i = 1, 3 do gateway.sleep(0.002) end "
        "gateway.sleep(0) r:set_header('x-out', tostring(gateway.now() - from >= 0.006)) end");
    world_load(&w);
    assert_int_equal(world_begin(&w), FILTER_WAIT);
    WORLD_UNTIL(&w, w.moved != 0);
    assert_int_equal(filter_verdict(w.chain), FILTER_GO);
    assert_string_equal(world_header(&w, "x-out"), "true");
    world_fini(&w);
}

static void
collects_a_body(void **state)
{
    static const struct {
        bool ok;
        const char *text, *why, *expected;
    } rows[] = {
        {true, "abc", NULL, "abc"}, {false, "", "cut", "nilcut"}, {false, "", "too large", "niltoo large"}};
    struct world w;
    (void)state;
    for (int i = 0; i < 3; i++) {
        world_init(&w);
        world_filter(&w, 0,
            "function F:on_request(r) local b, why = r:body(99) "
            "r:set_header('x-out', tostring(b) .. (why or '')) end");
        world_load(&w);
        w.request.has_body = true;
        struct script_request *pick = fixture_request(&w.f, 0);
        w.request =
            (struct filter_request){.pick = pick, .headers = &w.f.headers, .has_body = true, .stream = &w};
        w.chain = filter_begin(w.f.script, &w.request);
        assert_int_equal(filter_run_request(w.chain), FILTER_WAIT);
        assert_int_equal(w.body_max, 99);
        w.depth++;
        script_task_body(w.body_task, rows[i].ok, slice_of(rows[i].text), rows[i].why);
        w.depth--;
        assert_int_equal(filter_verdict(w.chain), FILTER_GO);
        assert_string_equal(world_header(&w, "x-out"), rows[i].expected);
        world_fini(&w);
    }
}

/* The stream closes in the middle of each kind of wait. */
static void
cancels_what_waits_when_its_stream_ends(void **state)
{
    static const char *const rows[] = {
        "gateway.fetch('http://h/')", "gateway.sleep(60)", "r:body()", "pcall(gateway.fetch, 'http://h/')"};
    struct world w;
    char body[300];
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        world_init(&w);
        snprintf(body, sizeof body, "function F:on_request(r) %s error('went on') end", rows[i]);
        world_filter(&w, 0, body);
        world_load(&w);
        for (int round = 0; round < 100; round++) {
            struct script_request *pick = fixture_request(&w.f, 0);
            w.request = (struct filter_request){
                .pick = pick, .headers = &w.f.headers, .has_body = true, .stream = &w};
            w.chain = filter_begin(w.f.script, &w.request);
            w.fetch_count = 0;
            assert_int_equal(filter_run_request(w.chain), FILTER_WAIT);
            world_end(&w);
            assert_true(w.fetch_count == 0 || w.fetches[0].is_cancelled);
        }
        assert_int_equal(event_base_loop(w.base, EVLOOP_NONBLOCK), 1); /* no event is left */
        assert_int_equal(w.moved, 0);
        assert_int_equal(w.f.script->tasks->busy_count, 0);
        assert_int_equal(atomic_load(&shm_totals(w.f.shm)->script_errors), 0);
        world_fini(&w);
    }
}

static void
fails_a_wait_past_timeouts_filter(void **state)
{
    struct world w;
    (void)state;
    for (int skip = 0; skip < 2; skip++) {
        world_init(&w);
        world_filter(&w, 0, "function F:on_request(r) gateway.fetch('http://h/') end")->skip_on_error =
            skip == 1;
        world_load(&w);
        assert_int_equal(world_begin(&w), FILTER_WAIT);
        assert_int_equal(filter_expire(w.chain), skip == 1 ? FILTER_GO : FILTER_FAILED);
        assert_true(w.fetches[0].is_cancelled);
        if (skip == 0) assert_int_equal(w.request.failure.status, 503);
        assert_int_equal(w.moved, 0);
        world_end(&w);
        for (int i = 0; i < 20; i++) { /* whom it waits for is at fault: no quarantine */
            assert_int_equal(world_begin(&w), FILTER_WAIT);
            assert_int_equal(filter_expire(w.chain), skip == 1 ? FILTER_GO : FILTER_FAILED);
            world_end(&w);
        }
        world_fini(&w);
    }
}

static void
waits_through_pcall_and_beside_coroutines_of_the_script(void **state)
{
    struct world w;
    (void)state;
    world_init(&w);
    world_filter(&w, 0,
        "function F:on_request(r)\n"
        "local gen = coroutine.wrap(function() for i = 1, 3 do coroutine.yield(i) end end)\n"
        "local n = gen() + gen()\n"
        "local ok, a = pcall(gateway.fetch, 'http://h/')\n"
        "n = n + gen()\n"
        "local co = coroutine.create(function() return gateway.fetch('http://h/') end)\n"
        "local good, why = coroutine.resume(co)\n"
        "assert(not good and why:find('not in a coroutine that the script made', 1, true), why)\n"
        "good, why = pcall(string.gsub, 'x', 'x', function() gateway.sleep(0) end)\n"
        "assert(not good and why:find('table.sort', 1, true), why)\n"
        "assert(coroutine.running() == nil)\n"
        "r:set_header('x-out', n .. tostring(ok) .. a.status) end");
    world_load(&w);
    assert_int_equal(world_begin(&w), FILTER_WAIT);
    world_answer(&w, 0, answer_of(204, "", NULL));
    assert_int_equal(filter_verdict(w.chain), FILTER_GO);
    assert_string_equal(world_header(&w, "x-out"), "6true204");
    world_fini(&w);
}

static void
says_where_a_wait_may_not_be(void **state)
{
    struct world w;
    (void)state;
    world_init(&w);
    fixture_strategy(&w.f, 0, "/mem/s.lua",
        "local S = {} function S.new() assert(not pcall(gateway.sleep, 1)) return S end "
        "function S:pick(r, b) local ok, why = pcall(gateway.sleep, 0) "
        "assert(not ok and why:find('may wait only in', 1, true)) "
        "ok, why = pcall(r.set_header, r, 'a', 'b') assert(not ok and why:find('only filters', 1, true)) "
        "assert(r.service == 'a' and not pcall(function() return r.route end)) return b[1] end return S",
        "{}");
    fixture_endpoint(&w.f, 0, "e1", SLOT_HEALTHY, 1);
    world_filter(&w, 0,
        "function F.new() local ok, why = pcall(gateway.fetch, 'http://h/') "
        "assert(not ok and why:find('may wait only in', 1, true)) return setmetatable({}, F) end "
        "function F:on_request() end");
    world_load(&w);
    assert_int_not_equal(fixture_pick(&w.f, 0), SLOT_NONE);
    assert_int_equal(atomic_load(&shm_totals(w.f.shm)->script_errors), 0);
    world_fini(&w);
}

static void
runs_spawned_functions_beside_the_request(void **state)
{
    struct world w;
    (void)state;
    world_init(&w);
    world_filter(&w, 0,
        "local n = 0\n"
        "local function work(a, b) n = n + a + b gateway.fetch('http://h/') n = n + 1 end\n"
        "function F:on_request(r) assert(gateway.spawn(work, 1, 2)) r:set_header('x-out', n) end");
    world_load(&w);
    assert_int_equal(world_begin(&w), FILTER_GO);
    assert_string_equal(world_header(&w, "x-out"), "0");
    world_end(&w);
    WORLD_UNTIL(&w, w.fetch_count == 1);
    assert_true(script_is_busy(w.f.script));
    script_retire(w.f.script);
    world_answer(&w, 0, answer_of(200, "", NULL));
    assert_false(script_is_busy(w.f.script));
    assert_int_equal(world_begin(&w), FILTER_GO);
    assert_string_equal(world_header(&w, "x-out"), "4");
    world_fini(&w);
}

static void
spawns_1024_at_once_and_no_more(void **state)
{
    struct world w;
    (void)state;
    world_init(&w);
    world_filter(&w, 0,
        "function F:on_request(r) for i = 1, 1024 do assert(gateway.spawn(gateway.sleep, 60)) end "
        "local ok, why = gateway.spawn(print) r:set_header('x-out', tostring(ok) .. why) "
        "assert(not pcall(gateway.spawn, 5)) end");
    world_load(&w);
    assert_int_equal(world_begin(&w), FILTER_GO);
    assert_string_equal(world_header(&w, "x-out"), "nillimit: too many spawned functions run");
    assert_int_equal(event_base_loop(w.base, EVLOOP_NONBLOCK), 0);
    assert_int_equal(w.f.script->tasks->spawned, 1024);
    world_fini(&w); /* nobody waits for them */
}

static void
counts_what_a_spawned_function_raises(void **state)
{
    struct world w;
    struct script_status rows[16];
    (void)state;
    world_init(&w);
    world_filter(&w, 0,
        "function F.new() gateway.spawn(function() error('spawned in new') end) return setmetatable({}, F) "
        "end "
        "function F:on_request() end");
    world_load(&w);
    WORLD_UNTIL(&w, w.f.script->tasks->spawned == 0);
    (void)script_status(w.f.script, rows, 16);
    assert_non_null(strstr(rows[3].last_error, "spawn: /mem/f0_0.lua:2: spawned in new"));
    world_fini(&w);
}

#define TICKS(w) atomic_load(shm_counter((w)->f.shm, SLICE_LIT("ticks")))

static void
runs_a_timer_again_and_again_and_never_twice_at_once(void **state)
{
    struct world w;
    (void)state;
    world_init(&w);
    world_filter(&w, 0,
        "function F.new() local c = gateway.counter('ticks') local running = false "
        "gateway.every(0.001, function() assert(not running) running = true c:next() gateway.sleep(0.004) "
        "running = false end) return setmetatable({}, F) end function F:on_request() end");
    world_load(&w);
    WORLD_UNTIL(&w, TICKS(&w) >= 4);
    assert_int_equal(atomic_load(&shm_totals(w.f.shm)->script_errors), 0);
    script_retire(w.f.script);
    WORLD_UNTIL(&w, w.f.script->tasks->busy_count == 0);
    uint64_t ticks = TICKS(&w);
    assert_int_equal(event_base_loop(w.base, EVLOOP_NONBLOCK), 1); /* no timer is left */
    assert_int_equal(TICKS(&w), ticks);
    world_fini(&w);
}

/* Two states over one segment, as two workers have it. */
static void
runs_a_timer_once_a_gateway(void **state)
{
    struct world w;
    (void)state;
    world_init(&w);
    world_filter(&w, 0,
        "function F.new() local c = gateway.counter('ticks') "
        "gateway.every(0.02, function() c:next() end, { once = 'gateway' }) "
        "return setmetatable({}, F) end function F:on_request() end");
    world_load(&w);
    struct diags diags = {0};
    struct script_env env = {
        .role = SCRIPT_WORKER, .config = &w.f.config, .bundle = w.f.bundle, .shm = w.f.shm};
    struct script *other = script_new(&env, NULL, &diags);
    assert_non_null(other);
    assert_true(script_set_host(other, &w.host));
    uint64_t start = clock_now_us();
    WORLD_UNTIL(&w, TICKS(&w) >= 5);
    assert_true(clock_now_us() - start >= 5 * 20000 - 1000);
    script_free(other);
    uint64_t ticks = TICKS(&w); /* the other one goes on alone */
    WORLD_UNTIL(&w, TICKS(&w) > ticks);
    diags_fini(&diags);
    world_fini(&w);
}

/* Each use of a filter has timers of its own, also twice in one list: neither takes the other's turn. */
static void
tells_timers_of_two_uses_apart(void **state)
{
    static const char once[] = "function F.new() gateway.every(60, print, { once = 'gateway' }) "
                               "return setmetatable({}, F) end function F:on_request() end";
    struct world w;
    (void)state;
    world_init(&w);
    struct config_filter *first = world_filter(&w, 0, once), *second = world_filter(&w, 0, once);
    second->plugin.name = first->plugin.name;
    second->plugin.file = first->plugin.file;
    world_load(&w);
    assert_true(atomic_load(shm_counter(w.f.shm, SLICE_LIT("every/0//mem/f0_0.lua/first"))) != 0);
    assert_true(atomic_load(shm_counter(w.f.shm, SLICE_LIT("every/1//mem/f0_0.lua/first"))) != 0);
    world_fini(&w);
}

static void
refuses_timers_that_cannot_be_meant(void **state)
{
    struct world w;
    (void)state;
    world_init(&w);
    world_filter(&w, 0,
        "function F.new() for _, bad in ipairs { 0, -1, 0/0, 1/0, 'x' } do "
        "assert(not pcall(gateway.every, bad, print)) end assert(not pcall(gateway.every, 1, 5)) "
        "assert(not pcall(gateway.every, 1, print, { once = 'x' })) "
        "local n = 0 for i = 1, 300 do if pcall(gateway.every, 60, print) then n = n + 1 end end assert(n == "
        "256) "
        "assert(math.abs(gateway.time() - os.time()) < 5) "
        "return setmetatable({}, F) end function F:on_request() end");
    world_load(&w);
    world_fini(&w);
}

static void
loads_waiting_things_in_the_checker_and_runs_none(void **state)
{
    struct world w;
    (void)state;
    world_init(&w);
    world_filter(&w, 0,
        "function F.new() gateway.spawn(error, 'ran') gateway.every(1, error, { once = 'gateway' }) "
        "return setmetatable({}, F) end function F:on_request() end");
    fixture_load_as(&w.f, SCRIPT_CHECKER);
    assert_true(diags_ok(&w.f.diags));
    world_fini(&w);
}

/* What a worker does when it drops a state: the old one is gone, a new one stands in its place. */
static void
fails_what_waited_in_a_state_that_was_abandoned(void **state)
{
    struct world w;
    (void)state;
    world_init(&w);
    world_filter(
        &w, 0, "function F:on_request(r) gateway.spawn(gateway.sleep, 60) gateway.fetch('http://h/') end");
    world_load(&w);
    assert_int_equal(world_begin(&w), FILTER_WAIT);
    w.f.script->serial += 2;
    tasks_abandon(w.f.script);
    assert_int_equal(w.moved, 0); /* not on the back of whoever abandoned it */
    assert_true(w.fetches[0].is_cancelled);
    WORLD_UNTIL(&w, w.moved != 0);
    assert_int_equal(filter_verdict(w.chain), FILTER_FAILED);
    assert_int_equal(w.request.failure.status, 503);
    assert_false(script_is_busy(w.f.script));
    world_end(&w);
    world_fini(&w);
}

static void
waits_ten_thousand_times_without_growing(void **state)
{
    struct world w;
    (void)state;
    world_init(&w);
    world_filter(&w, 0,
        "function F:on_request(r) local a = gateway.fetch('http://h/') r:set_header('x-out', a.status) "
        "gateway.spawn(function() end) end");
    world_load(&w);
    size_t before = 0;
    for (int i = 0; i < 11000; i++) {
        if (i == 1000) {
            lua_gc(w.f.script->L, LUA_GCCOLLECT, 0);
            before = script_memory_bytes(w.f.script);
        }
        w.fetch_count = 0;
        assert_int_equal(world_begin(&w), FILTER_WAIT);
        world_answer(&w, 0, answer_of(200, "", NULL));
        assert_int_equal(filter_verdict(w.chain), FILTER_GO);
        world_end(&w);
        if (i % 100 == 0) WORLD_UNTIL(&w, w.f.script->tasks->spawned == 0);
    }
    WORLD_UNTIL(&w, w.f.script->tasks->spawned == 0);
    lua_gc(w.f.script->L, LUA_GCCOLLECT, 0);
    assert_in_range(script_memory_bytes(w.f.script), 0, before + 65536); /* some more threads are kept */
    world_fini(&w);
}

int
main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(waits_for_a_fetch_and_goes_on),
        cmocka_unit_test(tells_why_a_fetch_failed),
        cmocka_unit_test(refuses_a_fetch_that_cannot_be_meant),
        cmocka_unit_test(sleeps_on_the_loop),
        cmocka_unit_test(collects_a_body),
        cmocka_unit_test(cancels_what_waits_when_its_stream_ends),
        cmocka_unit_test(fails_a_wait_past_timeouts_filter),
        cmocka_unit_test(waits_through_pcall_and_beside_coroutines_of_the_script),
        cmocka_unit_test(says_where_a_wait_may_not_be),
        cmocka_unit_test(runs_spawned_functions_beside_the_request),
        cmocka_unit_test(spawns_1024_at_once_and_no_more),
        cmocka_unit_test(counts_what_a_spawned_function_raises),
        cmocka_unit_test(runs_a_timer_again_and_again_and_never_twice_at_once),
        cmocka_unit_test(runs_a_timer_once_a_gateway),
        cmocka_unit_test(tells_timers_of_two_uses_apart),
        cmocka_unit_test(refuses_timers_that_cannot_be_meant),
        cmocka_unit_test(loads_waiting_things_in_the_checker_and_runs_none),
        cmocka_unit_test(fails_what_waited_in_a_state_that_was_abandoned),
        cmocka_unit_test(waits_ten_thousand_times_without_growing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
