/* core/serve/http2_reply.c: answers over HTTP/2: messages, trailers, plain bodies. Nothing here sends: frames
 * leave when the connection is flushed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/serve/serve_internal.h"

#define NV_LIT(n, v)                                                                                         \
    {                                                                                                        \
        (uint8_t *)(n), (uint8_t *)(v), sizeof(n) - 1, sizeof(v) - 1,                                        \
            NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE                                     \
    }

static nghttp2_nv
nv_of(struct slice name, struct slice value)
{
    return (nghttp2_nv){(uint8_t *)name.at, (uint8_t *)value.at, name.len, value.len, NGHTTP2_NV_FLAG_NONE};
}

static ssize_t
on_body_read(nghttp2_session *session, int32_t stream_id, uint8_t *out, size_t room, uint32_t *flags,
    nghttp2_data_source *source, void *context)
{
    struct serve_call *call = source->ptr;
    size_t n = 0;
    (void)context;
    while (call->first != NULL && n < room) {
        struct out_message *message = call->first;
        size_t total = message->prefix_len + message->blob->len;
        bool in_prefix = message->at < message->prefix_len;
        const char *from = in_prefix ? message->prefix + message->at
                                     : message->blob->bytes + message->at - message->prefix_len;
        size_t part = (in_prefix ? message->prefix_len : total) - message->at;
        if (part > room - n) part = room - n;
        memcpy(out + n, from, part);
        n += part;
        message->at += part;
        if (message->at < total) continue;
        call->first = message->next;
        if (call->first == NULL) call->last = NULL;
        serve_blob_put(message->blob);
        free(message);
    }
    call->queued -= n;
    if (call->first == NULL && call->finished) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        if (call->is_grpc) {
            char code[12];
            nghttp2_nv trailers[2] = {NV_LIT("grpc-status", "0")};
            size_t count = 1;
            if (call->code != GRPC_OK) {
                snprintf(code, sizeof code, "%d", (int)call->code);
                trailers[0] = nv_of(SLICE_LIT("grpc-status"), slice_of(code));
            }
            if (call->status_text != NULL) {
                trailers[count++] = nv_of(SLICE_LIT("grpc-message"), slice_of(call->status_text));
            }
            *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
            if (nghttp2_submit_trailer(session, stream_id, trailers, count) != 0)
                return NGHTTP2_ERR_CALLBACK_FAILURE;
        }
        return (ssize_t)n;
    }
    return n > 0 ? (ssize_t)n : NGHTTP2_ERR_DEFERRED;
}

/* True where the message is queued. */
static bool
enqueue(struct serve_call *call, struct slice bytes, struct serve_blob *blob, bool framed)
{
    struct out_message *message = calloc(1, sizeof *message);
    if (message == NULL) return false;
    message->blob = blob != NULL ? serve_blob_get(blob) : serve_blob_new(bytes);
    if (message->blob == NULL || message->blob->len > UINT32_MAX) {
        serve_blob_put(message->blob);
        free(message);
        return false;
    }
    if (framed) {
        size_t len = message->blob->len;
        message->prefix_len = GRPC_PREFIX;
        for (int i = 1; i < GRPC_PREFIX; i++)
            message->prefix[i] = (char)(len >> (8 * (GRPC_PREFIX - 1 - i)) & 0xff);
    }
    call->queued += message->prefix_len + message->blob->len;
    if (call->last != NULL) {
        call->last->next = message;
    } else {
        call->first = message;
    }
    call->last = message;
    return true;
}

static void
reset(struct serve_call *call, uint32_t code)
{
    nghttp2_submit_rst_stream(call->conn->session, NGHTTP2_FLAG_NONE, call->stream_id, code);
    serve_conn_mark(call->conn);
}

void
http2_send(struct serve_call *call, struct slice bytes, struct serve_blob *blob)
{
    static const nghttp2_nv head[] = {NV_LIT(":status", "200"), NV_LIT("content-type", "application/grpc")};
    nghttp2_session *session = call->conn->session;
    if (call->finished) return;
    if (!enqueue(call, bytes, blob, true)) {
        reset(call, NGHTTP2_INTERNAL_ERROR);
        return;
    }
    if (!call->submitted) {
        nghttp2_data_provider provider = {.source.ptr = call, .read_callback = on_body_read};
        call->submitted = true;
        if (nghttp2_submit_response(session, call->stream_id, head, 2, &provider) != 0) {
            reset(call, NGHTTP2_INTERNAL_ERROR);
            return;
        }
    } else {
        nghttp2_session_resume_data(session, call->stream_id);
    }
    serve_conn_mark(call->conn);
}

/* grpc-message is percent-encoded: what is not printable ASCII, and '%' itself. */
static const char *
encode_status_text(struct arena *arena, const char *text)
{
    static const char hex[] = "0123456789ABCDEF";
    size_t len = text == NULL ? 0 : strlen(text), n = 0;
    if (len == 0) return NULL;
    if (len > 1024) len = 1024;
    char *out = arena_alloc(arena, 3 * len + 1);
    if (out == NULL) return NULL;
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c <= 0x7e && c != '%') {
            out[n++] = (char)c;
        } else {
            out[n++] = '%';
            out[n++] = hex[c >> 4];
            out[n++] = hex[c & 15];
        }
    }
    out[n] = '\0';
    return out;
}

void
http2_finish(struct serve_call *call, enum grpc_code code, const char *message)
{
    nghttp2_session *session = call->conn->session;
    char text[12];
    if (call->finished) return;
    call->finished = true;
    call->state = CALL_DONE;
    call->deadline_us = 0;
    call->code = code;
    call->status_text = encode_status_text(&call->arena, message);
    serve_conn_mark(call->conn);
    if (call->submitted) {
        nghttp2_session_resume_data(session, call->stream_id);
        return;
    }
    snprintf(text, sizeof text, "%d", (int)code);
    nghttp2_nv head[5] = {NV_LIT(":status", "200"), NV_LIT("content-type", "application/grpc"),
        nv_of(SLICE_LIT("grpc-status"), slice_of(text))};
    size_t count = 3;
    if (call->status_text != NULL)
        head[count++] = nv_of(SLICE_LIT("grpc-message"), slice_of(call->status_text));
    if (code == GRPC_UNIMPLEMENTED) /* what a compressed message has to be told */
        head[count++] = nv_of(SLICE_LIT("grpc-accept-encoding"), SLICE_LIT("identity"));
    call->submitted = true;
    if (nghttp2_submit_response(session, call->stream_id, head, count, NULL) != 0)
        reset(call, NGHTTP2_INTERNAL_ERROR);
}

void
http2_reply(
    struct serve_call *call, int status, const char *content_type, struct slice body, struct serve_blob *blob)
{
    nghttp2_nv head[HEADER_ROWS_MAX + 4];
    char status_text[12], length[24];
    size_t count = 0;
    bool bodiless = status == 204 || status == 304;
    if (call->finished) return;
    snprintf(status_text, sizeof status_text, "%03d", status);
    snprintf(length, sizeof length, "%zu", body.len);
    head[count++] = nv_of(SLICE_LIT(":status"), slice_of(status_text));
    if (content_type != NULL) head[count++] = nv_of(SLICE_LIT("content-type"), slice_of(content_type));
    if (!bodiless) head[count++] = nv_of(SLICE_LIT("content-length"), slice_of(length));
    head[count++] = nv_of(SLICE_LIT("date"), slice_of(serve_date(call->serve)));
    for (uint32_t i = 0; i < call->reply_headers.count && i < HEADER_ROWS_MAX; i++) {
        head[count++] = nv_of(call->reply_headers.rows[i].name, call->reply_headers.rows[i].value);
    }
    call->finished = call->submitted = true;
    call->is_grpc = false;
    call->state = CALL_DONE;
    call->deadline_us = 0;
    serve_conn_mark(call->conn);
    nghttp2_data_provider provider = {.source.ptr = call, .read_callback = on_body_read};
    bool with_body = !bodiless && body.len > 0 && !call->is_head;
    if ((with_body && !enqueue(call, body, blob, false)) ||
        nghttp2_submit_response(
            call->conn->session, call->stream_id, head, count, with_body ? &provider : NULL) != 0) {
        reset(call, NGHTTP2_INTERNAL_ERROR);
    }
}
