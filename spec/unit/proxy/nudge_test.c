/* links: shm metrics config */
/* A client that said FIN may still read, or be gone: it is asked by a 100, whatever its request went through.
 */
#include "spec/unit/proxy/rig.h"

#define GET "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
#define OK  "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

static struct stream *
only_stream(const struct rig *rig)
{
    return LINK_OF(rig->proxy->streams.next, struct stream, link);
}

static void
half_close(struct rig *rig, struct heard *client)
{
    assert_int_equal(shutdown(client->fd, SHUT_WR), 0);
    RIG_WAIT(rig, "the FIN to be seen", only_stream(rig)->conn->input == INPUT_ENDED);
}

static void
reset(struct heard *heard)
{
    struct linger now = {1, 0};
    assert_int_equal(setsockopt(heard->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now), 0);
    rig_hang_up(heard);
}

/* Its close said no more than its half-close did; the backend stays silent. */
static void
leave(struct rig *rig, struct heard *client, struct heard *silent)
{
    rig_hang_up(client);
    rig_expect_log(rig, "status=499 reason=\"client_gone\"");
    rig_expect_end(rig, silent);
    rig_hang_up(silent);
}

static void
it_is_asked_after_a_retry(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 2);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, GET);
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    half_close(rig, client);
    reset(backend);
    backend = rig_backend(rig, 1);
    rig_expect(rig, backend, "\r\n\r\n");
    leave(rig, client, backend);
    rig_free(rig);
}

static void
it_is_asked_where_it_spoke_during_the_back_off(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, GET);
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    reset(backend);
    RIG_WAIT(rig, "the back-off", only_stream(rig)->state == STREAM_BACKOFF);
    half_close(rig, client);
    backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    leave(rig, client, backend);
    rig_free(rig);
}

static void
it_is_asked_in_the_request_behind_the_one_that_saw_its_fin(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, GET GET);
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    half_close(rig, client);
    rig_forget(backend);
    rig_say(rig, backend, OK);
    rig_expect(rig, client, "\r\n\r\nok");
    rig_expect(rig, backend, "\r\n\r\n");
    leave(rig, client, backend);
    rig_free(rig);
}

static void
it_is_asked_after_a_100_of_the_backend(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi");
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\nhi");
    half_close(rig, client);
    rig_say(rig, backend, "HTTP/1.1 100 Continue\r\n\r\n");
    RIG_WAIT(rig, "the 100", only_stream(rig)->interims == 1);
    leave(rig, client, backend);
    rig_free(rig);
}

/* The moment of a nudge that was not needed is no timeout. */
static void
a_client_with_leave_to_send_its_body_may_take_its_time(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    uint64_t later_us = clock_now_us() + EXPECT_US + EXPECT_US / 4;
    rig_say(rig, backend, "HTTP/1.1 100 Continue\r\n\r\n");
    rig_expect(rig, client, "HTTP/1.1 100 Continue\r\n\r\n");
    RIG_WAIT(rig, "the time of the nudge", clock_now_us() > later_us);
    rig_say(rig, client, "hi");
    rig_expect(rig, backend, "\r\n\r\nhi");
    rig_say(rig, backend, OK);
    rig_expect(rig, client, "\r\n\r\nok");
    assert_null(strstr(client->text, " 408 "));
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

/* It listens: a 100 and nothing worse comes of it. */
static void
who_still_listens_gets_the_answer_of_the_retry(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 2);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, GET);
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    half_close(rig, client);
    reset(backend);
    backend = rig_backend(rig, 1);
    rig_expect(rig, backend, "\r\n\r\n");
    rig_expect(rig, client, "HTTP/1.1 100 Continue\r\n\r\n");
    rig_say(rig, backend, OK);
    rig_expect(rig, client, "\r\n\r\nok");
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

/* Our own 100 is no answer: what may be sent again still may. */
static void
who_was_asked_is_retried_all_the_same(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 2);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, GET);
    struct heard *backend = rig_backend(rig, 0);
    half_close(rig, client);
    rig_expect(rig, client, "HTTP/1.1 100 Continue\r\n\r\n");
    rig_expect(rig, backend, "\r\n\r\n");
    reset(backend);
    backend = rig_backend(rig, 1);
    rig_expect(rig, backend, "\r\n\r\n");
    rig_say(rig, backend, OK);
    rig_expect(rig, client, "HTTP/1.1 200 OK");
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
a_body_that_we_asked_for_goes_to_another_endpoint_too(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 2);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, client, "HTTP/1.1 100 Continue\r\n\r\n");
    rig_say(rig, client, "bo");
    rig_expect(rig, backend, "\r\n\r\nbo");
    reset(backend);
    backend = rig_backend(rig, 1);
    rig_expect(rig, backend, "\r\n\r\nbo");
    rig_say(rig, backend, "HTTP/1.1 100 Continue\r\n\r\n"); /* the client has had its own */
    rig_say(rig, client, "dy");
    rig_expect(rig, backend, "\r\n\r\nbody");
    rig_say(rig, backend, OK);
    rig_expect(rig, client, "\r\n\r\nok");
    assert_null(strstr(strstr(client->text, "100 Continue") + 1, "100 Continue"));
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

/* Its backend answers before it has read the request, and takes the rest of that after the client's FIN. */
static void
who_is_being_answered_is_not_asked(void **state)
{
    static char body[20000];
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    int small = 4096;
    (void)state;
    memset(body, 'b', sizeof body);
    body[sizeof body - 1] = '!';
    assert_int_equal(setsockopt(rig->backend[0], SOL_SOCKET, SO_RCVBUF, &small, sizeof small), 0);
    rig_say(rig, client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20000\r\n\r\n");
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no");
    rig_expect(rig, client, "\r\n\r\no");
    struct stream *stream = only_stream(rig);
    assert_int_equal(setsockopt(stream->upstream->fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small), 0);
    rig_say_bytes(rig, client, body, sizeof body);
    RIG_WAIT(rig, "the whole body", stream->up.state == RELAY_ENDED && !relay_is_flushed(&stream->up));
    half_close(rig, client);
    rig_expect(rig, backend, "!");
    RIG_WAIT(rig, "the end of the request", stream->up.state == RELAY_DONE);
    assert_int_equal(stream->nudge_us, 0);
    rig_say(rig, backend, "k");
    rig_expect(rig, client, "\r\n\r\nok");
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_asked_after_a_retry),
        cmocka_unit_test(it_is_asked_where_it_spoke_during_the_back_off),
        cmocka_unit_test(it_is_asked_in_the_request_behind_the_one_that_saw_its_fin),
        cmocka_unit_test(it_is_asked_after_a_100_of_the_backend),
        cmocka_unit_test(a_client_with_leave_to_send_its_body_may_take_its_time),
        cmocka_unit_test(who_still_listens_gets_the_answer_of_the_retry),
        cmocka_unit_test(who_was_asked_is_retried_all_the_same),
        cmocka_unit_test(a_body_that_we_asked_for_goes_to_another_endpoint_too),
        cmocka_unit_test(who_is_being_answered_is_not_asked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
