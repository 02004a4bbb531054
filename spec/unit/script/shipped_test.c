#include "spec/unit/script/filters.h"

/* Each shipped filter in the gateway's own runtime: the kit's specs say what they do, this says that they do
 * it here. */
struct row {
    const char *name, *options;
    const char *field, *value; /* of the request; NULL: none */
    enum filter_verdict verdict;
    int status; /* of the answer, 0: it goes on */
    const char *request_field, *request_value;
    const char *response_field, *response_value;
};

static const struct row rows[] = {
    {"headers",
        "{\"request\":{\"set\":{\"X-Who\":\"$client_ip "
        "$header_x_in\"}},\"response\":{\"set\":{\"X-Id\":\"$request_id\"}}}",
        "X-In", "in", FILTER_GO, 0, "x-who", "192.0.2.1 in", "x-id", "id-1"},
    {"rewrite", "{\"rules\":[{\"prefix\":\"/things\",\"to\":\"/new/\"}]}", NULL, NULL, FILTER_GO, 0, NULL,
        NULL, NULL, NULL},
    {"rewrite", "{\"rules\":[{\"prefix\":\"/things\",\"to\":\"/new\",\"redirect\":301}]}", NULL, NULL,
        FILTER_ANSWERED, 301, NULL, NULL, "location", "/new?user=7"},
    {"cors", "{\"origins\":[\"https://a.example\"]}", "Origin", "https://a.example", FILTER_GO, 0, NULL, NULL,
        "access-control-allow-origin", "https://a.example"},
    {"canary", "{\"service\":\"b\",\"header\":\"x-canary\"}", "X-Canary", "1", FILTER_GO, 0, NULL, NULL, NULL,
        NULL},
    {"compress", "{}", "Accept-Encoding", "gzip", FILTER_GO, 0, NULL, NULL, "content-encoding", "gzip"},
    {"ip_allow", "{\"deny\":[\"192.0.2.0/24\"]}", NULL, NULL, FILTER_ANSWERED, 403, NULL, NULL, NULL, NULL},
    {"ip_allow", "{\"allow\":[\"192.0.2.1\"]}", NULL, NULL, FILTER_GO, 0, NULL, NULL, NULL, NULL},
    {"basic_auth", "{\"users\":{\"ann\":\"plain:secret\"}}", NULL, NULL, FILTER_ANSWERED, 401, NULL, NULL,
        "www-authenticate", "Basic realm=\"restricted\", charset=\"UTF-8\""},
    {"basic_auth", "{\"users\":{\"ann\":\"plain:secret\"}}", "Authorization",
        "Basic YW5uOnNlY3JldA==", FILTER_GO, 0, "x-remote-user", "ann", NULL, NULL},
    {"jwt", "{\"secret\":\"0123456789abcdef0123456789abcdef\"}", "Authorization", "Bearer a.b.c",
        FILTER_ANSWERED, 401, NULL, NULL, NULL, NULL},
    {"rate_limit", "{\"rate\":\"1/h\",\"burst\":5}", NULL, NULL, FILTER_GO, 0, NULL, NULL,
        "ratelimit-remaining", "4"},
    {"mirror", "{\"service\":\"b\"}", NULL, NULL, FILTER_GO, 0, NULL, NULL, NULL, NULL},
};

static void
run_row(const struct row *row)
{
    struct world w;
    world_init(&w);
    world_shipped(&w, row->name, row->options);
    world_load(&w);
    if (row->field != NULL) fixture_header(&w.f, row->field, row->value);
    print_message("%s\n", row->name);
    enum filter_verdict verdict = world_begin(&w);
    if (verdict != row->verdict) {
        struct script_status status[16];
        (void)script_status(w.f.script, status, 16);
        fail_msg("%s: %d, %s", row->name, (int)verdict, status[3].last_error);
    }
    if (row->request_field != NULL)
        assert_string_equal(world_header(&w, row->request_field), row->request_value);
    if (row->status != 0) {
        assert_int_equal(w.request.answer->status, row->status);
        if (row->response_field != NULL)
            assert_string_equal(
                world_value(&w.request.answer->headers, row->response_field), row->response_value);
    } else {
        world_answer_header(&w, "Content-Type", "text/html");
        assert_int_equal(world_respond(&w, 200), FILTER_GO);
        if (row->response_field != NULL)
            assert_string_equal(world_value(w.response.headers, row->response_field), row->response_value);
    }
    if (strcmp(row->name, "rewrite") == 0 && row->status == 0)
        assert_int_equal(w.request.changed, FILTER_PATH | FILTER_QUERY);
    if (strcmp(row->name, "canary") == 0) assert_int_equal(w.request.service, 1);
    if (strcmp(row->name, "mirror") == 0) {
        world_end(&w);
        WORLD_UNTIL(&w, w.fetch_count == 1);
        assert_string_equal(w.fetches[0].url, "service://b/things?user=7");
        world_answer(&w, 0, &(struct fetch_answer){.status = 200});
        assert_false(script_is_busy(w.f.script));
    }
    assert_int_equal(atomic_load(&shm_totals(w.f.shm)->script_errors), 0);
    world_fini(&w);
}

static void
every_shipped_filter_does_its_work(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        run_row(&rows[i]);
}

static void
external_auth_asks_and_obeys(void **state)
{
    static const struct {
        int status;
        enum filter_verdict verdict;
        int answered;
    } verdicts[] = {{204, FILTER_GO, 0}, {401, FILTER_ANSWERED, 401}, {500, FILTER_ANSWERED, 503}};
    struct world w;
    (void)state;
    for (int i = 0; i < 3; i++) {
        world_init(&w);
        world_shipped(&w, "external_auth", "{\"url\":\"service://b/check\"}");
        world_load(&w);
        assert_int_equal(world_begin(&w), FILTER_WAIT);
        assert_string_equal(w.fetches[0].url, "service://b/check");
        world_answer(&w, 0, &(struct fetch_answer){.status = verdicts[i].status});
        assert_int_equal(filter_verdict(w.chain), verdicts[i].verdict);
        if (verdicts[i].answered != 0) assert_int_equal(w.request.answer->status, verdicts[i].answered);
        world_fini(&w);
    }
}

int
main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_shipped_filter_does_its_work),
        cmocka_unit_test(external_auth_asks_and_obeys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
