#include "spec/unit/proxy/rig.h"

enum { MANY = KEEP_SMALL + 100 };

static struct buf *taken[MANY];

static void
take_and_give_many(struct buf_pool *pool)
{
    for (unsigned i = 0; i < MANY; i++) {
        taken[i] = buf_take(pool, 1);
        assert_non_null(taken[i]);
        assert_int_equal((uintptr_t)taken[i]->bytes % 16, 0);
        memset(taken[i]->bytes, (int)i, taken[i]->cap);
    }
    for (unsigned i = 0; i < MANY; i++) {
        assert_int_equal((unsigned char)taken[i]->bytes[taken[i]->cap - 1], i & 0xff);
        buf_give(pool, &taken[i]);
        assert_null(taken[i]);
    }
    assert_true(pool->small_count <= KEEP_SMALL);
}

static void
more_buffers_than_are_kept_go_and_come(void **state)
{
    struct slab slab = {0};
    struct buf_pool pool = {.slab = &slab}, bare = {0};
    (void)state;
    for (int round = 0; round < 3; round++) {
        take_and_give_many(&pool);
        take_and_give_many(&bare);
    }
    struct buf *large = buf_take(&pool, BUF_SMALL), *odd = buf_take(&pool, BUF_LARGE);
    buf_give(&pool, &large);
    buf_give(&pool, &odd);
    assert_int_equal(pool.large_count, 1);
    buf_pool_fini(&pool);
    buf_pool_fini(&bare);
    slab_fini(&slab);
}

static void
the_last_given_is_the_first_taken(void **state)
{
    struct slab slab = {0};
    struct buf_pool pool = {.slab = &slab};
    struct buf *first = buf_take(&pool, 1), *second = buf_take(&pool, 1), *was = first;
    (void)state;
    buf_give(&pool, &second);
    buf_give(&pool, &first);
    first = buf_take(&pool, 1);
    assert_ptr_equal(first, was);
    buf_give(&pool, &first);
    buf_pool_fini(&pool);
    slab_fini(&slab);
}

static void
a_slab_ends(void **state)
{
    struct slab slab = {0};
    size_t count = 0;
    (void)state;
    for (char *before = NULL, *at; (at = slab_take(&slab, 1 << 20)) != NULL; before = at, count++) {
        assert_true(slab_owns(&slab, at));
        assert_int_equal((uintptr_t)at % 64, 0);
        if (before != NULL) assert_true(at >= before + (1 << 20));
    }
    assert_true(count < 1000);
    assert_false(slab_owns(&slab, &slab));
    slab_fini(&slab);
    assert_false(slab_owns(NULL, &slab));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(more_buffers_than_are_kept_go_and_come),
        cmocka_unit_test(the_last_given_is_the_first_taken),
        cmocka_unit_test(a_slab_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
