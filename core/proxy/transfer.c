#include <errno.h>
#include <sys/socket.h>

#include "core/proxy/filtering.h"
#include "core/proxy/proxy_internal.h"

/* the request body */

static enum body_read
splice_body(struct stream *stream)
{
    bool filled = false;
    ssize_t n = relay_read_pipe(&stream->up, &stream->proxy->pipes, stream->conn->fd, &filled);
    if (n > 0) {
        stream->bytes_in += (uint64_t)n;
        return filled ? BODY_READ_ALL : BODY_READ;
    }
    if (n == -1 && (errno == EAGAIN || errno == EINTR)) return BODY_AGAIN;
    stream_client_gone(stream);
    return BODY_FAILED;
}

/* More of the body: behind the head as long as there is room, since what lies there can be sent again. */
static enum body_read
read_body(struct stream *stream)
{
    struct relay *up = &stream->up;
    struct buf_pool *pool = &stream->proxy->buffers;
    if (up->buf == stream->in && stream->in->end == stream->in->cap) {
        stream->kept = BODY_GONE;
        up->buf = NULL;
        up->read_bytes = BUF_LARGE - sizeof(struct buf);
    }
    if (up->buf == NULL && relay_take_pipe(up, &stream->proxy->pipes)) return splice_body(stream);
    if (up->buf == NULL) up->buf = stream->body = buf_take(pool, up->read_bytes);
    if (up->buf == NULL) {
        stream_close(stream, REASON_SHED);
        return BODY_FAILED;
    }
    if (up->buf != stream->in) {
        stream->kept = BODY_GONE;
        up->buf->at = up->buf->end = 0;
    }
    size_t room = up->buf->cap - up->buf->end;
    ssize_t n = recv(stream->conn->fd, up->buf->bytes + up->buf->end, room, 0);
    if (n > 0) {
        up->buf->end += (uint32_t)n;
        stream->bytes_in += (uint64_t)n;
        return (size_t)n == room ? BODY_READ_ALL : BODY_READ;
    }
    if (n == -1 && (errno == EAGAIN || errno == EINTR)) return BODY_AGAIN;
    stream_client_gone(stream);
    return BODY_FAILED;
}

static void
wait_for_body(struct stream *stream)
{
    if (stream->body != NULL && stream->up.buf == stream->body) {
        stream->kept = BODY_GONE;
        buf_give(&stream->proxy->buffers, &stream->body);
        stream->up.buf = NULL;
    }
    relay_give_pipe(&stream->up, &stream->proxy->pipes);
    if (stream->conn->input == INPUT_ENDED) { /* its FIN came while we connected: the rest never will */
        stream_client_gone(stream);
        return;
    }
    conn_want_read(stream->conn, true);
    body_waits(stream);
    stream_arm(stream);
}

void
stream_body_broken(struct stream *stream)
{
    enum h1_error error = stream->up.chunked.error;
    stream->up.state = RELAY_DROPPED;
    atomic_fetch_add_explicit(&stream->proxy->totals->bad_requests, 1, memory_order_relaxed);
    if (stream->state == STREAM_WAIT || stream->state == STREAM_FILTER) {
        reply_reason(stream, error == H1_BODY_TOO_LARGE ? REASON_LIMIT : REASON_BAD_REQUEST,
            h1_error_status(error), h1_error_text(error));
    } else {
        stream_close(stream, REASON_BAD_REQUEST);
    }
}

/* The backend takes no more. It may have answered already and closed: its answer, if any, is read first. What
 * send(2) has told of a RST recv(2) does not tell again: it says 0 then, as after FIN. EPIPE is the RST that
 * came after a FIN, which is the end that counts. */
static void
body_unwanted(struct stream *stream)
{
    stream->was_reset = errno != EPIPE;
    if (stream->state == STREAM_WAIT && stream->sent == 0) {
        attempt_fail(stream, REASON_RESET_BEFORE_HEADERS);
        return;
    }
    stream->up.state = RELAY_DROPPED;
    upstream_want_write(stream->upstream, false);
    upstream_want_read(stream->upstream, true);
}

void
stream_pump_up(struct stream *stream, bool may_read)
{
    struct relay *up = &stream->up;
    for (unsigned round = 0; up->state == RELAY_OPEN || up->state == RELAY_ENDED;) {
        if (!relay_fill(up, &stream->arena)) {
            stream_body_broken(stream);
            return;
        }
        switch (relay_flush(up, stream->upstream->fd, &stream->sent)) {
        case PUMP_SINK:
            upstream_want_write(stream->upstream, true);
            stream_arm(stream);
            return;
        case PUMP_SINK_ERROR: body_unwanted(stream); return;
        default: break;
        }
        if (up->state == RELAY_ENDED) {
            up->state = RELAY_DONE;
            stream_calm(stream);
            upstream_want_write(stream->upstream, false);
            stream_arm(stream);
            return;
        }
        if (up->buf != NULL && buf_used(up->buf) > 0) continue;
        upstream_want_write(stream->upstream, false);
        if (!may_read || round++ == READ_ROUNDS) {
            wait_for_body(stream);
            return;
        }
        switch (read_body(stream)) {
        case BODY_READ_ALL: break;
        case BODY_READ: may_read = false; break;
        case BODY_AGAIN: wait_for_body(stream); return;
        case BODY_FAILED: return;
        }
        stream->nudge_us = 0; /* the body comes: nobody waits for 100 Continue */
        body_moves(stream);
    }
}

/* the response body */

void
stream_cut(struct stream *stream, enum reason reason)
{
    attempt_failed(stream);
    stream_close(stream, reason);
}

static enum body_read
read_back_ended(struct stream *stream, struct relay *relay, ssize_t n)
{
    if (n == -1 && (errno == EAGAIN || errno == EINTR)) return BODY_AGAIN;
    if (n == 0 && relay->from == BODY_CLOSE && !stream->was_reset) {
        relay_eof(relay);
        return BODY_READ;
    }
    stream_cut(stream, REASON_RESET_AFTER_HEADERS);
    return BODY_FAILED;
}

static enum body_read
splice_back(struct stream *stream)
{
    bool filled = false;
    stream->down.buf = NULL;
    buf_give(&stream->proxy->buffers, &stream->back);
    ssize_t n = relay_read_pipe(&stream->down, &stream->proxy->pipes, stream->upstream->fd, &filled);
    if (n <= 0) return read_back_ended(stream, &stream->down, n);
    return filled ? BODY_READ_ALL : BODY_READ;
}

enum body_read
stream_read_back(struct stream *stream, struct relay *down)
{
    struct buf_pool *pool = &stream->proxy->buffers;
    if (LIKELY(down == &stream->down)) {
        if (relay_take_pipe(down, &stream->proxy->pipes)) return splice_back(stream);
        relay_give_pipe(down, &stream->proxy->pipes);
    }
    if (stream->back != NULL && stream->back->cap < down->read_bytes) buf_give(pool, &stream->back);
    if (stream->back == NULL) stream->back = buf_take(pool, down->read_bytes);
    down->buf = stream->back;
    if (stream->back == NULL) {
        stream_close(stream, REASON_SHED);
        return BODY_FAILED;
    }
    stream->back->at = stream->back->end = 0;
    ssize_t n = recv(stream->upstream->fd, stream->back->bytes, stream->back->cap, 0);
    if (n <= 0) return read_back_ended(stream, down, n);
    stream->back->end = (uint32_t)n;
    if ((size_t)n < stream->back->cap) return BODY_READ;
    down->read_bytes = BUF_LARGE - sizeof(struct buf);
    return BODY_READ_ALL;
}

void
stream_wait_for_back(struct stream *stream)
{
    buf_give(&stream->proxy->buffers, &stream->back);
    relay_give_pipe(&stream->down, &stream->proxy->pipes);
    stream->down.buf = NULL;
    upstream_want_read(stream->upstream, true);
    stream_arm(stream);
}

void
stream_look_behind(struct stream *stream, const struct relay *relay)
{
    /* A buffer that was not filled would have shown it. */
    bool is_seen = relay->pipe == NULL && (relay->buf == NULL || relay->buf->end < relay->buf->cap);
    if (UNLIKELY(!is_seen) && !upstream_is_quiet(stream->upstream)) stream->response.head.keep_alive = false;
}

void
stream_pump_down(struct stream *stream, bool may_read)
{
    struct relay *down = &stream->down;
    if (UNLIKELY(stream->filtering != NULL) && stream->filtering->transform != NULL &&
        stream->state == STREAM_REPLY) {
        transform_pump(stream, may_read);
        return;
    }
    for (unsigned round = 0; down->state == RELAY_OPEN || down->state == RELAY_ENDED;) {
        if (!relay_fill(down, &stream->arena)) {
            (void)relay_flush(down, stream->conn->fd, &stream->bytes_out); /* what was sound before it */
            stream_cut(stream, REASON_BAD_RESPONSE);
            return;
        }
        switch (relay_flush(down, stream->conn->fd, &stream->bytes_out)) {
        case PUMP_SINK:
            conn_want_write(stream->conn, true);
            client_blocks(stream);
            stream_arm(stream);
            return;
        case PUMP_SINK_ERROR: stream_client_gone(stream); return;
        default: break;
        }
        if (down->state == RELAY_ENDED) {
            down->state = RELAY_DONE;
            stream_look_behind(stream, down);
            stream_close(stream, REASON_NONE);
            return;
        }
        if (down->buf != NULL && buf_used(down->buf) > 0) continue;
        conn_want_write(stream->conn, false);
        if (!may_read || round++ == READ_ROUNDS) {
            stream_wait_for_back(stream);
            return;
        }
        switch (stream_read_back(stream, down)) {
        case BODY_READ_ALL: break;
        case BODY_READ: may_read = false; break;
        case BODY_AGAIN: stream_wait_for_back(stream); return;
        case BODY_FAILED: return;
        }
    }
}
