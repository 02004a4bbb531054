/* links: shm metrics config */
#include <sys/eventfd.h>

#include "core/shm/queue.h"
#include "spec/unit/proxy/rig.h"

#define LIMITED(limits)                                                                                      \
    "listeners: [ { address: 127.0.0.1:0 } ]\nworkers: 1\n"                                                  \
    "routes:\n  - match: { path_prefix: /never }\n    service: web\n    limits: { queue: 0 }\n"              \
    "  - match: { path_prefix: / }\n    service: web\n"                                                      \
    "services: { web: { endpoints: [ \"127.0.0.1:1\" ], limits: { " limits " } } }\n"                        \
    "log: { level: info, format: logfmt, access: \"-\" }\n"
#define ONE_EACH LIMITED("active_per_endpoint: 1, queue: 3, queue_timeout: 5s")
#define ANSWER   "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

/* A client that asked; nobody need have answered. */
static struct heard *
ask(struct rig *rig, const char *path, const char *headers)
{
    char text[256];
    struct heard *client = rig_client(rig);
    snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: a\r\n%s\r\n", path, headers);
    rig_say(rig, client, text);
    return client;
}

static struct queue *
line(struct rig *rig)
{
    return shm_queue(rig->shm, shm_name_find(rig->shm, SLICE_LIT("web")));
}

#define WAITING(rig, n) RIG_WAIT(rig, "that many wait", queue_depth(line(rig)) == (n))

/* Asks and has it wait, as the n-th in line. */
static struct heard *
wait_as(struct rig *rig, uint32_t n, const char *path, const char *headers)
{
    struct heard *client = ask(rig, path, headers);
    WAITING(rig, n);
    return client;
}

static void
expect_next(struct rig *rig, struct heard *backend, const char *request)
{
    rig_expect(rig, backend, "\r\n\r\n");
    if (strncmp(backend->text, request, strlen(request)) != 0)
        fail_msg("expected %s, got %s", request, backend->text);
    rig_forget(backend);
}

static void
answer(struct rig *rig, struct heard *backend, struct heard *client)
{
    rig_say(rig, backend, ANSWER);
    rig_expect(rig, client, "ok");
    rig_hang_up(client);
}

static void
serves_one_at_a_time_in_the_order_they_came(void **state)
{
    struct rig *rig = rig_new(ONE_EACH, 1);
    (void)state;
    fake_limit = 1;
    struct heard *a = ask(rig, "/a", "");
    struct heard *backend = rig_backend(rig, 0);
    expect_next(rig, backend, "GET /a ");
    struct heard *b = wait_as(rig, 1, "/b", ""), *c = wait_as(rig, 2, "/c", "");
    assert_int_equal(slot_active(rig->shm, rig->slot[0]), 1);
    answer(rig, backend, a);
    expect_next(rig, backend, "GET /b ");
    struct heard *d = wait_as(rig, 2, "/d", "");
    answer(rig, backend, b);
    expect_next(rig, backend, "GET /c ");
    answer(rig, backend, c);
    expect_next(rig, backend, "GET /d ");
    answer(rig, backend, d);
    assert_false(rig_has_connection(rig, 0));
    assert_int_equal(queue_depth(line(rig)), 0);
    assert_int_equal(queue_active(line(rig)), 0);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
sends_the_body_that_waited_with_its_request(void **state)
{
    struct rig *rig = rig_new(ONE_EACH, 1);
    (void)state;
    fake_limit = 1;
    struct heard *a = ask(rig, "/a", "");
    struct heard *backend = rig_backend(rig, 0);
    rig_trust(rig, 0);
    expect_next(rig, backend, "GET /a ");
    struct heard *b = rig_client(rig);
    rig_say(rig, b, "POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello");
    WAITING(rig, 1);
    rig_say(rig, b, "world");
    answer(rig, backend, a);
    rig_expect(rig, backend, "\r\n\r\nhelloworld");
    answer(rig, backend, b);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
refuses_past_the_depth_and_where_a_route_does_not_wait(void **state)
{
    struct rig *rig = rig_new(LIMITED("active: 1, queue: 1"), 2);
    (void)state;
    struct heard *a = ask(rig, "/a", "");
    struct heard *backend = rig_backend(rig, 0);
    expect_next(rig, backend, "GET /a ");
    struct heard *b = wait_as(rig, 1, "/b", ""), *c = ask(rig, "/c", ""), *d = ask(rig, "/never", "");
    rig_expect(rig, c, "HTTP/1.1 503 ");
    rig_expect(rig, d, "HTTP/1.1 503 ");
    rig_expect_log(rig, "path=\"/c\" status=503");
    assert_non_null(strstr(rig->log, "reason=\"all_full\""));
    assert_int_equal(queue_depth(line(rig)), 1);
    answer(rig, backend, a);
    expect_next(rig, backend, "GET /b ");
    answer(rig, backend, b);
    rig_hang_up(c);
    rig_hang_up(d);
    struct heard *e = ask(rig, "/never", "");
    expect_next(rig, backend, "GET /never ");
    answer(rig, backend, e);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
ends_the_wait_at_its_timeout(void **state)
{
    struct rig *rig = rig_new(LIMITED("active: 1, queue: 9, queue_timeout: 30ms"), 1);
    (void)state;
    struct heard *a = ask(rig, "/a", "");
    struct heard *backend = rig_backend(rig, 0);
    expect_next(rig, backend, "GET /a ");
    struct heard *b = ask(rig, "/b", "");
    rig_expect(rig, b, "HTTP/1.1 503 ");
    rig_expect(rig, b, "queue_timeout");
    rig_expect_log(rig, "reason=\"queue_timeout\"");
    assert_int_equal(queue_depth(line(rig)), 0);
    answer(rig, backend, a);
    rig_hang_up(b);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
gives_up_the_place_of_a_client_that_left(void **state)
{
    struct linger reset = {1, 0};
    struct rig *rig = rig_new(ONE_EACH, 1);
    (void)state;
    fake_limit = 1;
    struct heard *a = ask(rig, "/a", "");
    struct heard *backend = rig_backend(rig, 0);
    expect_next(rig, backend, "GET /a ");
    struct heard *b = wait_as(rig, 1, "/b", ""), *c = wait_as(rig, 2, "/c", ""),
                 *d = wait_as(rig, 3, "/d", "");
    assert_int_equal(setsockopt(b->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset), 0);
    rig_hang_up(b);
    WAITING(rig, 2);
    rig_hang_up(c); /* a FIN, which might be a half-close */
    WAITING(rig, 1);
    rig_expect_log(rig, "path=\"/c\" status=499");
    assert_non_null(strstr(rig->log, "path=\"/b\" status=499"));
    answer(rig, backend, a);
    expect_next(rig, backend, "GET /d ");
    answer(rig, backend, d);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
lets_a_retry_go_first(void **state)
{
    struct rig *rig = rig_new(LIMITED("active: 1, queue: 9"), 2);
    (void)state;
    struct heard *a = ask(rig, "/a", "");
    struct heard *first = rig_backend(rig, 0);
    expect_next(rig, first, "GET /a ");
    struct heard *b = wait_as(rig, 1, "/b", ""), *c = wait_as(rig, 2, "/c", "");
    rig_hang_up(first);
    struct heard *second = rig_backend(rig, 1);
    expect_next(rig, second, "GET /a ");
    assert_int_equal(queue_depth(line(rig)), 2);
    answer(rig, second, a);
    first = rig_backend(rig, 0);
    expect_next(rig, first, "GET /b ");
    answer(rig, first, b);
    expect_next(rig, first, "GET /c ");
    answer(rig, first, c);
    rig_hang_up(first);
    rig_hang_up(second);
    rig_free(rig);
}

static void
a_retry_with_one_endpoint_left_is_in_nobodys_way(void **state)
{
    struct rig *rig = rig_new(ONE_EACH, 2);
    (void)state;
    fake_limit = 1;
    struct heard *a = ask(rig, "/a", ""), *first = rig_backend(rig, 0);
    struct heard *b = ask(rig, "/b", ""), *second = rig_backend(rig, 1);
    expect_next(rig, first, "GET /a ");
    expect_next(rig, second, "GET /b ");
    rig_hang_up(first);
    WAITING(rig, 1);
    struct heard *c = ask(rig, "/c", "");
    first = rig_backend(rig, 0);
    expect_next(rig, first, "GET /c ");
    answer(rig, first, c);
    assert_int_equal(queue_depth(line(rig)), 1);
    answer(rig, second, b);
    expect_next(rig, second, "GET /a ");
    answer(rig, second, a);
    rig_hang_up(first);
    rig_hang_up(second);
    rig_free(rig);
}

static void
a_retry_with_several_endpoints_left_lets_others_have_the_one_it_tried(void **state)
{
    struct rig *rig = rig_new(ONE_EACH, 3);
    struct heard *backend[3], *client[3];
    static const char *const paths[] = {"/a", "/b", "/c"};
    (void)state;
    fake_limit = 1;
    for (unsigned i = 0; i < 3; i++) {
        client[i] = ask(rig, paths[i], "");
        backend[i] = rig_backend(rig, i);
        rig_expect(rig, backend[i], "\r\n\r\n");
        rig_forget(backend[i]);
    }
    rig_hang_up(backend[0]);
    WAITING(rig, 1); /* /a, for the second or the third */
    struct heard *d = ask(rig, "/d", "");
    backend[0] = rig_backend(rig, 0);
    expect_next(rig, backend[0], "GET /d ");
    struct heard *e = wait_as(rig, 2, "/e", "");
    answer(rig, backend[2], client[2]);
    expect_next(
        rig, backend[2], "GET /a "); /* before /e, and though it is not the first any more that blocks */
    assert_int_equal(queue_depth(line(rig)), 1);
    answer(rig, backend[0], d);
    expect_next(rig, backend[0], "GET /e ");
    answer(rig, backend[0], e);
    answer(rig, backend[1], client[1]);
    answer(rig, backend[2], client[0]);
    for (unsigned i = 0; i < 3; i++)
        rig_hang_up(backend[i]);
    rig_free(rig);
}

static void
a_session_waits_for_its_own_endpoint_in_nobodys_way(void **state)
{
    struct rig *rig = rig_new(LIMITED("active_per_endpoint: 1, queue: 1"), 2);
    (void)state;
    fake_limit = 1;
    struct heard *a = ask(rig, "/a", "X-Session: 0\r\n");
    struct heard *first = rig_backend(rig, 0);
    expect_next(rig, first, "GET /a ");
    struct heard *b = wait_as(rig, 1, "/b", "X-Session: 0\r\n");
    struct heard *c = ask(rig, "/c", ""); /* the line is full, but of those who wait for another */
    struct heard *second = rig_backend(rig, 1);
    expect_next(rig, second, "GET /c ");
    answer(rig, second, c);
    assert_int_equal(queue_depth(line(rig)), 1);
    answer(rig, first, a);
    expect_next(rig, first, "GET /b ");
    answer(rig, first, b);
    rig_hang_up(first);
    rig_hang_up(second);
    rig_free(rig);
}

static void
an_endpoints_death_strands_nobody(void **state)
{
    struct rig *rig = rig_new(ONE_EACH, 2);
    (void)state;
    fake_limit = 1;
    struct heard *a = ask(rig, "/a", ""), *first = rig_backend(rig, 0);
    struct heard *b = ask(rig, "/b", ""), *second = rig_backend(rig, 1);
    struct heard *c = wait_as(rig, 1, "/c", "X-Session: 0\r\n"), *d = wait_as(rig, 2, "/d", "");
    expect_next(rig, first, "GET /a ");
    expect_next(rig, second, "GET /b ");
    slot_set_state(rig->shm, rig->slot[0], SLOT_UNHEALTHY, "test");
    answer(rig, second, b);
    rig_expect(rig, second, "GET /"); /* the session has waited as long as the other: both are served here */
    WAITING(rig, 1);
    rig_say(rig, second, ANSWER);
    rig_expect(rig, second, strstr(second->text, "GET /c ") != NULL ? "GET /d " : "GET /c ");
    struct heard *e = wait_as(rig, 1, "/e", "");
    slot_set_state(rig->shm, rig->slot[1], SLOT_UNHEALTHY, "test");
    rig_expect(rig, e, "HTTP/1.1 503 ");
    rig_say(rig, second, ANSWER);
    rig_expect(rig, c, "ok");
    rig_expect(rig, d, "ok");
    answer(rig, first, a);
    rig_hang_up(c);
    rig_hang_up(d);
    rig_hang_up(e);
    rig_hang_up(first);
    rig_hang_up(second);
    rig_free(rig);
}

static void
a_reload_that_raises_or_drops_the_limit_serves_who_waits(void **state)
{
    struct rig *rig = rig_new(ONE_EACH, 1);
    (void)state;
    fake_limit = 1;
    struct heard *a = ask(rig, "/a", ""), *first = rig_backend(rig, 0);
    struct heard *b = wait_as(rig, 1, "/b", ""), *c = wait_as(rig, 2, "/c", ""),
                 *d = wait_as(rig, 3, "/d", "");
    fake_limit = 2;
    rig_use(rig, LIMITED("active_per_endpoint: 2, queue: 9"));
    struct heard *second = rig_backend(rig, 0);
    expect_next(rig, second, "GET /b ");
    assert_int_equal(queue_depth(line(rig)), 2);
    fake_limit = 0;
    rig_use(rig, RIG_PLAIN);
    struct heard *third = rig_backend(rig, 0), *fourth = rig_backend(rig, 0);
    expect_next(rig, third, "GET /c ");
    expect_next(rig, fourth, "GET /d ");
    answer(rig, first, a);
    answer(rig, second, b);
    answer(rig, third, c);
    answer(rig, fourth, d);
    rig_hang_up(first);
    rig_hang_up(second);
    rig_hang_up(third);
    rig_hang_up(fourth);
    rig_free(rig);
}

static void
a_reload_without_the_service_answers_who_waits(void **state)
{
    struct rig *rig = rig_new(ONE_EACH, 1);
    (void)state;
    fake_limit = 1;
    struct heard *a = ask(rig, "/a", ""), *backend = rig_backend(rig, 0);
    struct heard *b = wait_as(rig, 1, "/b", ""), *c = wait_as(rig, 2, "/c", "X-Session: 0\r\n");
    rig_use(rig, "listeners: [ { address: 127.0.0.1:0 } ]\nworkers: 1\n"
                 "routes: [ { match: { path_prefix: / }, respond: { status: 200 } } ]\n"
                 "log: { level: info, format: logfmt, access: \"-\" }\n");
    rig_expect(rig, b, "HTTP/1.1 503 ");
    rig_expect(rig, c, "HTTP/1.1 503 ");
    answer(rig, backend, a);
    rig_hang_up(b);
    rig_hang_up(c);
    rig_hang_up(backend);
    rig_free(rig);
}

/* A route over two services, of which the second gets nothing: such a route has no retry of its own. */
#define SPLIT(services)                                                                                      \
    "listeners: [ { address: 127.0.0.1:0 } ]\nworkers: 1\n"                                                  \
    "routes: [ { match: { path_prefix: / }, service: { web: 1, idle: 0 } } ]\n"                              \
    "services:\n" services "log: { level: info, format: logfmt, access: \"-\" }\n"
#define SERVICE(name, keys)                                                                                  \
    "  " name ": { endpoints: [ \"127.0.0.1:1\" ], limits: { active_per_endpoint: 1, queue: 9 }" keys " }\n"

/* Whoever waited is picked by the newest generation, in which its service has another number; its retries are
 * those of its own, whose services that number does not count. */
static void
a_reload_that_moves_services_leaves_who_waits_its_retries(void **state)
{
    static const char *const after[] = {
        SPLIT(SERVICE("web", ", retry: { attempts: 2 }") SERVICE("idle", ", retry: { attempts: 2 }")),
        SPLIT(SERVICE("idle", ", retry: { attempts: 2 }") SERVICE("a", "") SERVICE("b", "") SERVICE("c", "")
                SERVICE("web", ", retry: { attempts: 2 }"))};
    (void)state;
    for (size_t i = 0; i < sizeof after / sizeof after[0]; i++) {
        struct rig *rig = rig_new(
            SPLIT(SERVICE("idle", ", retry: { attempts: 2 }") SERVICE("web", ", retry: { attempts: 0 }")), 1);
        fake_limit = 1;
        struct heard *a = ask(rig, "/a", ""), *backend = rig_backend(rig, 0);
        expect_next(rig, backend, "GET /a ");
        struct heard *b = wait_as(rig, 1, "/b", "");
        rig_use(rig, after[i]);
        answer(rig, backend, a);
        expect_next(rig, backend, "GET /b ");
        rig_hang_up(backend); /* stale, for all that we know: once more */
        backend = rig_backend(rig, 0);
        expect_next(rig, backend, "GET /b ");
        rig_hang_up(backend);
        rig_expect(rig, b, "HTTP/1.1 502 ");
        assert_false(rig_has_connection(rig, 0));
        rig_hang_up(b);
        rig_free(rig);
    }
}

static void
on_drained(void *context)
{
    ((struct rig *)context)->drained = true;
}

static void
draining_serves_who_waits_and_answers_who_waits_too_long(void **state)
{
    struct rig *rig = rig_new(ONE_EACH, 1);
    (void)state;
    fake_limit = 1;
    struct heard *a = ask(rig, "/a", ""), *backend = rig_backend(rig, 0);
    struct heard *b = wait_as(rig, 1, "/b", ""), *c = wait_as(rig, 2, "/c", "");
    proxy_drain(rig->proxy, 600000, 600000, on_drained, rig);
    expect_next(rig, backend, "GET /a ");
    answer(rig, backend, a);
    rig_hang_up(backend);
    backend = rig_backend(rig, 0);
    expect_next(rig, backend, "GET /b ");
    assert_false(rig->drained);
    rig_expect(rig, c, "HTTP/1.1 503 ");
    RIG_WAIT(rig, "drained", rig->drained);
    rig_hang_up(b);
    rig_hang_up(c);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
waits_by_a_limit_that_only_the_script_knows(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    (void)state;
    fake_holds = true;
    struct heard *a = wait_as(rig, 1, "/a", "");
    fake_holds = false;
    struct heard *backend = rig_backend(rig, 0);
    expect_next(rig, backend, "GET /a ");
    answer(rig, backend, a);
    rig_hang_up(backend);
    rig_free(rig);
}

/* workers */

/* Another worker over the same segment, in the same loop. */
static struct rig *
rig_sibling(struct rig *rig, const char *yaml)
{
    struct rig *sibling = calloc(1, sizeof *sibling);
    assert_non_null(sibling);
    sibling->base = rig->base;
    sibling->shm = rig->shm;
    sibling->stats = stats_open(rig->shm, 1);
    sibling->proxy = proxy_new(rig->base, rig->shm, 1, sibling->stats);
    assert_non_null(sibling->proxy);
    int fd = rig_listen(&sibling->port);
    assert_true(proxy_listen(sibling->proxy, &fd, 1));
    rig_use(sibling, yaml);
    return sibling;
}

static void
rig_sibling_free(struct rig *sibling)
{
    proxy_free(sibling->proxy);
    stats_close(sibling->stats);
    free(sibling);
}

static void
keeps_the_order_over_workers(bool with_descriptors)
{
    struct rig *rig = rig_new(ONE_EACH, 1), *other = rig_sibling(rig, ONE_EACH);
    int fds[2] = {eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
    if (with_descriptors) {
        proxy_set_wake(rig->proxy, fds, 2);
        proxy_set_wake(other->proxy, fds, 2);
    }
    fake_limit = 1;
    struct heard *a = ask(rig, "/a", ""), *first = rig_backend(rig, 0);
    expect_next(rig, first, "GET /a ");
    struct heard *b = wait_as(other, 1, "/b", ""), *c = wait_as(rig, 2, "/c", ""),
                 *d = wait_as(other, 3, "/d", "");
    answer(rig, first, a);
    struct heard *second = rig_backend(rig, 0);
    expect_next(rig, second, "GET /b ");
    answer(rig, second, b);
    expect_next(rig, first, "GET /c ");
    answer(rig, first, c);
    expect_next(rig, second, "GET /d ");
    answer(rig, second, d);
    rig_hang_up(first);
    rig_hang_up(second);
    rig_sibling_free(other);
    rig_free(rig);
    close(fds[0]);
    close(fds[1]);
}

static void
keeps_the_order_over_workers_that_wake_each_other(void **state)
{
    (void)state;
    keeps_the_order_over_workers(true);
}

static void
keeps_the_order_over_workers_that_look_now_and_then(void **state)
{
    (void)state;
    keeps_the_order_over_workers(false);
}

static void
goes_on_after_a_worker_that_died_with_its_places(void **state)
{
    struct rig *rig = rig_new(ONE_EACH, 1);
    (void)state;
    fake_limit = 1;
    assert_true(slot_try_begin(rig->shm, 7, rig->slot[0], 1)); /* it is serving one ... */
    assert_int_not_equal(
        queue_enter(rig->shm, line(rig), 7, SLOT_NONE, false, 9), 0); /* and had one waiting */
    struct heard *a = wait_as(rig, 2, "/a", "");
    shm_worker_reap(rig->shm, 7);
    struct heard *backend = rig_backend(rig, 0);
    expect_next(rig, backend, "GET /a ");
    answer(rig, backend, a);
    rig_hang_up(backend);
    rig_free(rig);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(serves_one_at_a_time_in_the_order_they_came),
        cmocka_unit_test(sends_the_body_that_waited_with_its_request),
        cmocka_unit_test(refuses_past_the_depth_and_where_a_route_does_not_wait),
        cmocka_unit_test(ends_the_wait_at_its_timeout),
        cmocka_unit_test(gives_up_the_place_of_a_client_that_left),
        cmocka_unit_test(lets_a_retry_go_first),
        cmocka_unit_test(a_retry_with_one_endpoint_left_is_in_nobodys_way),
        cmocka_unit_test(a_retry_with_several_endpoints_left_lets_others_have_the_one_it_tried),
        cmocka_unit_test(a_session_waits_for_its_own_endpoint_in_nobodys_way),
        cmocka_unit_test(an_endpoints_death_strands_nobody),
        cmocka_unit_test(a_reload_that_raises_or_drops_the_limit_serves_who_waits),
        cmocka_unit_test(a_reload_without_the_service_answers_who_waits),
        cmocka_unit_test(a_reload_that_moves_services_leaves_who_waits_its_retries),
        cmocka_unit_test(draining_serves_who_waits_and_answers_who_waits_too_long),
        cmocka_unit_test(waits_by_a_limit_that_only_the_script_knows),
        cmocka_unit_test(keeps_the_order_over_workers_that_wake_each_other),
        cmocka_unit_test(keeps_the_order_over_workers_that_look_now_and_then),
        cmocka_unit_test(goes_on_after_a_worker_that_died_with_its_places),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
