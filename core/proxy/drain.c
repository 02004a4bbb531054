#include <sys/socket.h>

#include "core/proxy/proxy_internal.h"

/* A request that came just now is not lost: it is answered with Connection: close. */
static bool
has_bytes(const struct conn *conn)
{
    char byte;
    return recv(conn->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 1;
}

/* A client that asks again and again has its next request on the way, and one that finds its connection
 * closed may not send that elsewhere (a POST): it is told by Connection: close. */
static bool
is_lively(const struct proxy *proxy, const struct conn *conn)
{
    uint64_t keepalive_us = proxy->generation->config->timeouts.keepalive;
    return conn->deadline.due_us != UINT64_MAX &&
           conn->deadline.due_us + DRAIN_FRESH_US > proxy->now_us + keepalive_us;
}

static void
close_idle(struct proxy *proxy)
{
    for (struct link *at = proxy->idle_conns.next, *next; at != &proxy->idle_conns; at = next) {
        struct conn *conn = LINK_OF(at, struct conn, link);
        next = at->next;
        if (conn->requests == 0 || is_lively(proxy, conn) || has_bytes(conn))
            deadline_set(proxy, &conn->deadline, proxy->now_us + DRAIN_FRESH_US);
        else {
            conn->why = SHM_CLOSE_DRAINING;
            conn_close(conn);
        }
    }
}

static void
close_idle_upstreams(struct proxy *proxy)
{
    while (!link_is_empty(&proxy->idle_upstreams))
        upstream_close(LINK_OF(proxy->idle_upstreams.next, struct upstream, all));
}

static void
end_late(struct stream *stream)
{
    switch (stream->state) {
    case STREAM_HEAD:
    case STREAM_FILTER:
    case STREAM_JUDGE:
    case STREAM_QUEUED:
    case STREAM_BACKOFF:
    case STREAM_CONNECT:
    case STREAM_WAIT: reply_reason(stream, REASON_DRAINING, 0, NULL); return;
    case STREAM_REPLY:
    case STREAM_ANSWER:
    case STREAM_TUNNEL:
    case STREAM_CLOSED: stream_close(stream, REASON_DRAINING); return;
    }
}

/* Ends what passed its limit; true where some may still run. */
static bool
cut_late(struct proxy *proxy)
{
    for (struct link *at = proxy->streams.next, *next; at != &proxy->streams; at = next) {
        struct stream *stream = LINK_OF(at, struct stream, link);
        uint64_t end_us = stream->state == STREAM_TUNNEL ? proxy->drain_tunnels_us : proxy->drain_requests_us;
        next = at->next;
        if (proxy->now_us >= end_us) end_late(stream);
    }
    if (proxy->now_us < proxy->drain_requests_us)
        return !link_is_empty(&proxy->streams) || !link_is_empty(&proxy->idle_conns);
    return !link_is_empty(&proxy->streams);
}

void
drain_check(struct proxy *proxy)
{
    if (proxy->drain != DRAIN_RUNNING || cut_late(proxy) || !link_is_empty(&proxy->lingering)) return;
    proxy->drain = DRAIN_DONE;
    proxy->drain_done(proxy->drain_context);
}

void
proxy_drain(struct proxy *proxy, uint64_t requests_us, uint64_t tunnels_us, void (*done)(void *context),
    void *context)
{
    if (proxy->drain != DRAIN_NO) return;
    proxy_enter(proxy);
    accept_stop(proxy); /* while accepting is still allowed: the queue's clients are served */
    proxy->drain = DRAIN_RUNNING;
    proxy->drain_done = done;
    proxy->drain_context = context;
    proxy->drain_requests_us = proxy->now_us + requests_us;
    proxy->drain_tunnels_us = proxy->now_us + tunnels_us;
    atomic_store_explicit(&proxy->block->draining, 1, memory_order_relaxed);
    close_idle(proxy);
    close_idle_upstreams(proxy);
    if (proxy->fetcher != NULL) fetcher_close_idle(proxy->fetcher);
    proxy_leave(proxy); /* also looks whether that was all; the sweep asks again */
}
