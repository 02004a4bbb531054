#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/metrics/stats.h"
#include "core/shm/meter.h"

static void
metrics_of_scripts_are_shown_with_everything_escaped(void **state)
{
    (void)state;
    bool is_other;
    struct strbuf out = {0};
    struct shm *shm =
        shm_create(&(struct shm_params){.max_endpoints = 4, .stats_bytes = stats_region_bytes()});
    assert_non_null(shm);
    struct meter_definition counter = {.kind = METER_COUNTER,
        .name = SLICE_LIT("orders_total"),
        .help = SLICE_LIT("Orders \\ by\nkind."),
        .labels = {SLICE_LIT("kind"), SLICE_LIT("by")},
        .label_count = 2};
    struct meter_definition gauge = {
        .kind = METER_GAUGE, .name = SLICE_LIT("depth"), .help = SLICE_LIT("Depth.")};
    struct meter_definition quiet = {.kind = METER_GAUGE, .name = SLICE_LIT("quiet"), .help = SLICE_LIT("-")};
    uint32_t orders = meter_define(shm, &counter), depth = meter_define(shm, &gauge);
    assert_int_not_equal(meter_define(shm, &quiet), METER_NONE);
    struct slice odd[2] = {SLICE_LIT("a\"b\\c\nd\xff"), SLICE_LIT("")};
    struct slice even[2] = {SLICE_LIT("z"), SLICE_LIT("me")};
    meter_add(meter_series(shm, orders, odd, 2, &is_other), 9007199254740991);
    meter_add(meter_series(shm, orders, even, 2, &is_other), 2.5);
    meter_set(meter_series(shm, depth, NULL, 0, &is_other), -3);
    stats_expose(shm, 1, &out);
    assert_false(out.failed);
    assert_non_null(
        strstr(out.at, "# HELP orders_total Orders \\\\ by\\nkind.\n# TYPE orders_total counter\n"
                       "orders_total{kind=\"z\",by=\"me\"} 2.5\n"
                       "orders_total{kind=\"a\\\"b\\\\c\\nd\xef\xbf\xbd\",by=\"\"} 9007199254740991\n"
                       "# HELP depth Depth.\n# TYPE depth gauge\ndepth -3\n"
                       "# HELP quiet -\n# TYPE quiet gauge\n"));
    strbuf_fini(&out);
    shm_destroy(shm);
}

static void
a_value_is_shown_with_the_fewest_digits_that_read_back(void **state)
{
    static const struct {
        double value;
        const char *text;
    } rows[] = {{0.1, "depth 0.1\n"}, {0.95, "depth 0.95\n"}, {1e-7, "depth 1e-07\n"},
        {0.1 + 0.2, "depth 0.30000000000000004\n"}, {1.0 / 3, "depth 0.3333333333333333\n"}};
    (void)state;
    bool is_other;
    struct shm *shm =
        shm_create(&(struct shm_params){.max_endpoints = 4, .stats_bytes = stats_region_bytes()});
    assert_non_null(shm);
    struct meter_definition gauge = {
        .kind = METER_GAUGE, .name = SLICE_LIT("depth"), .help = SLICE_LIT("Depth.")};
    uint32_t depth = meter_define(shm, &gauge);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct strbuf out = {0};
        meter_set(meter_series(shm, depth, NULL, 0, &is_other), rows[i].value);
        stats_expose(shm, 1, &out);
        assert_false(out.failed);
        assert_non_null(strstr(out.at, rows[i].text));
        strbuf_fini(&out);
    }
    shm_destroy(shm);
}

static void
a_histogram_is_shown_in_buckets_that_sum_up(void **state)
{
    (void)state;
    struct meter_histogram seconds, sizes;
    bool is_other;
    struct strbuf out = {0};
    struct shm *shm =
        shm_create(&(struct shm_params){.max_endpoints = 4, .stats_bytes = stats_region_bytes()});
    assert_non_null(shm);
    struct meter_definition definition = {.kind = METER_HISTOGRAM,
        .name = SLICE_LIT("seconds"),
        .help = SLICE_LIT("Seconds."),
        .labels = {SLICE_LIT("kind")},
        .label_count = 1,
        .bounds = {0.1, 1, 2.5},
        .bound_count = 3};
    struct meter_definition plain = {.kind = METER_HISTOGRAM,
        .name = SLICE_LIT("sizes"),
        .help = SLICE_LIT("Sizes."),
        .bounds = {10},
        .bound_count = 1};
    struct slice values[2] = {SLICE_LIT("a\"b"), SLICE_LIT("z")};
    uint32_t meter = meter_define(shm, &definition), other = meter_define(shm, &plain);
    assert_true(meter_histogram(shm, meter, &values[0], 1, &seconds, &is_other));
    for (int i = 0; i < 4; i++)
        meter_observe(&seconds, (double[]){0.1, 0.5, 3, 0.05}[i]);
    assert_true(meter_histogram(shm, meter, &values[1], 1, &seconds, &is_other));
    assert_false(is_other);
    meter_observe(&seconds, 2.5);
    assert_true(meter_histogram(shm, other, NULL, 0, &sizes, &is_other));
    meter_observe(&sizes, 11);
    stats_expose(shm, 1, &out);
    assert_false(out.failed);
    assert_non_null(strstr(out.at,
        "# HELP seconds Seconds.\n# TYPE seconds histogram\n"
        "seconds_bucket{kind=\"z\",le=\"0.1\"} 0\nseconds_bucket{kind=\"z\",le=\"1\"} 0\n"
        "seconds_bucket{kind=\"z\",le=\"2.5\"} 1\nseconds_bucket{kind=\"z\",le=\"+Inf\"} 1\n"
        "seconds_sum{kind=\"z\"} 2.5\nseconds_count{kind=\"z\"} 1\n"
        "seconds_bucket{kind=\"a\\\"b\",le=\"0.1\"} 2\nseconds_bucket{kind=\"a\\\"b\",le=\"1\"} 3\n"
        "seconds_bucket{kind=\"a\\\"b\",le=\"2.5\"} 3\nseconds_bucket{kind=\"a\\\"b\",le=\"+Inf\"} 4\n"
        "seconds_sum{kind=\"a\\\"b\"} 3.65\nseconds_count{kind=\"a\\\"b\"} 4\n"
        "# HELP sizes Sizes.\n# TYPE sizes histogram\n"
        "sizes_bucket{le=\"10\"} 0\nsizes_bucket{le=\"+Inf\"} 1\nsizes_sum 11\nsizes_count 1\n"));
    strbuf_fini(&out);
    shm_destroy(shm);
}

static void
a_histogram_that_found_no_room_is_not_shown(void **state)
{
    (void)state;
    struct meter_histogram histogram;
    bool is_other = false;
    char name[8];
    struct strbuf out = {0};
    struct shm *shm =
        shm_create(&(struct shm_params){.max_endpoints = 4, .stats_bytes = stats_region_bytes()});
    assert_non_null(shm);
    struct meter_definition definition = {.kind = METER_HISTOGRAM,
        .name = SLICE_LIT("seconds"),
        .labels = {SLICE_LIT("kind")},
        .label_count = 1,
        .bounds = {1, 2, 3, 4, 5},
        .bound_count = 5};
    uint32_t meter = meter_define(shm, &definition);
    assert_int_not_equal(METER_SERIES_MAX % 7, 0); /* the last one gets a part of its parts */
    for (unsigned i = 0; i <= METER_SERIES_MAX / 7; i++) {
        assert_false(is_other);
        snprintf(name, sizeof name, "%u", i);
        assert_true(meter_histogram(shm, meter, (struct slice[]){slice_of(name)}, 1, &histogram, &is_other));
        meter_observe(&histogram, 1);
    }
    assert_true(is_other);
    stats_expose(shm, 1, &out);
    assert_false(out.failed);
    assert_non_null(strstr(out.at, "seconds_count{kind=\"141\"} 1\n"));
    assert_non_null(strstr(out.at, "seconds_count{kind=\"other\"} 1\n"));
    assert_null(strstr(out.at, "{kind=\"142\""));
    strbuf_fini(&out);
    shm_destroy(shm);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(metrics_of_scripts_are_shown_with_everything_escaped),
        cmocka_unit_test(a_histogram_is_shown_in_buckets_that_sum_up),
        cmocka_unit_test(a_histogram_that_found_no_room_is_not_shown),
        cmocka_unit_test(a_value_is_shown_with_the_fewest_digits_that_read_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
