#include "core/net/batch.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static struct batch *
batch_here(void)
{
    struct batch *batch = batch_new();
    if (batch == NULL) skip(); /* no io_uring on this machine */
    return batch;
}

static void
pair_open(int ends[2])
{
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends), 0);
}

static void
pair_close(int ends[2])
{
    close(ends[0]);
    close(ends[1]);
}

static void
add(struct batch *batch, int fd, struct iovec iov[3], const char *a, const char *b, const char *c)
{
    const char *texts[] = {a, b, c};
    size_t count = 0;
    for (; count < 3 && texts[count] != NULL; count++)
        iov[count] = (struct iovec){(void *)texts[count], strlen(texts[count])};
    batch_add(batch, fd, iov, count);
}

static void
each_send_arrives_whole_and_in_its_order(void **state)
{
    struct batch *batch = batch_here();
    ssize_t results[BATCH_MAX];
    struct iovec iov[4][3];
    char got[64] = "";
    int one[2], other[2];
    (void)state;
    pair_open(one);
    pair_open(other);
    add(batch, one[0], iov[0], "a", NULL, NULL);
    add(batch, other[0], iov[1], "head ", "body", NULL);
    add(batch, one[0], iov[2], "b", "c", NULL);
    add(batch, one[0], iov[3], "d", "ef", "g");
    assert_true(batch_run(batch, results));
    const ssize_t want[] = {1, 9, 2, 4};
    assert_memory_equal(results, want, sizeof want);
    assert_int_equal(recv(one[1], got, sizeof got, 0), 7);
    assert_memory_equal(got, "abcdefg", 7);
    assert_int_equal(recv(other[1], got, sizeof got, 0), 9);
    assert_memory_equal(got, "head body", 9);
    pair_close(one);
    pair_close(other);
    batch_free(batch);
}

static void
long_vectors_are_sent_too(void **state)
{
    struct batch *batch = batch_here();
    ssize_t results[BATCH_MAX];
    static char body[5000], got[6000];
    struct iovec iov[2] = {{"head", 4}, {body, sizeof body}};
    int ends[2];
    (void)state;
    memset(body, 'b', sizeof body);
    pair_open(ends);
    batch_add(batch, ends[0], iov, 2);
    assert_true(batch_run(batch, results));
    assert_int_equal(results[0], 5004);
    assert_int_equal(recv(ends[1], got, sizeof got, 0), 5004);
    assert_memory_equal(got, "headbbbb", 8);
    pair_close(ends);
    batch_free(batch);
}

/* What a socket does not take at once stays with the caller, and nothing is sent later. */
static void
a_full_socket_takes_a_part_or_nothing_and_the_others_all(void **state)
{
    struct batch *batch = batch_here();
    ssize_t results[BATCH_MAX];
    size_t size = 8 << 20, heard = 0;
    char *much = calloc(1, size), got[65536];
    struct iovec iov = {much, size}, small[2][3];
    int full[2], other[2];
    (void)state;
    assert_non_null(much);
    pair_open(full);
    pair_open(other);
    batch_add(batch, full[0], &iov, 1);
    assert_true(batch_run(batch, results));
    assert_true(results[0] > 0 && (size_t)results[0] < size);
    size_t taken = (size_t)results[0];
    add(batch, full[0], small[0], "no", NULL, NULL);
    add(batch, other[0], small[1], "yes", NULL, NULL);
    assert_true(batch_run(batch, results));
    assert_int_equal(results[0], -EAGAIN);
    assert_int_equal(results[1], 3);
    for (ssize_t n; (n = recv(full[1], got, sizeof got, 0)) > 0;)
        heard += (size_t)n;
    assert_int_equal(errno, EAGAIN);
    assert_int_equal(heard, taken);
    pair_close(full);
    pair_close(other);
    free(much);
    batch_free(batch);
}

static void
a_peer_that_is_gone_is_an_error_and_no_signal(void **state)
{
    struct batch *batch = batch_here();
    ssize_t results[BATCH_MAX];
    struct iovec iov[3][3];
    int gone[2], there[2];
    (void)state;
    pair_open(gone);
    pair_open(there);
    close(gone[1]);
    add(batch, gone[0], iov[0], "x", NULL, NULL);
    add(batch, -1, iov[1], "x", "y", NULL);
    add(batch, there[0], iov[2], "z", NULL, NULL);
    assert_true(batch_run(batch, results));
    assert_int_equal(results[0], -EPIPE);
    assert_int_equal(results[1], -EBADF);
    assert_int_equal(results[2], 1);
    close(gone[0]);
    pair_close(there);
    batch_free(batch);
}

static void
a_batch_is_used_again_as_often_as_one_likes(void **state)
{
    struct batch *batch = batch_here();
    ssize_t results[BATCH_MAX];
    struct iovec iov[BATCH_MAX][3];
    char got[2 * BATCH_MAX];
    int ends[2];
    (void)state;
    pair_open(ends);
    for (int round = 0; round < 1000; round++) {
        for (int i = 0; i < BATCH_MAX; i++)
            add(batch, ends[0], iov[i], "1", "2", NULL);
        assert_true(batch_run(batch, results));
        for (int i = 0; i < BATCH_MAX; i++)
            assert_int_equal(results[i], 2);
        assert_int_equal(recv(ends[1], got, sizeof got, 0), sizeof got);
    }
    assert_true(batch_run(batch, results)); /* empty */
    pair_close(ends);
    batch_free(batch);
}

static void
the_environment_turns_it_off(void **state)
{
    (void)state;
    assert_int_equal(setenv("FLUXGATE_IO_URING", "0", 1), 0);
    errno = 0;
    struct batch *batch = batch_new();
    assert_null(batch);
    assert_int_equal(errno, EPERM);
    assert_int_equal(unsetenv("FLUXGATE_IO_URING"), 0);
    batch_free(NULL);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_send_arrives_whole_and_in_its_order),
        cmocka_unit_test(long_vectors_are_sent_too),
        cmocka_unit_test(a_full_socket_takes_a_part_or_nothing_and_the_others_all),
        cmocka_unit_test(a_peer_that_is_gone_is_an_error_and_no_signal),
        cmocka_unit_test(a_batch_is_used_again_as_often_as_one_likes),
        cmocka_unit_test(the_environment_turns_it_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
