#include "spec/unit/script/support.h"

#include "core/script/script_internal.h"

/* pick() runs `body`, where assert() failing is an error that the spec sees; then it answers the first
 * backend. */
static void
expect(struct fixture *f, const char *body)
{
    static char source[8192];
    static struct script_status rows[8];
    uint32_t slot;
    enum reason reason;
    snprintf(source, sizeof source,
        "local S = {} S.__index = S function S.new(o, s) return setmetatable({ service = s }, S) end\n"
        "local function is(want, got) if want ~= got then error(tostring(want) .. ' expected, got ' .. "
        "tostring(got), 2) end end\n"
        "local function raises(what, f, ...) local ok, message = pcall(f, ...)\n"
        "  if ok then error('nothing was raised: ' .. what, 2) end\n"
        "  if not tostring(message):find(what, 1, true) then error(tostring(message) .. ' does not say ' .. "
        "what, 2) end end\n"
        "function S:pick(request, backends) local b = backends[1]\n%s\nreturn backends[1] end return S",
        body);
    fixture_strategy(f, 0, "/mem/view.lua", source, "{}");
    script_free(f->script);
    fixture_load(f);
    fixture_request(f, 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(script_pick(f->script, &f->request, &slot, &reason), SCRIPT_PICKED);
        assert_true(script_status(f->script, rows, 8) > 0);
        if (rows[0].errors != 0) fail_msg("%s", rows[0].last_error);
    }
}

static void
setup(struct fixture *f)
{
    fixture_init(f);
    fixture_endpoint(f, 0, "a", SLOT_HEALTHY, 3);
    fixture_endpoint(f, 0, "drain", SLOT_DRAINING, 1);
    fixture_endpoint(f, 0, "sick", SLOT_UNHEALTHY, 1);
    fixture_endpoint(f, 1, "elsewhere", SLOT_HEALTHY, 1);
}

static void
reads_every_field_of_a_backend_from_the_segment(void **state)
{
    struct fixture f;
    (void)state;
    setup(&f);
    slot_begin(f.shm, 3, 0);
    slot_observe(f.shm, 0, 20000, false, 1);
    expect(&f,
        "is('a', b.id) is('host-of-a', b.host) is(8000, b.port) is(3, b.weight) is(3, b.effective_weight)\n"
        "is('zone-1', b.zone) is('2', b.metadata.version) is(1, b.active) is(0, b.failures) is(0, b.load)\n"
        "is(false, b.full) is('healthy', b.state) is('', b.health_path) is('number', type(b.latency_ewma))\n"
        "is('backend a', tostring(b))");
    fixture_fini(&f);
}

static void
reads_every_field_of_a_request(void **state)
{
    struct fixture f;
    (void)state;
    setup(&f);
    fixture_header(&f, "X-User", "joe");
    fixture_header(&f, "Cookie", "a=1; SESSIONID=xyz");
    expect(&f,
        "is('GET', request.method) is('/things', request.path) is('user=7', request.query) is('example.com', "
        "request.host)\n"
        "is('192.0.2.1', request.client_ip) is(1, request.attempt) is('joe', request:header('x-user'))\n"
        "is(nil, request:header('x-none')) is('xyz', request:cookie('SESSIONID')) is(nil, "
        "request:cookie('b'))\n"
        "is(request:hash('path'), request:hash('path')) is(nil, request:hash('header:x-none'))\n"
        "is('number', type(request:hash('query:user'))) is('number', type(request:hash('cookie:a')))\n"
        "raises('is none of client_ip', request.hash, request, 'colour')");
    fixture_fini(&f);
}

static void
raises_on_writes_and_on_unknown_names(void **state)
{
    struct fixture f;
    (void)state;
    setup(&f);
    expect(&f, "raises('constant', function() b.weight = 1 end) raises('cannot be written', function() "
               "b.active = 1 end)\n"
               "raises('cannot be written', function() request.path = '/' end) raises('constant', function() "
               "request.attempt = 9 end)\n"
               "raises('no field', function() return b.wieght end) raises('no field', function() return "
               "request.metod end)\n"
               "raises('no field', function() return b[1] end) raises('', function() return b + 1 end)\n"
               "raises('', function() return request[0] end) raises('', function() return #b end)\n"
               "is(false, getmetatable('')) raises('', function() return setmetatable(b, {}) end)");
    fixture_fini(&f);
}

static void
survives_methods_called_on_the_wrong_objects(void **state)
{
    struct fixture f;
    (void)state;
    setup(&f);
    expect(&f, "for _, self in ipairs { 1, 'text', {}, true, b, print, 1LL } do\n"
               "  raises('', request.header, self, 'x') raises('', request.cookie, self, 'x') raises('', "
               "request.hash, self, 'path')\n"
               "  raises('', request.set_cookie, self, 'x', 'y') end\n"
               "raises('', request.header, cjson.null, 'x') raises('', request.header, nil, 'x')\n"
               "raises('must be a string', request.header, request, 1) raises('must be a string', "
               "request.header, request)\n"
               "raises('must be strings', request.set_cookie, request, 'x')");
    fixture_fini(&f);
}

static void
writes_cookies_that_cannot_break_out_of_their_header(void **state)
{
    struct fixture f;
    (void)state;
    setup(&f);
    expect(&f, "request:set_cookie('sid', 'v1', { secure = true, http_only = true, same_site = 'Strict', "
               "max_age = 60, path = '/x', domain = '.Example.com' })\n"
               "request:set_cookie('plain', 'v2')\n"
               "raises('the value', request.set_cookie, request, 'a', 'b\\r\\nX: y') raises('the value', "
               "request.set_cookie, request, 'a', 'b; c')\n"
               "raises('the name', request.set_cookie, request, 'a b', 'c') raises('the name', "
               "request.set_cookie, request, '', 'c')\n"
               "raises('the name', request.set_cookie, request, 'a\\0', 'c') raises('the path', "
               "request.set_cookie, request, 'a', 'b', { path = '/\\r\\n' })\n"
               "raises('the path', request.set_cookie, request, 'a', 'b', { path = 'x; y' })\n"
               "raises('the domain', request.set_cookie, request, 'a', 'b', { domain = 'x; y' })\n"
               "raises('the domain', request.set_cookie, request, 'a', 'b', { domain = 'a\\r\\nX: y' })\n"
               "raises('must be strings', request.set_cookie, request, 'a', 'b', { domain = 7 })\n"
               "raises('same_site', request.set_cookie, request, 'a', 'b', { same_site = 'x; y' })");
    assert_int_equal(f.request.set_cookies.count, 2); /* of the second pick: emptied before each */
    struct slice value = f.request.set_cookies.rows[0].value;
    const char *want = "sid=v1; Path=/x; Domain=.Example.com; Max-Age=60; SameSite=Strict; HttpOnly; Secure";
    assert_int_equal(value.len, strlen(want));
    assert_memory_equal(value.at, want, value.len);
    assert_int_equal(f.request.set_cookies.rows[0].id, HEADER_SET_COOKIE);
    fixture_fini(&f);
}

static void
keeps_ctx_over_the_attempts_of_a_request_and_no_longer(void **state)
{
    struct fixture f;
    (void)state;
    setup(&f);
    expect(&f, "local n = (request.ctx.n or 0) + 1 request.ctx.n = n calls = (calls or 0) + 1 is(calls, n)");
    assert_true(f.request.ctx > 0);
    int first = f.request.ctx;
    script_request_done(f.script, &f.request);
    assert_int_equal(f.request.ctx, 0);
    expect(&f, "request.ctx.x = 1");
    assert_int_equal(f.request.ctx, first); /* its number is used again */
    script_request_done(f.script, &f.request);
    script_request_done(f.script, &f.request); /* harmless */
    fixture_fini(&f);
}

static void
binds_what_drains_but_not_what_is_unhealthy_or_elsewhere(void **state)
{
    struct fixture f;
    uint32_t slot;
    enum reason reason;
    (void)state;
    setup(&f);
    expect(&f, "is('drain', request:bound('drain').id) is('a', request:bound('a').id) is(nil, "
               "request:bound('sick'))\n"
               "is(nil, request:bound('elsewhere')) is(nil, request:bound('nobody')) is(nil, "
               "request:bound(nil)) is(nil, request:bound(7))\n"
               "backends = { request:bound('drain') }");
    assert_int_equal(script_pick(f.script, fixture_request(&f, 0), &slot, &reason), SCRIPT_PICKED);
    assert_int_equal(slot, 1); /* "drain" */
    struct script_request *request = fixture_request(&f, 0);
    request->tried[request->tried_count++] = 1;
    assert_int_equal(script_pick(f.script, request, &slot, &reason), SCRIPT_PICKED);
    assert_int_equal(
        slot, 0); /* bound answers nil for what was tried, the strategy fails, the fallback serves */
    fixture_fini(&f);
}

static void
raises_for_a_request_kept_past_its_life(void **state)
{
    struct fixture f;
    (void)state;
    setup(&f);
    expect(&f, "if kept then\n"
               "  raises('over', function() return kept.path end) raises('over', kept.header, kept, 'x') "
               "raises('over', kept.cookie, kept, 'x')\n"
               "  raises('over', kept.hash, kept, 'path') raises('over', function() return kept.ctx end) "
               "raises('over', kept.bound, kept, 'a')\n"
               "  raises('over', kept.set_cookie, kept, 'a', 'b') end\n"
               "kept = request");
    fixture_fini(&f);
}

static void
gives_the_gateway_table(void **state)
{
    struct fixture f;
    (void)state;
    setup(&f);
    expect(&f,
        "is('fluxgate', gateway.name) is('string', type(gateway.version)) is('number', type(gateway.now()))\n"
        "local r = gateway.random() assert(r >= 0 and r < 1) local n = gateway.random(3) assert(n == 1 or n "
        "== 2 or n == 3)\n"
        "local c = gateway.counter('mine') local before = c:get() is(before, c:next()) is(before + 1, "
        "c:get())\n"
        "is('ba7816bf', (gateway.sha256('abc'):sub(1, 4):gsub('.', function(x) return "
        "('%02x'):format(x:byte()) end)))\n"
        "is('hello?>', gateway.base64url_decode(gateway.base64url_encode('hello?>'))) is(90, "
        "gateway.duration('1m30s'))\n"
        "gateway.log('debug', 'quiet') raises('level', gateway.log, 'loud', 'x') raises('duration', "
        "gateway.duration, 'x')\n"
        "raises('new() only', gateway.strategy, 'round_robin')");
    fixture_fini(&f);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_every_field_of_a_backend_from_the_segment),
        cmocka_unit_test(reads_every_field_of_a_request),
        cmocka_unit_test(raises_on_writes_and_on_unknown_names),
        cmocka_unit_test(survives_methods_called_on_the_wrong_objects),
        cmocka_unit_test(writes_cookies_that_cannot_break_out_of_their_header),
        cmocka_unit_test(keeps_ctx_over_the_attempts_of_a_request_and_no_longer),
        cmocka_unit_test(binds_what_drains_but_not_what_is_unhealthy_or_elsewhere),
        cmocka_unit_test(raises_for_a_request_kept_past_its_life),
        cmocka_unit_test(gives_the_gateway_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
