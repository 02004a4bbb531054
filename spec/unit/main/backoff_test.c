/* core/main/backoff.c: when a child that ended is started again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/main/backoff.h"

enum { SECOND = 1000000, NOW = 1000 * SECOND };

/* How long the pause is after a life of `life_us`. */
static uint64_t
pause_after(struct backoff *backoff, uint64_t life_us)
{
    backoff_start(backoff, NOW);
    backoff_died(backoff, NOW + life_us);
    return backoff->due_us - (NOW + life_us);
}

static void
pauses_longer_with_each_quick_death(void **state)
{
    static const uint64_t pauses_ms[] = {0, 50, 100, 200, 400, 800, 1600, 3200, 3200, 3200};
    struct backoff backoff = {0};
    (void)state;
    for (size_t i = 0; i < sizeof pauses_ms / sizeof pauses_ms[0]; i++)
        assert_int_equal(pause_after(&backoff, 1000), pauses_ms[i] * 1000);
    assert_int_equal(pause_after(&backoff, SECOND), 0); /* it had lived long enough */
    assert_int_equal(pause_after(&backoff, 1000), 0);
}

static void
forgets_quick_deaths_once_it_serves(void **state)
{
    struct backoff backoff = {0};
    (void)state;
    for (int i = 0; i < 5; i++)
        (void)pause_after(&backoff, 1000);
    backoff_start(&backoff, NOW);
    backoff_serves(&backoff);
    backoff_died(&backoff, NOW + 1000);
    assert_int_equal(backoff.due_us, NOW + 1000);
}

static void
waits_before_it_tries_again_what_could_not_be_started(void **state)
{
    struct backoff backoff = {0};
    (void)state;
    backoff_start(&backoff, NOW);
    assert_int_equal(backoff.due_us, NOW + 5 * SECOND);
}

static void
has_no_pause_for_what_ended_as_told(void **state)
{
    struct backoff backoff = {0};
    (void)state;
    for (int i = 0; i < 5; i++)
        (void)pause_after(&backoff, 1000);
    backoff_start(&backoff, NOW);
    backoff_clear(&backoff);
    assert_true(backoff.due_us <= NOW);
    assert_int_equal(pause_after(&backoff, 1000), 0); /* nor do the deaths before it count */
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pauses_longer_with_each_quick_death),
        cmocka_unit_test(forgets_quick_deaths_once_it_serves),
        cmocka_unit_test(waits_before_it_tries_again_what_could_not_be_started),
        cmocka_unit_test(has_no_pause_for_what_ended_as_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
