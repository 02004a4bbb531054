/* core/serve/call.c: one request's memory and owner, and the reply functions that both protocols share. */
#include <stdlib.h>
#include <string.h>

#include "core/serve/serve_internal.h"

struct serve_call *
call_new(struct serve_conn *conn)
{
    struct serve *serve = conn->serve;
    struct serve_call *call = serve->free_calls;
    if (call != NULL) {
        serve->free_calls = call->next;
        serve->free_call_count--;
        struct arena arena = call->arena;
        struct strbuf body = call->body;
        memset(call, 0, sizeof *call);
        call->arena = arena;
        call->body = body;
    } else {
        call = calloc(1, sizeof *call);
        if (call == NULL) return NULL;
        arena_init(&call->arena, CALL_CHUNK_BYTES);
    }
    call->serve = serve;
    call->conn = conn;
    call->next = conn->calls;
    if (call->next != NULL) call->next->prev = call;
    conn->calls = call;
    return call;
}

static void
call_unlink(struct serve_call *call)
{
    struct serve_conn *conn = call->conn;
    if (conn == NULL) return;
    call_forget_body(call);
    if (call->prev != NULL) call->prev->next = call->next;
    if (call->next != NULL) call->next->prev = call->prev;
    if (conn->calls == call) conn->calls = call->next;
    call->prev = call->next = NULL;
    call->conn = NULL;
}

void
call_free(struct serve_call *call)
{
    struct serve *serve = call->serve;
    call_unlink(call);
    while (call->first != NULL) {
        struct out_message *message = call->first;
        call->first = message->next;
        serve_blob_put(message->blob);
        free(message);
    }
    if (serve == NULL || serve->free_call_count >= FREE_MAX) {
        arena_fini(&call->arena);
        strbuf_fini(&call->body);
        free(call);
        return;
    }
    arena_reset(&call->arena);
    if (call->body.cap > BODY_KEEP_BYTES) strbuf_fini(&call->body);
    call->body.failed = false;
    strbuf_clear(&call->body);
    call->next = serve->free_calls;
    serve->free_calls = call;
    serve->free_call_count++;
}

void
call_gone(struct serve_call *call)
{
    if (call->state != CALL_HELD) {
        call_free(call);
    } else if (call->gone != NULL) {
        void (*gone)(void *) = call->gone;
        call->gone = NULL;
        gone(call->gone_context);
        call_free(call);
    } else {
        call_unlink(call);
        call->serve = NULL;
    }
}

bool
call_add_body(struct serve_call *call, struct slice bytes)
{
    struct serve *serve = call->serve;
    if (serve->buffered + bytes.len > BUFFERED_MAX_BYTES) return false;
    strbuf_add_slice(&call->body, bytes);
    if (call->body.failed) return false;
    call->buffered += bytes.len;
    call->conn->buffered += bytes.len;
    serve->buffered += bytes.len;
    return true;
}

void
call_forget_body(struct serve_call *call)
{
    if (call->conn == NULL) return;
    call->conn->buffered -= call->buffered;
    call->serve->buffered -= call->buffered;
    call->buffered = 0;
}

/* ---- the public half ---- */

struct serve_blob *
serve_blob_new(struct slice bytes)
{
    struct serve_blob *blob;
    if (bytes.len > SIZE_MAX - sizeof *blob) return NULL;
    blob = malloc(sizeof *blob + bytes.len);
    if (blob == NULL) return NULL;
    blob->refs = 1;
    blob->len = bytes.len;
    if (bytes.len > 0) memcpy(blob->bytes, bytes.at, bytes.len);
    return blob;
}

struct serve_blob *
serve_blob_get(struct serve_blob *blob)
{
    blob->refs++;
    return blob;
}

void
serve_blob_put(struct serve_blob *blob)
{
    if (blob != NULL && --blob->refs == 0) free(blob);
}

/* True where the reply has somewhere to go. An orphan ends here: its owner is done with it. */
static bool
call_takes_reply(struct serve_call *call)
{
    if (call->conn == NULL) {
        call_free(call);
        return false;
    }
    return call->state == CALL_HELD;
}

static void
reply(
    struct serve_call *call, int status, const char *content_type, struct slice body, struct serve_blob *blob)
{
    if (!call_takes_reply(call)) return;
    if (call->conn->session != NULL) {
        http2_reply(call, status, content_type, body, blob);
    } else {
        http1_reply(call, status, content_type, body, blob);
    }
}

void
serve_reply(struct serve_call *call, int status, const char *content_type, struct slice body)
{
    reply(call, status, content_type, body, NULL);
}

void
serve_reply_blob(struct serve_call *call, int status, const char *content_type, struct serve_blob *body)
{
    reply(call, status, content_type, (struct slice){body->bytes, body->len}, body);
}

void
serve_header(struct serve_call *call, const char *name, const char *value)
{
    struct slice n = slice_of(name), v = slice_of(value);
    if (call->conn == NULL || !header_name_is_valid(n) || !header_value_is_valid(v)) return;
    char *name_copy = arena_strdup(&call->arena, n), *value_copy = arena_strdup(&call->arena, v);
    if (name_copy == NULL || value_copy == NULL) return;
    for (char *c = name_copy; *c != '\0'; c++)
        *c = (char)ascii_lower((unsigned char)*c); /* RFC 9113 §8.2 */
    n.at = name_copy;
    v.at = value_copy;
    if (!headers_add(&call->reply_headers, &call->arena, header_identify(n), n, v)) return;
}

void
serve_send(struct serve_call *call, struct slice message)
{
    if (call->conn == NULL || call->state != CALL_HELD || call->conn->session == NULL) return;
    http2_send(call, message, NULL);
}

void
serve_send_blob(struct serve_call *call, struct serve_blob *message)
{
    if (call->conn == NULL || call->state != CALL_HELD || call->conn->session == NULL) return;
    http2_send(call, SLICE_NONE, message);
}

void
serve_finish(struct serve_call *call, enum grpc_code code, const char *message)
{
    if (!call_takes_reply(call)) return;
    if (call->conn->session == NULL || !call->is_grpc) {
        reply(call, code == GRPC_OK ? 200 : 500, "text/plain", slice_of(message), NULL);
        return;
    }
    http2_finish(call, code, message);
}

size_t
serve_pending_bytes(const struct serve_call *call)
{
    if (call->conn == NULL) return 0;
    return call->conn->session != NULL ? call->queued : serve_conn_pending(call->conn);
}

void
serve_on_gone(struct serve_call *call, void (*gone)(void *context), void *context)
{
    call->gone = gone;
    call->gone_context = context;
}

void
serve_on_message(
    struct serve_call *call, void (*message)(void *context, struct slice bytes, bool end), void *context)
{
    call->message = message;
    call->message_context = context;
}

static int
hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    c = (char)ascii_lower((unsigned char)c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool
serve_decode(struct arena *arena, struct slice segment, struct slice *out)
{
    char *copy;
    size_t n = 0;
    copy = arena_alloc(arena, segment.len + 1);
    if (copy == NULL) return false;
    for (size_t i = 0; i < segment.len; i++) {
        char c = segment.at[i];
        if (c == '%') {
            int high = i + 2 < segment.len ? hex_digit(segment.at[i + 1]) : -1;
            int low = i + 2 < segment.len ? hex_digit(segment.at[i + 2]) : -1;
            if (i + 2 >= segment.len || high == -1 || low == -1) return false;
            c = (char)(high << 4 | low);
            i += 2;
        }
        if (c == '\0') return false;
        copy[n++] = c;
    }
    copy[n] = '\0';
    *out = (struct slice){copy, n};
    return true;
}
