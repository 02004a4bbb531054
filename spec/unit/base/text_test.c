/* core/base/text.c, strbuf.c, arena.c: numbers and names in text, and the memory they stand in. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/base/arena.h"
#include "core/base/diag.h"
#include "core/base/strbuf.h"
#include "core/base/text.h"

static void
reads_plain_decimals_alone(void **state)
{
    uint64_t n = 1;
    (void)state;
    assert_true(text_parse_u64(SLICE_LIT("18446744073709551615"), UINT64_MAX, &n));
    assert_true(n == UINT64_MAX);
    const char *bad[] = {"", "-1", "+1", " 1", "1 ", "0x1", "18446744073709551616", "1e3", "\xd9\xa1"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(text_parse_u64(slice_of(bad[i]), UINT64_MAX, &n));
    assert_false(text_parse_u64(SLICE_LIT("101"), 100, &n));
    assert_true(n == UINT64_MAX); /* untouched */
}

static void
reads_go_durations(void **state)
{
    const struct {
        const char *text;
        uint64_t us;
    } good[] = {{"0", 0}, {"0s", 0}, {"500ms", 500000}, {"1m30s", 90000000}, {"1.5h", 5400000000},
        {"250us", 250}, {"1h0m1s", 3601000000}, {"2h0m12.345678s", 7212345678}};
    const char *bad[] = {"", "5", "s", "5 s", "-1s", "1.s", ".5s", "1d", "99999999999999999h", "1s1"};
    char text[32];
    uint64_t us, again;
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_true(text_parse_duration(slice_of(good[i].text), &us));
        assert_true(us == good[i].us);
        text_format_duration(us, text);
        assert_true(text_parse_duration(slice_of(text), &again));
        assert_true(again == us);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(text_parse_duration(slice_of(bad[i]), &us));
}

static void
reads_sizes(void **state)
{
    uint64_t bytes;
    (void)state;
    assert_true(text_parse_size(SLICE_LIT("32k"), &bytes) && bytes == 32768);
    assert_true(text_parse_size(SLICE_LIT("8MiB"), &bytes) && bytes == 8u << 20);
    assert_true(text_parse_size(SLICE_LIT("7"), &bytes) && bytes == 7);
    assert_false(text_parse_size(SLICE_LIT("k"), &bytes));
    assert_false(text_parse_size(SLICE_LIT("1.5k"), &bytes));
    assert_false(text_parse_size(SLICE_LIT("99999999999g"), &bytes));
}

static void
finds_the_name_that_was_meant(void **state)
{
    const char *const names[] = {"round_robin", "least_connections", "sticky_sessions", NULL};
    (void)state;
    assert_string_equal(text_nearest(SLICE_LIT("round_robbin"), names), "round_robin");
    assert_string_equal(text_nearest(SLICE_LIT("leastconections"), names), "least_connections");
    assert_null(text_nearest(SLICE_LIT("zzz"), names));
    assert_null(text_nearest(SLICE_NONE, names));
}

static void
knows_utf8(void **state)
{
    (void)state;
    assert_true(text_is_utf8(SLICE_LIT("a\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80")));
    assert_false(text_is_utf8(SLICE_LIT("\xc0\x80")));     /* overlong */
    assert_false(text_is_utf8(SLICE_LIT("\xed\xa0\x80"))); /* surrogate */
    assert_false(text_is_utf8(SLICE_LIT("\xf4\x90\x80\x80")));
    assert_false(text_is_utf8(SLICE_LIT("\xe2\x82")));
}

static void
writes_json_that_no_byte_breaks(void **state)
{
    struct strbuf buf = {0};
    (void)state;
    strbuf_add_json(&buf, SLICE_LIT("a\"\\\n\x01\xff\xc3\xa4"));
    assert_string_equal(buf.at, "\"a\\\"\\\\\\n\\u0001\xef\xbf\xbd\xc3\xa4\"");
    strbuf_fini(&buf);
}

static void
gives_memory_back_at_reset(void **state)
{
    struct arena arena;
    (void)state;
    arena_init(&arena, 256);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 100; i++) {
            char *p = arena_alloc(&arena, (size_t)i * 7 + 1);
            assert_non_null(p);
            assert_true((uintptr_t)p % 16 == 0);
            memset(p, i, (size_t)i * 7 + 1);
        }
        assert_non_null(arena_alloc(&arena, 100000));
        arena_reset(&arena);
        assert_int_equal(arena.total_bytes, 256);
    }
    assert_null(arena_alloc(&arena, SIZE_MAX));
    arena_fini(&arena);
    assert_int_equal(arena.total_bytes, 0);
}

static void
says_where_and_what_was_meant(void **state)
{
    struct diags diags = {0};
    (void)state;
    diag_add(&diags, DIAG_ERROR, (struct place){"f.yaml", 3, 7}, "port", "unknown key '%s'", "prot");
    assert_string_equal(diags.rows[0].text, "f.yaml:3:7: error: unknown key 'prot'; did you mean 'port'?");
    assert_false(diags_ok(&diags));
    diags_fini(&diags);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_plain_decimals_alone),
        cmocka_unit_test(reads_go_durations),
        cmocka_unit_test(reads_sizes),
        cmocka_unit_test(finds_the_name_that_was_meant),
        cmocka_unit_test(knows_utf8),
        cmocka_unit_test(writes_json_that_no_byte_breaks),
        cmocka_unit_test(gives_memory_back_at_reset),
        cmocka_unit_test(says_where_and_what_was_meant),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
