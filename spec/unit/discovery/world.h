/* spec/unit/discovery/world.h: a segment, a config, a loop and a REST registry made of paper, for the specs
 * of this room. */
#ifndef FLUXGATE_SPEC_DISCOVERY_WORLD_H
#define FLUXGATE_SPEC_DISCOVERY_WORLD_H
#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
#include <event2/event.h>

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/text.h"
#include "core/discovery/discovery_internal.h"

enum { WAIT_US = 10000000 };

/* ---- a registry */

struct paper {
    struct event_base *base;
    int fd;
    uint16_t port;
    struct event *accepts;
    struct paper_peer *peers;
    bool has_v2;
    bool holds_nothing; /* answers a watch at once, whatever its index */
    unsigned index;
    const char *epoch, *rows; /* v2: "{…},{…}"; old: the same */
    const char *raw;          /* instead of anything: these bytes, then a close */
    size_t flood;             /* and so many blanks before the close */
    unsigned v2_asked, old_asked, connections;
    char last[2048]; /* request line and headers */
};

struct paper_peer {
    struct paper_peer *next;
    struct paper *paper;
    struct event *event;
    int fd;
    size_t got, flooded;
    bool is_held;
    char in[2048];
};

static inline void
paper_peer_free(struct paper_peer *peer)
{
    struct paper_peer **link = &peer->paper->peers;
    while (*link != peer)
        link = &(*link)->next;
    *link = peer->next;
    event_free(peer->event);
    close(peer->fd);
    free(peer);
}

/* Answers fit into socket buffers, but for a flood. */
static inline void
paper_send(int fd, const char *bytes, size_t len)
{
    while (len > 0) {
        ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL);
        if (n == -1) return;
        bytes += n;
        len -= (size_t)n;
    }
}

static inline void
paper_reply(struct paper_peer *peer, int status, const char *body)
{
    char head[256];
    int n = snprintf(head, sizeof head,
        "HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", status,
        strlen(body));
    peer->is_held = false;
    peer->got = 0;
    paper_send(peer->fd, head, (size_t)n);
    paper_send(peer->fd, body, strlen(body));
}

static inline void
paper_reply_v2(struct paper_peer *peer)
{
    struct paper *paper = peer->paper;
    struct strbuf body = {0};
    strbuf_printf(
        &body, "{\"index\":%u,\"epoch\":\"%s\",\"instances\":[%s]}", paper->index, paper->epoch, paper->rows);
    paper_reply(peer, 200, body.at);
    strbuf_fini(&body);
}

static inline void
on_paper_flood(evutil_socket_t fd, short what, void *context)
{
    static const char blanks[1 << 20];
    struct paper_peer *peer = context;
    (void)what;
    ssize_t n = send(fd, blanks, sizeof blanks, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n > 0) peer->flooded += (size_t)n;
    if (n == -1 || peer->flooded >= peer->paper->flood) paper_peer_free(peer);
}

static inline void
paper_answer(struct paper_peer *peer)
{
    struct paper *paper = peer->paper;
    char same[128];
    snprintf(paper->last, sizeof paper->last, "%s", peer->in);
    bool is_v2 = strncmp(peer->in, "GET /api/v2/instances?", 22) == 0;
    bool is_old = strncmp(peer->in, "GET /api/v1/services ", 21) == 0;
    paper->v2_asked += is_v2;
    paper->old_asked += is_old;
    if (paper->raw != NULL) {
        paper_send(peer->fd, paper->raw, strlen(paper->raw));
        if (paper->flood > 0) {
            event_free(peer->event);
            peer->event = event_new(paper->base, peer->fd, EV_WRITE | EV_PERSIST, on_paper_flood, peer);
            assert_int_equal(event_add(peer->event, NULL), 0);
            return;
        }
        paper_peer_free(peer);
    } else if (is_v2 && paper->has_v2) {
        snprintf(same, sizeof same, "?index=%u&epoch=%s&wait=", paper->index, paper->epoch);
        peer->is_held = strstr(peer->in, same) != NULL && !paper->holds_nothing;
        if (!peer->is_held) paper_reply_v2(peer);
    } else if (is_old) {
        struct strbuf body = {0};
        strbuf_printf(&body, "[%s]", paper->rows);
        paper_reply(peer, 200, body.at);
        strbuf_fini(&body);
    } else {
        paper_reply(peer, 404, "{\"error\":\"Not Found\"}");
    }
}

static inline void
on_paper_peer(evutil_socket_t fd, short what, void *context)
{
    struct paper_peer *peer = context;
    (void)what;
    ssize_t n = recv(fd, peer->in + peer->got, sizeof peer->in - 1 - peer->got, MSG_DONTWAIT);
    if (n == -1 && errno == EAGAIN) return;
    if (n <= 0) {
        paper_peer_free(peer);
        return;
    }
    peer->got += (size_t)n;
    peer->in[peer->got] = '\0';
    if (strstr(peer->in, "\r\n\r\n") != NULL) paper_answer(peer);
}

static inline void
on_paper_accept(evutil_socket_t fd, short what, void *context)
{
    struct paper *paper = context;
    (void)what;
    int got = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
    if (got == -1) return;
    struct timeval limit = {5, 0};
    assert_int_equal(setsockopt(got, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit), 0);
    struct paper_peer *peer = calloc(1, sizeof *peer);
    assert_non_null(peer);
    paper->connections++;
    *peer = (struct paper_peer){.next = paper->peers, .paper = paper, .fd = got};
    paper->peers = peer;
    peer->event = event_new(paper->base, got, EV_READ | EV_PERSIST, on_paper_peer, peer);
    assert_int_equal(event_add(peer->event, NULL), 0);
}

/* port 0: any */
static inline int
port_listen(uint16_t *port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(*port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_int_not_equal(fd, -1);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one), 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, len), 0);
    assert_int_equal(listen(fd, 16), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
    *port = ntohs(address.sin_port);
    return fd;
}

/* Takes its old port again where it had one. */
static inline void
paper_open(struct paper *paper, struct event_base *base)
{
    paper->base = base;
    paper->fd = port_listen(&paper->port);
    paper->accepts = event_new(base, paper->fd, EV_READ | EV_PERSIST, on_paper_accept, paper);
    assert_int_equal(event_add(paper->accepts, NULL), 0);
}

static inline void
paper_close(struct paper *paper)
{
    if (paper->accepts == NULL) return;
    while (paper->peers != NULL)
        paper_peer_free(paper->peers);
    event_free(paper->accepts);
    paper->accepts = NULL;
    close(paper->fd);
}

/* A change: the index moves and held watches are answered. */
static inline void
paper_set(struct paper *paper, const char *rows)
{
    paper->rows = rows;
    paper->index++;
    for (struct paper_peer *peer = paper->peers; peer != NULL; peer = peer->next) {
        if (peer->is_held) paper_reply_v2(peer);
    }
}

/* ---- the world */

struct world {
    struct event_base *base;
    struct shm *shm;
    struct discovery *discovery;
    struct config config;
    struct config_service services[2]; /* web, users */
    struct config_endpoint endpoints[4];
    struct paper paper;
    char url[64];
    char state_dir[64];
    uint32_t web, users;
};

static inline int
world_setup(void **state)
{
    struct world *world = calloc(1, sizeof *world);
    struct shm_params params = {.max_endpoints = 256, .stats_bytes = 4096, .ring_bytes = 4096};
    assert_non_null(world);
    log_init("test", getenv("SPEC_LOG") != NULL ? LOG_DEBUG : LOG_ERROR, LOG_LOGFMT);
    world->base = event_base_new();
    world->shm = shm_create(&params);
    assert_non_null(world->base);
    assert_non_null(world->shm);
    shm_control_adopt(world->shm);
    world->web = shm_name_add(world->shm, SLICE_LIT("web"));
    world->users = shm_name_add(world->shm, SLICE_LIT("users"));
    world->services[0] = (struct config_service){.name = "web", .endpoints = world->endpoints};
    world->services[1] = (struct config_service){.name = "users"};
    world->config = (struct config){.services = world->services, .service_count = 2};
    world->paper = (struct paper){.has_v2 = true, .index = 1, .epoch = "e1", .rows = ""};
    world->discovery = discovery_new(world->base, world->shm);
    assert_non_null(world->discovery);
    *state = world;
    return 0;
}

static inline void
state_dir_remove(const char *dir)
{
    char path[128];
    if (dir[0] == '\0') return;
    snprintf(path, sizeof path, "%s/instances.json", dir);
    unlink(path);
    assert_int_equal(rmdir(dir), 0); /* nothing else was left behind */
}

static inline int
world_teardown(void **state)
{
    struct world *world = *state;
    discovery_free(world->discovery);
    paper_close(&world->paper);
    state_dir_remove(world->state_dir);
    event_base_free(world->base);
    shm_destroy(world->shm);
    free(world);
    return 0;
}

static inline struct config_endpoint
endpoint(const char *id, const char *host, uint16_t port, uint32_t weight)
{
    return (struct config_endpoint){
        .id = id, .address = {.text = id, .host = host, .port = port}, .weight = weight, .metadata_json = ""};
}

static inline void
registry_enable(struct world *world, enum registry_protocol protocol, const char *discover)
{
    snprintf(world->url, sizeof world->url, "http://127.0.0.1:%u", world->paper.port);
    world->config.registry = (struct config_registry){
        .enabled = true, .url = world->url, .protocol = protocol, .poll_interval_us = 100000};
    world->services[1].discover = discover;
}

static inline void
use(struct world *world, const struct config *config)
{
    assert_true(discovery_use(world->discovery, config));
    discovery_commit(world->discovery);
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
        bool met_;                                                                                           \
        while (!(met_ = (condition)) && turn((world), until_))                                               \
            ;                                                                                                \
        if (!met_) fail_msg("never came true: %s", #condition);                                              \
    } while (0)

static inline void
run_for(struct world *world, uint64_t us)
{
    uint64_t until = clock_now_us() + us;
    while (turn(world, until))
        ;
}

/* SLOT_FREE where there is no such endpoint. */
static inline enum slot_state
state_of(struct world *world, uint32_t service, const char *id)
{
    struct slot cold;
    uint32_t slot = slot_find(world->shm, service, slice_of(id));
    if (slot == SLOT_NONE || !slot_read(world->shm, slot, &cold, NULL)) return SLOT_FREE;
    return cold.state == SLOT_GONE ? SLOT_FREE : (enum slot_state)cold.state;
}

static inline uint64_t
total(struct world *world, const char *name)
{
    struct shm_totals *totals = shm_totals(world->shm);
#define X(total_name)                                                                                        \
    if (strcmp(name, #total_name) == 0) return atomic_load(&totals->total_name);
    SHM_TOTALS(X)
#undef X
    return 0;
}

static inline void
state_dir_make(struct world *world)
{
    snprintf(world->state_dir, sizeof world->state_dir, "/tmp/fluxgate-spec-XXXXXX");
    assert_non_null(mkdtemp(world->state_dir));
    world->config.state_dir = world->state_dir;
}

#define A                                                                                                    \
    "{\"id\":\"a\",\"serviceName\":\"users\",\"host\":\"127.0.0.1\",\"port\":9001,\"url\":\"http://"         \
    "127.0.0.1:9001/v1/\"}"
#define B                                                                                                    \
    "{\"id\":\"b\",\"serviceName\":\"users\",\"host\":\"127.0.0.1\",\"port\":9002,\"url\":\"http://"         \
    "127.0.0.1:9002\"}"
#define C                                                                                                    \
    "{\"id\":\"c\",\"serviceName\":\"users\",\"host\":\"127.0.0.1\",\"port\":9003,\"url\":\"http://"         \
    "127.0.0.1:9003\"}"
#define OTHER                                                                                                \
    "{\"id\":\"o\",\"serviceName\":\"orders\",\"host\":\"127.0.0.1\",\"port\":9004,\"url\":\"http://"        \
    "127.0.0.1:9004\"}"
#define B_WITH(flag)                                                                                         \
    "{\"id\":\"b\",\"serviceName\":\"users\",\"host\":\"127.0.0.1\",\"port\":9002,\"" flag "\":true}"

#endif
