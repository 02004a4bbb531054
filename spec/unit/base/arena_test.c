#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/base/arena.h"

enum { LENT = 1024, ROUNDS = 4 };

static bool
lies_in(const void *memory, const char *start, size_t bytes)
{
    return (uintptr_t)memory - (uintptr_t)start < bytes;
}

static void
what_is_lent_is_used_first_and_never_freed(void **state)
{
    struct arena arena;
    char *lent = aligned_alloc(64, LENT);
    (void)state;
    assert_non_null(lent);
    arena_init(&arena, 0);
    arena_lend(&arena, lent, LENT);
    for (int i = 0; i < ROUNDS; i++) {
        char *first = arena_alloc(&arena, 100), *large = arena_alloc(&arena, 100000);
        assert_true(lies_in(first, lent, LENT));
        assert_false(lies_in(large, lent, LENT));
        memset(first, 1, 100);
        memset(large, 1, 100000);
        char *last = NULL;
        for (int n = 0; n < 100; n++) { /* past the lent chunk into ordinary ones */
            last = arena_alloc(&arena, 100);
            assert_non_null(last);
            memset(last, 1, 100);
        }
        assert_false(lies_in(last, lent, LENT));
        assert_true(arena.total_bytes > 100000);
        arena_reset(&arena);
        assert_true(arena.total_bytes < LENT);
    }
    (void)!arena_alloc(&arena, LENT * 2);
    arena_fini(&arena);
    assert_int_equal(arena.total_bytes, 0);
    free(lent);
}

static void
a_reset_keeps_one_ordinary_chunk(void **state)
{
    struct arena arena;
    (void)state;
    arena_init(&arena, 512);
    char *first = arena_alloc(&arena, 64);
    for (int n = 0; n < 100; n++)
        assert_non_null(arena_alloc(&arena, 64));
    assert_non_null(first);
    arena_reset(&arena);
    assert_int_equal(arena.total_bytes, 512);
    assert_non_null(arena_alloc(&arena, 512));
    assert_int_equal(arena.total_bytes, 512);
    arena_fini(&arena);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_lent_is_used_first_and_never_freed),
        cmocka_unit_test(a_reset_keeps_one_ordinary_chunk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
