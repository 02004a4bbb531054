#include "core/serve/serve.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/serve/serve_internal.h"

enum {
    ACCEPTS_A_TURN = 32,
    DEFAULT_CONNECTIONS = 4096,
    SWEEP_MAX_US = 1000000,
    SWEEP_MIN_US = 10000,
    SWEEP_DRAIN_US = 50000, /* a drain keeps its limit more exactly */
};

const char *
serve_date(struct serve *serve)
{
    static const char days[7][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static const char months[12][4] = {
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    time_t now = (time_t)(clock_wall_us() / 1000000);
    struct tm tm;
    if (now == serve->date_at || gmtime_r(&now, &tm) == NULL) return serve->date;
    serve->date_at = now;
    snprintf(serve->date, sizeof serve->date, "%s, %02u %s %04u %02u:%02u:%02u GMT", days[tm.tm_wday % 7],
        (unsigned)tm.tm_mday % 100, months[tm.tm_mon % 12], (unsigned)(tm.tm_year + 1900) % 10000,
        (unsigned)tm.tm_hour % 100, (unsigned)tm.tm_min % 100, (unsigned)tm.tm_sec % 100);
    return serve->date;
}

void
serve_arm_sweep(struct serve *serve)
{
    struct timeval every = {
        (time_t)(serve->sweep_every_us / 1000000), (suseconds_t)(serve->sweep_every_us % 1000000)};
    if (serve->sweep_armed) return;
    serve->sweep_armed = evtimer_add(&serve->sweep_event, &every) == 0;
}

static void
set_listening(struct serve *serve, bool on)
{
    for (struct listener *l = serve->listeners; l != NULL; l = l->next) {
        if (on) {
            event_add(&l->event, NULL);
        } else {
            event_del(&l->event);
        }
    }
}

void
serve_resume_accept(struct serve *serve)
{
    if (!serve->paused || serve->draining) return;
    serve->paused = false;
    set_listening(serve, true);
}

static void
on_acceptable(evutil_socket_t fd, short what, void *context)
{
    struct serve *serve = context;
    (void)what;
    for (int i = 0; i < ACCEPTS_A_TURN; i++) {
        struct sockaddr_storage address = {0};
        socklen_t len = sizeof address;
        uint64_t swallowed;
        int peer = accept4(fd, (struct sockaddr *)&address, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (peer == -1) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
                /* the socket stays readable: without a pause this would spin */
                if (log_every_due(&serve->accept_log, 10000000, &swallowed)) {
                    log_warn("accepting is paused", F_UINT("suppressed", swallowed));
                }
                serve->paused = true;
                set_listening(serve, false);
                serve_arm_sweep(serve);
            }
            return;
        }
        if (serve->conn_count >= serve->limits.connections) {
            if (log_every_due(&serve->limit_log, 10000000, &swallowed)) {
                log_warnx("connection limit reached", F_UINT("limit", serve->limits.connections),
                    F_UINT("suppressed", swallowed));
            }
            close(peer);
            continue;
        }
        serve_conn_accept(serve, peer, (const struct sockaddr *)&address);
    }
}

static void
drain_check(struct serve *serve)
{
    if (!serve->draining || serve->conn_count > 0 || serve->done == NULL) return;
    void (*done)(void *) = serve->done;
    serve->done = NULL;
    done(serve->done_context);
}

/* Runs once the callbacks of this loop turn are through: nobody up the stack can hold a connection any more.
 */
static void
on_turn(evutil_socket_t fd, short what, void *context)
{
    struct serve *serve = context;
    (void)fd;
    (void)what;
    while (serve->dirty != NULL) {
        struct serve_conn *conn = serve->dirty;
        serve->dirty = conn->dirty_next;
        conn->is_dirty = false;
        if (conn->state != CONN_DEAD) serve_conn_turn(conn);
    }
    while (serve->graveyard != NULL) {
        struct serve_conn *conn = serve->graveyard;
        serve->graveyard = conn->next;
        free(conn);
    }
    drain_check(serve);
}

static void
on_sweep(evutil_socket_t fd, short what, void *context)
{
    struct serve *serve = context;
    uint64_t now = clock_now_us();
    (void)fd;
    (void)what;
    serve->sweep_armed = false;
    serve_resume_accept(serve);
    bool cut = serve->draining && now >= serve->drain_deadline_us;
    for (struct serve_conn *conn = serve->conns, *next; conn != NULL; conn = next) {
        next = conn->next;
        if (cut) {
            serve_conn_close(conn);
        } else {
            serve_conn_timeout(conn, now);
        }
    }
    if (serve->conn_count > 0 || serve->paused) serve_arm_sweep(serve);
}

struct serve *
serve_new(struct event_base *base, enum serve_protocol protocol, const struct serve_limits *limits,
    serve_handler handler, void *context)
{
    struct serve *serve = calloc(1, sizeof *serve);
    if (serve == NULL) return NULL;
    serve->base = base;
    serve->protocol = protocol;
    if (limits != NULL) serve->limits = *limits;
    struct serve_limits *own = &serve->limits;
    if (own->body_bytes == 0) own->body_bytes = 1 << 20;
    if (own->connections == 0) own->connections = DEFAULT_CONNECTIONS;
    if (own->header_us == 0) own->header_us = 10 * 1000000;
    if (own->idle_us == 0) own->idle_us = 75 * 1000000;
    serve->h1_limits = (struct h1_limits){.header_bytes = HEADER_BYTES_MAX,
        .headers = HEADER_ROWS_MAX,
        .uri_bytes = URI_BYTES_MAX,
        .body_bytes = own->body_bytes,
        .underscores = true};
    serve->handler = handler;
    serve->context = context;
    serve->date_at = -1;
    uint64_t every = (own->header_us < own->idle_us ? own->header_us : own->idle_us) / 4;
    serve->sweep_every_us = every > SWEEP_MAX_US ? SWEEP_MAX_US : every < SWEEP_MIN_US ? SWEEP_MIN_US : every;
    serve->scratch = malloc(SCRATCH_BYTES);
    if (serve->scratch == NULL || !http2_init(serve) ||
        event_assign(&serve->turn_event, base, -1, 0, on_turn, serve) != 0 ||
        event_assign(&serve->sweep_event, base, -1, 0, on_sweep, serve) != 0) {
        http2_fini(serve);
        free(serve->scratch);
        free(serve);
        return NULL;
    }
    return serve;
}

bool
serve_listen(struct serve *serve, int fd)
{
    struct listener *l = calloc(1, sizeof *l);
    if (l == NULL) return false;
    l->fd = fd;
    if (evutil_make_socket_nonblocking(fd) != 0 ||
        event_assign(&l->event, serve->base, fd, EV_READ | EV_PERSIST, on_acceptable, serve) != 0 ||
        event_add(&l->event, NULL) != 0) {
        free(l);
        return false;
    }
    l->next = serve->listeners;
    serve->listeners = l;
    return true;
}

static void
stop_listening(struct serve *serve)
{
    while (serve->listeners != NULL) {
        struct listener *l = serve->listeners;
        serve->listeners = l->next;
        event_del(&l->event);
        close(l->fd);
        free(l);
    }
}

void
serve_drain(struct serve *serve, uint64_t limit_us, void (*done)(void *), void *context)
{
    serve->draining = true;
    serve->done = done;
    serve->done_context = context;
    serve->drain_deadline_us = clock_now_us() + limit_us;
    stop_listening(serve);
    for (struct serve_conn *conn = serve->conns, *next; conn != NULL; conn = next) {
        next = conn->next;
        if (conn->state == CONN_H2) {
            http2_goaway(conn, conn->calls == NULL);
            serve_conn_mark(conn);
        } else if (conn->state == CONN_NEW || (conn->state == CONN_HEAD && conn->calls == NULL)) {
            char byte; /* a request that came meanwhile is still served */
            if (serve_conn_pending(conn) > 0) {
                serve_conn_finish(conn);
            } else if (recv(conn->fd, &byte, 1, MSG_PEEK) != 1) {
                serve_conn_close(conn);
            }
        }
    }
    if (serve->sweep_every_us > SWEEP_DRAIN_US) serve->sweep_every_us = SWEEP_DRAIN_US;
    if (serve->sweep_armed) evtimer_del(&serve->sweep_event);
    serve->sweep_armed = false;
    serve_arm_sweep(serve);
    event_active(&serve->turn_event, EV_TIMEOUT, 1);
}

void
serve_free(struct serve *serve)
{
    if (serve == NULL) return;
    stop_listening(serve);
    while (serve->conns != NULL)
        serve_conn_close(serve->conns);
    serve->done = NULL;
    on_turn(-1, 0, serve);
    event_del(&serve->turn_event);
    event_del(&serve->sweep_event);
    while (serve->free_calls != NULL) {
        struct serve_call *call = serve->free_calls;
        serve->free_calls = call->next;
        arena_fini(&call->arena);
        strbuf_fini(&call->body);
        free(call);
    }
    while (serve->free_out_count > 0)
        free(serve->free_outs[--serve->free_out_count]);
    http2_fini(serve);
    free(serve->scratch);
    free(serve);
}

void
serve_set_streaming(struct serve *serve, bool (*is_streaming)(void *context, struct slice path))
{
    serve->is_streaming = is_streaming;
}

unsigned
serve_connections(const struct serve *serve)
{
    return serve->conn_count;
}
