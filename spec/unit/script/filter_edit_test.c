/* What a filter sees and may change of a request and an answer: core/script/filter_view.c, filter_edit.c. */
#include "spec/unit/script/filters.h"

static void
shows_and_changes_a_request(void **state)
{
    static const struct {
        const char *code, *expected;
    } rows[] = {
        {"r:set_header('x-out', r:header('X-IN') .. r:cookie('sid') .. r.method .. r.path)",
            "one7GET/things"},
        {"r:set_header('x-out', r.id .. r.scheme .. r.route .. r.service)", "id-1httpsfirsta"},
        {"r:set_header('x-out', r:header('x-twice'))", "a, b"},
        {"r:set_header('x-twice', 'c') r:set_header('x-out', r:header('x-twice'))", "c"},
        {"r:add_header('x-in', 'two') r:set_header('x-out', r:header('x-in'))", "one, two"},
        {"r:remove_header('X-Twice') r:set_header('x-out', tostring(r:header('x-twice')))", "nil"},
        {"r:add_header('cookie', 'b=2') r:set_header('x-out', r:cookie('b') .. r:headers().cookie)",
            "2sid=7; b=2"},
        {"local h = r:headers() r:set_header('x-out', h['x-in'] .. h['x-twice'])", "onea, b"},
        {"r:set_path('/a/../b//%7ec') r:set_header('x-out', r.path)", "/b/~c"},
        {"r:set_query('a=1') r:set_host('h:1') r:set_method('PUT') "
         "r:set_header('x-out', r.query .. r.host .. r.method)",
            "a=1h:1PUT"},
        {"r:set_service('b') r:set_route('second') r:set_header('x-out', r.service .. r.route)", "bsecond"},
        {"r:set_body('abc') r:set_header('x-out', r:body())", "abc"},
        {"r:set_body('abc') r:set_header('x-out', select(2, r:body(2)))", "too large"},
        {"r:set_header('x-out', '' .. #r:body())", "0"}, /* it has none */
        {"r:set_header('x-out', 5)", "5"},
        {"r:set_header('x-out', '  trimmed\\t')", "trimmed"},
        {"r:set_header('x-out', tostring(r:hash('path') == r:hash('path')))", "true"},
        {"r.ctx.n = 1 r:set_header('x-out', r.ctx.n)", "1"},
        {"r:set_header('x-out', tostring(r:bound('nobody')))", "nil"},
    };
    struct world w;
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_string_equal(world_eval(&w, rows[i].code), rows[i].expected);
        world_fini(&w);
    }
}

static void
names_each_change_for_the_proxy(void **state)
{
    struct world w;
    (void)state;
    (void)world_eval(&w, "r:set_method('HEAD') r:set_path('/p') r:set_query('q') r:set_host('h') "
                         "r:set_service('b') r:set_body('b')");
    assert_int_equal(w.request.changed,
        FILTER_METHOD | FILTER_PATH | FILTER_QUERY | FILTER_HOST | FILTER_SERVICE | FILTER_BODY);
    assert_int_equal(w.f.request.method, METHOD_HEAD);
    assert_int_equal(w.request.service, 1);
    assert_true(w.request.has_body);
    world_fini(&w);
    (void)world_eval(&w, "r:header('x')");
    assert_int_equal(w.request.changed, 0);
    world_fini(&w);
}

/* Each of these raises, with this in its message, at line 2 of its file, and leaves no trace. */
static void
refuses_what_could_split_or_reframe_a_message(void **state)
{
    static const struct {
        const char *code, *message;
    } rows[] = {
        {"r:set_header('x', 'a\\r\\nb')", "request:set_header: the value holds CR, LF"},
        {"r:add_header('x', 'a\\0b')", "holds CR, LF, NUL"},
        {"r:set_header('a b', 'x')", "the name is no token"},
        {"r:set_header('', 'x')", "the name is no token"},
        {"r:set_header('a\\r\\nb', 'x')", "the name is no token"},
        {"r:set_header(nil, 'x')", "the name is no token"},
        {"r:set_header('x', nil)", "request:set_header: the value is nil"},
        {"r:set_header('x', {})", "the value is no string"},
        {"r:set_header('Content-Length', '1')", "content-length belongs to the gateway"},
        {"r:add_header('transfer-encoding', 'chunked')", "transfer-encoding belongs to the gateway"},
        {"r:remove_header('Host')", "host belongs to the gateway: request:set_host() changes it"},
        {"gateway.every(1, print)", "gateway.every may be called in new() only"},
        {"r:set_header('Connection', 'x')", "connection belongs to the gateway"},
        {"r:set_header('Proxy-Anything', 'x')", "proxy-anything belongs to the gateway"},
        {"r:set_path('x')", "request:set_path: no path that a client may send"},
        {"r:set_path('/%00')", "no path"},
        {"r:set_path('/a?b')", "no path"},
        {"r:set_path('/a b')", "no path"},
        {"r:set_path('/a\\r\\nb')", "no path"},
        {"r:set_query('a b')", "request:set_query"},
        {"r:set_query('a\\r\\nb')", "request:set_query"},
        {"r:set_host('a\\r\\nb')", "request:set_host: no host name"},
        {"r:set_host('u@h')", "request:set_host"},
        {"r:set_host('')", "request:set_host"},
        {"r:set_method('CONNECT')", "request:set_method"},
        {"r:set_method('A B')", "request:set_method"},
        {"r:set_service('nope')", "there is no service 'nope'"},
        {"r:set_route('nope')", "there is no route 'nope'"},
        {"r:set_body(1)", "request:set_body: expected a string"},
        {"r:answer(99)", "request:answer: the status is no whole number"},
        {"r:answer(200.5)", "request:answer: the status"},
        {"r:answer(200, 'x', { ['Content-Length'] = '1' })", "content-length belongs to the gateway"},
        {"r:answer(200, 'x', { a = 'b\\nc' })", "request:answer: the value holds CR"},
        {"r:set_cookie('a', 'b')", "in a filter use response:add_header"},
        {"r.path = '/x'", "request.path cannot be written"},
        {"return r.nothing", "request has no field 'nothing'"},
        {"for i = 1, 1e6 do r:set_header('x', ('y'):rep(4096)) end", "more than filters may write"},
    };
    struct script_status status[16];
    struct world w;
    char body[512];
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        world_init(&w);
        snprintf(body, sizeof body, "function F:on_request(r) %s end", rows[i].code);
        world_filter(&w, 0, body);
        world_load(&w);
        assert_int_equal(world_begin(&w), FILTER_FAILED);
        assert_int_equal(script_status(w.f.script, status, 16), 4);
        if (strstr(status[3].last_error, rows[i].message) == NULL ||
            strstr(status[3].last_error, "/mem/f0_0.lua:2: ") == NULL)
            fail_msg("%s: %s", rows[i].code, status[3].last_error);
        assert_null(w.request.answer);
        assert_int_equal(w.request.changed, 0);
        world_fini(&w);
    }
}

static void
shows_and_changes_a_response(void **state)
{
    static const struct {
        const char *code, *expected;
    } rows[] = {
        {"a:set_header('x-out', tostring(a.reason))", "nil"}, /* an endpoint answered */
        {"a:set_header('x-out', a.status .. a:header('etag'))", "200\"v1\""},
        {"a:set_header('x-out', a:header('set-cookie'))", "a=1, b=2"},
        {"a:set_status(404) a:set_header('x-out', a.status)", "404"},
        {"a:set_header('x-out', tostring(a.backend))", "nil"},
        {"a:remove_header('set-cookie') a:set_header('x-out', tostring(a:headers()['set-cookie']))", "nil"},
        {"a:set_header('x-out', tostring(a:compress('gzip')) .. tostring(a:compress('gzip')))", "truefalse"},
        {"a:set_header('cache-control', 'public, no-transform') a:set_header('x-out', "
         "tostring(a:compress('zstd')))",
            "false"},
        {"a:set_header('x-out', r.path)", "/things"},
    };
    struct world w;
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_string_equal(respond_with(&w, rows[i].code, FILTER_GO), rows[i].expected);
        world_fini(&w);
    }
    (void)respond_with(&w, "assert(a:compress('zstd', 5))", FILTER_GO);
    assert_int_equal(w.response.encoding, FILTER_ZSTD);
    assert_int_equal(w.response.level, 5);
    assert_string_equal(world_value(w.response.headers, "content-encoding"), "zstd");
    assert_string_equal(world_value(w.response.headers, "etag"), "W/\"v1\"");
    assert_string_equal(world_value(w.response.headers, "content-length"), "");
    world_fini(&w);
}

static void
answers_in_place_of_a_response(void **state)
{
    struct world w;
    (void)state;
    assert_string_equal(
        respond_with(&w,
            "a:on_body(function() return 'x' end) a:answer(503, 'gone', { ['Retry-After'] = 1 }) "
            "a:set_header('x-out', a.status)",
            FILTER_ANSWERED),
        "503");
    assert_int_equal(w.response.answer->status, 503);
    assert_int_equal(w.response.answer->headers.count, 2);
    assert_false(w.response.has_stages);
    world_fini(&w);
}

static void
refuses_bad_changes_of_a_response(void **state)
{
    static const char *const rows[] = {"a:set_status(99)", "a:set_status(204)", "a:set_header('x', 'a\\nb')",
        "a:set_header('Content-Length', '1')", "a:add_header('a:b', 'x')", "a:on_body(1)", "a:compress('br')",
        "a:compress('gzip', 77)", "a:answer(700)", "a:answer(200, {})", "a.status = 5", "r:set_path('/x')",
        "r:answer(200)", "a.header('x')", "a.header(r, 'x')", "r.header(a, 'x')"};
    struct world w;
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        (void)respond_with(&w, rows[i], FILTER_FAILED);
        world_fini(&w);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shows_and_changes_a_request),
        cmocka_unit_test(names_each_change_for_the_proxy),
        cmocka_unit_test(refuses_what_could_split_or_reframe_a_message),
        cmocka_unit_test(shows_and_changes_a_response),
        cmocka_unit_test(answers_in_place_of_a_response),
        cmocka_unit_test(refuses_bad_changes_of_a_response),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
