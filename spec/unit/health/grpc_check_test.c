/* links: shm http base */
/* The client of a health check against a server of nghttp2's, byte for byte in memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <nghttp2/nghttp2.h>

#include "core/base/strbuf.h"
#include "core/health/grpc_check.h"

struct answer {
    const char *status, *type;
    const char *code; /* grpc-status in trailers, or in the head where there is no body; NULL: none */
    const char *body;
    size_t body_len;
    bool resets; /* the stream, instead of an answer */
};

struct server {
    nghttp2_session *session;
    const struct answer *answer;
    struct strbuf seen, body;
    size_t sent;
};

static ssize_t
on_body(nghttp2_session *session, int32_t stream, uint8_t *to, size_t room, uint32_t *flags,
    nghttp2_data_source *source, void *context)
{
    struct server *server = context;
    (void)source;
    size_t n = server->answer->body_len - server->sent;
    if (n > room) n = room;
    memcpy(to, server->answer->body + server->sent, n);
    server->sent += n;
    if (server->sent < server->answer->body_len) return (ssize_t)n;
    *flags |= NGHTTP2_DATA_FLAG_EOF;
    if (server->answer->code != NULL) {
        nghttp2_nv trailer = {(uint8_t *)"grpc-status", (uint8_t *)server->answer->code, 11,
            strlen(server->answer->code), NGHTTP2_NV_FLAG_NONE};
        *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
        assert_int_equal(nghttp2_submit_trailer(session, stream, &trailer, 1), 0);
    }
    return (ssize_t)n;
}

static int
on_field(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_len,
    const uint8_t *value, size_t value_len, uint8_t flags, void *context)
{
    struct server *server = context;
    (void)session, (void)frame, (void)flags;
    strbuf_printf(
        &server->seen, "%.*s=%.*s\n", (int)name_len, (const char *)name, (int)value_len, (const char *)value);
    return 0;
}

static int
on_bytes(
    nghttp2_session *session, uint8_t flags, int32_t stream, const uint8_t *data, size_t len, void *context)
{
    struct server *server = context;
    (void)session, (void)flags, (void)stream;
    strbuf_add(&server->body, data, len);
    return 0;
}

static int
on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *context)
{
    struct server *server = context;
    const struct answer *answer = server->answer;
    if (frame->hd.stream_id == 0 || (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) == 0) return 0;
    if (answer->resets) {
        nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_REFUSED_STREAM);
        return 0;
    }
    nghttp2_nv head[3] = {
        {(uint8_t *)":status", (uint8_t *)answer->status, 7, strlen(answer->status), NGHTTP2_NV_FLAG_NONE},
        {(uint8_t *)"content-type", (uint8_t *)answer->type, 12, strlen(answer->type), NGHTTP2_NV_FLAG_NONE}};
    size_t rows = 2;
    if (answer->body == NULL && answer->code != NULL)
        head[rows++] = (nghttp2_nv){(uint8_t *)"grpc-status", (uint8_t *)answer->code, 11,
            strlen(answer->code), NGHTTP2_NV_FLAG_NONE};
    nghttp2_data_provider body = {.read_callback = on_body};
    nghttp2_submit_response(session, frame->hd.stream_id, head, rows, answer->body == NULL ? NULL : &body);
    return 0;
}

static void
server_init(struct server *server, const struct answer *answer)
{
    nghttp2_session_callbacks *callbacks;
    *server = (struct server){.answer = answer};
    assert_int_equal(nghttp2_session_callbacks_new(&callbacks), 0);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_field);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_bytes);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
    assert_int_equal(nghttp2_session_server_new(&server->session, callbacks, server), 0);
    nghttp2_session_callbacks_del(callbacks);
    nghttp2_submit_settings(server->session, NGHTTP2_FLAG_NONE, NULL, 0);
}

static void
server_fini(struct server *server)
{
    nghttp2_session_del(server->session);
    strbuf_fini(&server->seen);
    strbuf_fini(&server->body);
}

/* The whole exchange, the answer in pieces of `piece` bytes. */
static struct grpc_answer
exchange(struct server *server, const char *service, size_t piece)
{
    struct grpc_check *check = grpc_check_new("a:1", service);
    struct slice bytes;
    assert_non_null(check);
    for (int turn = 0; turn < 8; turn++) {
        while (grpc_check_send(check, &bytes) && bytes.len > 0)
            assert_int_equal(
                nghttp2_session_mem_recv(server->session, (const uint8_t *)bytes.at, bytes.len), bytes.len);
        const uint8_t *at;
        ssize_t n;
        while ((n = nghttp2_session_mem_send(server->session, &at)) > 0) {
            for (size_t i = 0; i < (size_t)n; i += piece) {
                size_t len = (size_t)n - i < piece ? (size_t)n - i : piece;
                assert_true(grpc_check_receive(check, (struct slice){(const char *)at + i, len}));
            }
        }
    }
    assert_non_null(grpc_check_answer(check));
    struct grpc_answer answer = *grpc_check_answer(check);
    grpc_check_free(check);
    return answer;
}

#define GRPC       "application/grpc"
#define BODY(text) text, sizeof(text) - 1

static void
takes_the_answer_for_what_it_says(void **state)
{
    static const struct {
        struct answer answer;
        bool is_serving;
        int code;
        const char *detail;
    } rows[] = {
        {{"200", GRPC, "0", BODY("\0\0\0\0\2\x08\1"), false}, true, 0, "SERVING"},
        {{"200", GRPC "+proto", "0", BODY("\0\0\0\0\2\x08\2"), false}, false, 0, "NOT_SERVING"},
        {{"200", GRPC, "0", BODY("\0\0\0\0\2\x08\3"), false}, false, 0, "SERVICE_UNKNOWN"},
        {{"200", GRPC, "0", BODY("\0\0\0\0\0"), false}, false, 0, "UNKNOWN"},
        {{"200", GRPC, "0", BODY("\0\0\0\0\2\x08\x09"), false}, false, 0, "serving status 9"},
        {{"200", GRPC, "5", NULL, 0, false}, false, 5, "the service is not known there (NOT_FOUND)"},
        {{"200", GRPC, "12", NULL, 0, false}, false, 12, "it has no grpc.health.v1 (UNIMPLEMENTED)"},
        {{"200", GRPC, "14", NULL, 0, false}, false, 14, "grpc-status 14"},
        {{"200", GRPC, "2", BODY("\0\0\0\0\2\x08\1"), false}, false, 2, "grpc-status 2"},
        {{"404", "text/html", NULL, BODY("no"), false}, false, -1, "HTTP status 404"},
        {{"200", "text/html", NULL, BODY("hello"), false}, false, -1, "an answer that is not gRPC"},
        {{"200", GRPC, NULL, BODY("\0\0\0\0\2\x08\1"), false}, false, -1, "an answer without grpc-status"},
        {{"200", GRPC, "x", BODY("\0\0\0\0\2\x08\1"), false}, false, -1, "an answer without grpc-status"},
        {{"200", GRPC, "0", NULL, 0, false}, false, 0, "no message that can be read"},
        {{"200", GRPC, "0", BODY("\1\0\0\0\2\x08\1"), false}, false, 0, "no message that can be read"},
        {{"200", GRPC, "0", BODY("\0\0\0\0\3\x08\1"), false}, false, 0, "no message that can be read"},
        {{"200", GRPC, "0", BODY("\0\xff\xff\xff\xff\x08\1"), false}, false, 0,
            "no message that can be read"},
        {{"200", GRPC, "0", BODY("\0\0\0\0\2\x08\xff"), false}, false, 0, "no message that can be read"},
        {{"200", GRPC, "0", BODY("\0\0"), false}, false, 0, "no message that can be read"},
        {{"200", GRPC, NULL, NULL, 0, true}, false, -1, "the stream was reset: REFUSED_STREAM"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        for (size_t piece = 1; piece < 5000; piece = piece * 3 + 1) { /* 1, 4, 13, …: whole */
            struct server server;
            server_init(&server, &rows[i].answer);
            struct grpc_answer got = exchange(&server, "", piece);
            assert_string_equal(got.detail, rows[i].detail);
            assert_int_equal(got.is_serving, rows[i].is_serving);
            assert_int_equal(got.code, rows[i].code);
            server_fini(&server);
        }
    }
}

static void
asks_as_grpc_asks(void **state)
{
    static const struct answer answer = {"200", GRPC, "0", BODY("\0\0\0\0\2\x08\1"), false};
    struct server server;
    (void)state;
    server_init(&server, &answer);
    assert_true(exchange(&server, "shop.v1.Basket", 1000).is_serving);
    assert_string_equal(server.seen.at,
        ":method=POST\n:scheme=http\n:path=/grpc.health.v1.Health/Check\n:authority=a:1\nte=trailers\n"
        "content-type=application/grpc\nuser-agent=fluxgate-health/" FLUXGATE_VERSION "\n");
    assert_int_equal(server.body.len, 5 + 2 + 14);
    assert_memory_equal(server.body.at, "\0\0\0\0\x10\x0a\x0eshop.v1.Basket", 21);
    server_fini(&server);
}

static void
keeps_no_more_of_an_endless_answer_than_it_needs(void **state)
{
    static char much[200000];
    static const struct answer answer = {"200", GRPC, "0", much, sizeof much, false};
    struct server server;
    (void)state;
    server_init(&server, &answer);
    struct grpc_answer got = exchange(&server, "", 5000);
    assert_string_equal(got.detail, "no message that can be read");
    server_fini(&server);
}

static void
refuses_what_is_no_http2(void **state)
{
    struct grpc_check *check = grpc_check_new("a:1", "");
    (void)state;
    assert_non_null(check);
    struct slice bytes;
    do
        assert_true(grpc_check_send(check, &bytes));
    while (bytes.len > 0);
    if (grpc_check_receive(check, SLICE_LIT("HTTP/1.1 400 Bad Request\r\n\r\n"))) {
        while (grpc_check_send(check, &bytes))
            assert_true(bytes.len > 0); /* why it goes */
    }
    assert_null(grpc_check_answer(check));
    grpc_check_free(check);
    grpc_check_free(NULL);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_the_answer_for_what_it_says),
        cmocka_unit_test(asks_as_grpc_asks),
        cmocka_unit_test(keeps_no_more_of_an_endless_answer_than_it_needs),
        cmocka_unit_test(refuses_what_is_no_http2),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
