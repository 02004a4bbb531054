/* links: shm metrics config */
#include "spec/unit/proxy/rig.h"

#define UPGRADE                                                                                              \
    "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: "                            \
    "websocket\r\nSec-WebSocket-Key: x\r\n\r\n"
#define SWITCH                                                                                               \
    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: "                                   \
    "websocket\r\nSec-WebSocket-Accept: y\r\n\r\n"

static void
a_tunnel_opens_with_the_backends_101_and_half_closes(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, UPGRADE "early");
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    assert_non_null(strstr(backend->text, "Upgrade: websocket\r\n"));
    assert_non_null(strstr(backend->text, "Connection: upgrade\r\n"));
    for (int i = 0; i < 10; i++)
        rig_turn(rig);
    heard_read(backend);
    assert_null(strstr(backend->text, "early"));
    rig_say(rig, backend, SWITCH "first");
    rig_expect(rig, backend, "early");
    rig_expect(rig, client, "Sec-WebSocket-Accept: y\r\n");
    rig_expect(rig, client, "\r\n\r\nfirst");
    assert_int_equal(atomic_load(&shm_worker(rig->shm, 0)->tunnels), 1);
    rig_say(rig, client, "ping");
    rig_expect(rig, backend, "ping");
    shutdown(client->fd, SHUT_WR);
    rig_expect_end(rig, backend);
    rig_say(rig, backend, "last words");
    rig_expect(rig, client, "last words");
    rig_hang_up(backend);
    rig_expect_end(rig, client);
    assert_int_equal(client->end, HEARD_FIN);
    rig_expect_log(rig, "status=101 reason=\"-\"");
    rig_hang_up(client);
    rig_free(rig);
}

/* Seen while the backend thought about it, it was never passed on: the tunnel lasted until tunnel_idle. */
static void
a_half_close_before_the_101_reaches_the_backend(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, UPGRADE);
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    shutdown(client->fd, SHUT_WR);
    struct conn *conn = LINK_OF(rig->proxy->busy_conns.next, struct conn, link);
    RIG_WAIT(rig, "the proxy sees its FIN", conn->input == INPUT_ENDED);
    rig_say(rig, backend, SWITCH "first");
    rig_expect(rig, client, "\r\n\r\nfirst");
    rig_expect_end(rig, backend);
    rig_say(rig, backend, "last words");
    rig_expect(rig, client, "last words");
    rig_hang_up(backend);
    rig_expect_end(rig, client);
    rig_expect_log(rig, "status=101 reason=\"-\"");
    rig_hang_up(client);
    rig_free(rig);
}

/* The head's buffer goes back to the pool, and the tunnel's own bytes came to stand there. */
static void
the_log_of_a_tunnel_names_its_request(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, UPGRADE);
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    rig_say(rig, backend, SWITCH);
    rig_expect(rig, client, "\r\n\r\n");
    for (int i = 0; i < 4; i++) {
        rig_say(rig, client, "secret secret secret secret secret secret");
        rig_expect(rig, backend, "secret secret");
        rig_forget(backend);
    }
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_expect_log(rig, "method=\"GET\" host=\"a\" path=\"/ws\" status=101");
    assert_null(strstr(rig->log, "secret"));
    rig_free(rig);
}

static void
a_log_line_of_ones_own_holds_what_it_names(void **state)
{
    struct rig *rig =
        rig_new("listeners: [ { address: 127.0.0.1:0 } ]\nworkers: 1\n"
                "routes:\n  - match: { path_prefix: / }\n    service: web\n"
                "services: { web: { endpoints: [ \"127.0.0.1:1\" ] } }\n"
                "log: { access: \"-\", access_format: '<$method $path?$query $protocol> $status "
                "$reason $user_agent $referer $service cost 5 %' }\n",
            1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client,
        "GET /ws?a=1 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "User-Agent: \"x\\\r\n\r\n");
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    rig_say(rig, backend, SWITCH);
    rig_expect(rig, client, "\r\n\r\n");
    for (int i = 0; i < 4; i++) {
        rig_say(rig, client, "secret secret secret secret secret secret secret secret secret secret secret");
        rig_expect(rig, backend, "secret secret");
        rig_forget(backend);
    }
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_expect_log(rig, "<GET /ws?a=1 HTTP/1.1> 101 - \\x22x\\x5c - web cost 5 %\n");
    client = rig_client(rig);
    rig_say(rig, client, "GET /gone HTTP/1.1\r\nHost: a\r\n\r\n");
    backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    struct linger now = {1, 0};
    assert_int_equal(setsockopt(client->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now), 0);
    rig_hang_up(client);
    rig_expect_log(rig, "<GET /gone?- HTTP/1.1> 499 client_gone - - web cost 5 %\n");
    rig_hang_up(backend);
    rig_free(rig);
}

static void
only_an_offered_protocol_is_switched_to(void **state)
{
    static const char *const answers[] = {
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    };
    (void)state;
    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        struct rig *rig = rig_new(RIG_PLAIN, 1);
        struct heard *client = rig_client(rig);
        rig_say(rig, client, UPGRADE);
        struct heard *backend = rig_backend(rig, 0);
        rig_expect(rig, backend, "\r\n\r\n");
        rig_say(rig, backend, answers[i]);
        rig_expect(rig, client, "502 bad_response: ");
        rig_expect_end(rig, backend);
        rig_hang_up(client);
        rig_hang_up(backend);
        rig_free(rig);
    }
}

/* RFC 9110 §15.5.22: a 426 that does not say to what is of no use. */
static void
an_answer_that_requires_an_upgrade_names_it(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    rig_say(rig, backend,
        "HTTP/1.1 426 Upgrade Required\r\nConnection: upgrade\r\nUpgrade: h2c, websocket\r\n"
        "Content-Length: 0\r\n\r\n");
    rig_expect(rig, client, "\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    rig_forget(client);
    rig_forget(backend);
    rig_say(rig, client, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    rig_expect(rig, backend, "\r\n\r\n");
    rig_say(rig, backend, "HTTP/1.1 426 x\r\nUpgrade: websocket/13\r\nContent-Length: 0\r\n\r\n");
    rig_expect(rig, client, "\r\nConnection: close, upgrade\r\nUpgrade: websocket/13\r\n\r\n");
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
a_refused_upgrade_is_an_ordinary_answer(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, UPGRADE);
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno");
    rig_expect(rig, client, "\r\n\r\nno");
    rig_say(rig, client, "GET /next HTTP/1.1\r\nHost: a\r\n\r\n");
    rig_expect(rig, backend, "GET /next ");
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
h2c_never_travels(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client,
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: "
        "AAMAAABkAAQAAP__\r\n\r\n");
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    assert_null(strcasestr(backend->text, "upgrade"));
    assert_null(strcasestr(backend->text, "http2-settings"));
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
tunnels_carry_much_both_ways_with_back_pressure(void **state)
{
    enum { TOTAL = 8 << 20 };
    static char piece[1 << 16], sink[1 << 16];
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    memset(piece, 'x', sizeof piece);
    rig_say(rig, client, UPGRADE);
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    rig_say(rig, backend, SWITCH);
    rig_expect(rig, client, "\r\n\r\n");
    for (int way = 0; way < 2; way++) {
        struct heard *from = way == 0 ? client : backend, *to = way == 0 ? backend : client;
        size_t sent = 0, got = 0;
        /* fills every buffer on the way before anything is read */
        for (int i = 0; i < 200 && sent + sizeof piece <= TOTAL; i++) {
            ssize_t n = send(from->fd, piece, sizeof piece, MSG_NOSIGNAL);
            if (n > 0) sent += (size_t)n;
            event_base_loop(rig->base, EVLOOP_NONBLOCK);
        }
        while (got < TOTAL || got < sent) { /* the buffers on the way may have taken more than TOTAL */
            ssize_t n = sent >= TOTAL
                            ? 0
                            : send(from->fd, piece, TOTAL - sent < sizeof piece ? TOTAL - sent : sizeof piece,
                                  MSG_NOSIGNAL);
            if (n > 0) sent += (size_t)n;
            event_base_loop(rig->base, EVLOOP_NONBLOCK);
            n = recv(to->fd, sink, sizeof sink, 0);
            if (n > 0) got += (size_t)n;
        }
        assert_int_equal(got, sent);
    }
    rig_hang_up(client);
    rig_expect_end(rig, backend);
    rig_hang_up(backend);
    RIG_WAIT(rig, "the tunnel's end", proxy_is_idle(rig->proxy));
    rig_free(rig);
}

static void
on_drained(void *context)
{
    ((struct rig *)context)->drained = true;
}

static void
idle_tunnels_end(void **state)
{
    struct rig *rig = rig_new(
        RIG_YAML("  - match: { path_prefix: / }\n    service: web\n", "timeouts: { tunnel_idle: 200ms }\n"),
        1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, UPGRADE);
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    rig_say(rig, backend, SWITCH);
    rig_expect(rig, client, "\r\n\r\n");
    rig_expect_end(rig, client);
    rig_expect_end(rig, backend);
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
tunnels_outlive_reloads_and_drain_by_their_own_limit(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, UPGRADE);
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    rig_say(rig, backend, SWITCH);
    rig_expect(rig, client, "\r\n\r\n");
    rig_use(rig, RIG_PLAIN);
    assert_int_equal(rig->proxy->generation->refs, 1);
    rig_say(rig, client, "still here");
    rig_expect(rig, backend, "still here");
    proxy_drain(rig->proxy, 100000, 600000, on_drained, rig);
    uint64_t began_us = clock_now_us();
    rig_say(rig, backend, "and back");
    rig_expect(rig, client, "and back");
    RIG_WAIT(rig, "the drain's end", rig->drained);
    assert_true(clock_now_us() - began_us > 400000);
    rig_expect_end(rig, client);
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_tunnel_opens_with_the_backends_101_and_half_closes),
        cmocka_unit_test(a_half_close_before_the_101_reaches_the_backend),
        cmocka_unit_test(the_log_of_a_tunnel_names_its_request),
        cmocka_unit_test(a_log_line_of_ones_own_holds_what_it_names),
        cmocka_unit_test(only_an_offered_protocol_is_switched_to),
        cmocka_unit_test(a_refused_upgrade_is_an_ordinary_answer),
        cmocka_unit_test(an_answer_that_requires_an_upgrade_names_it),
        cmocka_unit_test(h2c_never_travels),
        cmocka_unit_test(tunnels_carry_much_both_ways_with_back_pressure),
        cmocka_unit_test(idle_tunnels_end),
        cmocka_unit_test(tunnels_outlive_reloads_and_drain_by_their_own_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
