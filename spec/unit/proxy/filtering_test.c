/* links: shm metrics config */
/* What filters make of a request and of an answer's head, and what waits while they do. */
#include "spec/unit/proxy/filtering_rig.h"

/* ---- the request ---- */

static enum filter_verdict
change_all(struct filter_request *request, unsigned nth)
{
    if (nth != 1) return FILTER_GO;
    request->pick->method = METHOD_PUT;
    request->pick->method_text = SLICE_LIT("PUT");
    request->pick->path = SLICE_LIT("/new");
    request->pick->query = SLICE_LIT("q=2");
    request->pick->host = SLICE_LIT("b.example");
    request->changed = FILTER_METHOD | FILTER_PATH | FILTER_QUERY | FILTER_HOST;
    assert_true(headers_add(
        request->headers, request->pick->arena, HEADER_OTHER, SLICE_LIT("X-New"), SLICE_LIT("1")));
    headers_drop(request->headers, HEADER_USER_AGENT);
    return FILTER_GO;
}

static void
what_filters_change_is_what_the_endpoint_gets(void **state)
{
    struct rig *rig = new_rig(FILTERED);
    struct heard *client = rig_client(rig);
    (void)state;
    fake.on_request = change_all;
    rig_say(rig, client, "GET /old?q=1 HTTP/1.1\r\nHost: a.example\r\nUser-Agent: x\r\n\r\n");
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    assert_int_equal(strncmp(backend->text, "PUT /new?q=2 HTTP/1.1\r\nHost: b.example\r\n", 40), 0);
    assert_non_null(strstr(backend->text, "X-New: 1\r\n"));
    assert_null(strstr(backend->text, "User-Agent"));
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    rig_expect(rig, client, "\r\n\r\nok");
    rig_expect_log(rig, "status=200 reason=\"-\"");
    assert_int_equal(fake.request_runs, 2); /* the route's filters, then the service's */
    assert_int_equal(fake.response_runs, 1);
    assert_int_equal(fake.logs, 1);
    assert_string_equal(fake.log_path, "/new");
    expect_over(rig);
    rig_hang_up(client), rig_hang_up(backend);
    rig_free(rig);
}

static void
a_rewrite_comes_after_the_filters(void **state)
{
    struct rig *rig =
        new_rig(RIG_YAML("  - match: { path_prefix: / }\n    service: web\n    filters: [ x.lua ]\n"
                         "    rewrite: { add_prefix: /v1, host: in.example }\n",
            ""));
    struct heard *client = rig_client(rig);
    (void)state;
    fake.on_request = change_all;
    rig_say(rig, client, GET("/old"));
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "PUT /v1/new?q=2 HTTP/1.1\r\nHost: b.example\r\n");
    rig_hang_up(client), rig_hang_up(backend);
    rig_free(rig);
}

#define TWO_ROUTES                                                                                           \
    "listeners: [ { address: 127.0.0.1:0 } ]\nworkers: 1\nroutes:\n"                                         \
    "  - { name: one, match: { path_prefix: /one }, service: web, filters: [ x.lua ] }\n"                    \
    "  - { name: two, match: { path_prefix: /two }, service: other, rewrite: { add_prefix: /o } }\n"         \
    "  - { name: three, match: { path_prefix: /three }, respond: { status: 203, body: three } }\n"           \
    "services: { web: { endpoints: [ \"127.0.0.1:1\" ] }, other: { endpoints: [ \"127.0.0.1:1\" ] } }\n"     \
    "log: { access: \"-\" }\n"

static enum filter_verdict
move_to_three(struct filter_request *request, unsigned nth)
{
    if (nth == 0) {
        assert_int_equal(request->service, 0);
        request->route = 2;
        request->changed |= FILTER_ROUTE;
    } else {
        assert_int_equal(request->service, SLOT_NONE);
    }
    return FILTER_GO;
}

static enum filter_verdict
move_to_two(struct filter_request *request, unsigned nth)
{
    if (nth == 0) {
        request->route = 1;
        request->changed |= FILTER_ROUTE;
    } else {
        assert_int_equal(request->service, 1); /* the route's, before the service's filters run */
    }
    return FILTER_GO;
}

static enum filter_verdict
serve_by_other(struct filter_request *request, unsigned nth)
{
    if (nth == 1) {
        request->service = 1;
        request->changed |= FILTER_SERVICE;
    }
    return FILTER_GO;
}

static void
set_route_takes_over_all_of_that_route(void **state)
{
    struct rig *rig = new_rig(TWO_ROUTES);
    struct heard *client = rig_client(rig);
    (void)state;
    fake.on_request = move_to_three;
    rig_say(rig, client, GET("/one"));
    rig_expect(rig, client, "HTTP/1.1 203 ");
    rig_expect(rig, client, "\r\n\r\nthree");
    rig_expect_log(rig, "route=\"three\" service=\"-\"");
    fake.request_runs = 0;
    fake.on_request = move_to_two;
    rig_say(rig, client, GET("/one"));
    rig_expect(rig, client, "HTTP/1.1 502 "); /* the slots are web's */
    rig_expect_log(rig, "route=\"two\" service=\"other\"");
    rig_hang_up(client);
    rig_free(rig);
}

static void
the_filters_of_a_service_that_a_filter_chose_run_too(void **state)
{
    struct rig *rig = new_rig(TWO_ROUTES);
    struct heard *client = rig_client(rig);
    (void)state;
    fake.on_request = serve_by_other;
    rig_say(rig, client, GET("/one"));
    rig_expect_log(rig, "route=\"one\" service=\"other\"");
    assert_int_equal(fake.request_runs, 3);
    rig_hang_up(client);
    rig_free(rig);
}

static enum filter_verdict
mark_response(struct filter_request *request, struct filter_response *response)
{
    assert_true(headers_add(
        response->headers, request->pick->arena, HEADER_OTHER, SLICE_LIT("X-Mark"), SLICE_LIT("1")));
    return FILTER_GO;
}

static void
an_answer_goes_out_at_once_and_the_connection_goes_on(void **state)
{
    struct rig *rig = new_rig(FILTERED);
    struct heard *client = rig_client(rig);
    (void)state;
    given = answer_of(403, "no\n");
    fake.on_request = answer_at_once;
    fake.on_response = mark_response;
    for (int i = 0; i < 2; i++) {
        rig_say(rig, client, "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
        rig_expect(rig, client, "\r\n\r\nno\n");
        assert_int_equal(strncmp(client->text, "HTTP/1.1 403 ", 13), 0);
        assert_non_null(strstr(client->text, "Content-Length: 3\r\n"));
        assert_non_null(strstr(client->text, "X-Mark: 1\r\n"));
        assert_non_null(strstr(client->text, "Date: "));
        assert_null(strstr(client->text, "Connection: close"));
        rig_forget(client);
    }
    rig_expect_log(rig, "status=403 reason=\"filter_denied\"");
    assert_int_equal(fake_picks, 0);
    assert_int_equal(fake.logs, 2);
    assert_int_equal(fake.log_reason, REASON_FILTER_DENIED);
    assert_false(rig_has_connection(rig, 0));
    rig_hang_up(client);
    rig_free(rig);
}

static void
an_answer_to_a_request_whose_body_never_came_closes(void **state)
{
    struct rig *rig = new_rig(FILTERED);
    struct heard *client = rig_client(rig);
    (void)state;
    given = answer_of(200, "fine");
    fake.on_request = answer_at_once;
    rig_say(rig, client, "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbo");
    rig_expect(rig, client, "Connection: close\r\n");
    rig_expect_end(rig, client);
    rig_expect_log(rig, "status=200 reason=\"-\"");
    rig_hang_up(client);
    rig_free(rig);
}

static enum filter_verdict
fail_closed(struct filter_request *request, unsigned nth)
{
    (void)nth;
    request->failure.reason = REASON_FILTER_ERROR;
    request->failure.status = 500;
    request->failure.sentence = "a filter failed";
    return FILTER_FAILED;
}

static void
a_filter_that_fails_lets_nothing_through(void **state)
{
    struct rig *rig = new_rig(FILTERED);
    struct heard *client = rig_client(rig);
    (void)state;
    fake.on_request = fail_closed;
    rig_say(rig, client, GET("/"));
    rig_expect(rig, client, "500 filter_error: a filter failed\n");
    rig_expect_log(rig, "status=500 reason=\"filter_error\"");
    assert_int_equal(fake_picks, 0);
    assert_int_equal(fake.response_runs, 0); /* an answer of the gateway's own */
    assert_int_equal(fake.logs, 1);
    rig_hang_up(client);
    rig_free(rig);
}

static void
on_log_sees_what_failed_before_any_filter_ran(void **state)
{
    struct rig *rig =
        new_rig(RIG_YAML("  - match: { path_prefix: / }\n    service: web\n    filters: [ x.lua ]\n"
                         "    limits: { body_bytes: 3 }\n",
            ""));
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
    rig_expect(rig, client, "HTTP/1.1 413 ");
    RIG_WAIT(rig, "on_log", fake.logs == 1);
    assert_int_equal(fake.log_status, 413);
    assert_int_equal(fake.begun, 0);
    rig_hang_up(client);
    rig_free(rig);
}

/* ---- waiting ---- */

static void
wake(struct rig *rig, enum filter_verdict verdict)
{
    fake.verdict = verdict;
    fake.host.enter(fake.host.context);
    fake.host.moved(fake.chain->request->stream);
    fake.host.leave(fake.host.context);
    (void)rig;
}

static void
a_request_waits_while_its_filter_does_and_those_behind_it_too(void **state)
{
    struct rig *rig = new_rig(FILTERED);
    struct heard *client = rig_client(rig);
    (void)state;
    fake.on_request = wait_first;
    rig_say(rig, client, GET("/1") GET("/2"));
    RIG_WAIT(rig, "the filter", fake.request_runs == 1);
    settle(rig);
    assert_int_equal(fake.request_runs, 1);
    assert_false(rig_has_connection(rig, 0));
    wake(rig, FILTER_GO);
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "GET /1 ");
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1");
    rig_expect(rig, backend, "GET /2 ");
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2");
    rig_expect(rig, client, "\r\n\r\n2");
    expect_over(rig);
    rig_hang_up(client), rig_hang_up(backend);
    rig_free(rig);
}

static void
a_wait_ends_with_timeouts_filter(void **state)
{
    struct rig *rig = new_rig(FILTERED_WITHIN("200ms"));
    struct heard *client = rig_client(rig);
    (void)state;
    fake.on_request = wait_first;
    fake.expired = FILTER_FAILED;
    rig_say(rig, client, GET("/1"));
    rig_expect(rig, client, "HTTP/1.1 500 ");
    rig_expect_log(rig, "reason=\"filter_error\"");
    assert_int_equal(fake.expires, 1);
    fake.request_runs = 0;
    fake.expired = FILTER_GO; /* on_error: skip */
    rig_say(rig, client, GET("/2"));
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "GET /2 ");
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1");
    rig_expect(rig, client, "\r\n\r\n1");
    rig_hang_up(client), rig_hang_up(backend);
    expect_over(rig);
    rig_free(rig);
}

static void
a_client_that_leaves_ends_the_wait(void **state)
{
    struct rig *rig =
        new_rig(RIG_YAML("  - match: { path_prefix: / }\n    service: web\n    filters: [ x.lua ]\n", ""));
    struct heard *client = rig_client(rig);
    struct linger now = {1, 0};
    (void)state;
    fake.on_request = wait_first;
    rig_say(rig, client, GET("/1"));
    RIG_WAIT(rig, "the filter", fake.request_runs == 1);
    setsockopt(client->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    rig_hang_up(client);
    rig_expect_log(rig, "status=499 reason=\"client_gone\"");
    assert_int_equal(fake.ended, 1);
    assert_int_equal(fake.log_status, 499);
    rig_free(rig);
}

static void
a_reload_leaves_a_waiting_request_its_generation(void **state)
{
    struct rig *rig = new_rig(FILTERED);
    struct heard *client = rig_client(rig);
    (void)state;
    fake.on_request = wait_first;
    rig_say(rig, client, GET("/1"));
    RIG_WAIT(rig, "the filter", fake.request_runs == 1);
    rig_use(rig, RIG_PLAIN);
    assert_int_equal(fake.retired, 1);
    wake(rig, FILTER_GO);
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "GET /1 ");
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1");
    rig_expect(rig, client, "\r\n\r\n1");
    expect_over(rig);
    rig_hang_up(client), rig_hang_up(backend);
    rig_free(rig);
}

static void
take_drained(void *context)
{
    ((struct rig *)context)->drained = true;
}

static void
a_drain_cuts_a_wait_at_its_end(void **state)
{
    struct rig *rig =
        new_rig(RIG_YAML("  - match: { path_prefix: / }\n    service: web\n    filters: [ x.lua ]\n", ""));
    struct heard *client = rig_client(rig);
    (void)state;
    fake.on_request = wait_first;
    rig_say(rig, client, GET("/1"));
    RIG_WAIT(rig, "the filter", fake.request_runs == 1);
    proxy_drain(rig->proxy, 50000, 50000, take_drained, rig);
    rig_expect(rig, client, "503 draining");
    rig_expect_end(rig, client);
    rig_hang_up(client);
    RIG_WAIT(rig, "the drain", rig->drained);
    assert_int_equal(fake.ended, 1);
    rig_free(rig);
}

static void
filters_run_once_whatever_the_attempts(void **state)
{
    struct rig *rig = new_rig(FILTERED);
    struct heard *client = rig_client(rig);
    (void)state;
    close(rig->backend[0]);
    rig->backend[0] = -1;
    rig_say(rig, client, GET("/1"));
    struct heard *backend = rig_backend(rig, 1);
    rig_expect(rig, backend, "GET /1 ");
    assert_int_equal(fake_picks, 2);
    assert_int_equal(fake.request_runs, 2);
    assert_int_equal(fake.begun, 1);
    rig_hang_up(client), rig_hang_up(backend);
    expect_over(rig);
    rig_free(rig);
}

/* ---- the response ---- */

static enum filter_verdict
change_response(struct filter_request *request, struct filter_response *response)
{
    assert_int_equal(response->status, 200);
    assert_non_null(headers_find(response->headers, HEADER_CONTENT_LENGTH));
    assert_null(headers_find(response->headers, HEADER_CONNECTION));
    response->status = 203;
    headers_drop(response->headers, HEADER_SERVER);
    return mark_response(request, response);
}

static void
status_and_headers_are_as_filters_leave_them(void **state)
{
    struct rig *rig = new_rig(FILTERED);
    struct heard *client = rig_client(rig);
    (void)state;
    fake.on_response = change_response;
    rig_say(rig, client, GET("/"));
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    rig_say(rig, backend,
        "HTTP/1.1 200 OK\r\nServer: x\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok");
    rig_expect(rig, client, "\r\n\r\nok");
    assert_int_equal(strncmp(client->text, "HTTP/1.1 203 ", 13), 0);
    assert_non_null(strstr(client->text, "X-Mark: 1\r\n"));
    assert_null(strstr(client->text, "Server:"));
    const char *length = strstr(client->text, "Content-Length: ");
    assert_non_null(length);
    assert_null(strstr(length + 1, "Content-Length: "));
    rig_hang_up(client), rig_hang_up(backend);
    rig_free(rig);
}

static enum filter_verdict
wait_for_response(struct filter_request *request, struct filter_response *response)
{
    (void)request, (void)response;
    return FILTER_WAIT;
}

static void
a_response_waits_for_its_filter(void **state)
{
    struct rig *rig = new_rig(FILTERED_WITHIN("1s"));
    struct heard *client = rig_client(rig);
    (void)state;
    fake.on_response = wait_for_response;
    rig_say(rig, client, GET("/"));
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n123");
    RIG_WAIT(rig, "on_response", fake.response_runs == 1);
    rig_say(rig, backend, "456");
    settle(rig);
    heard_read(client);
    assert_int_equal(client->len, 0);
    wake(rig, FILTER_GO);
    rig_expect(rig, client, "\r\n\r\n123456");
    fake.expired = FILTER_FAILED;
    rig_forget(client);
    rig_say(rig, client, GET("/2"));
    rig_expect(rig, backend, "GET /2 ");
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n123456");
    rig_expect(rig, client, "500 filter_error");
    rig_hang_up(client), rig_hang_up(backend);
    expect_over(rig);
    rig_free(rig);
}

static enum filter_verdict
answer_instead(struct filter_request *request, struct filter_response *response)
{
    (void)request;
    response->answer = &given;
    response->status = given.status;
    response->headers = &given.headers;
    return FILTER_ANSWERED;
}

static void
an_answer_of_on_response_replaces_the_endpoints(void **state)
{
    struct rig *rig = new_rig(FILTERED);
    struct heard *client = rig_client(rig);
    (void)state;
    given = answer_of(451, "not here");
    fake.on_response = answer_instead;
    rig_say(rig, client, GET("/"));
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret");
    rig_expect(rig, client, "\r\n\r\nnot here");
    assert_null(strstr(client->text, "secret"));
    rig_expect_log(rig, "status=451 reason=\"filter_denied\"");
    rig_hang_up(client), rig_hang_up(backend);
    rig_free(rig);
}

static void
filters_see_a_switch_of_protocols(void **state)
{
    struct rig *rig = new_rig(FILTERED);
    (void)state;
    for (int denied = 0; denied < 2; denied++) {
        struct heard *client = rig_client(rig);
        fake.on_response = denied ? answer_instead : mark_response;
        given = answer_of(403, "no tunnel");
        rig_say(
            rig, client, "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
        struct heard *backend = rig_backend(rig, 0);
        rig_expect(rig, backend, "Upgrade: websocket\r\n");
        rig_say(rig, backend,
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhi");
        if (denied) {
            rig_expect(rig, client, "HTTP/1.1 403 ");
            rig_expect(rig, client, "no tunnel");
            assert_null(strstr(client->text, "websocket"));
        } else {
            rig_expect(rig, client, "\r\n\r\nhi");
            assert_int_equal(strncmp(client->text, "HTTP/1.1 101 ", 13), 0);
            assert_non_null(strstr(client->text, "X-Mark: 1\r\n"));
            assert_non_null(strstr(client->text, "Upgrade: websocket\r\n"));
            rig_say(rig, client, "there");
            rig_expect(rig, backend, "there");
        }
        rig_hang_up(client), rig_hang_up(backend);
        settle(rig);
    }
    expect_over(rig);
    rig_free(rig);
}

static void
a_script_that_is_busy_outlives_its_generation(void **state)
{
    struct rig *rig = new_rig(FILTERED);
    (void)state;
    fake.is_busy = true;
    rig_use(rig, RIG_PLAIN);
    assert_non_null(rig->proxy->retired);
    uint64_t later_us = clock_now_us() + 600000; /* two sweeps */
    RIG_WAIT(rig, "some sweeps", clock_now_us() > later_us);
    assert_non_null(rig->proxy->retired);
    fake.is_busy = false;
    RIG_WAIT(rig, "the sweep", rig->proxy->retired == NULL);
    fake.is_busy = true;
    rig_use(rig, RIG_PLAIN);
    rig_free(rig); /* whatever still runs */
}

static void
the_time_of_the_whole_request_holds_in_a_filter(void **state)
{
    struct rig *rig =
        new_rig(RIG_YAML("  - match: { path_prefix: / }\n    service: web\n    filters: [ x.lua ]\n"
                         "    timeouts: { filter: 9s, request: 200ms }\n",
            ""));
    struct heard *client = rig_client(rig);
    (void)state;
    fake.on_request = wait_first;
    rig_say(rig, client, GET("/"));
    rig_expect(rig, client, "504 response_timeout: the request took longer than it may");
    assert_int_equal(fake.expires, 0);
    assert_int_equal(fake.ended, 1);
    rig_hang_up(client);
    rig_free(rig);
}

/* A client that half-closed is asked for a sign of life by an interim answer, for which there is no place
 * once the head is out. */
static void
no_interim_answer_stands_in_a_body(void **state)
{
    struct rig *rig =
        new_rig(RIG_YAML("  - match: { path_prefix: / }\n    service: web\n    filters: [ x.lua ]\n", ""));
    struct heard *client = rig_client(rig);
    (void)state;
    fake.on_response = wait_for_response;
    rig_say(rig, client, GET("/"));
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n123");
    RIG_WAIT(rig, "on_response", fake.response_runs == 1);
    assert_int_equal(shutdown(client->fd, SHUT_WR), 0);
    RIG_WAIT(rig, "the FIN",
        fake.chain->request->stream != NULL && ((struct stream *)fake.chain->request->stream)->nudge_us != 0);
    wake(rig, FILTER_GO);
    rig_expect(rig, client, "\r\n\r\n123");
    uint64_t later_us = clock_now_us() + 1300000;
    RIG_WAIT(rig, "the time of the nudge", clock_now_us() > later_us);
    rig_say(rig, backend, "456");
    rig_expect(rig, client, "\r\n\r\n123456");
    rig_hang_up(client), rig_hang_up(backend);
    rig_free(rig);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_filters_change_is_what_the_endpoint_gets),
        cmocka_unit_test(a_rewrite_comes_after_the_filters),
        cmocka_unit_test(set_route_takes_over_all_of_that_route),
        cmocka_unit_test(the_filters_of_a_service_that_a_filter_chose_run_too),
        cmocka_unit_test(an_answer_goes_out_at_once_and_the_connection_goes_on),
        cmocka_unit_test(an_answer_to_a_request_whose_body_never_came_closes),
        cmocka_unit_test(a_filter_that_fails_lets_nothing_through),
        cmocka_unit_test(on_log_sees_what_failed_before_any_filter_ran),
        cmocka_unit_test(a_request_waits_while_its_filter_does_and_those_behind_it_too),
        cmocka_unit_test(a_wait_ends_with_timeouts_filter),
        cmocka_unit_test(a_client_that_leaves_ends_the_wait),
        cmocka_unit_test(a_reload_leaves_a_waiting_request_its_generation),
        cmocka_unit_test(a_drain_cuts_a_wait_at_its_end),
        cmocka_unit_test(filters_run_once_whatever_the_attempts),
        cmocka_unit_test(status_and_headers_are_as_filters_leave_them),
        cmocka_unit_test(a_response_waits_for_its_filter),
        cmocka_unit_test(an_answer_of_on_response_replaces_the_endpoints),
        cmocka_unit_test(filters_see_a_switch_of_protocols),
        cmocka_unit_test(a_script_that_is_busy_outlives_its_generation),
        cmocka_unit_test(the_time_of_the_whole_request_holds_in_a_filter),
        cmocka_unit_test(no_interim_answer_stands_in_a_body),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
