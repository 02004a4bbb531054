#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/net/listener.h"

static struct config_address
tcp(const char *host, uint16_t port)
{
    return (struct config_address){.text = host, .host = host, .port = port};
}

static uint16_t
port_of(int fd)
{
    struct sockaddr_storage at;
    socklen_t len = sizeof(at);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    return ntohs(at.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&at)->sin6_port
                                          : ((struct sockaddr_in *)&at)->sin_port);
}

static int
dial(const char *host, uint16_t port)
{
    struct sockaddr_storage to;
    socklen_t len;
    assert_int_equal(address_resolve(host, port, &to, &len), 0);
    int fd = socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd != -1 && connect(fd, (struct sockaddr *)&to, len) == -1) {
        close(fd);
        return -1;
    }
    return fd;
}

static void
sockets_share_the_port_that_the_kernel_chose(void **state)
{
    (void)state;
    struct config_address address = tcp("127.0.0.1", 0);
    int fds[4];
    const char *why;
    assert_true(listener_open(&address, true, 4, fds, &why));
    uint16_t port = port_of(fds[0]);
    assert_int_not_equal(port, 0);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(port_of(fds[i]), port);
        assert_true(fcntl(fds[i], F_GETFL) & O_NONBLOCK);
        assert_true(fcntl(fds[i], F_GETFD) & FD_CLOEXEC);
    }
    char name[128], want[128];
    listener_name(fds[1], name);
    snprintf(want, sizeof(want), "127.0.0.1:%u", port);
    assert_string_equal(name, want);
    int client = dial("127.0.0.1", port);
    assert_int_not_equal(client, -1);
    close(client);
    for (int i = 0; i < 4; i++)
        close(fds[i]);
}

static void
without_reuseport_a_taken_port_is_refused(void **state)
{
    (void)state;
    struct config_address address = tcp("127.0.0.1", 0);
    int first[1], second[2];
    const char *why;
    assert_true(listener_open(&address, false, 1, first, &why));
    address.port = port_of(first[0]);
    assert_false(listener_open(&address, false, 2, second, &why));
    assert_int_equal(errno, EADDRINUSE);
    close(first[0]);
}

static void
no_host_takes_both_families(void **state)
{
    (void)state;
    struct config_address address = tcp("", 0);
    int fd;
    const char *why;
    assert_true(listener_open(&address, true, 1, &fd, &why));
    int client = dial("127.0.0.1", port_of(fd));
    assert_int_not_equal(client, -1);
    int peer = -1;
    struct sockaddr_storage from;
    while (peer == -1) {
        socklen_t len = sizeof(from);
        peer = accept(fd, (struct sockaddr *)&from, &len);
        assert_true(peer != -1 || errno == EAGAIN);
    }
    char name[128];
    address_format((struct sockaddr *)&from, name, sizeof(name), false);
    assert_string_equal(name, "127.0.0.1"); /* not ::ffff:127.0.0.1 */
    close(peer);
    close(client);
    close(fd);
}

static void
a_v6_literal_leaves_v4_alone(void **state)
{
    (void)state;
    struct config_address address = tcp("::1", 0);
    int fd;
    const char *why;
    if (!listener_open(&address, true, 1, &fd, &why)) {
        assert_true(errno == EADDRNOTAVAIL || errno == EAFNOSUPPORT);
        skip(); /* this machine has no IPv6 */
    }
    char name[128], want[128];
    listener_name(fd, name);
    snprintf(want, sizeof(want), "[::1]:%u", port_of(fd));
    assert_string_equal(name, want);
    assert_int_equal(dial("127.0.0.1", port_of(fd)), -1);
    close(fd);
}

static void
an_unknown_host_says_resolve(void **state)
{
    (void)state;
    struct config_address address = tcp("no-such-host.invalid", 1);
    int fd;
    const char *why;
    assert_false(listener_open(&address, true, 1, &fd, &why));
    assert_string_equal(why, "resolve");
}

struct unix_place {
    char folder[64];
    char path[96];
    struct config_address address;
};

static int
unix_setup(void **state)
{
    struct unix_place *place = calloc(1, sizeof(*place));
    if (place == NULL) return -1;
    snprintf(place->folder, sizeof(place->folder), "/tmp/fluxgate-net-XXXXXX");
    if (mkdtemp(place->folder) == NULL) return -1;
    snprintf(place->path, sizeof(place->path), "%s/gate", place->folder);
    place->address = (struct config_address){.text = place->path, .host = place->path, .is_unix = true};
    *state = place;
    return 0;
}

static int
unix_teardown(void **state)
{
    struct unix_place *place = *state;
    unlink(place->path);
    rmdir(place->folder);
    free(place);
    return 0;
}

static void
a_stale_unix_socket_is_replaced_and_a_living_one_kept(void **state)
{
    struct unix_place *place = *state;
    int fds[3], other[1];
    const char *why;
    assert_true(listener_open(&place->address, true, 3, fds, &why));
    char name[128], want[128];
    listener_name(fds[2], name);
    snprintf(want, sizeof(want), "unix:%s", place->path);
    assert_string_equal(name, want);
    assert_false(listener_open(&place->address, true, 1, other, &why));
    assert_int_equal(errno, EADDRINUSE);
    for (int i = 0; i < 3; i++)
        close(fds[i]);
    assert_true(listener_open(&place->address, true, 1, other, &why)); /* nobody answered */
    assert_true(socket_prepare(other[0]));
    close(other[0]);
}

static void
a_file_in_the_place_of_a_unix_socket_is_kept(void **state)
{
    struct unix_place *place = *state;
    int fd = open(place->path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600), listening;
    const char *why;
    struct stat st;
    assert_int_not_equal(fd, -1);
    close(fd);
    assert_false(listener_open(&place->address, true, 1, &listening, &why));
    assert_int_equal(errno, EADDRINUSE);
    assert_int_equal(stat(place->path, &st), 0);
}

static void
a_unix_path_that_is_too_long_is_refused(void **state)
{
    (void)state;
    char path[200];
    memset(path, 'x', sizeof(path) - 1);
    path[sizeof(path) - 1] = '\0';
    struct config_address address = {.text = path, .host = path, .is_unix = true};
    int fd;
    const char *why;
    assert_false(listener_open(&address, false, 1, &fd, &why));
    assert_int_equal(errno, ENAMETOOLONG);
}

static void
resolves_literals_and_localhost(void **state)
{
    (void)state;
    struct sockaddr_storage at;
    socklen_t len;
    char name[128];
    static const char *const same[][2] = {
        {"10.1.2.3", "10.1.2.3:80"}, {"::1", "[::1]:80"}, {"localhost", "127.0.0.1:80"}};
    for (size_t i = 0; i < sizeof(same) / sizeof(same[0]); i++) {
        assert_int_equal(address_resolve(same[i][0], 80, &at, &len), 0);
        address_format((struct sockaddr *)&at, name, sizeof(name), true);
        assert_string_equal(name, same[i][1]);
    }
    assert_int_not_equal(address_resolve("", 80, &at, &len), 0);
    assert_int_not_equal(address_resolve("300.1.2.3.invalid", 80, &at, &len), 0);
}

static void
a_connection_is_prepared(void **state)
{
    (void)state;
    int fd = socket(AF_INET, SOCK_STREAM, 0), value = 0;
    socklen_t len = sizeof(value);
    assert_true(socket_prepare(fd));
    assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &value, &len), 0);
    assert_int_not_equal(value, 0);
    assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    close(fd);
    assert_false(socket_prepare(-1));
    assert_int_equal(errno, EBADF);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sockets_share_the_port_that_the_kernel_chose),
        cmocka_unit_test(without_reuseport_a_taken_port_is_refused),
        cmocka_unit_test(no_host_takes_both_families),
        cmocka_unit_test(a_v6_literal_leaves_v4_alone),
        cmocka_unit_test(an_unknown_host_says_resolve),
        cmocka_unit_test_setup_teardown(
            a_stale_unix_socket_is_replaced_and_a_living_one_kept, unix_setup, unix_teardown),
        cmocka_unit_test_setup_teardown(
            a_file_in_the_place_of_a_unix_socket_is_kept, unix_setup, unix_teardown),
        cmocka_unit_test(a_unix_path_that_is_too_long_is_refused),
        cmocka_unit_test(resolves_literals_and_localhost),
        cmocka_unit_test(a_connection_is_prepared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
