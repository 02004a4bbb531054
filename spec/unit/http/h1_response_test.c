#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "spec/unit/http/h1_support.h"

#define OK "HTTP/1.1 200 OK\r\n"
#define RESPONSE(lit, error)                                                                                 \
    {                                                                                                        \
        SLICE_LIT(lit), error, __LINE__                                                                      \
    }

struct response_case {
    struct slice input;
    enum h1_error error;
    int line;
};

static const struct response_case refused[] = {
    RESPONSE("<html>", H1_BAD_STATUS_LINE),
    RESPONSE("\r\nHTTP/1.1 200 OK\r\n\r\n", H1_BAD_STATUS_LINE),
    RESPONSE(" HTTP/1.1 200 OK\r\n\r\n", H1_BAD_STATUS_LINE),
    RESPONSE("ICY 200 OK\r\n\r\n", H1_BAD_STATUS_LINE),
    RESPONSE("http/1.1 200 OK\r\n\r\n", H1_BAD_STATUS_LINE),
    RESPONSE("HTTP/1.1\r\n\r\n", H1_BAD_STATUS_LINE),
    RESPONSE("HTTP/1.1 \r\n\r\n", H1_BAD_STATUS_LINE),
    RESPONSE("HTTP/1.1 20\r\n\r\n", H1_BAD_STATUS_LINE),
    RESPONSE("HTTP/1.1 2000 OK\r\n\r\n", H1_BAD_STATUS_LINE),
    RESPONSE("HTTP/1.1 200OK\r\n\r\n", H1_BAD_STATUS_LINE),
    RESPONSE("HTTP/1.1  200 OK\r\n\r\n", H1_BAD_STATUS_LINE),
    RESPONSE("HTTP/1.1\t200 OK\r\n\r\n", H1_BAD_STATUS_LINE),
    RESPONSE("HTTP/1.1 200\tOK\r\n\r\n", H1_BAD_STATUS_LINE),
    RESPONSE("HTTP/1.1 099 OK\r\n\r\n", H1_BAD_STATUS_LINE),
    RESPONSE("HTTP/1.1 600 OK\r\n\r\n", H1_BAD_STATUS_LINE),
    RESPONSE("HTTP/1.1 999 OK\r\n\r\n", H1_BAD_STATUS_LINE),
    RESPONSE("HTTP/1.1 +20 OK\r\n\r\n", H1_BAD_STATUS_LINE),
    RESPONSE("HTTP/1.1 -20 OK\r\n\r\n", H1_BAD_STATUS_LINE),
    RESPONSE("HTTP/1.1 2x0 OK\r\n\r\n", H1_BAD_STATUS_LINE),
    RESPONSE("HTTP/1.1 200 O\0K\r\n\r\n", H1_BAD_STATUS_LINE),
    RESPONSE("HTTP/1.1 200 O\x01K\r\n\r\n", H1_BAD_STATUS_LINE),
    RESPONSE("HTTP/1.1 200 O\x7fK\r\n\r\n", H1_BAD_STATUS_LINE),
    RESPONSE("HTTP/1 200 OK\r\n\r\n", H1_BAD_STATUS_LINE),
    RESPONSE("HTTP/1.1x200 OK\r\n\r\n", H1_BAD_STATUS_LINE),
    RESPONSE("HTTP/1.10 200 OK\r\n\r\n", H1_BAD_STATUS_LINE),
    RESPONSE("HTTP/2.0 200 OK\r\n\r\n", H1_VERSION_UNSUPPORTED),
    RESPONSE("HTTP/0.9 200 OK\r\n\r\n", H1_VERSION_UNSUPPORTED),
    RESPONSE("HTTP/1.1 200 OK\n\r\n", H1_BARE_LF),
    RESPONSE("HTTP/1.1 200 OK\rA: b\r\n\r\n", H1_BARE_CR),
    RESPONSE("HTTP/1.1 200 OK\r\r\n\r\n", H1_BARE_CR),
    RESPONSE(OK " A: b\r\n\r\n", H1_OBS_FOLD),
    RESPONSE(OK "A: b\r\n\tc\r\n\r\n", H1_OBS_FOLD),
    RESPONSE(OK "A : b\r\n\r\n", H1_BAD_HEADER_NAME),
    RESPONSE(OK ": b\r\n\r\n", H1_BAD_HEADER_NAME),
    RESPONSE(OK "A\r\n\r\n", H1_BAD_HEADER_NAME),
    RESPONSE(OK "A\0: b\r\n\r\n", H1_BAD_HEADER_NAME),
    RESPONSE(OK "A: b\0\r\n\r\n", H1_BAD_HEADER_VALUE),
    RESPONSE(OK "A: b\x02\r\n\r\n", H1_BAD_HEADER_VALUE),
    RESPONSE(OK "A: b\nC: d\r\n\r\n", H1_BARE_LF),
    RESPONSE(OK "A: b\rC: d\r\n\r\n", H1_BARE_CR),
    RESPONSE(OK "A: b\r\n\n", H1_BARE_LF),
    RESPONSE(OK "Content-Length: 5\r\nContent-Length: 5\r\n\r\n", H1_BAD_CONTENT_LENGTH),
    RESPONSE(OK "Content-Length: 5, 5\r\n\r\n", H1_BAD_CONTENT_LENGTH),
    RESPONSE(OK "Content-Length: 5\r\nContent-Length: 7\r\n\r\n", H1_BAD_CONTENT_LENGTH),
    RESPONSE(OK "Content-Length: -1\r\n\r\n", H1_BAD_CONTENT_LENGTH),
    RESPONSE(OK "Content-Length: +1\r\n\r\n", H1_BAD_CONTENT_LENGTH),
    RESPONSE(OK "Content-Length: 1 1\r\n\r\n", H1_BAD_CONTENT_LENGTH),
    RESPONSE(OK "Content-Length:\r\n\r\n", H1_BAD_CONTENT_LENGTH),
    RESPONSE(OK "Content-Length: 18446744073709551616\r\n\r\n", H1_BAD_CONTENT_LENGTH),
    RESPONSE("HTTP/1.1 304 x\r\nContent-Length: x\r\n\r\n", H1_BAD_CONTENT_LENGTH),
    RESPONSE(OK "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", H1_LENGTH_AND_ENCODING),
    RESPONSE(OK "Transfer-Encoding: gzip, chunked\r\n\r\n", H1_BAD_TRANSFER_ENCODING),
    RESPONSE(OK "Transfer-Encoding: gzip\r\n\r\n", H1_BAD_TRANSFER_ENCODING),
    RESPONSE(OK "Transfer-Encoding: identity\r\n\r\n", H1_BAD_TRANSFER_ENCODING),
    RESPONSE(OK "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", H1_BAD_TRANSFER_ENCODING),
    RESPONSE(OK "Transfer-Encoding:\r\n\r\n", H1_BAD_TRANSFER_ENCODING),
    RESPONSE("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", H1_BAD_TRANSFER_ENCODING),
    RESPONSE("HTTP/1.1 100 Continue\r\nTransfer-Encoding: chunked\r\n\r\n", H1_BAD_TRANSFER_ENCODING),
    RESPONSE("HTTP/1.1 101 x\r\nContent-Length: 5\r\n\r\n", H1_BAD_CONTENT_LENGTH),
};

static struct text whole, split;
static struct h1_parser parser;
static struct arena arena;

static void
refuses_malformed_responses_in_every_split(void **state)
{
    (void)state;
    struct h1_run run = {.is_response = true, .request_method = METHOD_GET};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        const struct response_case *test = &refused[i];
        enum h1_result result = h1_run_cuts(&run, test->input, &test->input.len, 1, &whole);
        if (result != H1_BAD) fail_msg("line %d: result %d, not refused", test->line, (int)result);
        if (text_error(&whole) != test->error) {
            fail_msg("line %d: \"%s\" where \"%s\" is due", test->line, h1_error_text(text_error(&whole)),
                h1_error_text(test->error));
        }
        size_t differs = h1_run_differs(&run, test->input, &whole, &split);
        if (differs != 0)
            fail_msg("line %d: split at %zd differs from the whole", test->line, (ssize_t)differs - 1);
    }
}

static const struct h1_head *
accept_response(struct slice input, enum method method)
{
    struct h1_run run = {.is_response = true, .request_method = method};
    size_t used = 0;
    assert_int_equal(h1_run_cuts(&run, input, &input.len, 1, &whole), H1_DONE);
    assert_int_equal(h1_run_differs(&run, input, &whole, &split), 0);
    arena_reset(&arena);
    h1_response_init(&parser, &arena, &usual_limits, method);
    assert_int_equal(h1_parse_head(&parser, input, &used), H1_DONE);
    return &parser.head;
}

#define ACCEPT(lit)       accept_response(SLICE_LIT(lit), METHOD_GET)
#define ACCEPT_TO(m, lit) accept_response(SLICE_LIT(lit), METHOD_##m)

static void
reads_an_ordinary_response(void **state)
{
    (void)state;
    const struct h1_head *head =
        ACCEPT("HTTP/1.1 200 Fine \xe2\x82\xac\r\nContent-Length: 2\r\nSet-Cookie: a=b\r\n"
               "Set-Cookie: c=d\r\nX_Y: z\r\nKeep-Alive: max=5, timeout=7\r\n\r\n");
    assert_int_equal(head->status, 200);
    assert_true(slice_equal(head->phrase, SLICE_LIT("Fine \xe2\x82\xac")));
    assert_int_equal(head->body, BODY_LENGTH);
    assert_int_equal(head->length, 2);
    assert_int_equal(head->keep_alive_s, 7);
    assert_true(head->keep_alive);
    assert_int_equal(head->headers.count, 5); /* underscores are a rule for requests */
    const struct header *first = headers_find(&head->headers, HEADER_SET_COOKIE);
    assert_true(slice_equal(headers_next(&head->headers, first)->value, SLICE_LIT("c=d")));
}

static void
hears_how_long_the_connection_idles(void **state)
{
    (void)state;
    const struct h1_head *head = ACCEPT(OK "Content-Length: 0\r\nKeep-Alive: max=5, timeout=0\r\n\r\n");
    assert_false(head->keep_alive); /* it ends at once */
    head = ACCEPT(OK "Content-Length: 0\r\nKeep-Alive: timeout=x, max=0\r\n\r\n");
    assert_true(head->keep_alive);
    assert_int_equal(head->keep_alive_s, 0);
}

static void
takes_a_status_line_without_phrase(void **state)
{
    (void)state;
    assert_int_equal(ACCEPT("HTTP/1.1 200\r\n\r\n")->status, 200);
    assert_int_equal(ACCEPT("HTTP/1.1 599 \r\n\r\n")->status, 599);
    assert_int_equal(ACCEPT("HTTP/1.1 200 \r\n\r\n")->phrase.len, 0);
}

static void
decides_framing_by_status_and_method(void **state)
{
    (void)state;
    assert_int_equal(ACCEPT(OK "\r\n")->body, BODY_CLOSE);
    assert_false(ACCEPT(OK "\r\n")->keep_alive);
    assert_int_equal(ACCEPT(OK "Transfer-Encoding: chunked\r\n\r\n")->body, BODY_CHUNKED);
    assert_int_equal(ACCEPT(OK "Content-Length: 0\r\n\r\n")->body, BODY_LENGTH);
    assert_int_equal(ACCEPT_TO(HEAD, OK "Content-Length: 9\r\n\r\n")->body, BODY_NONE);
    assert_true(ACCEPT_TO(HEAD, OK "Content-Length: 9\r\n\r\n")->keep_alive);
    assert_int_equal(ACCEPT_TO(HEAD, OK "Transfer-Encoding: chunked\r\n\r\n")->body, BODY_NONE);
    assert_int_equal(ACCEPT_TO(HEAD, OK "\r\n")->body, BODY_NONE);
    assert_true(ACCEPT_TO(HEAD, OK "\r\n")->keep_alive);
    assert_int_equal(ACCEPT_TO(CONNECT, OK "Content-Length: 9\r\n\r\n")->body, BODY_NONE);
    assert_int_equal(ACCEPT_TO(CONNECT, "HTTP/1.1 400 x\r\nContent-Length: 9\r\n\r\n")->body, BODY_LENGTH);
    assert_int_equal(ACCEPT("HTTP/1.1 304 x\r\nContent-Length: 9\r\n\r\n")->body, BODY_NONE);
    assert_true(ACCEPT("HTTP/1.1 304 x\r\nContent-Length: 9\r\n\r\n")->keep_alive);
    assert_int_equal(ACCEPT("HTTP/1.1 204 x\r\n\r\n")->body, BODY_NONE);
    assert_int_equal(ACCEPT("HTTP/1.1 100 x\r\n\r\n")->body, BODY_NONE);
    assert_int_equal(ACCEPT("HTTP/1.1 103 x\r\nContent-Length: 0\r\nLink: y\r\n\r\n")->body, BODY_NONE);
}

static void
closes_after_a_204_that_announces_a_body(void **state)
{
    (void)state;
    const struct h1_head *head = ACCEPT("HTTP/1.1 204 x\r\nContent-Length: 5\r\n\r\n");
    assert_int_equal(head->body, BODY_NONE);
    assert_false(head->keep_alive);
    assert_false(ACCEPT("HTTP/1.1 204 x\r\nTransfer-Encoding: chunked\r\n\r\n")->keep_alive);
    assert_true(ACCEPT("HTTP/1.1 204 x\r\nContent-Length: 0\r\n\r\n")->keep_alive);
}

static void
decides_connection_and_upgrade(void **state)
{
    (void)state;
    assert_false(ACCEPT("HTTP/1.0 200 x\r\nContent-Length: 0\r\n\r\n")->keep_alive);
    assert_true(ACCEPT("HTTP/1.0 200 x\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n")->keep_alive);
    assert_false(ACCEPT(OK "Content-Length: 0\r\nConnection: close\r\n\r\n")->keep_alive);
    assert_true(ACCEPT("HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")->upgrade);
    assert_false(ACCEPT("HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n")->upgrade);
    assert_false(ACCEPT("HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n")->upgrade);
    assert_false(
        ACCEPT("HTTP/1.1 426 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n")
            ->upgrade);
}

static void
reads_final_response_behind_an_interim_one(void **state)
{
    (void)state;
    struct slice input =
        SLICE_LIT("HTTP/1.1 103 x\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    size_t used = 0;
    h1_response_init(&parser, &arena, &usual_limits, METHOD_GET);
    assert_int_equal(h1_parse_head(&parser, input, &used), H1_DONE);
    assert_int_equal(parser.head.status, 103);
    h1_response_init(&parser, &arena, &usual_limits, METHOD_GET);
    assert_int_equal(
        h1_parse_head(&parser, (struct slice){input.at + used, input.len - used}, &used), H1_DONE);
    assert_int_equal(parser.head.status, 200);
}

static int
fini(void **state)
{
    (void)state;
    arena_fini(&arena);
    return 0;
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_malformed_responses_in_every_split),
        cmocka_unit_test(reads_an_ordinary_response),
        cmocka_unit_test(hears_how_long_the_connection_idles),
        cmocka_unit_test(takes_a_status_line_without_phrase),
        cmocka_unit_test(decides_framing_by_status_and_method),
        cmocka_unit_test(closes_after_a_204_that_announces_a_body),
        cmocka_unit_test(decides_connection_and_upgrade),
        cmocka_unit_test(reads_final_response_behind_an_interim_one),
    };
    return cmocka_run_group_tests(tests, NULL, fini);
}
