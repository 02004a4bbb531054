/* spec/unit/proxy/rig.h: the proxy in this process, with client and backend sockets that the test drives by
 * hand: one thread, the event loop runs only inside rig_until, so each exchange is seen byte for byte. The
 * strategy is a fake that walks the service's slots in order. */
#ifndef FLUXGATE_SPEC_PROXY_RIG_H
#define FLUXGATE_SPEC_PROXY_RIG_H
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/base/clock.h"
#include "core/config/bundle.h"
#include "core/metrics/stats.h"
#include "core/proxy/proxy_internal.h"
#include "core/shm/ring.h"
#include "spec/unit/proxy/fake_filter.h"

enum { BACKENDS = 3, RIG_PATIENCE_US = 30000000 };

struct rig {
    struct event_base *base;
    struct shm *shm;
    struct stats *stats;
    struct proxy *proxy;
    uint16_t port;
    int backend[BACKENDS]; /* listening */
    uint16_t backend_port[BACKENDS];
    uint32_t slot[BACKENDS];
    char log[65536];
    size_t log_len;
    bool drained;
};

/* the fake strategy */
static unsigned fake_picks, fake_results, fake_failures;
static const char *fake_cookie;
static uint32_t fake_limit; /* of active requests a slot: what is full is not picked */
static bool fake_holds;     /* it answers gateway.QUEUE */

/* The slot that a request insists on: "X-Session: 1". */
static inline uint32_t
fake_bound(struct shm *shm, const struct script_request *request)
{
    struct slot cold;
    const struct header *row = headers_find_name(request->headers, SLICE_LIT("x-session"));
    uint32_t slot = row == NULL ? SLOT_NONE : (uint32_t)row->value.at[0] - (uint32_t)'0';
    for (uint32_t t = 0; t < request->tried_count; t++) {
        if (request->tried[t] == slot) return SLOT_NONE;
    }
    return slot_read(shm, slot, &cold, NULL) && cold.state == SLOT_HEALTHY ? slot : SLOT_NONE;
}

static inline bool
fake_is_full(struct shm *shm, uint32_t slot)
{
    return fake_limit != 0 && slot_active(shm, slot) >= fake_limit;
}

enum script_verdict
script_pick(struct script *script, struct script_request *request, uint32_t *slot, enum reason *reason)
{
    struct shm *shm = (struct shm *)script;
    struct slot cold;
    uint32_t full_count = 0, full_slot = SLOT_NONE;
    fake_picks++;
    *slot = fake_holds ? SLOT_NONE : fake_bound(shm, request);
    *reason = REASON_ALL_FULL;
    if (fake_holds) return SCRIPT_QUEUE;
    if (*slot != SLOT_NONE) return fake_is_full(shm, *slot) ? SCRIPT_QUEUE : SCRIPT_PICKED;
    for (uint32_t i = 0; i < shm_slots(shm); i++) {
        bool tried = !slot_read(shm, i, &cold, NULL) || cold.state != SLOT_HEALTHY;
        for (uint32_t t = 0; t < request->tried_count; t++)
            tried |= request->tried[t] == i;
        if (tried) continue;
        if (fake_is_full(shm, i)) {
            full_slot = full_count++ == 0 ? i : SLOT_NONE;
            continue;
        }
        *slot = i;
        if (fake_cookie != NULL)
            (void)!headers_add(&request->set_cookies, request->arena, HEADER_SET_COOKIE,
                SLICE_LIT("Set-Cookie"), slice_of(fake_cookie));
        return SCRIPT_PICKED;
    }
    if (request->tried_count > 0) *slot = full_slot;
    *reason = full_count > 0 ? REASON_ALL_FULL : REASON_NO_ENDPOINTS;
    return SCRIPT_NONE;
}

void
script_result(
    struct script *script, struct script_request *request, uint32_t slot, const struct script_result *result)
{
    (void)script;
    (void)request;
    (void)slot;
    fake_results++;
    fake_failures += result->failure != REASON_NONE;
}

void
script_trial_end(struct script *script, struct script_request *request, enum trial outcome)
{
    (void)script;
    (void)outcome;
    request->trial = 0;
}

void
script_request_done(struct script *script, struct script_request *request)
{
    (void)script, (void)request;
}
void
script_refresh(struct script *script)
{
    (void)script;
}
void
script_free(struct script *script)
{
    (void)script;
}
const char *
script_strategy_name(const struct script *script, uint32_t service)
{
    (void)script, (void)service;
    return "fake";
}

/* sockets */
static inline int
rig_listen(uint16_t *port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_int_not_equal(fd, -1);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, 64), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
    *port = ntohs(address.sin_port);
    return fd;
}

static inline int
rig_connect(uint16_t port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_not_equal(fd, -1);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    return fd;
}

static inline void
rig_turn(struct rig *rig)
{
    struct pollfd none = {.fd = -1};
    event_base_loop(rig->base, EVLOOP_NONBLOCK);
    (void)poll(&none, 1, 1); /* lets the kernel move bytes */
}

/* What a socket said so far, NUL-terminated. */
struct heard {
    int fd;
    size_t len;
    enum { HEARD_OPEN, HEARD_FIN, HEARD_RESET } end;
    char text[1 << 20];
};

static inline void
heard_read(struct heard *heard)
{
    while (heard->end == HEARD_OPEN && heard->len < sizeof heard->text - 1) {
        ssize_t n = recv(heard->fd, heard->text + heard->len, sizeof heard->text - 1 - heard->len, 0);
        if (n > 0)
            heard->len += (size_t)n;
        else if (n == 0)
            heard->end = HEARD_FIN;
        else if (errno == EAGAIN)
            break;
        else
            heard->end = HEARD_RESET;
    }
    heard->text[heard->len] = '\0';
}

#define RIG_WAIT(rig, what, condition)                                                                       \
    do {                                                                                                     \
        uint64_t rig_end_us_ = clock_now_us() + RIG_PATIENCE_US;                                             \
        while (!(condition)) {                                                                               \
            rig_turn(rig);                                                                                   \
            if (clock_now_us() > rig_end_us_) fail_msg("waited in vain: %s", what);                          \
        }                                                                                                    \
    } while (0)

static inline struct heard *
rig_hear(int fd)
{
    struct heard *heard = calloc(1, sizeof *heard);
    assert_non_null(heard);
    heard->fd = fd;
    return heard;
}

static inline void
rig_expect(struct rig *rig, struct heard *heard, const char *text)
{
    uint64_t until_us = clock_now_us() + RIG_PATIENCE_US;
    for (;;) {
        heard_read(heard);
        if (strstr(heard->text, text) != NULL) return;
        if (heard->end != HEARD_OPEN || clock_now_us() > until_us)
            fail_msg("expected \"%s\", heard \"%s\" (end %d)", text, heard->text, heard->end);
        rig_turn(rig);
    }
}

static inline void
rig_expect_end(struct rig *rig, struct heard *heard)
{
    uint64_t until_us = clock_now_us() + RIG_PATIENCE_US;
    for (heard_read(heard); heard->end == HEARD_OPEN; heard_read(heard)) {
        if (clock_now_us() > until_us) fail_msg("still open after \"%s\"", heard->text);
        rig_turn(rig);
    }
}

static inline void
rig_forget(struct heard *heard)
{
    heard->len = 0;
    heard->text[0] = '\0';
}

static inline void
rig_hang_up(struct heard *heard)
{
    close(heard->fd);
    free(heard);
}

static inline void
rig_say_bytes(struct rig *rig, struct heard *to, const char *bytes, size_t len)
{
    uint64_t until_us = clock_now_us() + RIG_PATIENCE_US;
    while (len > 0) {
        ssize_t n = send(to->fd, bytes, len, MSG_NOSIGNAL);
        if (n > 0) {
            bytes += n;
            len -= (size_t)n;
        } else if (errno != EAGAIN || clock_now_us() > until_us) {
            fail_msg("send: %s", strerror(errno));
        }
        if (len > 0) rig_turn(rig);
    }
}

static inline void
rig_say(struct rig *rig, struct heard *to, const char *text)
{
    rig_say_bytes(rig, to, text, strlen(text));
}

static inline struct heard *
rig_client(struct rig *rig)
{
    return rig_hear(rig_connect(rig->port));
}

/* The next connection that the proxy makes to backend i. */
static inline struct heard *
rig_backend(struct rig *rig, unsigned i)
{
    int fd = -1;
    RIG_WAIT(rig, "a connection to the backend",
        (fd = accept4(rig->backend[i], NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) != -1);
    return rig_hear(fd);
}

static inline bool
rig_has_connection(struct rig *rig, unsigned i)
{
    struct pollfd asked = {.fd = rig->backend[i], .events = POLLIN};
    return poll(&asked, 1, 0) == 1;
}

/* Backend i, which the proxy has met, has shown long enough that it leaves young connections open. */
static inline void
rig_trust(struct rig *rig, unsigned i)
{
    rig->proxy->endpoints[rig->slot[i]]->trusted_us = 1;
}

/* log */
static inline void
rig_take_line(void *context, enum ring_kind kind, const char *line, size_t len)
{
    struct rig *rig = context;
    if (kind != RING_ACCESS || rig->log_len + len >= sizeof rig->log) return;
    memcpy(rig->log + rig->log_len, line, len);
    rig->log_len += len;
    rig->log[rig->log_len] = '\0';
}

static inline void
rig_expect_log(struct rig *rig, const char *text)
{
    uint64_t until_us = clock_now_us() + RIG_PATIENCE_US;
    for (;;) {
        ring_drain(shm_ring(rig->shm, 0), 1000, rig_take_line, rig);
        if (strstr(rig->log, text) != NULL) return;
        if (clock_now_us() > until_us) fail_msg("no \"%s\" in the log: %s", text, rig->log);
        rig_turn(rig);
    }
}

/* life */
static inline void
rig_use(struct rig *rig, const char *yaml)
{
    static uint32_t number;
    struct diags diags = {0};
    struct bundle *bundle = bundle_open();
    assert_non_null(bundle);
    assert_true(bundle_put(bundle, "rig.yaml", slice_of(yaml)));
    assert_true(
        bundle_put(bundle, "x.lua", SLICE_LIT("return {}"))); /* a filter: fake_filter.h is in its place */
    struct config *config = config_load(bundle, "rig.yaml", &diags);
    diags_print(&diags, stderr);
    assert_non_null(config);
    assert_true(diags_ok(&diags));
    diags_fini(&diags);
    for (size_t i = 0; i < config->route_count; i++)
        shm_name_add(rig->shm, slice_of(config->routes[i].name));
    for (size_t i = 0; i < config->service_count; i++)
        shm_name_add(rig->shm, slice_of(config->services[i].name));
    shm_name_add(rig->shm, SLICE_LIT("fake"));
    shm_name_add(rig->shm, SLICE_LIT(PROXY_FETCH_ROUTE));
    assert_true(proxy_use(rig->proxy, ++number, bundle, config, (struct script *)rig->shm));
}

static inline void
rig_add_backend(struct rig *rig, unsigned i, const char *prefix)
{
    struct slot_text text = {0};
    snprintf(text.id, sizeof text.id, "b%u", i);
    snprintf(text.host, sizeof text.host, "127.0.0.1");
    snprintf(text.path_prefix, sizeof text.path_prefix, "%s", prefix);
    text.address.v4 = (struct sockaddr_in){.sin_family = AF_INET,
        .sin_port = htons(rig->backend_port[i]),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    text.address_len = sizeof text.address.v4;
    rig->slot[i] = slot_claim(
        rig->shm, shm_name_find(rig->shm, SLICE_LIT("web")), SLOT_HEALTHY, 1, rig->backend_port[i], &text);
    assert_int_not_equal(rig->slot[i], SLOT_NONE);
}

#define RIG_YAML(routes, more)                                                                               \
    "listeners: [ { address: 127.0.0.1:0 } ]\nworkers: 1\nroutes:\n" routes                                  \
    "services: { web: { endpoints: [ \"127.0.0.1:1\" ] } }\n"                                                \
    "log: { level: info, format: logfmt, access: \"-\" }\n" more
#define RIG_PLAIN RIG_YAML("  - match: { path_prefix: / }\n    service: web\n", "")

static inline struct rig *
rig_new(const char *yaml, unsigned backends)
{
    struct rig *rig = calloc(1, sizeof *rig);
    assert_non_null(rig);
    fake_reset();
    signal(SIGPIPE, SIG_IGN);
    rig->base = event_base_new();
    rig->shm = shm_create(&(struct shm_params){
        .max_endpoints = 64, .stats_bytes = stats_region_bytes(), .ring_bytes = 1 << 20});
    assert_non_null(rig->shm);
    rig->stats = stats_open(rig->shm, 0);
    rig->proxy = proxy_new(rig->base, rig->shm, 0, rig->stats);
    assert_non_null(rig->proxy);
    int fd = rig_listen(&rig->port);
    assert_true(proxy_listen(rig->proxy, &fd, 1));
    rig_use(rig, yaml);
    for (unsigned i = 0; i < backends; i++) {
        rig->backend[i] = rig_listen(&rig->backend_port[i]);
        rig_add_backend(rig, i, "");
    }
    fake_picks = fake_results = fake_failures = 0;
    fake_cookie = NULL;
    fake_limit = 0;
    fake_holds = false;
    return rig;
}

/* Every test ends here: no request may still be counted on an endpoint. */
static inline void
rig_free(struct rig *rig)
{
    proxy_free(rig->proxy);
    for (unsigned i = 0; i < BACKENDS; i++) {
        if (rig->backend[i] == 0) continue;
        assert_int_equal(slot_active(rig->shm, rig->slot[i]), 0);
        if (rig->backend[i] != -1) close(rig->backend[i]);
    }
    assert_int_equal(atomic_load(&shm_worker(rig->shm, 0)->connections), 0);
    assert_int_equal(atomic_load(&shm_worker(rig->shm, 0)->streams), 0);
    assert_int_equal(atomic_load(&shm_worker(rig->shm, 0)->tunnels), 0);
    stats_close(rig->stats);
    shm_destroy(rig->shm);
    event_base_free(rig->base);
    free(rig);
}

#endif
