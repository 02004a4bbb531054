#include <luajit.h>

#include "core/script/script_internal.h"
#include "spec/unit/script/support.h"

static char http_file[600], tcp_file[600];

static void
setup(struct fixture *f, const char *source_or_name, const char *options)
{
    fixture_init(f);
    snprintf(http_file, sizeof http_file, "%s/strategies/health/http.lua", bundle_share_dir());
    snprintf(tcp_file, sizeof tcp_file, "%s/strategies/health/tcp.lua", bundle_share_dir());
    struct config_plugin policy = {
        "http", http_file, {"services.a.health", options}, {"fluxgate.yaml", 20, 5}};
    if (strcmp(source_or_name, "tcp") == 0) {
        policy.name = "tcp";
        policy.file = tcp_file;
    } else if (strcmp(source_or_name, "http") != 0) {
        assert_true(bundle_put(f->bundle, "/mem/policy.lua", slice_of(source_or_name)));
        policy.name = policy.file = "/mem/policy.lua";
    }
    f->services[0].health = (struct config_health){.enabled = true, .policy = policy};
    fixture_load_as(f, SCRIPT_CONTROL);
    if (!diags_ok(&f->diags)) diags_print(&f->diags, stderr);
    assert_true(diags_ok(&f->diags));
}

static void
asks_what_the_options_say(void **state)
{
    struct fixture f;
    struct script_probe probe;
    (void)state;
    setup(&f, "http",
        "{\"path\": \"/up\", \"status\": [200, \"300-399\"], \"timeout\": \"1500ms\", \"host\": "
        "\"x.example\", \"body\": \"ok\"}");
    uint32_t slot = fixture_endpoint(&f, 0, "a", SLOT_UNPROVEN, 1);
    assert_true(script_policy_probe(f.script, 0, slot, &probe));
    assert_int_equal(probe.kind, PROBE_HTTP);
    assert_string_equal(probe.method, "GET");
    assert_string_equal(probe.path, "/up");
    assert_string_equal(probe.host_header, "x.example");
    assert_string_equal(probe.body_contains, "ok");
    assert_int_equal(probe.port, 0);
    assert_int_equal(probe.timeout_us, 1500000);
    assert_int_equal(probe.status_count, 2);
    assert_int_equal(probe.statuses[0].from, 200);
    assert_int_equal(probe.statuses[0].to, 200);
    assert_int_equal(probe.statuses[1].from, 300);
    assert_int_equal(probe.statuses[1].to, 399);
    fixture_fini(&f);
}

static void
prefers_an_instances_own_path(void **state)
{
    struct fixture f;
    struct script_probe probe;
    static struct slot_text text = {.id = "own", .health_path = "/own/health?deep=1"};
    (void)state;
    setup(&f, "http", "{\"path\": \"/up\"}");
    uint32_t slot = slot_claim(f.shm, shm_name_find(f.shm, SLICE_LIT("a")), SLOT_UNPROVEN, 1, 80, &text);
    assert_true(script_policy_probe(f.script, 0, slot, &probe));
    assert_string_equal(probe.path, "/own/health?deep=1");
    fixture_fini(&f);
}

static enum script_judgement
judge(struct fixture *f, uint32_t slot, bool ok, int status, uint32_t rise, uint32_t fall,
    enum slot_state now, char reason[128])
{
    enum script_judgement judgement;
    struct script_probe_result result = {.ok = ok,
        .status = status,
        .latency_us = 900,
        .failure = ok ? REASON_NONE : REASON_CONNECT_REFUSED,
        .body = SLICE_LIT("fine")};
    struct script_history history = {.rise = rise, .fall = fall, .state = now};
    assert_true(script_policy_judge(f->script, 0, slot, &result, &history, &judgement, reason));
    return judgement;
}

static void
judges_by_rise_and_fall(void **state)
{
    struct fixture f;
    char reason[128];
    (void)state;
    setup(&f, "http", "{\"rise\": 2, \"fall\": 3}");
    uint32_t slot = fixture_endpoint(&f, 0, "a", SLOT_UNPROVEN, 1);
    assert_int_equal(judge(&f, slot, true, 200, 0, 0, SLOT_UNPROVEN, reason), JUDGE_HEALTHY);
    assert_int_equal(judge(&f, slot, true, 200, 9, 0, SLOT_HEALTHY, reason), JUDGE_UNCHANGED);
    assert_int_equal(judge(&f, slot, true, 200, 0, 0, SLOT_UNHEALTHY, reason), JUDGE_UNCHANGED);
    assert_int_equal(judge(&f, slot, true, 200, 1, 0, SLOT_UNHEALTHY, reason), JUDGE_HEALTHY);
    assert_int_equal(judge(&f, slot, false, 0, 0, 1, SLOT_HEALTHY, reason), JUDGE_UNCHANGED);
    assert_string_equal(reason, "");
    assert_int_equal(judge(&f, slot, false, 0, 0, 2, SLOT_HEALTHY, reason), JUDGE_UNHEALTHY);
    assert_string_equal(reason, "3 probes failed: connect refused");
    assert_int_equal(judge(&f, slot, true, 500, 0, 2, SLOT_HEALTHY, reason), JUDGE_UNHEALTHY);
    assert_string_equal(reason, "3 probes failed: status 500");
    fixture_fini(&f);
}

static void
tcp_asks_for_a_connection(void **state)
{
    struct fixture f;
    struct script_probe probe;
    char reason[128];
    (void)state;
    setup(&f, "tcp", "{\"port\": 99}");
    uint32_t slot = fixture_endpoint(&f, 0, "a", SLOT_UNPROVEN, 1);
    assert_true(script_policy_probe(f.script, 0, slot, &probe));
    assert_int_equal(probe.kind, PROBE_TCP);
    assert_int_equal(probe.port, 99);
    assert_int_equal(probe.timeout_us, 2000000);
    assert_int_equal(judge(&f, slot, true, 0, 0, 0, SLOT_UNPROVEN, reason), JUDGE_HEALTHY);
    fixture_fini(&f);
}

static void
leaves_the_endpoint_alone_when_the_policy_fails(void **state)
{
    static const char *const sources[] = {
        "return { new = function() return { probe = function() error('p') end, judge = function() error('j') "
        "end } end }",
        "return { new = function() return { probe = function() return 7 end, judge = function() return "
        "'well' end } end }",
        "return { new = function() return { probe = function() return { kind = 'icmp' } end, judge = "
        "function() return {} end } end }",
        "return { new = function() return { probe = function() return { kind = 'http', path = '/\\r\\nX: y' "
        "} end, judge = function() return 1 end } end }",
        "return { new = function() return { probe = function() return { kind = 'http', timeout = 0/0 } end, "
        "judge = function() return true end } end }",
        "return { new = function() return { probe = function() return { kind = 'http', status = { '2xx' } } "
        "end, judge = function() error() end } end }",
    };
    (void)state;
    for (size_t i = 0; i < sizeof sources / sizeof sources[0]; i++) {
        struct fixture f;
        struct script_probe probe;
        struct script_status row;
        enum script_judgement judgement;
        char reason[128];
        setup(&f, sources[i], "{}");
        uint32_t slot = fixture_endpoint(&f, 0, "a", SLOT_HEALTHY, 1);
        struct script_probe_result result = {.ok = true, .status = 200};
        struct script_history history = {.state = SLOT_HEALTHY};
        assert_false(script_policy_probe(f.script, 0, slot, &probe));
        assert_false(script_policy_judge(f.script, 0, slot, &result, &history, &judgement, reason));
        assert_int_equal(judgement, JUDGE_UNCHANGED);
        assert_int_equal(script_status(f.script, &row, 1), 1);
        assert_int_equal(row.errors, 2);
        assert_false(script_policy_probe(f.script, 7, slot, &probe));
        assert_false(script_policy_probe(f.script, 0, 4711, &probe));
        fixture_fini(&f);
    }
}

/* ---- dialogs */

#define TALKS(body)                                                                                          \
    "return { new = function() return { probe = function(self, backend) return function(socket) " body       \
    " end end, judge = function(self, backend, result) return 'healthy', tostring(result.value) .. '/' .. "  \
    "tostring(result.detail) end } end }"

static void
runs_a_dialog_turn_by_turn_and_hands_its_value_to_judge(void **state)
{
    struct fixture f;
    struct script_probe probe;
    struct script_dialog_turn turn;
    enum script_judgement judgement;
    char reason[128];
    (void)state;
    setup(&f,
        TALKS("socket:send('a\\0b') local line = socket:receive('line') local six = socket:receive(6) "
              "local got, why, rest = socket:receive() return line .. six .. tostring(got) .. why .. rest"),
        "{}");
    uint32_t slot = fixture_endpoint(&f, 0, "a", SLOT_HEALTHY, 1);
    assert_true(script_policy_probe(f.script, 0, slot, &probe));
    assert_int_equal(probe.kind, PROBE_SOCKET);
    assert_int_not_equal(probe.dialog, 0);
    assert_true(script_policy_dialog(f.script, 0, probe.dialog, NULL, NULL, &turn));
    assert_int_equal(turn.want, DIALOG_SEND);
    assert_int_equal(turn.text.len, 3);
    assert_memory_equal(turn.text.at, "a\0b", 3);
    assert_true(script_policy_dialog(f.script, 0, probe.dialog, NULL, NULL, &turn));
    assert_int_equal(turn.want, DIALOG_RECEIVE);
    assert_int_equal(turn.receive, RECEIVE_LINE);
    struct slice got = SLICE_LIT("line,");
    assert_true(script_policy_dialog(f.script, 0, probe.dialog, &got, NULL, &turn));
    assert_int_equal(turn.receive, RECEIVE_BYTES);
    assert_int_equal(turn.bytes, 6);
    got = SLICE_LIT("sixsix");
    assert_true(script_policy_dialog(f.script, 0, probe.dialog, &got, NULL, &turn));
    assert_int_equal(turn.receive, RECEIVE_SOME);
    got = SLICE_LIT("end");
    assert_true(script_policy_dialog(f.script, 0, probe.dialog, &got, "closed", &turn));
    assert_int_equal(turn.want, DIALOG_DONE);
    assert_true(turn.ok);
    struct script_probe_result result = {.ok = true, .dialog = probe.dialog, .detail = "d"};
    struct script_history history = {.state = SLOT_HEALTHY};
    assert_true(script_policy_judge(f.script, 0, slot, &result, &history, &judgement, reason));
    assert_string_equal(reason, "line,sixsixnilclosedend/d");
    script_policy_dialog_end(f.script, probe.dialog);
    assert_true(script_policy_judge(f.script, 0, slot, &result, &history, &judgement, reason));
    assert_string_equal(reason, "nil/d");
    assert_false(script_policy_dialog(f.script, 0, probe.dialog, NULL, NULL, &turn)); /* it is no more */
    struct script_status row;
    assert_int_equal(script_status(f.script, &row, 1), 1);
    assert_int_equal(row.errors, 0); /* which is nobody's fault */
    fixture_fini(&f);
}

static void
counts_what_a_dialog_does_wrong(void **state)
{
    static const struct {
        const char *source, *error;
    } rows[] = {
        {TALKS("error('boom')"), "boom"},
        {TALKS("local x = nil .. 'a'"), "attempt to concatenate"},
        {TALKS("coroutine.yield('send', 'x')"), "may wait for its socket alone"},
        {TALKS("socket:send(7)"), "socket:send: expected a string"},
        {TALKS("socket:receive('lines')"), "socket:receive: expected nothing"},
        {TALKS("socket:receive(65537)"), "socket:receive: expected nothing"},
        {TALKS("local t = coroutine.wrap(function() return socket:receive() end) t()"),
            "is for its own function"},
        {TALKS("while true do end"), "ran too long"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct fixture f;
        struct script_probe probe;
        struct script_dialog_turn turn;
        struct script_status row;
        setup(&f, rows[i].source, "{}");
        uint32_t slot = fixture_endpoint(&f, 0, "a", SLOT_HEALTHY, 1);
        if (i + 1 == sizeof rows / sizeof rows[0]) luaJIT_setmode(f.script->L, 0, LUAJIT_MODE_OFF);
        assert_true(script_policy_probe(f.script, 0, slot, &probe));
        assert_false(script_policy_dialog(f.script, 0, probe.dialog, NULL, NULL, &turn));
        assert_int_equal(script_status(f.script, &row, 1), 1);
        assert_int_equal(row.errors, 1);
        if (strstr(row.last_error, rows[i].error) == NULL) fail_msg("%s", row.last_error);
        script_policy_dialog_end(f.script, probe.dialog);
        fixture_fini(&f);
    }
}

static void
grpc_asks_for_its_service(void **state)
{
    struct fixture f;
    struct script_probe probe;
    static char file[600];
    (void)state;
    fixture_init(&f);
    snprintf(file, sizeof file, "%s/strategies/health/grpc.lua", bundle_share_dir());
    f.services[0].health = (struct config_health){.enabled = true,
        .policy = {"grpc", file, {"services.a.health", "{\"service\": \"x.Y\", \"port\": 9}"},
            {"fluxgate.yaml", 20, 5}}};
    fixture_load_as(&f, SCRIPT_CONTROL);
    assert_true(diags_ok(&f.diags));
    uint32_t slot = fixture_endpoint(&f, 0, "a", SLOT_HEALTHY, 1);
    assert_true(script_policy_probe(f.script, 0, slot, &probe));
    assert_int_equal(probe.kind, PROBE_GRPC);
    assert_string_equal(probe.service, "x.Y");
    assert_int_equal(probe.port, 9);
    fixture_fini(&f);
}

/* ---- observe() */

static void
hands_a_window_to_observe_and_takes_its_word(void **state)
{
    static const char source[] =
        "return { new = function() return { window = 0.5, observe = function(self, backend, w) "
        "if w.trial then return 'restore', w.trial end "
        "local mean, deviation, hosts = w.fleet:success_rate(10) "
        "return 'eject', 2.5, table.concat({ backend.id, tostring(w.is_new), w.seconds, w.requests, "
        "w.failures, "
        "w.errors, w.failures_in_row, w.errors_in_row, w.latency, w.ejections, w.fleet.endpoints, "
        "w.fleet.ejected, w.success_rate, mean, deviation, hosts, (w.fleet:latency(10)) }, ' ') end } end }";
    struct fixture f;
    struct script_observation word;
    (void)state;
    setup(&f, source, "{}");
    uint32_t slot = fixture_endpoint(&f, 0, "a", SLOT_HEALTHY, 1);
    assert_false(script_policy_probes(f.script, 0));
    assert_int_equal(script_policy_window_us(f.script, 0), 500000);
    assert_int_equal(script_policy_window_us(f.script, 1), 0);
    const struct script_window_row rows[] = {{20, 0, 1000}, {20, 10, 3000}, {9, 9, 9000}};
    assert_true(script_policy_fleet(f.script, 0, rows, 3));
    struct script_window window = {.is_new = true,
        .seconds = 0.5,
        .requests = 20,
        .failures = 4,
        .errors = 10,
        .failures_in_row = 1,
        .errors_in_row = 2,
        .latency_us = 3000,
        .ejections = 3,
        .endpoints = 5,
        .ejected = 1};
    assert_true(script_policy_observe(f.script, 0, slot, &window, &word));
    assert_int_equal(word.action, OBSERVE_EJECT);
    assert_int_equal(word.span_us, 2500000);
    assert_string_equal(word.reason, "a true 0.5 20 4 10 1 2 0.003 3 5 1 0.5 0.75 0.25 2 0.002");
    window.trial = TRIAL_ERROR;
    assert_true(script_policy_observe(f.script, 0, slot, &window, &word));
    assert_int_equal(word.action, OBSERVE_RESTORE);
    assert_int_equal(word.span_us, 0);
    assert_string_equal(word.reason, "error");
    fixture_fini(&f);
}

static void
counts_what_observe_does_wrong(void **state)
{
    static const char *const answers[] = {
        "error('o')", "return 'up'", "return 'eject', -1", "return 'eject', {}"};
    (void)state;
    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        struct fixture f;
        struct script_observation word;
        struct script_status row;
        char source[200];
        snprintf(source, sizeof source,
            "return { new = function() return { observe = function() %s end } end }", answers[i]);
        setup(&f, source, "{}");
        uint32_t slot = fixture_endpoint(&f, 0, "a", SLOT_HEALTHY, 1);
        assert_false(script_policy_observe(f.script, 0, slot, &(struct script_window){0}, &word));
        assert_int_equal(word.action, OBSERVE_NOTHING);
        assert_int_equal(script_status(f.script, &row, 1), 1);
        assert_int_equal(row.errors, 1);
        fixture_fini(&f);
    }
}

static void
lets_the_passive_policy_observe_beside_the_one_that_probes(void **state)
{
    struct fixture f;
    struct script_probe probe;
    struct script_observation word;
    static char file[600];
    (void)state;
    fixture_init(&f);
    snprintf(http_file, sizeof http_file, "%s/strategies/health/http.lua", bundle_share_dir());
    snprintf(file, sizeof file, "%s/strategies/health/passive.lua", bundle_share_dir());
    f.services[0].health = (struct config_health){.enabled = true,
        .policy = {"http", http_file, {"services.a.health", "{}"}, {"fluxgate.yaml", 20, 5}},
        .passive = {"passive", file, {"services.a.health.passive", "{\"window\": \"2s\"}"},
            {"fluxgate.yaml", 21, 5}}};
    fixture_load_as(&f, SCRIPT_CONTROL);
    assert_true(diags_ok(&f.diags));
    uint32_t slot = fixture_endpoint(&f, 0, "a", SLOT_HEALTHY, 1);
    assert_true(script_policy_probes(f.script, 0));
    assert_int_equal(script_policy_window_us(f.script, 0), 2000000);
    assert_true(script_policy_probe(f.script, 0, slot, &probe));
    assert_int_equal(probe.kind, PROBE_HTTP);
    struct script_window window = {.failures_in_row = 5, .endpoints = 2};
    assert_true(script_policy_observe(f.script, 0, slot, &window, &word));
    assert_int_equal(word.action, OBSERVE_EJECT);
    assert_true(word.span_us >= 9000000 && word.span_us <= 11000000);
    assert_string_equal(word.reason, "5 requests failed in a row");
    fixture_fini(&f);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(asks_what_the_options_say),
        cmocka_unit_test(prefers_an_instances_own_path),
        cmocka_unit_test(judges_by_rise_and_fall),
        cmocka_unit_test(tcp_asks_for_a_connection),
        cmocka_unit_test(leaves_the_endpoint_alone_when_the_policy_fails),
        cmocka_unit_test(runs_a_dialog_turn_by_turn_and_hands_its_value_to_judge),
        cmocka_unit_test(counts_what_a_dialog_does_wrong),
        cmocka_unit_test(grpc_asks_for_its_service),
        cmocka_unit_test(hands_a_window_to_observe_and_takes_its_word),
        cmocka_unit_test(counts_what_observe_does_wrong),
        cmocka_unit_test(lets_the_passive_policy_observe_beside_the_one_that_probes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
