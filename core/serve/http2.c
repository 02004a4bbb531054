/* core/serve/http2.c: HTTP/2 with prior knowledge (RFC 9113 §3.3) on nghttp2, and gRPC on top of it: five
 * bytes before each message, the status in trailers (the "gRPC over HTTP2" protocol document of grpc/grpc).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/text.h"
#include "core/serve/serve_internal.h"

enum {
    BODY_FACTOR = 6,             /* a request may take so many times header_us */
    CONN_BUFFERED_MAX = 8 << 20, /* bodies of one connection's unfinished requests together */
    /* What a peer may cause beside requests (pings, settings, resets, empty frames): the first number at
     * once, the second again each second, and a few for each request. grpc-go pings once a round trip while
     * data flows. */
    TOKENS_MAX = 1000,
    TOKENS_A_SECOND = 100,
    TOKENS_A_REQUEST = 3,
    RESET_COST = 4,
    WINDOW_BYTES = 1 << 20,
};

/* ---- what a peer may cost ---- */

static bool
spend(struct serve_conn *conn, int32_t tokens)
{
    if (conn->going_away && conn->tokens < 0) return false;
    conn->tokens -= tokens;
    if (conn->tokens >= 0) return true;
    uint64_t now = clock_now_us(), passed = now - conn->tokens_us;
    if (passed >= 1000000 / TOKENS_A_SECOND) {
        uint64_t more = passed / (1000000 / TOKENS_A_SECOND);
        conn->tokens += (int32_t)(more > 2 * TOKENS_MAX ? 2 * TOKENS_MAX : more);
        if (conn->tokens > TOKENS_MAX) conn->tokens = TOKENS_MAX;
        conn->tokens_us = now;
        if (conn->tokens >= 0) return true;
    }
    conn->going_away = true;
    nghttp2_session_terminate_session(conn->session, NGHTTP2_ENHANCE_YOUR_CALM);
    return false;
}

/* ---- requests that end early ---- */

/* Ends a call whose handler may have it: the handler is told that the peer is gone, the peer gets the status.
 * A handler that did not ask to be told keeps an orphan, so the peer gets a reset. */
static void
abort_call(struct serve_call *call, enum grpc_code code, const char *text)
{
    if (call->state == CALL_HELD && call->gone == NULL) {
        nghttp2_session *session = call->conn->session;
        serve_conn_mark(call->conn);
        nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, call->stream_id, NGHTTP2_CANCEL);
        nghttp2_session_set_stream_user_data(session, call->stream_id, NULL);
        call_gone(call);
        return;
    }
    if (call->state == CALL_HELD) {
        void (*gone)(void *) = call->gone;
        call->gone = NULL;
        call->state = CALL_READING;
        gone(call->gone_context);
    }
    http2_finish(call, code, text);
}

/* ---- requests ---- */

static struct serve_request
request_of(struct serve_call *call, struct slice body)
{
    return (struct serve_request){.method = call->method,
        .method_text = call->method_text,
        .path = call->path,
        .query = call->query,
        .body = body,
        .headers = &call->headers,
        .peer = call->conn->peer,
        .arena = &call->arena,
        .is_grpc = call->is_grpc};
}

static void
dispatch(struct serve_call *call, struct slice body)
{
    struct serve_request request = request_of(call, body);
    call->state = CALL_HELD;
    call->deadline_us = call->timeout_us == 0 ? 0 : clock_now_us() + call->timeout_us;
    call->serve->handler(call->serve->context, call, &request);
}

/* The length of the message that `bytes` begins with; false: the call was ended with an error. */
static bool
message_length(struct serve_call *call, struct slice bytes, size_t *len)
{
    const unsigned char *at = (const unsigned char *)bytes.at;
    if (at[0] != 0) {
        abort_call(call, GRPC_UNIMPLEMENTED,
            "compressed messages are not accepted; this server knows identity alone");
        return false;
    }
    *len = (size_t)at[1] << 24 | (size_t)at[2] << 16 | (size_t)at[3] << 8 | (size_t)at[4];
    if (*len <= call->serve->limits.body_bytes) return true;
    abort_call(call, GRPC_RESOURCE_EXHAUSTED, "the message is larger than this server accepts");
    return false;
}

/* Streaming: hands every whole message on and keeps the rest. */
static void
take_messages(struct serve_call *call)
{
    size_t at = 0, len;
    while (call->state != CALL_DONE && call->body.len - at >= GRPC_PREFIX) {
        struct slice rest = {call->body.at + at, call->body.len - at};
        if (!message_length(call, rest, &len)) return;
        if (rest.len - GRPC_PREFIX < len) break;
        struct slice message = {rest.at + GRPC_PREFIX, len};
        at += GRPC_PREFIX + len;
        if (call->state == CALL_READING) {
            dispatch(call, message);
        } else if (call->message != NULL) {
            call->message(call->message_context, message, false);
        }
    }
    if (at == 0 || call->state == CALL_DONE) return;
    size_t left = call->body.len - at;
    memmove(call->body.at, call->body.at + at, left);
    call->body.len = left;
    call_forget_body(call);
}

static void
end_streaming(struct serve_call *call)
{
    if (call->body.len > 0) {
        abort_call(call, GRPC_INTERNAL, "the last message is cut off");
    } else if (call->state == CALL_READING) {
        dispatch(call, SLICE_NONE);
        if (call->state == CALL_HELD && call->message != NULL)
            call->message(call->message_context, SLICE_NONE, true);
    } else if (call->message != NULL) {
        call->message(call->message_context, SLICE_NONE, true);
    }
}

static void
end_unary(struct serve_call *call)
{
    size_t len;
    struct slice bytes = strbuf_slice(&call->body);
    if (bytes.len < GRPC_PREFIX) {
        abort_call(
            call, GRPC_INTERNAL, bytes.len == 0 ? "the request holds no message" : "the message is cut off");
        return;
    }
    if (!message_length(call, bytes, &len)) return;
    if (len != bytes.len - GRPC_PREFIX) {
        abort_call(call, GRPC_INTERNAL,
            len > bytes.len - GRPC_PREFIX ? "the message is cut off"
                                          : "more than one message for a unary method");
        return;
    }
    dispatch(call, (struct slice){bytes.at + GRPC_PREFIX, len});
}

/* END_STREAM came. */
static void
end_request(struct serve_call *call)
{
    call->end_seen = true;
    if (call->state == CALL_DONE) return;
    if (call->is_streaming) {
        end_streaming(call);
    } else if (call->state != CALL_READING) {
        return;
    } else if (call->is_grpc) {
        end_unary(call);
    } else {
        dispatch(call, strbuf_slice(&call->body));
    }
}

static bool
is_grpc_type(struct slice type)
{
    static const struct slice name = {"application/grpc", 16};
    if (type.len < name.len || !slice_equal_nocase((struct slice){type.at, name.len}, name)) return false;
    struct slice rest = slice_trim((struct slice){type.at + name.len, type.len - name.len});
    if (slice_starts_with(rest, SLICE_LIT("+proto"))) {
        rest = slice_trim((struct slice){rest.at + 6, rest.len - 6});
    }
    return rest.len == 0 || rest.at[0] == ';';
}

/* 1 to 8 digits and a unit; 0 where it is malformed, which counts as none. */
static uint64_t
parse_grpc_timeout(struct slice s)
{
    static const struct {
        char unit;
        uint64_t us;
    } units[] = {{'H', 3600000000}, {'M', 60000000}, {'S', 1000000}, {'m', 1000}, {'u', 1}};
    uint64_t n;
    if (s.len < 2 || s.len > 9 || !text_parse_u64((struct slice){s.at, s.len - 1}, 99999999, &n)) return 0;
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (units[i].unit == s.at[s.len - 1]) return n == 0 ? 1 : n * units[i].us;
    }
    return s.at[s.len - 1] == 'n' ? n / 1000 + 1 : 0;
}

static void
refuse(struct serve_call *call, int status, const char *text)
{
    call->is_grpc = false;
    http2_reply(call, status, "text/plain", slice_of(text), NULL);
}

/* The request's headers are complete. */
static void
begin_request(struct serve_call *call)
{
    struct serve *serve = call->serve;
    const struct header *type = headers_find(&call->headers, HEADER_CONTENT_TYPE);
    call->is_head = call->method == METHOD_HEAD;
    if (call->refused) {
        refuse(call, 431, "the request headers are too large");
        return;
    }
    call->is_grpc = type != NULL && is_grpc_type(type->value);
    if (serve->protocol == SERVE_GRPC && call->method != METHOD_POST) {
        serve_header(call, "allow", "POST");
        refuse(call, 405, "gRPC calls are POST requests\n");
        return;
    }
    if (serve->protocol == SERVE_GRPC && !call->is_grpc) {
        refuse(call, 415, "this port speaks gRPC: content-type application/grpc\n");
        return;
    }
    call->is_grpc = call->is_grpc && call->method == METHOD_POST;
    if (!call->is_grpc) return;
    const struct header *timeout = headers_find_name(&call->headers, SLICE_LIT("grpc-timeout"));
    if (timeout != NULL) call->timeout_us = parse_grpc_timeout(timeout->value);
    call->is_streaming = serve->is_streaming != NULL && serve->is_streaming(serve->context, call->path);
}

/* ---- nghttp2's callbacks ---- */

static int
on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *context)
{
    struct serve_conn *conn = context;
    if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
    if (conn->going_away) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    struct serve_call *call = call_new(conn);
    if (call == NULL) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    call->stream_id = frame->hd.stream_id;
    conn->deadline_us = 0;
    conn->tokens += TOKENS_A_REQUEST;
    if (conn->tokens > TOKENS_MAX) conn->tokens = TOKENS_MAX;
    nghttp2_session_set_stream_user_data(session, call->stream_id, call);
    return 0;
}

static bool
add_header(struct serve_call *call, struct slice name, struct slice value)
{
    char *copy = arena_alloc(&call->arena, name.len + value.len + 2);
    if (copy == NULL) return false;
    memcpy(copy, name.at, name.len + 1); /* nghttp2 ends both with a NUL */
    memcpy(copy + name.len + 1, value.at, value.len + 1);
    name.at = copy;
    value.at = copy + name.len + 1;
    if (name.at[0] != ':')
        return headers_add(&call->headers, &call->arena, header_identify(name), name, value);
    if (slice_equal(name, SLICE_LIT(":path"))) {
        const char *mark = memchr(value.at, '?', value.len);
        size_t len = mark == NULL ? value.len : (size_t)(mark - value.at);
        call->path = (struct slice){value.at, len};
        if (mark != NULL) call->query = (struct slice){mark + 1, value.len - len - 1};
    } else if (slice_equal(name, SLICE_LIT(":method"))) {
        call->method_text = value;
        for (int m = METHOD_OTHER + 1; m < METHOD_COUNT; m++) {
            if (slice_equal(value, slice_of(method_name((enum method)m)))) call->method = (enum method)m;
        }
    } else if (slice_equal(name, SLICE_LIT(":authority"))) {
        return headers_add(&call->headers, &call->arena, HEADER_HOST, header_name(HEADER_HOST), value);
    }
    return true;
}

static int
on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_len,
    const uint8_t *value, size_t value_len, uint8_t flags, void *context)
{
    struct serve_call *call = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    (void)flags;
    (void)context;
    if (call == NULL || frame->headers.cat != NGHTTP2_HCAT_REQUEST || call->refused) return 0;
    call->header_bytes += name_len + value_len + 32; /* RFC 9113 §6.5.2 counts so */
    if (call->header_bytes > HEADER_BYTES_MAX || call->headers.count >= HEADER_ROWS_MAX) {
        call->refused = true;
        return 0;
    }
    bool added = add_header(
        call, (struct slice){(const char *)name, name_len}, (struct slice){(const char *)value, value_len});
    return added ? 0 : NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

static int
on_data(nghttp2_session *session, uint8_t flags, int32_t stream_id, const uint8_t *data, size_t len,
    void *context)
{
    struct serve_call *call = nghttp2_session_get_stream_user_data(session, stream_id);
    struct serve_conn *conn = context;
    (void)flags;
    if (call == NULL || call->state == CALL_DONE) return 0;
    size_t limit = call->serve->limits.body_bytes + (call->is_grpc ? GRPC_PREFIX : 0);
    bool fits = call->is_streaming || call->body.len + len <= limit;
    if (!fits || conn->buffered + len > CONN_BUFFERED_MAX ||
        !call_add_body(call, (struct slice){(const char *)data, len})) {
        if (call->is_grpc) {
            abort_call(call, GRPC_RESOURCE_EXHAUSTED, "the message is larger than this server accepts");
        } else {
            refuse(call, fits ? 503 : 413, "the body is too large\n");
        }
        return 0;
    }
    if (call->is_streaming) {
        take_messages(call);
    } else if (call->is_grpc && call->body.len >= GRPC_PREFIX && call->body.len - len < GRPC_PREFIX) {
        size_t announced; /* an error stands in the first five bytes: no need to take the rest */
        if (!message_length(call, strbuf_slice(&call->body), &announced)) return 0;
    }
    return 0;
}

static int
on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *context)
{
    struct serve_conn *conn = context;
    struct serve_call *call;
    bool end = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
    switch (frame->hd.type) {
    case NGHTTP2_HEADERS:
        call = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
        if (call == NULL) return 0;
        if (frame->headers.cat == NGHTTP2_HCAT_REQUEST) begin_request(call);
        call = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
        if (call == NULL) return 0;
        if (end) {
            end_request(call);
        } else if (call->state == CALL_READING && call->deadline_us == 0) {
            call->deadline_us = clock_now_us() + BODY_FACTOR * conn->serve->limits.header_us;
        }
        return 0;
    case NGHTTP2_DATA:
        call = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
        if (frame->hd.length == 0 && !end) spend(conn, 1);
        if (call != NULL && end) end_request(call);
        return 0;
    case NGHTTP2_PING:
    case NGHTTP2_SETTINGS:
        if ((frame->hd.flags & NGHTTP2_FLAG_ACK) == 0) spend(conn, 1);
        return 0;
    case NGHTTP2_PRIORITY: spend(conn, 1); return 0;
    case NGHTTP2_RST_STREAM: spend(conn, RESET_COST); return 0; /* CVE-2023-44487 */
    default: return 0;
    }
}

/* A frame that broke the rules and makes us reset its stream costs as much as a reset (CVE-2025-8671). */
static int
on_invalid_frame(nghttp2_session *session, const nghttp2_frame *frame, int error, void *context)
{
    (void)session;
    (void)frame;
    (void)error;
    spend(context, RESET_COST);
    return 0;
}

static int
on_frame_sent(nghttp2_session *session, const nghttp2_frame *frame, void *context)
{
    struct serve_call *call;
    (void)context;
    if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA) return 0;
    if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) == 0) return 0;
    call = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    /* answered before the request was through: the peer may stop sending (RFC 9113 §8.1) */
    if (call != NULL && !call->end_seen) {
        nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_NO_ERROR);
    }
    return 0;
}

static int
on_stream_close(nghttp2_session *session, int32_t stream_id, uint32_t code, void *context)
{
    struct serve_call *call = nghttp2_session_get_stream_user_data(session, stream_id);
    (void)code;
    (void)context;
    if (call != NULL) {
        nghttp2_session_set_stream_user_data(session, stream_id, NULL);
        call_gone(call);
    }
    return 0;
}

/* ---- sessions ---- */

bool
http2_init(struct serve *serve)
{
    if (nghttp2_session_callbacks_new(&serve->h2_callbacks) != 0) return false;
    if (nghttp2_option_new(&serve->h2_option) != 0) return false;
    nghttp2_session_callbacks *callbacks = serve->h2_callbacks;
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(callbacks, on_invalid_frame);
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_frame_sent);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
    nghttp2_option_set_no_closed_streams(serve->h2_option, 1);
    nghttp2_option_set_max_outbound_ack(serve->h2_option, TOKENS_MAX);
    return true;
}

void
http2_fini(struct serve *serve)
{
    nghttp2_session_callbacks_del(serve->h2_callbacks);
    nghttp2_option_del(serve->h2_option);
}

bool
http2_start(struct serve_conn *conn)
{
    static const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, STREAMS_MAX},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, HEADER_BYTES_MAX},
    };
    struct serve *serve = conn->serve;
    if (nghttp2_session_server_new2(&conn->session, serve->h2_callbacks, conn, serve->h2_option) != 0) {
        conn->session = NULL;
        return false;
    }
    conn->state = CONN_H2;
    conn->deadline_us = clock_now_us() + serve->limits.idle_us;
    conn->tokens = TOKENS_MAX;
    conn->tokens_us = clock_now_us();
    return nghttp2_submit_settings(
               conn->session, NGHTTP2_FLAG_NONE, settings, sizeof settings / sizeof settings[0]) == 0 &&
           nghttp2_session_set_local_window_size(conn->session, NGHTTP2_FLAG_NONE, 0, WINDOW_BYTES) == 0;
}

void
http2_input(struct serve_conn *conn, struct slice bytes)
{
    if (conn->going_away && conn->calls == NULL) return;
    conn->busy = true;
    ssize_t n = nghttp2_session_mem_recv(conn->session, (const uint8_t *)bytes.at, bytes.len);
    conn->busy = false;
    if (n >= 0) return;
    conn->going_away = true;
    nghttp2_session_terminate_session(
        conn->session, n == NGHTTP2_ERR_FLOODED ? NGHTTP2_ENHANCE_YOUR_CALM : NGHTTP2_PROTOCOL_ERROR);
}

bool
http2_fill(struct serve_conn *conn)
{
    while (serve_conn_pending(conn) < SCRATCH_BYTES) {
        const uint8_t *data;
        ssize_t n = nghttp2_session_mem_send(conn->session, &data);
        if (n < 0) return false;
        if (n == 0) return true;
        char *at = serve_conn_out(conn, (size_t)n);
        if (at == NULL) return false;
        memcpy(at, data, (size_t)n);
        conn->out.len += (size_t)n;
    }
    return true;
}

void
http2_goaway(struct serve_conn *conn, bool last)
{
    if (conn->going_away) return;
    if (!last) { /* RFC 9113 §6.8: announce first, so that requests on their way are still served */
        nghttp2_submit_shutdown_notice(conn->session);
        return;
    }
    conn->going_away = true;
    nghttp2_submit_goaway(conn->session, NGHTTP2_FLAG_NONE,
        nghttp2_session_get_last_proc_stream_id(conn->session), NGHTTP2_NO_ERROR, NULL, 0);
}

void
http2_idle(struct serve_conn *conn)
{
    if (conn->calls != NULL) {
        conn->deadline_us = 0;
        return;
    }
    if (conn->deadline_us == 0) conn->deadline_us = clock_now_us() + conn->serve->limits.idle_us;
    if (conn->serve->draining && !conn->going_away) {
        http2_goaway(conn, true);
        serve_conn_mark(conn);
    }
}

void
http2_sweep(struct serve_conn *conn, uint64_t now_us)
{
    for (struct serve_call *call = conn->calls, *next; call != NULL; call = next) {
        next = call->next;
        if (call->deadline_us == 0 || now_us < call->deadline_us) continue;
        call->deadline_us = 0;
        if (call->is_grpc) {
            abort_call(call, GRPC_DEADLINE_EXCEEDED, "the deadline passed");
        } else if (call->state == CALL_READING) {
            refuse(call, 408, "the request did not arrive in time\n");
        }
    }
}
