#include "core/proxy/filtering.h"
#include "core/proxy/proxy_internal.h"

/* 1xx */

void
response_flush_interim(struct stream *stream)
{
    switch (relay_flush(&stream->down, stream->conn->fd, &stream->bytes_out)) {
    case PUMP_SINK: conn_want_write(stream->conn, true); return;
    case PUMP_SINK_ERROR: stream_client_gone(stream); return;
    default: conn_want_write(stream->conn, false); return;
    }
}

/* Our own 100: the backend kept silent while the client may wait for leave to send its body, or may be gone.
 */
void
response_send_continue(struct stream *stream)
{
    static const char interim[] = "HTTP/1.1 100 Continue\r\n\r\n";
    stream->interims++;
    stream->continued = true;
    if (relay_queue(&stream->down, interim, sizeof interim - 1)) response_flush_interim(stream);
}

static bool
forward_interim(struct stream *stream)
{
    struct h1_head *head = &stream->response.head;
    struct h1_out out = {.status = head->status, .headers = &head->headers, .no_framing = true};
    h1_drop_hop_by_hop(&head->headers);
    size_t bound = h1_head_bound(&out, SLICE_NONE);
    char *text = arena_alloc(&stream->arena, bound);
    if (text == NULL) return false;
    size_t len = h1_write_response(&out, text, bound);
    return len > 0 && relay_queue(&stream->down, text, len);
}

/* RFC 9110 §15.2: passed on to clients that know them; a second 100 where we sent one already is swallowed.
 * False: this is no answer that HTTP allows, or no memory. */
static bool
take_interim(struct stream *stream)
{
    int status = stream->response.head.status;
    const struct config_limits *limits = &stream->generation->config->limits;
    bool is_repeated = status == 100 && (stream->interims > 0 || !stream->parser.head.expect_continue);
    stream->interims++;
    if (stream->interims > INTERIM_MAX) return false;
    if (status == 100) stream_calm(stream);
    if (stream->parser.head.minor == 0 || is_repeated)
        stream->hidden++;
    else if (!forward_interim(stream))
        return false;
    h1_response_init(&stream->response, &stream->arena,
        &(struct h1_limits){limits->header_bytes, limits->headers, 0, 0, true}, stream->parser.head.method);
    return true;
}

/* the final head */

static enum body_kind
client_framing(const struct stream *stream)
{
    switch (stream->response.head.body) {
    case BODY_NONE:
    case BODY_LENGTH: return BODY_LENGTH;
    case BODY_CHUNKED:
    case BODY_CLOSE: break;
    }
    return stream->parser.head.minor == 0 ? BODY_CLOSE : BODY_CHUNKED;
}

/* The generation has done its part, unless stages of the body need its script. */
static void
leave_generation(struct stream *stream)
{
    if (UNLIKELY(stream->filtering != NULL)) {
        if (stream->filtering->transform != NULL && stream->filtering->response.has_stages) return;
        filtering_stop(stream);
    }
    stream_release_generation(stream);
}

static void
no_memory(struct stream *stream)
{
    stream->status = 0;
    relay_begin(&stream->down, BODY_NONE, BODY_NONE, 0, NULL);
    reply_reason(stream, REASON_SHED, 0, NULL);
}

static inline void
send_head(struct stream *stream)
{
    struct h1_head *answer = &stream->response.head;
    const struct filtering *filtering = stream->filtering;
    bool is_whole = stream->up.state == RELAY_DONE;
    struct slice head;
    stream->status = answer->status;
    enum body_kind to = answer->body == BODY_NONE ? BODY_NONE : client_framing(stream);
    if (UNLIKELY(filtering != NULL)) {
        is_whole = is_whole && !filtering->is_unread;
        if (filtering->transform != NULL) to = stream->parser.head.minor == 0 ? BODY_CLOSE : BODY_CHUNKED;
    }
    /* A request body that still comes may never end: what answers early ends the connection. */
    stream->keep_alive = stream->parser.head.keep_alive && is_whole && to != BODY_CLOSE &&
                         stream->proxy->drain == DRAIN_NO && conn_may_stay(stream->conn);
    relay_begin(&stream->down, answer->body, to, answer->length, stream->back);
    if (!forward_write_response(stream, &head) || !relay_queue(&stream->down, head.at, head.len)) {
        no_memory(stream);
        return;
    }
    leave_generation(stream);
    stream_enter(stream, STREAM_REPLY);
    outbox_put(stream, OUTBOX_DOWN);
}

void
response_send(struct stream *stream)
{
    send_head(stream);
}

static void
begin_reply(struct stream *stream)
{
    struct h1_head *answer = &stream->response.head;
    attempt_observe(stream, answer->status, REASON_NONE, &answer->headers);
    stream->reason = REASON_NONE;
    stream->nudge_us = 0;
    if (!forward_response(stream))
        no_memory(stream);
    else if (UNLIKELY(stream->filtering != NULL))
        respond_to_endpoint(stream);
    else
        send_head(stream);
}

void
response_on_bytes(struct stream *stream)
{
    while (stream->back != NULL && buf_used(stream->back) > 0) {
        struct buf *back = stream->back;
        size_t used = 0;
        switch (
            h1_parse_head(&stream->response, (struct slice){back->bytes + back->at, buf_used(back)}, &used)) {
        case H1_AGAIN:
            if (stream->interims > 0) response_flush_interim(stream);
            return;
        case H1_BAD: attempt_fail(stream, REASON_BAD_RESPONSE); return;
        case H1_DONE: break;
        }
        back->at += (uint32_t)used;
        int status = stream->response.head.status;
        if (status == 101 && stream->upgrade) {
            tunnel_open(stream);
            return;
        }
        if (status >= 200) {
            if (UNLIKELY(status >= 500 || status == 408) && attempt_replay(stream)) return;
            begin_reply(stream);
            return;
        }
        if (status == 101 || !take_interim(stream)) { /* a 101 that nobody asked for */
            attempt_fail(stream, REASON_BAD_RESPONSE);
            return;
        }
    }
    if (stream->interims > 0) response_flush_interim(stream);
}
