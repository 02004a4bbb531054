/* links: net http */
/* A server on a socket pair's loop: what clients send, byte for byte, and what they get. */
#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/base/clock.h"
#include "core/base/strbuf.h"
#include "core/serve/serve.h"

enum { PATIENCE_US = 30000000 }; /* without any progress */

struct fixture {
    struct event_base *base;
    struct serve *serve;
    uint16_t port;
    struct serve_call *held;
    unsigned gone, calls;
    bool drained;
    struct strbuf seen; /* "METHOD path?query body\n" of each call */
    struct serve_blob *blob;
};

static void
on_gone(void *context)
{
    struct fixture *f = context;
    f->gone++;
    f->held = NULL;
}

static void
on_request(void *context, struct serve_call *call, const struct serve_request *request)
{
    struct fixture *f = context;
    f->calls++;
    strbuf_add_slice(&f->seen, request->method_text);
    strbuf_add_char(&f->seen, ' ');
    strbuf_add_slice(&f->seen, request->path);
    strbuf_add_char(&f->seen, ' ');
    strbuf_add_slice(&f->seen, request->body);
    strbuf_add_char(&f->seen, '\n');
    if (slice_equal(request->path, SLICE_LIT("/hold")) || slice_equal(request->path, SLICE_LIT("/orphan"))) {
        f->held = call;
        if (request->path.at[1] == 'h') serve_on_gone(call, on_gone, f);
    } else if (slice_equal(request->path, SLICE_LIT("/blob"))) {
        serve_reply_blob(call, 200, "text/plain", f->blob);
    } else if (slice_equal(request->path, SLICE_LIT("/none"))) {
        serve_reply(call, 204, NULL, SLICE_NONE);
    } else {
        serve_header(call, "X-Seen", "yes");
        serve_reply(call, 200, "text/plain", request->body.len > 0 ? request->body : SLICE_LIT("hello"));
    }
}

static int
setup_with(void **state, const struct serve_limits *limits)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (f == NULL || fd == -1 || bind(fd, (struct sockaddr *)&address, len) == -1 || listen(fd, 64) == -1 ||
        getsockname(fd, (struct sockaddr *)&address, &len) == -1)
        return -1;
    f->port = ntohs(address.sin_port);
    f->base = event_base_new();
    f->serve = serve_new(f->base, SERVE_BOTH, limits, on_request, f);
    *state = f;
    return f->serve != NULL && serve_listen(f->serve, fd) ? 0 : -1;
}

static int
setup(void **state)
{
    return setup_with(state, NULL);
}

static int
setup_short(void **state)
{
    static const struct serve_limits limits = {
        .body_bytes = 1000, .connections = 3, .header_us = 100000, .idle_us = 200000};
    return setup_with(state, &limits);
}

static int
teardown(void **state)
{
    struct fixture *f = *state;
    serve_free(f->serve);
    serve_blob_put(f->blob);
    event_base_free(f->base);
    strbuf_fini(&f->seen);
    free(f);
    return 0;
}

static void
turn(struct fixture *f)
{
    struct timeval brief = {0, 1000};
    event_base_loopexit(f->base, &brief);
    event_base_dispatch(f->base);
}

static int
dial(struct fixture *f)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(f->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_not_equal(fd, -1);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

static void
put(int fd, const char *text, size_t len)
{
    assert_int_equal(send(fd, text, len, MSG_NOSIGNAL), (ssize_t)len);
}

/* Reads until `until` (a text) was seen `times`, or, where it is NULL, until the server closes. True: so it
 * came. */
static bool
await(struct fixture *f, int fd, struct strbuf *got, const char *until, int times)
{
    char bytes[65536];
    for (uint64_t end = clock_now_us() + PATIENCE_US; clock_now_us() < end;) {
        turn(f);
        ssize_t n = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (n == 0 || (n == -1 && errno != EAGAIN)) return until == NULL;
        if (n > 0) {
            strbuf_add(got, bytes, (size_t)n);
            end = clock_now_us() + PATIENCE_US;
        }
        int found = 0;
        for (const char *at = got->at; until != NULL && at != NULL && (at = strstr(at, until)) != NULL; at++)
            found++;
        if (until != NULL && found >= times) return true;
    }
    return false;
}

static void
await_calls(struct fixture *f, unsigned calls)
{
    for (uint64_t end = clock_now_us() + PATIENCE_US; f->calls < calls && clock_now_us() < end;)
        turn(f);
    assert_int_equal(f->calls, calls);
}

static void
answers_each_request_of_a_pipeline_in_order_at_every_split(void **state)
{
    struct fixture *f = *state;
    static const char text[] = "POST /a?q=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\none"
                               "POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                               "2;ext=\"v\"\r\ntw\r\n1\r\no\r\n0\r\nTrailer: t\r\n\r\n"
                               "GET http://x/c HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    for (size_t split = 0; split < sizeof text - 1; split++) {
        struct strbuf got = {0};
        int fd = dial(f);
        strbuf_clear(&f->seen);
        put(fd, text, split);
        turn(f);
        put(fd, text + split, sizeof text - 1 - split);
        assert_true(await(f, fd, &got, NULL, 0));
        assert_string_equal(f->seen.at, "POST /a one\nPOST /b two\nGET /c \n");
        const char *one = strstr(got.at, "\r\n\r\none"), *two = strstr(got.at, "\r\n\r\ntwo");
        assert_true(one != NULL && two > one && strstr(two, "\r\n\r\nhello") != NULL);
        assert_non_null(strstr(got.at, "HTTP/1.1 200 OK\r\n"));
        strbuf_fini(&got);
        close(fd);
    }
}

static void
takes_a_request_byte_by_byte(void **state)
{
    struct fixture *f = *state;
    struct strbuf got = {0};
    static const char text[] =
        "POST /slow HTTP/1.1\r\nHost: x\r\nX-Long: 0123456789012345678901234567890123456789\r\n"
        "Content-Length: 4\r\n\r\nslowGET /next HTTP/1.0\r\n\r\n";
    int fd = dial(f);
    for (size_t i = 0; i < sizeof text - 1; i++) {
        put(fd, text + i, 1);
        turn(f);
    }
    assert_true(await(f, fd, &got, NULL, 0));
    assert_string_equal(f->seen.at, "POST /slow slow\nGET /next \n");
    strbuf_fini(&got);
    close(fd);
}

static void
refuses_what_is_no_request_with_its_status_and_closes(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *text, *status;
    } rows[] = {
        {"GET / HTTP/1.1\r\n\r\n", "400"},
        {"\x16\x03\x01\x02\r\n\r\n", "400"},
        {"GET / HTTP/2.5\r\nHost: x\r\n\r\n", "505"},
        {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "400"},
        {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n", "413"},
        {"POST / HTTP/1.1\r\nHost: x\r\nExpect: more\r\nContent-Length: 1\r\n\r\n", "417"},
        {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "400"},
        {"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n", "501"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct strbuf got = {0};
        char status[32];
        int fd = dial(f);
        put(fd, rows[i].text, strlen(rows[i].text));
        assert_true(await(f, fd, &got, NULL, 0));
        snprintf(status, sizeof status, "HTTP/1.1 %s ", rows[i].status);
        if (strncmp(got.at, status, strlen(status)) != 0) fail_msg("%s got %s", rows[i].text, got.at);
        assert_non_null(strstr(got.at, "onnection: close\r\n"));
        assert_non_null(strstr(got.at, "{\"error\":"));
        strbuf_fini(&got);
        close(fd);
    }
    assert_int_equal(f->calls, 0);
}

static void
refuses_a_long_target_and_long_headers(void **state)
{
    struct fixture *f = *state;
    static char text[70000];
    for (int round = 0; round < 2; round++) {
        struct strbuf got = {0};
        int fd = dial(f);
        const char *begin = round == 0 ? "GET /" : "GET / HTTP/1.1\r\nHost: x\r\nX: ";
        size_t n = strlen(begin), fill = round == 0 ? 9000 : 40000;
        memcpy(text, begin, n);
        memset(text + n, 'a', fill);
        memcpy(text + n + fill, round == 0 ? " HTTP/1.1\r\n" : "\r\n\r\n", round == 0 ? 11 : 4);
        put(fd, text, n + fill + (round == 0 ? 11 : 4));
        assert_true(await(f, fd, &got, NULL, 0));
        assert_int_equal(strncmp(got.at, round == 0 ? "HTTP/1.1 414 " : "HTTP/1.1 431 ", 13), 0);
        strbuf_fini(&got);
        close(fd);
    }
}

static void
says_continue_before_a_body_that_waits_for_it(void **state)
{
    struct fixture *f = *state;
    struct strbuf got = {0};
    static const char head[] =
        "POST /e HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    int fd = dial(f);
    put(fd, head, sizeof head - 1);
    assert_true(await(f, fd, &got, "HTTP/1.1 100 Continue\r\n\r\n", 1));
    assert_int_equal(f->calls, 0);
    put(fd, "hi", 2);
    assert_true(await(f, fd, &got, "\r\n\r\nhi", 1));
    strbuf_fini(&got);
    close(fd);
}

static void
sends_the_length_alone_to_head_and_nothing_with_204(void **state)
{
    struct fixture *f = *state;
    struct strbuf got = {0};
    static const char text[] = "HEAD /h HTTP/1.1\r\nHost: x\r\n\r\nGET /none HTTP/1.1\r\nHost: x\r\n\r\n"
                               "GET /end HTTP/1.0\r\n\r\n";
    int fd = dial(f);
    put(fd, text, sizeof text - 1);
    assert_true(await(f, fd, &got, NULL, 0));
    const char *first = strstr(got.at, "ontent-Length: 5\r\n"), *second = strstr(got.at, "HTTP/1.1 204 ");
    assert_true(first != NULL && second > first);
    assert_memory_equal(second - 4, "\r\n\r\n", 4);
    char *third = strstr(second, "\r\n\r\nHTTP/1.1 200 ");
    assert_non_null(third);
    *third = '\0';
    assert_null(strstr(second, "ontent-Length"));
    strbuf_fini(&got);
    close(fd);
}

static void
keeps_an_http_1_0_connection_only_where_it_is_asked_to(void **state)
{
    struct fixture *f = *state;
    struct strbuf got = {0};
    int fd = dial(f);
    static const char text[] = "GET /k HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    for (int i = 1; i <= 300; i++) { /* the old registry closed after 100 */
        put(fd, text, sizeof text - 1);
        assert_true(await(f, fd, &got, "onnection: keep-alive\r\n", i));
    }
    put(fd, "GET /k HTTP/1.0\r\n\r\n", 19);
    assert_true(await(f, fd, &got, NULL, 0));
    strbuf_fini(&got);
    close(fd);
}

static void
tells_the_holder_of_a_call_that_its_peer_left(void **state)
{
    struct fixture *f = *state;
    int fd = dial(f);
    put(fd, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n", 31);
    await_calls(f, 1);
    close(fd);
    for (uint64_t end = clock_now_us() + PATIENCE_US; f->gone == 0 && clock_now_us() < end;)
        turn(f);
    assert_int_equal(f->gone, 1);
    fd = dial(f); /* one that did not ask may still reply */
    put(fd, "GET /orphan HTTP/1.1\r\nHost: x\r\n\r\n", 33);
    await_calls(f, 2);
    struct linger reset = {1, 0};
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset), 0);
    close(fd);
    for (uint64_t end = clock_now_us() + PATIENCE_US;
         serve_connections(f->serve) > 0 && clock_now_us() < end;)
        turn(f);
    serve_reply(f->held, 200, NULL, SLICE_NONE);
    assert_int_equal(f->gone, 1);
}

static void
answers_a_client_that_closed_its_sending_side(void **state)
{
    struct fixture *f = *state;
    struct strbuf got = {0};
    int fd = dial(f);
    put(fd, "GET /orphan HTTP/1.1\r\nHost: x\r\n\r\n", 33);
    assert_int_equal(shutdown(fd, SHUT_WR), 0);
    await_calls(f, 1);
    turn(f);
    serve_reply(f->held, 200, "text/plain", SLICE_LIT("late"));
    assert_true(await(f, fd, &got, NULL, 0));
    assert_non_null(strstr(got.at, "\r\n\r\nlate"));
    strbuf_fini(&got);
    close(fd);
}

static void
goes_on_with_the_pipeline_after_a_held_call(void **state)
{
    struct fixture *f = *state;
    struct strbuf got = {0};
    static const char text[] = "GET /hold HTTP/1.1\r\nHost: x\r\n\r\nGET /next HTTP/1.1\r\nHost: x\r\n\r\n";
    int fd = dial(f);
    put(fd, text, sizeof text - 1);
    await_calls(f, 1);
    turn(f);
    assert_int_equal(f->calls, 1);
    serve_reply(f->held, 200, "text/plain", SLICE_LIT("held"));
    assert_true(await(f, fd, &got, "\r\n\r\nhello", 1));
    assert_true(strstr(got.at, "held") < strstr(got.at, "hello"));
    assert_int_equal(f->gone, 0);
    strbuf_fini(&got);
    close(fd);
}

static void
shares_one_large_body_and_waits_for_a_slow_reader(void **state)
{
    struct fixture *f = *state;
    enum { BIG = 8 << 20, PIPELINED = 4 };
    char *big = malloc(BIG);
    assert_non_null(big);
    memset(big, 'b', BIG);
    f->blob = serve_blob_new((struct slice){big, BIG});
    free(big);
    assert_non_null(f->blob);
    struct strbuf got = {0};
    int fd = dial(f);
    for (int i = 0; i < PIPELINED; i++)
        put(fd, "GET /blob HTTP/1.1\r\nHost: x\r\n\r\n", 31);
    await_calls(f, 1);
    for (int i = 0; i < 20; i++)
        turn(f);
    assert_int_equal(f->calls, 1); /* the second waits until the first answer is out */
    put(fd, "GET /x HTTP/1.0\r\n\r\n", 19);
    assert_true(await(f, fd, &got, NULL, 0));
    assert_int_equal(f->calls, PIPELINED + 1);
    assert_true(got.len > (size_t)PIPELINED * BIG);
    assert_int_equal(f->blob->refs, 1);
    strbuf_fini(&got);
    close(fd);
}

static void
closes_idle_and_slow_peers_and_those_past_the_limit(void **state)
{
    struct fixture *f = *state;
    struct strbuf got = {0};
    int idle = dial(f), slow = dial(f), body = dial(f), past;
    put(slow, "GET / HTTP/1.1\r\nHo", 18);
    put(body, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab", 50);
    for (uint64_t end = clock_now_us() + PATIENCE_US;
         serve_connections(f->serve) < 3 && clock_now_us() < end;)
        turn(f);
    past = dial(f);
    assert_true(await(f, past, &got, NULL, 0));
    assert_int_equal(got.len, 0);
    assert_true(await(f, slow, &got, NULL, 0));
    assert_int_equal(strncmp(got.at, "HTTP/1.1 408 ", 13), 0);
    strbuf_clear(&got);
    assert_true(await(f, idle, &got, NULL, 0));
    assert_int_equal(got.len, 0);
    assert_true(await(f, body, &got, NULL, 0));
    assert_int_equal(strncmp(got.at, "HTTP/1.1 408 ", 13), 0);
    strbuf_fini(&got);
    close(idle);
    close(slow);
    close(body);
    close(past);
}

static void
lets_a_peer_read_the_413_it_keeps_sending_into(void **state)
{
    struct fixture *f = *state;
    static char body[200000];
    struct strbuf got = {0};
    int fd = dial(f);
    put(fd, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffff\r\n", 64);
    put(fd, body, sizeof body);
    assert_true(await(f, fd, &got, NULL, 0));
    assert_int_equal(strncmp(got.at, "HTTP/1.1 413 ", 13), 0);
    strbuf_fini(&got);
    close(fd);
}

static void
on_drained(void *context)
{
    ((struct fixture *)context)->drained = true;
}

static void
drains_without_cutting_a_call(void **state)
{
    struct fixture *f = *state;
    struct strbuf got = {0}, none = {0};
    int held = dial(f), idle = dial(f);
    put(held, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n", 31);
    await_calls(f, 1);
    serve_drain(f->serve, 60000000, on_drained, f);
    assert_true(await(f, idle, &none, NULL, 0));
    close(idle);
    turn(f);
    assert_false(f->drained);
    serve_reply(f->held, 200, "text/plain", SLICE_LIT("last"));
    assert_true(await(f, held, &got, NULL, 0));
    assert_non_null(strstr(got.at, "onnection: close\r\n"));
    assert_non_null(strstr(got.at, "\r\n\r\nlast"));
    close(held);
    for (uint64_t end = clock_now_us() + PATIENCE_US; !f->drained && clock_now_us() < end;)
        turn(f);
    assert_true(f->drained);
    strbuf_fini(&got);
    strbuf_fini(&none);
}

static void
ends_a_drain_at_its_limit(void **state)
{
    struct fixture *f = *state;
    int fd = dial(f);
    put(fd, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n", 31);
    await_calls(f, 1);
    serve_drain(f->serve, 50000, on_drained, f);
    for (uint64_t end = clock_now_us() + PATIENCE_US; !f->drained && clock_now_us() < end;)
        turn(f);
    assert_true(f->drained);
    assert_int_equal(f->gone, 1);
    close(fd);
}

static void
decodes_a_segment_once(void **state)
{
    struct arena arena = {0};
    struct slice out;
    (void)state;
    assert_true(serve_decode(&arena, SLICE_LIT("a%2520%2Fb%C3%A9"), &out));
    assert_true(slice_equal(out, SLICE_LIT("a%20/b\xc3\xa9")));
    assert_true(serve_decode(&arena, SLICE_LIT(""), &out));
    assert_int_equal(out.len, 0);
    assert_true(serve_decode(&arena, SLICE_LIT("%41"), &out));
    assert_true(slice_equal(out, SLICE_LIT("A")));
    static const char *const bad[] = {"%", "%4", "a%4", "%zz", "%00", "%0g"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(serve_decode(&arena, slice_of(bad[i]), &out));
    arena_fini(&arena);
}

int
main(void)
{
#define CLAIM(name)       cmocka_unit_test_setup_teardown(name, setup, teardown)
#define CLAIM_SHORT(name) cmocka_unit_test_setup_teardown(name, setup_short, teardown)
    const struct CMUnitTest tests[] = {
        CLAIM(answers_each_request_of_a_pipeline_in_order_at_every_split),
        CLAIM(takes_a_request_byte_by_byte),
        CLAIM(refuses_what_is_no_request_with_its_status_and_closes),
        CLAIM(refuses_a_long_target_and_long_headers),
        CLAIM(says_continue_before_a_body_that_waits_for_it),
        CLAIM(sends_the_length_alone_to_head_and_nothing_with_204),
        CLAIM(keeps_an_http_1_0_connection_only_where_it_is_asked_to),
        CLAIM(tells_the_holder_of_a_call_that_its_peer_left),
        CLAIM(answers_a_client_that_closed_its_sending_side),
        CLAIM(goes_on_with_the_pipeline_after_a_held_call),
        CLAIM(shares_one_large_body_and_waits_for_a_slow_reader),
        CLAIM_SHORT(closes_idle_and_slow_peers_and_those_past_the_limit),
        CLAIM_SHORT(lets_a_peer_read_the_413_it_keeps_sending_into),
        CLAIM(drains_without_cutting_a_call),
        CLAIM(ends_a_drain_at_its_limit),
        cmocka_unit_test(decodes_a_segment_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
