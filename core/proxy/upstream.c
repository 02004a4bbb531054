#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/text.h"
#include "core/proxy/proxy_internal.h"

enum {
    YOUNG_US = 1000000,     /* a request that can't be replayed takes no connection idle for longer */
    TRUST_US = 1000000,     /* nor any in the first second in which an endpoint could close one */
    HASTY_US = 60000000,    /* nor for so long after it closed a young one */
    KEEP_ALIVE_SLACK_S = 1, /* before the moment the backend named: its FIN needs time to arrive */
    ENDPOINT_STEP = 64,
    HOST_SPARE = 16,   /* brackets, port, NUL; or "localhost" */
    BURST_FACTOR = 16, /* of limits.pool_per_endpoint, between two sweeps */
};

/* endpoints */

static void
endpoint_drop_idle(struct endpoint *endpoint)
{
    while (!link_is_empty(&endpoint->idle))
        upstream_close(LINK_OF(endpoint->idle.next, struct upstream, link));
}

static bool
endpoint_set_text(struct endpoint *endpoint, const struct slot_text *text, uint32_t port)
{
    size_t id = strnlen(text->id, SLOT_ID_BYTES - 1), host = strnlen(text->host, SLOT_HOST_BYTES - 1);
    size_t prefix = strnlen(text->path_prefix, SLOT_PATH_BYTES - 1);
    while (prefix > 0 && text->path_prefix[prefix - 1] == '/')
        prefix--;
    char *block = malloc(id + prefix + host + HOST_SPARE);
    if (block == NULL) return false;
    free(endpoint->id);
    endpoint->id = memcpy(block, text->id, id);
    endpoint->id_len = (uint32_t)id;
    endpoint->prefix = memcpy(block + id, text->path_prefix, prefix);
    endpoint->prefix_len = (uint32_t)prefix;
    endpoint->host = block + id + prefix;
    const char *form =
        memchr(text->host, ':', host) != NULL && text->host[0] != '[' ? "[%.*s]:%u" : "%.*s:%u";
    if (text->address.any.sa_family == AF_UNIX) form = "localhost"; /* a path is no host */
    endpoint->host_len = (uint32_t)snprintf(
        endpoint->host, host + HOST_SPARE, form, (int)host, text->host, (unsigned)(port & 0xffff));
    return true;
}

static bool
endpoint_load(struct proxy *proxy, struct endpoint *endpoint, uint32_t slot)
{
    struct slot cold;
    struct slot_text text;
    if (!slot_read(proxy->shm, slot, &cold, &text) || text.address_len > sizeof text.address) return false;
    uint64_t hash = text_hash((struct slice){(const char *)&text.address, text.address_len});
    if (endpoint->incarnation != cold.incarnation || endpoint->address_hash != hash) {
        endpoint_drop_idle(endpoint);
        endpoint->trusted_us = 0; /* another server, of which nothing is known */
    }
    if (!endpoint_set_text(endpoint, &text, cold.port)) return false;
    endpoint->slot = slot;
    endpoint->incarnation = cold.incarnation;
    endpoint->service = cold.service;
    endpoint->text_hash = cold.text_hash;
    endpoint->address_hash = hash;
    endpoint->address_len = text.address_len;
    memcpy(&endpoint->address, &text.address, text.address_len);
    return true;
}

static void
endpoint_free(struct endpoint **given)
{
    struct endpoint *endpoint = *given;
    *given = NULL;
    if (endpoint == NULL) return;
    endpoint_drop_idle(endpoint);
    free(endpoint->id);
    free(endpoint);
}

static bool
endpoints_reserve(struct proxy *proxy, uint32_t slot)
{
    if (slot < proxy->endpoint_cap) return true;
    if (slot_at(proxy->shm, slot) == NULL) return false;
    uint32_t cap = (slot / ENDPOINT_STEP + 1) * ENDPOINT_STEP;
    struct endpoint **grown = realloc(proxy->endpoints, cap * sizeof(*grown));
    if (grown == NULL) return false;
    memset(grown + proxy->endpoint_cap, 0, (cap - proxy->endpoint_cap) * sizeof(*grown));
    proxy->endpoints = grown;
    proxy->endpoint_cap = cap;
    return true;
}

struct endpoint *
endpoint_get(struct proxy *proxy, uint32_t slot)
{
    struct slot cold;
    if (!endpoints_reserve(proxy, slot)) return NULL;
    struct endpoint *endpoint = proxy->endpoints[slot];
    uint64_t version = shm_endpoints_version(proxy->shm);
    if (LIKELY(endpoint != NULL && endpoint->version == version)) return endpoint;
    if (!slot_read(proxy->shm, slot, &cold, NULL)) {
        endpoint_free(&proxy->endpoints[slot]);
        return NULL;
    }
    if (endpoint == NULL) {
        endpoint = calloc(1, sizeof *endpoint);
        if (endpoint == NULL) return NULL;
        link_init(&endpoint->idle);
        proxy->endpoints[slot] = endpoint;
        endpoint->incarnation = cold.incarnation + 1; /* not yet loaded */
    }
    if ((endpoint->incarnation != cold.incarnation || endpoint->text_hash != cold.text_hash) &&
        !endpoint_load(proxy, endpoint, slot)) {
        endpoint_free(&proxy->endpoints[slot]);
        return NULL;
    }
    endpoint->version = version;
    return endpoint;
}

struct endpoint *
endpoint_find(struct proxy *proxy, uint32_t slot, uint32_t incarnation)
{
    if (slot >= proxy->endpoint_cap) return NULL;
    struct endpoint *endpoint = proxy->endpoints[slot];
    return endpoint != NULL && endpoint->incarnation == incarnation ? endpoint : NULL;
}

void
endpoints_check(struct proxy *proxy)
{
    struct slot cold;
    for (uint32_t slot = 0; slot < proxy->endpoint_cap; slot++) {
        struct endpoint *endpoint = proxy->endpoints[slot];
        if (endpoint == NULL) continue;
        if (!slot_read(proxy->shm, slot, &cold, NULL) || cold.state == SLOT_GONE || cold.state == SLOT_FREE) {
            endpoint_drop_idle(
                endpoint); /* the row stays for the log lines of requests still running there */
        } else if (cold.incarnation != endpoint->incarnation) {
            endpoint_free(&proxy->endpoints[slot]);
        } else if (cold.text_hash != endpoint->text_hash) {
            (void)endpoint_get(proxy, slot);
        }
    }
}

void
endpoints_fini(struct proxy *proxy)
{
    for (uint32_t slot = 0; slot < proxy->endpoint_cap; slot++)
        endpoint_free(&proxy->endpoints[slot]);
    free(proxy->endpoints);
    proxy->endpoints = NULL;
    proxy->endpoint_cap = 0;
}

/* connections */

/* RST tells neither that the request was read before it nor that it was not: what the peer's kernel had
 * acknowledged may have been thrown away unread, and TCP_INFO does not count what RST itself acknowledges. So
 * a race lost can't be told from a request that ran (but where FIN came first: unread.c), it can only be
 * stayed out of: 13 of 62,000 POSTs lost it to a backend that closes connections after some random
 * milliseconds. The first close that is seen may be the one that hits a POST; hence TRUST_US, in which
 * requests that can be replayed, and idle connections, find out what the endpoint does. */
void
upstream_note_end(const struct upstream *upstream)
{
    struct proxy *proxy = upstream->proxy;
    struct endpoint *endpoint = endpoint_find(proxy, upstream->slot, upstream->incarnation);
    if (endpoint == NULL || endpoint->address_hash != upstream->address_hash) return; /* of another server */
    if (upstream->served > 0 && upstream->idle_since_us + YOUNG_US > proxy->now_us)
        endpoint->trusted_us = proxy->now_us + HASTY_US;
}

static void
on_upstream_read(evutil_socket_t fd, short what, void *context)
{
    struct upstream *upstream = context;
    struct proxy *proxy = upstream->proxy;
    (void)fd;
    (void)what;
    if (upstream->stream != NULL) PREFETCH(upstream->stream, offsetof(struct stream, up) + 128);
    proxy_enter(proxy);
    switch (upstream->state) {
    case UPSTREAM_IDLE:
        upstream_note_end(upstream);
        upstream_close(upstream);
        break; /* FIN, RST or bytes nobody asked for: of no more use */
    case UPSTREAM_CONNECTING:
    case UPSTREAM_BUSY: attempt_on_readable(upstream->stream); break;
    case UPSTREAM_CLOSED: break;
    }
    proxy_leave(proxy);
}

static void
on_upstream_write(evutil_socket_t fd, short what, void *context)
{
    struct upstream *upstream = context;
    struct proxy *proxy = upstream->proxy;
    (void)fd;
    (void)what;
    proxy_enter(proxy);
    switch (upstream->state) {
    case UPSTREAM_CONNECTING: attempt_on_connected(upstream->stream); break;
    case UPSTREAM_BUSY: attempt_on_writable(upstream->stream); break;
    case UPSTREAM_IDLE:
    case UPSTREAM_CLOSED: upstream_want_write(upstream, false); break;
    }
    proxy_leave(proxy);
}

static void
want(struct event *event, short *registered, short which, bool wanted)
{
    if (wanted == (*registered != 0)) return;
    if (wanted ? event_add(event, NULL) == 0 : event_del(event) == 0) *registered = wanted ? which : 0;
}

void
upstream_want_read(struct upstream *upstream, bool wanted)
{
    want(&upstream->read, &upstream->reading, EV_READ, wanted);
}

void
upstream_want_write(struct upstream *upstream, bool wanted)
{
    want(&upstream->write, &upstream->writing, EV_WRITE, wanted);
}

struct upstream *
upstream_connect(struct proxy *proxy, const struct endpoint *endpoint)
{
    int one = 1, saved;
    struct upstream *upstream = calloc(1, sizeof *upstream);
    if (upstream == NULL) return NULL;
    int fd = socket(endpoint->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd == -1) {
        free(upstream);
        return NULL;
    }
    if (endpoint->address.ss_family != AF_UNIX)
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    upstream->state = UPSTREAM_BUSY;
    if (connect(fd, (const struct sockaddr *)&endpoint->address, endpoint->address_len) == -1) {
        if (errno != EINPROGRESS) goto fail;
        upstream->state = UPSTREAM_CONNECTING;
    }
    upstream->proxy = proxy;
    upstream->fd = fd;
    upstream->slot = endpoint->slot;
    upstream->incarnation = endpoint->incarnation;
    upstream->address_hash = endpoint->address_hash;
    event_assign(&upstream->read, proxy->base, fd, EV_READ | EV_PERSIST, on_upstream_read, upstream);
    event_assign(&upstream->write, proxy->base, fd, EV_WRITE | EV_PERSIST, on_upstream_write, upstream);
    link_init(&upstream->all);
    link_push(&proxy->upstreams, &upstream->link);
    atomic_fetch_add_explicit(&proxy->totals->upstream_connects, 1, memory_order_relaxed);
    return upstream;
fail:
    saved = errno;
    close(fd);
    free(upstream);
    errno = saved;
    return NULL;
}

void
upstream_close(struct upstream *upstream)
{
    struct proxy *proxy = upstream->proxy;
    if (upstream->state == UPSTREAM_CLOSED) return;
    if (upstream->state == UPSTREAM_IDLE) {
        struct endpoint *endpoint = endpoint_find(proxy, upstream->slot, upstream->incarnation);
        if (endpoint != NULL && --endpoint->idle_count < endpoint->idle_low)
            endpoint->idle_low = endpoint->idle_count;
        link_remove(&upstream->all);
    }
    event_del(&upstream->read);
    event_del(&upstream->write);
    upstream->reading = upstream->writing = 0;
    close(upstream->fd);
    upstream->fd = -1;
    upstream->stream = NULL;
    upstream->state = UPSTREAM_CLOSED;
    link_remove(&upstream->link);
    link_push(&proxy->resting_upstreams, &upstream->link);
    accept_resume(proxy);
}

void
upstream_free(struct upstream *upstream)
{
    free(upstream);
}

/* Whether the backend already closed it, or spoke out of turn: asked only for requests that can't be sent
 * twice, and where a body's end was spliced. */
bool
upstream_is_quiet(const struct upstream *upstream)
{
    char byte;
    return recv(upstream->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == -1 &&
           (errno == EAGAIN || errno == EWOULDBLOCK);
}

/* libevent has seen, in the same turn as the request, that there is something to read: an end, or an answer
 * to nobody, which the next client would get for its own. What comes later can't be told from an answer. */
static bool
is_readable(const struct upstream *upstream)
{
    return (upstream->read.ev_evcallback.evcb_flags & EVLIST_ACTIVE) != 0;
}

struct upstream *
upstream_take(struct endpoint *endpoint, uint64_t now_us, bool is_replayable)
{
    while (!link_is_empty(&endpoint->idle)) {
        struct upstream *upstream = LINK_OF(endpoint->idle.next, struct upstream, link);
        if (upstream->idle_until_us <= now_us || upstream->incarnation != endpoint->incarnation ||
            upstream->address_hash != endpoint->address_hash) {
            upstream_close(upstream);
            continue;
        }
        if (UNLIKELY(is_readable(upstream))) {
            upstream_note_end(upstream);
            upstream_close(upstream);
            continue;
        }
        /* Given back in this very callback, to a pipelined request: libevent has not looked at it since. */
        if (UNLIKELY(upstream->idle_since_us == now_us) && !upstream_is_quiet(upstream)) {
            upstream_note_end(upstream);
            upstream_close(upstream);
            continue;
        }
        if (!is_replayable) {
            if (upstream->idle_since_us + YOUNG_US <= now_us || now_us < endpoint->trusted_us)
                return NULL; /* the youngest: the rest are older */
            if (!upstream_is_quiet(upstream)) {
                upstream_note_end(upstream);
                upstream_close(upstream);
                continue;
            }
        }
        if (--endpoint->idle_count < endpoint->idle_low) endpoint->idle_low = endpoint->idle_count;
        link_remove(&upstream->all);
        link_remove(&upstream->link);
        link_push(&upstream->proxy->upstreams, &upstream->link);
        upstream->state = UPSTREAM_BUSY;
        return upstream;
    }
    return NULL;
}

uint64_t
upstream_idle_us(uint64_t configured_us, uint32_t keep_alive_s)
{
    if (keep_alive_s == 0) return configured_us;
    if (keep_alive_s <= KEEP_ALIVE_SLACK_S) return 0;
    uint64_t said_us = (uint64_t)(keep_alive_s - KEEP_ALIVE_SLACK_S) * 1000000;
    return configured_us == 0 || said_us < configured_us ? said_us : configured_us;
}

void
upstream_give(struct upstream **given, uint64_t idle_us)
{
    struct upstream *upstream = *given;
    struct proxy *proxy = upstream->proxy;
    struct endpoint *endpoint = endpoint_find(proxy, upstream->slot, upstream->incarnation);
    *given = NULL;
    if (endpoint == NULL || endpoint->address_hash != upstream->address_hash || idle_us == 0 ||
        proxy->drain != DRAIN_NO ||
        endpoint->idle_count >=
            (uint64_t)proxy->generation->config->limits.pool_per_endpoint * BURST_FACTOR) {
        upstream_close(upstream);
        return;
    }
    upstream->stream = NULL;
    upstream->served++;
    upstream->state = UPSTREAM_IDLE;
    upstream->idle_since_us = proxy->now_us;
    upstream->idle_until_us = proxy->now_us + idle_us;
    if (UNLIKELY(endpoint->trusted_us == 0)) endpoint->trusted_us = proxy->now_us + TRUST_US;
    endpoint->idle_count++;
    link_remove(&upstream->link);
    link_push(&endpoint->idle, &upstream->link);
    link_push(&proxy->idle_upstreams, &upstream->all);
    upstream_want_write(upstream, false);
    upstream_want_read(upstream, true);
}

/* The limit holds for connections that nobody needed since the last sweep: a busy endpoint's come back in
 * bursts, a loop turn's answers at once, and to close what passes the limit only to connect again a moment
 * later cost a connection for three requests of four at 512 clients. */
static void
trim(struct proxy *proxy, struct endpoint *endpoint)
{
    unsigned limit = proxy->generation->config->limits.pool_per_endpoint;
    unsigned surplus = endpoint->idle_low > limit ? endpoint->idle_low - limit : 0;
    while (surplus-- > 0 && !link_is_empty(&endpoint->idle))
        upstream_close(LINK_OF(endpoint->idle.prev, struct upstream, link));
    endpoint->idle_low = endpoint->idle_count;
}

void
upstream_sweep(struct proxy *proxy)
{
    for (struct link *at = proxy->idle_upstreams.prev, *before; at != &proxy->idle_upstreams; at = before) {
        struct upstream *upstream = LINK_OF(at, struct upstream, all);
        before = at->prev;
        if (upstream->idle_until_us <= proxy->now_us) upstream_close(upstream);
    }
    for (uint32_t slot = 0; slot < proxy->endpoint_cap && proxy->generation != NULL; slot++) {
        if (proxy->endpoints[slot] != NULL) trim(proxy, proxy->endpoints[slot]);
    }
}
