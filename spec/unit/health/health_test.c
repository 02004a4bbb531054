/* links: shm http base */
/* The probe engine against real sockets on loopback. The policy is a small one of our own, in C, behind
 * script.h. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
#include <event2/event.h>

#include "core/base/clock.h"
#include "core/base/text.h"
#include "core/health/health_internal.h"

enum { WAIT_US = 30000000, KEPT_MAX = 8 };

/* ---- the policy */

static struct {
    enum probe_kind kind;
    const char *path, *body_contains;
    const char *sought; /* in the body, by judge() itself */
    uint64_t timeout_us;
    uint32_t rise, fall;
    bool fails; /* raises, as Lua would */
    unsigned plans, judgements;
    bool only_observes;
    uint64_t window_us; /* 0: it does not observe */
    struct script_observation word;
    struct script_window seen; /* by the last observe() */
    unsigned observations;
    struct script_window_row rows[8];
    uint32_t row_count;
} policy;

/* A dialog: "HI", a line, then as many bytes as the line says; well if those are "well". */
static struct {
    unsigned begun, ended, step;
    bool fails;
} dialog;

bool
script_policy_dialog(struct script *script, uint32_t service, uint32_t number, const struct slice *got,
    const char *why, struct script_dialog_turn *turn)
{
    (void)script, (void)service;
    assert_int_equal(number, dialog.begun);
    *turn = (struct script_dialog_turn){.want = DIALOG_DONE};
    if (dialog.fails && dialog.step == 2) return false;
    if (why != NULL) {
        snprintf(turn->detail, sizeof turn->detail, "%s after '%.*s'", why, got == NULL ? 0 : (int)got->len,
            got == NULL ? "" : got->at);
        return true;
    }
    switch (dialog.step++) {
    case 0: turn->want = DIALOG_SEND, turn->text = SLICE_LIT("HI\r\n\r\n"); return true;
    case 1: turn->want = DIALOG_RECEIVE, turn->receive = RECEIVE_LINE, turn->bytes = 100; return true;
    case 2:
        turn->want = DIALOG_RECEIVE, turn->receive = RECEIVE_BYTES;
        turn->bytes = (size_t)(got->at[got->len - 1] - '0');
        return true;
    default: turn->ok = slice_equal(*got, SLICE_LIT("well")); return true;
    }
}

void
script_policy_dialog_end(struct script *script, uint32_t number)
{
    (void)script;
    assert_int_equal(number, dialog.begun);
    dialog.ended++;
}

bool
script_policy_probes(const struct script *script, uint32_t service)
{
    (void)script, (void)service;
    return !policy.only_observes;
}

uint64_t
script_policy_window_us(const struct script *script, uint32_t service)
{
    (void)script, (void)service;
    return policy.window_us;
}

bool
script_policy_fleet(
    struct script *script, uint32_t service, const struct script_window_row *rows, uint32_t count)
{
    (void)script, (void)service;
    assert_true(count <= 8);
    if (count > 0) memcpy(policy.rows, rows, count * sizeof *rows);
    policy.row_count = count;
    return !policy.fails;
}

bool
script_policy_observe(struct script *script, uint32_t service, uint32_t slot,
    const struct script_window *window, struct script_observation *word)
{
    (void)script, (void)service, (void)slot;
    policy.seen = *window;
    policy.observations++;
    *word = policy.word;
    return !policy.fails;
}

bool
script_policy_probe(struct script *script, uint32_t service, uint32_t slot, struct script_probe *probe)
{
    (void)script;
    (void)slot;
    assert_int_equal(service, 0);
    policy.plans++;
    if (policy.fails) return false;
    *probe = (struct script_probe){.kind = policy.kind,
        .method = "GET",
        .path = policy.path,
        .timeout_us = policy.timeout_us,
        .statuses = {{200, 299}},
        .status_count = 1,
        .body_contains = policy.body_contains};
    if (policy.kind == PROBE_SOCKET) {
        dialog.step = 0;
        probe->dialog = ++dialog.begun;
    }
    return true;
}

bool
script_policy_judge(struct script *script, uint32_t service, uint32_t slot,
    const struct script_probe_result *result, const struct script_history *history,
    enum script_judgement *judgement, char reason[128])
{
    bool passed =
        result->ok && (policy.kind != PROBE_HTTP || (result->status >= 200 && result->status < 300));
    (void)script;
    (void)service;
    (void)slot;
    policy.judgements++;
    if (policy.body_contains != NULL && passed) {
        passed = memmem(result->body.at, result->body.len, policy.body_contains,
                     strlen(policy.body_contains)) != NULL;
    }
    if (policy.sought != NULL && passed) passed = slice_equal(result->body, slice_of(policy.sought));
    reason[0] = '\0';
    *judgement = JUDGE_UNCHANGED;
    if (passed && (history->state == SLOT_UNPROVEN || history->rise + 1 >= policy.rise))
        *judgement = JUDGE_HEALTHY;
    if (!passed && history->fall + 1 >= policy.fall) *judgement = JUDGE_UNHEALTHY;
    return true;
}

/* ---- ports */

/* Sockets that are bound, so that nobody else gets their port, and do not listen, so that whoever connects is
 * refused. */
static struct {
    int fds[KEPT_MAX];
    unsigned count;
} kept;

static uint16_t
bind_any(int fd)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    assert_int_equal(bind(fd, (struct sockaddr *)&address, len), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
    return ntohs(address.sin_port);
}

static uint16_t
refusing_port(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_int_not_equal(fd, -1);
    assert_true(kept.count < KEPT_MAX);
    kept.fds[kept.count++] = fd;
    return bind_any(fd);
}

/* The socket of a port that refused up to now. */
static int
kept_take(uint16_t port)
{
    for (unsigned i = 0; i < kept.count; i++) {
        struct sockaddr_in address;
        socklen_t len = sizeof address;
        int fd = kept.fds[i];
        assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
        if (ntohs(address.sin_port) != port) continue;
        kept.fds[i] = kept.fds[--kept.count];
        return fd;
    }
    fail_msg("port %u is not kept", port);
    return -1;
}

static void
kept_close(void)
{
    while (kept.count > 0)
        close(kept.fds[--kept.count]);
}

/* ---- a backend */

struct backend {
    int fd;
    uint16_t port;
    struct event *accepts;
    struct event_base *base;
    const char *answer; /* NULL: silent */
    bool slow;          /* one byte a wake-up */
    bool stays;         /* does not close behind its answer */
    unsigned connections;
    char request[2048]; /* of the last connection */
    struct peer *peers;
};

struct peer {
    struct peer *next;
    struct backend *backend;
    int fd;
    struct event *event;
    size_t got, sent;
};

static void
peer_free(struct peer *peer)
{
    struct peer **link = &peer->backend->peers;
    while (*link != peer)
        link = &(*link)->next;
    *link = peer->next;
    event_free(peer->event);
    close(peer->fd);
    free(peer);
}

static void
on_peer(evutil_socket_t fd, short what, void *context)
{
    struct peer *peer = context;
    struct backend *backend = peer->backend;
    if (what & EV_READ) {
        ssize_t n = read(fd, backend->request + peer->got, sizeof backend->request - 1 - peer->got);
        if (n <= 0) {
            peer_free(peer);
            return;
        }
        peer->got += (size_t)n;
        backend->request[peer->got] = '\0';
        if (backend->answer == NULL || strstr(backend->request, "\r\n\r\n") == NULL) return;
        event_free(peer->event);
        peer->event = event_new(backend->base, fd, EV_WRITE | EV_PERSIST, on_peer, peer);
        assert_int_equal(event_add(peer->event, NULL), 0);
        return;
    }
    size_t left = strlen(backend->answer) - peer->sent;
    ssize_t n = send(fd, backend->answer + peer->sent, backend->slow && left > 1 ? 1 : left, MSG_NOSIGNAL);
    if (n > 0 && (size_t)n == left && backend->stays) {
        assert_int_equal(event_del(peer->event), 0);
    } else if (n <= 0 || (size_t)n == left) {
        peer_free(peer);
    } else {
        peer->sent += (size_t)n;
    }
}

static void
on_accept(evutil_socket_t fd, short what, void *context)
{
    struct backend *backend = context;
    int got = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    (void)what;
    if (got == -1) return;
    struct peer *peer = calloc(1, sizeof *peer);
    assert_non_null(peer);
    backend->connections++;
    *peer = (struct peer){.next = backend->peers, .backend = backend, .fd = got};
    backend->peers = peer;
    peer->event = event_new(backend->base, got, EV_READ | EV_PERSIST, on_peer, peer);
    assert_int_equal(event_add(peer->event, NULL), 0);
}

/* On any port, or where `port` is not 0, on one that refused up to now. */
static void
backend_listen(struct backend *backend, struct event_base *base, uint16_t port, const char *answer)
{
    memset(backend, 0, sizeof *backend);
    backend->fd =
        port != 0 ? kept_take(port) : socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_int_not_equal(backend->fd, -1);
    backend->port = port != 0 ? port : bind_any(backend->fd);
    assert_int_equal(listen(backend->fd, 1024), 0);
    backend->base = base;
    backend->answer = answer;
    backend->accepts = event_new(base, backend->fd, EV_READ | EV_PERSIST, on_accept, backend);
    assert_int_equal(event_add(backend->accepts, NULL), 0);
}

static void
backend_close(struct backend *backend)
{
    if (backend->fd == -1) return;
    while (backend->peers != NULL)
        peer_free(backend->peers);
    event_free(backend->accepts);
    close(backend->fd);
    backend->fd = -1;
}

/* ---- the world */

struct world {
    struct event_base *base;
    struct shm *shm;
    struct health *health;
    struct config config;
    struct config_service service;
    struct backend backend;
    uint32_t service_id;
    uint32_t suspect_failed;
    unsigned suspects_failed;
};

static void
on_suspect_failed(void *context, uint32_t slot)
{
    struct world *world = context;
    world->suspect_failed = slot;
    world->suspects_failed++;
    slot_remove(world->shm, slot);
}

static int
setup(void **state)
{
    struct world *world = calloc(1, sizeof *world);
    struct shm_params params = {.max_endpoints = 1024, .stats_bytes = 4096, .ring_bytes = 4096};
    assert_non_null(world);
    log_init("test", LOG_ERROR, LOG_LOGFMT);
    world->base = event_base_new();
    world->shm = shm_create(&params);
    assert_non_null(world->base);
    assert_non_null(world->shm);
    shm_control_adopt(world->shm);
    world->service_id = shm_name_add(world->shm, SLICE_LIT("web"));
    world->service = (struct config_service){.name = "web",
        .health = {.enabled = true,
            .interval_us = 30000,
            .fast_interval_us = 10000,
            .timeout_us = WAIT_US, /* a backend shares our thread, and may wait for its turn long */
            .rise = 2,
            .fall = 3,
            .jitter = 0.1}};
    world->config = (struct config){.services = &world->service, .service_count = 1};
    world->backend.fd = -1;
    memset(&policy, 0, sizeof policy);
    memset(&dialog, 0, sizeof dialog);
    policy.kind = PROBE_HTTP;
    policy.path = "/health";
    policy.rise = 2;
    policy.fall = 3;
    world->health = health_new(world->base, world->shm, on_suspect_failed, world);
    assert_non_null(world->health);
    *state = world;
    return 0;
}

static int
teardown(void **state)
{
    struct world *world = *state;
    health_free(world->health);
    backend_close(&world->backend);
    kept_close();
    event_base_free(world->base);
    shm_destroy(world->shm);
    free(world);
    return 0;
}

static uint32_t
endpoint_add(struct world *world, const char *id, uint16_t port, enum slot_state state)
{
    struct slot_text text = {0};
    assert_true(text_copy(text.id, sizeof text.id, slice_of(id)));
    assert_true(text_copy(text.host, sizeof text.host, SLICE_LIT("127.0.0.1")));
    text.address.v4 = (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    text.address_len = sizeof text.address.v4;
    uint32_t slot = slot_claim(world->shm, world->service_id, state, 1, port, &text);
    assert_int_not_equal(slot, SLOT_NONE);
    return slot;
}

static enum slot_state
state_of(struct world *world, uint32_t slot, char reason[128])
{
    struct slot cold;
    struct slot_text text;
    if (!slot_read(world->shm, slot, &cold, &text)) return SLOT_FREE;
    if (reason != NULL) memcpy(reason, text.reason, 128);
    return (enum slot_state)cold.state;
}

static bool
turn(struct world *world, uint64_t until)
{
    struct timeval tick = {0, 2000};
    event_base_loopexit(world->base, &tick);
    event_base_loop(world->base, EVLOOP_ONCE);
    return clock_now_us() < until;
}

#define WAIT_FOR(world, condition)                                                                           \
    do {                                                                                                     \
        uint64_t until_ = clock_now_us() + WAIT_US;                                                          \
        while (!(condition) && turn((world), until_))                                                        \
            ;                                                                                                \
        assert_true(condition);                                                                              \
    } while (0)

/* Whether its next probe is an interval of hours away, or there will be none. */
static bool
is_left_alone(struct world *world, uint32_t slot)
{
    const struct target *target = world->health->targets[slot];
    struct timeval due, now;
    if (target->probe != NULL || target->is_queued) return false;
    if (!evtimer_pending(target->timer, &due)) return true;
    assert_int_equal(event_base_gettimeofday_cached(world->base, &now), 0);
    return due.tv_sec - now.tv_sec > 60;
}

static const char ok_answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/* ---- active probes */

static void
proves_a_new_endpoint_with_its_first_good_answer(void **state)
{
    struct world *world = *state;
    char reason[128];
    backend_listen(&world->backend, world->base, 0, ok_answer);
    uint32_t slot = endpoint_add(world, "a", world->backend.port, SLOT_UNPROVEN);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, state_of(world, slot, reason) == SLOT_HEALTHY);
    assert_string_equal(reason, "1 probe passed");
    assert_int_equal(world->backend.connections, 1);
    char expected[256];
    snprintf(expected, sizeof expected,
        "GET /health HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nUser-Agent: fluxgate-health/" FLUXGATE_VERSION
        "\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        world->backend.port);
    assert_string_equal(world->backend.request, expected);
    assert_int_equal(atomic_load(&shm_totals(world->shm)->probe_failures), 0);
}

static void
takes_the_load_that_an_answer_reports(void **state)
{
    struct world *world = *state;
    backend_listen(&world->backend, world->base, 0,
        "HTTP/1.1 200 OK\r\nEndpoint-Load-Metrics: TEXT cpu_utilization=0.75\r\nContent-Length: 0\r\n\r\n");
    uint32_t slot = endpoint_add(world, "a", world->backend.port, SLOT_UNPROVEN);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, state_of(world, slot, NULL) == SLOT_HEALTHY);
    assert_int_equal(atomic_load(&slot_at(world->shm, slot)->load_milli), 750);
}

static void
asks_the_instances_own_path_below_its_urls(void **state)
{
    struct world *world = *state;
    struct slot_text text;
    backend_listen(&world->backend, world->base, 0, ok_answer);
    uint32_t slot = endpoint_add(world, "a", world->backend.port, SLOT_UNPROVEN);
    assert_true(slot_read(world->shm, slot, NULL, &text));
    assert_true(text_copy(text.path_prefix, sizeof text.path_prefix, SLICE_LIT("/base")));
    assert_true(text_copy(text.health_path, sizeof text.health_path, SLICE_LIT("/alive?deep=1")));
    slot_update(world->shm, slot, 1, world->backend.port, &text);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, state_of(world, slot, NULL) == SLOT_HEALTHY);
    assert_non_null(strstr(world->backend.request, "GET /base/alive?deep=1 HTTP/1.1\r\n"));
}

static void
falls_after_three_refused_connections_and_says_why(void **state)
{
    struct world *world = *state;
    char reason[128];
    uint32_t slot = endpoint_add(world, "a", refusing_port(), SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, state_of(world, slot, reason) == SLOT_UNHEALTHY);
    assert_string_equal(reason, "3 probes failed: connect refused");
    assert_true(atomic_load(&shm_totals(world->shm)->probe_failures) >= 3);
}

static void
comes_back_after_rise_successes(void **state)
{
    struct world *world = *state;
    char reason[128];
    uint16_t port = refusing_port();
    uint32_t slot = endpoint_add(world, "a", port, SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, state_of(world, slot, NULL) == SLOT_UNHEALTHY);
    atomic_store(&slot_at(world->shm, slot)->failures, 7);
    backend_listen(&world->backend, world->base, port, ok_answer);
    WAIT_FOR(world, state_of(world, slot, reason) == SLOT_HEALTHY);
    assert_string_equal(reason, "2 probes passed");
    assert_int_equal(atomic_load(&slot_at(world->shm, slot)->failures), 0);
}

static void
takes_a_wrong_status_a_silent_and_a_babbling_backend_for_failures(void **state)
{
    struct world *world = *state;
    static const struct {
        const char *answer, *reason;
    } rows[] = {
        {"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "3 probes failed: status 503"},
        {NULL, "3 probes failed: response timeout"},
        {"SSH-2.0-OpenSSH_9.2\r\n\r\n", "3 probes failed: bad response"},
        {"HTTP/1.1 200", "3 probes failed: reset before headers"},
    };
    health_use(world->health, &world->config, NULL);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char reason[128], id[16];
        world->service.health.timeout_us = rows[i].answer == NULL ? 60000 : WAIT_US;
        snprintf(id, sizeof id, "e%zu", i);
        backend_listen(&world->backend, world->base, 0, rows[i].answer);
        uint32_t slot = endpoint_add(world, id, world->backend.port, SLOT_HEALTHY);
        health_refresh(world->health);
        WAIT_FOR(world, state_of(world, slot, reason) == SLOT_UNHEALTHY);
        assert_string_equal(reason, rows[i].reason);
        slot_remove(world->shm, slot);
        health_refresh(world->health);
        backend_close(&world->backend);
    }
}

static void
reads_an_answer_that_comes_byte_by_byte_behind_a_100(void **state)
{
    struct world *world = *state;
    policy.body_contains = "good";
    backend_listen(&world->backend, world->base, 0,
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        "4\r\nall \r\n3;x=y\r\ngoo\r\n1\r\nd\r\n0\r\n\r\n");
    world->backend.slow = true;
    uint32_t slot = endpoint_add(world, "a", world->backend.port, SLOT_UNPROVEN);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, state_of(world, slot, NULL) == SLOT_HEALTHY);
}

static void
hands_the_body_to_a_policy_that_reads_it_for_itself(void **state)
{
    struct world *world = *state;
    policy.body_contains = "";
    policy.sought = "all good";
    for (int slow = 0; slow < 2; slow++) {
        backend_listen(&world->backend, world->base, 0,
            slow ? "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nall \r\n4\r\ngood\r\n0\r\n\r\n"
                 : "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nall good");
        world->backend.slow = slow;
        char id[] = {(char)('a' + slow), '\0'};
        uint32_t slot = endpoint_add(world, id, world->backend.port, SLOT_UNPROVEN);
        health_use(world->health, &world->config, NULL);
        WAIT_FOR(world, state_of(world, slot, NULL) == SLOT_HEALTHY);
        slot_remove(world->shm, slot);
        health_refresh(world->health);
        backend_close(&world->backend);
    }
}

static void
judges_a_body_that_never_ends_by_what_came(void **state)
{
    struct world *world = *state;
    policy.body_contains = "";
    policy.sought = "all";
    policy.timeout_us = 50000;
    backend_listen(&world->backend, world->base, 0, "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nall");
    world->backend.stays = true;
    uint32_t slot = endpoint_add(world, "a", world->backend.port, SLOT_UNPROVEN);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, state_of(world, slot, NULL) == SLOT_HEALTHY);
}

static void
fails_a_body_without_the_expected_words(void **state)
{
    struct world *world = *state;
    char reason[128];
    policy.body_contains = "good";
    backend_listen(&world->backend, world->base, 0, ok_answer);
    uint32_t slot = endpoint_add(world, "a", world->backend.port, SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, state_of(world, slot, reason) == SLOT_UNHEALTHY);
    assert_string_equal(reason, "3 probes failed: the body does not match");
}

static void
is_content_with_a_connection_where_the_policy_is_tcp(void **state)
{
    struct world *world = *state;
    policy.kind = PROBE_TCP;
    backend_listen(&world->backend, world->base, 0, NULL);
    uint32_t slot = endpoint_add(world, "a", world->backend.port, SLOT_UNPROVEN);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, state_of(world, slot, NULL) == SLOT_HEALTHY);
}

static void
talks_as_the_script_asks_however_slowly_the_answer_comes(void **state)
{
    struct world *world = *state;
    policy.kind = PROBE_SOCKET;
    for (int slow = 0; slow < 2; slow++) {
        backend_listen(&world->backend, world->base, 0, "send 4\r\nwellbeyond");
        world->backend.slow = slow;
        char id[] = {(char)('a' + slow), '\0'};
        uint32_t slot = endpoint_add(world, id, world->backend.port, SLOT_UNPROVEN);
        health_use(world->health, &world->config, NULL);
        WAIT_FOR(world, state_of(world, slot, NULL) == SLOT_HEALTHY);
        slot_remove(world->shm, slot);
        health_refresh(world->health);
        assert_int_equal(dialog.begun, dialog.ended);
        backend_close(&world->backend);
    }
}

static void
tells_a_script_that_the_endpoint_closed_and_what_came_before(void **state)
{
    struct world *world = *state;
    char reason[128];
    policy.kind = PROBE_SOCKET;
    backend_listen(&world->backend, world->base, 0, "send 5\nwell");
    uint32_t slot = endpoint_add(world, "a", world->backend.port, SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, state_of(world, slot, reason) == SLOT_UNHEALTHY);
    assert_string_equal(reason, "3 probes failed: closed after 'well'");
}

static void
leaves_an_endpoint_alone_whose_script_fails_in_its_dialog(void **state)
{
    struct world *world = *state;
    policy.kind = PROBE_SOCKET;
    dialog.fails = true;
    backend_listen(&world->backend, world->base, 0, "send 4\nwell");
    uint32_t slot = endpoint_add(world, "a", world->backend.port, SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, policy.plans >= 5);
    assert_int_equal(policy.judgements, 0);
    assert_int_equal(state_of(world, slot, NULL), SLOT_HEALTHY);
    assert_true(dialog.ended + 1 >= dialog.begun);
}

/* Its coroutine lives in the state that goes. */
static void
begins_a_dialog_anew_at_a_reload(void **state)
{
    struct world *world = *state;
    policy.kind = PROBE_SOCKET;
    policy.timeout_us = 60000000;
    backend_listen(&world->backend, world->base, 0, NULL);
    endpoint_add(world, "a", world->backend.port, SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, world->backend.request[0] == 'H');
    assert_int_equal(dialog.ended, 0);
    struct config next = world->config;
    health_use(world->health, &next, NULL);
    assert_int_equal(dialog.ended, 1);
    WAIT_FOR(world, dialog.begun == 2 && world->backend.connections == 2);
}

static void
takes_no_http_for_grpc(void **state)
{
    struct world *world = *state;
    char reason[128];
    policy.kind = PROBE_GRPC;
    backend_listen(&world->backend, world->base, 0, ok_answer);
    uint32_t slot = endpoint_add(world, "a", world->backend.port, SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, state_of(world, slot, reason) == SLOT_UNHEALTHY);
    assert_string_equal(reason, "3 probes failed: it speaks no HTTP/2");
    assert_int_equal(memcmp(world->backend.request, "PRI * HTTP/2.0\r\n", 16), 0);
}

static void
leaves_an_endpoint_alone_whose_policy_fails(void **state)
{
    struct world *world = *state;
    uint32_t slot = endpoint_add(world, "a", refusing_port(), SLOT_HEALTHY);
    policy.fails = true;
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, policy.plans >= 5);
    assert_int_equal(state_of(world, slot, NULL), SLOT_HEALTHY);
    struct strbuf text = {0};
    health_describe(world->health, &text);
    assert_null(strstr(text.at, "\"policy_errors\":0,"));
    strbuf_fini(&text);
}

static void
refuses_a_path_that_would_end_the_request_line(void **state)
{
    struct world *world = *state;
    policy.path = "/x HTTP/1.1\r\nX-Evil: 1\r\n";
    backend_listen(&world->backend, world->base, 0, ok_answer);
    endpoint_add(world, "a", world->backend.port, SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, policy.plans >= 1);
    assert_int_equal(world->backend.connections, 0);
    assert_int_equal(atomic_load(&shm_totals(world->shm)->probes), 0);
}

static void
does_not_touch_what_drains_or_is_in_maintenance(void **state)
{
    struct world *world = *state;
    uint16_t port = refusing_port();
    uint32_t draining = endpoint_add(world, "a", port, SLOT_DRAINING);
    uint32_t resting = endpoint_add(world, "b", port, SLOT_MAINTENANCE);
    uint32_t probed = endpoint_add(world, "c", port, SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, state_of(world, probed, NULL) == SLOT_UNHEALTHY);
    assert_int_equal(state_of(world, draining, NULL), SLOT_DRAINING);
    assert_int_equal(state_of(world, resting, NULL), SLOT_MAINTENANCE);
    backend_listen(&world->backend, world->base, port, ok_answer);
    slot_set_state(world->shm, resting, SLOT_UNPROVEN, "back");
    WAIT_FOR(world, state_of(world, resting, NULL) == SLOT_HEALTHY);
}

static void
probes_many_endpoints_no_more_than_256_at_once(void **state)
{
    struct world *world = *state;
    enum { MANY = 600 };
    uint32_t slots[MANY];
    unsigned healthy = 0;
    backend_listen(&world->backend, world->base, 0, ok_answer);
    world->service.health.interval_us = world->service.health.fast_interval_us = 60000000;
    for (unsigned i = 0; i < MANY; i++) {
        char id[16];
        snprintf(id, sizeof id, "e%u", i);
        slots[i] = endpoint_add(world, id, world->backend.port, SLOT_UNPROVEN);
    }
    health_use(world->health, &world->config, NULL);
    uint64_t until = clock_now_us() + WAIT_US;
    do {
        struct strbuf text = {0};
        health_describe(world->health, &text);
        assert_int_equal(strncmp(text.at, "{\"active\":", 10), 0);
        assert_true(strtol(text.at + 10, NULL, 10) <= 256);
        strbuf_fini(&text);
        healthy = 0;
        for (unsigned i = 0; i < MANY; i++)
            healthy += state_of(world, slots[i], NULL) == SLOT_HEALTHY;
    } while (healthy < MANY && turn(world, until));
    assert_int_equal(healthy, MANY);
    assert_int_equal(world->backend.connections, MANY);
}

/* ---- damping */

static void
holds_down_what_falls_and_rises_and_lets_it_go_when_it_was_quiet(void **state)
{
    struct damping damping = {0};
    const struct config_damping rules = {60000000, 300000000, 3, 1};
    uint64_t now = 1000000;
    (void)state;
    for (int i = 0; i < 3; i++) {
        damping_fell(&damping, &rules, now += 1000000);
        assert_int_equal(damping_left_us(&damping, &rules, now), 0);
    }
    damping_fell(&damping, &rules, now += 1000000); /* the fourth: 4 less what decayed in 6 s */
    uint64_t left = damping_left_us(&damping, &rules, now);
    assert_true(left > 115000000 && left < 120000000); /* log2(3.93) minutes */
    assert_true(damping_left_us(&damping, &rules, now + 60000000) < left - 59000000);
    assert_true(
        damping_left_us(&damping, &rules, now + left - 1000) > 0); /* below suppress is not yet reuse */
    assert_int_equal(damping_left_us(&damping, &rules, now + left), 0);

    for (int i = 0; i < 200; i++)
        damping_fell(&damping, &rules, now += 1000);
    assert_true(damping_left_us(&damping, &rules, now) <= 300000001); /* max, whatever came before */
    damping = (struct damping){0};
    for (int i = 0; i < 200; i++) { /* a fall a minute adds up to 2 */
        damping_fell(&damping, &rules, now += 60000000);
        assert_int_equal(damping_left_us(&damping, &rules, now), 0);
    }
    const struct config_damping off = {0};
    damping.is_held = true;
    damping_fell(&damping, &off, now);
    assert_int_equal(damping_left_us(&damping, &off, now), 0);
}

static void
says_of_an_endpoint_that_it_is_held_down_until_its_penalty_is_gone(void **state)
{
    struct world *world = *state;
    struct backend other;
    char reason[128];
    world->service.health.damping = (struct config_damping){3600000000, 36000000000, 0.5, 0.4};
    uint16_t port = refusing_port();
    uint32_t slot = endpoint_add(world, "a", port, SLOT_HEALTHY);
    backend_listen(&other, world->base, 0, ok_answer);
    endpoint_add(world, "b", other.port, SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    passive_scan(world->health, clock_now_us()); /* somebody else is well */
    WAIT_FOR(world, state_of(world, slot, NULL) == SLOT_UNHEALTHY);
    backend_listen(&world->backend, world->base, port, ok_answer);
    WAIT_FOR(world, state_of(world, slot, reason) == SLOT_UNHEALTHY && strstr(reason, "flapping") != NULL);
    assert_non_null(strstr(reason, "probes passed, but it is flapping: held down for 47")); /* log2(2.5) h */
    world->service.health.damping.half_life_us = 1000;
    WAIT_FOR(world, state_of(world, slot, reason) == SLOT_HEALTHY);
    backend_close(&other);
}

static void
holds_down_nobody_where_no_other_is_well(void **state)
{
    struct world *world = *state;
    char reason[128];
    world->service.health.damping = (struct config_damping){3600000000, 3600000000000, 0.5, 0.4};
    uint16_t port = refusing_port();
    uint32_t slot = endpoint_add(world, "a", port, SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, state_of(world, slot, NULL) == SLOT_UNHEALTHY);
    passive_scan(world->health, clock_now_us()); /* nobody is healthy */
    backend_listen(&world->backend, world->base, port, ok_answer);
    WAIT_FOR(world, state_of(world, slot, reason) == SLOT_HEALTHY);
}

/* The policy's own interval is an hour: only the fast one explains that its verdict comes. */
static void
probes_at_the_fast_interval_while_a_verdict_changes(void **state)
{
    struct world *world = *state;
    world->service.health.interval_us = 3600000000;
    world->service.health.fast_interval_us = 10000;
    backend_listen(&world->backend, world->base, 0, "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n");
    uint32_t slot = endpoint_add(world, "a", world->backend.port, SLOT_UNPROVEN);
    policy.fall = 10;
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(
        world, state_of(world, slot, NULL) == SLOT_UNHEALTHY); /* unproven: ten probes, not one an hour */
    assert_true(is_left_alone(world, slot));                   /* and then the verdict stands */
}

/* ---- suspects */

static void
tells_of_a_suspect_that_refuses_and_keeps_one_that_answers(void **state)
{
    struct world *world = *state;
    backend_listen(&world->backend, world->base, 0, ok_answer);
    uint32_t alive = endpoint_add(world, "a", world->backend.port, SLOT_SUSPECT);
    uint32_t dead = endpoint_add(world, "b", refusing_port(), SLOT_SUSPECT);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, world->suspects_failed == 1 && world->backend.connections >= 2);
    assert_int_equal(world->suspect_failed, dead);
    assert_int_equal(state_of(world, alive, NULL), SLOT_SUSPECT);
}

static void
connects_to_suspects_of_services_without_a_policy(void **state)
{
    struct world *world = *state;
    world->service.health.enabled = false;
    backend_listen(&world->backend, world->base, 0, NULL);
    uint32_t alive = endpoint_add(world, "a", world->backend.port, SLOT_SUSPECT);
    uint32_t dead = endpoint_add(world, "b", refusing_port(), SLOT_SUSPECT);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, world->suspects_failed == 1 && world->backend.connections == 1);
    assert_int_equal(world->suspect_failed, dead);
    assert_int_equal(state_of(world, alive, NULL), SLOT_SUSPECT);
    assert_int_equal(policy.plans, 0);
}

/* ---- passive evidence */

static void
probes_at_once_what_fails_under_traffic(void **state)
{
    struct world *world = *state;
    world->service.health.interval_us = world->service.health.fast_interval_us = 3600000000000;
    uint32_t slot = endpoint_add(world, "a", refusing_port(), SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    passive_scan(world->health, clock_now_us());
    assert_true(is_left_alone(world, slot));
    uint64_t until = clock_now_us() + WAIT_US, begun = clock_now_us();
    while (state_of(world, slot, NULL) != SLOT_UNHEALTHY) {
        slot_observe(world->shm, slot, 1000, true, clock_now_us());
        assert_true(turn(world, until));
    }
    assert_int_equal(policy.plans, 3);
    assert_true(clock_now_us() - begun >= 400000); /* three probes, 200 ms apart at least */
}

static void
fail_in_a_row(struct world *world, uint32_t slot, unsigned times)
{
    for (unsigned i = 0; i < times; i++)
        slot_observe(world->shm, slot, 1000, true, clock_now_us());
}

static void
ejects_what_fails_where_nothing_probes_but_never_more_than_half(void **state)
{
    struct world *world = *state;
    char reason[128];
    uint32_t slots[4];
    world->service.health.enabled = false;
    for (unsigned i = 0; i < 4; i++) {
        char id[] = {(char)('a' + i), '\0'};
        slots[i] = endpoint_add(world, id, refusing_port(), SLOT_HEALTHY);
    }
    health_use(world->health, &world->config, NULL);
    fail_in_a_row(world, slots[0], 4);
    passive_scan(world->health, clock_now_us());
    assert_int_equal(state_of(world, slots[0], NULL), SLOT_HEALTHY);
    for (unsigned i = 0; i < 4; i++)
        fail_in_a_row(world, slots[i], 6);
    WAIT_FOR(world, state_of(world, slots[1], reason) == SLOT_EJECTED); /* control looks by itself */
    passive_scan(world->health, clock_now_us());
    unsigned ejected = 0;
    for (unsigned i = 0; i < 4; i++)
        ejected += state_of(world, slots[i], NULL) == SLOT_EJECTED;
    assert_int_equal(ejected, 2);
    assert_non_null(strstr(reason, "requests failed in a row"));
}

/* One request of some worker that is on trial; false: another one is. */
static bool
try_out(struct world *world, uint32_t slot, enum trial outcome)
{
    if (!slot_take_trial(world->shm, slot)) return false;
    slot_end_trial(world->shm, slot, outcome);
    return true;
}

static void
ejects_again_for_longer_where_the_trial_after_an_ejection_fails(void **state)
{
    struct world *world = *state;
    char reason[128];
    double span = 0;
    world->service.health.enabled = false;
    uint32_t slot = endpoint_add(world, "a", refusing_port(), SLOT_HEALTHY);
    endpoint_add(world, "b", refusing_port(), SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    uint64_t now = clock_now_us();
    fail_in_a_row(world, slot, 5);
    passive_scan(world->health, now);
    assert_int_equal(state_of(world, slot, NULL), SLOT_EJECTED);
    passive_scan(world->health, now += 8900000); /* 10 s ± 10 % */
    assert_false(try_out(world, slot, TRIAL_FAILED));
    passive_scan(world->health, now += 2200000);
    assert_int_equal(state_of(world, slot, reason), SLOT_EJECTED);
    assert_string_equal(reason, "its ejection is over: one request is its trial");
    passive_scan(world->health, now += 100000000); /* nobody came: nothing speaks for it or against it */
    assert_int_equal(state_of(world, slot, NULL), SLOT_EJECTED);
    assert_true(try_out(world, slot, TRIAL_FAILED));
    assert_false(try_out(world, slot, TRIAL_PASSED)); /* not before control has seen the first */
    passive_scan(world->health, now += 1000000);
    assert_int_equal(state_of(world, slot, reason), SLOT_EJECTED);
    assert_int_equal(sscanf(reason, "ejected for %lf s: its trial failed", &span), 1);
    assert_true(span >= 18 && span <= 22);
    assert_false(try_out(world, slot, TRIAL_PASSED));

    passive_scan(world->health, now += 22100000);
    assert_true(try_out(world, slot, TRIAL_PASSED));
    passive_scan(world->health, now += 1000000);
    assert_int_equal(state_of(world, slot, reason), SLOT_HEALTHY);
    assert_string_equal(reason, "its trial passed");
    fail_in_a_row(world, slot, 4);
    passive_scan(world->health, now += 1000000);
    assert_int_equal(state_of(world, slot, NULL), SLOT_HEALTHY); /* its success gave it a fresh start */
    fail_in_a_row(world, slot, 1);
    passive_scan(world->health, now += 1000000);
    assert_int_equal(state_of(world, slot, reason), SLOT_EJECTED);
    assert_int_equal(sscanf(reason, "ejected for %lf s: 5 requests failed in a row", &span), 1);
    assert_true(span >= 27 && span <= 33);
    assert_int_equal(atomic_load(&shm_totals(world->shm)->ejections), 3);
}

static void
offers_another_trial_where_nobody_says_how_the_last_one_went(void **state)
{
    struct world *world = *state;
    world->service.health.enabled = false;
    uint32_t slot = endpoint_add(world, "a", refusing_port(), SLOT_HEALTHY);
    endpoint_add(world, "b", refusing_port(), SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    uint64_t now = clock_now_us();
    fail_in_a_row(world, slot, 5);
    passive_scan(world->health, now);
    passive_scan(world->health, now += 12000000);
    assert_true(try_out(world, slot, TRIAL_OPEN)); /* its client left */
    assert_true(slot_take_trial(world->shm, slot));
    passive_scan(world->health, now += 1000000);
    passive_scan(world->health, now += 20000000);
    assert_false(slot_take_trial(world->shm, slot));
    passive_scan(world->health, now += 20000000); /* its worker was killed */
    assert_true(try_out(world, slot, TRIAL_PASSED));
    passive_scan(world->health, now);
    assert_int_equal(state_of(world, slot, NULL), SLOT_HEALTHY);
}

static void
keeps_an_ejection_over_a_restart_of_control(void **state)
{
    struct world *world = *state;
    char reason[128];
    double span = 0;
    world->service.health.enabled = false;
    uint32_t slot = endpoint_add(world, "a", refusing_port(), SLOT_HEALTHY);
    endpoint_add(world, "b", refusing_port(), SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    uint64_t now = clock_now_us();
    fail_in_a_row(world, slot, 5);
    passive_scan(world->health, now);
    passive_scan(world->health, now += 12000000);
    assert_true(try_out(world, slot, TRIAL_FAILED));
    passive_scan(world->health, now);
    health_free(world->health);
    shm_control_adopt(world->shm);
    world->health = health_new(world->base, world->shm, on_suspect_failed, world);
    health_use(world->health, &world->config, NULL);
    passive_scan(world->health, now += 17000000); /* it lasts 20 s ± 10 % */
    assert_false(slot_take_trial(world->shm, slot));
    passive_scan(world->health, now += 6000000);
    assert_true(try_out(world, slot, TRIAL_FAILED));
    passive_scan(world->health, now);
    assert_int_equal(state_of(world, slot, reason), SLOT_EJECTED);
    assert_int_equal(sscanf(reason, "ejected for %lf s", &span), 1);
    assert_true(span >= 27 && span <= 33);
}

/* ---- a policy that observes */

static void
observed_world(struct world *world, uint32_t slots[4], uint64_t *now)
{
    policy.only_observes = true;
    policy.window_us = 5000000;
    for (unsigned i = 0; i < 4; i++) {
        char id[] = {(char)('a' + i), '\0'};
        slots[i] = endpoint_add(world, id, refusing_port(), SLOT_UNPROVEN);
    }
    health_use(world->health, &world->config, NULL);
    *now = clock_now_us();
    passive_scan(world->health, *now);
}

static void
tells_a_policy_what_a_window_held_and_what_came_in_a_row(void **state)
{
    struct world *world = *state;
    uint32_t slots[4];
    uint64_t now;
    observed_world(world, slots, &now);
    assert_int_equal(state_of(world, slots[0], NULL), SLOT_HEALTHY); /* nothing will probe it */
    assert_int_equal(policy.observations, 0);
    for (unsigned i = 0; i < 6; i++)
        slot_observe(world->shm, slots[0], 2000, false, now);
    passive_scan(world->health, now);
    assert_int_equal(policy.observations, 0); /* good news may wait */
    slot_observe_error(world->shm, slots[0], 2000, now);
    slot_observe_error(world->shm, slots[0], 2000, now);
    passive_scan(world->health, now);
    assert_int_equal(policy.observations, 1);
    assert_false(policy.seen.is_new);
    assert_int_equal(policy.seen.requests, 0);
    assert_int_equal(policy.seen.errors_in_row, 2);
    assert_int_equal(policy.seen.failures_in_row, 0);
    fail_in_a_row(world, slots[0], 2);
    passive_scan(world->health, now);
    assert_int_equal(policy.seen.errors_in_row, 4);
    assert_int_equal(policy.seen.failures_in_row, 2);
    passive_scan(world->health, now += 5000000);
    assert_int_equal(policy.observations, 3);
    assert_true(policy.seen.is_new);
    assert_int_equal(policy.seen.requests, 10);
    assert_int_equal(policy.seen.failures, 2);
    assert_int_equal(policy.seen.errors, 4);
    assert_int_equal(policy.seen.endpoints, 4);
    assert_int_equal(policy.seen.ejected, 0);
    assert_int_equal(policy.row_count, 4);
    assert_int_equal(policy.rows[0].requests, 10);
    assert_int_equal(policy.rows[0].errors, 4);
    assert_int_equal(policy.rows[1].requests, 0);
    passive_scan(world->health, now += 5000000);
    assert_int_equal(policy.observations, 3); /* nothing happened */
    assert_int_equal(policy.rows[0].requests, 0);
    assert_int_equal(policy.plans, 0);
}

static void
bounds_what_a_policy_may_eject(void **state)
{
    struct world *world = *state;
    uint32_t slots[4];
    uint64_t now;
    char reason[128];
    observed_world(world, slots, &now);
    policy.word = (struct script_observation){OBSERVE_EJECT, 3000000, "it was told to"};
    for (unsigned i = 0; i < 4; i++)
        fail_in_a_row(world, slots[i], 1);
    passive_scan(world->health, now);
    unsigned ejected = 0;
    for (unsigned i = 0; i < 4; i++)
        ejected += state_of(world, slots[i], NULL) == SLOT_EJECTED;
    assert_int_equal(ejected, 2);
    assert_int_equal(state_of(world, slots[0], reason), SLOT_EJECTED);
    assert_string_equal(reason, "ejected for 3 s: it was told to");
    passive_scan(world->health, now += 3000000);
    assert_true(try_out(world, slots[0], TRIAL_ERROR));
    passive_scan(world->health, now);
    assert_int_equal(policy.seen.trial, TRIAL_ERROR);
    assert_int_equal(policy.seen.ejections, 1);
    assert_int_equal(policy.seen.ejected, 2);
    assert_int_equal(
        state_of(world, slots[0], NULL), SLOT_EJECTED); /* again: it holds its place in the half */
    policy.word = (struct script_observation){.action = OBSERVE_RESTORE};
    passive_scan(world->health, now += 3000000);
    assert_true(try_out(world, slots[0], TRIAL_FAILED));
    passive_scan(world->health, now);
    assert_int_equal(state_of(world, slots[0], NULL), SLOT_HEALTHY);
}

static void
ejects_by_its_own_rule_where_the_policy_that_observes_fails(void **state)
{
    struct world *world = *state;
    uint32_t slots[4];
    uint64_t now;
    observed_world(world, slots, &now);
    policy.fails = true;
    fail_in_a_row(world, slots[0], 4);
    passive_scan(world->health, now);
    assert_int_equal(state_of(world, slots[0], NULL), SLOT_HEALTHY);
    fail_in_a_row(world, slots[0], 1);
    passive_scan(world->health, now);
    assert_int_equal(state_of(world, slots[0], NULL), SLOT_EJECTED);
}

static void
lets_no_probe_end_an_ejection(void **state)
{
    struct world *world = *state;
    policy.window_us = 5000000;
    backend_listen(&world->backend, world->base, 0, ok_answer);
    uint32_t slot = endpoint_add(world, "a", world->backend.port, SLOT_HEALTHY);
    endpoint_add(world, "b", world->backend.port, SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    policy.word = (struct script_observation){OBSERVE_EJECT, 3600000000, "it was told to"};
    fail_in_a_row(world, slot, 1);
    passive_scan(world->health, clock_now_us());
    assert_int_equal(state_of(world, slot, NULL), SLOT_EJECTED);
    unsigned judged = policy.judgements;
    WAIT_FOR(world, policy.judgements >= judged + 6);
    assert_int_equal(state_of(world, slot, NULL), SLOT_EJECTED);
    backend_close(&world->backend);
    WAIT_FOR(world, state_of(world, slot, NULL) == SLOT_UNHEALTHY); /* worse news, though, is heard */
}

static void
counts_a_panic_once_until_it_is_over(void **state)
{
    struct world *world = *state;
    world->service.health.enabled = false;
    world->service.panic_percent = 60;
    uint32_t slot = endpoint_add(world, "a", refusing_port(), SLOT_HEALTHY);
    endpoint_add(world, "b", refusing_port(), SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    uint64_t now = clock_now_us();
    passive_scan(world->health, now);
    assert_int_equal(atomic_load(&shm_totals(world->shm)->panics), 0);
    fail_in_a_row(world, slot, 5);
    for (int i = 0; i < 3; i++)
        passive_scan(world->health, now);
    assert_int_equal(atomic_load(&shm_totals(world->shm)->panics), 1);
    health_use(world->health, &world->config, NULL); /* a reload does not begin it anew */
    passive_scan(world->health, now);
    assert_int_equal(atomic_load(&shm_totals(world->shm)->panics), 1);
    passive_scan(world->health, now += 11100000);
    assert_true(try_out(world, slot, TRIAL_PASSED));
    passive_scan(world->health, now);
    passive_scan(world->health, now);
    slot_set_state(world->shm, slot, SLOT_UNHEALTHY, "bad again");
    health_refresh(world->health);
    passive_scan(world->health, now);
    assert_int_equal(atomic_load(&shm_totals(world->shm)->panics), 2);
}

static void
never_ejects_the_last_one(void **state)
{
    struct world *world = *state;
    world->service.health.enabled = false;
    uint32_t slot = endpoint_add(world, "a", refusing_port(), SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    fail_in_a_row(world, slot, 50);
    for (int i = 0; i < 3; i++)
        passive_scan(world->health, clock_now_us());
    assert_int_equal(state_of(world, slot, NULL), SLOT_HEALTHY);
}

/* ---- generations */

static void
frees_the_endpoints_of_a_service_that_lost_its_policy(void **state)
{
    struct world *world = *state;
    uint32_t slot = endpoint_add(world, "a", refusing_port(), SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, state_of(world, slot, NULL) == SLOT_UNHEALTHY);
    struct config_service bare = world->service;
    bare.health.enabled = false;
    struct config next = {.services = &bare, .service_count = 1};
    health_use(world->health, &next, NULL);
    assert_int_equal(state_of(world, slot, NULL), SLOT_HEALTHY);
    assert_int_equal(world->health->targets[slot]->duty, DUTY_NONE);
    assert_true(is_left_alone(world, slot));
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, state_of(world, slot, NULL) == SLOT_UNHEALTHY);
}

static void
keeps_a_half_counted_fall_over_a_reload(void **state)
{
    struct world *world = *state;
    char reason[128];
    policy.fall = 40;
    uint32_t slot = endpoint_add(world, "a", refusing_port(), SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, policy.judgements >= 5);
    unsigned before = policy.judgements;
    struct config next = world->config;
    policy.fall = before + 2;
    health_use(world->health, &next, NULL);
    WAIT_FOR(world, state_of(world, slot, reason) == SLOT_UNHEALTHY);
    assert_int_equal(policy.judgements, before + 2);
}

static void
forgets_what_a_slot_was_when_it_gets_a_new_owner(void **state)
{
    struct world *world = *state;
    char reason[128];
    uint32_t slot = endpoint_add(world, "a", refusing_port(), SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, state_of(world, slot, NULL) == SLOT_UNHEALTHY);
    slot_remove(world->shm, slot);
    assert_int_equal(shm_reap(world->shm), 1);
    assert_int_equal(endpoint_add(world, "b", refusing_port(), SLOT_HEALTHY), slot);
    WAIT_FOR(world, state_of(world, slot, reason) == SLOT_UNHEALTHY);
    assert_string_equal(reason, "3 probes failed: connect refused");
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(proves_a_new_endpoint_with_its_first_good_answer),
        TEST(takes_the_load_that_an_answer_reports),
        TEST(asks_the_instances_own_path_below_its_urls),
        TEST(falls_after_three_refused_connections_and_says_why),
        TEST(comes_back_after_rise_successes),
        TEST(takes_a_wrong_status_a_silent_and_a_babbling_backend_for_failures),
        TEST(reads_an_answer_that_comes_byte_by_byte_behind_a_100),
        TEST(hands_the_body_to_a_policy_that_reads_it_for_itself),
        TEST(judges_a_body_that_never_ends_by_what_came),
        TEST(fails_a_body_without_the_expected_words),
        TEST(is_content_with_a_connection_where_the_policy_is_tcp),
        TEST(talks_as_the_script_asks_however_slowly_the_answer_comes),
        TEST(tells_a_script_that_the_endpoint_closed_and_what_came_before),
        TEST(leaves_an_endpoint_alone_whose_script_fails_in_its_dialog),
        TEST(begins_a_dialog_anew_at_a_reload),
        TEST(takes_no_http_for_grpc),
        TEST(leaves_an_endpoint_alone_whose_policy_fails),
        TEST(refuses_a_path_that_would_end_the_request_line),
        TEST(does_not_touch_what_drains_or_is_in_maintenance),
        TEST(probes_many_endpoints_no_more_than_256_at_once),
        cmocka_unit_test(holds_down_what_falls_and_rises_and_lets_it_go_when_it_was_quiet),
        TEST(says_of_an_endpoint_that_it_is_held_down_until_its_penalty_is_gone),
        TEST(holds_down_nobody_where_no_other_is_well),
        TEST(probes_at_the_fast_interval_while_a_verdict_changes),
        TEST(tells_of_a_suspect_that_refuses_and_keeps_one_that_answers),
        TEST(connects_to_suspects_of_services_without_a_policy),
        TEST(probes_at_once_what_fails_under_traffic),
        TEST(ejects_what_fails_where_nothing_probes_but_never_more_than_half),
        TEST(ejects_again_for_longer_where_the_trial_after_an_ejection_fails),
        TEST(offers_another_trial_where_nobody_says_how_the_last_one_went),
        TEST(keeps_an_ejection_over_a_restart_of_control),
        TEST(tells_a_policy_what_a_window_held_and_what_came_in_a_row),
        TEST(bounds_what_a_policy_may_eject),
        TEST(ejects_by_its_own_rule_where_the_policy_that_observes_fails),
        TEST(lets_no_probe_end_an_ejection),
        TEST(counts_a_panic_once_until_it_is_over),
        TEST(never_ejects_the_last_one),
        TEST(frees_the_endpoints_of_a_service_that_lost_its_policy),
        TEST(keeps_a_half_counted_fall_over_a_reload),
        TEST(forgets_what_a_slot_was_when_it_gets_a_new_owner),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
