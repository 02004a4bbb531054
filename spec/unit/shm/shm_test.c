#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <errno.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/shm/shm.h"

static struct shm *
make(void)
{
    struct shm *shm = shm_create(&(struct shm_params){.max_endpoints = 65536, .stats_bytes = 5000});
    assert_non_null(shm);
    return shm;
}

static void
names_are_given_once_and_seen_by_children(void **state)
{
    (void)state;
    struct shm *shm = make();
    uint32_t users = shm_name_add(shm, slice_of("users"));
    assert_int_equal(shm_name_add(shm, slice_of("users")), users);
    assert_int_equal(shm_name_find(shm, slice_of("web")), UINT32_MAX);
    assert_string_equal(shm_name_text(shm, users), "users");
    assert_string_equal(shm_name_text(shm, users + 1), "");
    assert_string_equal(shm_name_text(shm, UINT32_MAX), "");
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        for (;;) { /* added after the fork */
            uint32_t id = shm_name_find(shm, slice_of("web"));
            if (id != UINT32_MAX) _exit(strcmp(shm_name_text(shm, id), "web") == 0 ? 0 : 1);
        }
    }
    assert_true(shm_name_add(shm, slice_of("web")) != UINT32_MAX);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    char text[SHM_NAME_BYTES];
    memset(text, 'x', sizeof(text));
    assert_int_equal(shm_name_add(shm, (struct slice){text, sizeof(text)}), UINT32_MAX);
    assert_true(shm_name_add(shm, (struct slice){text, sizeof(text) - 1}) != UINT32_MAX);
    shm_destroy(shm);
}

static void
names_fill_up_and_refuse(void **state)
{
    (void)state;
    struct shm *shm = make();
    char text[16];
    for (uint32_t i = 0; i < SHM_NAMES_MAX; i++) {
        snprintf(text, sizeof(text), "n%u", i);
        assert_int_equal(shm_name_add(shm, slice_of(text)), i);
    }
    assert_int_equal(shm_name_add(shm, slice_of("one more")), UINT32_MAX);
    assert_int_equal(shm_name_find(shm, slice_of("n777")), 777);
    shm_destroy(shm);
}

static void
counters_are_made_once_and_fill_up(void **state)
{
    (void)state;
    struct shm *shm = make();
    char text[16];
    _Atomic uint64_t *first = shm_counter(shm, slice_of("c0"));
    for (uint32_t i = 0; i < SHM_COUNTERS_MAX; i++) {
        snprintf(text, sizeof(text), "c%u", i);
        _Atomic uint64_t *counter = shm_counter(shm, slice_of(text));
        assert_non_null(counter);
        assert_int_equal(atomic_fetch_add(counter, 1), 0);
    }
    assert_null(shm_counter(shm, slice_of("one more")));
    assert_ptr_equal(shm_counter(shm, slice_of("c0")), first);
    assert_int_equal(atomic_load(first), 1);
    shm_destroy(shm);
}

static void
claim_all(struct shm *shm)
{
    char text[16];
    for (uint32_t i = 0; i < 1000; i++) {
        snprintf(text, sizeof(text), "c%u", i);
        atomic_fetch_add(shm_counter(shm, slice_of(text)), 1);
    }
}

static void
racing_claimers_share_one_counter(void **state)
{
    (void)state;
    struct shm *shm = make();
    pid_t pids[4];
    for (int i = 0; i < 4; i++) {
        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (pids[i] == 0) {
            claim_all(shm);
            _exit(0);
        }
    }
    for (int i = 0; i < 4; i++)
        assert_int_equal(waitpid(pids[i], NULL, 0), pids[i]);
    char text[16];
    for (uint32_t i = 0; i < 1000; i++) {
        snprintf(text, sizeof(text), "c%u", i);
        assert_int_equal(atomic_load(shm_counter(shm, slice_of(text))), 4);
    }
    shm_destroy(shm);
}

static void
regions_are_apart_and_zero(void **state)
{
    (void)state;
    struct shm *shm = make();
    size_t bytes;
    char *a = shm_stats_region(shm, 0, &bytes), *b = shm_stats_region(shm, 1, &bytes);
    assert_int_equal(bytes % 4096, 0);
    assert_true(bytes >= 5000);
    assert_true(b - a >= (ptrdiff_t)bytes);
    for (size_t i = 0; i < bytes; i++)
        assert_int_equal(b[i], 0);
    memset(a, 1, bytes);
    assert_int_equal(b[0], 0);
    uint8_t zero[32] = {0};
    assert_memory_not_equal(shm_secret(shm), zero, 32);
    shm_destroy(shm);
}

static void
bad_parameters_are_refused(void **state)
{
    (void)state;
    errno = 0;
    assert_null(shm_create(&(struct shm_params){0}));
    assert_int_equal(errno, EINVAL);
    shm_destroy(NULL);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_given_once_and_seen_by_children),
        cmocka_unit_test(names_fill_up_and_refuse),
        cmocka_unit_test(counters_are_made_once_and_fill_up),
        cmocka_unit_test(racing_claimers_share_one_counter),
        cmocka_unit_test(regions_are_apart_and_zero),
        cmocka_unit_test(bad_parameters_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
