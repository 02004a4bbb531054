/* links: shm metrics config */
#include "spec/unit/proxy/rig.h"

#define TIMED(times)                                                                                         \
    RIG_YAML("  - match: { path_prefix: / }\n    service: web\n", "timeouts: { " times " }\n")
#define GET  "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
#define POST "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
#define OK   "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

static void
stop_listening(struct rig *rig, unsigned i)
{
    close(rig->backend[i]);
    rig->backend[i] = -1;
}

static void
reset(struct heard *heard)
{
    struct linger now = {1, 0};
    assert_int_equal(setsockopt(heard->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now), 0);
    rig_hang_up(heard);
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
a_refused_connection_sends_the_request_to_another_endpoint(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 2);
    struct heard *client = rig_client(rig);
    (void)state;
    stop_listening(rig, 0);
    rig_say(rig, client, POST);
    struct heard *backend = rig_backend(rig, 1);
    rig_expect(rig, backend, "\r\n\r\nhi");
    rig_say(rig, backend, OK);
    rig_expect(rig, client, "\r\n\r\nok");
    rig_expect_log(rig, "status=200 reason=\"-\"");
    rig_expect_log(rig, "attempts=2");
    assert_int_equal(fake_failures, 1);
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
refused_everywhere_is_a_502_that_says_so(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 2);
    struct heard *client = rig_client(rig);
    (void)state;
    stop_listening(rig, 0);
    stop_listening(rig, 1);
    rig_say(rig, client, GET);
    rig_expect(rig, client, "502 connect_refused: the endpoint refused the connection\n");
    rig_expect_log(rig, "status=502 reason=\"connect_refused\"");
    assert_int_equal(fake_picks, 4); /* both, none that is new, and one of them again */
    rig_hang_up(client);
    rig_free(rig);
}

static void
a_stale_pooled_connection_is_replaced_unseen(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    struct heard *backend = warm_up(rig, client);
    rig_say(rig, client, GET);
    rig_expect(rig, backend, "GET / ");
    reset(backend);
    backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "GET / ");
    rig_say(rig, backend, OK);
    rig_expect(rig, client, "\r\n\r\nok");
    assert_int_equal(fake_failures, 0);
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
an_idle_connection_that_turns_readable_is_closed_at_once(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    struct heard *backend = warm_up(rig, client);
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
    rig_expect_end(rig, backend);
    rig_hang_up(backend);
    rig_say(rig, client, GET);
    backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "GET / ");
    rig_say(rig, backend, OK "surplus");
    rig_expect(rig, client, "\r\n\r\nok");
    rig_expect_end(rig, backend);
    assert_null(strstr(client->text, "surplus"));
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
a_post_that_may_have_run_is_never_sent_twice(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 2);
    struct heard *client = rig_client(rig);
    (void)state;
    struct heard *backend = warm_up(rig, client);
    rig_trust(rig, 0);
    rig_say(rig, client, POST);
    rig_expect(rig, backend, "\r\n\r\nhi");
    rig_hang_up(backend);
    rig_expect(rig, client, "502 reset_before_headers: ");
    assert_false(rig_has_connection(rig, 0));
    assert_false(rig_has_connection(rig, 1));
    rig_hang_up(client);
    rig_free(rig);
}

static void
a_get_that_was_reset_goes_to_another_endpoint(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 2);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(
        rig, client, "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n");
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "0\r\n\r\n");
    reset(backend);
    backend = rig_backend(rig, 1);
    rig_expect(rig, backend, "\r\n\r\n2\r\nhi\r\n0\r\n\r\n");
    rig_say(rig, backend, OK);
    rig_expect(rig, client, "\r\n\r\nok");
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
an_old_idle_connection_is_not_for_a_post(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    struct heard *backend = warm_up(rig, client);
    rig_trust(rig, 0);
    uint64_t until_us = clock_now_us() + 1100000;
    RIG_WAIT(rig, "the connection to age", clock_now_us() > until_us);
    rig_say(rig, client, POST);
    struct heard *fresh = rig_backend(rig, 0);
    rig_expect(rig, fresh, "\r\n\r\nhi");
    rig_say(rig, fresh, OK);
    rig_expect(rig, client, "\r\n\r\nok");
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_hang_up(fresh);
    rig_free(rig);
}

static void
idle_connections_end_before_the_backend_ends_them(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, GET);
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    uint64_t began_us = clock_now_us();
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nKeep-Alive: timeout=2\r\n\r\n");
    rig_expect_end(rig, backend);
    assert_in_range(clock_now_us() - began_us, 900000, 1900000);
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
a_silent_backend_is_a_504(void **state)
{
    struct rig *rig = rig_new(TIMED("response: 200ms"), 2);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, GET);
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, client, "504 response_timeout: ");
    rig_expect_end(rig, backend);
    assert_int_equal(fake_failures, 1);
    assert_false(rig_has_connection(rig, 1));
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
the_whole_request_has_a_limit_too(void **state)
{
    struct rig *rig = rig_new(TIMED("request: 300ms"), 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, GET);
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, client, "504 response_timeout: ");
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
slow_clients_get_408(void **state)
{
    struct rig *rig = rig_new(TIMED("client_header: 200ms, client_body_gap: 200ms"), 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, "GET / HT");
    rig_expect(rig, client, "408 client_timeout: ");
    rig_expect_end(rig, client);
    rig_hang_up(client);
    client = rig_client(rig);
    rig_say(rig, client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf");
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, client, "408 client_timeout: ");
    rig_expect_end(rig, backend);
    assert_int_equal(fake_failures, 0);
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
idle_clients_are_closed_after_keepalive(void **state)
{
    struct rig *rig = rig_new(TIMED("keepalive: 200ms"), 1);
    struct heard *client = rig_client(rig);
    (void)state;
    struct heard *backend = warm_up(rig, client);
    rig_expect_end(rig, client);
    assert_int_equal(client->end, HEARD_FIN);
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
what_is_not_http_is_a_502(void **state)
{
    static const char *const answers[] = {
        "SSH-2.0-OpenSSH\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nBroken Header: x\r\n\r\n",
    };
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    (void)state;
    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        struct heard *client = rig_client(rig);
        rig_say(rig, client, GET);
        struct heard *backend = rig_backend(rig, 0);
        rig_expect(rig, backend, "\r\n\r\n");
        rig_say(rig, backend, answers[i]);
        rig_expect(rig, client, "502 bad_response: ");
        rig_hang_up(client);
        rig_hang_up(backend);
    }
    rig_free(rig);
}

static void
a_cut_body_is_visibly_cut(void **state)
{
    static const struct {
        const char *request, *answer, *got;
        int end;
    } cases[] = {
        {GET, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "\r\n\r\nhalf", HEARD_FIN},
        {GET, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", "4\r\nhalf\r\n",
            HEARD_FIN},
        {"GET / HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            "\r\n\r\nhalf", HEARD_RESET},
        {GET, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n", "4\r\nhalf\r\n",
            HEARD_FIN},
    };
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct heard *client = rig_client(rig);
        rig_say(rig, client, cases[i].request);
        struct heard *backend = rig_backend(rig, 0);
        rig_expect(rig, backend, "\r\n\r\n");
        rig_say(rig, backend, cases[i].answer);
        rig_expect(rig, client, cases[i].got);
        rig_hang_up(backend);
        rig_expect_end(rig, client);
        assert_int_equal(client->end, cases[i].end);
        assert_null(strstr(client->text, "\r\n0\r\n\r\n"));
        rig_hang_up(client);
    }
    rig_expect_log(rig, "reason=\"reset_after_headers\"");
    rig_expect_log(rig, "reason=\"bad_response\"");
    rig_free(rig);
}

static void
a_backend_that_stops_inside_its_body_is_cut(void **state)
{
    struct rig *rig = rig_new(TIMED("stream_idle: 200ms"), 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, GET);
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
    rig_expect(rig, client, "half");
    rig_expect_end(rig, client);
    rig_expect_log(rig, "reason=\"stream_idle\"");
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
a_client_that_resets_cancels_its_request(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, GET);
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    reset(client);
    rig_expect_end(rig, backend);
    rig_expect_log(rig, "status=499 reason=\"client_gone\"");
    assert_int_equal(fake_failures, 0);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
a_half_closed_client_gets_its_answer(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, GET GET);
    shutdown(client->fd, SHUT_WR);
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    for (int i = 0; i < 20; i++)
        rig_turn(rig);
    rig_forget(backend);
    rig_say(rig, backend, OK);
    rig_expect(rig, client, "\r\n\r\nok");
    rig_forget(client);
    rig_expect(rig, backend, "\r\n\r\n");
    rig_say(rig, backend, OK);
    rig_expect(rig, client, "\r\n\r\nok");
    rig_expect_end(rig, client);
    assert_int_equal(client->end, HEARD_FIN);
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
a_client_that_closed_is_found_out_by_a_100(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, GET);
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    rig_hang_up(client);
    rig_expect_end(rig, backend);
    rig_expect_log(rig, "status=499 reason=\"client_gone\"");
    assert_int_equal(fake_failures, 0);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
past_the_connection_limit_clients_get_503(void **state)
{
    struct rig *rig = rig_new(
        RIG_YAML("  - match: { path_prefix: / }\n    service: web\n", "limits: { connections: 1 }\n"), 1);
    struct heard *first = rig_client(rig);
    (void)state;
    struct heard *backend = warm_up(rig, first);
    struct heard *second = rig_client(rig);
    rig_say(rig, second, GET);
    rig_expect(rig, second, "503 shed: ");
    rig_expect_end(rig, second);
    assert_int_equal(second->end, HEARD_FIN);
    rig_hang_up(second);
    rig_hang_up(first);
    RIG_WAIT(rig, "the first to be gone", rig->proxy->connections == 0);
    first = rig_client(rig);
    rig_say(rig, first, GET);
    rig_expect(rig, backend, "GET / ");
    rig_hang_up(first);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
a_removed_endpoint_loses_its_idle_connections(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 2);
    struct heard *client = rig_client(rig);
    (void)state;
    struct heard *backend = warm_up(rig, client);
    slot_remove(rig->shm, rig->slot[0]);
    rig_expect_end(rig, backend);
    RIG_WAIT(rig, "the worker to say that it saw it",
        atomic_load(&shm_worker(rig->shm, 0)->endpoints_seen) == shm_endpoints_version(rig->shm));
    rig_hang_up(backend);
    rig_hang_up(client);
    rig_free(rig);
}

static void
a_backend_that_answers_and_closes_before_the_body_is_heard(void **state)
{
    static char piece[1 << 16];
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    memset(piece, 'x', sizeof piece);
    rig_say(rig, client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n");
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    rig_say(
        rig, backend, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig");
    rig_hang_up(backend);
    for (int i = 0; i < 100; i++) {
        (void)!send(client->fd, piece, sizeof piece, MSG_NOSIGNAL);
        heard_read(client);
        if (client->len > 0) break;
        rig_turn(rig);
    }
    rig_expect(rig, client, "\r\n\r\nbig");
    rig_hang_up(client);
    rig_free(rig);
}

static void
a_request_cut_by_fin_ends_without_an_answer(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab");
    shutdown(client->fd, SHUT_WR);
    struct heard *backend = rig_backend(rig, 0);
    rig_expect_end(rig, backend);
    rig_expect_end(rig, client);
    assert_int_equal(client->end, HEARD_FIN);
    assert_int_equal(fake_failures, 0);
    rig_expect_log(rig, "status=499 reason=\"client_gone\"");
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
short_of_descriptors_the_longest_idle_client_goes_first(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client[3];
    (void)state;
    rig->proxy->connection_cap = 2;
    client[0] = rig_client(rig);
    struct heard *backend = warm_up(rig, client[0]);
    for (int i = 1; i < 3; i++) {
        client[i] = rig_client(rig);
        rig_say(rig, client[i], GET);
        rig_expect(rig, backend, "GET / ");
        rig_forget(backend);
        rig_say(rig, backend, OK);
        rig_expect(rig, client[i], "\r\n\r\nok");
    }
    rig_expect_end(rig, client[0]);
    heard_read(client[1]);
    assert_int_equal(client[1]->end, HEARD_OPEN);
    for (int i = 0; i < 3; i++)
        rig_hang_up(client[i]);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
with_every_client_busy_accepting_waits_for_one_to_go(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *first = rig_client(rig);
    (void)state;
    rig->proxy->connection_cap = 1;
    rig_say(rig, first, GET);
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    struct heard *second = rig_client(rig);
    rig_say(rig, second, "GET /second HTTP/1.1\r\nHost: a\r\n\r\n");
    RIG_WAIT(rig, "the pause", rig->proxy->accept_paused);
    rig_say(rig, backend, OK);
    rig_expect(rig, first, "\r\n\r\nok");
    rig_hang_up(first);
    rig_expect(rig, backend, "GET /second ");
    rig_hang_up(second);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
idle_connections_past_their_limit_go_once_nobody_needs_them(void **state)
{
    struct rig *rig = rig_new(
        RIG_YAML("  - match: { path_prefix: / }\n    service: web\n", "limits: { pool_per_endpoint: 1 }\n"),
        1);
    struct heard *client[3], *backend[3];
    (void)state;
    for (int i = 0; i < 3; i++) {
        client[i] = rig_client(rig);
        rig_say(rig, client[i], GET);
        backend[i] = rig_backend(rig, 0);
        rig_expect(rig, backend[i], "\r\n\r\n");
    }
    for (int i = 0; i < 3; i++) {
        rig_say(rig, backend[i], OK);
        rig_expect(rig, client[i], "\r\n\r\nok");
    }
    assert_int_equal(rig->proxy->endpoints[rig->slot[0]]->idle_count, 3);
    rig_expect_end(rig, backend[0]);
    rig_expect_end(rig, backend[1]);
    heard_read(backend[2]);
    assert_int_equal(backend[2]->end, HEARD_OPEN);
    for (int i = 0; i < 3; i++) {
        rig_hang_up(client[i]);
        rig_hang_up(backend[i]);
    }
    rig_free(rig);
}

static void
a_connection_that_takes_too_long_goes_to_another_endpoint(void **state)
{
    struct rig *rig = rig_new(TIMED("connect: 200ms"), 2);
    int filler[4];
    (void)state;
    assert_int_equal(listen(rig->backend[0], 0), 0); /* a full queue drops SYN */
    for (int i = 0; i < 4; i++) {
        struct sockaddr_in address = {.sin_family = AF_INET,
            .sin_port = htons(rig->backend_port[0]),
            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        filler[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        (void)!connect(filler[i], (struct sockaddr *)&address, sizeof address);
    }
    struct heard *client = rig_client(rig);
    rig_say(rig, client, POST);
    struct heard *backend = rig_backend(rig, 1);
    rig_expect(rig, backend, "\r\n\r\nhi");
    rig_say(rig, backend, OK);
    rig_expect(rig, client, "\r\n\r\nok");
    assert_int_equal(fake_failures, 1);
    for (int i = 0; i < 4; i++)
        close(filler[i]);
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_refused_connection_sends_the_request_to_another_endpoint),
        cmocka_unit_test(refused_everywhere_is_a_502_that_says_so),
        cmocka_unit_test(a_stale_pooled_connection_is_replaced_unseen),
        cmocka_unit_test(an_idle_connection_that_turns_readable_is_closed_at_once),
        cmocka_unit_test(a_post_that_may_have_run_is_never_sent_twice),
        cmocka_unit_test(a_get_that_was_reset_goes_to_another_endpoint),
        cmocka_unit_test(an_old_idle_connection_is_not_for_a_post),
        cmocka_unit_test(idle_connections_end_before_the_backend_ends_them),
        cmocka_unit_test(a_silent_backend_is_a_504),
        cmocka_unit_test(the_whole_request_has_a_limit_too),
        cmocka_unit_test(slow_clients_get_408),
        cmocka_unit_test(idle_clients_are_closed_after_keepalive),
        cmocka_unit_test(what_is_not_http_is_a_502),
        cmocka_unit_test(a_cut_body_is_visibly_cut),
        cmocka_unit_test(a_backend_that_stops_inside_its_body_is_cut),
        cmocka_unit_test(a_client_that_resets_cancels_its_request),
        cmocka_unit_test(a_request_cut_by_fin_ends_without_an_answer),
        cmocka_unit_test(short_of_descriptors_the_longest_idle_client_goes_first),
        cmocka_unit_test(with_every_client_busy_accepting_waits_for_one_to_go),
        cmocka_unit_test(idle_connections_past_their_limit_go_once_nobody_needs_them),
        cmocka_unit_test(a_connection_that_takes_too_long_goes_to_another_endpoint),
        cmocka_unit_test(a_half_closed_client_gets_its_answer),
        cmocka_unit_test(a_client_that_closed_is_found_out_by_a_100),
        cmocka_unit_test(past_the_connection_limit_clients_get_503),
        cmocka_unit_test(a_removed_endpoint_loses_its_idle_connections),
        cmocka_unit_test(a_backend_that_answers_and_closes_before_the_body_is_heard),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
