#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/http/header.h"
#include "core/http/reason.h"
#include "core/http/scan_internal.h"

static struct arena arena;

#define assert_slice(s, lit) assert_true(slice_equal(s, SLICE_LIT(lit)))

static void
add(struct headers *headers, const char *name, const char *value)
{
    struct slice text = slice_of(name);
    assert_true(headers_add(headers, &arena, header_identify(text), text, slice_of(value)));
}

static void
knows_every_known_name_in_every_case_and_no_other(void **state)
{
    (void)state;
    for (unsigned id = HEADER_OTHER + 1; id < HEADER_ID_COUNT; id++) {
        struct slice name = header_name((enum header_id)id);
        char copy[64];
        assert_int_equal(header_identify(name), id);
        for (size_t i = 0; i < name.len; i++)
            copy[i] = (char)(name.at[i] >= 'a' ? name.at[i] - 32 : name.at[i]);
        assert_int_equal(header_identify((struct slice){copy, name.len}), id);
        for (size_t i = 0; i < name.len; i++) { /* one other byte, at any place, is another name */
            memcpy(copy, name.at, name.len);
            for (unsigned c = 0; c < 256; c++) {
                copy[i] = (char)c;
                bool same = slice_equal_nocase((struct slice){copy, name.len}, name);
                enum header_id found = header_identify((struct slice){copy, name.len});
                if (same) assert_int_equal(found, id);
                if (!same) assert_int_not_equal(found, id);
            }
        }
        assert_int_equal(header_identify((struct slice){name.at, name.len - 1}) == id, 0);
    }
    assert_int_equal(header_identify(SLICE_NONE), HEADER_OTHER);
    assert_int_equal(header_identify(SLICE_LIT("x")), HEADER_OTHER);
    assert_int_equal(header_identify(SLICE_LIT("x-unknown-header-that-is-long")), HEADER_OTHER);
}

static void
finds_rows_by_number_and_by_name(void **state)
{
    (void)state;
    struct headers headers = {0};
    add(&headers, "X-A", "1");
    add(&headers, "Via", "2");
    add(&headers, "x-a", "3");
    add(&headers, "VIA", "4");
    struct header *row = headers_find_name(&headers, SLICE_LIT("x-A"));
    assert_slice(row->value, "1");
    row = headers_next(&headers, row);
    assert_slice(row->value, "3");
    assert_null(headers_next(&headers, row));
    row = headers_find(&headers, HEADER_VIA);
    assert_slice(row->value, "2");
    assert_slice(headers_next(&headers, row)->value, "4");
    row->flags |= HEADER_F_DROP;
    assert_slice(headers_find(&headers, HEADER_VIA)->value, "4");
    headers_drop(&headers, HEADER_VIA);
    assert_null(headers_find(&headers, HEADER_VIA));
    assert_null(headers_find(&headers, HEADER_HOST));
    assert_null(headers_find_name(&headers, SLICE_LIT("x-b")));
    headers_drop(&headers, HEADER_HOST);
}

static void
grows_past_the_first_rows(void **state)
{
    (void)state;
    struct headers headers = {0};
    static const char digits[] = "0123456789";
    for (int i = 0; i < 200; i++) {
        struct slice value = {digits + i % 10, 1};
        assert_true(headers_add(&headers, &arena, HEADER_OTHER, SLICE_LIT("x"), value));
    }
    assert_int_equal(headers.count, 200);
    for (int i = 0; i < 200; i++)
        assert_int_equal(headers.rows[i].value.at[0], '0' + i % 10);
}

static void
reads_comma_lists(void **state)
{
    (void)state;
    struct slice rest = SLICE_LIT(" ,a ,\tb c,, ,d"), token;
    assert_true(header_list_next(&rest, &token));
    assert_slice(token, "a");
    assert_true(header_list_next(&rest, &token));
    assert_slice(token, "b c");
    assert_true(header_list_next(&rest, &token));
    assert_slice(token, "d");
    assert_false(header_list_next(&rest, &token));
    assert_true(header_list_has(SLICE_LIT("a, Close"), SLICE_LIT("close")));
    assert_false(header_list_has(SLICE_LIT("a, closed"), SLICE_LIT("close")));
    assert_false(header_list_has(SLICE_NONE, SLICE_LIT("close")));
}

static void
reads_cookies_from_all_rows(void **state)
{
    (void)state;
    struct headers headers = {0};
    struct slice value;
    add(&headers, "Cookie", "a=1; b = \"2\" ;c;=x; SESSIONID=abc=; a=9");
    add(&headers, "cookie", ";;d=4;sessionid=low;e=");
    static const char *const pairs[][2] = {
        {"a", "1"}, {"b", "\"2\""}, {"SESSIONID", "abc="}, {"d", "4"}, {"sessionid", "low"}, {"e", ""}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        assert_true(headers_cookie(&headers, slice_of(pairs[i][0]), &value));
        assert_true(slice_equal(value, slice_of(pairs[i][1])));
    }
    assert_true(headers_cookie_at(&headers, SLICE_LIT("a"), 1, &value));
    assert_true(slice_equal(value, SLICE_LIT("9")));
    add(&headers, "Cookie", "x=y; a=last");
    assert_true(headers_cookie_at(&headers, SLICE_LIT("a"), 2, &value));
    assert_true(slice_equal(value, SLICE_LIT("last")));
    assert_false(headers_cookie_at(&headers, SLICE_LIT("a"), 3, &value));
    assert_false(headers_cookie(&headers, SLICE_LIT("c"), &value));
    assert_false(headers_cookie(&headers, SLICE_LIT(""), &value));
    assert_false(headers_cookie(&headers, SLICE_LIT("A"), &value));
    assert_false(headers_cookie(&(struct headers){0}, SLICE_LIT("a"), &value));
}

static bool
is_any_of(unsigned c, const char *set)
{
    return c != 0 && c < 0x80 && strchr(set, (int)c) != NULL;
}

static void
classes_bytes_as_the_grammar_does(void **state)
{
    (void)state;
    for (unsigned c = 0; c < 256; c++) {
        bool digit = c >= '0' && c <= '9', letter = (c | 32) >= 'a' && (c | 32) <= 'z' && c < 0x80;
        char byte = (char)c;
        assert_int_equal(byte_is(byte, BYTE_DIGIT), digit);
        assert_int_equal(byte_is(byte, BYTE_TOKEN), digit || letter || is_any_of(c, "!#$%&'*+-.^_`|~"));
        assert_int_equal(byte_is(byte, BYTE_TEXT), c == '\t' || (c >= ' ' && c != 0x7f));
        assert_int_equal(byte_is(byte, BYTE_TARGET), c > ' ' && c < 0x7f && c != '#');
        assert_int_equal(byte_is(byte, BYTE_PLAIN), digit || letter || is_any_of(c, "-._~"));
        assert_int_equal(byte_is(byte, BYTE_HOST), digit || letter || is_any_of(c, "-._~!$&'()*+;="));
        bool hex = digit || ((c | 32) >= 'a' && (c | 32) <= 'f' && c < 0x80);
        assert_int_equal(byte_hex[c] < 16, hex);
    }
}

static void
finds_the_odd_byte_at_every_place(void **state)
{
    (void)state;
    for (size_t len = 0; len < 50; len++) {
        for (size_t at = 0; at < len; at++) {
            for (unsigned c = 0; c < 256; c++) {
                char *text = test_malloc(len);
                memset(text, 'a', len);
                text[at] = (char)c;
                const char *end = text + len;
                assert_ptr_equal(scan_token(text, end), byte_is((char)c, BYTE_TOKEN) ? end : text + at);
                assert_ptr_equal(scan_text(text, end), byte_is((char)c, BYTE_TEXT) ? end : text + at);
                assert_ptr_equal(scan_target(text, end), byte_is((char)c, BYTE_TARGET) ? end : text + at);
                bool token = byte_is((char)c, BYTE_TOKEN), valid = byte_is((char)c, BYTE_TEXT);
                assert_int_equal(header_name_is_valid((struct slice){text, len}), token);
                assert_int_equal(header_value_is_valid((struct slice){text, len}), valid);
                test_free(text);
            }
        }
    }
    assert_false(header_name_is_valid(SLICE_NONE));
    assert_true(header_value_is_valid(SLICE_NONE));
}

static void
words_every_reason(void **state)
{
    (void)state;
    assert_string_equal(reason_word(REASON_CONNECT_REFUSED), "connect_refused");
    assert_int_equal(reason_status(REASON_CONNECT_TIMEOUT), 504);
    assert_string_equal(reason_sentence(REASON_NO_ROUTE), "no route matches this request");
    assert_string_equal(reason_word((enum reason)9999), "-");
    for (unsigned reason = 1; reason < REASON_COUNT; reason++) {
        assert_true(strlen(reason_word((enum reason)reason)) > 1);
        assert_true(strlen(reason_sentence((enum reason)reason)) > 1);
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
        cmocka_unit_test(knows_every_known_name_in_every_case_and_no_other),
        cmocka_unit_test(finds_rows_by_number_and_by_name),
        cmocka_unit_test(grows_past_the_first_rows),
        cmocka_unit_test(reads_comma_lists),
        cmocka_unit_test(reads_cookies_from_all_rows),
        cmocka_unit_test(classes_bytes_as_the_grammar_does),
        cmocka_unit_test(finds_the_odd_byte_at_every_place),
        cmocka_unit_test(words_every_reason),
    };
    return cmocka_run_group_tests(tests, NULL, fini);
}
