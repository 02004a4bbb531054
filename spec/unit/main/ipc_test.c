/* core/main/ipc.c: messages and descriptors between supervisor and children. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/main/ipc.h"

static struct ipc_message out, in;

static void
carries_text_and_descriptors(void **state)
{
    int fds[2], pipes[2];
    struct stat a, b;
    (void)state;
    assert_true(ipc_pair(fds));
    assert_int_equal(pipe(pipes), 0);
    out = (struct ipc_message){
        .type = IPC_GENERATION, .number = 7, .bound = {.admin = 9901}, .hash = "0123456789abcdef"};
    out.fds[0] = pipes[0];
    out.fds[1] = pipes[1];
    out.fd_count = 2;
    strcpy(out.text, "fluxgate.yaml");
    out.text_len = (uint32_t)strlen(out.text);
    assert_true(ipc_send(fds[0], &out));
    assert_int_equal(ipc_receive(fds[1], &in), 1);
    assert_int_equal(in.number, 7);
    assert_int_equal(in.bound.admin, 9901);
    assert_string_equal(in.text, "fluxgate.yaml");
    assert_string_equal(in.hash, "0123456789abcdef");
    assert_int_equal(in.fd_count, 2);
    assert_int_equal(fstat(pipes[0], &a), 0);
    assert_int_equal(fstat(in.fds[0], &b), 0);
    assert_true(a.st_ino == b.st_ino);
    ipc_close_fds(&in);
    assert_int_equal(ipc_receive(fds[1], &in), 0);
    close(fds[0]);
    assert_int_equal(ipc_receive(fds[1], &in), -1);
    assert_int_equal(errno, ECONNRESET);
    close(fds[1]);
    close(pipes[0]);
    close(pipes[1]);
}

static void
refuses_what_is_no_message(void **state)
{
    int fds[2];
    (void)state;
    const size_t head = offsetof(struct ipc_message, fds);
    assert_true(ipc_pair(fds));
    assert_int_equal(send(fds[0], "short", 5, 0), 5);
    assert_int_equal(ipc_receive(fds[1], &in), -1);
    assert_int_equal(errno, EPROTO);
    out = (struct ipc_message){.type = IPC_TYPE_COUNT};
    assert_int_equal(send(fds[0], &out, head, 0), (int)head);
    assert_int_equal(ipc_receive(fds[1], &in), -1);
    out = (struct ipc_message){.type = IPC_ALIVE, .text_len = 5}; /* and no text behind it */
    assert_int_equal(send(fds[0], &out, head, 0), (int)head);
    assert_int_equal(ipc_receive(fds[1], &in), -1);
    assert_int_equal(errno, EPROTO);
    close(fds[0]);
    close(fds[1]);
}

static void
leaves_no_descriptor_of_a_refused_message(void **state)
{
    int fds[2];
    (void)state;
    assert_true(ipc_pair(fds));
    int lowest = dup(0);
    close(lowest);
    out = (struct ipc_message){.type = IPC_TYPE_COUNT};
    out.fds[0] = fds[0];
    out.fd_count = 1;
    assert_true(ipc_send(fds[0], &out));
    assert_int_equal(ipc_receive(fds[1], &in), -1);
    int after = dup(0);
    assert_int_equal(after, lowest);
    close(after);
    close(fds[0]);
    close(fds[1]);
}

static void
refuses_to_send_too_much(void **state)
{
    int fds[2];
    (void)state;
    assert_true(ipc_pair(fds));
    out = (struct ipc_message){.type = IPC_ALIVE, .text_len = IPC_TEXT_MAX};
    assert_false(ipc_send(fds[0], &out));
    assert_int_equal(errno, EMSGSIZE);
    close(fds[0]);
    close(fds[1]);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(carries_text_and_descriptors),
        cmocka_unit_test(refuses_what_is_no_message),
        cmocka_unit_test(leaves_no_descriptor_of_a_refused_message),
        cmocka_unit_test(refuses_to_send_too_much),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
