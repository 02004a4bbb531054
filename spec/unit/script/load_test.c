#include "spec/unit/script/support.h"

#include <sys/mman.h>
#include <time.h>

/* Loads service "a" with this source and options; the complaint must hold `want`, or there must be none where
 * it is "". */
static void
expect_diag(enum script_role role, const char *source, const char *options, const char *want)
{
    struct fixture f;
    fixture_init(&f);
    fixture_strategy(&f, 0, "/mem/plugin.lua", source, options);
    fixture_load_as(&f, role);
    const char *got = f.diags.count == 0 ? "" : f.diags.rows[0].text;
    if (want[0] == '\0' ? got[0] != '\0' : strstr(got, want) == NULL)
        fail_msg("got \"%s\", want \"%s\"", got, want);
    assert_int_equal(diags_ok(&f.diags), want[0] == '\0');
    fixture_fini(&f);
}

#define GOOD_PICK "function S:pick(r, b) return b[1] end "
#define NEW(body)                                                                                            \
    "local S = {} S.__index = S function S.new(o, s) " body " return setmetatable({}, S) end " GOOD_PICK     \
    "return S"

static void
says_where_a_file_is_wrong(void **state)
{
    static const struct {
        const char *source, *want;
    } rows[] = {
        {"local x = = 1",
            "/mem/plugin.lua:1: error: service a, plug-in /mem/plugin.lua: unexpected symbol near '='"},
        {"\n\nerror('at load')", "/mem/plugin.lua:3: error: service a, plug-in /mem/plugin.lua: at load"},
        {"return 7", "the file must return a table with new(), it returned number"},
        {"return {}", "the table has no function new"},
        {"return { api = 2, new = function() end }", "it asks for api = 2; this fluxgate speaks api = 1"},
        {"return { new = function() end }", "new() must return a strategy, it returned nil"},
        {"return { new = function() return {} end }", "a strategy needs a function pick"},
        {"return { new = function() return { pick = print, on_change = 1 } end }",
            "on_change must be a function, it is a number"},
        {NEW("\nlocal x = nil .. 1"), "/mem/plugin.lua:2: error: service a, plug-in /mem/plugin.lua: attempt "
                                      "to concatenate a nil value"},
        {NEW("error({})"), "error with a table value"},
        {NEW("error()"), "error with a nil value"},
        {NEW("error('services.a.options.rate: expected a number', 0)"),
            "fluxgate.yaml:10:5: error: services.a.options.rate: expected a number"},
        {NEW("gateway.options(s, o, { rate = { type = 'number' } })"), ""},
        {NEW("gateway.strategy('no_such')"), "there is no strategy 'no_such'"},
        {NEW("gateway.strategy('round_robin', { x = 1 })"), "services.a.options.x: no such option"},
        {NEW("gateway.strategy('/mem/plugin.lua')"), "strategies are nested too deep"},
        {"\033LJ\002\002", "attempt to load chunk with wrong mode"},
        {NEW("require 'no.such.module'"),
            "module 'no.such.module' is not in lua_path: /mem/lua/no/such/module.lua"},
        {NEW("require '../../etc/passwd'"), "the name is no module name"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        expect_diag(SCRIPT_WORKER, rows[i].source, "{}", rows[i].want);
        expect_diag(SCRIPT_CHECKER, rows[i].source, "{}", rows[i].want);
    }
}

static uint64_t
cpu_now_us(void)
{
    struct timespec now;
    assert_int_equal(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now), 0);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static void
ends_a_load_that_does_not_end_itself(void **state)
{
    static const char *const sources[] = {
        "while true do end",
        "while true do pcall(function() while true do end end) end",
        NEW("while true do end"),
        NEW("local f f = function() return f() end f()"),
        NEW("local c = coroutine.wrap(function() while true do end end) while true do pcall(c) end"),
    };
    (void)state;
    for (size_t i = 0; i < sizeof sources / sizeof sources[0]; i++) {
        uint64_t start = cpu_now_us();
        expect_diag(SCRIPT_CHECKER, sources[i], "{}",
            "/mem/plugin.lua:1: error: service a, plug-in /mem/plugin.lua: ran too long");
        assert_true(
            cpu_now_us() - start < 30000000); /* the budget is 2 s of CPU time, as the timer sees it */
    }
    expect_diag(SCRIPT_CHECKER, NEW("local t = {} for i = 1, 1e9 do t[i] = ('x'):rep(1e6) .. i end"), "{}",
        "not enough memory");
    expect_diag(SCRIPT_CHECKER, NEW("local function f() return 1 + f() end f()"), "{}", "stack overflow");
}

static void
gives_a_plugin_no_way_out_of_its_sandbox(void **state)
{
    (void)state;
    expect_diag(SCRIPT_WORKER,
        NEW("for _, name in ipairs { 'io', 'ffi', 'debug', 'package', 'jit', 'getfenv', 'setfenv', 'dofile', "
            "'loadfile', 'newproxy', 'module' } do "
            "  if _G[name] ~= nil then error(name) end end "
            "for _, name in ipairs { 'execute', 'exit', 'getenv', 'remove', 'rename', 'tmpname', 'setlocale' "
            "} do if os[name] then error(name) end end "
            "for _, name in ipairs { 'ffi', 'jit', 'io', 'debug', 'package', 'jit.util', 'os', "
            "'fluxgate.views' } do "
            "  local ok = pcall(require, name) if ok and name ~= 'os' then error('require ' .. name) end end "
            "if string.dump or (''):len() ~= 0 or ('').dump then error('dump') end "
            "if math.randomseed then error('randomseed') end "
            "if getmetatable('') ~= false then error('string metatable') end "
            "if pcall(setmetatable, '', {}) then error('set string metatable') end "
            "if load('\\27LJ\\2') or loadstring('\\27LJ\\2') then error('bytecode') end "
            "if load('return _G', 'x', 'b')() ~= _G then error('load') end "
            "if pcall(collectgarbage, 'stop') or type(collectgarbage('count')) ~= 'number' then "
            "error('collector') end "
            "if cjson.encode({ 1 }) ~= '[1]' or bit.band(7, 2) ~= 2 or require('cjson') ~= cjson then "
            "error('libraries') end"),
        "{}", "");
}

static void
keeps_the_globals_of_plugins_apart(void **state)
{
    struct fixture f;
    (void)state;
    fixture_init(&f);
    fixture_strategy(&f, 0, "/mem/one.lua",
        NEW("string.format = nil math = nil gateway.log = nil pairs = nil mine = 1 table.insert = error"),
        "{}");
    fixture_strategy(&f, 1, "/mem/two.lua",
        NEW("if mine or not string.format or not math or not gateway.log or not pairs or table.insert == "
            "error then error('reached') end "
            "if ('%d'):format(7) ~= '7' then error('method') end"),
        "{}");
    fixture_load(&f);
    fixture_fini(&f);
}

static void
finds_modules_in_lua_path_and_in_the_share_directory(void **state)
{
    struct fixture f;
    (void)state;
    fixture_init(&f);
    assert_true(bundle_put(f.bundle, "/mem/lua/deep/tool.lua",
        SLICE_LIT("local M = {} function M.f() return 'found' end return M")));
    assert_true(bundle_put(f.bundle, "/mem/lua/loop.lua", SLICE_LIT("return require 'loop'")));
    fixture_strategy(&f, 0, "/mem/plugin.lua",
        NEW("local t = require 'deep.tool' if t.f() ~= 'found' or require 'deep.tool' ~= t then "
            "error('module') end "
            "if not require('fluxgate.rounds').order then error('share') end "
            "local ok, message = pcall(require, 'loop') if ok or not message:find('requires itself') then "
            "error('loop') end"),
        "{}");
    fixture_load(&f);
    fixture_fini(&f);
}

static void
gives_options_as_written_and_null_as_absent(void **state)
{
    (void)state;
    expect_diag(SCRIPT_WORKER,
        NEW("if o.a ~= 1 or o.b[2] ~= 'x' or o.c ~= nil or o.d.e ~= true or s.name ~= 'a' then "
            "error('options') end"),
        "{\"a\": 1, \"b\": [1, \"x\"], \"c\": null, \"d\": {\"e\": true}}", "");
}

static void
hands_a_strategys_state_to_its_successor(void **state)
{
    struct fixture f;
    (void)state;
    fixture_init(&f);
    fixture_strategy(&f, 0, "/mem/carry.lua",
        "local S = {} S.__index = S function S.new(o, s, previous) return setmetatable({ n = previous and "
        "previous.n + 1 or 1 }, S) end "
        "function S:export() return { n = self.n } end function S:pick() error('n ' .. self.n, 0) end return "
        "S",
        "{}");
    fixture_endpoint(&f, 0, "a", SLOT_HEALTHY, 1);
    fixture_load(&f);
    struct script *first = f.script;
    struct script_env env = {.role = SCRIPT_WORKER, .config = &f.config, .bundle = f.bundle, .shm = f.shm};
    f.script = script_new(&env, first, &f.diags);
    script_free(first);
    assert_true(diags_ok(&f.diags));
    fixture_pick(&f, 0);
    struct script_status row;
    assert_int_equal(script_status(f.script, &row, 1), 1);
    assert_string_equal(row.last_error, "pick: n 2");
    fixture_fini(&f);
}

static void
names_the_yaml_line_of_a_wrong_option(void **state)
{
    static const char yaml[] = "listeners: [ { address: \"127.0.0.1:0\" } ]\n"
                               "routes: [ { match: { path_prefix: / }, service: web } ]\n"
                               "services:\n"
                               "  web:\n"
                               "    endpoints: [ \"127.0.0.1:9001\" ]\n"
                               "    strategy: sticky_sessions\n"
                               "    options:\n"
                               "      cookie: SID\n"
                               "      same_site: Sometimes\n"
                               "    health:\n"
                               "      policy: http\n"
                               "      pth: /x\n";
    struct diags diags = {0};
    (void)state;
    struct bundle *bundle = bundle_open();
    assert_true(bundle_put(bundle, "/mem/fluxgate.yaml", slice_of(yaml)));
    struct config *config = config_load(bundle, "/mem/fluxgate.yaml", &diags);
    assert_non_null(config);
    if (!diags_ok(&diags)) diags_print(&diags, stderr);
    assert_true(diags_ok(&diags));
    struct script_env env = {.role = SCRIPT_CHECKER, .config = config, .bundle = bundle};
    struct script *script = script_new(&env, NULL, &diags);
    assert_int_equal(diags.errors, 2);
    assert_non_null(strstr(diags.rows[0].text, "/mem/fluxgate.yaml:9:"));
    assert_non_null(
        strstr(diags.rows[0].text, "services.web.options.same_site: expected one of Lax, Strict, None"));
    assert_non_null(strstr(diags.rows[1].text, "/mem/fluxgate.yaml:12:"));
    assert_non_null(
        strstr(diags.rows[1].text, "services.web.health.pth: no such option; did you mean 'path'?"));
    script_free(script);
    config_free(config);
    bundle_free(bundle);
    diags_fini(&diags);
}

static void
builds_from_a_sealed_bundle_what_the_checker_read(void **state)
{
    static const char yaml[] =
        "listeners: [ { address: \"127.0.0.1:0\" } ]\n"
        "routes: [ { match: { path_prefix: / }, service: web } ]\n"
        "services: { web: { endpoints: [ \"127.0.0.1:9001\" ], strategy: sticky_sessions,\n"
        "  options: { fallback: least_connections }, health: { policy: http, status: [ 200, 204 ] } } }\n";
    struct diags diags = {0};
    (void)state;
    struct bundle *bundle = bundle_open();
    assert_true(bundle_put(bundle, "/mem/fluxgate.yaml", slice_of(yaml)));
    struct config *config = config_load(bundle, "/mem/fluxgate.yaml", &diags);
    assert_non_null(config);
    struct script *checker = script_new(
        &(struct script_env){.role = SCRIPT_CHECKER, .config = config, .bundle = bundle}, NULL, &diags);
    if (!diags_ok(&diags)) diags_print(&diags, stderr);
    assert_true(diags_ok(&diags));
    int fd = memfd_create("generation", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_true(fd >= 0);
    assert_true(bundle_seal(bundle, fd));
    script_free(checker);
    config_free(config);
    bundle_free(bundle);

    bundle = bundle_from_fd(fd);
    assert_non_null(bundle);
    config = config_load(bundle, "/mem/fluxgate.yaml", &diags);
    assert_non_null(config);
    struct shm *shm =
        shm_create(&(struct shm_params){.max_endpoints = 16, .stats_bytes = 4096, .ring_bytes = 65536});
    static const enum script_role roles[] = {SCRIPT_WORKER, SCRIPT_CONTROL};
    for (size_t i = 0; i < 2; i++) {
        struct script_env env = {.role = roles[i], .config = config, .bundle = bundle, .shm = shm};
        struct script *script = script_new(&env, NULL, &diags);
        if (!diags_ok(&diags)) diags_print(&diags, stderr);
        assert_true(diags_ok(&diags));
        assert_non_null(script);
        script_free(script);
    }
    config_free(config);
    bundle_free(bundle);
    shm_destroy(shm);
    diags_fini(&diags);
}

static void
gives_a_trusted_file_every_library_and_no_other(void **state)
{
    static const char *const trust[] = {"/mem/trusted.lua", NULL};
    static const char source[] = "local ok = pcall(require, 'ffi') local S = { n = ok and io and os.execute "
                                 "and debug and 1 or 0 } S.__index = S "
                                 "function S.new() return setmetatable({}, S) end function S:pick(_, b) "
                                 "return self.n == 1 and b[1] or nil end "
                                 "return S";
    struct fixture f;
    (void)state;
    fixture_init(&f);
    f.config.trust = trust;
    fixture_strategy(&f, 0, "/mem/trusted.lua", source, "{}");
    fixture_strategy(&f, 1, "/mem/other.lua", source, "{}");
    uint32_t a = fixture_endpoint(&f, 0, "a", SLOT_HEALTHY, 1);
    fixture_endpoint(&f, 1, "b", SLOT_HEALTHY, 1);
    fixture_load(&f);
    assert_int_equal(fixture_pick(&f, 0), a);
    assert_int_equal(fixture_pick(&f, 1), SLOT_NONE);
    fixture_fini(&f);
}

static void
a_fault_in_a_worker_alone_costs_that_plugin_alone(void **state)
{
    struct fixture f;
    struct script_status rows[8];
    uint32_t slot;
    enum reason reason;
    (void)state;
    fixture_init(&f);
    fixture_strategy(&f, 0, "/mem/broken.lua", "error('here alone')", "{}");
    fixture_endpoint(&f, 0, "a", SLOT_HEALTHY, 1);
    fixture_endpoint(&f, 1, "b", SLOT_HEALTHY, 1);
    f.was_checked = true;
    fixture_load(&f);
    assert_true(script_status(f.script, rows, 8) > 0);
    assert_true(rows[0].quarantined_until_us > 0);
    assert_non_null(strstr(rows[0].last_error, "here alone"));
    for (uint32_t service = 0; service < 2; service++)
        assert_int_equal(script_pick(f.script, fixture_request(&f, service), &slot, &reason), SCRIPT_PICKED);
    fixture_fini(&f);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(says_where_a_file_is_wrong),
        cmocka_unit_test(ends_a_load_that_does_not_end_itself),
        cmocka_unit_test(gives_a_plugin_no_way_out_of_its_sandbox),
        cmocka_unit_test(keeps_the_globals_of_plugins_apart),
        cmocka_unit_test(finds_modules_in_lua_path_and_in_the_share_directory),
        cmocka_unit_test(gives_options_as_written_and_null_as_absent),
        cmocka_unit_test(hands_a_strategys_state_to_its_successor),
        cmocka_unit_test(names_the_yaml_line_of_a_wrong_option),
        cmocka_unit_test(builds_from_a_sealed_bundle_what_the_checker_read),
        cmocka_unit_test(gives_a_trusted_file_every_library_and_no_other),
        cmocka_unit_test(a_fault_in_a_worker_alone_costs_that_plugin_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
