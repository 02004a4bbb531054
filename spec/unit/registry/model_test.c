/* Leases, replacement, the change index, self-protection: on a clock of the test's own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/log.h"
#include "registry/model.h"

#define SECOND UINT64_C(1000000)
enum { TTL_S = 30 };

/* A store that can be told to fail and counts what it is asked. */
struct fake_store {
    struct store store;
    bool failing;
    unsigned puts, removes;
    uint64_t index;
};

static bool
fake_load(struct store *store, bool (*each)(void *context, const struct spec *spec, bool lapsed),
    void *context, uint64_t *index, char epoch[STORE_EPOCH_BYTES])
{
    (void)store;
    (void)each;
    (void)context;
    *index = 0;
    epoch[0] = '\0';
    return true;
}

static bool
fake_put(struct store *store, const struct spec *spec, bool lapsed, uint64_t index)
{
    struct fake_store *fake = (struct fake_store *)store;
    (void)spec;
    (void)lapsed;
    fake->puts++;
    if (!fake->failing) fake->index = index;
    return !fake->failing;
}

static bool
fake_remove(struct store *store, struct slice id, uint64_t index)
{
    struct fake_store *fake = (struct fake_store *)store;
    (void)id;
    fake->removes++;
    if (!fake->failing) fake->index = index;
    return !fake->failing;
}

static bool
fake_begin(struct store *store, const char *epoch, uint64_t index)
{
    (void)epoch;
    ((struct fake_store *)store)->index = index;
    return true;
}

static void
fake_close(struct store *store)
{
    (void)store;
}

static const struct store_ops fake_ops = {"fake", fake_load, fake_put, fake_remove, fake_begin, fake_close};

struct fixture {
    struct fake_store store;
    struct model model;
    uint64_t now;
};

static void
be_quiet(void *context, enum log_level level, const char *line, size_t len)
{
    (void)context;
    (void)level;
    (void)line;
    (void)len;
}

static int
setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    const char *why = NULL;
    if (f == NULL) return -1;
    log_set_sink(be_quiet, NULL);
    f->store.store.ops = &fake_ops;
    f->now = 1000 * SECOND;
    *state = f;
    return model_init(&f->model, &f->store.store, TTL_S * SECOND, f->now, &why) ? 0 : -1;
}

static int
teardown(void **state)
{
    struct fixture *f = *state;
    model_fini(&f->model);
    free(f);
    return 0;
}

static struct spec
spec_of(const char *id, const char *service)
{
    return (struct spec){.id = slice_of(id),
        .service = slice_of(service),
        .host = SLICE_LIT("127.0.0.1"),
        .url = SLICE_LIT("http://127.0.0.1:1"),
        .health_path = SLICE_LIT("/health"),
        .port = 1,
        .weight = 1};
}

static struct instance *
add(struct fixture *f, const char *id)
{
    struct spec spec = spec_of(id, "users");
    struct instance *instance = NULL;
    assert_int_equal(model_register(&f->model, &spec, f->now, &instance), MODEL_OK);
    assert_ptr_equal(model_find(&f->model, slice_of(id)), instance);
    return instance;
}

static void
pass(struct fixture *f, uint64_t us)
{
    f->now += us;
    model_expire(&f->model, f->now, 0);
}

static void
a_lease_lasts_its_ttl_from_the_last_beat(void **state)
{
    struct fixture *f = *state;
    add(f, "a");
    pass(f, 29 * SECOND);
    assert_int_equal(model_heartbeat(&f->model, SLICE_LIT("a"), f->now), MODEL_OK);
    pass(f, 29 * SECOND);
    assert_int_equal(f->model.living, 1);
    pass(f, 2 * SECOND);
    assert_int_equal(f->model.living, 0);
    assert_int_equal(f->model.expirations, 1);
}

static void
an_unknown_or_lapsed_id_has_to_register_again(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(model_heartbeat(&f->model, SLICE_LIT("a"), f->now), MODEL_UNKNOWN);
    add(f, "a");
    pass(f, 31 * SECOND);
    assert_int_equal(model_heartbeat(&f->model, SLICE_LIT("a"), f->now), MODEL_UNKNOWN);
    assert_false(add(f, "a")->lapsed);
    assert_int_equal(model_heartbeat(&f->model, SLICE_LIT("a"), f->now), MODEL_OK);
    assert_int_equal(f->model.count, 1);
}

static void
a_lapsed_instance_stays_two_ttls_more_and_goes(void **state)
{
    struct fixture *f = *state;
    uint64_t index;
    assert_true(add(f, "a") != NULL);
    pass(f, 30 * SECOND);
    index = f->model.index;
    assert_true(model_find(&f->model, SLICE_LIT("a"))->lapsed);
    pass(f, 59 * SECOND);
    assert_int_equal(f->model.count, 1);
    pass(f, 1 * SECOND);
    assert_int_equal(f->model.count, 0);
    assert_true(f->model.index > index);
    assert_int_equal(f->store.removes, 1);
    assert_int_equal(model_next_us(&f->model), UINT64_MAX);
}

static void
an_instance_s_own_ttl_wins(void **state)
{
    struct fixture *f = *state;
    struct spec spec = spec_of("quick", "users");
    struct instance *instance;
    spec.ttl_us = 2 * SECOND;
    assert_int_equal(model_register(&f->model, &spec, f->now, &instance), MODEL_OK);
    add(f, "slow");
    assert_int_equal(model_next_us(&f->model), f->now + 2 * SECOND);
    pass(f, 2 * SECOND);
    assert_int_equal(f->model.living, 1);
    pass(f, 4 * SECOND);
    assert_null(model_find(&f->model, SLICE_LIT("quick")));
}

static void
the_same_content_again_is_no_change_and_another_one_is(void **state)
{
    struct fixture *f = *state;
    struct spec spec = spec_of("a", "users");
    struct instance *instance = add(f, "a");
    uint64_t index = f->model.index;
    pass(f, 20 * SECOND);
    add(f, "a");
    assert_int_equal(f->model.index, index);
    assert_int_equal(f->store.puts, 1);
    pass(f, 20 * SECOND);
    assert_int_equal(f->model.living, 1);
    spec.service = SLICE_LIT("orders");
    assert_int_equal(model_register(&f->model, &spec, f->now, &instance), MODEL_OK);
    assert_int_equal(f->model.index, index + 1);
    assert_int_equal(f->model.count, 1);
    assert_int_equal(f->store.index, f->model.index);
    assert_memory_equal(instance->spec.service.at, "orders", 7);
}

static void
what_the_store_refuses_did_not_happen(void **state)
{
    struct fixture *f = *state;
    struct spec spec = spec_of("b", "users");
    struct instance *instance;
    add(f, "a");
    uint64_t index = f->model.index;
    f->store.failing = true;
    assert_int_equal(model_register(&f->model, &spec, f->now, &instance), MODEL_STORE_FAILED);
    assert_null(model_find(&f->model, SLICE_LIT("b")));
    spec.id = SLICE_LIT("a");
    spec.port = 2;
    assert_int_equal(model_register(&f->model, &spec, f->now, &instance), MODEL_STORE_FAILED);
    assert_int_equal(model_find(&f->model, SLICE_LIT("a"))->spec.port, 1);
    assert_int_equal(model_remove(&f->model, SLICE_LIT("a")), MODEL_STORE_FAILED);
    assert_int_equal(f->model.count, 1);
    assert_int_equal(f->model.index, index);
    assert_int_equal(f->model.store_errors, 3);
    f->store.failing = false;
    assert_int_equal(model_remove(&f->model, SLICE_LIT("a")), MODEL_OK);
    assert_int_equal(model_remove(&f->model, SLICE_LIT("a")), MODEL_UNKNOWN);
}

static void
a_few_silent_instances_lapse_however_large_their_share(void **state)
{
    struct fixture *f = *state;
    add(f, "a");
    add(f, "b");
    add(f, "c");
    add(f, "d");
    pass(f, 31 * SECOND);
    assert_int_equal(f->model.living, 0);
}

static void
most_leases_running_out_together_are_kept_until_most_are_back(void **state)
{
    struct fixture *f = *state;
    char id[8];
    for (int i = 0; i < 20; i++) { /* beats spread over ten seconds, as clients have them */
        snprintf(id, sizeof id, "i%d", i);
        add(f, id);
        f->now += SECOND / 2;
    }
    uint64_t index = f->model.index;
    for (int i = 0; i < 600; i++)
        pass(f, SECOND);
    assert_int_equal(f->model.living, 20);
    assert_true(f->model.protecting);
    assert_int_equal(f->model.index, index);
    for (int i = 0; i < 15; i++) {
        snprintf(id, sizeof id, "i%d", i);
        assert_int_equal(model_heartbeat(&f->model, slice_of(id), f->now), MODEL_OK);
    }
    for (int i = 0; i < 5; i++)
        pass(f, SECOND);
    assert_false(f->model.protecting);
    assert_int_equal(f->model.living, 15);
}

static void
a_minority_lapses_while_the_others_beat(void **state)
{
    struct fixture *f = *state;
    char id[8];
    for (int i = 0; i < 20; i++) {
        snprintf(id, sizeof id, "i%d", i);
        add(f, id);
    }
    for (int second = 0; second < 40; second++) {
        pass(f, SECOND);
        for (int i = 0; second % 10 == 0 && i < 12; i++) {
            snprintf(id, sizeof id, "i%d", i);
            assert_int_equal(model_heartbeat(&f->model, slice_of(id), f->now), MODEL_OK);
        }
    }
    assert_int_equal(f->model.living, 12);
    assert_false(f->model.protecting);
}

static void
a_process_that_stood_still_gives_the_time_back(void **state)
{
    struct fixture *f = *state;
    add(f, "a");
    f->now += 100 * SECOND;
    model_expire(&f->model, f->now, 70 * SECOND);
    assert_int_equal(f->model.living, 1);
    pass(f, 11 * SECOND);
    assert_int_equal(f->model.living, 0);
}

static void
a_shorter_ttl_counts_from_now(void **state)
{
    struct fixture *f = *state;
    add(f, "a");
    pass(f, 10 * SECOND);
    model_set_ttl(&f->model, 5 * SECOND, f->now);
    assert_int_equal(model_next_us(&f->model), f->now + 5 * SECOND);
    pass(f, 5 * SECOND);
    assert_int_equal(f->model.living, 0);
}

static void
thousands_are_found_again_and_lapse_in_their_order(void **state)
{
    struct fixture *f = *state;
    char id[16];
    enum { MANY = 5000 };
    srand(1);
    for (int i = 0; i < MANY; i++) {
        struct instance *instance;
        struct spec spec;
        snprintf(id, sizeof id, "many-%d", i);
        spec = spec_of(id, "users");
        spec.ttl_us = (uint64_t)(1 + rand() % 1000) * SECOND;
        assert_int_equal(model_register(&f->model, &spec, f->now, &instance), MODEL_OK);
    }
    for (int i = 0; i < MANY; i += 3) {
        snprintf(id, sizeof id, "many-%d", i);
        assert_int_equal(model_remove(&f->model, slice_of(id)), MODEL_OK);
    }
    for (int i = 0; i < MANY; i++) {
        snprintf(id, sizeof id, "many-%d", i);
        assert_int_equal(model_find(&f->model, slice_of(id)) != NULL, i % 3 != 0);
    }
    for (uint64_t last = 0; f->model.count > 0;) {
        uint64_t next = model_next_us(&f->model);
        assert_true(next >= last);
        last = f->now = next;
        model_expire(&f->model, f->now, 0);
        if (f->model.protecting) break; /* the last ones lapse too close together to be believed */
    }
}

int
main(void)
{
#define CLAIM(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CLAIM(a_lease_lasts_its_ttl_from_the_last_beat),
        CLAIM(an_unknown_or_lapsed_id_has_to_register_again),
        CLAIM(a_lapsed_instance_stays_two_ttls_more_and_goes),
        CLAIM(an_instance_s_own_ttl_wins),
        CLAIM(the_same_content_again_is_no_change_and_another_one_is),
        CLAIM(what_the_store_refuses_did_not_happen),
        CLAIM(a_few_silent_instances_lapse_however_large_their_share),
        CLAIM(most_leases_running_out_together_are_kept_until_most_are_back),
        CLAIM(a_minority_lapses_while_the_others_beat),
        CLAIM(a_process_that_stood_still_gives_the_time_back),
        CLAIM(a_shorter_ttl_counts_from_now),
        CLAIM(thousands_are_found_again_and_lapse_in_their_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
