#include "core/health/grpc_check.h"

#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/strbuf.h"
#include "core/base/text.h"
#include "proto/health.pb-c.h"

enum {
    PREFIX = 5, /* before a message: is it compressed, and its length */
    BODY_BYTES = 1024,
    STATUS_NONE = -1,
};

struct grpc_check {
    nghttp2_session *session;
    int32_t stream;
    struct strbuf request;
    size_t sent;
    int http_status, code;
    bool is_grpc; /* its content-type says so */
    uint8_t body[BODY_BYTES];
    size_t body_len;
    bool is_closed, is_too_long;
    struct grpc_answer answer;
};

static ssize_t
on_request_body(nghttp2_session *session, int32_t stream, uint8_t *to, size_t room, uint32_t *flags,
    nghttp2_data_source *source, void *context)
{
    struct grpc_check *check = context;
    size_t left = check->request.len - check->sent, n = left < room ? left : room;
    (void)session, (void)stream, (void)source;
    if (n > 0) memcpy(to, check->request.at + check->sent, n);
    check->sent += n;
    if (check->sent == check->request.len) *flags |= NGHTTP2_DATA_FLAG_EOF;
    return (ssize_t)n;
}

static int
number_of(struct slice text)
{
    uint64_t number;
    return text_parse_u64(text, 999, &number) ? (int)number : STATUS_NONE;
}

/* Of the head and of the trailers alike: an answer without a message has all in one. */
static int
on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_len,
    const uint8_t *value, size_t value_len, uint8_t flags, void *context)
{
    struct grpc_check *check = context;
    struct slice key = {(const char *)name, name_len}, text = {(const char *)value, value_len};
    (void)session, (void)flags;
    if (frame->hd.stream_id != check->stream) return 0;
    if (slice_equal(key, SLICE_LIT(":status"))) check->http_status = number_of(text);
    if (slice_equal(key, SLICE_LIT("grpc-status"))) check->code = number_of(text);
    if (slice_equal(key, SLICE_LIT("content-type")))
        check->is_grpc = slice_starts_with(text, SLICE_LIT("application/grpc"));
    return 0;
}

static int
on_data(
    nghttp2_session *session, uint8_t flags, int32_t stream, const uint8_t *data, size_t len, void *context)
{
    struct grpc_check *check = context;
    (void)session, (void)flags;
    if (stream != check->stream) return 0;
    size_t room = sizeof check->body - check->body_len, n = len < room ? len : room;
    memcpy(check->body + check->body_len, data, n);
    check->body_len += n;
    if (n < len) check->is_too_long = true;
    return 0;
}

/* The one message of the answer, as the service's status. */
static void
read_message(struct grpc_check *check)
{
    static const char *const words[] = {"UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"};
    struct grpc_answer *answer = &check->answer;
    const uint8_t *at = check->body;
    size_t len =
        check->body_len < PREFIX ? 0 : (size_t)at[1] << 24 | (size_t)at[2] << 16 | (size_t)at[3] << 8 | at[4];
    Grpc__Health__V1__HealthCheckResponse *message = NULL;
    if (!check->is_too_long && check->body_len >= PREFIX && at[0] == 0 && len == check->body_len - PREFIX)
        message = grpc__health__v1__health_check_response__unpack(NULL, len, at + PREFIX);
    if (message == NULL) {
        snprintf(answer->detail, sizeof answer->detail, "no message that can be read");
        return;
    }
    unsigned status = (unsigned)message->status;
    answer->is_serving = status == GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;
    if (status < sizeof words / sizeof words[0])
        snprintf(answer->detail, sizeof answer->detail, "%s", words[status]);
    else
        snprintf(answer->detail, sizeof answer->detail, "serving status %u", status);
    grpc__health__v1__health_check_response__free_unpacked(message, NULL);
}

static int
on_stream_close(nghttp2_session *session, int32_t stream, uint32_t error, void *context)
{
    struct grpc_check *check = context;
    struct grpc_answer *answer = &check->answer;
    (void)session;
    if (stream != check->stream) return 0;
    check->is_closed = true;
    answer->code = check->code;
    if (check->http_status == 0) {
        snprintf(
            answer->detail, sizeof answer->detail, "the stream was reset: %s", nghttp2_http2_strerror(error));
    } else if (check->http_status != 200) {
        snprintf(answer->detail, sizeof answer->detail, "HTTP status %d", check->http_status);
    } else if (!check->is_grpc) {
        snprintf(answer->detail, sizeof answer->detail, "an answer that is not gRPC");
    } else if (check->code == STATUS_NONE) {
        snprintf(answer->detail, sizeof answer->detail, "an answer without grpc-status");
    } else if (check->code == 5) { /* NOT_FOUND: the protocol's word for a service that it does not know */
        snprintf(answer->detail, sizeof answer->detail, "the service is not known there (NOT_FOUND)");
    } else if (check->code == 12) {
        snprintf(answer->detail, sizeof answer->detail, "it has no grpc.health.v1 (UNIMPLEMENTED)");
    } else if (check->code != 0) {
        snprintf(answer->detail, sizeof answer->detail, "grpc-status %d", check->code);
    } else {
        read_message(check);
    }
    return 0;
}

static bool
request_write(struct grpc_check *check, const char *service)
{
    Grpc__Health__V1__HealthCheckRequest message = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    message.service = (char *)service; /* read alone */
    size_t len = grpc__health__v1__health_check_request__get_packed_size(&message);
    uint8_t prefix[PREFIX] = {
        0, (uint8_t)(len >> 24), (uint8_t)(len >> 16), (uint8_t)(len >> 8), (uint8_t)len};
    uint8_t *packed = malloc(len + 1);
    if (packed == NULL) return false;
    grpc__health__v1__health_check_request__pack(&message, packed);
    strbuf_add(&check->request, prefix, sizeof prefix);
    strbuf_add(&check->request, packed, len);
    free(packed);
    return !check->request.failed;
}

static bool
session_make(struct grpc_check *check)
{
    nghttp2_session_callbacks *callbacks;
    if (nghttp2_session_callbacks_new(&callbacks) != 0) return false;
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
    bool made = nghttp2_session_client_new(&check->session, callbacks, check) == 0;
    nghttp2_session_callbacks_del(callbacks);
    return made;
}

#define FIELD(name, value, len)                                                                              \
    {                                                                                                        \
        (uint8_t *)(name), (uint8_t *)(value), sizeof(name) - 1, len, NGHTTP2_NV_FLAG_NONE                   \
    }
#define FIELD_LIT(name, value) FIELD(name, value, sizeof(value) - 1)

static bool
call_submit(struct grpc_check *check, const char *authority)
{
    const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_ENABLE_PUSH, 0}};
    const nghttp2_nv head[] = {FIELD_LIT(":method", "POST"), FIELD_LIT(":scheme", "http"),
        FIELD_LIT(":path", "/grpc.health.v1.Health/Check"), FIELD(":authority", authority, strlen(authority)),
        FIELD_LIT("te", "trailers"), FIELD_LIT("content-type", "application/grpc"),
        FIELD_LIT("user-agent", "fluxgate-health/" FLUXGATE_VERSION)};
    nghttp2_data_provider body = {.read_callback = on_request_body};
    if (nghttp2_submit_settings(check->session, NGHTTP2_FLAG_NONE, settings, 1) != 0) return false;
    check->stream =
        nghttp2_submit_request(check->session, NULL, head, sizeof head / sizeof head[0], &body, check);
    return check->stream > 0;
}

struct grpc_check *
grpc_check_new(const char *authority, const char *service)
{
    struct grpc_check *check = calloc(1, sizeof *check);
    if (check == NULL) return NULL;
    check->code = check->answer.code = STATUS_NONE;
    if (request_write(check, service) && session_make(check) && call_submit(check, authority)) return check;
    grpc_check_free(check);
    return NULL;
}

void
grpc_check_free(struct grpc_check *check)
{
    if (check == NULL) return;
    nghttp2_session_del(check->session);
    strbuf_fini(&check->request);
    free(check);
}

bool
grpc_check_send(struct grpc_check *check, struct slice *bytes)
{
    const uint8_t *at = NULL;
    ssize_t n = nghttp2_session_mem_send(check->session, &at);
    *bytes = n > 0 ? (struct slice){(const char *)at, (size_t)n} : (struct slice){NULL, 0};
    if (n != 0) return n > 0;
    return check->is_closed || nghttp2_session_want_read(check->session) != 0; /* 0: it has said GOAWAY */
}

bool
grpc_check_receive(struct grpc_check *check, struct slice bytes)
{
    ssize_t n = nghttp2_session_mem_recv(check->session, (const uint8_t *)bytes.at, bytes.len);
    return n >= 0 && (size_t)n == bytes.len;
}

const struct grpc_answer *
grpc_check_answer(const struct grpc_check *check)
{
    return check->is_closed ? &check->answer : NULL;
}
