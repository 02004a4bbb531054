#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/proxy/fetch_internal.h"

static bool
is_peer(const struct wire *wire, const struct fetch_url *url)
{
    if (wire->scheme != url->scheme) return false;
    if (url->scheme == FETCH_SERVICE) return wire->other != NULL;
    return wire->port == url->port && slice_equal_nocase(slice_of(wire->host), url->host);
}

/* events */

static void
on_wire_read(evutil_socket_t fd, short what, void *context)
{
    struct wire *wire = context;
    struct proxy *proxy = wire->fetcher->proxy;
    (void)fd;
    (void)what;
    proxy_enter(proxy);
    if (wire->fetch != NULL)
        fetch_on_readable(wire->fetch);
    else
        wire_close(wire); /* idle: its time is up, or the peer ended it */
    proxy_leave(proxy);
}

static void
on_wire_write(evutil_socket_t fd, short what, void *context)
{
    struct wire *wire = context;
    struct proxy *proxy = wire->fetcher->proxy;
    (void)fd;
    (void)what;
    proxy_enter(proxy);
    if (wire->fetch != NULL) fetch_on_writable(wire->fetch);
    proxy_leave(proxy);
}

void
wire_want_write(struct wire *wire, bool want)
{
    if (want == wire->is_writing) return;
    if ((want ? event_add(&wire->write, NULL) : event_del(&wire->write)) == 0) wire->is_writing = want;
}

void
wire_again(struct wire *wire)
{
    if (wire->tls != NULL) event_active(&wire->read, EV_READ, 0);
}

/* opening */

static int
open_socket(const struct fetch_address *address)
{
    int one = 1, fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd == -1) return -1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, &address->any, address->len) == 0 || errno == EINPROGRESS) return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

static bool
open_either(struct wire *wire, struct proxy *proxy, const struct fetch_address *address)
{
    if (wire->scheme == FETCH_SERVICE)
        wire->other = inner_open(proxy, wire, &wire->fd);
    else
        wire->fd = open_socket(address);
    return wire->fd != -1;
}

struct wire *
wire_open(struct fetch *fetch, const struct fetch_address *address)
{
    struct fetcher *fetcher = fetch->fetcher;
    struct proxy *proxy = fetcher->proxy;
    struct slice host = fetch->url.scheme == FETCH_SERVICE ? SLICE_NONE : fetch->url.host;
    struct wire *wire = calloc(1, sizeof *wire + host.len + 1);
    if (wire == NULL) return NULL;
    *wire = (struct wire){.fetcher = fetcher,
        .fetch = fetch,
        .scheme = fetch->url.scheme,
        .port = fetch->url.port,
        .fd = -1,
        .sockets = fetch->url.scheme == FETCH_SERVICE ? 3 : 1}; /* the pair, and the endpoint's */
    for (size_t i = 0; i < host.len; i++)
        wire->host[i] = (char)ascii_lower((unsigned char)host.at[i]);
    link_init(&wire->link);
    bool is_open = open_either(wire, proxy, address);
    if (!is_open && (errno == EMFILE || errno == ENFILE) && proxy_reclaim(proxy))
        is_open = open_either(wire, proxy, address);
    if (!is_open) {
        int error = errno;
        free(wire);
        errno = error;
        return NULL;
    }
    proxy->fetch_sockets += wire->sockets;
    event_assign(&wire->read, proxy->base, wire->fd, EV_READ | EV_PERSIST, on_wire_read, wire);
    event_assign(&wire->write, proxy->base, wire->fd, EV_WRITE | EV_PERSIST, on_wire_write, wire);
    fetch->wire = wire;
    if (event_add(&wire->read, NULL) == 0) return wire;
    wire_close(wire);
    errno = ENOMEM;
    return NULL;
}

/* the idle ones */

/* Neither ended nor with an answer to nobody, which the next fetch would take for its own: libevent may not
 * have looked at it since. */
static bool
is_quiet(const struct wire *wire)
{
    char byte;
    if (wire->scheme == FETCH_SERVICE) return true;
    return recv(wire->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == -1 && errno == EAGAIN;
}

static bool
is_fresh(const struct wire *wire)
{
    return wire->scheme == FETCH_SERVICE ||
           wire->fetcher->proxy->now_us - wire->idle_since_us < FETCH_FRESH_US;
}

struct wire *
wire_take(struct fetcher *fetcher, const struct fetch_url *url, bool is_idempotent)
{
    for (struct link *at = fetcher->idle.next; at != &fetcher->idle; at = at->next) {
        struct wire *wire = LINK_OF(at, struct wire, link);
        if (!is_peer(wire, url) || (!is_idempotent && !is_fresh(wire)) || !is_quiet(wire)) continue;
        link_remove(&wire->link);
        fetcher->idle_count--;
        (void)event_remove_timer(&wire->read);
        return wire;
    }
    return NULL;
}

static struct wire *
oldest(struct fetcher *fetcher, const struct wire *peer, unsigned *count)
{
    struct wire *last = NULL;
    for (struct link *at = fetcher->idle.next; at != &fetcher->idle; at = at->next) {
        struct wire *wire = LINK_OF(at, struct wire, link);
        struct fetch_url url = {.scheme = peer->scheme, .port = peer->port, .host = slice_of(peer->host)};
        if (!is_peer(wire, &url)) continue;
        last = wire;
        ++*count;
    }
    return last;
}

void
wire_give(struct wire *wire)
{
    struct fetcher *fetcher = wire->fetcher;
    struct timeval idle = {FETCH_IDLE_US / 1000000, FETCH_IDLE_US % 1000000};
    unsigned count = 0;
    struct wire *last = oldest(fetcher, wire, &count);
    wire->written += wire->fetch->sent;
    wire->fetch->wire = NULL;
    wire->fetch = NULL;
    wire->served++;
    wire->idle_since_us = fetcher->proxy->now_us;
    wire_want_write(wire, false);
    if (fetcher->proxy->drain != DRAIN_NO || event_add(&wire->read, &idle) == -1) {
        wire_close(wire);
        return;
    }
    if (count >= FETCH_IDLE_PEER_MAX)
        wire_close(last);
    else if (fetcher->idle_count >= FETCH_IDLE_MAX)
        wire_close(LINK_OF(fetcher->idle.prev, struct wire, link));
    link_push(&fetcher->idle, &wire->link);
    fetcher->idle_count++;
}

/* TLS */

static struct tls_session **
find_session(struct fetcher *fetcher, const struct wire *wire)
{
    for (unsigned i = 0; i < FETCH_SESSIONS; i++) {
        if (fetcher->sessions[i].session != NULL && fetcher->sessions[i].port == wire->port &&
            strcmp(fetcher->sessions[i].host, wire->host) == 0)
            return &fetcher->sessions[i].session;
    }
    return NULL;
}

static void
keep_session(struct wire *wire)
{
    struct fetcher *fetcher = wire->fetcher;
    struct tls_session *session = tls_client_session(wire->tls);
    struct tls_session **kept = find_session(fetcher, wire);
    size_t len = strlen(wire->host);
    if (session == NULL) return;
    if (kept == NULL) {
        unsigned at = fetcher->session_at++ % FETCH_SESSIONS;
        if (len >= sizeof fetcher->sessions[at].host) {
            tls_session_free(session);
            return;
        }
        memcpy(fetcher->sessions[at].host, wire->host, len + 1);
        fetcher->sessions[at].port = wire->port;
        kept = &fetcher->sessions[at].session;
    }
    tls_session_free(*kept);
    *kept = session;
}

bool
wire_secure(struct wire *wire)
{
    struct fetcher *fetcher = wire->fetcher;
    struct tls_session **session = find_session(fetcher, wire);
    if (fetcher->trust == NULL) fetcher->trust = tls_trust_new();
    if (fetcher->trust == NULL) return false;
    wire->tls = tls_client_new(fetcher->trust, wire->fd, wire->host, session == NULL ? NULL : *session);
    return wire->tls != NULL;
}

static enum wire_result
wire_result_of(struct wire *wire, enum tls_result result)
{
    switch (result) {
    case TLS_DONE: return WIRE_OK;
    case TLS_WANT_READ: return WIRE_AGAIN;
    case TLS_WANT_WRITE: wire_want_write(wire, true); return WIRE_AGAIN;
    case TLS_END: return WIRE_END;
    case TLS_FAILED: return WIRE_FAILED;
    }
    return WIRE_FAILED;
}

enum wire_result
wire_handshake(struct wire *wire)
{
    return wire_result_of(wire, tls_client_handshake(wire->tls));
}

/* bytes */

enum wire_result
wire_read(struct wire *wire, void *out, size_t cap, size_t *got)
{
    if (wire->tls != NULL) return wire_result_of(wire, tls_client_read(wire->tls, out, cap, got));
    ssize_t n = recv(wire->fd, out, cap, 0);
    if (n == 0) return WIRE_END;
    if (n == -1) return errno == EAGAIN || errno == EINTR ? WIRE_AGAIN : WIRE_FAILED;
    *got = (size_t)n;
    return WIRE_OK;
}

enum wire_result
wire_write(struct wire *wire, const void *bytes, size_t len, size_t *put)
{
    if (wire->tls != NULL) return wire_result_of(wire, tls_client_write(wire->tls, bytes, len, put));
    ssize_t n = send(wire->fd, bytes, len, MSG_NOSIGNAL);
    if (n == -1) return errno == EAGAIN || errno == EINTR ? WIRE_AGAIN : WIRE_FAILED;
    *put = (size_t)n;
    return WIRE_OK;
}

void
wire_close(struct wire *wire)
{
    struct fetcher *fetcher = wire->fetcher;
    if (wire->fetch != NULL) {
        wire->fetch->wire = NULL;
    } else if (!link_is_empty(&wire->link)) {
        link_remove(&wire->link);
        fetcher->idle_count--;
    }
    event_del(&wire->read);
    event_del(&wire->write);
    if (wire->tls != NULL && wire->served > 0) keep_session(wire);
    tls_client_free(wire->tls);
    close(wire->fd);
    if (wire->other != NULL) inner_leave(wire->other);
    fetcher->proxy->fetch_sockets -= wire->sockets;
    accept_resume(fetcher->proxy);
    free(wire);
}
