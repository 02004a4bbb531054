#include "spec/unit/proxy/rig.h"

enum { CLIENTS = 50, ROUNDS = 3, STEP_BYTES = 300 }; /* more than leave in a row; answers of up to 15 KB */

static char body[CLIENTS * STEP_BYTES];

static void
ask(struct rig *rig, struct heard *client, unsigned i)
{
    char request[64];
    snprintf(request, sizeof request, "GET /%u HTTP/1.1\r\nHost: a\r\n\r\n", i);
    rig_forget(client);
    rig_say(rig, client, request);
}

/* Whose request came, by its path; answers it with that number and as many bytes as it has steps. */
static void
answer(struct rig *rig, struct heard *backend)
{
    unsigned i;
    char head[96];
    rig_expect(rig, backend, "\r\n\r\n");
    assert_int_equal(sscanf(backend->text, "GET /%u ", &i), 1);
    assert_true(i < CLIENTS);
    snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nX-Number: %u\r\nContent-Length: %u\r\n\r\n", i,
        i * STEP_BYTES);
    rig_forget(backend);
    rig_say(rig, backend, head);
    rig_say_bytes(rig, backend, body, i * STEP_BYTES);
}

static void
one_by_one(struct rig *rig)
{
    batch_free(rig->proxy->batch);
    rig->proxy->batch = NULL;
}

static void
each_of_a_burst_gets_its_own_answer(struct rig *rig)
{
    struct heard *clients[CLIENTS], *backends[CLIENTS];
    memset(body, 'b', sizeof body);
    for (unsigned i = 0; i < CLIENTS; i++)
        clients[i] = rig_client(rig);
    for (int round = 0; round < ROUNDS; round++) { /* from the second on, all on pooled connections */
        for (unsigned i = 0; i < CLIENTS; i++)
            ask(rig, clients[i], i);
        for (unsigned i = 0; i < CLIENTS && round == 0; i++)
            backends[i] = rig_backend(rig, 0);
        if (round > 0) RIG_WAIT(rig, "all requests", rig->proxy->stream_count == CLIENTS);
        assert_int_equal(rig->proxy->outbox_count, 0);
        for (unsigned i = 0; i < CLIENTS; i++)
            answer(rig, backends[i]);
        for (unsigned i = 0; i < CLIENTS; i++) {
            char number[32];
            snprintf(number, sizeof number, "X-Number: %u\r\n", i);
            rig_expect(rig, clients[i], number);
            const char *end = strstr(clients[i]->text, "\r\n\r\n");
            assert_non_null(end);
            RIG_WAIT(rig, "the whole answer",
                (heard_read(clients[i]),
                    clients[i]->len == (size_t)(end + 4 - clients[i]->text) + i * STEP_BYTES));
        }
        RIG_WAIT(rig, "the end of all", rig->proxy->stream_count == 0);
        assert_int_equal(rig->proxy->outbox_count, 0);
    }
    assert_false(rig_has_connection(rig, 0));
    for (unsigned i = 0; i < CLIENTS; i++) {
        rig_hang_up(clients[i]);
        rig_hang_up(backends[i]);
    }
    rig_free(rig);
}

static void
each_of_a_burst_is_sent_in_its_turn_and_gets_its_own_answer(void **state)
{
    (void)state;
    each_of_a_burst_gets_its_own_answer(rig_new(RIG_PLAIN, 1));
}

static void
so_it_is_where_the_kernel_has_no_io_uring(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    (void)state;
    one_by_one(rig);
    each_of_a_burst_gets_its_own_answer(rig);
}

/* Of answers that leave in a row every third one's framing breaks, each in a way of its own: it is cut behind
 * what was sound, and the others are whole. */
static void
broken_ones_of_a_burst_are_cut_alone(struct rig *rig)
{
    static const char *const broken[] = {"zz\r\n", "0\r\nNo trailer\r\n\r\n", "3\r\nabcd"};
    struct heard *clients[9], *backends[9];
    for (unsigned i = 0; i < 9; i++) {
        clients[i] = rig_client(rig);
        ask(rig, clients[i], i);
    }
    for (unsigned i = 0; i < 9; i++) {
        backends[i] = rig_backend(rig, 0);
        rig_expect(rig, backends[i], "\r\n\r\n");
    }
    for (unsigned i = 0; i < 9; i++) {
        unsigned who;
        assert_int_equal(sscanf(backends[i]->text, "GET /%u ", &who), 1);
        assert_true(who < 9);
        rig_say(rig, backends[i], "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nsound\r\n");
        rig_say(rig, backends[i], who % 3 == 0 ? broken[who / 3] : "0\r\n\r\n");
    }
    for (unsigned i = 0; i < 9; i++) {
        rig_expect(rig, clients[i], "sound\r\n");
        if (i % 3 != 0) {
            rig_expect(rig, clients[i], "sound\r\n0\r\n\r\n");
        } else {
            rig_expect_end(rig, clients[i]);
            assert_null(strstr(clients[i]->text, "\r\n0\r\n"));
        }
    }
    RIG_WAIT(rig, "the end of all", rig->proxy->stream_count == 0);
    for (unsigned i = 0; i < 9; i++) {
        rig_hang_up(clients[i]);
        rig_hang_up(backends[i]);
    }
    rig_free(rig);
}

static void
a_broken_one_of_a_burst_is_cut_alone(void **state)
{
    (void)state;
    broken_ones_of_a_burst_are_cut_alone(rig_new(RIG_PLAIN, 1));
}

static void
and_without_io_uring(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    (void)state;
    one_by_one(rig);
    broken_ones_of_a_burst_are_cut_alone(rig);
}

/* A client that is gone by the time its request would leave takes it along, and nobody else's. */
static void
who_leaves_in_the_turn_takes_its_message_along(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig), *other = rig_client(rig);
    struct linger now = {1, 0};
    (void)state;
    ask(rig, client, 1);
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "GET /1 ");
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); /* read in one turn ... */
    assert_int_equal(setsockopt(client->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now), 0);
    rig_hang_up(client); /* ... with the reset */
    RIG_WAIT(rig, "the end", rig->proxy->stream_count == 0);
    assert_int_equal(rig->proxy->outbox_count, 0);
    assert_true(link_is_empty(&rig->proxy->outbox));
    ask(rig, other, 2);
    int fd = -1;
    RIG_WAIT(rig, "the next request",
        (heard_read(backend), strstr(backend->text, "GET /2 ") != NULL) ||
            (fd = accept4(rig->backend[0], NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) != -1);
    struct heard *next = fd == -1 ? backend : rig_hear(fd);
    rig_expect(rig, next, "GET /2 ");
    rig_say(rig, next, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo");
    rig_expect(rig, other, "two");
    rig_hang_up(other);
    if (next != backend) rig_hang_up(next);
    rig_hang_up(backend);
    rig_free(rig);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_of_a_burst_is_sent_in_its_turn_and_gets_its_own_answer),
        cmocka_unit_test(so_it_is_where_the_kernel_has_no_io_uring),
        cmocka_unit_test(a_broken_one_of_a_burst_is_cut_alone),
        cmocka_unit_test(and_without_io_uring),
        cmocka_unit_test(who_leaves_in_the_turn_takes_its_message_along),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
