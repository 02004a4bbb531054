/* links: shm metrics config */
#include "spec/unit/proxy/rig.h"

static void
relays_a_request_and_keeps_both_connections(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client,
        "GET /a/../b?x=1 HTTP/1.1\r\nHost: Example.com\r\nConnection: x-gone\r\nX-Gone: 1\r\nX-Kept: "
        "2\r\n\r\n");
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    assert_int_equal(strncmp(backend->text, "GET /b?x=1 HTTP/1.1\r\nHost: Example.com\r\n", 40), 0);
    assert_null(strstr(backend->text, "X-Gone"));
    assert_non_null(strstr(backend->text, "X-Kept: 2\r\n"));
    assert_non_null(strstr(backend->text, "X-Forwarded-For: 127.0.0.1\r\n"));
    assert_non_null(strstr(backend->text, "X-Forwarded-Host: Example.com\r\n"));
    assert_non_null(strstr(backend->text, "X-Forwarded-Proto: http\r\n"));
    assert_non_null(strstr(backend->text, "X-Request-Id: "));
    assert_non_null(strstr(backend->text, "traceparent: 00-"));
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nKeep-Alive: timeout=9\r\n\r\nhello");
    rig_expect(rig, client, "\r\n\r\nhello");
    assert_non_null(strstr(client->text, "Content-Length: 5\r\n"));
    assert_null(strstr(client->text, "Keep-Alive"));
    assert_null(strstr(client->text, "Connection"));
    rig_forget(client);
    rig_forget(backend);
    rig_say(rig, client, "GET /second HTTP/1.1\r\nHost: a\r\n\r\n");
    rig_expect(rig, backend, "GET /second HTTP/1.1\r\n");
    rig_say(rig, backend, "HTTP/1.1 204 No Content\r\n\r\n");
    rig_expect(rig, client, "HTTP/1.1 204 No Content\r\n");
    rig_expect_log(rig, "path=\"/second\" status=204");
    assert_int_equal(fake_results, 2);
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

/* One exchange on fresh sockets: what the client says, what the backend must see and answers, what the client
 * must see. */
static void
exchange(struct rig *rig, const char *request, const char *seen, const char *answer, const char *got)
{
    struct heard *client = rig_client(rig);
    rig_say(rig, client, request);
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, seen);
    rig_say(rig, backend, answer);
    rig_expect(rig, client, got);
    rig_hang_up(client);
    rig_hang_up(backend);
    for (int i = 0; i < 5; i++)
        rig_turn(rig);
}

static void
a_head_may_come_byte_by_byte(void **state)
{
    static const char request[] = "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    static const char answer[] =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nxyz\r\n0\r\nA: b\r\n\r\n";
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    for (size_t i = 0; i < sizeof request - 1; i++) {
        rig_say_bytes(rig, client, request + i, 1);
        rig_turn(rig);
    }
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "Content-Length: 3\r\n\r\nabc");
    for (size_t i = 0; i < sizeof answer - 1; i++) {
        rig_say_bytes(rig, backend, answer + i, 1);
        rig_turn(rig);
    }
    rig_expect(rig, client, "0\r\nA: b\r\n\r\n");
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
chunks_are_decoded_and_made_anew(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    (void)state;
    exchange(rig,
        "PUT /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: "
        "chunked\r\n\r\n0003;ext=1\r\nabc\r\n1\r\nd\r\n0\r\nX-T: 1\r\nHost: b\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\nX-T: 1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n05;a=b\r\nhello\r\n0\r\nGrpc-Status: "
        "0\r\nContent-Length: 9\r\n\r\n",
        "\r\n\r\n5\r\nhello\r\n0\r\nGrpc-Status: 0\r\n\r\n");
    rig_free(rig);
}

static void
a_body_until_close_is_chunked_for_1_1_and_closes_for_1_0(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    (void)state;
    for (int minor = 0; minor <= 1; minor++) {
        struct heard *client = rig_client(rig);
        rig_say(rig, client,
            minor == 1 ? "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
                       : "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        struct heard *backend = rig_backend(rig, 0);
        rig_expect(rig, backend, "\r\n\r\n");
        assert_int_equal(strncmp(backend->text, "GET / HTTP/1.1\r\nHost: ", 22), 0);
        rig_say(rig, backend, "HTTP/1.0 200 OK\r\n\r\nuntil the end");
        rig_expect(rig, client, "until the end");
        rig_hang_up(backend);
        if (minor == 1) {
            rig_expect(rig, client, "Transfer-Encoding: chunked\r\n\r\nd\r\nuntil the end\r\n0\r\n\r\n");
            assert_int_equal(client->end, HEARD_OPEN);
        } else {
            rig_expect_end(rig, client);
            assert_int_equal(client->end, HEARD_FIN);
            assert_non_null(strstr(client->text, "Connection: close\r\n"));
            assert_null(strstr(client->text, "chunked"));
        }
        rig_hang_up(client);
    }
    rig_free(rig);
}

static void
http_1_0_keeps_the_connection_only_by_its_token(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, "GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "GET /1 ");
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1");
    rig_expect(rig, client, "Connection: keep-alive\r\n");
    rig_say(rig, client, "GET /2 HTTP/1.0\r\n\r\n");
    rig_expect(rig, backend, "GET /2 ");
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2");
    rig_expect_end(rig, client);
    assert_int_equal(client->end, HEARD_FIN);
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
head_204_and_304_have_no_body_and_keep_their_length(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, "HEAD /1 HTTP/1.1\r\nHost: a\r\n\r\n");
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "HEAD /1 ");
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n");
    rig_expect(rig, client, "Content-Length: 77\r\n");
    rig_forget(client);
    rig_say(rig, client, "GET /2 HTTP/1.1\r\nHost: a\r\n\r\n");
    rig_expect(rig, backend, "GET /2 ");
    rig_say(rig, backend, "HTTP/1.1 304 Not Modified\r\nContent-Length: 78\r\nETag: \"x\"\r\n\r\n");
    rig_expect(rig, client, "Content-Length: 78\r\n");
    rig_forget(client);
    rig_say(rig, client, "DELETE /3 HTTP/1.1\r\nHost: a\r\n\r\n");
    rig_expect(rig, backend, "DELETE /3 ");
    rig_say(rig, backend, "HTTP/1.1 204 No Content\r\n\r\n");
    rig_expect(rig, client, "HTTP/1.1 204 No Content\r\n");
    rig_expect(rig, client, "\r\n\r\n");
    assert_null(strstr(client->text, "Content-Length"));
    assert_null(strstr(client->text, "chunked"));
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
pipelined_requests_are_answered_in_order(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client,
        "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nokGET /3 "
        "HTTP/1.1\r\nHost: a\r\n\r\nGET /4");
    struct heard *backend = rig_backend(rig, 0);
    rig_trust(rig, 0);
    rig_expect(rig, backend, "GET /1 ");
    for (int i = 0; i < 10; i++)
        rig_turn(rig);
    heard_read(backend);
    assert_null(strstr(backend->text, "POST"));
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1");
    rig_expect(rig, backend, "\r\n\r\nok");
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2");
    rig_expect(rig, backend, "GET /3 ");
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n3");
    rig_say(rig, client, " HTTP/1.1\r\nHost: a\r\n\r\n");
    rig_expect(rig, backend, "GET /4 ");
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\n4");
    rig_expect(rig, client, "\r\n\r\n4");
    assert_true(strstr(client->text, "\r\n\r\n1") < strstr(client->text, "\r\n\r\n2"));
    assert_true(strstr(client->text, "\r\n\r\n2") < strstr(client->text, "\r\n\r\n3"));
    rig_expect_end(rig, backend);
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
an_ambiguous_request_is_answered_once_and_reaches_nobody(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET "
        "/evil HTTP/1.1\r\nHost: a\r\n\r\n");
    rig_expect_end(rig, client);
    assert_int_equal(client->end, HEARD_FIN);
    assert_int_equal(strncmp(client->text, "HTTP/1.1 400 ", 13), 0);
    assert_non_null(strstr(client->text, "Connection: close\r\n"));
    assert_non_null(strstr(client->text, "400 bad_request: "));
    assert_null(strstr(client->text + 1, "HTTP/1.1"));
    assert_false(rig_has_connection(rig, 0));
    rig_expect_log(rig, "status=400 reason=\"bad_request\"");
    rig_hang_up(client);
    rig_free(rig);
}

static void
a_broken_chunk_after_the_head_ends_both_connections(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "3\r\nabc\r\n");
    rig_say(rig, client, "zz\r\nGET / HTTP/1.1\r\n");
    rig_expect_end(rig, client);
    assert_int_equal(strncmp(client->text, "HTTP/1.1 400 ", 13), 0);
    rig_expect_end(rig, backend);
    assert_null(strstr(backend->text, "0\r\n\r\n"));
    assert_int_equal(fake_failures, 0);
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
our_own_answers_keep_the_connection_where_the_request_is_whole(void **state)
{
    struct rig *rig = rig_new(
        RIG_YAML(
            "  - match: { path: /hello }\n    respond: { status: 200, body: hi }\n"
            "  - match: { path_prefix: /old }\n    redirect: { to: \"https://example.com\", status: 308 }\n"
            "  - match: { path_prefix: /web }\n    service: web\n",
            ""),
        0);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, "POST /nothing HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
    rig_expect(rig, client, "404 no_route: no route matches this request\n");
    rig_forget(client);
    rig_say(rig, client, "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
    rig_expect(rig, client, "Content-Length: 2\r\n\r\nhi");
    rig_forget(client);
    rig_say(rig, client,
        "HEAD /hello HTTP/1.1\r\nHost: a\r\n\r\nGET /old/a%2fb?q=%0d HTTP/1.1\r\nHost: a\r\n\r\n");
    rig_expect(rig, client, "Location: https://example.com/old/a%2Fb?q=%0d\r\n");
    assert_non_null(strstr(client->text, "Content-Length: 2\r\n\r\nHTTP/1.1 308 "));
    rig_forget(client);
    rig_say(rig, client, "GET /web HTTP/1.1\r\nHost: a\r\n\r\n");
    rig_expect(rig, client, "503 no_endpoints: ");
    assert_int_equal(strncmp(strstr(client->text, "HTTP/1.1 503"), "HTTP/1.1 503 ", 13), 0);
    rig_forget(client);
    rig_say(rig, client, "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
    rig_expect(rig, client, "Allow: ");
    rig_say(rig, client, "GET /..%2f.. HTTP/1.1\r\nHost: a\r\n\r\n");
    rig_expect(rig, client, "HTTP/1.1 400 ");
    rig_hang_up(client);
    rig_free(rig);
}

static void
rewrites_and_the_endpoints_prefix_stand_in_order(void **state)
{
    struct rig *rig = rig_new(RIG_YAML("  - match: { path_prefix: /shop }\n    service: web\n    rewrite: { "
                                       "strip_prefix: /shop, add_prefix: /v1, host: inner.example }\n"
                                       "  - match: { path_prefix: /raw }\n    service: web\n    path: raw\n"
                                       "  - match: { path_prefix: / }\n    service: web\n    slashes: keep\n",
                                  ""),
        0);
    (void)state;
    rig->backend[0] = rig_listen(&rig->backend_port[0]);
    rig_add_backend(rig, 0, "/app/");
    exchange(rig, "GET /shop//a?b HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /app/v1/a?b HTTP/1.1\r\nHost: inner.example\r\n",
        "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n", " 204 ");
    exchange(rig, "GET /shop HTTP/1.1\r\nHost: x\r\n\r\n", "GET /app/v1/ HTTP/1.1\r\n",
        "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n", " 204 ");
    exchange(rig, "GET /raw/%7e//./x HTTP/1.1\r\nHost: x\r\n\r\n", "GET /app/raw/%7e//./x HTTP/1.1\r\n",
        "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n", " 204 ");
    exchange(rig, "GET /k//%7e/./x HTTP/1.1\r\nHost: x\r\n\r\n", "GET /app/k//~/x HTTP/1.1\r\n",
        "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n", " 204 ");
    rig_free(rig);
}

static void
interim_answers_reach_1_1_clients_only(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    (void)state;
    exchange(rig, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: "
        "2\r\nConnection: close\r\n\r\nok",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n");
    exchange(rig, "GET / HTTP/1.0\r\n\r\n", "\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: "
        "2\r\nConnection: close\r\n\r\nok",
        "HTTP/1.1 201 Created\r\n");
    exchange(rig, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        "502 bad_response: ");
    rig_free(rig);
}

static void
expect_is_forwarded_and_its_100_comes_back(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "Expect: 100-continue\r\n");
    rig_say(rig, backend, "HTTP/1.1 100 Continue\r\n\r\n");
    rig_expect(rig, client, "HTTP/1.1 100 Continue\r\n\r\n");
    rig_say(rig, client, "hi");
    rig_expect(rig, backend, "\r\n\r\nhi");
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    rig_expect(rig, client, "HTTP/1.1 200 OK\r\n");
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
a_silent_backend_does_not_stall_expect(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    rig_expect(rig, client, "HTTP/1.1 100 Continue\r\n\r\n");
    rig_forget(client);
    rig_say(rig, client, "hi");
    rig_expect(rig, backend, "\r\n\r\nhi");
    rig_say(rig, backend, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    rig_expect(rig, client, "HTTP/1.1 200 OK\r\n");
    assert_null(strstr(client->text, "100 Continue"));
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
an_early_answer_is_passed_on_and_the_connection_ends(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nbegin");
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "begin");
    rig_say(rig, backend, "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
    rig_expect(rig, client, "\r\n\r\nno");
    assert_non_null(strstr(client->text, "Connection: close\r\n"));
    rig_expect_end(rig, backend);
    rig_say(rig, client, "more of the body that nobody reads");
    rig_expect_end(rig, client);
    assert_int_equal(client->end, HEARD_FIN);
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

/* 40 MiB through a proxy whose sockets hold far less: what the proxy holds itself stays within its buffers.
 */
static void
big_bodies_stream_with_bounded_memory(void **state)
{
    enum { TOTAL = 40 << 20, PIECE = 1 << 16 };
    static char piece[PIECE];
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    size_t sent = 0, got = 0, ahead = 0;
    (void)state;
    memset(piece, 'x', sizeof piece);
    rig_say(rig, client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    struct heard *backend = rig_backend(rig, 0);
    rig_trust(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 41943040\r\n\r\n");
    rig_expect(rig, client, "\r\n\r\n");
    got = client->len - (size_t)(strstr(client->text, "\r\n\r\n") + 4 - client->text);
    for (unsigned idle = 0; idle < 50;) { /* the client reads nothing: the backend must come to a stop */
        ssize_t n = send(backend->fd, piece, sizeof piece, MSG_NOSIGNAL);
        if (n > 0) sent += (size_t)n;
        idle = n > 0 ? 0 : idle + 1;
        rig_turn(rig);
    }
    assert_true(sent < TOTAL);
    ahead = rig->proxy->buffers.large_count + rig->proxy->buffers.small_count;
    assert_true(ahead < 8);
    while (got < TOTAL) {
        if (sent < TOTAL) {
            ssize_t n = send(backend->fd, piece, TOTAL - sent < PIECE ? TOTAL - sent : PIECE, MSG_NOSIGNAL);
            if (n > 0) sent += (size_t)n;
        }
        event_base_loop(rig->base, EVLOOP_NONBLOCK);
        ssize_t n = recv(client->fd, piece, sizeof piece, 0);
        if (n > 0)
            got += (size_t)n;
        else
            assert_true(n == -1 && errno == EAGAIN);
    }
    assert_int_equal(got, TOTAL);
    rig_forget(client);
    rig_forget(backend);
    rig_say(rig, client, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    rig_expect(rig, backend, "\r\n\r\n");
    for (got = sent = 0; sent < TOTAL; sent += PIECE) {
        rig_say(rig, client, "10000\r\n");
        for (size_t at = 0; at < PIECE;) {
            ssize_t n = send(client->fd, piece + at, PIECE - at, MSG_NOSIGNAL);
            if (n > 0) at += (size_t)n;
            event_base_loop(rig->base, EVLOOP_NONBLOCK);
            heard_read(backend);
            got += backend->len;
            rig_forget(backend);
        }
        rig_say(rig, client, "\r\n");
    }
    rig_say(rig, client, "0\r\n\r\n");
    rig_expect(rig, backend, "0\r\n\r\n");
    got += backend->len;
    assert_true(got > TOTAL);
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone");
    rig_expect(rig, client, "done");
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
heads_up_to_their_limit_pass_and_no_further(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    static char request[40000], answer[40000];
    (void)state;
    char *at = request + sprintf(request, "GET / HTTP/1.1\r\nHost: a\r\nX-Big: ");
    memset(at, 'b', 30000);
    strcpy(at + 30000, "\r\n\r\n");
    at = answer + sprintf(answer, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\nX-Back: ");
    memset(at, 'c', 30000);
    strcpy(at + 30000, "\r\n\r\n");
    exchange(rig, request, "bbbbbb\r\n", answer, "cccccc\r\n");
    struct heard *client = rig_client(rig);
    at = request + sprintf(request, "GET / HTTP/1.1\r\nHost: a\r\nX-Big: ");
    memset(at, 'b', 39000);
    at[39000] = '\0';
    rig_say(rig, client, request);
    rig_expect(rig, client, "HTTP/1.1 431 ");
    rig_expect_end(rig, client);
    rig_hang_up(client);
    rig_free(rig);
}

static void
bodies_past_their_limit_get_413(void **state)
{
    struct rig *rig = rig_new(
        RIG_YAML("  - match: { path_prefix: / }\n    service: web\n", "limits: { body_bytes: 8 }\n"), 1);
    (void)state;
    struct heard *client = rig_client(rig);
    rig_say(rig, client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n");
    rig_expect(rig, client, "413 limit: ");
    rig_expect_end(rig, client);
    rig_hang_up(client);
    exchange(rig, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nabcdef\r\n",
        "abcdef\r\n", "", "");
    client = rig_client(rig);
    rig_say(rig, client,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: "
        "chunked\r\n\r\n6\r\nabcdef\r\n6\r\nghijkl\r\n0\r\n\r\n");
    rig_expect(rig, client, "413 limit: ");
    rig_hang_up(client);
    rig_free(rig);
}

static void
the_pick_that_answers_sets_its_cookies(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    (void)state;
    fake_cookie = "SESSIONID=x; HttpOnly";
    exchange(rig, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "\r\n\r\n",
        "HTTP/1.1 200 OK\r\nSet-Cookie: own=1\r\nContent-Length: 0\r\n\r\n",
        "Set-Cookie: SESSIONID=x; HttpOnly\r\n");
    rig_free(rig);
}

static void
max_forwards_counts_down_to_an_answer_of_ours(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, "OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n");
    rig_expect(rig, client, "Allow: GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH\r\n");
    assert_false(rig_has_connection(rig, 0));
    rig_say(rig, client, "OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 10\r\n\r\n");
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "Max-Forwards: 9\r\n");
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
a_redirect_to_the_path_stays_on_this_host(void **state)
{
    struct rig *rig = rig_new(RIG_YAML("  - match: { path_prefix: / }\n    slashes: keep\n    redirect: { "
                                       "to: /$path, status: 302 }\n",
                                  ""),
        0);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, "GET //evil.example/x HTTP/1.1\r\nHost: a\r\n\r\n");
    rig_expect(rig, client, "Location: /evil.example/x\r\n");
    rig_hang_up(client);
    rig_free(rig);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(relays_a_request_and_keeps_both_connections),
        cmocka_unit_test(a_head_may_come_byte_by_byte),
        cmocka_unit_test(chunks_are_decoded_and_made_anew),
        cmocka_unit_test(a_body_until_close_is_chunked_for_1_1_and_closes_for_1_0),
        cmocka_unit_test(http_1_0_keeps_the_connection_only_by_its_token),
        cmocka_unit_test(head_204_and_304_have_no_body_and_keep_their_length),
        cmocka_unit_test(pipelined_requests_are_answered_in_order),
        cmocka_unit_test(an_ambiguous_request_is_answered_once_and_reaches_nobody),
        cmocka_unit_test(a_broken_chunk_after_the_head_ends_both_connections),
        cmocka_unit_test(our_own_answers_keep_the_connection_where_the_request_is_whole),
        cmocka_unit_test(rewrites_and_the_endpoints_prefix_stand_in_order),
        cmocka_unit_test(interim_answers_reach_1_1_clients_only),
        cmocka_unit_test(expect_is_forwarded_and_its_100_comes_back),
        cmocka_unit_test(a_silent_backend_does_not_stall_expect),
        cmocka_unit_test(an_early_answer_is_passed_on_and_the_connection_ends),
        cmocka_unit_test(big_bodies_stream_with_bounded_memory),
        cmocka_unit_test(heads_up_to_their_limit_pass_and_no_further),
        cmocka_unit_test(bodies_past_their_limit_get_413),
        cmocka_unit_test(the_pick_that_answers_sets_its_cookies),
        cmocka_unit_test(max_forwards_counts_down_to_an_answer_of_ours),
        cmocka_unit_test(a_redirect_to_the_path_stays_on_this_host),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
