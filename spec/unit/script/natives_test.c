#include "spec/unit/script/support.h"

#include <stdatomic.h>

#include "core/base/strbuf.h"
#include "core/metrics/stats.h"
#include "core/script/natives.h"
#include "core/shm/dict.h"

static struct strbuf
source_of(const char *path)
{
    struct strbuf source = {0};
    char piece[4096];
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    for (size_t n; (n = fread(piece, 1, sizeof piece, file)) > 0;)
        strbuf_add(&source, piece, n);
    fclose(file);
    assert_false(source.failed);
    return source;
}

/* Its new() raises where anything is not as it should be. */
static void
load_file(struct fixture *f, const char *path, enum script_role role)
{
    struct strbuf source = source_of(path);
    fixture_init(f);
    f->services[0].health.policy = (struct config_plugin){0};
    fixture_strategy(f, 0, path, source.at, "{}");
    fixture_load_as(f, role);
    if (!diags_ok(&f->diags)) diags_print(&f->diags, stderr);
    assert_true(diags_ok(&f->diags));
    assert_non_null(f->script);
    strbuf_fini(&source);
}

static void
scripts_find_all_of_it_as_in_the_test_kit(void **state)
{
    (void)state;
    struct fixture f;
    struct strbuf out = {0};
    load_file(&f, "spec/support/natives_alike.lua", SCRIPT_WORKER);
    stats_expose(f.shm, 1, &out);
    assert_non_null(strstr(out.at, "\nalike_total{kind=\"a\",n=\"1\"} 3.5\n"));
    assert_non_null(strstr(out.at, "\nalike_total{kind=\"b\",n=\"true\"} 1\n"));
    assert_non_null(strstr(out.at, "\n# TYPE alike_depth gauge\nalike_depth 5\n"));
    assert_non_null(strstr(out.at, "\n# TYPE fluxgate_rate_limited_total counter\n"));
    strbuf_fini(&out);
    fixture_fini(&f);
}

static void
the_checker_has_all_of_it_in_a_segment_of_its_own(void **state)
{
    (void)state;
    struct fixture f;
    load_file(&f, "spec/support/natives_alike.lua", SCRIPT_CHECKER);
    fixture_fini(&f);
}

static void
keys_verify_what_they_signed_and_nothing_else(void **state)
{
    (void)state;
    struct fixture f;
    load_file(&f, "spec/support/natives_keys.lua", SCRIPT_WORKER);
    fixture_fini(&f);
}

#define STRATEGY(new, pick)                                                                                  \
    "local S = {} S.__index = S function S.new() local self = setmetatable({}, S) " new " return self end "  \
                                                                                        "function "          \
                                                                                        "S:pick(request, "   \
                                                                                        "backends) " pick    \
                                                                                        " return "           \
                                                                                        "backends[1] end "   \
                                                                                        "return S"

static void
a_reload_finds_what_the_last_generation_wrote(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f);
    fixture_strategy(&f, 0, "/mem/plugin.lua",
        STRATEGY("local d = gateway.dict('kept') self.n = d:incr('loads', 1, 0) "
                 "gateway.metric('counter', 'loads_total', 'Loads.'):add(1)",
            ""),
        "{}");
    fixture_load(&f);
    script_free(f.script);
    fixture_load(&f);
    struct dict_value value;
    static char buffer[DICT_VALUE_BYTES];
    struct dict *dict = shm_dict(f.shm, SLICE_LIT("kept"));
    assert_int_equal(dict_get(f.shm, dict, 0, SLICE_LIT("loads"), 1, buffer, &value), DICT_OK);
    assert_true(value.number == 2);
    struct strbuf out = {0};
    stats_expose(f.shm, 1, &out);
    assert_non_null(strstr(out.at, "\nloads_total 2\n"));
    strbuf_fini(&out);
    fixture_fini(&f);
}

/* A series that is known costs no garbage: once the calls are compiled the heap stands still. */
static void
counting_in_a_known_series_makes_no_garbage(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f);
    fixture_strategy(&f, 0, "/mem/plugin.lua",
        STRATEGY("self.dict = gateway.dict('hot') self.dict:set('k', 0) "
                 "self.histogram = gateway.histogram('hot_sizes', 'Hot.', { 'a' }) "
                 "self.metric = gateway.metric('counter', 'hot_total', 'Hot.', { 'a', 'b' })",
            "self.metric:add(1, 'x', 'y') self.histogram:observe(0.3, 'x') self.dict:incr('k', 1) "
            "self.dict:take('b', 1, 5)"),
        "{}");
    fixture_endpoint(&f, 0, "one", SLOT_HEALTHY, 1);
    fixture_load(&f);
    for (int i = 0; i < 2000; i++)
        assert_int_not_equal(fixture_pick(&f, 0), SLOT_NONE);
    size_t least = SIZE_MAX, most = 0;
    for (int i = 0; i < 2000; i++) {
        assert_int_not_equal(fixture_pick(&f, 0), SLOT_NONE);
        size_t used = script_memory_bytes(f.script);
        if (used < least) least = used;
        if (used > most) most = used;
    }
    assert_true(most - least < 4096);
    struct strbuf out = {0};
    stats_expose(f.shm, 1, &out);
    assert_non_null(strstr(out.at, "\nhot_total{a=\"x\",b=\"y\"} 4000\n"));
    strbuf_fini(&out);
    fixture_fini(&f);
}

static void
too_many_series_are_counted_in_one(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f);
    fixture_strategy(&f, 0, "/mem/plugin.lua",
        STRATEGY("local m = gateway.metric('counter', 'wide_total', 'Wide.', { 'client' }) "
                 "for i = 1, 1500 do m:add(1, 'client-' .. i) m:add(1, i) end",
            ""),
        "{}");
    fixture_load(&f);
    struct strbuf out = {0};
    stats_expose(f.shm, 1, &out);
    assert_non_null(strstr(out.at, "\nwide_total{client=\"other\"} 2000\n"));
    assert_non_null(strstr(out.at, "\nfluxgate_metric_overflows_total 2000\n"));
    strbuf_fini(&out);
    fixture_fini(&f);
}

/* Our heap is under no cap of Lua's: what a script lets go is collected, what it keeps is bounded. */
static void
keys_and_sets_are_bounded(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f);
    fixture_strategy(&f, 0, "/mem/plugin.lua",
        STRATEGY("for i = 1, 20000 do gateway.ip_set { '10.0.0.0/8' } end "
                 "local jwk, kept = { kty = 'oct', k = ('A'):rep(44) }, {} "
                 "local key, wrong repeat key, wrong = gateway.public_key(jwk) kept[#kept + 1] = key until "
                 "not key "
                 "assert(#kept == 4096 and wrong:find('too many'), wrong) "
                 "assert(not pcall(gateway.ip_set, {})) "
                 "kept, key = nil, nil "
                 "assert(gateway.public_key(jwk)) "
                 "local list = {} for i = 1, 300000 do list[i] = '10.0.0.1' end "
                 "assert(not pcall(gateway.ip_set, list)) "
                 "assert(gateway.ip_set { '10.0.0.1' }:has('10.0.0.1'))",
            ""),
        "{}");
    fixture_load(&f);
    fixture_fini(&f);
}

/* What Lua's FFI could be made to pass. */
static void
functions_check_every_argument(void **state)
{
    (void)state;
    struct fixture f;
    char out[16];
    double number;
    struct fg_dict dict = {0};
    struct fg_value value;
    struct fg_metric metric = {0};
    struct fg_series series = {0};
    struct fg_key key = {0};
    struct fg_ipset set = {0};
    struct fg_slice none = {0};
    fixture_init(&f);
    fixture_load(&f);
    assert_int_equal(fg_dict_open(NULL, "a", 1, &dict), 0);
    assert_int_equal(fg_dict_open(f.script, NULL, 1, &dict), 0);
    assert_int_equal(fg_dict_open(f.script, "a", 1, NULL), 0);
    assert_int_equal(fg_dict_get(f.script, &dict, "k", 1, &value), DICT_BUSY);
    assert_int_equal(fg_dict_open(f.script, "a", 1, &dict), 1);
    assert_int_equal(fg_dict_get(f.script, &dict, NULL, 1, &value), DICT_BUSY);
    assert_int_equal(fg_dict_get(f.script, &dict, "k", 1, NULL), DICT_BUSY);
    assert_int_equal(fg_dict_set(f.script, &dict, "k", 1, DICT_TOKENS, 0, NULL, 0, 0, 0), DICT_BUSY);
    assert_int_equal(fg_dict_set(f.script, &dict, "k", 1, DICT_STRING, 0, NULL, 5, 0, 0), DICT_OK);
    assert_int_equal(fg_dict_incr(f.script, &dict, "k", 1, 1, 0, 0, 0, NULL), DICT_BUSY);
    assert_int_equal(fg_dict_ttl(f.script, NULL, "k", 1, &number), DICT_BUSY);
    assert_int_equal(fg_dict_take(f.script, &dict, "b", 1, 0, 1, 1, &number), DICT_BUSY);
    assert_int_equal(fg_dict_delete(f.script, &dict, NULL, 0), DICT_BUSY);
    assert_string_equal(fg_dict_word(DICT_FULL), "full");
    assert_string_equal(fg_dict_word(-1), "");
    assert_string_equal(fg_dict_word(1000), "");
    assert_int_equal(fg_metric_open(f.script, 2, "m", 1, "", 0, &none, 0, &metric), 0);
    assert_int_equal(fg_metric_open(f.script, 0, "m", 1, "", 0, &none, 9, &metric), 0);
    assert_int_equal(fg_metric_open(f.script, 0, "", 0, "", 0, &none, 0, &metric), 0);
    assert_int_equal(fg_histogram_open(f.script, "h", 1, "", 0, &none, 0, NULL, 1, &metric), 0);
    assert_int_equal(fg_histogram_open(f.script, "h", 1, "", 0, &none, 0, &number, 33, &metric), 0);
    metric.number = 7;
    struct fg_histogram histogram;
    assert_int_equal(fg_histogram_series(f.script, &metric, &none, 9, &histogram), 0);
    assert_int_equal(fg_histogram_series(f.script, &metric, &none, 0, &histogram), 0);
    fg_histogram_observe(&histogram, 1);
    fg_histogram_observe(NULL, 1);
    assert_int_equal(fg_metric_series(f.script, &metric, &none, 0, &series), 0);
    assert_int_equal(fg_metric_series(f.script, &metric, &none, 9, &series), 0);
    fg_series_add(&series, 1);
    fg_series_set(NULL, 1);
    assert_true(fg_base64_encode("abc", 3, 0, out, 3) == -1);
    assert_true(fg_base64_encode(NULL, 3, 0, out, 16) == -1);
    assert_true(fg_base64_decode("YWJj", 4, 0, out, 3) == -1);
    assert_true(fg_base64_decode("Y", 1, 0, out, 16) == -2);
    assert_true(fg_hex("abc", 3, out, 5) == -1);
    assert_int_equal(fg_random_bytes(NULL, 4), 0);
    assert_int_equal(fg_equal(NULL, 0, "", 0), 0);
    assert_non_null(fg_key_pem(f.script, NULL, 0, &key));
    assert_non_null(fg_key_secret(f.script, "short", 5, &key));
    assert_non_null(fg_key_rsa(f.script, NULL, 0, "e", 1, &key));
    assert_non_null(fg_key_p256(f.script, "x", 1, NULL, 0, &key));
    assert_null(fg_key_algorithm(&key));
    assert_int_equal(fg_key_verify(&key, "HS256", 5, "d", 1, "s", 1), 0);
    assert_int_equal(fg_ipset_add(&set, "::1", 3), 1);
    assert_int_equal(fg_ipset_has(&set, "::1", 3), 0);
    assert_int_equal(fg_ipset_new(f.script, &set), 1);
    assert_int_equal(fg_ipset_add(&set, NULL, 3), 1);
    assert_int_equal(fg_ipset_add(&set, "::1", 3), 0);
    assert_int_equal(fg_ipset_has(&set, "::1", 3), 1);
    fg_ipset_free(&set);
    fg_ipset_free(&set);
    fg_key_free(&key);
    assert_int_equal(fg_ipset_has(&set, "::1", 3), 0);
    assert_null(
        fg_key_secret(f.script, "0123456789abcdef0123456789abcdef", 32, &key)); /* left to the script */
    fixture_fini(&f);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scripts_find_all_of_it_as_in_the_test_kit),
        cmocka_unit_test(the_checker_has_all_of_it_in_a_segment_of_its_own),
        cmocka_unit_test(keys_verify_what_they_signed_and_nothing_else),
        cmocka_unit_test(a_reload_finds_what_the_last_generation_wrote),
        cmocka_unit_test(counting_in_a_known_series_makes_no_garbage),
        cmocka_unit_test(too_many_series_are_counted_in_one),
        cmocka_unit_test(keys_and_sets_are_bounded),
        cmocka_unit_test(functions_check_every_argument),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
