#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "spec/unit/http/h1_support.h"

static struct text whole, split;

/* Decodes input in pieces of `step` bytes behind a first one of `first`, from buffers of the exact size. */
static enum h1_result
decode(struct slice input, size_t first, size_t step, uint64_t limit, struct text *text)
{
    struct arena arena = {0};
    struct h1_chunked chunked = {0};
    enum h1_result result = H1_AGAIN;
    size_t at = 0, end = first < input.len ? first : input.len;
    char body[4096];
    struct slice decoded = {body, 0};
    for (;;) {
        char *piece = malloc(end - at == 0 ? 1 : end - at);
        assert_non_null(piece);
        memcpy(piece, input.at + at, end - at);
        struct slice in = {piece, end - at};
        while (result == H1_AGAIN) {
            struct slice data;
            size_t used = 0;
            result = h1_chunked_read(&chunked, &arena, limit, in, &data, &used);
            if (result == H1_BAD) break;
            assert_true(decoded.len + data.len <= sizeof body);
            if (data.len > 0) memcpy(body + decoded.len, data.at, data.len);
            decoded.len += data.len;
            at += used;
            in = (struct slice){in.at + used, in.len - used};
            if (result == H1_AGAIN && data.len == 0) {
                assert_int_equal(in.len, 0);
                break;
            }
        }
        free(piece);
        if (result != H1_AGAIN || end == input.len) break;
        end = end + step < input.len ? end + step : input.len;
    }
    text->len = 0;
    text_add_number(text, "result", (uint64_t)result);
    text_add_number(text, "error", (uint64_t)chunked.error);
    if (result != H1_BAD) text_add(text, "data", decoded);
    if (result == H1_DONE) {
        text_add_number(text, "used", at);
        text_add_number(text, "total", chunked.total);
        text_add(text, "trailers", chunked.trailers);
    }
    arena_fini(&arena);
    return result;
}

static enum h1_result
decode_all_ways(struct slice input, uint64_t limit, int line)
{
    enum h1_result result = decode(input, input.len, 1, limit, &whole);
    for (size_t cut = 0; cut <= input.len; cut++) {
        (void)decode(input, cut, input.len, limit, &split);
        if (!text_equal(&whole, &split)) fail_msg("line %d: split at %zu differs from the whole", line, cut);
    }
    for (size_t step = 1; step < 4; step++) {
        (void)decode(input, step, step, limit, &split);
        if (!text_equal(&whole, &split)) fail_msg("line %d: pieces of %zu differ from the whole", line, step);
    }
    return result;
}

struct chunked_case {
    struct slice input;
    enum h1_error error;
    int line;
};
#define CHUNKED(lit, error)                                                                                  \
    {                                                                                                        \
        SLICE_LIT(lit), error, __LINE__                                                                      \
    }
#define X64 "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"

static const struct chunked_case refused[] = {
    CHUNKED("\r\n", H1_BAD_CHUNK),
    CHUNKED("\n", H1_BAD_CHUNK),
    CHUNKED("g\r\n", H1_BAD_CHUNK),
    CHUNKED("-1\r\n", H1_BAD_CHUNK),
    CHUNKED("+1\r\na\r\n0\r\n\r\n", H1_BAD_CHUNK),
    CHUNKED("0x1\r\na\r\n0\r\n\r\n", H1_BAD_CHUNK),
    CHUNKED(" 1\r\na\r\n0\r\n\r\n", H1_BAD_CHUNK),
    CHUNKED("1 \r\na\r\n0\r\n\r\n", H1_BAD_CHUNK),
    CHUNKED("1\t\r\na\r\n0\r\n\r\n", H1_BAD_CHUNK),
    CHUNKED("1_0\r\n", H1_BAD_CHUNK),
    CHUNKED("1.\r\n", H1_BAD_CHUNK),
    CHUNKED("1,1\r\n", H1_BAD_CHUNK),
    CHUNKED("1\0\r\n", H1_BAD_CHUNK),
    CHUNKED("\xef\xbc\x91\r\na", H1_BAD_CHUNK),
    CHUNKED("00000000000000001\r\na\r\n", H1_BAD_CHUNK),
    CHUNKED("10000000000000000\r\n", H1_BAD_CHUNK),
    CHUNKED("1\r\na\r\nffffffffffffffff\r\n", H1_BAD_CHUNK),
    CHUNKED("8000000000000000\r\n", H1_BAD_CHUNK),
    CHUNKED("1\r\na\r\n7fffffffffffffff\r\n", H1_BAD_CHUNK),
    CHUNKED("1\na\r\n0\r\n\r\n", H1_BARE_LF),
    CHUNKED("1\ra\r\n0\r\n\r\n", H1_BARE_CR),
    CHUNKED("1\r\r\na\r\n", H1_BARE_CR),
    CHUNKED("1\r\nab\r\n0\r\n\r\n", H1_BAD_CHUNK),
    CHUNKED("2\r\na\r\n0\r\n\r\n", H1_BARE_LF),
    CHUNKED("1\r\na\n0\r\n\r\n", H1_BARE_LF),
    CHUNKED("1\r\na\r0\r\n\r\n", H1_BARE_CR),
    CHUNKED("1\r\na0\r\n\r\n", H1_BAD_CHUNK),
    CHUNKED("1\r\na\r\n\r\n0\r\n\r\n", H1_BAD_CHUNK),
    CHUNKED("0\n\r\n", H1_BARE_LF),
    CHUNKED("0\r\n\n", H1_BARE_LF),
    CHUNKED("0\r\n\rx", H1_BARE_CR),
    CHUNKED("1;\r\na\r\n0\r\n\r\n", H1_BAD_CHUNK),
    CHUNKED("1;a\nb\r\na\r\n0\r\n\r\n", H1_BARE_LF),
    CHUNKED("1;a=\"\nb\"\r\na\r\n0\r\n\r\n", H1_BARE_LF),
    CHUNKED("1;a=\"\r\nb\"\r\na\r\n0\r\n\r\n", H1_BAD_CHUNK),
    CHUNKED("1;a=\"\\\nb\"\r\na\r\n", H1_BARE_LF),
    CHUNKED("1;a\rb\r\na\r\n0\r\n\r\n", H1_BARE_CR),
    CHUNKED("1;=a\r\na\r\n", H1_BAD_CHUNK),
    CHUNKED("1;a=\r\na\r\n", H1_BAD_CHUNK),
    CHUNKED("1;a=b c\r\na\r\n", H1_BAD_CHUNK),
    CHUNKED("1;a b\r\na\r\n", H1_BAD_CHUNK),
    CHUNKED("1;a \r\na\r\n", H1_BAD_CHUNK),
    CHUNKED("1;a=\"b\"c\r\na\r\n", H1_BAD_CHUNK),
    CHUNKED("1;a\0\r\na\r\n", H1_BAD_CHUNK),
    CHUNKED("1;\x80\r\na\r\n", H1_BAD_CHUNK),
    CHUNKED("1 a\r\na\r\n", H1_BAD_CHUNK),
    CHUNKED("1;" X64 X64 X64 X64 "\r\na\r\n", H1_BAD_CHUNK),
    CHUNKED("0\r\nA\r\n\r\n", H1_BAD_TRAILER),
    CHUNKED("0\r\n: b\r\n\r\n", H1_BAD_TRAILER),
    CHUNKED("0\r\nA : b\r\n\r\n", H1_BAD_TRAILER),
    CHUNKED("0\r\nA: b\r\n c\r\n\r\n", H1_BAD_TRAILER),
    CHUNKED("0\r\n A: b\r\n\r\n", H1_BAD_TRAILER),
    CHUNKED("0\r\nA: \0\r\n\r\n", H1_BAD_TRAILER),
    CHUNKED("0\r\nA: b\nB: c\r\n\r\n", H1_BARE_LF),
    CHUNKED("0\r\nA: b\rB: c\r\n\r\n", H1_BARE_CR),
    CHUNKED("0\r\nGET / HTTP/1.1\r\n\r\n", H1_BAD_TRAILER),
};

static void
refuses_broken_framing_in_every_split(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        const struct chunked_case *test = &refused[i];
        enum h1_result result = decode_all_ways(test->input, 0, test->line);
        if (result != H1_BAD) fail_msg("line %d: result %d, not refused", test->line, (int)result);
        if (text_error(&whole) != test->error) {
            fail_msg("line %d: \"%s\" where \"%s\" is due", test->line, h1_error_text(text_error(&whole)),
                h1_error_text(test->error));
        }
    }
}

static void
check_body(struct slice input, struct slice body, size_t rest, struct slice trailers)
{
    struct text expected = {.len = 0};
    assert_int_equal(decode_all_ways(input, 0, 0), H1_DONE);
    text_add_number(&expected, "result", H1_DONE);
    text_add_number(&expected, "error", H1_OK);
    text_add(&expected, "data", body);
    text_add_number(&expected, "used", input.len - rest);
    text_add_number(&expected, "total", body.len);
    text_add(&expected, "trailers", trailers);
    assert_true(text_equal(&whole, &expected));
}

static void
decodes_every_valid_form(void **state)
{
    (void)state;
    check_body(SLICE_LIT("0\r\n\r\n"), SLICE_LIT(""), 0, SLICE_LIT(""));
    check_body(SLICE_LIT("5\r\nhello\r\n0\r\n\r\nGET /"), SLICE_LIT("hello"), 5, SLICE_LIT(""));
    check_body(
        SLICE_LIT("000A\r\n0123456789\r\n1\r\nx\r\n000\r\n\r\n"), SLICE_LIT("0123456789x"), 0, SLICE_LIT(""));
    check_body(SLICE_LIT("2\r\n\r\n\r\n0\r\n\r\n"), SLICE_LIT("\r\n"), 0, SLICE_LIT(""));
    check_body(SLICE_LIT("1;a\r\nx\r\n1 ; a = b;c=\"d\\\"\xff;\";e\r\ny\r\n0;z=\"\"\r\n\r\n"),
        SLICE_LIT("xy"), 0, SLICE_LIT(""));
    check_body(
        SLICE_LIT("1\r\nx\r\n0\r\nA: b\r\nC:\r\n\r\nrest"), SLICE_LIT("x"), 4, SLICE_LIT("A: b\r\nC:\r\n"));
}

static void
bounds_body_extensions_and_trailers(void **state)
{
    (void)state;
    struct slice body = SLICE_LIT("3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n");
    assert_int_equal(decode_all_ways(body, 6, __LINE__), H1_DONE);
    assert_int_equal(decode_all_ways(body, 5, __LINE__), H1_BAD);
    assert_int_equal(text_error(&whole), H1_BODY_TOO_LARGE);

    static char input[32 * 1024];
    size_t len = 0;
    for (int i = 0; i < 200; i++)
        len += (size_t)sprintf(input + len, "1;%s%s\r\nx\r\n", X64, X64);
    assert_int_equal(decode((struct slice){input, len}, len, 1, 0, &whole), H1_BAD);
    assert_int_equal(text_error(&whole), H1_BAD_CHUNK);
    len = 0; /* extensions that their data pays for may go on for ever */
    for (int i = 0; i < 20; i++)
        len += (size_t)sprintf(input + len, "80;%s\r\n%s%s\r\n", X64, X64, X64);
    assert_int_equal(decode((struct slice){input, len}, len, 1, 0, &whole), H1_AGAIN);
    len = (size_t)sprintf(input, "0\r\n");
    for (int i = 0; i < 200; i++)
        len += (size_t)sprintf(input + len, "A: %s\r\n", X64);
    len += (size_t)sprintf(input + len, "\r\n");
    assert_int_equal(decode((struct slice){input, len}, len, 1, 0, &whole), H1_BAD);
    assert_int_equal(text_error(&whole), H1_HEADERS_TOO_LARGE);
}

static void
lets_only_harmless_trailers_through(void **state)
{
    (void)state;
    struct arena arena = {0};
    struct headers out = {0};
    struct slice lines =
        SLICE_LIT("Content-Length: 5\r\nX-Sum: 1\r\nTransfer-Encoding: chunked\r\nHost: b\r\n"
                  "Authorization: x\r\nIf-Match: y\r\ngrpc-status: 0\r\nSet-Cookie: a=b\r\n"
                  "content_length: 3\r\nX-Forwarded-For: 1\r\nContent-Range: z\r\nConnection: close\r\n");
    assert_true(h1_parse_trailers(lines, &arena, &out));
    assert_int_equal(out.count, 2);
    assert_true(slice_equal(out.rows[0].name, SLICE_LIT("X-Sum")));
    assert_int_equal(out.rows[1].id, HEADER_GRPC_STATUS);
    assert_true(h1_parse_trailers(SLICE_NONE, &arena, &out));
    assert_false(h1_parse_trailers(SLICE_LIT("A b\r\n"), &arena, &out));
    assert_false(h1_parse_trailers(SLICE_LIT("A: b"), &arena, &out));
    assert_false(h1_parse_trailers(SLICE_LIT("A: b\r\n\r\nC: d\r\n"), &arena, &out));
    arena_fini(&arena);
}

static void
writes_chunk_sizes(void **state)
{
    (void)state;
    static const uint64_t sizes[] = {
        1, 9, 15, 16, 255, 256, 4096, 65535, 65536, UINT32_MAX, UINT64_MAX, 1ull << 63};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char out[20], expected[24];
        size_t len = h1_chunk_head(sizes[i], out);
        int n = snprintf(expected, sizeof expected, "%llx\r\n", (unsigned long long)sizes[i]);
        assert_int_equal(len, n);
        assert_memory_equal(out, expected, len);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_broken_framing_in_every_split),
        cmocka_unit_test(decodes_every_valid_form),
        cmocka_unit_test(bounds_body_extensions_and_trailers),
        cmocka_unit_test(lets_only_harmless_trailers_through),
        cmocka_unit_test(writes_chunk_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
