#include "core/proxy/fetch.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/net/listener.h"
#include "core/proxy/fetch_internal.h"

static void connect_next(struct fetch *fetch);

/* words */

void
fetch_peer(const struct fetch *fetch, char out[200])
{
    const struct fetch_url *url = &fetch->url;
    char address[128];
    if (url->scheme == FETCH_SERVICE) {
        snprintf(out, 200, "service %.*s", (int)url->host.len, url->host.at);
        return;
    }
    unsigned at = fetch->address_at > 0 ? fetch->address_at - 1 : 0;
    if (fetch->address_count == 0) {
        snprintf(out, 200, "%.*s", (int)url->authority.len, url->authority.at);
        return;
    }
    address_format(&fetch->addresses[at].any, address, sizeof address, true);
    if (slice_starts_with(url->host, SLICE_LIT("localhost")) || memchr(url->host.at, ':', url->host.len) ||
        slice_starts_with(slice_of(address), url->host))
        snprintf(out, 200, "%s", address);
    else
        snprintf(out, 200, "%.*s (%s)", (int)url->authority.len, url->authority.at, address);
}

void
fetch_end(struct fetch *fetch, enum reason failure, const char *detail, ...)
{
    va_list args;
    if (fetch->state == FETCH_ENDED) return;
    fetch->state = FETCH_ENDED;
    fetch->failure = failure;
    if (detail != NULL) {
        va_start(args, detail);
        vsnprintf(fetch->detail, sizeof fetch->detail, detail, args);
        va_end(args);
    }
    if (fetch->lookup != NULL) resolve_cancel(fetch);
    if (fetch->wire != NULL) wire_close(fetch->wire);
    event_active(&fetch->timer, EV_TIMEOUT, 0);
}

/* time */

static void
arm(struct fetch *fetch)
{
    uint64_t now_us = fetch->fetcher->proxy->now_us, end_us = fetch->due_us;
    if (fetch->state == FETCH_CONNECT && fetch->try_due_us < end_us) end_us = fetch->try_due_us;
    uint64_t in_us = end_us > now_us ? end_us - now_us : 0;
    struct timeval tv = {(time_t)(in_us / 1000000), (suseconds_t)(in_us % 1000000)};
    if (event_add(&fetch->timer, &tv) == -1) fetch_end(fetch, REASON_SHED, "out of memory");
}

/* What it waited for, of a request that is a stream of ours: as the log will say it. */
static enum reason
service_timeout(const struct fetch *fetch)
{
    const struct inner *inner = fetch->wire == NULL ? NULL : fetch->wire->other;
    if (inner == NULL || inner->conn.stream == NULL) return REASON_RESPONSE_TIMEOUT;
    switch (inner->conn.stream->state) {
    case STREAM_QUEUED: return REASON_QUEUE_TIMEOUT;
    case STREAM_CONNECT: return REASON_CONNECT_TIMEOUT;
    default: return REASON_RESPONSE_TIMEOUT;
    }
}

static void
on_timeout(struct fetch *fetch)
{
    char peer[200];
    unsigned long long ms = (fetch->timeout_us + 999) / 1000;
    fetch_peer(fetch, peer);
    switch (fetch->state) {
    case FETCH_RESOLVE:
        fetch_end(fetch, REASON_CONNECT_TIMEOUT, "%s was not resolved within %llu ms", peer, ms);
        return;
    case FETCH_CONNECT:
        fetch_end(fetch, REASON_CONNECT_TIMEOUT, "%s did not accept the connection within %llu ms", peer, ms);
        return;
    case FETCH_HANDSHAKE:
        fetch_end(fetch, REASON_CONNECT_TIMEOUT, "%s did not end its TLS handshake within %llu ms", peer, ms);
        return;
    case FETCH_EXCHANGE:
        fetch_end(fetch, service_timeout(fetch), "%s did not answer within %llu ms", peer, ms);
        return;
    case FETCH_ENDED: return;
    }
}

/* life */

static void
fetch_free(struct fetch *fetch)
{
    if (fetch->lookup != NULL) resolve_cancel(fetch);
    if (fetch->wire != NULL) wire_close(fetch->wire);
    event_del(&fetch->timer);
    link_remove(&fetch->link);
    fetch->fetcher->count--;
    fetch->fetcher->held -= fetch->held;
    strbuf_fini(&fetch->out);
    strbuf_fini(&fetch->body);
    arena_fini(&fetch->arena);
    free(fetch->in);
    free(fetch->text);
    free(fetch);
}

static void
report(struct fetch *fetch)
{
    struct fetch_answer answer = {.failure = fetch->failure, .detail = fetch->detail};
    if (fetch->failure == REASON_NONE) {
        answer.status = fetch->parser.head.status;
        answer.headers = &fetch->parser.head.headers;
        answer.body = strbuf_slice(&fetch->body);
    }
    fetch->is_reporting = true;
    fetch->done(fetch->task, &answer);
    fetch_free(fetch);
}

static void
on_timer(evutil_socket_t fd, short what, void *context)
{
    struct fetch *fetch = context;
    struct proxy *proxy = fetch->fetcher->proxy;
    (void)fd;
    (void)what;
    proxy_enter(proxy);
    if (fetch->state == FETCH_ENDED)
        report(fetch);
    else if (proxy->now_us >= fetch->due_us)
        on_timeout(fetch);
    else if (fetch->state == FETCH_CONNECT && proxy->now_us >= fetch->try_due_us)
        connect_next(fetch);
    else
        arm(fetch);
    proxy_leave(proxy);
}

void
fetch_cancel(struct fetch *fetch)
{
    if (!fetch->is_reporting) fetch_free(fetch);
}

struct fetcher *
fetcher_get(struct proxy *proxy)
{
    if (proxy->fetcher != NULL) return proxy->fetcher;
    struct fetcher *fetcher = calloc(1, sizeof *fetcher);
    if (fetcher == NULL) return NULL;
    fetcher->proxy = proxy;
    link_init(&fetcher->fetches);
    link_init(&fetcher->idle);
    proxy->fetcher = fetcher;
    return fetcher;
}

void
fetcher_close_idle(struct fetcher *fetcher)
{
    while (!link_is_empty(&fetcher->idle))
        wire_close(LINK_OF(fetcher->idle.next, struct wire, link));
}

bool
fetcher_reclaim(struct fetcher *fetcher)
{
    if (link_is_empty(&fetcher->idle)) return false;
    wire_close(LINK_OF(fetcher->idle.prev, struct wire, link));
    return true;
}

void
fetcher_free(struct fetcher *fetcher)
{
    if (fetcher == NULL) return;
    while (!link_is_empty(&fetcher->fetches))
        fetch_free(LINK_OF(fetcher->fetches.next, struct fetch, link));
    fetcher_close_idle(fetcher);
    resolver_free(fetcher->resolver);
    for (unsigned i = 0; i < FETCH_SESSIONS; i++)
        tls_session_free(fetcher->sessions[i].session);
    tls_trust_free(fetcher->trust);
    free(fetcher);
}

/* connections */

static void
send_more(struct fetch *fetch)
{
    struct wire *wire = fetch->wire;
    while (fetch->sent < fetch->out.len && !fetch->is_send_broken) {
        size_t n = 0;
        switch (wire_write(wire, fetch->out.at + fetch->sent, fetch->out.len - fetch->sent, &n)) {
        case WIRE_OK: fetch->sent += n; break;
        case WIRE_AGAIN: wire_want_write(wire, true); return;
        case WIRE_END:
        case WIRE_FAILED: /* it may have answered before: the read side tells */
            fetch->is_send_broken = true;
            event_active(&wire->read, EV_READ, 0);
            break;
        }
    }
    wire_want_write(wire, false);
}

static void
begin_exchange(struct fetch *fetch)
{
    fetch->state = FETCH_EXCHANGE;
    fetch_read_init(fetch);
    send_more(fetch);
}

static void
shake_hands(struct fetch *fetch)
{
    char peer[200];
    switch (wire_handshake(fetch->wire)) {
    case WIRE_OK:
        wire_want_write(fetch->wire, false);
        begin_exchange(fetch);
        return;
    case WIRE_AGAIN: return;
    case WIRE_END:
    case WIRE_FAILED:
        fetch_peer(fetch, peer);
        fetch_end(fetch, REASON_TLS_ERROR, "%s failed the TLS handshake: %s", peer,
            tls_client_problem(fetch->wire->tls));
        return;
    }
}

static void
on_connected(struct fetch *fetch)
{
    if (fetch->url.scheme != FETCH_HTTPS) {
        begin_exchange(fetch);
        return;
    }
    fetch->state = FETCH_HANDSHAKE;
    wire_want_write(fetch->wire, false);
    if (wire_secure(fetch->wire))
        shake_hands(fetch);
    else
        fetch_end(fetch, REASON_SHED, "out of memory");
}

static void
refused(struct fetch *fetch, int error)
{
    char peer[200];
    bool is_ours =
        error == EMFILE || error == ENFILE || error == ENOMEM || error == ENOBUFS || error == EADDRNOTAVAIL;
    fetch_peer(fetch, peer);
    if (is_ours)
        fetch_end(fetch, REASON_SHED, "no socket could be had for %s: %s", peer, strerror(error));
    else if (error == ECONNREFUSED)
        fetch_end(fetch, REASON_CONNECT_REFUSED, "connect refused by %s", peer);
    else if (error == ETIMEDOUT)
        fetch_end(fetch, REASON_CONNECT_TIMEOUT, "%s did not accept the connection", peer);
    else
        fetch_end(fetch, REASON_CONNECT_REFUSED, "connect to %s: %s", peer, strerror(error));
}

/* Each address has its share of the time that is left, so that one that swallows packets does not cost the
 * others theirs. */
static void
connect_next(struct fetch *fetch)
{
    uint64_t now_us = fetch->fetcher->proxy->now_us;
    int error = ETIMEDOUT;
    if (fetch->wire != NULL) wire_close(fetch->wire);
    while (fetch->address_at < fetch->address_count) {
        unsigned left = fetch->address_count - fetch->address_at;
        const struct fetch_address *address = &fetch->addresses[fetch->address_at++];
        if (wire_open(fetch, address) == NULL) {
            error = errno;
            continue;
        }
        fetch->state = FETCH_CONNECT;
        fetch->try_due_us = now_us + (fetch->due_us > now_us ? (fetch->due_us - now_us) / left : 0);
        wire_want_write(fetch->wire, true);
        arm(fetch);
        return;
    }
    refused(fetch, error);
}

static void
on_connect_event(struct fetch *fetch)
{
    int error = 0;
    socklen_t len = sizeof error;
    if (getsockopt(fetch->wire->fd, SOL_SOCKET, SO_ERROR, &error, &len) == -1) error = errno;
    if (error == 0) {
        struct sockaddr_storage peer;
        len = sizeof peer;
        if (getpeername(fetch->wire->fd, (struct sockaddr *)&peer, &len) == 0) on_connected(fetch);
        return; /* not yet */
    }
    if (fetch->address_at < fetch->address_count)
        connect_next(fetch);
    else
        refused(fetch, error);
}

void
fetch_on_addresses(struct fetch *fetch)
{
    fetch->address_at = 0;
    connect_next(fetch);
}

static void
use_wire(struct fetch *fetch, struct wire *wire)
{
    fetch->is_pooled = wire->served > 0;
    fetch->wire = wire;
    wire->fetch = fetch;
    wire->inner = REASON_NONE;
    if (wire->other != NULL) wire->other->service_id = fetch->service_id;
    begin_exchange(fetch);
}

static void
start_fresh(struct fetch *fetch)
{
    fetch->is_pooled = false;
    fetch->state = FETCH_RESOLVE;
    if (fetch->url.scheme == FETCH_SERVICE) {
        struct wire *wire = wire_open(fetch, NULL);
        if (wire == NULL)
            refused(fetch, errno);
        else
            use_wire(fetch, wire);
        return;
    }
    fetch->address_count = 0;
    switch (resolve(fetch)) {
    case RESOLVED: fetch_on_addresses(fetch); return;
    case RESOLVE_WAITS: return;
    case RESOLVE_NONE: fetch_end(fetch, REASON_NO_ENDPOINTS, NULL); return;
    case RESOLVE_FAILED: fetch_end(fetch, REASON_SHED, NULL); return;
    }
}

static void
start(struct fetch *fetch)
{
    struct wire *wire = wire_take(fetch->fetcher, &fetch->url, fetch->is_idempotent);
    if (wire != NULL)
        use_wire(fetch, wire);
    else
        start_fresh(fetch);
}

/* Whether the request that went out may have been executed. A stream of ours that ends without an answer says
 * why; where nothing was said there was none, and where something was, retries are over. */
static bool
is_unread(const struct fetch *fetch, bool has_fin)
{
    const struct wire *wire = fetch->wire;
    if (fetch->url.scheme == FETCH_SERVICE) return wire->inner == REASON_NONE;
    if (fetch->is_idempotent || fetch->sent == 0) return true;
    return has_fin && fetch->url.scheme == FETCH_HTTP && socket_is_unread(wire->fd, wire->written);
}

/* The peer was closing the pooled connection while the request was on its way. */
static bool
replay(struct fetch *fetch, bool has_fin)
{
    if (!fetch->is_pooled || fetch->was_replayed || fetch->in_len > 0 || fetch->has_head) return false;
    if (!is_unread(fetch, has_fin)) return false;
    fetch->was_replayed = true;
    fetch->is_send_broken = false;
    fetch->sent = 0;
    wire_close(fetch->wire);
    start_fresh(fetch);
    return true;
}

static void
read_more(struct fetch *fetch)
{
    for (unsigned round = 0; round < FETCH_ROUNDS; round++) {
        char *at;
        size_t n = 0, room = fetch_room(fetch, &at);
        if (room == 0) return;
        switch (wire_read(fetch->wire, at, room, &n)) {
        case WIRE_OK: break;
        case WIRE_AGAIN:
            if (!fetch->is_send_broken) return; /* else nothing was left to read, and nothing will come */
            if (!replay(fetch, false)) fetch_on_eof(fetch, false);
            return;
        case WIRE_END:
            if (!replay(fetch, !fetch->is_send_broken)) fetch_on_eof(fetch, true);
            return;
        case WIRE_FAILED:
            if (!replay(fetch, false)) fetch_on_eof(fetch, false);
            return;
        }
        fetch->is_filled = n == room;
        if (!fetch_take(fetch, n)) return;
    }
    wire_again(fetch->wire);
}

void
fetch_on_readable(struct fetch *fetch)
{
    switch (fetch->state) {
    case FETCH_CONNECT: on_connect_event(fetch); return; /* an error is readable too */
    case FETCH_HANDSHAKE: shake_hands(fetch); return;
    case FETCH_EXCHANGE: read_more(fetch); return;
    case FETCH_RESOLVE:
    case FETCH_ENDED: return;
    }
}

void
fetch_on_writable(struct fetch *fetch)
{
    switch (fetch->state) {
    case FETCH_CONNECT: on_connect_event(fetch); return;
    case FETCH_HANDSHAKE: shake_hands(fetch); return;
    case FETCH_EXCHANGE:
        send_more(fetch);
        if (fetch->wire != NULL && fetch->wire->tls != NULL) read_more(fetch); /* it may be what waited */
        return;
    case FETCH_RESOLVE:
    case FETCH_ENDED: return;
    }
}

/* beginning */

static bool
find_service(struct fetch *fetch, enum reason *failure, const char **detail)
{
    const struct generation *generation = fetch->fetcher->proxy->generation;
    uint32_t service;
    if (route_find_service(generation->routes, fetch->url.host, &service)) {
        fetch->service_id = route_service_id(generation->routes, service);
        return true;
    }
    *failure = REASON_NO_ROUTE;
    snprintf(fetch->fetcher->detail, FETCH_DETAIL, "there is no service %.*s",
        (int)(fetch->url.host.len < 200 ? fetch->url.host.len : 200), fetch->url.host.at);
    *detail = fetch->fetcher->detail;
    return false;
}

static bool
prepare(struct fetch *fetch, const struct fetch_request *request, enum reason *failure, const char **detail)
{
    struct fetcher *fetcher = fetch->fetcher;
    *failure = REASON_BAD_REQUEST;
    *detail = fetch_url_parse(slice_of(fetch->text), &fetch->url);
    if (*detail != NULL) return false;
    if (fetch->url.scheme == FETCH_SERVICE && !find_service(fetch, failure, detail)) return false;
    if (!fetch_write_request(fetch, request, failure, detail)) return false;
    *failure = REASON_SHED;
    *detail = "the fetches of this worker hold too much memory";
    fetch->held = fetch->out.len;
    if (fetcher->held + fetch->held <= FETCH_HELD_MAX) {
        fetcher->held += fetch->held;
        return true;
    }
    fetch->held = 0;
    return false;
}

static struct fetch *
fetch_new(struct fetcher *fetcher, struct slice url)
{
    struct fetch *fetch = calloc(1, sizeof *fetch);
    char *text = fetch == NULL ? NULL : slice_dup(url);
    if (text == NULL) {
        free(fetch);
        return NULL;
    }
    fetch->text = text;
    fetch->fetcher = fetcher;
    link_init(&fetch->waiting);
    link_init(&fetch->link);
    link_push(&fetcher->fetches, &fetch->link);
    fetcher->count++;
    event_assign(&fetch->timer, fetcher->proxy->base, -1, 0, on_timer, fetch);
    return fetch;
}

struct fetch *
fetch_start(struct proxy *proxy, const struct fetch_request *request,
    void (*done)(void *task, const struct fetch_answer *answer), void *task, enum reason *failure,
    const char **detail)
{
    struct fetcher *fetcher = proxy->generation == NULL ? NULL : fetcher_get(proxy);
    *failure = REASON_SHED;
    *detail = "out of memory";
    if (fetcher == NULL) return NULL;
    *detail = "too many fetches are under way in this worker";
    if (fetcher->count >= FETCHES_MAX) return NULL;
    *failure = REASON_BAD_REQUEST;
    *detail = "the URL is too long or holds a NUL";
    if (request->url.len > FETCH_URL_BYTES || memchr(request->url.at, '\0', request->url.len) != NULL)
        return NULL;
    *failure = REASON_SHED;
    *detail = "out of memory";
    struct fetch *fetch = fetch_new(fetcher, request->url);
    if (fetch == NULL) return NULL;
    if (!prepare(fetch, request, failure, detail)) {
        fetch_free(fetch);
        return NULL;
    }
    fetch->done = done;
    fetch->task = task;
    fetch->max_body = request->max_body;
    fetch->timeout_us = request->timeout_us;
    fetch->due_us = __builtin_add_overflow(proxy->now_us, request->timeout_us, &fetch->due_us)
                        ? UINT64_MAX / 2
                        : fetch->due_us;
    arm(fetch);
    if (fetch->state != FETCH_ENDED) start(fetch);
    return fetch;
}
