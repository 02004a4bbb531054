/* links: shm metrics config */
#include "spec/unit/proxy/rig.h"

#define GET "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
#define OK  "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

static void
clients_of_a_stopped_sibling_are_served(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    uint16_t port;
    int sibling = rig_listen(&port), copies[2] = {dup(sibling), dup(sibling)};
    struct heard *clients[3], *backends[3];
    (void)state;
    for (unsigned i = 0; i < 3; i++)
        clients[i] = rig_hear(rig_connect(port));
    proxy_accept_from(rig->proxy, copies, 2);
    for (unsigned i = 0; i < 3; i++) {
        rig_say(rig, clients[i], GET);
        backends[i] = rig_backend(rig, 0);
        rig_expect(rig, backends[i], "\r\n\r\n");
    }
    for (unsigned i = 0; i < 3; i++) {
        rig_say(rig, backends[i], OK);
        rig_expect(rig, clients[i], "\r\n\r\nok");
        rig_hang_up(clients[i]);
        rig_hang_up(backends[i]);
    }
    assert_int_equal(fcntl(copies[0], F_GETFD), -1); /* both were taken */
    assert_int_equal(fcntl(copies[1], F_GETFD), -1);
    assert_int_equal(fcntl(sibling, F_GETFD), FD_CLOEXEC);
    close(sibling);
    rig_free(rig);
}

static void
on_drained(void *context)
{
    ((struct rig *)context)->drained = true;
}

static void
a_draining_worker_takes_nobody_from_a_sibling(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    uint16_t port;
    int sibling = rig_listen(&port), copy = dup(sibling);
    struct heard *client = rig_hear(rig_connect(port));
    (void)state;
    proxy_drain(rig->proxy, 1000000, 1000000, on_drained, rig);
    proxy_accept_from(rig->proxy, &copy, 1);
    assert_int_equal(fcntl(copy, F_GETFD), -1);
    int fd = accept4(sibling, NULL, NULL, SOCK_NONBLOCK);
    assert_int_not_equal(fd, -1); /* it still waits for one who serves it */
    close(fd);
    close(sibling);
    rig_hang_up(client);
    rig_free(rig);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clients_of_a_stopped_sibling_are_served),
        cmocka_unit_test(a_draining_worker_takes_nobody_from_a_sibling),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
