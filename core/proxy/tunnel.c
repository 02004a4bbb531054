#include <errno.h>
#include <sys/socket.h>

#include "core/proxy/filtering.h"
#include "core/proxy/proxy_internal.h"

enum { TUNNEL_ROUNDS = 8 };

enum side { SIDE_IDLE, SIDE_BLOCKED, SIDE_OVER, SIDE_BROKEN };

/* As recv(2), into a pipe or a buffer of the relay's. */
static ssize_t
read_side(struct relay *relay, struct buf **own, struct proxy *proxy, int source, bool *filled)
{
    if (relay_take_pipe(relay, &proxy->pipes)) return relay_read_pipe(relay, &proxy->pipes, source, filled);
    relay_give_pipe(relay, &proxy->pipes);
    relay->buf = *own = buf_take(&proxy->buffers, relay->read_bytes);
    if (*own == NULL) {
        errno = ENOMEM;
        return -1;
    }
    ssize_t n = recv(source, (*own)->bytes, (*own)->cap, 0);
    if (n <= 0) return n;
    (*own)->end = (uint32_t)n;
    *filled = (size_t)n == (*own)->cap;
    if (*filled) relay->read_bytes = BUF_LARGE - sizeof(struct buf);
    return n;
}

/* One direction until its source is empty or its sink is full; a FIN travels on as a half-close. */
static enum side
pump_side(struct stream *stream, struct relay *relay, struct buf **own, int source, int sink, bool may_read,
    uint64_t *read_bytes, uint64_t *written)
{
    struct proxy *proxy = stream->proxy;
    for (unsigned round = 0; relay->state == RELAY_OPEN || relay->state == RELAY_ENDED; round++) {
        if (!relay_fill(relay, &stream->arena)) return SIDE_BROKEN;
        switch (relay_flush(relay, sink, written)) {
        case PUMP_SINK: return SIDE_BLOCKED;
        case PUMP_SINK_ERROR: return SIDE_BROKEN;
        default: break;
        }
        if (relay->state == RELAY_ENDED) {
            relay->state = RELAY_DONE;
            (void)shutdown(
                sink, SHUT_WR); /* fails only where the peer is gone: the other direction will learn it */
            return SIDE_OVER;
        }
        if (relay->buf != NULL && buf_used(relay->buf) > 0) continue;
        buf_give(&proxy->buffers, own);
        relay->buf = NULL;
        if (!may_read || round >= TUNNEL_ROUNDS) {
            relay_give_pipe(relay, &proxy->pipes);
            return SIDE_IDLE;
        }
        ssize_t n = read_side(relay, own, proxy, source, &may_read);
        if (n > 0) {
            *read_bytes += (uint64_t)n;
        } else if (n == 0) {
            relay_eof(relay);
        } else if (errno == EAGAIN || errno == EINTR) {
            may_read = false;
        } else {
            return SIDE_BROKEN;
        }
    }
    return SIDE_OVER;
}

void
tunnel_pump(struct stream *stream, bool client_readable, bool upstream_readable)
{
    struct conn *conn = stream->conn;
    struct upstream *upstream = stream->upstream;
    struct buf **own = stream->up.buf == stream->in && stream->in != NULL ? &stream->in : &stream->body;
    uint64_t ignored = 0;
    if (client_readable && !relay_is_flushed(&stream->up)) {
        conn_want_read(conn, false);
        client_readable = false;
    }
    if (upstream_readable && !relay_is_flushed(&stream->down)) {
        upstream_want_read(upstream, false);
        upstream_readable = false;
    }
    if (conn->input == INPUT_ENDED)
        client_readable = true; /* its FIN came before the 101: no event tells of it again */
    enum side up = pump_side(
        stream, &stream->up, own, conn->fd, upstream->fd, client_readable, &stream->bytes_in, &stream->sent);
    enum side down = up == SIDE_BROKEN ? SIDE_BROKEN
                                       : pump_side(stream, &stream->down, &stream->back, upstream->fd,
                                             conn->fd, upstream_readable, &ignored, &stream->bytes_out);
    if (up == SIDE_BROKEN || down == SIDE_BROKEN || (up == SIDE_OVER && down == SIDE_OVER)) {
        stream_close(stream, REASON_NONE);
        return;
    }
    upstream_want_write(upstream, up == SIDE_BLOCKED);
    conn_want_write(conn, down == SIDE_BLOCKED);
    if (up == SIDE_IDLE) conn_want_read(conn, true);
    if (up == SIDE_OVER) conn_want_read(conn, false);
    if (down != SIDE_BLOCKED)
        upstream_want_read(upstream, down == SIDE_IDLE);
    else
        client_blocks(stream);
    stream_arm(stream);
}

static bool
write_head(struct stream *stream, struct slice *written)
{
    struct h1_head *answer = &stream->response.head;
    h1_drop_hop_by_hop(&answer->headers);
    struct h1_out out = {.status = 101,
        .headers = &answer->headers,
        .no_framing = true,
        .connection = SLICE_LIT("upgrade"),
        .upgrade = answer->upgrade_protocol};
    size_t bound = h1_head_bound(&out, SLICE_NONE);
    char *text = arena_alloc(&stream->arena, bound);
    if (text == NULL) return false;
    *written = (struct slice){text, h1_write_response(&out, text, bound)};
    return written->len > 0;
}

static bool
keep(struct stream *stream, struct slice *text)
{
    const char *copy = text->len == 0 ? text->at : arena_strdup(&stream->arena, *text);
    if (copy == NULL && text->len > 0) return false;
    text->at = copy;
    return true;
}

/* tunnel_pump gives the head's buffer back, but the log line and on_log at the end still name the request. */
static bool
keep_request(struct stream *stream)
{
    struct slice *kept[] = {&stream->parser.head.method_text, &stream->parser.head.target, &stream->path,
        &stream->query, &stream->host, &stream->request_id, &stream->request.client_ip, &stream->request.path,
        &stream->request.host};
    struct headers *headers = &stream->parser.head.headers;
    for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++) {
        if (!keep(stream, kept[i])) return false;
    }
    for (uint32_t i = 0; i < headers->count; i++) {
        struct header *row = &headers->rows[i];
        bool is_logged = row->id == HEADER_USER_AGENT || row->id == HEADER_REFERER;
        if (is_logged && !keep(stream, &row->value)) return false;
    }
    return true;
}

/* RFC 9110 §7.8: a protocol that the request offered, or the backend switched to what nobody speaks. */
static bool
is_offered(const struct stream *stream)
{
    const struct h1_head *answer = &stream->response.head;
    return answer->upgrade && header_list_has(stream->upgrade_list, answer->upgrade_protocol);
}

/* The backend said 101: what the client sent behind its request goes now, and from here on bytes are bytes.
 */
void
tunnel_begin(struct stream *stream)
{
    struct proxy *proxy = stream->proxy;
    struct slice head;
    if (!keep_request(stream) || !write_head(stream, &head) ||
        !relay_queue(&stream->down, head.at, head.len)) {
        reply_reason(stream, REASON_SHED, 0, NULL);
        return;
    }
    stream->status = 101;
    stream->keep_alive = false;
    relay_begin(&stream->up, BODY_CLOSE, BODY_CLOSE, 0, stream->in);
    relay_begin(&stream->down, BODY_CLOSE, BODY_CLOSE, 0, stream->back);
    if (UNLIKELY(stream->filtering != NULL)) filtering_stop(stream);
    stream_release_generation(stream);
    atomic_store_explicit(&proxy->block->tunnels, ++proxy->tunnels, memory_order_relaxed);
    atomic_fetch_add_explicit(&proxy->totals->tunnels, 1, memory_order_relaxed);
    stream_enter(stream, STREAM_TUNNEL);
    tunnel_pump(stream, false, false);
}

void
tunnel_open(struct stream *stream)
{
    if (stream->up.state != RELAY_DONE || !is_offered(stream)) {
        attempt_fail(stream, REASON_BAD_RESPONSE);
        return;
    }
    attempt_observe(stream, 101, REASON_NONE, &stream->response.head.headers);
    stream->reason = REASON_NONE;
    stream->nudge_us = 0;
    if (UNLIKELY(stream->filtering != NULL)) {
        h1_drop_hop_by_hop(&stream->response.head.headers);
        respond_to_endpoint(stream);
    } else {
        tunnel_begin(stream);
    }
}
