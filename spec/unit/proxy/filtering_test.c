/* links: shm metrics config */
#include "core/proxy/filtering.h"
#include "spec/unit/proxy/rig.h"

#define FILTERED                                                                                             \
    RIG_YAML("  - match: { path_prefix: / }\n    service: web\n    filters: [ x.lua ]\n"                     \
             "    timeouts: { filter: 200ms }\n",                                                            \
        "")
#define GET(path) "GET " path " HTTP/1.1\r\nHost: a.example\r\n\r\n"

static struct rig *
new_rig(const char *yaml)
{
    struct rig *rig = rig_new(yaml, 2);
    fake.is_needed = fake.wants_log = true;
    return rig;
}

static struct filter_answer
answer_of(int status, const char *body)
{
    return (struct filter_answer){.status = status, .body = slice_of(body)};
}

static void
settle(struct rig *rig)
{
    for (int i = 0; i < 10; i++)
        rig_turn(rig);
}

static void
expect_over(struct rig *rig)
{
    RIG_WAIT(rig, "the chain's end", fake.ended == fake.begun);
}

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

static struct filter_answer given;

static enum filter_verdict
answer_at_once(struct filter_request *request, unsigned nth)
{
    (void)nth;
    request->answer = &given;
    return FILTER_ANSWERED;
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

static enum filter_verdict
wait_first(struct filter_request *request, unsigned nth)
{
    (void)request;
    return nth == 0 ? FILTER_WAIT : FILTER_GO;
}

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
    struct rig *rig = new_rig(FILTERED);
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

/* ---- the request's body ---- */

static size_t body_max;

static enum filter_verdict
read_body_first(struct filter_request *request, unsigned nth)
{
    if (nth > 0) return FILTER_GO;
    request->answer = &given;
    assert_true(fake.host.body(request->stream, FAKE_TASK, body_max));
    return FILTER_WAIT;
}

static char *
pattern(size_t len)
{
    char *bytes = malloc(len + 1);
    assert_non_null(bytes);
    for (size_t i = 0; i < len; i++)
        bytes[i] = (char)('a' + i % 23);
    bytes[len] = '\0';
    return bytes;
}

/* What the backend must have got behind its head. */
static void
expect_body(struct rig *rig, struct heard *backend, const char *bytes, size_t len)
{
    rig_expect(rig, backend, "\r\n\r\n");
    const char *body = strstr(backend->text, "\r\n\r\n") + 4;
    RIG_WAIT(rig, "the body", (heard_read(backend), backend->len - (size_t)(body - backend->text) >= len));
    assert_int_equal(backend->len - (size_t)(body - backend->text), len);
    assert_memory_equal(body, bytes, len);
}

static void
send_body(struct rig *rig, struct heard *client, const char *body, size_t len, bool chunked)
{
    char text[256];
    if (!chunked) {
        snprintf(text, sizeof text, "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %zu\r\n\r\n", len);
        rig_say(rig, client, text);
        rig_say_bytes(rig, client, body, len);
        return;
    }
    rig_say(rig, client, "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (size_t at = 0; at < len;) {
        size_t n = len - at < 7001 ? len - at : 7001;
        snprintf(text, sizeof text, "%zx\r\n", n);
        rig_say(rig, client, text);
        rig_say_bytes(rig, client, body + at, n);
        rig_say(rig, client, "\r\n");
        at += n;
    }
    rig_say(rig, client, "0\r\n\r\n");
}

static void
a_body_that_a_filter_read_still_reaches_the_endpoint(void **state)
{
    static const size_t sizes[] = {5, 20000, 100000};
    (void)state;
    for (size_t i = 0; i < 6; i++) {
        size_t len = sizes[i / 2];
        struct rig *rig = new_rig(FILTERED);
        struct heard *client = rig_client(rig);
        char *body = pattern(len);
        fake.on_request = read_body_first;
        fake.verdict = FILTER_GO;
        body_max = 1 << 20;
        close(rig->backend[0]); /* sent again, from its first byte */
        rig->backend[0] = -1;
        send_body(rig, client, body, len, i % 2 == 1);
        rig_say(rig, client, GET("/next"));
        struct heard *backend = rig_backend(rig, 1);
        expect_body(rig, backend, body, len);
        assert_true(fake.body_ok);
        assert_int_equal(fake.body_len, len);
        assert_memory_equal(fake.body, body, len);
        assert_null(strstr(backend->text, "chunked"));
        rig_forget(backend);
        rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1");
        rig_expect(rig, client, "\r\n\r\n1");
        rig_expect(rig, backend, "GET /next "); /* what stood behind the body is the next request */
        rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2");
        rig_expect(rig, client, "\r\n\r\n2");
        rig_hang_up(client), rig_hang_up(backend);
        free(body);
        expect_over(rig);
        rig_free(rig);
    }
}

static char asked_last; /* the path's last byte */

static enum filter_verdict
read_body_of_each(struct filter_request *request, unsigned nth)
{
    char last = request->pick->path.at[request->pick->path.len - 1];
    (void)nth;
    if (last == asked_last) return FILTER_GO; /* after its wait, and for the service's filters */
    asked_last = last;
    request->answer = &given;
    assert_true(fake.host.body(request->stream, FAKE_TASK, body_max));
    return FILTER_WAIT;
}

/* What a stream was before must not show: one that had read chunks to their end took the next request's first
 * chunk for the last, and what stood behind it for another request. */
static void
a_chunked_body_is_read_whole_whatever_its_stream_did_before(void **state)
{
    (void)state;
    struct rig *rig = new_rig(FILTERED);
    struct heard *client = rig_client(rig), *backend = NULL;
    fake.on_request = read_body_of_each;
    asked_last = 0;
    fake.verdict = FILTER_GO;
    body_max = 1 << 20;
    for (int i = 0; i < 3; i++) {
        char text[128];
        snprintf(text, sizeof text,
            "POST /%d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n0\r\n\r\n\r\n0\r\n\r\n",
            i);
        rig_forget(client);
        rig_say(rig, client, text);
        if (backend == NULL) backend = rig_backend(rig, 0);
        rig_trust(rig, 0);
        expect_body(rig, backend, "0\r\n\r\n", 5);
        assert_int_equal(fake.body_len, 5);
        rig_forget(backend);
        rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1");
        rig_expect(rig, client, "\r\n\r\n1");
    }
    rig_hang_up(client), rig_hang_up(backend);
    expect_over(rig);
    rig_free(rig);
}

static void
a_body_past_the_filters_bound_streams_on(void **state)
{
    (void)state;
    for (int chunked = 0; chunked < 2; chunked++) {
        struct rig *rig = new_rig(FILTERED);
        struct heard *client = rig_client(rig);
        size_t len = 300000;
        char *body = pattern(len), *decoded = NULL;
        fake.on_request = read_body_first;
        fake.verdict = FILTER_GO;
        body_max = chunked ? 50000 : 1000;
        struct heard *backend = NULL;
        /* the backend reads while the client still sends */
        rig_say(rig, client,
            chunked ? "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n493e0\r\n"
                    : "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n");
        rig_say_bytes(rig, client, body, 60000);
        backend = rig_backend(rig, 0);
        rig_say_bytes(rig, client, body + 60000, len - 60000);
        if (chunked) rig_say(rig, client, "\r\n0\r\n\r\n");
        assert_false(fake.body_ok);
        assert_string_equal(fake.body_why, "too large");
        if (chunked) {
            rig_expect(rig, backend, "0\r\n\r\n");
            decoded = malloc(backend->len + 1);
            assert_non_null(decoded);
            size_t out = 0;
            for (char *at = strstr(backend->text, "\r\n\r\n") + 4;;) {
                size_t n = strtoul(at, &at, 16);
                if (n == 0) break;
                memcpy(decoded + out, at + 2, n);
                out += n;
                at += n + 4;
            }
            assert_int_equal(out, len);
            assert_memory_equal(decoded, body, len);
        } else {
            expect_body(rig, backend, body, len);
        }
        rig_hang_up(client), rig_hang_up(backend);
        free(body), free(decoded);
        expect_over(rig);
        rig_free(rig);
    }
}

static void
a_client_that_waits_for_leave_is_given_it(void **state)
{
    struct rig *rig = new_rig(FILTERED);
    struct heard *client = rig_client(rig);
    (void)state;
    fake.on_request = read_body_first;
    fake.verdict = FILTER_GO;
    body_max = 100;
    rig_say(rig, client, "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
    rig_expect(rig, client, "HTTP/1.1 100 Continue\r\n\r\n");
    rig_forget(client);
    rig_say(rig, client, "body");
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\nbody");
    assert_null(strstr(backend->text, "Expect"));
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1");
    rig_expect(rig, client, "HTTP/1.1 200 OK");
    assert_null(strstr(client->text, "100 Continue"));
    rig_hang_up(client), rig_hang_up(backend);
    rig_free(rig);
}

static enum filter_verdict
replace_body(struct filter_request *request, unsigned nth)
{
    if (nth == 0) {
        request->body = SLICE_LIT("other");
        request->changed |= FILTER_BODY;
    }
    return FILTER_GO;
}

static void
a_replaced_body_is_sent_in_the_clients_place(void **state)
{
    (void)state;
    for (int whole = 0; whole < 2; whole++) {
        struct rig *rig = new_rig(FILTERED);
        struct heard *client = rig_client(rig);
        fake.on_request = replace_body;
        rig_say(rig, client,
            whole ? "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody" GET("/next")
                  : "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\nGET /evil HTTP/1.1\r\nHost: "
                    "a\r\n\r\n");
        struct heard *backend = rig_backend(rig, 0);
        rig_expect(rig, backend, "Content-Length: 5\r\n");
        rig_expect(rig, backend, "\r\n\r\nother");
        rig_forget(backend);
        rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1");
        rig_expect(rig, client, "\r\n\r\n1");
        fake.on_request = NULL;
        if (whole) {
            rig_expect(rig, backend, "GET /next ");
        } else { /* what is left of the client's body is no request */
            assert_non_null(strstr(client->text, "Connection: close\r\n"));
            rig_expect_end(rig, client);
            heard_read(backend);
            assert_null(strstr(backend->text, "evil"));
        }
        rig_hang_up(client), rig_hang_up(backend);
        rig_free(rig);
    }
}

static void
an_answer_after_the_body_was_read_keeps_the_connection(void **state)
{
    struct rig *rig = new_rig(FILTERED);
    struct heard *client = rig_client(rig);
    char *body = pattern(100000);
    (void)state;
    given = answer_of(422, "bad form");
    fake.on_request = read_body_first;
    fake.verdict = FILTER_ANSWERED;
    body_max = 1 << 20;
    send_body(rig, client, body, 90000, true);
    rig_say(rig, client, GET("/next"));
    rig_expect(rig, client, "bad form");
    assert_null(strstr(client->text, "Connection: close"));
    rig_hang_up(client);
    free(body);
    rig_free(rig);
}

static void
a_broken_body_never_reaches_the_filter(void **state)
{
    struct rig *rig = new_rig(FILTERED);
    struct heard *client = rig_client(rig);
    (void)state;
    fake.on_request = read_body_first;
    body_max = 100;
    rig_say(rig, client, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n");
    rig_expect(rig, client, "HTTP/1.1 400 ");
    assert_int_equal(fake.bodies, 0);
    rig_expect_end(rig, client);
    rig_hang_up(client);
    rig_free(rig);
}

static void
a_body_that_does_not_come_is_the_clients_time(void **state)
{
    struct rig *rig =
        new_rig(RIG_YAML("  - match: { path_prefix: / }\n    service: web\n    filters: [ x.lua ]\n"
                         "    timeouts: { filter: 50ms, client_body_gap: 300ms }\n",
            ""));
    struct heard *client = rig_client(rig);
    (void)state;
    fake.on_request = read_body_first;
    body_max = 100;
    rig_say(rig, client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbo");
    rig_expect(rig, client, "HTTP/1.1 408 ");
    assert_int_equal(fake.expires, 0);
    rig_hang_up(client);
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
    struct rig *rig = new_rig(FILTERED);
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

static char stage_out[1 << 20];
static unsigned stage_calls, stage_lasts, stage_fails_at;

static bool
double_bytes(struct slice chunk, bool is_last, struct slice *out)
{
    stage_lasts += is_last;
    if (++stage_calls == stage_fails_at) return false;
    assert_true(chunk.len * 2 <= sizeof stage_out);
    for (size_t i = 0; i < chunk.len; i++)
        stage_out[2 * i] = stage_out[2 * i + 1] = chunk.at[i];
    *out = (struct slice){stage_out, chunk.len * 2};
    return true;
}

static enum filter_verdict
add_stage(struct filter_request *request, struct filter_response *response)
{
    (void)request;
    response->has_stages = response->has_body;
    return FILTER_GO;
}

static struct rig *
stage_rig(void)
{
    struct rig *rig = new_rig(FILTERED);
    fake.on_response = add_stage;
    fake.on_body = double_bytes;
    stage_calls = stage_lasts = stage_fails_at = 0;
    return rig;
}

static void
a_stage_changes_the_body_as_it_streams(void **state)
{
    static const char *const answers[] = {"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nETag: "
                                          "\"x\"\r\nAccept-Ranges: bytes\r\nDigest: a\r\n\r\nabcd",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n2\r\ncd\r\n0\r\nX-T: 1\r\n\r\n",
        "HTTP/1.0 200 OK\r\n\r\nabcd"};
    (void)state;
    for (int i = 0; i < 6; i++) {
        struct rig *rig = stage_rig();
        struct heard *client = rig_client(rig);
        rig_say(rig, client, i < 3 ? GET("/") : "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        struct heard *backend = rig_backend(rig, 0);
        rig_expect(rig, backend, "\r\n\r\n");
        rig_say(rig, backend, answers[i % 3]);
        if (i % 3 == 2) rig_hang_up(backend);
        if (i < 3) {
            rig_expect(rig, client, "Transfer-Encoding: chunked\r\n");
            rig_expect(rig, client,
                i == 1 ? "4\r\naabb\r\n4\r\nccdd\r\n0\r\nX-T: 1\r\n\r\n" : "8\r\naabbccdd\r\n0\r\n\r\n");
        } else {
            rig_expect(rig, client, "\r\n\r\naabbccdd");
            rig_expect_end(rig, client);
            assert_int_equal(client->end, HEARD_FIN);
        }
        assert_null(strstr(client->text, "Content-Length"));
        assert_null(strstr(client->text, "Accept-Ranges"));
        assert_null(strstr(client->text, "Digest"));
        if (i % 3 == 0) assert_non_null(strstr(client->text, "ETag: W/\"x\"\r\n"));
        assert_int_equal(stage_lasts, 1);
        if (i == 0) { /* both connections go on */
            rig_forget(client);
            rig_say(rig, client, GET("/2"));
            rig_expect(rig, backend, "GET /2 ");
            rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            rig_expect(rig, client, "\r\n\r\n0\r\n\r\n");
        }
        rig_hang_up(client);
        if (i % 3 != 2) rig_hang_up(backend);
        expect_over(rig);
        rig_free(rig);
    }
}

static void
a_large_body_goes_through_a_stage_with_back_pressure(void **state)
{
    struct rig *rig = stage_rig();
    struct heard *client = rig_client(rig);
    char *body = pattern(300000);
    size_t sent = 0;
    (void)state;
    rig_say(rig, client, "GET / HTTP/1.0\r\n\r\n");
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 30000000\r\n\r\n");
    for (int stuck = 0; stuck < 200;) { /* the client reads nothing: it must not all be taken */
        ssize_t n = send(backend->fd, body, 300000, MSG_NOSIGNAL);
        if (n > 0) sent += (size_t)n;
        stuck = n > 0 ? 0 : stuck + 1;
        rig_turn(rig);
        assert_true(sent < 30000000);
    }
    rig_hang_up(client), rig_hang_up(backend);
    free(body);
    rig_expect_log(rig, "reason=\"client_gone\"");
    expect_over(rig);
    rig_free(rig);
}

static void
a_stage_that_fails_cuts_the_body_visibly(void **state)
{
    (void)state;
    for (int minor = 0; minor < 2; minor++) {
        struct rig *rig = stage_rig();
        struct heard *client = rig_client(rig);
        stage_fails_at = 2;
        rig_say(rig, client, minor == 1 ? GET("/") : "GET / HTTP/1.0\r\n\r\n");
        struct heard *backend = rig_backend(rig, 0);
        rig_expect(rig, backend, "\r\n\r\n");
        rig_say(rig, backend, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n");
        rig_expect(rig, client, "aabb");
        rig_say(rig, backend, "2\r\ncd\r\n");
        rig_expect_end(rig, client);
        assert_int_equal(client->end, minor == 1 ? HEARD_FIN : HEARD_RESET);
        assert_null(strstr(client->text, "0\r\n\r\n"));
        rig_expect_log(rig, "status=200 reason=\"filter_error\"");
        rig_hang_up(client), rig_hang_up(backend);
        expect_over(rig);
        rig_free(rig);
    }
}

static enum filter_verdict
compress(struct filter_request *request, struct filter_response *response)
{
    (void)request;
    if (response->has_body) response->encoding = FILTER_GZIP;
    return FILTER_GO;
}

static void
a_compressed_body_is_framed_anew(void **state)
{
    struct rig *rig = new_rig(FILTERED);
    struct heard *client = rig_client(rig);
    char *body = pattern(100000);
    (void)state;
    fake.on_response = compress;
    rig_say(rig, client, GET("/"));
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\nETag: \"x\"\r\n\r\n");
    rig_say_bytes(rig, backend, body, 100000);
    RIG_WAIT(rig, "the end",
        (heard_read(client), client->len > 5 && memcmp(client->text + client->len - 5, "0\r\n\r\n", 5) == 0));
    assert_non_null(strstr(client->text, "Content-Encoding: gzip\r\n"));
    assert_non_null(strstr(client->text, "ETag: W/\"x\"\r\n"));
    assert_true(client->len < 20000);
    assert_int_equal(fake.ended, 1); /* the script is not needed for it */
    rig_forget(client);
    given = answer_of(200, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
    fake.on_request = answer_at_once;
    rig_say(rig, client, GET("/"));
    rig_expect(rig, client, "Content-Encoding: gzip\r\n");
    rig_expect(rig, client, "Content-Length: ");
    assert_null(strstr(client->text, "aaaa"));
    rig_hang_up(client), rig_hang_up(backend);
    free(body);
    rig_free(rig);
}

static void
head_204_and_304_have_no_body_to_change(void **state)
{
    static const char *const answers[] = {"HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nContent-Length: 78\r\n\r\n"};
    static const char *const got[] = {"Content-Length: 77\r\n", "204 No Content", "Content-Length: 78\r\n"};
    struct rig *rig = stage_rig();
    struct heard *client = rig_client(rig), *backend = NULL;
    (void)state;
    for (int i = 0; i < 3; i++) {
        rig_say(rig, client, i == 0 ? "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n" : GET("/"));
        if (backend == NULL) backend = rig_backend(rig, 0);
        rig_expect(rig, backend, "\r\n\r\n");
        rig_forget(backend);
        rig_say(rig, backend, answers[i]);
        rig_expect(rig, client, got[i]);
        rig_expect(rig, client, "\r\n\r\n");
        assert_null(strstr(client->text, "chunked"));
        rig_forget(client);
    }
    assert_int_equal(stage_calls, 0);
    rig_hang_up(client), rig_hang_up(backend);
    rig_free(rig);
}

static enum filter_verdict
ask_with_get(struct filter_request *request, unsigned nth)
{
    (void)nth;
    request->pick->method = METHOD_GET;
    request->pick->method_text = SLICE_LIT("GET");
    request->changed |= FILTER_METHOD;
    return FILTER_GO;
}

static void
a_head_that_a_filter_made_a_get_is_answered_without_a_body(void **state)
{
    struct rig *rig = new_rig(FILTERED);
    struct heard *client = rig_client(rig);
    (void)state;
    fake.on_request = ask_with_get;
    rig_say(rig, client, "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "GET / ");
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody");
    rig_expect(rig, client, "Content-Length: 4\r\n");
    settle(rig);
    heard_read(client);
    assert_null(strstr(client->text, "body"));
    rig_expect_end(rig, backend); /* what it still holds is no answer to anybody */
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

static enum filter_verdict
read_body_twice(struct filter_request *request, unsigned nth)
{
    if (nth > 1) return FILTER_GO;
    assert_true(fake.host.body(request->stream, FAKE_TASK, nth == 0 ? 2 : 100));
    return FILTER_WAIT;
}

static void
each_filter_gets_the_body_within_its_own_bound(void **state)
{
    struct rig *rig = new_rig(FILTERED);
    struct heard *client = rig_client(rig);
    (void)state;
    fake.on_request = read_body_twice;
    fake.verdict = FILTER_GO;
    rig_say(rig, client,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n");
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\nbody");
    assert_int_equal(fake.bodies, 2);
    assert_string_equal(fake.body_why, "");
    assert_true(fake.body_ok);
    assert_false(fake.host.body(fake.chain->request->stream, FAKE_TASK, 100)); /* it has been sent on */
    rig_hang_up(client), rig_hang_up(backend);
    rig_free(rig);
}

static void
a_body_may_be_asked_for_after_another_wait(void **state)
{
    struct rig *rig = new_rig(FILTERED);
    struct heard *client = rig_client(rig);
    (void)state;
    fake.on_request = wait_first;
    rig_say(rig, client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbo");
    RIG_WAIT(rig, "the filter", fake.request_runs == 1);
    fake.verdict = FILTER_GO;
    fake.host.enter(fake.host.context); /* its sleep is over, and it asks for the body */
    assert_true(fake.host.body(fake.chain->request->stream, FAKE_TASK, 100));
    fake.host.leave(fake.host.context);
    rig_say(rig, client, "dy");
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\nbody");
    assert_int_equal(fake.bodies, 1);
    rig_hang_up(client), rig_hang_up(backend);
    rig_free(rig);
}

static void
bodies_that_filters_hold_are_bounded_over_all_requests(void **state)
{
    struct rig *rig = new_rig(FILTERED);
    struct heard *client = rig_client(rig);
    (void)state;
    fake.on_request = read_body_first;
    fake.verdict = FILTER_GO;
    body_max = 100;
    rig->proxy->collected_bytes = COLLECTED_MAX;
    rig_say(rig, client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
    rig_expect(rig, client, "503 shed");
    assert_int_equal(fake.bodies, 0);
    expect_over(rig);
    assert_int_equal(rig->proxy->collected_bytes, COLLECTED_MAX); /* given back */
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
        cmocka_unit_test(a_body_that_a_filter_read_still_reaches_the_endpoint),
        cmocka_unit_test(a_chunked_body_is_read_whole_whatever_its_stream_did_before),
        cmocka_unit_test(a_body_past_the_filters_bound_streams_on),
        cmocka_unit_test(a_client_that_waits_for_leave_is_given_it),
        cmocka_unit_test(a_replaced_body_is_sent_in_the_clients_place),
        cmocka_unit_test(an_answer_after_the_body_was_read_keeps_the_connection),
        cmocka_unit_test(a_broken_body_never_reaches_the_filter),
        cmocka_unit_test(a_body_that_does_not_come_is_the_clients_time),
        cmocka_unit_test(status_and_headers_are_as_filters_leave_them),
        cmocka_unit_test(a_response_waits_for_its_filter),
        cmocka_unit_test(an_answer_of_on_response_replaces_the_endpoints),
        cmocka_unit_test(a_stage_changes_the_body_as_it_streams),
        cmocka_unit_test(a_large_body_goes_through_a_stage_with_back_pressure),
        cmocka_unit_test(a_stage_that_fails_cuts_the_body_visibly),
        cmocka_unit_test(a_compressed_body_is_framed_anew),
        cmocka_unit_test(head_204_and_304_have_no_body_to_change),
        cmocka_unit_test(a_head_that_a_filter_made_a_get_is_answered_without_a_body),
        cmocka_unit_test(filters_see_a_switch_of_protocols),
        cmocka_unit_test(a_script_that_is_busy_outlives_its_generation),
        cmocka_unit_test(the_time_of_the_whole_request_holds_in_a_filter),
        cmocka_unit_test(each_filter_gets_the_body_within_its_own_bound),
        cmocka_unit_test(a_body_may_be_asked_for_after_another_wait),
        cmocka_unit_test(bodies_that_filters_hold_are_bounded_over_all_requests),
        cmocka_unit_test(no_interim_answer_stands_in_a_body),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
