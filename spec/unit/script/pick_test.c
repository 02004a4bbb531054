#include "spec/unit/script/support.h"

static void
gives_each_equal_backend_exactly_its_share_across_two_workers(void **state)
{
    struct fixture f;
    (void)state;
    fixture_init(&f);
    uint32_t slots[3] = {fixture_endpoint(&f, 0, "x", SLOT_HEALTHY, 1),
        fixture_endpoint(&f, 0, "y", SLOT_HEALTHY, 1), fixture_endpoint(&f, 0, "z", SLOT_HEALTHY, 1)};
    fixture_load(&f);
    struct script *first = f.script;
    fixture_load(&f);
    struct script *both[2] = {first, f.script};
    int counts[3] = {0};
    for (int i = 0; i < 300; i++) {
        f.script = both[i * 7 % 10 < 4];
        uint32_t slot = fixture_pick(&f, 0);
        for (int j = 0; j < 3; j++)
            counts[j] += slot == slots[j];
    }
    assert_int_equal(counts[0], 100);
    assert_int_equal(counts[1], 100);
    assert_int_equal(counts[2], 100);
    script_free(first);
    f.script = both[1];
    fixture_fini(&f);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gives_each_equal_backend_exactly_its_share_across_two_workers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
