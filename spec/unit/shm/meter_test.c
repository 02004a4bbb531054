#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/shm/meter.h"

static struct shm *shm;
static struct meter_sample samples[METER_CELLS];

static int
open_segment(void **state)
{
    (void)state;
    shm = shm_create(&(struct shm_params){.max_endpoints = 16});
    return shm == NULL ? -1 : 0;
}

static int
close_segment(void **state)
{
    (void)state;
    shm_destroy(shm);
    return 0;
}

static uint32_t
define(enum meter_kind kind, const char *name, const char *label)
{
    struct meter_definition definition = {.kind = kind, .name = slice_of(name), .help = SLICE_LIT("Help.")};
    if (label != NULL) definition.labels[definition.label_count++] = slice_of(label);
    return meter_define(shm, &definition);
}

static void
count(uint32_t meter, const char *value, double n, bool expect_other)
{
    bool is_other;
    struct slice values[1] = {slice_of(value)};
    _Atomic uint64_t *series = meter_series(shm, meter, values, value != NULL, &is_other);
    assert_non_null(series);
    assert_int_equal(is_other, expect_other);
    meter_add(series, n);
}

/* The sum of the series of `value`, -1 where there is none. */
static double
sum_of(uint32_t meter, const char *value)
{
    size_t n = meter_samples(shm, samples, METER_CELLS);
    for (size_t i = 0; i < n; i++) {
        struct slice values = samples[i].values;
        if (samples[i].meter == meter && slice_equal(meter_value(&values), slice_of(value)))
            return samples[i].value;
    }
    return -1;
}

static void
one_definition_is_one_metric(void **state)
{
    (void)state;
    uint32_t a = define(METER_COUNTER, "a", "x"), b = define(METER_COUNTER, "b", NULL);
    assert_int_not_equal(a, METER_NONE);
    assert_int_not_equal(a, b);
    assert_int_equal(define(METER_COUNTER, "a", "x"), a);
    count(a, "1", 2, false);
    count(a, "2", 0.5, false);
    count(a, "1", 3, false);
    count(b, NULL, 7, false);
    assert_true(sum_of(a, "1") == 5);
    assert_true(sum_of(a, "2") == 0.5);
    assert_true(sum_of(b, NULL) == 7);
    bool is_other;
    assert_null(meter_series(shm, b, &SLICE_LIT("x"), 1, &is_other));
    assert_null(meter_series(shm, a, NULL, 0, &is_other));
    assert_null(meter_series(shm, METER_NONE, NULL, 0, &is_other));
}

static void
the_definition_that_came_last_is_the_one_that_is_shown(void **state)
{
    (void)state;
    struct meter_definition shown;
    uint32_t old = define(METER_COUNTER, "a", "x"), new = define(METER_GAUGE, "a", "y");
    assert_int_not_equal(old, new);
    count(old, "1", 1, false);
    assert_true(sum_of(old, "1") == -1);
    assert_false(meter_at(shm, old, &shown));
    assert_true(meter_at(shm, new, &shown));
    assert_int_equal(shown.kind, METER_GAUGE);
    assert_true(slice_equal(shown.labels[0], SLICE_LIT("y")));
    assert_int_equal(define(METER_COUNTER, "a", "x"), old); /* a reload back */
    assert_false(meter_at(shm, new, &shown));
    assert_true(sum_of(old, "1") == 1);
}

static void
series_and_metrics_are_bounded(void **state)
{
    (void)state;
    char text[600];
    uint32_t a = define(METER_COUNTER, "a", "x"), b = define(METER_COUNTER, "b", "x");
    for (int i = 0; i < METER_SERIES_MAX + 500; i++) {
        snprintf(text, sizeof(text), "value-%d", i);
        count(a, text, 1, i >= METER_SERIES_MAX);
    }
    assert_true(sum_of(a, "other") == 500);
    assert_true(sum_of(a, "value-7") == 1);
    count(a, "value-7", 1, false); /* what there is goes on */
    memset(text, 'x', sizeof(text));
    text[METER_VALUES_BYTES - 1] = '\0';
    count(b, text, 3, true);
    assert_true(sum_of(b, "other") == 3);
    text[METER_VALUES_BYTES - 2] = '\0';
    count(b, text, 4, false);
    assert_true(sum_of(b, text) == 4);
    for (int i = 2; i < METERS_MAX; i++) {
        snprintf(text, sizeof(text), "metric_%d", i);
        assert_int_not_equal(define(METER_COUNTER, text, NULL), METER_NONE);
    }
    assert_int_equal(define(METER_COUNTER, "one_too_many", NULL), METER_NONE);
    assert_int_equal(define(METER_COUNTER, "a", "x"), a);
}

static void
texts_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    char text[300];
    memset(text, 'x', sizeof(text));
    text[METER_NAME_BYTES] = '\0';
    assert_int_equal(define(METER_COUNTER, text, NULL), METER_NONE);
    assert_int_equal(define(METER_COUNTER, "", NULL), METER_NONE);
    assert_int_equal(define(METER_COUNTER, "a", ""), METER_NONE);
    text[METER_LABEL_NAME_BYTES] = '\0';
    assert_int_equal(define(METER_COUNTER, "a", text), METER_NONE);
    text[METER_LABEL_NAME_BYTES - 1] = '\0';
    assert_int_not_equal(define(METER_COUNTER, "a", text), METER_NONE);
}

/* Values that would run together if they were only put one behind the other. */
static void
values_keep_apart(void **state)
{
    (void)state;
    bool is_other;
    struct meter_definition definition = {.kind = METER_GAUGE,
        .name = SLICE_LIT("a"),
        .labels = {SLICE_LIT("x"), SLICE_LIT("y")},
        .label_count = 2};
    uint32_t meter = meter_define(shm, &definition);
    struct slice left[2] = {SLICE_LIT("ab"), SLICE_LIT("c")}, right[2] = {SLICE_LIT("a"), SLICE_LIT("bc")};
    _Atomic uint64_t *one = meter_series(shm, meter, left, 2, &is_other);
    _Atomic uint64_t *two = meter_series(shm, meter, right, 2, &is_other);
    assert_non_null(one);
    assert_non_null(two);
    assert_ptr_not_equal(one, two);
    meter_set(one, 4);
    meter_set(one, -1.25);
    assert_int_equal(meter_samples(shm, samples, METER_CELLS), 2);
    assert_true(samples[0].value + samples[1].value == -1.25);
}

static void
add_up(uint32_t meter, bool for_ever)
{
    char text[32];
    for (unsigned i = 0; for_ever || i < 20000; i++) {
        snprintf(text, sizeof(text), "%u", i % 50);
        struct slice values[1] = {slice_of(text)};
        bool is_other;
        _Atomic uint64_t *series = meter_series(shm, meter, values, 1, &is_other);
        if (series == NULL || is_other) _exit(1);
        meter_add(series, 0.5);
    }
}

static pid_t
fork_adder(uint32_t meter, bool for_ever)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid != 0) return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    add_up(meter, for_ever);
    _exit(0);
}

static void
sums_are_exact_over_processes(void **state)
{
    (void)state;
    uint32_t meter = define(METER_COUNTER, "a", "x");
    pid_t pids[4];
    double sum = 0;
    int status;
    for (int i = 0; i < 4; i++)
        pids[i] = fork_adder(meter, false);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_int_equal(status, 0);
    }
    assert_int_equal(meter_samples(shm, samples, METER_CELLS), 50);
    for (int i = 0; i < 50; i++)
        sum += samples[i].value;
    assert_true(sum == 40000);
}

static void
a_process_killed_while_it_makes_series_harms_none(void **state)
{
    (void)state;
    char name[32];
    for (unsigned round = 0; round < 100; round++) {
        int status;
        snprintf(name, sizeof(name), "a%u", round);
        uint32_t meter = define(METER_COUNTER, name, "x");
        pid_t pid = fork_adder(meter, true);
        for (unsigned spins = 0; spins < round * 50; spins++)
            count(meter, "7", 0, false);
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        count(meter, "7", 0.25, false);
        double sum = sum_of(meter, "7");
        assert_true(sum >= 0.25 && sum * 2 - 0.5 == (double)(long)(sum * 2 - 0.5));
    }
}

static uint32_t
define_histogram(const char *name, size_t bound_count, double first)
{
    struct meter_definition definition = {.kind = METER_HISTOGRAM,
        .name = slice_of(name),
        .help = SLICE_LIT("Help."),
        .labels = {SLICE_LIT("x")},
        .label_count = 1,
        .bound_count = bound_count};
    for (size_t i = 0; i < bound_count && i < METER_BOUNDS; i++)
        definition.bounds[i] = first + (double)i;
    return meter_define(shm, &definition);
}

static bool
is_shown(uint32_t meter)
{
    struct meter_definition definition;
    return meter_at(shm, meter, &definition);
}

static void
one_histogram_has_one_list_of_bounds_and_its_lines_are_nobody_elses(void **state)
{
    (void)state;
    bool is_other;
    uint32_t a = define_histogram("a", 3, 1), gauge = define(METER_GAUGE, "a_total", NULL);
    assert_int_equal(define_histogram("a", 3, 1), a);
    assert_null(meter_series(shm, a, &SLICE_LIT("v"), 1, &is_other));
    struct meter_histogram histogram;
    assert_false(meter_histogram(shm, gauge, NULL, 0, &histogram, &is_other));
    assert_false(meter_histogram(shm, a, NULL, 0, &histogram, &is_other));
    uint32_t count_of_a = define(METER_COUNTER, "a_count", NULL);
    assert_true(is_shown(count_of_a) && is_shown(gauge) && !is_shown(a));
    uint32_t more = define_histogram("a", 4, 1), moved = define_histogram("a", 4, 2);
    assert_true(more != a && moved != a && moved != more);
    assert_true(is_shown(moved) && is_shown(gauge) && !is_shown(more) && !is_shown(count_of_a));
    assert_int_equal(define_histogram("b", METER_BOUNDS + 1, 1), METER_NONE);
    assert_int_not_equal(define_histogram("b", METER_BOUNDS, 1), METER_NONE);
}

/* Its bounds are series: those of one set of values have all room or none. */
static void
a_histogram_with_too_many_values_counts_in_other(void **state)
{
    (void)state;
    bool is_other = false;
    uint32_t meter = define_histogram("wide", 8, 1), own = 0;
    struct meter_histogram histogram, again;
    for (int i = 0; i < 200; i++) {
        char text[8];
        snprintf(text, sizeof text, "%d", i);
        struct slice value = slice_of(text);
        assert_true(meter_histogram(shm, meter, &value, 1, &histogram, &is_other));
        assert_true(meter_histogram(shm, meter, &value, 1, &again, &is_other));
        assert_ptr_equal(histogram.parts[9], again.parts[9]);
        own += !is_other;
        meter_observe(&histogram, i);
    }
    assert_true(is_other);
    assert_int_equal(own, METER_SERIES_MAX / 10);
    double count = 0;
    size_t n = meter_samples(shm, samples, METER_CELLS);
    for (size_t i = 0; i < n; i++)
        if (samples[i].meter == meter && meter_part(&samples[i]) <= 8) count += samples[i].value;
    assert_true(count == 200);
    struct slice long_one = {(char[METER_VALUES_BYTES]){0}, METER_VALUES_BYTES - 3};
    assert_true(meter_histogram(shm, meter, &long_one, 1, &histogram, &is_other));
    assert_true(is_other);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_segment, close_segment)
    const struct CMUnitTest tests[] = {
        TEST(one_definition_is_one_metric),
        TEST(one_histogram_has_one_list_of_bounds_and_its_lines_are_nobody_elses),
        TEST(a_histogram_with_too_many_values_counts_in_other),
        TEST(the_definition_that_came_last_is_the_one_that_is_shown),
        TEST(series_and_metrics_are_bounded),
        TEST(texts_that_do_not_fit_are_refused),
        TEST(values_keep_apart),
        TEST(sums_are_exact_over_processes),
        TEST(a_process_killed_while_it_makes_series_harms_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
