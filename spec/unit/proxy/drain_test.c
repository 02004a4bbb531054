/* links: shm metrics config */
#include "spec/unit/proxy/rig.h"

#define GET "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
#define OK  "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

static void
on_drained(void *context)
{
    ((struct rig *)context)->drained = true;
}

static void
a_reload_keeps_connections_and_lets_requests_finish(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, GET);
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    rig_use(rig, RIG_YAML("  - match: { path_prefix: /new }\n    service: web\n", ""));
    rig_say(rig, backend, OK);
    rig_expect(rig, client, "\r\n\r\nok");
    rig_forget(client);
    rig_say(rig, client, GET);
    rig_expect(rig, client, "404 no_route: ");
    rig_say(rig, client, "GET /new HTTP/1.1\r\nHost: a\r\n\r\n");
    rig_expect(rig, backend, "GET /new ");
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
a_client_in_full_swing_is_told_before_its_connection_goes(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, GET);
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    rig_say(rig, backend, OK);
    rig_expect(rig, client, "\r\n\r\nok");
    rig_forget(client);
    proxy_drain(rig->proxy, 5000000, 5000000, on_drained, rig);
    for (int i = 0; i < 10; i++)
        rig_turn(rig);
    rig_say(rig, client, GET);
    struct heard *second = rig_backend(rig, 0);
    rig_expect(rig, second, "\r\n\r\n");
    rig_say(rig, second, OK);
    rig_expect(rig, client, "Connection: close\r\n");
    rig_expect_end(rig, client);
    RIG_WAIT(rig, "the drain's end", rig->drained);
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_hang_up(second);
    rig_free(rig);
}

static void
a_drain_ends_idle_connections_and_waits_for_requests(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *idle = rig_client(rig), *busy = rig_client(rig);
    (void)state;
    rig_say(rig, idle, GET);
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    rig_say(rig, backend, OK);
    rig_expect(rig, idle, "\r\n\r\nok");
    rig_forget(backend);
    rig_say(rig, busy, GET);
    rig_expect(rig, backend, "\r\n\r\n");
    struct heard *queued = rig_client(rig); /* still in the kernel's queue when the drain begins */
    LINK_OF(rig->proxy->idle_conns.next, struct conn, link)->deadline.due_us -= 2000000; /* idle for 2 s */
    proxy_drain(rig->proxy, 5000000, 5000000, on_drained, rig);
    rig_expect_end(rig, idle);
    rig_say(rig, queued, GET);
    struct heard *second = rig_backend(rig, 0);
    rig_expect(rig, second, "\r\n\r\n");
    rig_say(rig, second, OK);
    rig_expect(rig, queued, "Connection: close\r\n");
    assert_false(rig->drained);
    rig_say(rig, backend, OK);
    rig_expect(rig, busy, "Connection: close\r\n");
    rig_expect_end(rig, busy);
    RIG_WAIT(rig, "the drain's end", rig->drained);
    assert_true(proxy_is_idle(rig->proxy));
    rig_hang_up(idle);
    rig_hang_up(busy);
    rig_hang_up(queued);
    rig_hang_up(backend);
    rig_hang_up(second);
    rig_free(rig);
}

static void
a_drain_cuts_what_passes_its_limit(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, GET);
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    proxy_drain(rig->proxy, 300000, 300000, on_drained, rig);
    RIG_WAIT(rig, "the drain's end", rig->drained);
    rig_expect_end(rig, client);
    rig_expect_end(rig, backend);
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
a_replaced_listener_serves_its_queue_first(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    uint16_t port;
    (void)state;
    int fd = rig_listen(&port);
    assert_true(proxy_listen(rig->proxy, &fd, 1));
    rig_say(rig, client, GET);
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    rig_say(rig, backend, OK);
    rig_expect(rig, client, "\r\n\r\nok");
    struct heard *newer = rig_hear(rig_connect(port));
    rig_say(rig, newer, GET);
    rig_expect(rig, backend, "GET / ");
    rig_hang_up(client);
    rig_hang_up(newer);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
a_dump_names_each_stream(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    struct strbuf dump = {0};
    (void)state;
    rig_say(rig, client, "GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    proxy_dump(rig->proxy, &dump);
    assert_non_null(strstr(dump.at, "stream state=WAIT "));
    assert_non_null(strstr(dump.at, "path=\"/slow\""));
    strbuf_fini(&dump);
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_reload_keeps_connections_and_lets_requests_finish),
        cmocka_unit_test(a_client_in_full_swing_is_told_before_its_connection_goes),
        cmocka_unit_test(a_drain_ends_idle_connections_and_waits_for_requests),
        cmocka_unit_test(a_drain_cuts_what_passes_its_limit),
        cmocka_unit_test(a_replaced_listener_serves_its_queue_first),
        cmocka_unit_test(a_dump_names_each_stream),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
