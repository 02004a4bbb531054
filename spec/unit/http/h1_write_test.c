#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "spec/unit/http/h1_support.h"

static struct arena arena;
static char out[65536];

static void
add(struct headers *headers, const char *name, struct slice value)
{
    struct slice text = slice_of(name);
    assert_true(headers_add(headers, &arena, header_identify(text), text, value));
}

static void
check(size_t len, const char *expected)
{
    if (!slice_equal((struct slice){out, len}, slice_of(expected))) fail_msg("%.*s", (int)len, out);
}

static void
writes_requests_in_one_form(void **state)
{
    (void)state;
    struct headers headers = {0};
    add(&headers, "Host", SLICE_LIT("old"));
    add(&headers, "x-CASE", SLICE_LIT("1 2"));
    add(&headers, "Content-Length", SLICE_LIT("99"));
    add(&headers, "transfer-encoding", SLICE_LIT("chunked"));
    add(&headers, "Connection", SLICE_LIT("keep-alive"));
    add(&headers, "Upgrade", SLICE_LIT("h2c"));
    add(&headers, "HTTP2-Settings", SLICE_LIT("x"));
    add(&headers, "Accept", SLICE_LIT(""));
    add(&headers, "X-Dropped", SLICE_LIT("1"));
    headers.rows[headers.count - 1].flags = HEADER_F_DROP;
    struct h1_out message = {.method = SLICE_LIT("POST"),
        .target = SLICE_LIT("/a?b"),
        .headers = &headers,
        .body = BODY_LENGTH,
        .length = 18446744073709551615u};
    struct slice host = SLICE_LIT("new:80");
    check(h1_write_request(&message, host, out, sizeof out),
        "POST /a?b HTTP/1.1\r\nHost: new:80\r\nx-CASE: 1 2\r\nAccept: \r\nContent-Length: "
        "18446744073709551615\r\n\r\n");
    message.body = BODY_CHUNKED;
    message.connection = SLICE_LIT("close");
    check(h1_write_request(&message, host, out, sizeof out),
        "POST /a?b HTTP/1.1\r\nHost: new:80\r\nx-CASE: 1 2\r\nAccept: \r\nTransfer-Encoding: chunked\r\n"
        "Connection: close\r\n\r\n");
    message.body = BODY_NONE;
    message.connection = SLICE_LIT("upgrade");
    message.upgrade = SLICE_LIT("websocket");
    check(h1_write_request(&message, host, out, sizeof out),
        "POST /a?b HTTP/1.1\r\nHost: new:80\r\nx-CASE: 1 2\r\nAccept: \r\nConnection: upgrade\r\n"
        "Upgrade: websocket\r\n\r\n");
    check(h1_write_request(
              &(struct h1_out){.method = SLICE_LIT("GET"), .target = SLICE_LIT("/")}, SLICE_NONE, out, 64),
        "GET / HTTP/1.1\r\nHost: \r\n\r\n");
}

static void
writes_responses_in_one_form(void **state)
{
    (void)state;
    struct headers headers = {0};
    add(&headers, "Content-Length", SLICE_LIT("7"));
    add(&headers, "Content-Length", SLICE_LIT("8"));
    add(&headers, "Server", SLICE_LIT("x"));
    struct h1_out message = {.status = 200, .headers = &headers, .body = BODY_LENGTH, .length = 5};
    check(h1_write_response(&message, out, sizeof out),
        "HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 5\r\n\r\n");
    message.body = BODY_NONE;
    check(h1_write_response(&message, out, sizeof out),
        "HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 0\r\n\r\n");
    message.no_framing = true;
    check(h1_write_response(&message, out, sizeof out),
        "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nServer: x\r\n\r\n");
    message = (struct h1_out){.status = 204, .body = BODY_LENGTH, .length = 5};
    check(h1_write_response(&message, out, sizeof out), "HTTP/1.1 204 No Content\r\n\r\n");
    message = (struct h1_out){.status = 299, .body = BODY_CLOSE, .connection = SLICE_LIT("close")};
    check(h1_write_response(&message, out, sizeof out), "HTTP/1.1 299 \r\nConnection: close\r\n\r\n");
    message.status = 99;
    assert_int_equal(h1_write_response(&message, out, sizeof out), 0);
    message.status = 1000;
    assert_int_equal(h1_write_response(&message, out, sizeof out), 0);
}

/* Whatever a script puts into a row, no line begins that the writer did not begin. */
static void
never_lets_a_row_split_the_message(void **state)
{
    (void)state;
    struct headers headers = {0};
    add(&headers, "X-A", SLICE_LIT("1\r\nX-Evil: 2"));
    add(&headers, "X-B", SLICE_LIT("1\nX-Evil: 2"));
    add(&headers, "X-C", SLICE_LIT("1\r"));
    add(&headers, "X-D", SLICE_LIT("1\0"));
    add(&headers, "X-E: 1\r\nX-Evil", SLICE_LIT("2"));
    add(&headers, "X F", SLICE_LIT("1"));
    add(&headers, "", SLICE_LIT("1"));
    add(&headers, "X-Good", SLICE_LIT("1"));
    struct h1_out message = {.status = 200,
        .headers = &headers,
        .body = BODY_LENGTH,
        .connection = SLICE_LIT("close\r\nX-Evil: 1")};
    check(h1_write_response(&message, out, sizeof out),
        "HTTP/1.1 200 OK\r\nX-Good: 1\r\nContent-Length: 0\r\n\r\n");
    message = (struct h1_out){.method = SLICE_LIT("GET"), .target = SLICE_LIT("/ HTTP/1.1\r\nX: y")};
    assert_int_equal(h1_write_request(&message, SLICE_LIT("a"), out, sizeof out), 0);
    message.target = SLICE_LIT("/");
    assert_int_equal(h1_write_request(&message, SLICE_LIT("a\r\nX: y"), out, sizeof out), 0);
    message.method = SLICE_LIT("GET /x HTTP/1.1\r\nA:");
    assert_int_equal(h1_write_request(&message, SLICE_LIT("a"), out, sizeof out), 0);
    message.method = SLICE_LIT("GET");
    message.target = SLICE_NONE;
    assert_int_equal(h1_write_request(&message, SLICE_LIT("a"), out, sizeof out), 0);
}

/* The parser's rows are written without a second look; a row that a script made is looked at. */
static void
only_rows_of_the_parser_pass_for_sound(void **state)
{
    static const char text[] = "GET / HTTP/1.1\r\nHost: a\r\nX-One: 1\r\n\r\n";
    struct h1_limits limits = {8192, 100, 4096, 0, false};
    struct h1_parser parser;
    struct headers made = {0};
    size_t used;
    (void)state;
    h1_request_init(&parser, &arena, &limits);
    assert_int_equal(h1_parse_head(&parser, (struct slice){text, sizeof text - 1}, &used), H1_DONE);
    for (uint32_t i = 0; i < parser.head.headers.count; i++)
        assert_int_equal(parser.head.headers.rows[i].flags, HEADER_F_SOUND);
    add(&made, "X-Two", SLICE_LIT("1\r\nX-Three: 3"));
    assert_int_equal(made.rows[0].flags, 0);
    struct h1_out message = {
        .method = SLICE_LIT("GET"), .target = SLICE_LIT("/"), .headers = &made, .no_framing = true};
    check(h1_write_request(&message, SLICE_LIT("a"), out, sizeof out), "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
}

static void
refuses_a_buffer_that_is_too_small(void **state)
{
    (void)state;
    struct headers headers = {0};
    add(&headers, "X-A", SLICE_LIT("1"));
    struct h1_out message = {.method = SLICE_LIT("POST"),
        .target = SLICE_LIT("/"),
        .status = 200,
        .headers = &headers,
        .body = BODY_LENGTH,
        .length = 5,
        .connection = SLICE_LIT("close")};
    size_t request = h1_write_request(&message, SLICE_LIT("a"), out, sizeof out);
    size_t response = h1_write_response(&message, out, sizeof out);
    assert_true(h1_head_bound(&message, SLICE_LIT("a")) >= request);
    assert_true(h1_head_bound(&message, SLICE_NONE) >= response);
    for (size_t cap = 0; cap < request || cap < response; cap++) {
        char *exact = test_malloc(cap == 0 ? 1 : cap);
        assert_int_equal(h1_write_request(&message, SLICE_LIT("a"), exact, cap), cap < request ? 0 : request);
        assert_int_equal(h1_write_response(&message, exact, cap), cap < response ? 0 : response);
        test_free(exact);
    }
}

static void
drops_what_may_not_travel(void **state)
{
    (void)state;
    struct headers headers = {0};
    static const char *const gone[] = {"Connection", "Keep-Alive", "Proxy-Connection", "TE", "Trailer",
        "Transfer-Encoding", "Upgrade", "Proxy-Authenticate", "Proxy-Authorization", "HTTP2-Settings",
        "Content-Length", "X-Hop", "x-HOP", "Cookie"};
    add(&headers, "X-Stays", SLICE_LIT("1"));
    for (size_t i = 0; i < sizeof gone / sizeof *gone; i++) {
        add(&headers, gone[i], i == 0 ? SLICE_LIT("x-hop,, cookie") : SLICE_LIT("1"));
    }
    add(&headers, "Connection", SLICE_LIT("x-late"));
    add(&headers, "X-Late", SLICE_LIT("1"));
    h1_drop_hop_by_hop(&headers);
    for (uint32_t i = 0; i < headers.count; i++)
        assert_int_equal(headers.rows[i].flags & HEADER_F_DROP, i == 0 ? 0 : 1);
}

static size_t
pick_text(unsigned *seed, char *at, const char *const *parts, size_t count)
{
    const char *part = parts[(size_t)rand_r(seed) % count];
    size_t len = strlen(part);
    memcpy(at, part, len);
    return len;
}

#define PICK(parts) len += pick_text(seed, message + len, parts, sizeof(parts) / sizeof *(parts))

static size_t
generate(unsigned *seed, bool is_response, char *message)
{
    static const char *const lines[] = {"GET / HTTP/1.1\r\n", "POST /a//b/../c?d=%zz HTTP/1.1\r\n",
        "HEAD http://x.y:81/p?q HTTP/1.1\r\n", "OPTIONS * HTTP/1.1\r\n", "M-SEARCH /%41%2f HTTP/1.0\r\n",
        "OPTIONS https://b HTTP/1.1\r\n", "PUT http://h: HTTP/1.2\r\n", "DELETE /? HTTP/1.1\r\n",
        "CONNECT a:1 HTTP/1.1\r\n"};
    static const char *const statuses[] = {"HTTP/1.1 200 OK\r\n", "HTTP/1.0 200 fine\r\n", "HTTP/1.1 404\r\n",
        "HTTP/1.1 304 \r\n", "HTTP/1.1 204 x\r\n", "HTTP/1.1 101 x\r\n", "HTTP/1.1 100 x\r\n",
        "HTTP/1.1 599 y\r\n"};
    static const char *const rows[] = {"A: b\r\n", "x-long:  \t spaced out value with words in it \t\r\n",
        "Empty:\r\n", "Connection: close\r\n", "Connection: keep-alive, a\r\n",
        "Connection: Upgrade\r\nUpgrade: h2c, websocket/13\r\n", "Content-Length: 0012\r\n",
        "Transfer-Encoding: Chunked\r\n", "Keep-Alive: timeout=5\r\n", "Set-Cookie: a=b\r\n",
        "Obs: \xff\x80\r\n", "under_score: 1\r\n", "TE: trailers\r\n", "Expect: 100-continue\r\n",
        "Cookie: a=b; c\r\n"};
    static const char *const hosts[] = {"Host: a\r\n", "host: [::1]:80\r\n", "HOST: b.c:\r\n"};
    size_t len = 0;
    if (is_response) {
        PICK(statuses);
    } else {
        PICK(lines);
        PICK(hosts);
    }
    for (int i = rand_r(seed) % 7; i > 0; i--)
        PICK(rows);
    memcpy(message + len, "\r\n", 2);
    return len + 2;
}

/* What travels on is understood as it was meant, and would be written the same again. */
static bool
check_fixed_point(struct slice input, bool is_response, enum method method)
{
    static char again[65536];
    struct h1_parser first, second;
    struct h1_run run = {.is_response = is_response, .request_method = method};
    size_t used;
    arena_reset(&arena);
    h1_run_init(&run, &first, &arena);
    if (h1_parse_head(&first, input, &used) != H1_DONE) return false;
    size_t len = h1_forward(&first, out, sizeof out);
    assert_true(len > 0);
    h1_run_init(&run, &second, &arena);
    assert_int_equal(h1_parse_head(&second, (struct slice){out, len}, &used),
        first.head.authority.len > 0 || is_response ? H1_DONE : H1_BAD);
    if (second.error != H1_OK) return true; /* 1.0 without Host: the gateway names one */
    assert_int_equal(used, len);
    assert_int_equal(second.head.minor, 1);
    assert_int_equal(first.head.body, second.head.body);
    assert_int_equal(first.head.length, second.head.length);
    assert_int_equal(first.head.upgrade, second.head.upgrade);
    assert_true(slice_equal(first.head.authority, second.head.authority));
    assert_true(slice_equal(first.head.path, second.head.path));
    assert_true(slice_equal(first.head.query, second.head.query));
    if (first.head.status != 101 && first.head.form != TARGET_AUTHORITY)
        assert_int_equal(first.head.keep_alive || first.head.upgrade, second.head.keep_alive);
    size_t same = h1_forward(&second, again, sizeof again);
    assert_true(slice_equal((struct slice){out, len}, (struct slice){again, same}));
    return true;
}

static void
parse_write_parse_is_a_fixed_point(void **state)
{
    (void)state;
    static const enum method methods[] = {METHOD_GET, METHOD_HEAD, METHOD_CONNECT};
    char message[2048];
    unsigned seed = 1;
    int done = 0;
    for (int round = 0; round < 30000; round++) {
        bool is_response = round % 2 == 1;
        size_t len = generate(&seed, is_response, message);
        done += check_fixed_point((struct slice){message, len}, is_response, methods[round / 2 % 3]);
    }
    assert_true(done > 10000); /* else the generator makes nothing but refused ones */
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
        cmocka_unit_test(writes_requests_in_one_form),
        cmocka_unit_test(writes_responses_in_one_form),
        cmocka_unit_test(never_lets_a_row_split_the_message),
        cmocka_unit_test(only_rows_of_the_parser_pass_for_sound),
        cmocka_unit_test(refuses_a_buffer_that_is_too_small),
        cmocka_unit_test(drops_what_may_not_travel),
        cmocka_unit_test(parse_write_parse_is_a_fixed_point),
    };
    return cmocka_run_group_tests(tests, NULL, fini);
}
