#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/proxy/proxy_internal.h"

enum {
    LINGER_US = 2000000,    /* for the client to read our last answer, and its FIN to come */
    LINGER_BYTES = 1048576, /* what it may go on sending meanwhile */
    DISCARD_ROUNDS = 16,
};

static_assert(sizeof(struct conn) <= 768,
    "an idle connection costs less than 1 KiB, the kernel's and libevent's part aside");

static void
conn_enter(struct conn *conn, enum conn_state state)
{
    struct proxy *proxy = conn->proxy;
    struct link *list = NULL;
    conn->state = state;
    switch (state) {
    case CONN_IDLE: list = &proxy->idle_conns; break;
    case CONN_BUSY: list = &proxy->busy_conns; break;
    case CONN_READY: list = &proxy->ready_conns; break;
    case CONN_LINGER: list = &proxy->lingering; break;
    case CONN_CLOSED: list = &proxy->resting_conns; break;
    }
    link_remove(&conn->link);
    link_push(list, &conn->link);
}

void
conn_want_read(struct conn *conn, bool want)
{
    if (want && conn->input == INPUT_HELD) {
        if (event_add(&conn->read, NULL) == 0) conn->input = INPUT_OPEN;
    } else if (!want && conn->input == INPUT_OPEN) {
        if (event_del(&conn->read) == 0) conn->input = INPUT_HELD;
    }
}

void
conn_want_write(struct conn *conn, bool want)
{
    if (want == (conn->writing != 0)) return;
    if (want ? event_add(&conn->write, NULL) == 0 : event_del(&conn->write) == 0)
        conn->writing = want ? EV_WRITE : 0;
}

void
conn_close(struct conn *conn)
{
    struct proxy *proxy = conn->proxy;
    if (conn->state == CONN_CLOSED) return;
    event_del(&conn->read);
    event_del(&conn->write);
    deadline_stop(&conn->deadline);
    buf_give(&proxy->buffers, &conn->left);
    close(conn->fd);
    conn->fd = -1;
    if (conn->counted) {
        proxy->connections--;
        atomic_store_explicit(&proxy->block->connections, proxy->connections, memory_order_relaxed);
    } else {
        proxy->shedding--;
    }
    conn_enter(conn, CONN_CLOSED);
    accept_resume(proxy);
}

void
conn_reset(struct conn *conn)
{
    struct linger now = {1, 0};
    if (conn->state != CONN_CLOSED) (void)setsockopt(conn->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    conn_close(conn);
}

void
conn_free(struct conn *conn)
{
    free(conn);
}

/* Closing a socket that holds unread bytes sends RST, which makes the peer drop an answer it has not read yet
 * (RFC 9112 §9.6): so our side is shut, and the rest of what the peer sends is read and thrown away for a
 * while. */
void
conn_linger(struct conn *conn)
{
    if (conn->input == INPUT_ENDED || shutdown(conn->fd, SHUT_WR) == -1) {
        conn_close(conn);
        return;
    }
    conn->stream = NULL;
    conn->discarded = 0;
    conn_want_write(conn, false);
    conn_want_read(conn, true);
    conn_enter(conn, CONN_LINGER);
    deadline_set(conn->proxy, &conn->deadline, conn->proxy->now_us + LINGER_US);
}

static void
conn_discard(struct conn *conn)
{
    struct buf *buf = buf_take(&conn->proxy->buffers, 1);
    for (unsigned i = 0; buf != NULL && i < DISCARD_ROUNDS; i++) {
        ssize_t n = recv(conn->fd, buf->bytes, buf->cap, 0);
        if (n == -1 && (errno == EAGAIN || errno == EINTR)) break;
        if (n <= 0 || (conn->discarded += (uint32_t)n) > LINGER_BYTES) {
            conn_close(conn);
            break;
        }
        if ((size_t)n < buf->cap) break;
    }
    buf_give(&conn->proxy->buffers, &buf);
}

void
conn_shed(struct conn *conn)
{
    static const char answer[] =
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: 45\r\n"
        "Connection: close\r\n\r\n503 shed: the gateway is out of connections.\n";
    if (send(conn->fd, answer, sizeof answer - 1, MSG_NOSIGNAL | MSG_DONTWAIT) == -1)
        conn_close(conn);
    else
        conn_linger(conn);
}

static void
start_stream(struct conn *conn, struct buf *in)
{
    struct stream *stream = stream_new(conn, in);
    if (stream == NULL) {
        buf_give(&conn->proxy->buffers, &in);
        conn_close(conn);
        return;
    }
    conn->stream = stream;
    conn_enter(conn, CONN_BUSY);
    stream_enter(stream, STREAM_HEAD);
    request_on_bytes(stream);
}

static void
on_first_bytes(struct conn *conn)
{
    struct proxy *proxy = conn->proxy;
    struct buf *in = buf_take(&proxy->buffers, 1);
    ssize_t n = in == NULL ? 0 : recv(conn->fd, in->bytes, in->cap, 0);
    if (n > 0) {
        in->end = (uint32_t)n;
        start_stream(conn, in);
        return;
    }
    buf_give(&proxy->buffers, &in);
    if (n == 0 || (errno != EAGAIN && errno != EINTR)) conn_close(conn);
}

void
conn_begin(struct conn *conn)
{
    struct buf *in = conn->left;
    conn->left = NULL;
    memmove(in->bytes, in->bytes + in->at, buf_used(in));
    in->end -= in->at;
    in->at = 0;
    start_stream(conn, in);
}

unsigned
conn_reclaim(struct proxy *proxy, unsigned count)
{
    unsigned closed = 0;
    for (struct link *at = proxy->idle_conns.prev, *before; at != &proxy->idle_conns && closed < count;
         at = before) {
        struct conn *conn = LINK_OF(at, struct conn, link);
        before = at->prev;
        if (conn->requests == 0) continue; /* its first request is on its way */
        conn_close(conn);
        closed++;
    }
    return closed;
}

void
conn_next(struct conn *conn, struct buf **left)
{
    struct proxy *proxy = conn->proxy;
    conn->stream = NULL;
    conn->requests++;
    conn_want_write(conn, false);
    if (*left != NULL && buf_used(*left) > 0) {
        conn->left = *left;
        *left = NULL;
        conn_enter(conn, CONN_READY);
        return;
    }
    buf_give(&proxy->buffers, left);
    if (conn->input == INPUT_ENDED || proxy->drain != DRAIN_NO) {
        conn_close(conn);
        return;
    }
    conn_want_read(conn, true);
    conn_enter(conn, CONN_IDLE);
    uint64_t wait_us = proxy->generation->config->timeouts.keepalive;
    deadline_set(proxy, &conn->deadline, wait_us == 0 ? UINT64_MAX : proxy->now_us + wait_us);
}

static void
on_conn_read(evutil_socket_t fd, short what, void *context)
{
    struct conn *conn = context;
    struct proxy *proxy = conn->proxy;
    (void)fd;
    (void)what;
    proxy_enter(proxy);
    switch (conn->state) {
    case CONN_IDLE: on_first_bytes(conn); break;
    case CONN_BUSY: stream_on_readable(conn->stream); break;
    case CONN_LINGER: conn_discard(conn); break;
    case CONN_READY:
    case CONN_CLOSED: break;
    }
    proxy_leave(proxy);
}

static void
on_conn_write(evutil_socket_t fd, short what, void *context)
{
    struct conn *conn = context;
    struct proxy *proxy = conn->proxy;
    (void)fd;
    (void)what;
    proxy_enter(proxy);
    if (conn->state == CONN_BUSY)
        stream_on_writable(conn->stream);
    else
        conn_want_write(conn, false);
    proxy_leave(proxy);
}

static void
on_conn_timer(evutil_socket_t fd, short what, void *context)
{
    struct conn *conn = context;
    struct proxy *proxy = conn->proxy;
    (void)fd;
    (void)what;
    proxy_enter(proxy);
    if (deadline_is_due(proxy, &conn->deadline)) {
        if (conn->state == CONN_BUSY)
            stream_on_timeout(conn->stream);
        else
            conn_close(conn);
    }
    proxy_leave(proxy);
}

static void
set_peer(struct conn *conn, const struct sockaddr *peer)
{
    conn->peer.any.sa_family = peer->sa_family;
    if (peer->sa_family == AF_INET) {
        memcpy(&conn->peer.v4, peer, sizeof conn->peer.v4);
        inet_ntop(AF_INET, &conn->peer.v4.sin_addr, conn->ip, sizeof conn->ip);
    } else if (peer->sa_family == AF_INET6) {
        memcpy(&conn->peer.v6, peer, sizeof conn->peer.v6);
        if (IN6_IS_ADDR_V4MAPPED(
                &conn->peer.v6.sin6_addr)) { /* one client has one name, whatever the listener */
            struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = conn->peer.v6.sin6_port};
            memcpy(&v4.sin_addr, conn->peer.v6.sin6_addr.s6_addr + 12, 4);
            conn->peer.v4 = v4;
            inet_ntop(AF_INET, &v4.sin_addr, conn->ip, sizeof conn->ip);
        } else {
            inet_ntop(AF_INET6, &conn->peer.v6.sin6_addr, conn->ip, sizeof conn->ip);
        }
    } else {
        memcpy(conn->ip, "unix:", 6);
    }
}

struct conn *
conn_new(struct proxy *proxy, int fd, const struct sockaddr *peer)
{
    struct conn *conn = calloc(1, sizeof *conn);
    if (conn == NULL) return NULL;
    conn->proxy = proxy;
    conn->fd = fd;
    set_peer(conn, peer);
    event_assign(&conn->read, proxy->base, fd, EV_READ | EV_PERSIST, on_conn_read, conn);
    event_assign(&conn->write, proxy->base, fd, EV_WRITE | EV_PERSIST, on_conn_write, conn);
    event_assign(&conn->deadline.event, proxy->base, -1, 0, on_conn_timer, conn);
    conn->deadline.due_us = UINT64_MAX;
    if (event_add(&conn->read, NULL) == -1) {
        free(conn);
        return NULL;
    }
    conn->input = INPUT_OPEN;
    link_init(&conn->link);
    conn_enter(conn, CONN_IDLE);
    uint64_t wait_us = proxy->generation->config->timeouts.keepalive;
    if (wait_us != 0) deadline_set(proxy, &conn->deadline, proxy->now_us + wait_us);
    return conn;
}
