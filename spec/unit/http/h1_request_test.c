#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "spec/unit/http/h1_support.h"

#define REQUEST(lit, error)                                                                                  \
    {                                                                                                        \
        SLICE_LIT(lit), error, __LINE__                                                                      \
    }
#define HOST "Host: a\r\n"
#define GET  "GET / HTTP/1.1\r\n" HOST
#define POST "POST / HTTP/1.1\r\n" HOST

struct request_case {
    struct slice input;
    enum h1_error error;
    int line;
};

static const struct request_case refused[] = {
    /* request line: form */
    REQUEST("GET /\r\n\r\n", H1_BAD_REQUEST_LINE),
    REQUEST("GET\r\n\r\n", H1_BAD_REQUEST_LINE),
    REQUEST("GET \r\n\r\n", H1_BAD_REQUEST_LINE),
    REQUEST("GET  / HTTP/1.1\r\n" HOST "\r\n", H1_BAD_REQUEST_LINE),
    REQUEST("GET /  HTTP/1.1\r\n" HOST "\r\n", H1_BAD_REQUEST_LINE),
    REQUEST("GET / HTTP/1.1 \r\n" HOST "\r\n", H1_BAD_REQUEST_LINE),
    REQUEST("GET / b HTTP/1.1\r\n" HOST "\r\n", H1_BAD_REQUEST_LINE),
    REQUEST("GET /\tHTTP/1.1\r\n" HOST "\r\n", H1_BAD_TARGET),
    REQUEST("GET\t/ HTTP/1.1\r\n" HOST "\r\n", H1_BAD_METHOD),
    REQUEST("GET\x0b/ HTTP/1.1\r\n" HOST "\r\n", H1_BAD_METHOD),
    REQUEST(" GET / HTTP/1.1\r\n" HOST "\r\n", H1_BAD_REQUEST_LINE),
    REQUEST("\r\n\r\nGET / HTTP/1.1\r\n" HOST "\r\n", H1_BAD_REQUEST_LINE),
    REQUEST("\nGET / HTTP/1.1\r\n" HOST "\r\n", H1_BARE_LF),
    REQUEST("\r\n\nGET / HTTP/1.1\r\n" HOST "\r\n", H1_BARE_LF),
    REQUEST("\rGET / HTTP/1.1\r\n" HOST "\r\n", H1_BARE_CR),
    REQUEST("GET / HTTP/1.1\n" HOST "\r\n", H1_BARE_LF),
    REQUEST("GET / HTTP/1.1\nHost: a\n\n", H1_BARE_LF),
    REQUEST("GET / HTTP/1.1\r\r\n" HOST "\r\n", H1_BARE_CR),
    REQUEST("GET /\r HTTP/1.1\r\n" HOST "\r\n", H1_BARE_CR),
    REQUEST("GET / HTTP/1.1\rHost: a\r\n\r\n", H1_BARE_CR),
    REQUEST("GET /\n HTTP/1.1\r\n" HOST "\r\n", H1_BARE_LF),
    /* method */
    REQUEST("G(T / HTTP/1.1\r\n" HOST "\r\n", H1_BAD_METHOD),
    REQUEST("GET: / HTTP/1.1\r\n" HOST "\r\n", H1_BAD_METHOD),
    REQUEST("GE\0T / HTTP/1.1\r\n" HOST "\r\n", H1_BAD_METHOD),
    REQUEST("G\xc3\x89T / HTTP/1.1\r\n" HOST "\r\n", H1_BAD_METHOD),
    REQUEST("\x16\x03\x01\x02", H1_BAD_METHOD),
    REQUEST("{\"json\": 1}\r\n\r\n", H1_BAD_METHOD),
    REQUEST("\"GET\" / HTTP/1.1\r\n" HOST "\r\n", H1_BAD_METHOD),
    REQUEST("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA / HTTP/1.1\r\n" HOST "\r\n",
        H1_BAD_METHOD),
    /* version */
    REQUEST("GET / HTTP/1.1x\r\n" HOST "\r\n", H1_BAD_VERSION),
    REQUEST("GET / http/1.1\r\n" HOST "\r\n", H1_BAD_VERSION),
    REQUEST("GET / Http/1.1\r\n" HOST "\r\n", H1_BAD_VERSION),
    REQUEST("GET / HTTP/1\r\n" HOST "\r\n", H1_BAD_VERSION),
    REQUEST("GET / HTTP/1.\r\n" HOST "\r\n", H1_BAD_VERSION),
    REQUEST("GET / HTTP/.1\r\n" HOST "\r\n", H1_BAD_VERSION),
    REQUEST("GET / HTTP/1,1\r\n" HOST "\r\n", H1_BAD_VERSION),
    REQUEST("GET / HTTP/1.10\r\n" HOST "\r\n", H1_BAD_VERSION),
    REQUEST("GET / HTTP/01.1\r\n" HOST "\r\n", H1_BAD_VERSION),
    REQUEST("GET / HTTP/+1.1\r\n" HOST "\r\n", H1_BAD_VERSION),
    REQUEST("GET / HTTP/a.1\r\n" HOST "\r\n", H1_BAD_VERSION),
    REQUEST("GET / HTTP /1.1\r\n" HOST "\r\n", H1_BAD_REQUEST_LINE),
    REQUEST("GET / HTTPS/1.1\r\n" HOST "\r\n", H1_BAD_VERSION),
    REQUEST("GET / ICY/1.1\r\n" HOST "\r\n", H1_BAD_VERSION),
    REQUEST("GET / HTTP/0.9\r\n" HOST "\r\n", H1_VERSION_UNSUPPORTED),
    REQUEST("GET / HTTP/2.0\r\n" HOST "\r\n", H1_VERSION_UNSUPPORTED),
    REQUEST("GET / HTTP/3.0\r\n" HOST "\r\n", H1_VERSION_UNSUPPORTED),
    REQUEST("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", H1_VERSION_UNSUPPORTED),
    /* target */
    REQUEST("GET /a#b HTTP/1.1\r\n" HOST "\r\n", H1_BAD_TARGET),
    REQUEST("GET /a\x7f HTTP/1.1\r\n" HOST "\r\n", H1_BAD_TARGET),
    REQUEST("GET /\0 HTTP/1.1\r\n" HOST "\r\n", H1_BAD_TARGET),
    REQUEST("GET /\xc3\xa9 HTTP/1.1\r\n" HOST "\r\n", H1_BAD_TARGET),
    REQUEST("GET a HTTP/1.1\r\n" HOST "\r\n", H1_BAD_TARGET),
    REQUEST("GET ?a HTTP/1.1\r\n" HOST "\r\n", H1_BAD_TARGET),
    REQUEST("GET * HTTP/1.1\r\n" HOST "\r\n", H1_BAD_TARGET),
    REQUEST("OPTIONS ** HTTP/1.1\r\n" HOST "\r\n", H1_BAD_TARGET),
    REQUEST("GET example.com:80 HTTP/1.1\r\n" HOST "\r\n", H1_BAD_TARGET),
    REQUEST("GET ftp://a/ HTTP/1.1\r\n" HOST "\r\n", H1_BAD_TARGET),
    REQUEST("GET http:/a/ HTTP/1.1\r\n" HOST "\r\n", H1_BAD_TARGET),
    REQUEST("GET http:a HTTP/1.1\r\n" HOST "\r\n", H1_BAD_TARGET),
    REQUEST("GET http:// HTTP/1.1\r\n" HOST "\r\n", H1_BAD_TARGET),
    REQUEST("GET http:///a HTTP/1.1\r\n" HOST "\r\n", H1_BAD_TARGET),
    REQUEST("GET http://?a HTTP/1.1\r\n" HOST "\r\n", H1_BAD_TARGET),
    REQUEST("GET http://u@a/ HTTP/1.1\r\n" HOST "\r\n", H1_BAD_TARGET),
    REQUEST("GET http://u:p@a/ HTTP/1.1\r\n" HOST "\r\n", H1_BAD_TARGET),
    REQUEST("GET http://a:b/ HTTP/1.1\r\n" HOST "\r\n", H1_BAD_TARGET),
    REQUEST("GET http://a:99999/ HTTP/1.1\r\n" HOST "\r\n", H1_BAD_TARGET),
    REQUEST("GET http://[::1/ HTTP/1.1\r\n" HOST "\r\n", H1_BAD_TARGET),
    REQUEST("GET http://a\\b/ HTTP/1.1\r\n" HOST "\r\n", H1_BAD_TARGET),
    REQUEST("CONNECT / HTTP/1.1\r\n" HOST "\r\n", H1_BAD_TARGET),
    REQUEST("CONNECT a HTTP/1.1\r\n" HOST "\r\n", H1_BAD_TARGET),
    REQUEST("CONNECT a: HTTP/1.1\r\n" HOST "\r\n", H1_BAD_TARGET),
    REQUEST("CONNECT http://a:80/ HTTP/1.1\r\n" HOST "\r\n", H1_BAD_TARGET),
    REQUEST("CONNECT * HTTP/1.1\r\n" HOST "\r\n", H1_BAD_TARGET),
    /* header lines */
    REQUEST("GET / HTTP/1.1\r\n Host: a\r\n\r\n", H1_OBS_FOLD),
    REQUEST("GET / HTTP/1.1\r\n\tHost: a\r\n\r\n", H1_OBS_FOLD),
    REQUEST(GET "A: b\r\n c\r\n\r\n", H1_OBS_FOLD),
    REQUEST(GET "A: b\r\n\tc\r\n\r\n", H1_OBS_FOLD),
    REQUEST(GET "A: b\r\n \r\n\r\n", H1_OBS_FOLD),
    REQUEST(GET "A:\r\n b\r\n\r\n", H1_OBS_FOLD),
    REQUEST(GET "Transfer-Encoding:\r\n chunked\r\n\r\n", H1_OBS_FOLD),
    REQUEST(GET "A : b\r\n\r\n", H1_BAD_HEADER_NAME),
    REQUEST(GET "A\t: b\r\n\r\n", H1_BAD_HEADER_NAME),
    REQUEST(POST "Content-Length : 5\r\n\r\nhello", H1_BAD_HEADER_NAME),
    REQUEST(POST "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", H1_BAD_HEADER_NAME),
    REQUEST(GET ": b\r\n\r\n", H1_BAD_HEADER_NAME),
    REQUEST(GET "A\r\n\r\n", H1_BAD_HEADER_NAME),
    REQUEST(GET "A b: c\r\n\r\n", H1_BAD_HEADER_NAME),
    REQUEST(GET "A(b): c\r\n\r\n", H1_BAD_HEADER_NAME),
    REQUEST(GET "A\0: c\r\n\r\n", H1_BAD_HEADER_NAME),
    REQUEST(GET "A\x01: c\r\n\r\n", H1_BAD_HEADER_NAME),
    REQUEST(GET "A\xff: c\r\n\r\n", H1_BAD_HEADER_NAME),
    REQUEST(GET "A/b: c\r\n\r\n", H1_BAD_HEADER_NAME),
    REQUEST(GET "\"A\": c\r\n\r\n", H1_BAD_HEADER_NAME),
    REQUEST(GET "A: b\0c\r\n\r\n", H1_BAD_HEADER_VALUE),
    REQUEST(GET "A: \0\r\n\r\n", H1_BAD_HEADER_VALUE),
    REQUEST(GET "A: b\x01\r\n\r\n", H1_BAD_HEADER_VALUE),
    REQUEST(GET "A: b\x0b\r\n\r\n", H1_BAD_HEADER_VALUE),
    REQUEST(GET "A: b\x0c\r\n\r\n", H1_BAD_HEADER_VALUE),
    REQUEST(GET "A: b\x1f\r\n\r\n", H1_BAD_HEADER_VALUE),
    REQUEST(GET "A: b\x7f\r\n\r\n", H1_BAD_HEADER_VALUE),
    REQUEST(GET "A: 0123456789abcdef0123456789abcdef\x08ghi\r\n\r\n", H1_BAD_HEADER_VALUE),
    REQUEST(GET "A: b\rc\r\n\r\n", H1_BARE_CR),
    REQUEST(GET "A: b\r\r\n\r\n", H1_BARE_CR),
    REQUEST(GET "A: b\rX: y\r\n\r\n", H1_BARE_CR),
    REQUEST(GET "A\r: b\r\n\r\n", H1_BARE_CR),
    REQUEST(GET "\rA: b\r\n\r\n", H1_BARE_CR),
    REQUEST(GET "A: b\n\r\n", H1_BARE_LF),
    REQUEST(GET "A: b\nX: y\r\n\r\n", H1_BARE_LF),
    REQUEST(GET "A: b\r\n\n", H1_BARE_LF),
    REQUEST(GET "\n", H1_BARE_LF),
    REQUEST(GET "A\n: b\r\n\r\n", H1_BARE_LF),
    REQUEST(GET "A: b\n\n", H1_BARE_LF),
    REQUEST(GET "A: b\r\n\r\r\n", H1_BARE_CR),
    /* Host */
    REQUEST("GET / HTTP/1.1\r\n\r\n", H1_BAD_HOST),
    REQUEST("GET / HTTP/1.1\r\nA: b\r\n\r\n", H1_BAD_HOST),
    REQUEST("GET / HTTP/1.1\r\nHost:\r\n\r\n", H1_BAD_HOST),
    REQUEST("GET / HTTP/1.1\r\nHost: \r\n\r\n", H1_BAD_HOST),
    REQUEST(GET "Host: b\r\n\r\n", H1_BAD_HOST),
    REQUEST(GET HOST "\r\n", H1_BAD_HOST),
    REQUEST(GET "hOST: b\r\n\r\n", H1_BAD_HOST),
    REQUEST("GET / HTTP/1.0\r\n" HOST "Host: b\r\n\r\n", H1_BAD_HOST),
    REQUEST("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", H1_BAD_HOST),
    REQUEST("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", H1_BAD_HOST),
    REQUEST("GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", H1_BAD_HOST),
    REQUEST("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", H1_BAD_HOST),
    REQUEST("GET / HTTP/1.1\r\nHost: a?b\r\n\r\n", H1_BAD_HOST),
    REQUEST("GET / HTTP/1.1\r\nHost: a#b\r\n\r\n", H1_BAD_HOST),
    REQUEST("GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n", H1_BAD_HOST),
    REQUEST("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", H1_BAD_HOST),
    REQUEST("GET / HTTP/1.1\r\nHost: http://a\r\n\r\n", H1_BAD_HOST),
    REQUEST("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", H1_BAD_HOST),
    REQUEST("GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n", H1_BAD_HOST),
    REQUEST("GET / HTTP/1.1\r\nHost: a:-1\r\n\r\n", H1_BAD_HOST),
    REQUEST("GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", H1_BAD_HOST),
    REQUEST("GET / HTTP/1.1\r\nHost: a:000080\r\n\r\n", H1_BAD_HOST),
    REQUEST("GET / HTTP/1.1\r\nHost: :80\r\n\r\n", H1_BAD_HOST),
    REQUEST("GET / HTTP/1.1\r\nHost: ::1\r\n\r\n", H1_BAD_HOST),
    REQUEST("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", H1_BAD_HOST),
    REQUEST("GET / HTTP/1.1\r\nHost: [::1]x\r\n\r\n", H1_BAD_HOST),
    REQUEST("GET / HTTP/1.1\r\nHost: []\r\n\r\n", H1_BAD_HOST),
    REQUEST("GET / HTTP/1.1\r\nHost: [a]\r\n\r\n", H1_BAD_HOST),
    REQUEST("GET / HTTP/1.1\r\nHost: [::1%25lo]\r\n\r\n", H1_BAD_HOST),
    REQUEST("GET / HTTP/1.1\r\nHost: a%00b\r\n\r\n", H1_BAD_HOST),
    REQUEST("GET / HTTP/1.1\r\nHost: a\"b\r\n\r\n", H1_BAD_HOST),
    REQUEST("GET / HTTP/1.1\r\nHost: <a>\r\n\r\n", H1_BAD_HOST),
    REQUEST("GET / HTTP/1.1\r\nHost: a\xff\r\n\r\n", H1_BAD_HOST),
    REQUEST("GET http://a/ HTTP/1.1\r\n\r\n", H1_BAD_HOST),
    REQUEST("GET http://a/ HTTP/1.1\r\nHost: b/c\r\n\r\n", H1_BAD_HOST),
    REQUEST("GET http://a/ HTTP/1.1\r\n" HOST "Host: b\r\n\r\n", H1_BAD_HOST),
    REQUEST("OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n", H1_BAD_HOST),
    /* Content-Length */
    REQUEST(POST "Content-Length:\r\n\r\n", H1_BAD_CONTENT_LENGTH),
    REQUEST(POST "Content-Length: a\r\n\r\n", H1_BAD_CONTENT_LENGTH),
    REQUEST(POST "Content-Length: +5\r\n\r\nhello", H1_BAD_CONTENT_LENGTH),
    REQUEST(POST "Content-Length: -5\r\n\r\nhello", H1_BAD_CONTENT_LENGTH),
    REQUEST(POST "Content-Length: 0x5\r\n\r\nhello", H1_BAD_CONTENT_LENGTH),
    REQUEST(POST "Content-Length: 5 \t5\r\n\r\nhello", H1_BAD_CONTENT_LENGTH),
    REQUEST(POST "Content-Length: 5.0\r\n\r\nhello", H1_BAD_CONTENT_LENGTH),
    REQUEST(POST "Content-Length: 5, 5\r\n\r\nhello", H1_BAD_CONTENT_LENGTH),
    REQUEST(POST "Content-Length: 5,\r\n\r\nhello", H1_BAD_CONTENT_LENGTH),
    REQUEST(POST "Content-Length: 5;\r\n\r\nhello", H1_BAD_CONTENT_LENGTH),
    REQUEST(POST "Content-Length: \"5\"\r\n\r\nhello", H1_BAD_CONTENT_LENGTH),
    REQUEST(POST "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", H1_BAD_CONTENT_LENGTH),
    REQUEST(POST "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", H1_BAD_CONTENT_LENGTH),
    REQUEST(POST "Content-Length: 5\r\ncontent-length: 5\r\n\r\nhello", H1_BAD_CONTENT_LENGTH),
    REQUEST(POST "Content-Length: 18446744073709551616\r\n\r\n", H1_BAD_CONTENT_LENGTH),
    REQUEST(POST "Content-Length: 99999999999999999999999\r\n\r\n", H1_BAD_CONTENT_LENGTH),
    REQUEST(POST "Content-Length: \xd9\xa5\r\n\r\n", H1_BAD_CONTENT_LENGTH),
    /* Transfer-Encoding */
    REQUEST(POST "Transfer-Encoding:\r\n\r\n", H1_BAD_TRANSFER_ENCODING),
    REQUEST(POST "Transfer-Encoding: identity\r\n\r\n", H1_BAD_TRANSFER_ENCODING),
    REQUEST(POST "Transfer-Encoding: gzip\r\n\r\n", H1_BAD_TRANSFER_ENCODING),
    REQUEST(POST "Transfer-Encoding: gzip, chunked\r\n\r\n", H1_BAD_TRANSFER_ENCODING),
    REQUEST(POST "Transfer-Encoding: chunked, gzip\r\n\r\n", H1_BAD_TRANSFER_ENCODING),
    REQUEST(POST "Transfer-Encoding: chunked, chunked\r\n\r\n", H1_BAD_TRANSFER_ENCODING),
    REQUEST(POST "Transfer-Encoding: chunked, identity\r\n\r\n", H1_BAD_TRANSFER_ENCODING),
    REQUEST(POST "Transfer-Encoding: , chunked\r\n\r\n", H1_BAD_TRANSFER_ENCODING),
    REQUEST(POST "Transfer-Encoding: chunked,\r\n\r\n", H1_BAD_TRANSFER_ENCODING),
    REQUEST(POST "Transfer-Encoding: chunked;q=1\r\n\r\n", H1_BAD_TRANSFER_ENCODING),
    REQUEST(POST "Transfer-Encoding: xchunked\r\n\r\n", H1_BAD_TRANSFER_ENCODING),
    REQUEST(POST "Transfer-Encoding: chunkedx\r\n\r\n", H1_BAD_TRANSFER_ENCODING),
    REQUEST(POST "Transfer-Encoding: \"chunked\"\r\n\r\n", H1_BAD_TRANSFER_ENCODING),
    REQUEST(POST "Transfer-Encoding: 'chunked'\r\n\r\n", H1_BAD_TRANSFER_ENCODING),
    REQUEST(POST "Transfer-Encoding: chun ked\r\n\r\n", H1_BAD_TRANSFER_ENCODING),
    REQUEST(POST "Transfer-Encoding: \xa0"
                 "chunked\r\n\r\n",
        H1_BAD_TRANSFER_ENCODING),
    REQUEST(
        POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", H1_BAD_TRANSFER_ENCODING),
    REQUEST(
        POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n", H1_BAD_TRANSFER_ENCODING),
    REQUEST(POST "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n", H1_BAD_TRANSFER_ENCODING),
    REQUEST(POST "Transfer-Encoding: \x0b"
                 "chunked\r\n\r\n",
        H1_BAD_HEADER_VALUE),
    REQUEST("POST / HTTP/1.0\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n", H1_BAD_TRANSFER_ENCODING),
    REQUEST(POST "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", H1_LENGTH_AND_ENCODING),
    REQUEST(POST "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", H1_LENGTH_AND_ENCODING),
    REQUEST(POST "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n", H1_LENGTH_AND_ENCODING),
    REQUEST(POST "Transfer-Encoding: x\r\nContent-Length: 5\r\n\r\n", H1_LENGTH_AND_ENCODING),
    REQUEST(
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", H1_LENGTH_AND_ENCODING),
    /* Expect and Upgrade */
    REQUEST(POST "Content-Length: 5\r\nExpect: 200-ok\r\n\r\n", H1_BAD_EXPECT),
    REQUEST(POST "Content-Length: 5\r\nExpect: 100-continue, x\r\n\r\n", H1_BAD_EXPECT),
    REQUEST(POST "Content-Length: 5\r\nExpect:\r\n\r\n", H1_BAD_EXPECT),
    REQUEST(GET "Expect: x\r\n\r\n", H1_BAD_EXPECT),
    REQUEST(POST "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\n", H1_BAD_UPGRADE),
    REQUEST(POST "Connection: upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n",
        H1_BAD_UPGRADE),
    REQUEST("TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", H1_BAD_TRACE),
    REQUEST("TRACE / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", H1_BAD_TRACE),
};

static struct text whole, split;
static struct h1_parser parser;
static struct arena arena;

static void
refuses_malformed_requests_in_every_split(void **state)
{
    (void)state;
    struct h1_run run = {0};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        const struct request_case *test = &refused[i];
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

/* Parses `input` whole and every split, and leaves the head in `parser`. */
static const struct h1_head *
accept_request(struct slice input)
{
    struct h1_run run = {0};
    size_t used = 0;
    assert_int_equal(h1_run_cuts(&run, input, &input.len, 1, &whole), H1_DONE);
    assert_int_equal(h1_run_differs(&run, input, &whole, &split), 0);
    arena_reset(&arena);
    h1_request_init(&parser, &arena, &usual_limits);
    assert_int_equal(h1_parse_head(&parser, input, &used), H1_DONE);
    return &parser.head;
}

#define ACCEPT(lit)          accept_request(SLICE_LIT(lit))
#define assert_slice(s, lit) assert_true(slice_equal(s, SLICE_LIT(lit)))

static void
reads_an_ordinary_request(void **state)
{
    (void)state;
    const struct h1_head *head =
        ACCEPT("GET /a/b?c=d&e HTTP/1.1\r\nHost: example.com:8080\r\nUser-Agent:\t x y \t\r\n"
               "Accept:*/*\r\nX-Empty:\r\n\r\n");
    assert_slice(head->method_text, "GET");
    assert_int_equal(head->method, METHOD_GET);
    assert_int_equal(head->form, TARGET_ORIGIN);
    assert_slice(head->target, "/a/b?c=d&e");
    assert_slice(head->path, "/a/b");
    assert_slice(head->query, "c=d&e");
    assert_true(head->has_query);
    assert_slice(head->authority, "example.com:8080");
    assert_int_equal(head->minor, 1);
    assert_true(head->keep_alive);
    assert_int_equal(head->body, BODY_NONE);
    assert_int_equal(head->headers.count, 4);
    assert_slice(headers_find(&head->headers, HEADER_USER_AGENT)->value, "x y");
    assert_slice(headers_find(&head->headers, HEADER_ACCEPT)->value, "*/*");
    assert_slice(headers_find_name(&head->headers, SLICE_LIT("x-empty"))->value, "");
}

static void
leaves_the_body_and_the_next_request_unread(void **state)
{
    (void)state;
    size_t used = 0;
    struct slice input = SLICE_LIT("\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET /");
    h1_request_init(&parser, &arena, &usual_limits);
    assert_int_equal(h1_parse_head(&parser, input, &used), H1_DONE);
    assert_int_equal(used, input.len - 10);
    assert_int_equal(parser.head.body, BODY_LENGTH);
    assert_int_equal(parser.head.length, 5);
    assert_int_equal(h1_parse_head(&parser, input, &used), H1_DONE); /* asked again, it says the same */
    assert_int_equal(used, input.len - 10);
}

static void
tells_the_forms_of_the_target(void **state)
{
    (void)state;
    const struct h1_head *head = ACCEPT("GET hTTp://b.example:81/x?y HTTP/1.1\r\n" HOST "\r\n");
    assert_int_equal(head->form, TARGET_ABSOLUTE);
    assert_slice(head->authority, "b.example:81");
    assert_slice(head->path, "/x");
    assert_slice(head->query, "y");
    head = ACCEPT("GET https://b?y HTTP/1.1\r\n" HOST "\r\n");
    assert_slice(head->path, "/");
    assert_slice(head->query, "y");
    head = ACCEPT("GET http://b: HTTP/1.1\r\n" HOST "\r\n");
    assert_slice(head->authority, "b");
    head = ACCEPT("OPTIONS * HTTP/1.1\r\n" HOST "\r\n");
    assert_int_equal(head->form, TARGET_ASTERISK);
    head = ACCEPT("OPTIONS http://b HTTP/1.1\r\n" HOST "\r\n");
    assert_int_equal(head->form, TARGET_ASTERISK);
    assert_slice(head->authority, "b");
    assert_slice(head->path, "*");
    head = ACCEPT("OPTIONS http://b/ HTTP/1.1\r\n" HOST "\r\n");
    assert_int_equal(head->form, TARGET_ABSOLUTE);
    head = ACCEPT("CONNECT b:443 HTTP/1.1\r\n" HOST "\r\n");
    assert_int_equal(head->form, TARGET_AUTHORITY);
    assert_slice(head->authority, "b:443");
    assert_false(head->keep_alive);
    head = ACCEPT("GET //a//b? HTTP/1.1\r\n" HOST "\r\n");
    assert_slice(head->path, "//a//b");
    assert_true(head->has_query);
    assert_int_equal(head->query.len, 0);
}

static void
reads_every_valid_host(void **state)
{
    (void)state;
    assert_slice(ACCEPT("GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n")->authority, "[2001:db8::1]:80");
    assert_slice(ACCEPT("GET / HTTP/1.1\r\nHost: a_b.c\r\n\r\n")->authority, "a_b.c");
    assert_slice(ACCEPT("GET / HTTP/1.1\r\nHost: 127.0.0.1:\r\n\r\n")->authority, "127.0.0.1");
    assert_slice(ACCEPT("GET / HTTP/1.0\r\nHost: a\r\n\r\n")->authority, "a");
    assert_int_equal(ACCEPT("GET / HTTP/1.0\r\nHost:\r\n\r\n")->authority.len, 0);
    assert_int_equal(ACCEPT("GET / HTTP/1.0\r\n\r\n")->authority.len, 0);
}

static void
decides_whether_the_connection_stays(void **state)
{
    (void)state;
    assert_false(ACCEPT(GET "Connection: close\r\n\r\n")->keep_alive);
    assert_false(ACCEPT(GET "Connection: foo, CLOSE ,\r\n\r\n")->keep_alive);
    assert_false(ACCEPT(GET "Connection: keep-alive\r\nConnection: close\r\n\r\n")->keep_alive);
    assert_true(ACCEPT(GET "Connection: closed\r\n\r\n")->keep_alive);
    assert_false(ACCEPT("GET / HTTP/1.0\r\n\r\n")->keep_alive);
    assert_true(ACCEPT("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")->keep_alive);
    assert_false(ACCEPT("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n")->keep_alive);
    assert_true(ACCEPT("GET / HTTP/1.9\r\n" HOST "\r\n")->keep_alive); /* RFC 9110 2.5: spoken to as 1.1 */
}

static void
decides_framing_expectation_and_upgrade(void **state)
{
    (void)state;
    const struct h1_head *head = ACCEPT(POST "Transfer-Encoding: CHUNKED\r\n\r\n");
    assert_int_equal(head->body, BODY_CHUNKED);
    head = ACCEPT(POST "Content-Length: 0005\r\nExpect: 100-Continue\r\n\r\nhello");
    assert_int_equal(head->length, 5);
    assert_true(head->expect_continue);
    assert_int_equal(ACCEPT(POST "Content-Length: 9223372036854775807\r\n\r\n")->length, INT64_MAX);
    assert_false(ACCEPT(GET "Expect: 100-continue\r\n\r\n")->expect_continue);
    head = ACCEPT("POST / HTTP/1.0\r\nContent-Length: 1\r\nExpect: x\r\n\r\n");
    assert_false(head->expect_continue);
    assert_null(
        headers_find(&head->headers, HEADER_EXPECT)); /* it would mean something in the 1.1 that leaves */
    head = ACCEPT(GET "Connection: keep-alive, Upgrade\r\nUpgrade: h2c, WebSocket\r\n\r\n");
    assert_true(head->upgrade);
    assert_slice(head->upgrade_protocol, "WebSocket");
    head = ACCEPT(GET "Connection: upgrade\r\nUpgrade: h2c/1, H2, HTTP/2.0, a b, /x, x/, x/1\r\n\r\n");
    assert_slice(head->upgrade_protocol, "x/1");
    assert_false(ACCEPT(GET "Connection: upgrade\r\nUpgrade: H2C/2\r\n\r\n")->upgrade);
    assert_true(
        ACCEPT(POST "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n")->upgrade);
    assert_false(
        ACCEPT(GET "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n")
            ->upgrade);
    assert_false(ACCEPT(GET "Connection: upgrade\r\nUpgrade: H2C\r\n\r\n")->upgrade);
    assert_false(ACCEPT(POST "Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 1\r\n\r\n")->upgrade);
    assert_false(ACCEPT(GET "Upgrade: websocket\r\n\r\n")->upgrade);
    assert_false(ACCEPT(GET "Connection: upgrade\r\n\r\n")->upgrade);
    assert_false(ACCEPT("GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")->upgrade);
}

static void
leaves_out_names_with_underscores_unless_asked_for(void **state)
{
    (void)state;
    struct h1_limits limits = usual_limits;
    struct slice input = SLICE_LIT(GET "X_Real_IP: 1\r\nContent_Length: 5\r\nX-A: 2\r\n\r\n");
    size_t used;
    assert_int_equal(accept_request(input)->headers.count, 2);
    limits.underscores = true;
    h1_request_init(&parser, &arena, &limits);
    assert_int_equal(h1_parse_head(&parser, input, &used), H1_DONE);
    assert_int_equal(parser.head.headers.count, 4);
    assert_int_equal(parser.head.body, BODY_NONE);
}

static void
check_limit(const struct h1_limits *limits, struct slice input, enum h1_error error)
{
    struct h1_run run = {.limits = limits};
    (void)h1_run_cuts(&run, input, &input.len, 1, &whole);
    assert_int_equal(text_error(&whole), error);
    assert_int_equal(h1_run_differs(&run, input, &whole, &split), 0);
}

static void
holds_the_limits_by_bytes_and_not_by_pieces(void **state)
{
    (void)state;
    struct slice line = SLICE_LIT("GET /0123456789 HTTP/1.1\r\n" HOST "\r\n"); /* 26 + 9 + 2 */
    struct slice many = SLICE_LIT(GET "A: 1\r\nB: 2\r\nC: 3\r\n\r\n");
    struct slice endless =
        SLICE_LIT("GET /00000000000000000000000000000000000000000000000000000000000000000000000000000"
                  "0000000000000000000000000000000000000000000000000000000000000000");
    struct slice folded = SLICE_LIT(GET "A: 00000000000000000000000000000000000000000000000000000000000000");
    check_limit(&(struct h1_limits){37, 100, 11, 0, false}, line, H1_OK);
    check_limit(&(struct h1_limits){36, 100, 11, 0, false}, line, H1_HEADERS_TOO_LARGE);
    check_limit(&(struct h1_limits){37, 100, 10, 0, false}, line, H1_URI_TOO_LONG);
    check_limit(&(struct h1_limits){4096, 4, 10, 0, false}, many, H1_OK);
    check_limit(&(struct h1_limits){4096, 3, 10, 0, false}, many, H1_HEADERS_TOO_LARGE);
    check_limit(&(struct h1_limits){4096, 3, 10, 0, false}, endless, H1_URI_TOO_LONG);
    check_limit(&(struct h1_limits){64, 3, 8192, 0, false}, endless, H1_HEADERS_TOO_LARGE);
    check_limit(&(struct h1_limits){64, 3, 8192, 0, false}, folded, H1_HEADERS_TOO_LARGE);
    check_limit(&(struct h1_limits){4096, 9, 99, 4, false}, SLICE_LIT(POST "Content-Length: 5\r\n\r\n"),
        H1_BODY_TOO_LARGE);
    check_limit(
        &(struct h1_limits){4096, 9, 99, 5, false}, SLICE_LIT(POST "Content-Length: 5\r\n\r\n"), H1_OK);
    char options[512];
    size_t len = (size_t)sprintf(options, GET "Connection: ");
    for (int i = 0; i < 101; i++)
        len += (size_t)sprintf(options + len, "a,");
    len += (size_t)sprintf(options + len, "\r\n\r\n");
    check_limit(&usual_limits, (struct slice){options, len}, H1_HEADERS_TOO_LARGE);
    for (uint32_t bytes = 0; bytes < 80; bytes++) {
        for (uint32_t uri = 0; uri < 20; uri++) {
            struct h1_limits limits = {bytes, 100, uri, 0, false};
            struct h1_run run = {.limits = &limits};
            (void)h1_run_cuts(&run, line, &line.len, 1, &whole);
            assert_int_equal(h1_run_differs(&run, line, &whole, &split), 0);
            (void)h1_run_cuts(&run, endless, &endless.len, 1, &whole);
            assert_int_equal(h1_run_differs(&run, endless, &whole, &split), 0);
        }
    }
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
        cmocka_unit_test(refuses_malformed_requests_in_every_split),
        cmocka_unit_test(reads_an_ordinary_request),
        cmocka_unit_test(leaves_the_body_and_the_next_request_unread),
        cmocka_unit_test(tells_the_forms_of_the_target),
        cmocka_unit_test(reads_every_valid_host),
        cmocka_unit_test(decides_whether_the_connection_stays),
        cmocka_unit_test(decides_framing_expectation_and_upgrade),
        cmocka_unit_test(leaves_out_names_with_underscores_unless_asked_for),
        cmocka_unit_test(holds_the_limits_by_bytes_and_not_by_pieces),
    };
    return cmocka_run_group_tests(tests, NULL, fini);
}
