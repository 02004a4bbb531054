/* core/serve/http1.c: HTTP/1.x requests, one at a time a connection, answered in their order (RFC 9112
 * §9.3.2). */
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/serve/serve_internal.h"

enum { HEAD_ROOM = 512, BODY_FACTOR = 6 /* a body may take so many times the head's time */ };

static const char continue_line[] = "HTTP/1.1 100 Continue\r\n\r\n";

/* The bytes read before now whose request is not done, with `bytes` behind them. */
static bool
join_input(struct serve_conn *conn, struct slice bytes, struct slice *all)
{
    const char *old = conn->in.at;
    if (conn->in.len == 0) {
        *all = bytes;
        return true;
    }
    if (!bytes_reserve(&conn->in, bytes.len)) return false;
    if (conn->state == CONN_HEAD && conn->calls != NULL) h1_rebase(&conn->calls->parser, old, conn->in.at);
    if (bytes.len > 0) memcpy(conn->in.at + conn->in.len, bytes.at, bytes.len);
    conn->in.len += bytes.len;
    *all = (struct slice){conn->in.at, conn->in.len};
    return true;
}

/* Keeps what is left of `all` from `used` on, at the start of conn->in. */
static bool
keep_input(struct serve_conn *conn, struct slice all, size_t used)
{
    size_t left = all.len - used;
    const char *from = all.at + used;
    bool own = conn->in.len > 0;
    if (left == 0 || conn->state == CONN_CLOSING || conn->state == CONN_DEAD) {
        free(conn->in.at);
        conn->in = (struct bytes){0};
        return true;
    }
    if (own && used == 0) return true;
    if (own) {
        memmove(conn->in.at, from, left);
    } else {
        conn->in.len = 0;
        if (!bytes_reserve(&conn->in, left)) return false;
        memcpy(conn->in.at, from, left);
    }
    conn->in.len = left;
    if (conn->state == CONN_HEAD && conn->calls != NULL) h1_rebase(&conn->calls->parser, from, conn->in.at);
    return true;
}

void
http1_reply(
    struct serve_call *call, int status, const char *content_type, struct slice body, struct serve_blob *blob)
{
    struct serve_conn *conn = call->conn;
    struct headers *headers = &call->reply_headers;
    bool bodiless = status == 204 || status == 304;
    if (content_type != NULL && !bodiless) {
        if (!headers_add(headers, &call->arena, HEADER_CONTENT_TYPE, SLICE_LIT("Content-Type"),
                slice_of(content_type)))
            content_type = NULL;
    }
    if (conn->serve->draining) call->keep_alive = false;
    struct h1_out out = {.status = status,
        .headers = headers,
        .body = bodiless ? BODY_NONE : BODY_LENGTH,
        .no_framing = bodiless,
        .length = body.len,
        .connection = !call->keep_alive ? SLICE_LIT("close")
                      : call->is_http10 ? SLICE_LIT("keep-alive")
                                        : SLICE_NONE};
    size_t room = h1_head_bound(&out, SLICE_NONE) + HEAD_ROOM;
    bool inlined = blob == NULL && !bodiless && !call->is_head;
    char *at = NULL;
    if (headers_add(
            headers, &call->arena, HEADER_DATE, SLICE_LIT("Date"), slice_of(serve_date(conn->serve)))) {
        at = serve_conn_out(conn, room + (inlined ? body.len : 0));
    }
    size_t n = at == NULL ? 0 : h1_write_response(&out, at, room);
    call->state = CALL_DONE;
    if (n == 0) { /* no memory for an answer: the peer learns it by the close */
        call->keep_alive = false;
        serve_conn_mark(conn);
        return;
    }
    if (inlined && body.len > 0) memcpy(at + n, body.at, body.len);
    conn->out.len += n + (inlined ? body.len : 0);
    if (blob != NULL && !bodiless && !call->is_head && blob->len > 0) {
        conn->blob = serve_blob_get(blob);
        conn->blob_at = 0;
    }
    if (!conn->busy) serve_conn_mark(conn);
}

void
http1_refuse(struct serve_conn *conn, int status, const char *text)
{
    struct strbuf body = {0};
    struct serve_call *call = conn->calls != NULL ? conn->calls : call_new(conn);
    if (call == NULL) {
        serve_conn_close(conn);
        return;
    }
    strbuf_add_text(&body, "{\"error\":");
    strbuf_add_json(&body, slice_of(text));
    strbuf_add_text(&body, "}\n");
    call->keep_alive = false;
    call->is_head = call->parser.head.method == METHOD_HEAD;
    call->reply_headers = (struct headers){0};
    http1_reply(call, status, "application/json", strbuf_slice(&body), NULL);
    strbuf_fini(&body);
    call_free(call);
    serve_conn_finish(conn);
}

/* Ends a replied call; the connection is at rest again or closes. */
static void
after_reply(struct serve_conn *conn)
{
    struct serve_call *call = conn->calls;
    bool keep = call->keep_alive;
    call_free(call);
    if (keep) {
        serve_conn_rest(conn);
    } else {
        serve_conn_finish(conn);
    }
}

static void
dispatch(struct serve_conn *conn, struct slice body)
{
    struct serve_call *call = conn->calls;
    const struct h1_head *head = &call->parser.head;
    struct serve_request request = {.method = head->method,
        .method_text = head->method_text,
        .path = head->path,
        .query = head->query,
        .body = body,
        .headers = &head->headers,
        .peer = conn->peer,
        .arena = &call->arena};
    call->keep_alive = head->keep_alive;
    call->is_http10 = head->minor == 0;
    call->is_head = head->method == METHOD_HEAD;
    call->state = CALL_HELD;
    conn->state = CONN_CALL;
    conn->deadline_us = 0;
    conn->serve->handler(conn->serve->context, call, &request);
}

/* The head goes into the arena, so that the body may take its time: what was borrowed from the read buffer is
 * read again from the copy. */
static bool
detach_head(struct serve_call *call, struct slice head)
{
    size_t used;
    char *copy = arena_strdup(&call->arena, head);
    if (copy == NULL) return false;
    h1_request_init(&call->parser, &call->arena, &call->serve->h1_limits);
    return h1_parse_head(&call->parser, (struct slice){copy, head.len}, &used) == H1_DONE;
}

/* A whole head lies in `rest`. Returns how much of `rest` was taken. */
static size_t
begin_body(struct serve_conn *conn, struct slice rest, size_t head_bytes)
{
    struct serve_call *call = conn->calls;
    struct h1_head *head = &call->parser.head;
    struct serve *serve = conn->serve;
    struct slice after = {rest.at + head_bytes, rest.len - head_bytes};
    if (head->method == METHOD_CONNECT) {
        http1_refuse(conn, 501, "CONNECT is not served here");
        return head_bytes;
    }
    if (head->body == BODY_LENGTH && head->length > serve->limits.body_bytes) {
        http1_refuse(conn, 413, "the body is too large");
        return head_bytes;
    }
    if (head->body == BODY_NONE || (head->body == BODY_LENGTH && head->length <= after.len)) {
        after.len = head->body == BODY_NONE ? 0 : (size_t)head->length;
        dispatch(conn, after);
        return head_bytes + after.len;
    }
    bool wants_continue = head->expect_continue && after.len == 0; /* RFC 9110 §10.1.1 */
    if (!detach_head(call, (struct slice){rest.at, head_bytes})) {
        http1_refuse(conn, 503, "out of memory");
        return head_bytes;
    }
    conn->state = CONN_BODY;
    conn->deadline_us = clock_now_us() + BODY_FACTOR * serve->limits.header_us;
    if (wants_continue) {
        char *at = serve_conn_out(conn, sizeof continue_line - 1);
        if (at == NULL) {
            http1_refuse(conn, 503, "out of memory");
            return head_bytes;
        }
        memcpy(at, continue_line, sizeof continue_line - 1);
        conn->out.len += sizeof continue_line - 1;
    }
    return head_bytes;
}

static size_t
take_head(struct serve_conn *conn, struct slice rest, bool *more)
{
    struct serve *serve = conn->serve;
    struct serve_call *call = conn->calls;
    size_t used = 0;
    if (call == NULL) {
        call = call_new(conn);
        if (call == NULL) {
            serve_conn_close(conn);
            return 0;
        }
        h1_request_init(&call->parser, &call->arena, &serve->h1_limits);
        conn->deadline_us = 0;
    }
    switch (h1_parse_head(&call->parser, rest, &used)) {
    case H1_DONE: return begin_body(conn, rest, used);
    case H1_AGAIN:
        if (conn->deadline_us == 0) conn->deadline_us = clock_now_us() + serve->limits.header_us;
        *more = true;
        return 0;
    case H1_BAD:
        http1_refuse(conn, h1_error_status(call->parser.error), h1_error_text(call->parser.error));
        return 0;
    }
    return 0;
}

static size_t
take_length(struct serve_conn *conn, struct slice rest, bool *more)
{
    struct serve_call *call = conn->calls;
    size_t want = (size_t)call->parser.head.length - call->body.len;
    if (rest.len < want) want = rest.len;
    if (!call_add_body(call, (struct slice){rest.at, want})) {
        http1_refuse(conn, 503, "out of memory");
        return want;
    }
    if (call->body.len < call->parser.head.length) {
        *more = true;
    } else {
        dispatch(conn, strbuf_slice(&call->body));
    }
    return want;
}

static size_t
take_chunked(struct serve_conn *conn, struct slice rest, bool *more)
{
    struct serve_call *call = conn->calls;
    size_t taken = 0;
    for (;;) {
        struct slice data = SLICE_NONE;
        size_t used = 0;
        enum h1_result result = h1_chunked_read(&call->chunked, &call->arena, conn->serve->limits.body_bytes,
            (struct slice){rest.at + taken, rest.len - taken}, &data, &used);
        taken += used;
        if (result == H1_BAD) {
            enum h1_error error = call->chunked.error;
            http1_refuse(conn, h1_error_status(error), h1_error_text(error));
            return taken;
        }
        if (data.len > 0 && !call_add_body(call, data)) {
            http1_refuse(conn, 503, "out of memory");
            return taken;
        }
        if (result == H1_DONE) {
            dispatch(conn, strbuf_slice(&call->body));
            return taken;
        }
        if (data.len == 0 && (taken == rest.len || used == 0)) {
            *more = true;
            return taken;
        }
    }
}

void
http1_input(struct serve_conn *conn, struct slice bytes)
{
    struct slice all;
    size_t used = 0;
    bool more = false;
    if (!join_input(conn, bytes, &all)) {
        serve_conn_close(conn);
        return;
    }
    conn->busy = true;
    while (!more) {
        struct slice rest = {all.at + used, all.len - used};
        if (conn->state == CONN_CALL) {
            if (conn->calls->state != CALL_DONE) break;
            after_reply(conn);
        } else if (conn->state == CONN_HEAD) {
            if (rest.len == 0 || conn->blob != NULL || serve_conn_pending(conn) >= OUT_HIGH_BYTES) break;
            used += take_head(conn, rest, &more);
        } else if (conn->state == CONN_BODY) {
            if (rest.len == 0) break;
            bool chunked = conn->calls->parser.head.body == BODY_CHUNKED;
            used += chunked ? take_chunked(conn, rest, &more) : take_length(conn, rest, &more);
        } else {
            break;
        }
    }
    conn->busy = false;
    if (conn->state != CONN_DEAD && !keep_input(conn, all, used)) serve_conn_close(conn);
}

/* After a reply that came later, or output that drained: on with what was read meanwhile. */
void
http1_resume(struct serve_conn *conn)
{
    bool replied = conn->state == CONN_CALL && conn->calls != NULL && conn->calls->state == CALL_DONE;
    bool waiting = conn->state == CONN_HEAD && conn->calls == NULL && conn->in.len > 0;
    if (replied || waiting) http1_input(conn, SLICE_NONE);
}
