/* links: shm metrics config */
/* Pooled connections that their backend closes: who takes one, and what is sent again when it was lost. */
#include "spec/unit/proxy/fetch_rig.h"

#include <sys/syscall.h>
#include <sys/un.h>

#define GET  "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
#define POST "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
#define OK   "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

/* The moment between the proxy's last look at a connection and its request's first byte there: send(2) and
 * sendmsg(2) stand here in libc's place. */
static void (*before_send)(struct heard *backend);
static struct heard *before_send_backend;
static int own_fd; /* the test's client */

static void
arm(struct heard *client, struct heard *backend, void (*act)(struct heard *backend))
{
    own_fd = client->fd;
    before_send = act;
    before_send_backend = backend;
}

static void
act_before(int fd)
{
    void (*act)(struct heard *) = before_send;
    if (act == NULL || fd == own_fd) return;
    before_send = NULL;
    act(before_send_backend);
}

ssize_t
send(int fd, const void *bytes, size_t len, int flags)
{
    act_before(fd);
    return syscall(SYS_sendto, fd, bytes, len, flags, NULL, 0);
}

ssize_t
sendmsg(int fd, const struct msghdr *message, int flags)
{
    act_before(fd);
    return syscall(SYS_sendmsg, fd, message, flags);
}

static void
hang_up(struct heard *heard)
{
    close(heard->fd);
    heard->fd = -1;
}

static void
reset(struct heard *heard)
{
    struct linger now = {1, 0};
    assert_int_equal(setsockopt(heard->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now), 0);
    hang_up(heard);
}

static void
answer(struct rig *rig, struct heard *client, struct heard *backend, const char *request_end)
{
    rig_expect(rig, backend, request_end);
    rig_say(rig, backend, OK);
    rig_expect(rig, client, "\r\n\r\nok");
    rig_forget(client);
    rig_forget(backend);
}

/* One whole exchange that leaves a connection in backend 0's pool. */
static struct heard *
warm_up(struct rig *rig, struct heard *client)
{
    rig_say(rig, client, GET);
    struct heard *backend = rig_backend(rig, 0);
    answer(rig, client, backend, "\r\n\r\n");
    return backend;
}

static struct endpoint *
endpoint_of(const struct rig *rig)
{
    return rig->proxy->endpoints[rig->slot[0]];
}

static void
expect_answer_on_fresh(struct rig *rig, struct heard *client, const char *request_end)
{
    struct heard *fresh = rig_backend(rig, 0);
    answer(rig, client, fresh, request_end);
    rig_hang_up(fresh);
}

/* who takes one */

static void
in_an_endpoint_s_first_second_a_post_takes_a_connection_of_its_own(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    uint64_t began_us = clock_now_us();
    struct heard *backend = warm_up(rig, client);
    assert_in_range(endpoint_of(rig)->trusted_us, began_us + 900000, clock_now_us() + 1000000);
    rig_say(rig, client, POST);
    struct heard *fresh = rig_backend(rig, 0);
    answer(rig, client, fresh, "\r\n\r\nhi");
    rig_trust(rig, 0);
    rig_say(rig, client, POST);
    answer(rig, client, fresh, "\r\n\r\nhi");
    assert_false(rig_has_connection(rig, 0));
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_hang_up(fresh);
    rig_free(rig);
}

static void
a_close_of_a_young_connection_ends_the_trust(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    struct heard *backend = warm_up(rig, client);
    rig_trust(rig, 0);
    rig_hang_up(backend);
    RIG_WAIT(rig, "the close to be seen", endpoint_of(rig)->trusted_us > clock_now_us() + 50000000);
    backend = warm_up(rig, client);
    rig_say(rig, client, POST);
    expect_answer_on_fresh(rig, client, "\r\n\r\nhi");
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
a_reset_of_a_pooled_connection_ends_the_trust(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    struct heard *backend = warm_up(rig, client);
    rig_trust(rig, 0);
    rig_say(rig, client, GET);
    rig_expect(rig, backend, "\r\n\r\n");
    reset(backend);
    expect_answer_on_fresh(rig, client, "\r\n\r\n");
    assert_true(endpoint_of(rig)->trusted_us > clock_now_us() + 50000000);
    rig_hang_up(client);
    free(backend);
    rig_free(rig);
}

/* What is known of an endpoint outlives a reload and a change of its weight, and goes with its address. */
static void
trust_is_the_server_s(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    struct slot_text text;
    struct slot cold;
    (void)state;
    struct heard *backend = warm_up(rig, client);
    rig_trust(rig, 0);
    rig_use(
        rig, RIG_YAML("  - match: { path_prefix: / }\n    service: web\n", "timeouts: { connect: 3s }\n"));
    assert_true(slot_read(rig->shm, rig->slot[0], &cold, &text));
    snprintf(text.path_prefix, sizeof text.path_prefix, "/new");
    slot_update(rig->shm, rig->slot[0], 7, rig->backend_port[0], &text);
    rig_say(rig, client, POST);
    rig_expect(rig, backend, "POST /new/ ");
    answer(rig, client, backend, "\r\n\r\nhi");
    assert_int_equal(endpoint_of(rig)->trusted_us, 1);

    rig->backend[1] = rig_listen(&rig->backend_port[1]);
    text.address.v4.sin_port = htons(rig->backend_port[1]);
    slot_update(rig->shm, rig->slot[0], 7, rig->backend_port[1], &text);
    struct heard *others[2];
    for (int i = 0; i < 2; i++) {
        rig_say(rig, client, POST);
        others[i] = rig_backend(rig, 1);
        answer(rig, client, others[i], "\r\n\r\nhi");
    }
    rig->slot[1] = rig->slot[0];
    rig_hang_up(others[0]);
    rig_hang_up(others[1]);
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

/* A PUT may run twice, but once its body has passed through it can't be sent twice. */
static void
a_body_that_will_not_be_kept_is_no_better_than_a_post(void **state)
{
    static const char *const heads[] = {"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 65536\r\n\r\n",
        "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10000\r\n"};
    static const char small[] = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
    static char body[65536];
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    (void)state;
    memset(body, 'x', sizeof body);
    struct heard *client = rig_client(rig);
    struct heard *backend = warm_up(rig, client);
    for (size_t i = 0; i < 2; i++) {
        rig_say(rig, client, heads[i]);
        struct heard *fresh = rig_backend(rig, 0);
        rig_say_bytes(rig, client, body, sizeof body);
        rig_say(rig, client, i == 0 ? "" : "\r\n0\r\n\r\n");
        rig_expect(rig, fresh, i == 0 ? "xxx" : "0\r\n\r\n");
        RIG_WAIT(rig, "the body", (heard_read(fresh), fresh->len > sizeof body));
        rig_say(rig, fresh, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        rig_expect(rig, client, "\r\n\r\nok");
        rig_forget(client);
        rig_hang_up(fresh);
    }
    rig_say(rig, client, small);
    answer(rig, client, backend, "\r\n\r\nhi");
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

/* what is sent again when it was lost */

static void
a_post_that_came_after_the_fin_is_sent_again(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    for (int i = 0; i < 3; i++) { /* the connection served other bytes before */
        struct heard *backend = warm_up(rig, client);
        for (int more = 0; more < i; more++) {
            rig_trust(rig, 0);
            rig_say(rig, client, POST);
            answer(rig, client, backend, "\r\n\r\nhi");
        }
        rig_trust(rig, 0);
        arm(client, backend, hang_up);
        rig_say(rig, client, POST);
        expect_answer_on_fresh(rig, client, "\r\n\r\nhi");
        assert_int_equal(backend->fd, -1);
        assert_true(endpoint_of(rig)->trusted_us > clock_now_us() + 50000000);
        free(backend);
        for (int turn = 0; turn < 5; turn++)
            rig_turn(rig); /* the fresh one's end */
    }
    assert_int_equal(fake_failures, 0);
    rig_hang_up(client);
    rig_free(rig);
}

static void
a_post_that_met_a_reset_before_its_first_byte_was_never_sent(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    struct heard *backend = warm_up(rig, client);
    rig_trust(rig, 0);
    arm(client, backend, reset);
    rig_say(rig, client, POST);
    expect_answer_on_fresh(rig, client, "\r\n\r\nhi");
    assert_int_equal(backend->fd, -1);
    rig_hang_up(client);
    free(backend);
    rig_free(rig);
}

static void
read_and_end(struct rig *rig, struct heard *backend)
{
    rig_expect(rig, backend, "\r\n\r\nhi");
    hang_up(backend);
}

static void
read_and_end_by_half(struct rig *rig, struct heard *backend)
{
    rig_expect(rig, backend, "\r\n\r\nhi");
    assert_int_equal(shutdown(backend->fd, SHUT_WR), 0);
}

static void
read_and_reset(struct rig *rig, struct heard *backend)
{
    rig_expect(rig, backend, "\r\n\r\nhi");
    reset(backend);
}

static void
look_without_reading(struct rig *rig, struct heard *backend)
{
    char byte;
    RIG_WAIT(rig, "the request", recv(backend->fd, &byte, 1, MSG_PEEK) == 1);
}

/* Nobody read it: but RST says so of what was read, too. */
static void
close_unread(struct rig *rig, struct heard *backend)
{
    look_without_reading(rig, backend);
    hang_up(backend);
}

static void
end_by_half_unread(struct rig *rig, struct heard *backend)
{
    look_without_reading(rig, backend);
    assert_int_equal(shutdown(backend->fd, SHUT_WR), 0);
}

static void
end_after_one_byte(struct rig *rig, struct heard *backend)
{
    char byte;
    look_without_reading(rig, backend);
    assert_int_equal(recv(backend->fd, &byte, 1, 0), 1);
    assert_int_equal(shutdown(backend->fd, SHUT_WR), 0);
}

static void
a_post_that_arrived_is_never_sent_again(void **state)
{
    static void (*const ends[])(struct rig *, struct heard *) = {read_and_end, read_and_end_by_half,
        read_and_reset, close_unread, end_by_half_unread, end_after_one_byte};
    (void)state;
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        struct rig *rig = rig_new(RIG_PLAIN, 2);
        struct heard *client = rig_client(rig);
        struct heard *backend = warm_up(rig, client);
        rig_trust(rig, 0);
        rig_say(rig, client, POST);
        ends[i](rig, backend);
        rig_expect(rig, client, "502 reset_before_headers: ");
        assert_false(rig_has_connection(rig, 0));
        assert_false(rig_has_connection(rig, 1));
        rig_hang_up(client);
        if (backend->fd != -1) close(backend->fd);
        free(backend);
        rig_free(rig);
    }
}

#define TIMED_OUT "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

static void
time_out(struct heard *backend)
{
    assert_int_equal(
        syscall(SYS_sendto, backend->fd, TIMED_OUT, sizeof TIMED_OUT - 1, 0, NULL, 0), sizeof TIMED_OUT - 1);
}

static void
a_408_of_a_connection_that_idled_is_no_answer(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    struct heard *backend = warm_up(rig, client);
    rig_trust(rig, 0);
    arm(client, backend, time_out);
    rig_say(rig, client, GET);
    struct heard *fresh = rig_backend(rig, 0);
    answer(rig, client, fresh, "\r\n\r\n");
    assert_int_equal(fake_failures, 0);
    rig_say(rig, client, GET);
    rig_expect(rig, fresh, "\r\n\r\n");
    rig_say(rig, fresh, TIMED_OUT); /* another one */
    struct heard *last = rig_backend(rig, 0);
    rig_expect(rig, last, "\r\n\r\n");
    rig_say(rig, last, TIMED_OUT); /* meant for this request */
    rig_expect(rig, client, "HTTP/1.1 408 ");
    assert_false(rig_has_connection(rig, 0));
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_hang_up(fresh);
    rig_hang_up(last);
    rig_free(rig);
}

static void
a_408_to_a_post_that_arrived_is_its_answer(void **state)
{
    static const char *const answers[] = {
        TIMED_OUT, "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"};
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct rig *rig = rig_new(RIG_PLAIN, 1);
        struct heard *client = rig_client(rig);
        struct heard *backend = warm_up(rig, client);
        rig_trust(rig, 0);
        rig_say(rig, client, i == 0 ? POST : GET);
        rig_expect(rig, backend, i == 0 ? "\r\n\r\nhi" : "\r\n\r\n");
        rig_say(rig, backend, answers[i]);
        rig_expect(rig, client, "HTTP/1.1 408 ");
        assert_false(rig_has_connection(rig, 0));
        rig_hang_up(client);
        rig_hang_up(backend);
        rig_free(rig);
    }
}

/* send(2) takes the RST's error away: recv(2) says 0 after it, and that is no FIN. */
static void
a_reset_that_a_write_met_is_no_fin(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 2);
    struct heard *client = rig_client(rig);
    (void)state;
    struct heard *backend = warm_up(rig, client);
    rig_trust(rig, 0);
    rig_say(rig, client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n");
    rig_expect(rig, backend, "\r\n\r\n");
    arm(client, backend, reset);
    rig_say(rig, client, "hi");
    rig_expect(rig, client, "502 reset_before_headers: ");
    assert_int_equal(backend->fd, -1);
    assert_false(rig_has_connection(rig, 0));
    assert_false(rig_has_connection(rig, 1));
    rig_hang_up(client);
    free(backend);
    rig_free(rig);
}

/* The same amid an answer that ends with its connection: it is cut, and looks cut. */
static void
a_reset_that_a_write_met_does_not_end_an_answer(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n");
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\n\r\nhalf");
    rig_expect(rig, client, "half");
    arm(client, backend, reset);
    rig_say(rig, client, "hi");
    rig_expect_end(rig, client);
    assert_null(strstr(client->text, "\r\n0\r\n"));
    rig_expect_log(rig, "reason=\"reset_after_headers\"");
    rig_hang_up(client);
    free(backend);
    rig_free(rig);
}

static void
a_body_met_by_the_end_of_its_connection_goes_with_its_head(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    struct heard *backend = warm_up(rig, client);
    rig_trust(rig, 0);
    arm(client, backend, hang_up);
    rig_say(rig, client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n");
    struct heard *fresh = rig_backend(rig, 0);
    rig_say(rig, client, "hi");
    answer(rig, client, fresh, "\r\n\r\nhi");
    rig_hang_up(client);
    rig_hang_up(fresh);
    free(backend);
    rig_free(rig);
}

static struct rig *
rig_new_unix(char *path, size_t room)
{
    struct rig *rig = rig_new(RIG_PLAIN, 0);
    struct slot_text text = {.id = "b0", .address_len = sizeof text.address.un};
    snprintf(path, room, "/tmp/fluxgate-stale-%ld.sock", (long)getpid());
    text.address.un.sun_family = AF_UNIX;
    snprintf(text.address.un.sun_path, sizeof text.address.un.sun_path, "%s", path);
    unlink(path);
    rig->backend[0] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(rig->backend[0], &text.address.any, sizeof text.address.un), 0);
    assert_int_equal(listen(rig->backend[0], 8), 0);
    rig->slot[0] = slot_claim(rig->shm, shm_name_find(rig->shm, SLICE_LIT("web")), SLOT_HEALTHY, 1, 0, &text);
    assert_int_not_equal(rig->slot[0], SLOT_NONE);
    return rig;
}

/* A unix socket acknowledges nothing: what it took may have been read. What it refused was not sent. */
static void
over_a_unix_socket_a_post_that_was_taken_is_never_sent_again(void **state)
{
    static void (*const ends[])(struct rig *, struct heard *) = {
        read_and_end, read_and_end_by_half, close_unread, end_by_half_unread};
    char path[64];
    (void)state;
    for (size_t i = 0; i <= sizeof ends / sizeof ends[0]; i++) {
        bool is_refused = i == sizeof ends / sizeof ends[0];
        struct rig *rig = rig_new_unix(path, sizeof path);
        struct heard *client = rig_client(rig);
        struct heard *backend = warm_up(rig, client);
        rig_trust(rig, 0);
        if (is_refused) arm(client, backend, hang_up);
        rig_say(rig, client, POST);
        if (is_refused) {
            expect_answer_on_fresh(rig, client, "\r\n\r\nhi");
        } else {
            ends[i](rig, backend);
            rig_expect(rig, client, "502 reset_before_headers: ");
            assert_false(rig_has_connection(rig, 0));
        }
        rig_hang_up(client);
        if (backend->fd != -1) close(backend->fd);
        free(backend);
        rig_free(rig);
        unlink(path);
    }
}

/* One that met a stale connection is replayed outside attempts and budget: once, however many pools hold
 * stale ones. */
static void
a_request_meets_one_stale_connection_at_most(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 3);
    struct heard *client = rig_client(rig), *pooled[3];
    unsigned reached = 0;
    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        char request[100];
        snprintf(request, sizeof request, "GET / HTTP/1.1\r\nHost: a\r\nX-Session: %u\r\n\r\n", rig->slot[i]);
        rig_say(rig, client, request);
        pooled[i] = rig_backend(rig, i);
        answer(rig, client, pooled[i], "\r\n\r\n");
    }
    rig_say(rig, client, GET);
    rig_expect(rig, pooled[0], "\r\n\r\n");
    reached++;
    reset(pooled[0]);
    for (unsigned i = 0; i < 3; i++) {
        struct heard *fresh = rig_backend(rig, i);
        rig_expect(rig, fresh, "\r\n\r\n");
        reached++;
        reset(fresh);
        free(fresh);
    }
    rig_expect(rig, client, "502 reset_before_headers: ");
    assert_int_equal(reached, 4); /* attempts: 2 */
    for (unsigned i = 1; i < 3; i++) {
        heard_read(pooled[i]);
        assert_int_equal(pooled[i]->len, 0);
        rig_hang_up(pooled[i]);
    }
    free(pooled[0]);
    rig_hang_up(client);
    rig_free(rig);
}

/* The same of a fetch from another server. */
static void
a_fetch_s_post_is_sent_again_where_it_came_after_the_fin(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    char url[64];
    (void)state;
    snprintf(url, sizeof url, "http://127.0.0.1:%u/", rig->backend_port[0]);
    struct asked post = {.method = "POST", .url = url, .body = SLICE_LIT("hi")};
    struct told *told = fetch_with(rig, post, REASON_NONE);
    struct heard *server = rig_backend(rig, 0);
    rig_expect(rig, server, "\r\n\r\nhi");
    rig_say(rig, server, OK);
    expect_answer(rig, told, 200, "ok");
    own_fd = -1;
    before_send = hang_up;
    before_send_backend = server;
    told = fetch_with(rig, post, REASON_NONE);
    struct heard *fresh = rig_backend(rig, 0);
    assert_int_equal(server->fd, -1);
    rig_expect(rig, fresh, "\r\n\r\nhi");
    rig_say(rig, fresh, OK);
    expect_answer(rig, told, 200, "ok");
    rig_forget(fresh);
    told = fetch_with(rig, post, REASON_NONE);
    rig_expect(rig, fresh, "\r\n\r\nhi");
    rig_hang_up(fresh);
    expect_told(rig, told, REASON_RESET_BEFORE_HEADERS, "");
    assert_false(rig_has_connection(rig, 0));
    free(server);
    rig_free(rig);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(in_an_endpoint_s_first_second_a_post_takes_a_connection_of_its_own),
        cmocka_unit_test(a_close_of_a_young_connection_ends_the_trust),
        cmocka_unit_test(a_reset_of_a_pooled_connection_ends_the_trust),
        cmocka_unit_test(trust_is_the_server_s),
        cmocka_unit_test(a_body_that_will_not_be_kept_is_no_better_than_a_post),
        cmocka_unit_test(a_post_that_came_after_the_fin_is_sent_again),
        cmocka_unit_test(a_post_that_met_a_reset_before_its_first_byte_was_never_sent),
        cmocka_unit_test(a_post_that_arrived_is_never_sent_again),
        cmocka_unit_test(a_408_of_a_connection_that_idled_is_no_answer),
        cmocka_unit_test(a_408_to_a_post_that_arrived_is_its_answer),
        cmocka_unit_test(a_reset_that_a_write_met_is_no_fin),
        cmocka_unit_test(a_reset_that_a_write_met_does_not_end_an_answer),
        cmocka_unit_test(a_body_met_by_the_end_of_its_connection_goes_with_its_head),
        cmocka_unit_test(over_a_unix_socket_a_post_that_was_taken_is_never_sent_again),
        cmocka_unit_test(a_fetch_s_post_is_sent_again_where_it_came_after_the_fin),
        cmocka_unit_test(a_request_meets_one_stale_connection_at_most),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
