#include <errno.h>
#include <sys/socket.h>

#include "core/proxy/filtering.h"

enum { GROWTH_LEAST = 16384 };

/* collecting */

static bool
reserve(struct stream *stream, size_t more)
{
    struct filtering *filtering = stream->filtering;
    struct buf_pool *pool = &stream->proxy->buffers;
    const struct h1_head *head = &stream->parser.head;
    struct buf *old = filtering->body;
    if (old != NULL && old->cap - old->end >= more) return true;
    size_t have = old == NULL ? 0 : old->end, need = have + more;
    size_t want = old == NULL ? GROWTH_LEAST : (size_t)old->cap * 2;
    if (head->body == BODY_LENGTH && head->length <= filtering->max) want = (size_t)head->length;
    struct buf *grown = buf_take(pool, want < need ? need : want);
    if (grown == NULL) return false;
    stream->proxy->collected_bytes += grown->cap - (old == NULL ? 0 : old->cap);
    if (have > 0) memcpy(grown->bytes, old->bytes, have);
    grown->end = (uint32_t)have;
    buf_give(pool, &filtering->body);
    filtering->body = grown;
    return stream->proxy->collected_bytes <= COLLECTED_MAX;
}

void
collect_end(struct stream *stream)
{
    struct filtering *filtering = stream->filtering;
    if (filtering->body == NULL) return;
    stream->proxy->collected_bytes -= filtering->body->cap;
    buf_give(&stream->proxy->buffers, &filtering->body);
}

enum taken { TAKEN_ALL, TAKEN_SOME, TAKEN_BROKEN, TAKEN_NO_MEMORY };

/* Decodes what is here of the client's body. */
static enum taken
take(struct stream *stream)
{
    struct filtering *filtering = stream->filtering;
    struct relay *up = &stream->up;
    filtering->is_collected = stream->parser.head.body != BODY_NONE;
    for (bool more = true; more && up->state == RELAY_OPEN;) {
        up->iov_at = up->iov_count = up->scratch_used = 0;
        up->to = BODY_CLOSE; /* bare */
        if (!relay_fill(up, &stream->arena)) return TAKEN_BROKEN;
        for (unsigned i = 0; i < up->iov_count; i++) {
            if (!reserve(stream, up->iov[i].iov_len)) return TAKEN_NO_MEMORY;
            memcpy(filtering->body->bytes + filtering->body->end, up->iov[i].iov_base, up->iov[i].iov_len);
            filtering->body->end += (uint32_t)up->iov[i].iov_len;
        }
        up->iov_at = up->iov_count = 0;
        more = up->buf != NULL && buf_used(up->buf) > 0 &&
               (filtering->body == NULL || filtering->body->end <= filtering->max);
    }
    return up->state == RELAY_OPEN ? TAKEN_SOME : TAKEN_ALL;
}

static enum body_read
read_more(struct stream *stream)
{
    struct relay *up = &stream->up;
    if (up->buf == stream->in && stream->in->end == stream->in->cap) {
        up->buf = NULL;
        up->read_bytes = BUF_LARGE - sizeof(struct buf);
    }
    if (up->buf == NULL) up->buf = stream->body = buf_take(&stream->proxy->buffers, up->read_bytes);
    if (up->buf == NULL) {
        reply_reason(stream, REASON_SHED, 0, NULL);
        return BODY_FAILED;
    }
    if (up->buf != stream->in) up->buf->at = up->buf->end = 0;
    size_t room = up->buf->cap - up->buf->end;
    ssize_t n = recv(stream->conn->fd, up->buf->bytes + up->buf->end, room, 0);
    if (n > 0) {
        up->buf->end += (uint32_t)n;
        stream->bytes_in += (uint64_t)n;
        body_moves(stream);
        return (size_t)n == room ? BODY_READ_ALL : BODY_READ;
    }
    if (n == -1 && (errno == EAGAIN || errno == EINTR)) return BODY_AGAIN;
    stream_client_gone(stream);
    return BODY_FAILED;
}

static void
answer(struct stream *stream, bool ok, struct slice body, const char *why)
{
    struct filtering *filtering = stream->filtering;
    struct script_task *task = filtering->task;
    filtering->task = NULL;
    filtering->since_us = stream->proxy->now_us; /* the client's time is none of the filter's */
    stream_arm(stream);
    script_task_body(task, ok, body, why);
}

static struct slice
collected(const struct stream *stream)
{
    const struct buf *body = stream->filtering->body;
    return body == NULL ? (struct slice){"", 0} : (struct slice){body->bytes, body->end};
}

/* RFC 9110 §10.1.1: the client may wait for it. */
static void
ask_for_body(struct stream *stream)
{
    struct h1_head *head = &stream->parser.head;
    if (!head->expect_continue) return;
    head->expect_continue = false;
    headers_drop(&head->headers, HEADER_EXPECT);
    if (stream->interims > 0) return;
    response_send_continue(stream);
}

static void
await_more(struct stream *stream)
{
    if (stream->conn->input == INPUT_ENDED) { /* the rest never comes */
        stream_client_gone(stream);
        return;
    }
    ask_for_body(stream);
    if (stream->state != STREAM_FILTER) return;
    conn_want_read(stream->conn, true);
    body_waits(stream);
    stream_arm(stream);
}

/* False: it is answered, or waits. */
static bool
collect_step(struct stream *stream, bool *may_read)
{
    struct filtering *filtering = stream->filtering;
    const struct h1_head *head = &stream->parser.head;
    bool is_announced = head->body == BODY_LENGTH && head->length > filtering->max;
    if (stream->up.state == RELAY_OPEN && is_announced) {
        answer(stream, false, SLICE_NONE, "too large");
        return true;
    }
    switch (take(stream)) {
    case TAKEN_BROKEN: stream_body_broken(stream); return false;
    case TAKEN_NO_MEMORY: reply_reason(stream, REASON_SHED, 0, NULL); return false;
    case TAKEN_ALL:
    case TAKEN_SOME: break;
    }
    struct slice body = collected(stream);
    if (body.len > filtering->max) {
        answer(stream, false, SLICE_NONE, "too large");
    } else if (stream->up.state != RELAY_OPEN) {
        answer(stream, true, body, NULL);
    } else if (!*may_read) {
        await_more(stream);
        return false;
    } else {
        switch (read_more(stream)) {
        case BODY_READ_ALL: break;
        case BODY_READ: *may_read = false; break;
        case BODY_AGAIN: await_more(stream); return false;
        case BODY_FAILED: return false;
        }
    }
    return true;
}

static void
collect(struct stream *stream, bool may_read)
{
    unsigned round = 0;
    while (stream->state == STREAM_FILTER && stream->filtering->task != NULL &&
           collect_step(stream, &may_read)) {
        if (++round == READ_ROUNDS) may_read = false;
    }
}

void
collect_body(struct stream *stream)
{
    collect(stream, false);
}

void
collect_on_readable(struct stream *stream)
{
    collect(stream, true);
}

/* sending it on */

static bool
was_touched(const struct filtering *filtering)
{
    return filtering->is_collected || (filtering->request.changed & FILTER_BODY) != 0;
}

/* What is here of a body that nobody wants. */
static bool
skip_rest(struct stream *stream)
{
    struct relay *up = &stream->up;
    bool is_sound = true;
    do {
        up->iov_at = up->iov_count = up->scratch_used = 0;
        up->to = BODY_CLOSE;
        is_sound = relay_fill(up, &stream->arena);
    } while (is_sound && up->state == RELAY_OPEN && up->buf != NULL && buf_used(up->buf) > 0);
    up->iov_at = up->iov_count = 0;
    return is_sound && up->state != RELAY_OPEN;
}

void
content_seal(struct stream *stream)
{
    struct filtering *filtering = stream->filtering;
    struct relay *up = &stream->up;
    if (!was_touched(filtering)) return;
    if (filtering->request.changed & FILTER_BODY) {
        filtering->content = filtering->request.body;
        filtering->kind = CONTENT_WHOLE;
        filtering->is_unread = !skip_rest(stream);
        stream->parser.head.expect_continue = false;
        headers_drop(&stream->parser.head.headers, HEADER_EXPECT);
    } else {
        filtering->content = collected(stream);
        filtering->kind = up->state == RELAY_OPEN ? CONTENT_PART : CONTENT_WHOLE;
    }
    filtering->is_sealed = true;
    filtering->raw.state = up->state;
    filtering->raw.from = up->from;
    filtering->raw.left = up->left;
    filtering->raw.body_bytes = up->body_bytes;
    filtering->raw.chunked = up->chunked;
    filtering->raw.buf = up->buf;
    filtering->raw.at = up->buf == NULL ? 0 : up->buf->at;
    content_rewind(stream);
}

void
content_framing(const struct stream *stream, enum body_kind *body, uint64_t *length)
{
    const struct filtering *filtering = stream->filtering;
    if (filtering->kind != CONTENT_WHOLE) return;
    if (filtering->content.len > 0 || *body != BODY_NONE) *body = BODY_LENGTH;
    *length = filtering->content.len;
}

static void
restore(struct stream *stream, enum body_kind to)
{
    const struct filtering *filtering = stream->filtering;
    struct relay *up = &stream->up;
    relay_init(up, filtering->raw.from, to, filtering->raw.left, filtering->raw.buf);
    up->state = filtering->raw.state;
    up->chunked = filtering->raw.chunked;
    up->body_bytes = filtering->raw.body_bytes;
    up->limit = stream->parser.limits.body_bytes;
    if (up->buf != NULL) up->buf->at = filtering->raw.at;
}

void
content_rewind(struct stream *stream)
{
    struct filtering *filtering = stream->filtering;
    if (filtering->kind == CONTENT_PART)
        restore(stream, stream->parser.head.body);
    else
        relay_init(&stream->up, BODY_NONE, BODY_LENGTH, 0, filtering->raw.buf);
}

void
content_queue(struct stream *stream)
{
    struct filtering *filtering = stream->filtering;
    if (filtering->content.len > 0) relay_queue_data(&stream->up, filtering->content);
}

bool
content_restore(struct stream *stream)
{
    const struct filtering *filtering = stream->filtering;
    if (!filtering->is_sealed && !filtering->is_collected) return false;
    if (filtering->is_sealed && stream->kept == BODY_KEPT) restore(stream, BODY_CLOSE);
    stream->up.to = BODY_CLOSE;
    return true;
}
