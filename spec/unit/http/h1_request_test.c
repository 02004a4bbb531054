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
};

static struct text whole, split;

static void
check_splits(const struct h1_run *run, struct slice input, int line)
{
    for (size_t cut = 0; cut <= input.len; cut++) {
        size_t cuts[] = {cut, input.len};
        (void)h1_run_cuts(run, input, cuts, 2, &split);
        if (!text_equal(&whole, &split)) fail_msg("line %d: split at %zu differs from the whole", line, cut);
    }
    size_t *each = malloc((input.len + 1) * sizeof *each);
    assert_non_null(each);
    for (size_t i = 0; i <= input.len; i++)
        each[i] = i;
    (void)h1_run_cuts(run, input, each, input.len + 1, &split);
    free(each);
    if (!text_equal(&whole, &split)) fail_msg("line %d: byte by byte differs from the whole", line);
}

/* The error's number stands in the second line of the text. */
static unsigned
text_error(const struct text *text)
{
    const char *at = strstr(text->at, "error=");
    return at == NULL ? 0 : (unsigned)strtoul(at + 6, NULL, 10);
}

static void
refuses_malformed_requests_in_every_split(void **state)
{
    (void)state;
    struct h1_run run = {0};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        const struct request_case *test = &refused[i];
        enum h1_result result = h1_run_cuts(&run, test->input, &test->input.len, 1, &whole);
        if (result != H1_BAD) fail_msg("line %d: result %d, not refused", test->line, (int)result);
        unsigned error = text_error(&whole);
        if (error != test->error) {
            fail_msg("line %d: \"%s\" where \"%s\" is due", test->line, h1_error_text((enum h1_error)error),
                h1_error_text(test->error));
        }
        check_splits(&run, test->input, test->line);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_malformed_requests_in_every_split),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
