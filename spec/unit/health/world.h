/* spec/unit/health/world.h: the probe engine against real sockets on loopback. The policy is a small one of
 * our own, in C, behind script.h. */
#ifndef FLUXGATE_SPEC_HEALTH_WORLD_H
#define FLUXGATE_SPEC_HEALTH_WORLD_H
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
    struct health *overruns; /* the next fleet() passes its budget */
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
    if (policy.overruns != NULL) health_overran(policy.overruns);
    policy.overruns = NULL;
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

static inline uint16_t
bind_any(int fd)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    assert_int_equal(bind(fd, (struct sockaddr *)&address, len), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
    return ntohs(address.sin_port);
}

static inline uint16_t
refusing_port(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_int_not_equal(fd, -1);
    assert_true(kept.count < KEPT_MAX);
    kept.fds[kept.count++] = fd;
    return bind_any(fd);
}

/* The socket of a port that refused up to now. */
static inline int
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

static inline void
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

static inline void
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

static inline void
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

static inline void
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
static inline void
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

static inline void
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

static inline void
on_suspect_failed(void *context, uint32_t slot)
{
    struct world *world = context;
    world->suspect_failed = slot;
    world->suspects_failed++;
    slot_remove(world->shm, slot);
}

static inline int
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

static inline int
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

static inline uint32_t
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

static inline enum slot_state
state_of(struct world *world, uint32_t slot, char reason[128])
{
    struct slot cold;
    struct slot_text text;
    if (!slot_read(world->shm, slot, &cold, &text)) return SLOT_FREE;
    if (reason != NULL) memcpy(reason, text.reason, 128);
    return (enum slot_state)cold.state;
}

static inline bool
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
static inline bool
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

#endif
