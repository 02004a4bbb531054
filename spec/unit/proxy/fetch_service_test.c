/* links: shm metrics config */
#include "core/shm/queue.h"
#include "spec/unit/proxy/fetch_rig.h"

#define OK2 "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\nok"
#define LIMITED(limits)                                                                                      \
    "listeners: [ { address: 127.0.0.1:0 } ]\nworkers: 1\n"                                                  \
    "routes:\n  - match: { path_prefix: / }\n    service: web\n"                                             \
    "services: { web: { endpoints: [ \"127.0.0.1:1\" ], limits: { " limits " } } }\n"                        \
    "log: { level: info, format: logfmt, access: \"-\" }\n"

static struct heard *
asked(struct rig *rig, unsigned i, const char *request)
{
    struct heard *server = rig_backend(rig, i);
    rig_expect(rig, server, "\r\n\r\n");
    if (strncmp(server->text, request, strlen(request)) != 0)
        fail_msg("expected %s, got %s", request, server->text);
    return server;
}

static void
leave(struct told *told)
{
    proxy_enter(told->rig->proxy);
    fetch_cancel(told->fetch);
    proxy_leave(told->rig->proxy);
    free(told);
}

static void
goes_the_way_of_a_clients_request(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 2);
    struct shm_worker *block = shm_worker(rig->shm, 0);
    (void)state;
    struct told *told = fetch_with(rig,
        (struct asked){.url = "service://web/a/../b//c?d=e", .name = "X-Forwarded-For", .value = "192.0.2.9"},
        REASON_NONE);
    struct heard *server = asked(rig, 0, "GET /b//c?d=e HTTP/1.1\r\nHost: web\r\n");
    assert_non_null(strstr(server->text, "\r\nX-Forwarded-For: 192.0.2.9\r\n"));
    assert_null(strstr(server->text, "X-Forwarded-Proto"));
    assert_non_null(strstr(server->text, "\r\nX-Request-Id: "));
    assert_non_null(strstr(server->text, "\r\ntraceparent: "));
    assert_int_equal(slot_active(rig->shm, rig->slot[0]), 1);
    assert_int_equal(atomic_load(&block->streams), 1);
    assert_int_equal(atomic_load(&block->connections), 0);
    rig_say(rig, server, OK2);
    RIG_WAIT(rig, "the answer", told->calls == 1);
    assert_string_equal(told->header, "b");
    expect_answer(rig, told, 200, "ok");
    rig_expect_log(rig, "client=\"-\" method=\"GET\" host=\"web\" path=\"/b/c\" status=200 reason=\"-\"");
    rig_expect_log(rig, "route=\"(fetch)\" service=\"web\" endpoint=\"b0\" attempts=1");
    assert_int_equal(fake_picks, 1);
    assert_int_equal(fake_results, 1);
    for (unsigned i = 0; i < SHM_CLOSE_COUNT; i++)
        assert_int_equal(atomic_load(&shm_totals(rig->shm)->closed[i]), 0);
    rig_hang_up(server);
    rig_free(rig);
}

static void
reuses_its_pair_and_the_endpoints_connection(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    (void)state;
    struct told *told = fetch_url(rig, "service://web");
    struct heard *server = asked(rig, 0, "GET / HTTP/1.1\r\n");
    rig_say(rig, server, OK2);
    expect_answer(rig, told, 200, "ok");
    rig_trust(rig, 0);
    for (int i = 0; i < 3; i++) {
        rig_forget(server);
        told = fetch_with(rig,
            (struct asked){.method = "POST", .url = "service://web/x", .body = SLICE_LIT("hello")},
            REASON_NONE);
        rig_expect(rig, server, "\r\n\r\nhello");
        rig_say(rig, server, OK2);
        expect_answer(rig, told, 200, "ok");
        assert_int_equal(rig->proxy->fetcher->idle_count, 1);
    }
    assert_false(rig_has_connection(rig, 0));
    rig_hang_up(server);
    rig_free(rig);
}

static void
is_retried_on_another_endpoint(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 2);
    (void)state;
    close(rig->backend[0]);
    rig->backend[0] = -1;
    struct told *told = fetch_url(rig, "service://web/r");
    struct heard *server = asked(rig, 1, "GET /r ");
    rig_say(rig, server, OK2);
    expect_answer(rig, told, 200, "ok");
    rig_expect_log(rig, "endpoint=\"b1\" attempts=2");
    rig_hang_up(server);
    rig_free(rig);
}

static void
tells_the_gateways_own_answer_as_a_failure(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 0);
    (void)state;
    free(fetch_with(rig, (struct asked){.url = "service://wab/"}, REASON_NO_ROUTE));
    expect_told(rig, fetch_url(rig, "service://web/"), REASON_NO_ENDPOINTS,
        "service web: the service has no endpoint for this request");
    expect_told(rig, fetch_url(rig, "service://web/%%00"), REASON_BAD_REQUEST, "forbidden escape");
    expect_told(rig, fetch_with(rig, (struct asked){.method = "HEAD", .url = "service://web/"}, REASON_NONE),
        REASON_NO_ENDPOINTS, "the service has no endpoint for this request");

    rig->backend[0] = rig_listen(&rig->backend_port[0]);
    rig_add_backend(rig, 0, "");
    struct told *told = fetch_url(rig, "service://web/");
    struct heard *server = asked(rig, 0, "GET / ");
    rig_say(rig, server, "HTTP/1.1 503 Busy\r\nContent-Length: 1\r\n\r\nx"); /* the service's own word */
    expect_answer(rig, told, 503, "x");
    rig_forget(server);
    told = fetch_url(rig, "service://web/");
    rig_expect(rig, server, "\r\n\r\n");
    rig_say(rig, server, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc");
    rig_turn(rig);
    rig_hang_up(server);
    expect_told(rig, told, REASON_RESET_AFTER_HEADERS, "service web");
    told = fetch_with(rig, (struct asked){.method = "POST", .url = "service://web/"}, REASON_NONE);
    rig_hang_up(asked(rig, 0, "POST / "));
    expect_told(rig, told, REASON_RESET_BEFORE_HEADERS, "closed the connection before it answered");
    rig_free(rig);
}

#define WAITING(rig, n)                                                                                      \
    RIG_WAIT(rig, "that many wait",                                                                          \
        queue_depth(shm_queue(rig->shm, shm_name_find(rig->shm, SLICE_LIT("web")))) == (n))

static void
waits_in_the_services_line(void **state)
{
    struct rig *rig = rig_new(LIMITED("active_per_endpoint: 1, queue: 2, queue_timeout: 5s"), 1);
    fake_limit = 1;
    (void)state;
    struct heard *client = rig_client(rig);
    rig_say(rig, client, "GET /c HTTP/1.1\r\nHost: a\r\n\r\n");
    struct heard *server = asked(rig, 0, "GET /c ");
    char *body = calloc(1, 1 << 20); /* more than is read before it is its turn */
    struct told *one = fetch_with(
        rig, (struct asked){.method = "PUT", .url = "service://web/1", .body = {body, 1 << 20}}, REASON_NONE);
    WAITING(rig, 1);
    struct told *two = fetch_url(rig, "service://web/2");
    WAITING(rig, 2);
    expect_told(rig, fetch_url(rig, "service://web/3"), REASON_ALL_FULL, "service web");
    leave(one);
    free(body);
    WAITING(rig, 1);
    struct told *late =
        fetch_with(rig, (struct asked){.url = "service://web/4", .timeout_us = 200000}, REASON_NONE);
    WAITING(rig, 2);
    expect_told(rig, late, REASON_QUEUE_TIMEOUT, "service web did not answer within 200 ms");
    WAITING(rig, 1);
    rig_forget(server);
    rig_say(rig, server, OK2);
    rig_expect(rig, client, "ok");
    rig_expect(rig, server, "GET /2 ");
    rig_say(rig, server, OK2);
    expect_answer(rig, two, 200, "ok");
    rig_hang_up(client);
    rig_hang_up(server);
    rig_free(rig);
}

static void
ends_its_wait_with_the_services_queue_timeout(void **state)
{
    struct rig *rig = rig_new(LIMITED("active_per_endpoint: 1, queue: 2, queue_timeout: 50ms"), 1);
    fake_limit = 1;
    (void)state;
    struct told *busy = fetch_url(rig, "service://web/1");
    struct heard *server = asked(rig, 0, "GET /1 ");
    expect_told(rig, fetch_url(rig, "service://web/2"), REASON_QUEUE_TIMEOUT, "waited too long");
    rig_say(rig, server, OK2);
    expect_answer(rig, busy, 200, "ok");
    rig_hang_up(server);
    rig_free(rig);
}

static void
cancels_the_backends_request_with_its_own(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    (void)state;
    for (int phase = 0; phase < 3; phase++) {
        struct told *told = fetch_url(rig, "service://web/%d", phase);
        struct heard *server = NULL;
        if (phase > 0) server = rig_backend(rig, 0);
        if (phase > 0) rig_expect(rig, server, "\r\n\r\n");
        if (phase > 1) rig_say(rig, server, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc");
        if (phase > 1) rig_turn(rig);
        leave(told);
        if (server != NULL) {
            rig_expect_end(rig, server);
            rig_hang_up(server);
        }
        RIG_WAIT(rig, "its stream's end", atomic_load(&shm_worker(rig->shm, 0)->streams) == 0);
        assert_int_equal(slot_active(rig->shm, rig->slot[0]), 0);
    }
    rig_expect_log(rig, "path=\"/1\" status=499 reason=\"client_gone\"");
    assert_int_equal(fake_failures, 0);
    assert_int_equal(rig->proxy->fetch_sockets, 0);
    rig_free(rig);
}

static void
moves_a_large_body_both_ways(void **state)
{
    enum { BYTES = 3 << 20 };
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    char *body = malloc(BYTES), head[64];
    (void)state;
    memset(body, 'x', BYTES);
    struct told *told = fetch_with(rig,
        (struct asked){.method = "PUT", .url = "service://web/", .body = {body, BYTES}, .max_body = BYTES},
        REASON_NONE);
    struct heard *server = rig_backend(rig, 0);
    rig_expect(rig, server, "\r\n\r\n");
    size_t got = server->len - (size_t)(strstr(server->text, "\r\n\r\n") + 4 - server->text);
    while (got < BYTES) {
        rig_forget(server);
        heard_read(server);
        got += server->len;
        rig_turn(rig);
    }
    assert_int_equal(got, BYTES);
    snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", BYTES);
    rig_say(rig, server, head);
    rig_say_bytes(rig, server, body, BYTES);
    RIG_WAIT(rig, "the body", told->calls == 1);
    if (told->failure != REASON_NONE) fail_msg("%s", told->detail);
    assert_int_equal(told->body_len, BYTES);
    free(told);
    free(body);
    rig_hang_up(server);
    rig_free(rig);
}

/* limits.connections is full, and clients are told so; a fetch is no client. */
static void
is_no_clients_connection(void **state)
{
    struct rig *rig = rig_new(RIG_YAML("  - match: { path_prefix: / }\n    service: web\n",
                                  "limits: { connections: 1, connections_per_client: 1 }\n"),
        1);
    (void)state;
    struct heard *client = rig_client(rig);
    rig_say(rig, client, "GET /c HTTP/1.1\r\nHost: a\r\n\r\n");
    struct heard *first = asked(rig, 0, "GET /c ");
    struct told *told = fetch_url(rig, "service://web/f");
    struct heard *second = asked(rig, 0, "GET /f ");
    rig_say(rig, second, OK2);
    expect_answer(rig, told, 200, "ok");
    rig_say(rig, first, OK2);
    rig_expect(rig, client, "ok");
    rig_hang_up(client);
    rig_hang_up(first);
    rig_hang_up(second);
    rig_free(rig);
}

static void
on_drained(void *context)
{
    ((struct rig *)context)->drained = true;
}

static void
draining_ends_idle_pairs_and_serves_what_is_under_way(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    (void)state;
    struct told *one = fetch_url(rig, "service://web/1"), *two = fetch_url(rig, "service://web/2");
    struct heard *a = rig_backend(rig, 0), *b = rig_backend(rig, 0);
    rig_expect(rig, a, "\r\n\r\n");
    rig_expect(rig, b, "\r\n\r\n");
    rig_say(rig, a, OK2);
    RIG_WAIT(rig, "an answer", one->calls + two->calls == 1);
    assert_int_equal(rig->proxy->fetcher->idle_count, 1);
    proxy_drain(rig->proxy, 5000000, 5000000, on_drained, rig);
    assert_int_equal(rig->proxy->fetcher->idle_count, 0);
    assert_false(rig->drained);
    rig_say(rig, b, OK2);
    expect_answer(rig, one, 200, "ok");
    expect_answer(rig, two, 200, "ok");
    RIG_WAIT(rig, "the drain's end", rig->drained);
    assert_int_equal(rig->proxy->fetch_sockets, 0);
    rig_hang_up(a);
    rig_hang_up(b);
    rig_free(rig);
}

/* A reload takes the service away between the fetch's begin and its request's. */
static void
finds_its_service_gone_after_a_reload(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    (void)state;
    struct told *told = fetch_url(rig, "service://web/");
    rig_use(rig, "listeners: [ { address: 127.0.0.1:0 } ]\nworkers: 1\n"
                 "routes:\n  - match: { path_prefix: / }\n    service: other\n"
                 "services: { other: { endpoints: [ \"127.0.0.1:1\" ] } }\n");
    expect_told(rig, told, REASON_NO_ROUTE, "service web");
    rig_free(rig);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(goes_the_way_of_a_clients_request),
        cmocka_unit_test(reuses_its_pair_and_the_endpoints_connection),
        cmocka_unit_test(is_retried_on_another_endpoint),
        cmocka_unit_test(tells_the_gateways_own_answer_as_a_failure),
        cmocka_unit_test(waits_in_the_services_line),
        cmocka_unit_test(ends_its_wait_with_the_services_queue_timeout),
        cmocka_unit_test(cancels_the_backends_request_with_its_own),
        cmocka_unit_test(moves_a_large_body_both_ways),
        cmocka_unit_test(is_no_clients_connection),
        cmocka_unit_test(draining_ends_idle_pairs_and_serves_what_is_under_way),
        cmocka_unit_test(finds_its_service_gone_after_a_reload),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
