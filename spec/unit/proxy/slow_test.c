/* links: shm metrics config */
#include "spec/unit/proxy/rig.h"

#define WITH(more) RIG_YAML("  - match: { path_prefix: / }\n    service: web\n", more)
#define GET        "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
#define OK         "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
#define POST       "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"

static uint64_t
closed(struct rig *rig, enum shm_close why)
{
    return atomic_load(&shm_totals(rig->shm)->closed[why]);
}

static struct heard *
exchange(struct rig *rig, struct heard *client, struct heard *backend)
{
    rig_say(rig, client, GET);
    if (backend == NULL) backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    rig_forget(backend);
    rig_say(rig, backend, OK);
    rig_expect(rig, client, "\r\n\r\nok");
    return backend;
}

static void
say_slowly(struct rig *rig, struct heard *client, const char *piece, uint64_t pause_us)
{
    for (int i = 0; i < 1000 / (int)strlen(piece); i++) {
        uint64_t until_us = clock_now_us() + pause_us;
        if (send(client->fd, piece, strlen(piece), MSG_NOSIGNAL) == -1) return;
        while (clock_now_us() < until_us) {
            rig_turn(rig);
            heard_read(client);
            if (client->len > 0) return;
        }
    }
}

static void
a_body_that_trickles_ends_with_408(void **state)
{
    struct rig *rig = rig_new(WITH("timeouts: { client_body_gap: 300ms }\nlimits: { body_rate: 1k }\n"), 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, POST);
    struct heard *backend = rig_backend(rig, 0);
    uint64_t began_us = clock_now_us();
    say_slowly(rig, client, "x", 20000);
    rig_expect(rig, client, "408 client_timeout: ");
    assert_true(clock_now_us() - began_us < 2000000);
    rig_expect_end(rig, client);
    rig_expect_log(rig, "status=408 reason=\"client_timeout\"");
    rig_expect_end(rig, backend);
    assert_int_equal(fake_failures, 0);
    rig_hang_up(client);
    RIG_WAIT(rig, "the connection's end", rig->proxy->connections == 0);
    assert_int_equal(closed(rig, SHM_CLOSE_SLOW), 1);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
a_body_that_keeps_its_pace_passes(void **state)
{
    struct rig *rig = rig_new(WITH("timeouts: { client_body_gap: 300ms }\nlimits: { body_rate: 1k }\n"), 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, POST);
    struct heard *backend = rig_backend(rig, 0);
    say_slowly(rig, client, "0123456789012345678901234567890123456789", 25000); /* 1.6 KB/s */
    rig_expect(rig, backend, "0123456789");
    rig_say(rig, backend, OK);
    rig_expect(rig, client, "\r\n\r\nok");
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
a_body_below_the_rate_ends_though_its_answer_began(void **state)
{
    struct rig *rig = rig_new(WITH("timeouts: { client_body_gap: 200ms }\nlimits: { body_rate: 1k }\n"), 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, POST);
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun");
    rig_expect(rig, client, "begun");
    rig_expect_end(rig, client);
    rig_hang_up(client);
    RIG_WAIT(rig, "the connection's end", rig->proxy->connections == 0);
    assert_int_equal(closed(rig, SHM_CLOSE_SLOW), 1);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
the_last_request_of_a_connection_is_told_so(void **state)
{
    struct rig *rig = rig_new(WITH("limits: { keepalive_requests: 3 }\n"), 1);
    struct heard *client = rig_client(rig), *backend = NULL;
    (void)state;
    for (int i = 0; i < 3; i++) {
        rig_forget(client);
        backend = exchange(rig, client, backend);
        assert_true((strcasestr(client->text, "connection: close") != NULL) == (i == 2));
    }
    rig_expect_end(rig, client);
    rig_hang_up(client);
    RIG_WAIT(rig, "the connection's end", rig->proxy->connections == 0);
    assert_int_equal(closed(rig, SHM_CLOSE_REQUESTS), 1);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
an_old_connection_ends_busy_or_idle(void **state)
{
    struct rig *rig = rig_new(WITH("limits: { max_connection_age: 300ms }\n"), 1);
    struct heard *busy = rig_client(rig), *idle = rig_client(rig);
    (void)state;
    struct heard *backend = exchange(rig, busy, NULL);
    backend = exchange(rig, idle, backend);
    rig_forget(busy);
    rig_say(rig, busy, GET);
    rig_expect(rig, backend, "\r\n\r\n");
    rig_expect_end(rig, idle);
    uint64_t until_us = clock_now_us() + 200000;
    RIG_WAIT(rig, "both to be old", clock_now_us() > until_us);
    rig_say(rig, backend, OK);
    rig_expect(rig, busy, "\r\n\r\nok");
    assert_non_null(strcasestr(busy->text, "connection: close"));
    rig_expect_end(rig, busy);
    rig_hang_up(busy);
    RIG_WAIT(rig, "their end", rig->proxy->connections == 0);
    assert_int_equal(closed(rig, SHM_CLOSE_AGE), 2);
    rig_hang_up(idle);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
one_client_has_so_many_connections_and_no_more(void **state)
{
    struct rig *rig = rig_new(WITH("limits: { connections_per_client: 2 }\n"), 1);
    struct heard *client[3];
    (void)state;
    for (int i = 0; i < 2; i++)
        client[i] = rig_client(rig);
    struct heard *backend = exchange(rig, client[0], NULL);
    backend = exchange(rig, client[1], backend);
    client[2] = rig_client(rig);
    rig_expect(rig, client[2], "503 shed: ");
    rig_expect_end(rig, client[2]);
    rig_hang_up(client[2]);
    rig_hang_up(client[0]);
    RIG_WAIT(rig, "a place", rig->proxy->connections == 1);
    assert_int_equal(closed(rig, SHM_CLOSE_CLIENT_LIMIT), 1);
    client[2] = rig_client(rig);
    backend = exchange(rig, client[2], backend);
    rig_hang_up(client[1]);
    rig_hang_up(client[2]);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
connections_from_before_a_reload_count(void **state)
{
    struct rig *rig = rig_new(WITH(""), 1);
    struct heard *client[3];
    (void)state;
    for (int i = 0; i < 2; i++)
        client[i] = rig_client(rig);
    struct heard *backend = exchange(rig, client[0], NULL);
    backend = exchange(rig, client[1], backend);
    rig_use(rig, WITH("limits: { connections_per_client: 2 }\n"));
    rig_use(rig, WITH("limits: { connections_per_client: 2 }\n")); /* nobody is counted twice */
    client[2] = rig_client(rig);
    rig_expect(rig, client[2], "503 shed: ");
    rig_expect_end(rig, client[2]);
    rig_hang_up(client[2]);
    rig_hang_up(client[0]);
    RIG_WAIT(rig, "a place", rig->proxy->connections == 1);
    client[2] = rig_client(rig);
    backend = exchange(rig, client[2], backend);
    rig_hang_up(client[1]);
    rig_hang_up(client[2]);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
connections_of_one_address_count_over_all_workers(void **state)
{
    struct shm *shm = shm_create(&(struct shm_params){.max_endpoints = 64});
    (void)state;
    assert_non_null(shm);
    for (unsigned w = 0; w < 3; w++)
        atomic_store(&shm_worker(shm, w)->connections, 1);
    assert_int_equal(client_begin(shm, 0, 17), 1);
    assert_int_equal(client_begin(shm, 1, 17), 2);
    assert_int_equal(client_begin(shm, 1, 18), 1);
    assert_int_equal(client_begin(shm, 2, 17), 3);
    client_end(shm, 1, 17);
    assert_int_equal(client_begin(shm, 0, 17), 3);
    clients_clear(shm, 0);
    assert_int_equal(client_begin(shm, 1, 17), 2);
    for (uint64_t key = 1; key < 100000; key++) { /* far more than there is room for, one after another */
        uint32_t count = client_begin(shm, 2, key << 8 | 1);
        assert_true(count == 1);
        client_end(shm, 2, key << 8 | 1);
    }
    shm_destroy(shm);
}

static void
a_route_has_its_own_limit_of_bodies(void **state)
{
    struct rig *rig = rig_new(WITH("limits: { body_bytes: 100 }\n"), 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, POST);
    rig_expect(rig, client, "413 limit: ");
    rig_expect_end(rig, client);
    assert_int_equal(fake_picks, 0);
    rig_hang_up(client);
    rig_free(rig);
}

static void
each_connection_closed_has_one_reason(void **state)
{
    struct rig *rig = rig_new(WITH("timeouts: { keepalive: 100ms, client_header: 200ms }\n"), 1);
    struct heard *client = rig_client(rig), *backend;
    (void)state;
    backend = exchange(rig, client, NULL);
    rig_expect_end(rig, client);
    rig_hang_up(client);
    client = rig_client(rig);
    rig_say(rig, client, "GET / HT");
    rig_expect(rig, client, "408 client_timeout: ");
    rig_hang_up(client);
    client = rig_client(rig);
    rig_say(rig, client, "GET  / HTTP/1.1\r\n\r\n");
    rig_expect(rig, client, "400 bad_request: ");
    rig_hang_up(client);
    client = rig_client(rig);
    rig_say(rig, client, GET);
    rig_expect(rig, backend, "\r\n\r\n");
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ncut");
    rig_expect(rig, client, "cut");
    rig_hang_up(backend);
    rig_expect_end(rig, client);
    rig_hang_up(client);
    client = rig_client(rig);
    backend = exchange(rig, client, NULL);
    rig_hang_up(client);
    RIG_WAIT(rig, "their end", rig->proxy->connections == 0);
    assert_int_equal(closed(rig, SHM_CLOSE_IDLE), 1);
    assert_int_equal(closed(rig, SHM_CLOSE_SLOW), 1);
    assert_int_equal(closed(rig, SHM_CLOSE_BAD), 1);
    assert_int_equal(closed(rig, SHM_CLOSE_CUT), 1);
    assert_int_equal(closed(rig, SHM_CLOSE_CLIENT), 1);
    rig_hang_up(backend);
    rig_free(rig);
}

/* A FIN amid an answer may be a half-close: what comes soon is passed on, what never comes is not waited for.
 */
static void
a_client_that_left_amid_its_answer_frees_the_backend(void **state)
{
    struct rig *rig = rig_new(WITH(""), 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, GET);
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\none");
    rig_expect(rig, client, "one");
    assert_int_equal(shutdown(client->fd, SHUT_WR), 0);
    for (int i = 0; i < 100; i++)
        rig_turn(rig);
    rig_say(rig, backend, "two");
    rig_expect(rig, client, "onetwo");
    rig_expect_end(rig, backend);
    rig_expect_log(rig, "reason=\"client_gone\"");
    assert_int_equal(fake_failures, 0);
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

/* With a small window from its SYN on: what is not taken stays with the gateway's kernel. */
static struct heard *
narrow_client(struct rig *rig)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(rig->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int small = 4096, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_not_equal(fd, -1);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small), 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    return rig_hear(fd);
}

/* The backend says as much as is taken, the client takes `piece` bytes every 10 ms; for how long it may. */
static uint64_t
take_slowly(struct rig *rig, size_t piece, uint64_t enough_us)
{
    static char bytes[65536];
    struct heard *client = narrow_client(rig);
    rig_say(rig, client, GET);
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
    rig_expect(rig, client, "\r\n\r\n");
    uint64_t began_us = clock_now_us(), next_us = began_us, lived_us;
    do {
        (void)!send(backend->fd, bytes, sizeof bytes, MSG_NOSIGNAL);
        rig_turn(rig);
        lived_us = clock_now_us() - began_us;
        if (clock_now_us() < next_us) continue;
        if (piece > 0) (void)!recv(client->fd, bytes, piece, 0);
        next_us = clock_now_us() + 10000;
    } while (rig->proxy->stream_count > 0 && lived_us < enough_us);
    rig_hang_up(client);
    rig_hang_up(backend);
    RIG_WAIT(rig, "the end of its stream", rig->proxy->stream_count == 0);
    return lived_us;
}

/* Its socket is writable only once a third of the kernel's queue is free. */
static void
a_client_that_takes_little_by_little_is_not_idle(void **state)
{
    struct rig *rig = rig_new(WITH("timeouts: { stream_idle: 1s }\n"), 1);
    (void)state;
    assert_true(take_slowly(rig, 200, 3000000) >= 3000000);
    assert_true(take_slowly(rig, 0, 5000000) < 5000000);
    assert_int_equal(closed(rig, SHM_CLOSE_SLOW), 0);
    rig_free(rig);
}

static void
a_client_that_takes_too_little_is_too_slow(void **state)
{
    struct rig *rig = rig_new(WITH("timeouts: { stream_idle: 1s }\nlimits: { body_rate: 1g }\n"), 1);
    (void)state;
    assert_true(take_slowly(rig, 200, 5000000) < 5000000);
    assert_int_equal(closed(rig, SHM_CLOSE_SLOW), 1);
    rig_free(rig);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_body_that_trickles_ends_with_408),
        cmocka_unit_test(a_body_that_keeps_its_pace_passes),
        cmocka_unit_test(the_last_request_of_a_connection_is_told_so),
        cmocka_unit_test(an_old_connection_ends_busy_or_idle),
        cmocka_unit_test(a_body_below_the_rate_ends_though_its_answer_began),
        cmocka_unit_test(connections_from_before_a_reload_count),
        cmocka_unit_test(one_client_has_so_many_connections_and_no_more),
        cmocka_unit_test(connections_of_one_address_count_over_all_workers),
        cmocka_unit_test(a_route_has_its_own_limit_of_bodies),
        cmocka_unit_test(each_connection_closed_has_one_reason),
        cmocka_unit_test(a_client_that_left_amid_its_answer_frees_the_backend),
        cmocka_unit_test(a_client_that_takes_little_by_little_is_not_idle),
        cmocka_unit_test(a_client_that_takes_too_little_is_too_slow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
