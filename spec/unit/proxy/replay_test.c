/* links: shm metrics config */
#include "spec/unit/proxy/rig.h"

#define GET  "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
#define POST "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
#define OK   "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

/* A full accept queue drops SYN: nobody connects to backend i from here on. */
static void
fill_queue(struct rig *rig, unsigned i, int filler[4])
{
    assert_int_equal(listen(rig->backend[i], 0), 0);
    for (int n = 0; n < 4; n++) {
        struct sockaddr_in address = {.sin_family = AF_INET,
            .sin_port = htons(rig->backend_port[i]),
            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        filler[n] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        (void)!connect(filler[n], (struct sockaddr *)&address, sizeof address);
    }
}

static void
drain_queue(int filler[4])
{
    for (int n = 0; n < 4; n++)
        close(filler[n]);
}

/* One whole exchange that leaves a connection in backend 0's pool. */
static struct heard *
warm_up(struct rig *rig, struct heard *client)
{
    rig_say(rig, client, GET);
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    rig_say(rig, backend, OK);
    rig_expect(rig, client, "\r\n\r\nok");
    rig_forget(client);
    rig_forget(backend);
    return backend;
}

static void
a_request_cut_by_fin_does_not_wait_for_its_connection(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    int filler[4];
    (void)state;
    fill_queue(rig, 0, filler);
    struct heard *client = rig_client(rig);
    rig_say(rig, client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
    for (int i = 0; i < 10; i++)
        rig_turn(rig);
    uint64_t began_us = clock_now_us();
    shutdown(client->fd, SHUT_WR);
    rig_expect_end(rig, client);
    assert_true(clock_now_us() - began_us < 1000000);
    rig_expect_log(rig, "status=499 reason=\"client_gone\"");
    assert_int_equal(fake_failures, 0);
    drain_queue(filler);
    rig_hang_up(client);
    rig_free(rig);
}

static void
what_a_pooled_connection_held_back_is_not_the_answer(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    struct heard *backend = warm_up(rig, client);
    rig_say(rig, client, GET);
    rig_expect(rig, backend, "GET / ");
    rig_say(rig, backend, "left over from before\r\n\r\n");
    struct heard *fresh = rig_backend(rig, 0);
    rig_expect(rig, fresh, "GET / ");
    rig_say(rig, fresh, "neither is this\r\n\r\n");
    rig_expect(rig, client, "502 bad_response: ");
    assert_int_equal(fake_failures, 1);
    assert_false(rig_has_connection(rig, 0));
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_hang_up(fresh);
    rig_free(rig);
}

static void
a_post_answered_by_garbage_is_not_sent_again(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    struct heard *backend = warm_up(rig, client);
    rig_say(rig, client, POST);
    rig_expect(rig, backend, "\r\n\r\nhi");
    rig_say(rig, backend, "left over from before\r\n\r\n");
    rig_expect(rig, client, "502 bad_response: ");
    assert_false(rig_has_connection(rig, 0));
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_cut_by_fin_does_not_wait_for_its_connection),
        cmocka_unit_test(what_a_pooled_connection_held_back_is_not_the_answer),
        cmocka_unit_test(a_post_answered_by_garbage_is_not_sent_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
