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

#include "core/shm/dict.h"

enum { SECOND = 1000000, WORKERS = 4 };
#if defined(__SANITIZE_ADDRESS__)
enum { INSTRUMENTED = 1 };
#else
enum { INSTRUMENTED = 0 };
#endif

static char buffer[DICT_VALUE_BYTES], long_text[DICT_VALUE_BYTES + 1];
static struct shm *shm;
static struct dict *dict;

static int
open_segment(void **state)
{
    (void)state;
    shm = shm_create(&(struct shm_params){.max_endpoints = 16});
    if (shm == NULL) return -1;
    dict = shm_dict(shm, SLICE_LIT("test"));
    for (size_t i = 0; i < sizeof(long_text); i++)
        long_text[i] = (char)('a' + i * 7 % 26);
    return dict == NULL ? -1 : 0;
}

static int
close_segment(void **state)
{
    (void)state;
    shm_destroy(shm);
    return 0;
}

static struct slice
key_of(unsigned number, char text[32])
{
    return (struct slice){text, (size_t)snprintf(text, 32, "key-%u", number)};
}

static enum dict_result
put(struct slice key, struct slice text, uint64_t ttl_us, uint64_t now_us)
{
    return dict_set(shm, dict, 0, key, now_us, &(struct dict_value){DICT_STRING, 0, text}, ttl_us, false);
}

static enum dict_result
put_number(struct slice key, double number, uint64_t ttl_us, uint64_t now_us)
{
    return dict_set(
        shm, dict, 0, key, now_us, &(struct dict_value){DICT_NUMBER, number, SLICE_NONE}, ttl_us, false);
}

static void
expect_text(struct slice key, struct slice text, uint64_t now_us)
{
    struct dict_value value;
    assert_int_equal(dict_get(shm, dict, 0, key, now_us, buffer, &value), DICT_OK);
    assert_int_equal(value.kind, DICT_STRING);
    assert_int_equal(value.text.len, text.len);
    if (text.len > 0) assert_memory_equal(value.text.at, text.at, text.len);
}

static bool
has(struct slice key, uint64_t now_us)
{
    struct dict_value value;
    enum dict_result result = dict_get(shm, dict, 0, key, now_us, buffer, &value);
    assert_true(result == DICT_OK || result == DICT_NONE);
    return result == DICT_OK;
}

/* Short entries until it is full; how many there were room for. */
static unsigned
fill(uint64_t ttl_us, uint64_t now_us)
{
    char text[32];
    unsigned count = 0, refused = 0;
    for (unsigned i = 0; refused < 1000; i++) {
        enum dict_result result = put_number(key_of(i, text), i, ttl_us, now_us);
        if (result == DICT_OK) count++;
        if (result == DICT_OK) continue;
        assert_int_equal(result, DICT_FULL);
        refused++;
    }
    return count;
}

/* ---- one process ---- */

static void
values_of_each_kind_come_back(void **state)
{
    (void)state;
    struct dict_value value;
    struct slice key = SLICE_LIT("k");
    assert_int_equal(dict_get(shm, dict, 0, key, 1, buffer, &value), DICT_NONE);
    assert_int_equal(put(key, SLICE_LIT("text"), 0, 1), DICT_OK);
    expect_text(key, SLICE_LIT("text"), 1);
    assert_int_equal(put(key, SLICE_NONE, 0, 1), DICT_OK);
    expect_text(key, SLICE_NONE, 1);
    assert_int_equal(put_number(key, 2.5, 0, 1), DICT_OK);
    assert_int_equal(dict_get(shm, dict, 0, key, 1, buffer, &value), DICT_OK);
    assert_int_equal(value.kind, DICT_NUMBER);
    assert_true(value.number == 2.5);
    value = (struct dict_value){DICT_BOOLEAN, 1, SLICE_NONE};
    assert_int_equal(dict_set(shm, dict, 0, key, 1, &value, 0, true), DICT_EXISTS);
    assert_int_equal(dict_set(shm, dict, 0, key, 1, &value, 0, false), DICT_OK);
    assert_int_equal(dict_get(shm, dict, 0, key, 1, buffer, &value), DICT_OK);
    assert_int_equal(value.kind, DICT_BOOLEAN);
    assert_int_equal(dict_delete(shm, dict, 0, key, 1), DICT_OK);
    assert_int_equal(dict_delete(shm, dict, 0, key, 1), DICT_NONE);
    assert_false(has(key, 1));
}

static void
dictionaries_are_apart_and_their_number_is_bounded(void **state)
{
    (void)state;
    char text[32];
    struct dict *other = shm_dict(shm, SLICE_LIT("other"));
    assert_non_null(other);
    assert_ptr_not_equal(other, dict);
    assert_ptr_equal(shm_dict(shm, SLICE_LIT("test")), dict);
    assert_int_equal(put(SLICE_LIT("k"), SLICE_LIT("v"), 0, 1), DICT_OK);
    struct dict_value value;
    assert_int_equal(dict_get(shm, other, 0, SLICE_LIT("k"), 1, buffer, &value), DICT_NONE);
    for (unsigned i = 2; i < DICTS_DEFAULT; i++)
        assert_non_null(shm_dict(shm, key_of(i, text)));
    assert_null(shm_dict(shm, SLICE_LIT("one too many")));
    assert_ptr_equal(shm_dict(shm, SLICE_LIT("other")), other);
    assert_non_null(shm_dict_own(shm));
    assert_ptr_equal(shm_dict_own(shm), shm_dict_own(shm));
    assert_null(shm_dict(shm, SLICE_NONE));
    assert_null(shm_dict(shm, (struct slice){long_text, DICT_NAME_BYTES + 1}));
}

/* How many values of 64 KiB a dictionary takes. */
static unsigned
capacity(struct shm *of, struct dict *in)
{
    char text[32];
    unsigned count = 0;
    struct dict_value value = {DICT_STRING, 0, {long_text, DICT_VALUE_BYTES}};
    for (unsigned i = 0, refused = 0; refused < 200; i++) {
        enum dict_result result = dict_set(of, in, 0, key_of(i, text), 1, &value, 0, true);
        if (result == DICT_OK) count++;
        if (result != DICT_OK) refused++; /* its shard is full; others may not be */
    }
    return count;
}

static void
their_size_and_number_are_the_segments(void **state)
{
    (void)state;
    for (uint64_t mib = 1; mib <= 4; mib *= 4) {
        struct shm_params params = {.max_endpoints = 1, .dict_bytes = mib << 20, .dicts = 2};
        struct shm *small = shm_create(&params);
        assert_non_null(small);
        struct dict *a = shm_dict(small, SLICE_LIT("a")), *b = shm_dict(small, SLICE_LIT("b"));
        assert_true(a != NULL && b != NULL && shm_dict(small, SLICE_LIT("c")) == NULL);
        assert_int_equal((char *)b - (char *)a, mib << 20);
        assert_int_equal((char *)shm_dict_own(small) - (char *)b, mib << 20);
        assert_int_equal(capacity(small, a), mib * 15); /* the rest is heads and links */
        assert_int_equal(capacity(small, shm_dict_own(small)), mib * 15);
        assert_int_equal(capacity(small, b), mib * 15);
        dicts_reap(small, 0);
        shm_destroy(small);
    }
    assert_null(shm_create(&(struct shm_params){.max_endpoints = 1, .dicts = DICTS_MAX + 1}));
    assert_null(shm_create(&(struct shm_params){.max_endpoints = 1, .dict_bytes = DICT_BYTES_MAX + 1ull}));
    struct shm *large = shm_create(
        &(struct shm_params){.max_endpoints = 1, .dicts = DICTS_MAX, .dict_bytes = DICT_BYTES_MAX});
    assert_non_null(large); /* and costs nothing */
    assert_non_null(shm_dict(large, SLICE_LIT("a")));
    shm_destroy(large);
}

static void
keys_and_values_have_bounds(void **state)
{
    (void)state;
    struct slice longest = {long_text, DICT_KEY_BYTES}, most = {long_text, DICT_VALUE_BYTES};
    assert_int_equal(put(longest, most, 0, 1), DICT_OK);
    expect_text(longest, most, 1);
    assert_int_equal(put((struct slice){long_text, DICT_KEY_BYTES + 1}, most, 0, 1), DICT_KEY);
    assert_int_equal(put(SLICE_NONE, most, 0, 1), DICT_KEY);
    assert_int_equal(put(longest, (struct slice){long_text, DICT_VALUE_BYTES + 1}, 0, 1), DICT_VALUE);
    expect_text(longest, most, 1);
}

/* Keys that differ in their last byte alone, and one that begins another. */
static void
keys_and_values_of_every_length_keep_apart(void **state)
{
    (void)state;
    char key[DICT_KEY_BYTES];
    memcpy(key, long_text, sizeof(key));
    for (size_t len = 1; len <= sizeof(key); len++) {
        key[len - 1] = '!';
        assert_int_equal(put((struct slice){key, len}, (struct slice){long_text, 600 - len}, 0, 1), DICT_OK);
        key[len - 1] = long_text[len - 1];
        assert_int_equal(put((struct slice){key, len}, (struct slice){long_text, len}, 0, 1), DICT_OK);
    }
    for (size_t len = 1; len <= sizeof(key); len++) {
        expect_text((struct slice){key, len}, (struct slice){long_text, len}, 1);
        key[len - 1] = '!';
        expect_text((struct slice){key, len}, (struct slice){long_text, 600 - len}, 1);
        key[len - 1] = long_text[len - 1];
    }
}

static void
a_value_grows_and_shrinks_in_place(void **state)
{
    (void)state;
    struct slice key = SLICE_LIT("k");
    size_t len = 0;
    for (unsigned i = 0; i < 3000; i++) {
        len = (len * 31 + i * 977 + 13) % 1200;
        assert_int_equal(put(key, (struct slice){long_text + i % 26, len}, 0, 1), DICT_OK);
        expect_text(key, (struct slice){long_text + i % 26, len}, 1);
    }
    assert_int_equal(dict_delete(shm, dict, 0, key, 1), DICT_OK);
    unsigned fresh = fill(0, 1);
    assert_true(fresh > 100000);
}

static void
an_entry_ends_at_its_time(void **state)
{
    (void)state;
    uint64_t left;
    struct slice key = SLICE_LIT("k");
    assert_int_equal(dict_ttl(shm, dict, 0, key, 1, &left), DICT_NONE);
    assert_int_equal(put(key, SLICE_LIT("v"), 10 * SECOND, 5), DICT_OK);
    assert_int_equal(dict_ttl(shm, dict, 0, key, SECOND + 5, &left), DICT_OK);
    assert_int_equal(left, 9 * SECOND);
    assert_true(has(key, 10 * SECOND + 4));
    assert_false(has(key, 10 * SECOND + 5));
    assert_int_equal(put(key, SLICE_LIT("v"), 0, 20 * SECOND), DICT_OK);
    assert_int_equal(dict_ttl(shm, dict, 0, key, 21 * SECOND, &left), DICT_OK);
    assert_true(left == UINT64_MAX);
    assert_int_equal(put(key, SLICE_LIT("v"), UINT64_MAX, 20 * SECOND), DICT_OK);
    assert_true(has(key, UINT64_MAX - 1));
}

static void
incr_makes_adds_and_refuses_what_is_no_number(void **state)
{
    (void)state;
    double sum = 0, initial = 10;
    uint64_t left;
    struct slice key = SLICE_LIT("k");
    assert_int_equal(dict_incr(shm, dict, 0, key, 1, 1, NULL, 0, &sum), DICT_NONE);
    assert_int_equal(dict_incr(shm, dict, 0, key, 1, 2, &initial, SECOND, &sum), DICT_OK);
    assert_true(sum == 12);
    assert_int_equal(dict_incr(shm, dict, 0, key, 1, -0.5, &initial, 9 * SECOND, &sum), DICT_OK);
    assert_true(sum == 11.5);
    assert_int_equal(dict_ttl(shm, dict, 0, key, 1, &left), DICT_OK);
    assert_int_equal(left, SECOND); /* of its making */
    assert_int_equal(put(key, SLICE_LIT("11"), 0, 1), DICT_OK);
    assert_int_equal(dict_incr(shm, dict, 0, key, 1, 1, &initial, 0, &sum), DICT_KIND);
    expect_text(key, SLICE_LIT("11"), 1);
}

static void
a_bucket_gives_its_burst_and_then_its_rate(void **state)
{
    (void)state;
    double rest;
    struct dict_value value;
    struct slice key = SLICE_LIT("k");
    uint64_t now = SECOND;
    for (int i = 0; i < 5; i++) {
        assert_int_equal(dict_take(shm, dict, 0, key, now, 2, 5, 1, &rest), DICT_OK);
        assert_true(rest == 4 - i);
    }
    assert_int_equal(dict_take(shm, dict, 0, key, now, 2, 5, 1, &rest), DICT_REFUSED);
    assert_true(rest == 0.5);
    assert_int_equal(
        dict_take(shm, dict, 0, key, now - 100, 2, 5, 1, &rest), DICT_REFUSED); /* a clock behind */
    assert_int_equal(dict_take(shm, dict, 0, key, now + SECOND / 2, 2, 5, 1, &rest), DICT_OK);
    assert_int_equal(dict_take(shm, dict, 0, key, now + SECOND / 2, 2, 5, 6, &rest), DICT_REFUSED);
    assert_int_equal(dict_get(shm, dict, 0, key, now + SECOND / 2, buffer, &value), DICT_NONE);
    assert_int_equal(dict_incr(shm, dict, 0, key, now + SECOND / 2, 1, NULL, 0, &rest), DICT_KIND);
    assert_int_equal(put(SLICE_LIT("text"), SLICE_LIT("v"), 0, 1), DICT_OK);
    assert_int_equal(dict_take(shm, dict, 0, SLICE_LIT("text"), 1, 2, 5, 1, &rest), DICT_BUCKET);
}

/* What is full again is as good as none: it makes room by itself. */
static void
a_bucket_that_filled_up_leaves_no_entry(void **state)
{
    (void)state;
    double rest;
    uint64_t left;
    char text[32];
    for (unsigned i = 0; i < 300000; i++) {
        uint64_t now = SECOND + i * 1000;
        assert_int_equal(dict_take(shm, dict, 0, key_of(i, text), now, 1, 10, 1, &rest), DICT_OK);
        if (i % 1000 != 0) continue;
        assert_int_equal(dict_ttl(shm, dict, 0, key_of(i, text), now, &left), DICT_OK);
        assert_in_range(left, SECOND, SECOND + 2);
        assert_int_equal(dict_ttl(shm, dict, 0, key_of(i, text), now + SECOND + 2, &left), DICT_NONE);
    }
}

static void
full_refuses_and_loses_nothing(void **state)
{
    (void)state;
    char text[32];
    unsigned count = fill(0, 1), found = 0;
    double sum;
    assert_in_range(count, 110000, 135000);
    assert_true(atomic_load(&shm_totals(shm)->dict_full) >= 1000);
    for (unsigned i = 0; i < count + 1000; i++)
        found += has(key_of(i, text), 1);
    assert_int_equal(found, count);
    /* what is there still changes; what needs room does not, and stays as it was */
    assert_int_equal(dict_incr(shm, dict, 0, key_of(0, text), 1, 5, NULL, 0, &sum), DICT_OK);
    assert_int_equal(put(key_of(0, text), (struct slice){long_text, 50000}, 0, 1), DICT_FULL);
    assert_int_equal(dict_incr(shm, dict, 0, key_of(0, text), 1, 0, NULL, 0, &sum), DICT_OK);
    assert_true(sum == 5);
    for (unsigned i = 0; i < count + 1000; i++)
        (void)!dict_delete(shm, dict, 0, key_of(i, text), 1);
    assert_int_equal(fill(0, 1), count);
}

static void
expired_entries_make_room_before_it_is_full(void **state)
{
    (void)state;
    unsigned count = fill(SECOND, 1);
    assert_int_equal(fill(SECOND, 1), count); /* the same keys again: in place */
    char text[32];
    for (unsigned i = 0; i < count / 2; i++)
        assert_int_equal(put_number(key_of(1000000 + i, text), i, 0, SECOND + 1), DICT_OK);
}

/* ---- several processes ---- */

static pid_t
fork_worker(void (*body)(unsigned worker), unsigned worker)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid != 0) return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a failed test leaves none behind */
    body(worker);
    _exit(0);
}

static void
run_workers(void (*body)(unsigned worker))
{
    pid_t pids[WORKERS];
    int status;
    for (unsigned i = 0; i < WORKERS; i++)
        pids[i] = fork_worker(body, i);
    for (unsigned i = 0; i < WORKERS; i++) {
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_int_equal(status, 0);
    }
}

/* A machine busier than LOCK_PATIENCE_US may make one wait that long: asked again. */
static enum dict_result
incr(unsigned worker, struct slice key)
{
    double sum, initial = 0;
    enum dict_result result = DICT_BUSY;
    while (result == DICT_BUSY)
        result = dict_incr(shm, dict, worker, key, 1, 1, &initial, 0, &sum);
    return result;
}

static void
count_up(unsigned worker)
{
    char text[32];
    for (unsigned i = 0; i < 50000; i++) {
        if (incr(worker, SLICE_LIT("hits")) != DICT_OK) _exit(1);
        if (incr(worker, key_of(i % 100, text)) != DICT_OK) _exit(1);
    }
}

static void
counts_are_exact_over_processes(void **state)
{
    (void)state;
    double sum;
    char text[32];
    run_workers(count_up);
    assert_int_equal(dict_incr(shm, dict, 0, SLICE_LIT("hits"), 1, 0, NULL, 0, &sum), DICT_OK);
    assert_true(sum == 50000 * WORKERS);
    for (unsigned i = 0; i < 100; i++) {
        assert_int_equal(dict_incr(shm, dict, 0, key_of(i, text), 1, 0, NULL, 0, &sum), DICT_OK);
        assert_true(sum == 500 * WORKERS);
    }
}

static void
take_many(unsigned worker)
{
    double rest;
    for (unsigned i = 0; i < 20000; i++) {
        enum dict_result taken = DICT_BUSY;
        while (taken == DICT_BUSY)
            taken = dict_take(shm, dict, worker, SLICE_LIT("bucket"), SECOND + i, 1, 12345, 1, &rest);
        if (taken != DICT_OK && taken != DICT_REFUSED) _exit(1);
        if (taken == DICT_OK && incr(worker, SLICE_LIT("taken")) != DICT_OK) _exit(1);
    }
}

static void
a_bucket_gives_exactly_its_tokens_to_all_processes(void **state)
{
    (void)state;
    double sum;
    run_workers(take_many);
    assert_int_equal(dict_incr(shm, dict, 0, SLICE_LIT("taken"), 1, 0, NULL, 0, &sum), DICT_OK);
    assert_true(sum == 12345);
}

/* ---- the killed ---- */

static void
hold_for_ever(unsigned worker)
{
    (void)worker;
    for (;;)
        (void)!put(SLICE_LIT("k"), (struct slice){long_text, DICT_VALUE_BYTES}, 0, 1);
}

#if defined(__x86_64__)
static volatile unsigned steps_left;
static unsigned steps;
static int stop_before;

static void
on_step(int signal)
{
    (void)signal;
    if (--steps_left == 0) kill(getpid(), SIGKILL);
}

/* The processor's own single step: a trap after each instruction. The red zone is stepped over. */
#define TRAP_FLAG(op)                                                                                        \
    __asm__ volatile("subq $128, %%rsp\n\tpushfq\n\t" op ", (%%rsp)\n\tpopfq\n\taddq $128, %%rsp"            \
                     :                                                                                       \
                     :                                                                                       \
                     : "memory", "cc")

enum { OP_NEW, OP_GROW, OP_SHRINK, OP_INCR, OP_TAKE, OP_EXPIRE, OP_DELETE, OP_COUNT };

static void
die_at_step(unsigned worker)
{
    struct sigaction action = {.sa_handler = on_step};
    if (sigaction(SIGTRAP, &action, NULL) == -1) _exit(1);
    steps_left = steps;
    double number, initial = 0;
    struct slice key = SLICE_LIT("mine");
    struct dict_value small = {DICT_STRING, 0, {long_text, 100}}, large = {DICT_STRING, 0, {long_text, 700}};
    for (int op = 0; op < OP_COUNT; op++) {
        enum dict_result result = DICT_OK;
        uint64_t now = op == OP_EXPIRE ? 60 * (uint64_t)SECOND : 1;
        if (op == stop_before) TRAP_FLAG("orq $0x100");
        if (op == OP_NEW) result = dict_set(shm, dict, worker, key, now, &small, SECOND, true);
        if (op == OP_GROW) result = dict_set(shm, dict, worker, key, now, &large, SECOND, false);
        if (op == OP_SHRINK) result = dict_set(shm, dict, worker, key, now, &small, SECOND, false);
        if (op == OP_INCR)
            result = dict_incr(shm, dict, worker, SLICE_LIT("n"), now, 1, &initial, 0, &number);
        if (op == OP_TAKE) result = dict_take(shm, dict, worker, SLICE_LIT("b"), now, 1, 9, 1, &number);
        if (op == OP_EXPIRE) result = dict_set(shm, dict, worker, key, now, &small, 0, true);
        if (op == OP_DELETE) result = dict_delete(shm, dict, worker, key, now);
        if (op == stop_before) TRAP_FLAG("andq $-257");
        if (op == stop_before) _exit(0);
        if (result != DICT_OK) _exit(1);
    }
}

/* Every neighbour is whole, the key is new, old or gone, and all room comes back. */
static void
expect_sound(unsigned neighbours, unsigned capacity, bool with_room)
{
    char text[32];
    double sum;
    struct dict_value value;
    struct slice key = SLICE_LIT("mine");
    for (unsigned i = 0; i < neighbours; i++)
        expect_text(key_of(i, text), (struct slice){long_text, i * 11}, 1);
    enum dict_result result = dict_get(shm, dict, 0, key, 1, buffer, &value);
    if (result == DICT_OK) {
        assert_true(value.text.len == 100 || value.text.len == 700);
        assert_memory_equal(value.text.at, long_text, value.text.len);
    } else {
        assert_int_equal(result, DICT_NONE);
    }
    (void)!dict_delete(shm, dict, 0, key, 1);
    assert_int_equal(put(key, (struct slice){long_text, 300}, 0, 1), DICT_OK);
    expect_text(key, (struct slice){long_text, 300}, 1);
    assert_int_equal(dict_delete(shm, dict, 0, key, 1), DICT_OK);
    result = dict_incr(shm, dict, 0, SLICE_LIT("n"), 1, 0, NULL, 0, &sum);
    assert_true(result == DICT_NONE || (result == DICT_OK && sum == 1));
    (void)!dict_delete(shm, dict, 0, SLICE_LIT("n"), 1);
    (void)!dict_delete(shm, dict, 0, SLICE_LIT("b"), 1);
    if (!with_room) return;
    assert_int_equal(fill(0, 1), capacity);
    for (unsigned i = 0; i < neighbours; i++)
        assert_int_equal(put(key_of(i, text), SLICE_NONE, 0, 1), DICT_OK);
    for (unsigned i = neighbours; i < capacity + 1000; i++)
        (void)!dict_delete(shm, dict, 0, key_of(i, text), 1);
    for (unsigned i = 0; i < neighbours; i++)
        assert_int_equal(put(key_of(i, text), (struct slice){long_text, i * 11}, 0, 1), DICT_OK);
}

static void
survives_a_holder_killed_at_any_instruction(void **state)
{
    (void)state;
    enum { NEIGHBOURS = 40, STRIDE = INSTRUMENTED ? 29 : 3, FILL_EVERY = 500 };
    char text[32];
    unsigned deaths = 0, capacity;
    int status = 0;
    for (unsigned i = 0; i < NEIGHBOURS; i++)
        assert_int_equal(put(key_of(i, text), (struct slice){long_text, i * 11}, 0, 1), DICT_OK);
    capacity = fill(0, 1);
    for (unsigned i = NEIGHBOURS; i < capacity + 1000; i++)
        (void)!dict_delete(shm, dict, 0, key_of(i, text), 1);
    for (unsigned i = 0; i < NEIGHBOURS; i++) /* fill() made numbers of them */
        assert_int_equal(put(key_of(i, text), (struct slice){long_text, i * 11}, 0, 1), DICT_OK);
    for (stop_before = 0; stop_before < OP_COUNT; stop_before++) {
        for (steps = 1;; steps += STRIDE, deaths++) {
            pid_t pid = fork_worker(die_at_step, 1);
            assert_int_equal(waitpid(pid, &status, 0), pid);
            shm_worker_reap(shm, 1);
            expect_sound(NEIGHBOURS, capacity, deaths % FILL_EVERY == 0 || WIFEXITED(status));
            if (WIFEXITED(status)) break;
            assert_int_equal(WTERMSIG(status), SIGKILL);
        }
        assert_int_equal(status, 0); /* the last one lived */
    }
    print_message("killed at %u places\n", deaths);
}
#else
static void
survives_a_holder_killed_at_any_instruction(void **state)
{
    (void)state;
    skip();
}
#endif

/* It holds the lock nearly always, so that a stop or a kill mostly falls inside. */
static void
a_holder_that_is_stopped_costs_others_an_error_and_one_that_is_killed_nothing(void **state)
{
    (void)state;
    unsigned busy = 0;
    struct dict_value value;
    for (unsigned round = 0; round < 10 || (busy == 0 && round < 10000); round++) {
        int status;
        pid_t pid = fork_worker(hold_for_ever, 0);
        while (dict_get(shm, dict, 1, SLICE_LIT("k"), 1, buffer, &value) != DICT_OK) {
        }
        assert_int_equal(kill(pid, SIGSTOP), 0);
        assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
        enum dict_result result = dict_get(shm, dict, 1, SLICE_LIT("k"), 1, buffer, &value);
        assert_true(result == DICT_OK || result == DICT_BUSY);
        busy += result == DICT_BUSY;
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        shm_worker_reap(shm, 0);
        result = dict_get(shm, dict, 1, SLICE_LIT("k"), 1, buffer, &value);
        assert_true(result == DICT_OK || result == DICT_NONE);
        if (result == DICT_OK) assert_memory_equal(buffer, long_text, DICT_VALUE_BYTES);
        assert_int_equal(put(SLICE_LIT("k"), SLICE_LIT("new"), 0, 1), DICT_OK);
        expect_text(SLICE_LIT("k"), SLICE_LIT("new"), 1);
        assert_int_equal(dict_delete(shm, dict, 0, SLICE_LIT("k"), 1), DICT_OK);
    }
    assert_true(busy > 0);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_segment, close_segment)
    const struct CMUnitTest tests[] = {
        TEST(values_of_each_kind_come_back),
        TEST(dictionaries_are_apart_and_their_number_is_bounded),
        TEST(their_size_and_number_are_the_segments),
        TEST(keys_and_values_have_bounds),
        TEST(keys_and_values_of_every_length_keep_apart),
        TEST(a_value_grows_and_shrinks_in_place),
        TEST(an_entry_ends_at_its_time),
        TEST(incr_makes_adds_and_refuses_what_is_no_number),
        TEST(a_bucket_gives_its_burst_and_then_its_rate),
        TEST(a_bucket_that_filled_up_leaves_no_entry),
        TEST(full_refuses_and_loses_nothing),
        TEST(expired_entries_make_room_before_it_is_full),
        TEST(counts_are_exact_over_processes),
        TEST(a_bucket_gives_exactly_its_tokens_to_all_processes),
        TEST(survives_a_holder_killed_at_any_instruction),
        TEST(a_holder_that_is_stopped_costs_others_an_error_and_one_that_is_killed_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
