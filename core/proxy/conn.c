#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/base/text.h"
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

/* Out of what limits connections_per_client and those of a listener. */
static void
leave_limits(struct conn *conn)
{
    struct proxy *proxy = conn->proxy;
    if (conn->client_key != 0) client_end(proxy->shm, proxy->worker, conn->client_key);
    if (conn->listener_key != 0) client_end(proxy->shm, proxy->worker, conn->listener_key);
    conn->client_key = conn->listener_key = 0;
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
    if (UNLIKELY(conn->is_inner)) {
        inner_closed(conn);
        conn_enter(conn, CONN_CLOSED);
        return;
    }
    atomic_fetch_add_explicit(&proxy->totals->closed[conn->why], 1, memory_order_relaxed);
    leave_limits(conn);
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
conn_shed(struct conn *conn, enum shm_close why)
{
    static const char answer[] =
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: 45\r\n"
        "Connection: close\r\n\r\n503 shed: the gateway is out of connections.\n";
    conn->why = why;
    leave_limits(conn);
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
        conn->why = SHM_CLOSE_RECLAIMED;
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
    conn->why = proxy->drain == DRAIN_NO ? SHM_CLOSE_CLIENT : SHM_CLOSE_DRAINING;
    if (conn->input == INPUT_ENDED || proxy->drain == DRAIN_DONE) {
        conn_close(conn);
        return;
    }
    conn_want_read(conn, true);
    conn_enter(conn, CONN_IDLE);
    uint64_t wait_us = proxy->generation->config->timeouts.keepalive;
    if (UNLIKELY(proxy->drain != DRAIN_NO)) wait_us = DRAIN_FRESH_US; /* the head was sent before the drain */
    uint64_t due_us = wait_us == 0 ? UINT64_MAX : proxy->now_us + wait_us;
    deadline_set(proxy, &conn->deadline, due_us < conn->retire_us ? due_us : conn->retire_us);
}

bool
conn_may_stay(struct conn *conn)
{
    const struct config_limits *limits = &conn->proxy->generation->config->limits;
    if (limits->keepalive_requests != 0 && conn->requests + 1 >= limits->keepalive_requests)
        conn->why = SHM_CLOSE_REQUESTS;
    else if (conn->retire_us <= conn->proxy->now_us)
        conn->why = SHM_CLOSE_AGE;
    else
        return true;
    return false;
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
        if (conn->state == CONN_BUSY) {
            stream_on_timeout(conn->stream);
        } else {
            if (conn->state == CONN_IDLE && proxy->drain == DRAIN_NO)
                conn->why = conn->retire_us <= proxy->now_us ? SHM_CLOSE_AGE : SHM_CLOSE_IDLE;
            conn_close(conn);
        }
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

/* Spread, so that what was accepted together does not come back together. */
static uint64_t
retire_us(struct proxy *proxy)
{
    uint64_t age_us = proxy->generation->config->limits.max_connection_age;
    if (age_us == 0) return UINT64_MAX;
    return proxy->now_us + age_us - age_us / 10 + proxy_random(proxy) % (age_us / 5 + 1);
}

/* Keyed, so that no client can choose an address that shares another's count. 0: none to count by. */
static uint64_t
client_key(const struct conn *conn)
{
    char bytes[32 + 16];
    size_t len = conn->peer.any.sa_family == AF_INET ? 4 : 16;
    if (conn->peer.any.sa_family != AF_INET && conn->peer.any.sa_family != AF_INET6) return 0;
    memcpy(bytes, shm_secret(conn->proxy->shm), 32);
    if (len == 4)
        memcpy(bytes + 32, &conn->peer.v4.sin_addr, len);
    else
        memcpy(bytes + 32, conn->peer.v6.sin6_addr.s6_addr, len);
    return text_hash((struct slice){bytes, 32 + len}) | 1;
}

/* Counted as one client's are, whose keys are odd. */
bool
conn_is_within_listener_limit(struct conn *conn, size_t place)
{
    struct proxy *proxy = conn->proxy;
    const struct config *config = proxy->generation->config;
    if (place >= config->listener_count || config->listeners[place].connections == 0) return true;
    uint64_t key = text_hash(slice_of(config->listeners[place].address.text)) << 1;
    if (key == 0) key = 2;
    uint32_t count = client_begin(proxy->shm, proxy->worker, key);
    if (count != 0) conn->listener_key = key;
    return count <= config->listeners[place].connections;
}

/* Behind a trusted proxy stand many clients: it is not held to what one may have. 0: not counted. */
static uint32_t
count_client(struct conn *conn)
{
    struct proxy *proxy = conn->proxy;
    const struct config *config = proxy->generation->config;
    if (config->limits.connections_per_client == 0 ||
        config_cidr_has(config->trusted_proxies, config->trusted_proxy_count, &conn->peer.any))
        return 0;
    uint64_t key = client_key(conn);
    uint32_t count = key == 0 ? 0 : client_begin(proxy->shm, proxy->worker, key);
    if (count != 0) conn->client_key = key;
    return count;
}

bool
conn_is_within_client_limit(struct conn *conn)
{
    return count_client(conn) <= conn->proxy->generation->config->limits.connections_per_client;
}

void
conns_count_clients(struct proxy *proxy)
{
    const struct link *lists[] = {
        &proxy->idle_conns, &proxy->busy_conns, &proxy->ready_conns, &proxy->lingering};
    if (proxy->generation->config->limits.connections_per_client == 0) return;
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        for (struct link *at = lists[i]->next; at != lists[i]; at = at->next) {
            struct conn *conn = LINK_OF(at, struct conn, link);
            if (conn->counted && conn->client_key == 0) (void)count_client(conn);
        }
    }
}

static bool
conn_init(struct conn *conn, struct proxy *proxy, int fd, event_callback_fn on_read)
{
    conn->proxy = proxy;
    conn->fd = fd;
    conn->retire_us = UINT64_MAX;
    event_assign(&conn->read, proxy->base, fd, EV_READ | EV_PERSIST, on_read, conn);
    event_assign(&conn->write, proxy->base, fd, EV_WRITE | EV_PERSIST, on_conn_write, conn);
    event_assign(&conn->deadline.event, proxy->base, -1, 0, on_conn_timer, conn);
    conn->deadline.due_us = UINT64_MAX;
    if (event_add(&conn->read, NULL) == -1) return false;
    conn->input = INPUT_OPEN;
    link_init(&conn->link);
    conn_enter(conn, CONN_IDLE);
    return true;
}

struct conn *
conn_new(struct proxy *proxy, int fd, const struct sockaddr *peer)
{
    struct conn *conn = calloc(1, sizeof *conn);
    if (conn == NULL || !conn_init(conn, proxy, fd, on_conn_read)) {
        free(conn);
        return NULL;
    }
    set_peer(conn, peer);
    conn->retire_us = retire_us(proxy);
    uint64_t wait_us = proxy->generation->config->timeouts.keepalive;
    if (wait_us != 0) deadline_set(proxy, &conn->deadline, proxy->now_us + wait_us);
    return conn;
}

/* Who does not read our answer any more has nothing to say either: no half-close here. */
static void
on_inner_read(evutil_socket_t fd, short what, void *context)
{
    struct conn *conn = context;
    struct proxy *proxy = conn->proxy;
    if (!inner_is_left(conn)) {
        on_conn_read(fd, what, context);
        return;
    }
    proxy_enter(proxy);
    if (conn->state == CONN_BUSY) stream_client_gone(conn->stream);
    conn_close(conn);
    proxy_leave(proxy);
}

struct conn *
conn_new_inner(struct proxy *proxy, int fd, size_t size)
{
    struct conn *conn = calloc(1, size);
    if (conn == NULL || !conn_init(conn, proxy, fd, on_inner_read)) {
        free(conn);
        return NULL;
    }
    conn->is_inner = true;
    return conn;
}
