#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/shm/ring.h"

static struct shm *
make(void)
{
    struct shm *shm = shm_create(&(struct shm_params){.max_endpoints = 1, .ring_bytes = 1 << 16});
    assert_non_null(shm);
    return shm;
}

static uint32_t
random_next(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

/* Line number n: its length and bytes follow from n alone. */
static size_t
line_make(uint32_t n, char *out)
{
    uint32_t seed = n * 2654435761u;
    size_t len = 4 + random_next(&seed) % (n % 50 == 0 ? 16000 : 300);
    memcpy(out, &n, 4);
    for (size_t i = 4; i < len; i++)
        out[i] = (char)(n + i);
    return len;
}

struct seen {
    uint32_t next;
    bool gaps_allowed;
};

static void
on_line(void *context, enum ring_kind kind, const char *line, size_t len)
{
    static char want[20000];
    struct seen *seen = context;
    uint32_t n;
    assert_true(len >= 4);
    memcpy(&n, line, 4);
    if (seen->gaps_allowed)
        assert_true(n >= seen->next);
    else
        assert_int_equal(n, seen->next);
    assert_int_equal(len, line_make(n, want));
    assert_memory_equal(line, want, len);
    assert_int_equal(kind, n % 2 == 0 ? RING_LOG : RING_ACCESS);
    seen->next = n + 1;
}

/* Puts and drains at random against a queue that is only two numbers. */
static void
keeps_order_against_a_model(void **state)
{
    (void)state;
    static char line[20000];
    struct shm *shm = make();
    struct ring *ring = shm_ring(shm, 3);
    struct seen seen = {0, false};
    uint32_t seed = 1, put = 0, full = 0;
    for (int step = 0; step < 50000; step++) {
        if (random_next(&seed) % 100 < 85) {
            size_t len = line_make(put, line);
            enum ring_kind kind = put % 2 == 0 ? RING_LOG : RING_ACCESS;
            bool done;
            if (random_next(&seed) % 2 == 0) {
                done = ring_put(ring, kind, line, len);
            } else {
                size_t more = len + random_next(&seed) % 200;
                char *to = ring_reserve(ring, more > 16384 ? 16384 : more);
                done = to != NULL;
                if (done) {
                    memcpy(to, line, len);
                    ring_commit(ring, kind, len);
                }
            }
            if (done)
                put++;
            else
                full++;
        } else {
            size_t most = random_next(&seed) % 8;
            assert_true(ring_drain(ring, most, on_line, &seen) <= most);
        }
    }
    ring_drain(ring, SIZE_MAX, on_line, &seen);
    assert_int_equal(seen.next, put);
    assert_true(ring_is_empty(ring));
    assert_true(full > 0 && put > 1000);
    shm_destroy(shm);
}

static void
refuses_lines_that_are_too_long(void **state)
{
    (void)state;
    static char line[20000];
    struct shm *shm = make();
    struct ring *ring = shm_ring(shm, 0);
    assert_false(ring_put(ring, RING_LOG, line, 16385));
    assert_false(ring_put(ring, RING_LOG, line, 0));
    assert_true(ring_put(ring, RING_LOG, line, 16384));
    assert_null(ring_reserve(ring, 16385));
    shm_destroy(shm);
}

static void
put_for_ever(struct ring *ring, uint32_t from)
{
    static char line[20000];
    for (uint32_t n = from;; n++) {
        size_t len = line_make(n, line);
        while (!ring_put(ring, n % 2 == 0 ? RING_LOG : RING_ACCESS, line, len))
            sched_yield();
    }
}

/* A line that was being written when its worker died may be lost; none is ever torn, and the successor goes
 * on. */
static void
survives_writers_killed_anywhere(void **state)
{
    (void)state;
    struct shm *shm = make();
    struct ring *ring = shm_ring(shm, 0);
    struct seen seen = {0, false};
    for (int round = 0; round < 25; round++) {
        uint32_t from = seen.next;
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            put_for_ever(ring, from);
        }
        while (seen.next < from + 20 + (uint32_t)round * 11)
            ring_drain(ring, 3, on_line, &seen);
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        ring_drain(ring, SIZE_MAX, on_line, &seen);
        assert_true(ring_is_empty(ring));
    }
    shm_destroy(shm);
}

static void
on_any(void *context, enum ring_kind kind, const char *line, size_t len)
{
    (void)kind;
    (void)line;
    assert_true(len <= 16384);
    (*(size_t *)context)++;
}

/* Stray writes over the whole ring: draining ends, stays inside, and the ring works again. */
static void
survives_damage(void **state)
{
    (void)state;
    struct shm *shm = make();
    struct ring *ring = shm_ring(shm, 0);
    uint32_t seed = 7;
    char *first = ring_reserve(ring, 16); /* nothing before it is the ring's data */
    assert_non_null(first);
    for (int round = 0; round < 500; round++) {
        size_t lines = 0;
        for (int i = 0; i < 30; i++)
            (void)ring_put(ring, RING_LOG, "0123456789abcdef", 16);
        char *to = ring_reserve(ring, 64);
        assert_non_null(to);
        for (int i = 0; i < 40; i++) {
            char *hit = to - random_next(&seed) % 600;
            if (hit >= first - 8) *hit = (char)random_next(&seed);
        }
        assert_true(ring_drain(ring, 1000, on_any, &lines) <= 31);
        assert_true(ring_is_empty(ring));
    }
    size_t lines = 0;
    assert_true(ring_put(ring, RING_LOG, "back\n", 5));
    assert_int_equal(ring_drain(ring, 10, on_any, &lines), 1);
    shm_destroy(shm);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeps_order_against_a_model),
        cmocka_unit_test(refuses_lines_that_are_too_long),
        cmocka_unit_test(survives_writers_killed_anywhere),
        cmocka_unit_test(survives_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
