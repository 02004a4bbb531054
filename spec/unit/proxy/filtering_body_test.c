/* links: shm metrics config */
/* Bodies that filters read, replace or change as they stream. */
#include "spec/unit/proxy/filtering_rig.h"

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

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_body_that_a_filter_read_still_reaches_the_endpoint),
        cmocka_unit_test(a_chunked_body_is_read_whole_whatever_its_stream_did_before),
        cmocka_unit_test(a_body_past_the_filters_bound_streams_on),
        cmocka_unit_test(a_client_that_waits_for_leave_is_given_it),
        cmocka_unit_test(a_replaced_body_is_sent_in_the_clients_place),
        cmocka_unit_test(an_answer_after_the_body_was_read_keeps_the_connection),
        cmocka_unit_test(a_broken_body_never_reaches_the_filter),
        cmocka_unit_test(a_body_that_does_not_come_is_the_clients_time),
        cmocka_unit_test(a_stage_changes_the_body_as_it_streams),
        cmocka_unit_test(a_large_body_goes_through_a_stage_with_back_pressure),
        cmocka_unit_test(a_stage_that_fails_cuts_the_body_visibly),
        cmocka_unit_test(a_compressed_body_is_framed_anew),
        cmocka_unit_test(head_204_and_304_have_no_body_to_change),
        cmocka_unit_test(a_head_that_a_filter_made_a_get_is_answered_without_a_body),
        cmocka_unit_test(each_filter_gets_the_body_within_its_own_bound),
        cmocka_unit_test(a_body_may_be_asked_for_after_another_wait),
        cmocka_unit_test(bodies_that_filters_hold_are_bounded_over_all_requests),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
