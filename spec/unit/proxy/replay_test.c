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
    rig_trust(rig, 0);
    rig_say(rig, client, POST);
    rig_expect(rig, backend, "\r\n\r\nhi");
    rig_say(rig, backend, "left over from before\r\n\r\n");
    rig_expect(rig, client, "502 bad_response: ");
    assert_false(rig_has_connection(rig, 0));
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

#define RETRY(keys) RIG_YAML("  - match: { path_prefix: / }\n    service: web\n", "retry: { " keys " }\n")

static void
the_only_endpoint_is_tried_again_after_a_moment(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, GET);
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "GET / ");
    uint64_t began_us = clock_now_us();
    rig_hang_up(backend);
    backend = rig_backend(rig, 0);
    assert_true(clock_now_us() - began_us > 12000);
    rig_expect(rig, backend, "GET / ");
    rig_say(rig, backend, OK);
    rig_expect(rig, client, "\r\n\r\nok");
    rig_expect_log(rig, "attempts=2");
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
a_client_that_leaves_during_the_back_off_ends_it(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    struct linger now = {1, 0};
    (void)state;
    rig_say(rig, client, GET);
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "GET / ");
    assert_int_equal(setsockopt(client->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now), 0);
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_expect_log(rig, "status=499 reason=\"client_gone\"");
    rig_free(rig);
}

static void
an_attempt_has_a_time_of_its_own(void **state)
{
    struct rig *rig = rig_new(RETRY("per_try: 200ms"), 2);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, GET);
    struct heard *silent = rig_backend(rig, 0);
    struct heard *backend = rig_backend(rig, 1);
    rig_expect_end(rig, silent);
    rig_expect(rig, backend, "GET / ");
    rig_say(rig, backend, OK);
    rig_expect(rig, client, "\r\n\r\nok");
    assert_int_equal(fake_failures, 1);
    rig_forget(client);
    rig_say(rig, client, POST);
    rig_hang_up(silent);
    silent = rig_backend(rig, 0);
    rig_expect(rig, client, "504 response_timeout: ");
    rig_hang_up(client);
    rig_hang_up(silent);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
a_chosen_answer_sends_the_request_elsewhere(void **state)
{
    struct rig *rig = rig_new(RETRY("status: [ 503 ]"), 2);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
    struct heard *busy = rig_backend(rig, 0);
    rig_expect(rig, busy, "\r\n\r\nbody");
    rig_say(rig, busy, "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\nX-Secret: y\r\n\r\nbusy");
    struct heard *backend = rig_backend(rig, 1);
    rig_expect(rig, backend, "\r\n\r\nbody");
    rig_say(rig, backend, OK);
    rig_expect(rig, client, "\r\n\r\nok");
    assert_null(strstr(client->text, "X-Secret"));
    rig_expect_end(rig, busy);
    assert_int_equal(fake_failures, 0);
    assert_int_equal(fake_results, 2);
    rig_hang_up(client);
    rig_hang_up(busy);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
other_answers_and_other_requests_keep_theirs(void **state)
{
    static const struct {
        const char *request, *answer, *heard;
    } cases[] = {
        {GET, "HTTP/1.1 502 Bad\r\nContent-Length: 3\r\n\r\nbad", "\r\n\r\nbad"},
        {POST, "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy", "\r\n\r\nbusy"},
        {"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf",
            "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy", "\r\n\r\nbusy"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct rig *rig = rig_new(RETRY("status: [ 503 ]"), 2);
        struct heard *client = rig_client(rig);
        rig_say(rig, client, cases[i].request);
        struct heard *backend = rig_backend(rig, 0);
        rig_expect(rig, backend, "\r\n\r\n");
        rig_say(rig, backend, cases[i].answer);
        rig_expect(rig, client, cases[i].heard);
        assert_int_equal(fake_picks, 1);
        rig_hang_up(client);
        rig_hang_up(backend);
        rig_free(rig);
    }
}

static void
the_last_attempt_s_answer_is_the_client_s(void **state)
{
    struct rig *rig = rig_new(RETRY("attempts: 1, status: [ 503 ]"), 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, GET);
    for (int i = 0; i < 2; i++) {
        struct heard *backend = rig_backend(rig, 0);
        rig_expect(rig, backend, "\r\n\r\n");
        rig_say(rig, backend, "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy");
        rig_hang_up(backend);
    }
    rig_expect(rig, client, "\r\n\r\nbusy");
    rig_expect_log(rig, "status=503 reason=\"-\"");
    rig_expect_log(rig, "attempts=2");
    rig_hang_up(client);
    rig_free(rig);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_cut_by_fin_does_not_wait_for_its_connection),
        cmocka_unit_test(what_a_pooled_connection_held_back_is_not_the_answer),
        cmocka_unit_test(a_post_answered_by_garbage_is_not_sent_again),
        cmocka_unit_test(the_only_endpoint_is_tried_again_after_a_moment),
        cmocka_unit_test(a_client_that_leaves_during_the_back_off_ends_it),
        cmocka_unit_test(an_attempt_has_a_time_of_its_own),
        cmocka_unit_test(a_chosen_answer_sends_the_request_elsewhere),
        cmocka_unit_test(other_answers_and_other_requests_keep_theirs),
        cmocka_unit_test(the_last_attempt_s_answer_is_the_client_s),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
