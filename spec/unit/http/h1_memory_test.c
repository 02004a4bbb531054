#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/base/arena.h"
#include "core/http/h1.h"

/* An arena of its own, linked instead of core/base/arena.c, whose n-th allocation fails. */
static void *blocks[256];
static size_t block_count, allow;

void *
arena_alloc(struct arena *arena, size_t bytes)
{
    (void)arena;
    if (block_count == allow || block_count == sizeof blocks / sizeof *blocks) return NULL;
    return blocks[block_count++] = malloc(bytes);
}

void
arena_reset(struct arena *arena)
{
    (void)arena;
    while (block_count > 0)
        free(blocks[--block_count]);
}

static const struct h1_limits limits = {65536, 1000, 8192, 0, false};
static char input[65536];

static size_t
many_fields(const char *first, const char *last)
{
    size_t len = (size_t)sprintf(input, "%s", first);
    for (int i = 0; i < 200; i++)
        len += (size_t)sprintf(input + len, "X-Field-%d: value of %d\r\n", i, i);
    return len + (size_t)sprintf(input + len, "%s", last);
}

static void
fails_a_head_when_any_allocation_fails(void **state)
{
    (void)state;
    size_t len = many_fields("GET / HTTP/1.1\r\nHost: a\r\n", "\r\n"), used;
    struct arena arena = {0};
    for (allow = 0;; allow++) {
        struct h1_parser parser;
        h1_request_init(&parser, &arena, &limits);
        enum h1_result result = h1_parse_head(&parser, (struct slice){input, len}, &used);
        arena_reset(&arena);
        if (result == H1_DONE) break;
        assert_int_equal(result, H1_BAD);
        assert_int_equal(parser.error, H1_NO_MEMORY);
        assert_int_equal(h1_error_status(parser.error), 503);
        assert_int_equal(
            h1_parse_head(&parser, (struct slice){input, len}, &used), H1_BAD); /* and stays so */
    }
    assert_true(allow >= 4); /* 24 rows, then doubled until 201 fit */
}

static void
fails_trailers_when_any_allocation_fails(void **state)
{
    (void)state;
    size_t len = many_fields("0\r\n", "\r\n");
    struct arena arena = {0};
    for (allow = 0;; allow++) {
        struct h1_chunked chunked = {0};
        struct slice data;
        struct headers out = {0};
        size_t used;
        enum h1_result result =
            h1_chunked_read(&chunked, &arena, 0, (struct slice){input, len}, &data, &used);
        bool parsed = result == H1_DONE && h1_parse_trailers(chunked.trailers, &arena, &out);
        arena_reset(&arena);
        if (parsed) break;
        if (result == H1_BAD) assert_int_equal(chunked.error, H1_NO_MEMORY);
    }
    assert_true(allow >= 8);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fails_a_head_when_any_allocation_fails),
        cmocka_unit_test(fails_trailers_when_any_allocation_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
