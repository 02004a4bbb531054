/* links: net http */
/* gRPC against nghttp2's own client session, in memory on both ends of a socket pair. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
#include <nghttp2/nghttp2.h>

#include "core/base/clock.h"
#include "core/serve/serve_internal.h"

enum { STREAMS = 8 };

/* What the client saw of one stream. */
struct seen {
    struct strbuf head, body; /* "name: value\n" of head and trailers */
    bool closed;
    uint32_t error;
};

struct fixture {
    struct event_base *base;
    struct serve *serve;
    int fd;
    nghttp2_session *client;
    struct seen seen[STREAMS]; /* by (stream id - 1) / 2 */
    uint32_t goaway;           /* 1 + its error code */
    struct serve_call *held;
    unsigned gone, calls, messages;
    bool ended;
    struct serve_blob *blob;
    struct strbuf got;
};

static void
on_gone(void *context)
{
    struct fixture *f = context;
    f->gone++;
    f->held = NULL;
}

static void
on_message(void *context, struct slice bytes, bool end)
{
    struct fixture *f = context;
    if (end) {
        f->ended = true;
        serve_finish(f->held, GRPC_OK, NULL);
        return;
    }
    f->messages++;
    serve_send(f->held, bytes);
}

static void
on_request(void *context, struct serve_call *call, const struct serve_request *request)
{
    struct fixture *f = context;
    f->calls++;
    strbuf_add_slice(&f->got, request->body);
    if (!request->is_grpc) {
        serve_header(call, "X-Plain", "yes");
        serve_reply(call, 200, "text/plain", request->path);
    } else if (slice_equal(request->path, SLICE_LIT("/hold"))) {
        f->held = call;
        serve_on_gone(call, on_gone, f);
    } else if (slice_equal(request->path, SLICE_LIT("/bidi"))) {
        f->held = call;
        serve_on_gone(call, on_gone, f);
        serve_on_message(call, on_message, f);
        if (request->body.len > 0) serve_send(call, request->body);
    } else if (slice_equal(request->path, SLICE_LIT("/blob"))) {
        f->held = call;
        serve_on_gone(call, on_gone, f);
        serve_send_blob(call, f->blob);
    } else if (slice_equal(request->path, SLICE_LIT("/fail"))) {
        serve_finish(call, GRPC_INVALID_ARGUMENT, "100% \xc3\xa9\n");
    } else {
        serve_send(call, request->body);
        serve_finish(call, GRPC_OK, NULL);
    }
}

static bool
is_streaming(void *context, struct slice path)
{
    (void)context;
    return slice_equal(path, SLICE_LIT("/bidi"));
}

static struct seen *
seen_of(struct fixture *f, int32_t stream)
{
    return &f->seen[(stream - 1) / 2 % STREAMS];
}

static int
on_client_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_len,
    const uint8_t *value, size_t value_len, uint8_t flags, void *context)
{
    (void)session;
    (void)flags;
    strbuf_printf(&seen_of(context, frame->hd.stream_id)->head, "%.*s: %.*s\n", (int)name_len, name,
        (int)value_len, value);
    return 0;
}

static int
on_client_data(
    nghttp2_session *session, uint8_t flags, int32_t stream, const uint8_t *data, size_t len, void *context)
{
    (void)session;
    (void)flags;
    strbuf_add(&seen_of(context, stream)->body, data, len);
    return 0;
}

static int
on_client_close(nghttp2_session *session, int32_t stream, uint32_t error, void *context)
{
    (void)session;
    seen_of(context, stream)->closed = true;
    seen_of(context, stream)->error = error;
    return 0;
}

static int
on_client_frame(nghttp2_session *session, const nghttp2_frame *frame, void *context)
{
    struct fixture *f = context;
    (void)session;
    if (frame->hd.type == NGHTTP2_GOAWAY) f->goaway = 1 + frame->goaway.error_code;
    return 0;
}

static void
dial(struct fixture *f, bool window_is_ours)
{
    const struct sockaddr peer = {.sa_family = AF_UNIX};
    nghttp2_session_callbacks *callbacks;
    nghttp2_option *option;
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    serve_conn_accept(f->serve, pair[0], &peer);
    f->fd = pair[1];
    assert_int_equal(nghttp2_session_callbacks_new(&callbacks), 0);
    assert_int_equal(nghttp2_option_new(&option), 0);
    nghttp2_option_set_no_auto_window_update(option, window_is_ours);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_client_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_client_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_client_close);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_client_frame);
    assert_int_equal(nghttp2_session_client_new2(&f->client, callbacks, f, option), 0);
    nghttp2_session_callbacks_del(callbacks);
    nghttp2_option_del(option);
    assert_int_equal(nghttp2_submit_settings(f->client, 0, NULL, 0), 0);
}

static int
setup_with(void **state, enum serve_protocol protocol)
{
    static const struct serve_limits limits = {.body_bytes = 70000, .header_us = 50000, .idle_us = 10000000};
    struct fixture *f = calloc(1, sizeof *f);
    if (f == NULL) return -1;
    f->base = event_base_new();
    f->serve = serve_new(f->base, protocol, &limits, on_request, f);
    if (f->serve == NULL) return -1;
    serve_set_streaming(f->serve, is_streaming);
    f->fd = -1;
    *state = f;
    return 0;
}

static int
setup(void **state)
{
    return setup_with(state, SERVE_GRPC);
}

static int
setup_both(void **state)
{
    return setup_with(state, SERVE_BOTH);
}

static int
teardown(void **state)
{
    struct fixture *f = *state;
    serve_free(f->serve);
    nghttp2_session_del(f->client);
    if (f->fd != -1) close(f->fd);
    serve_blob_put(f->blob);
    event_base_free(f->base);
    for (size_t i = 0; i < STREAMS; i++) {
        strbuf_fini(&f->seen[i].head);
        strbuf_fini(&f->seen[i].body);
    }
    strbuf_fini(&f->got);
    free(f);
    return 0;
}

/* Client's frames out `step` bytes at a time, the server's turn, its frames in. */
static void
turn(struct fixture *f, size_t step)
{
    struct timeval brief = {0, 500};
    char bytes[65536];
    const uint8_t *data;
    ssize_t n;
    while (f->client != NULL && (n = nghttp2_session_mem_send(f->client, &data)) > 0) {
        for (ssize_t at = 0; at < n;) {
            size_t part = step == 0 || (size_t)(n - at) < step ? (size_t)(n - at) : step;
            ssize_t sent = send(f->fd, data + at, part, MSG_NOSIGNAL);
            if (sent == -1 && errno != EAGAIN) return;
            if (sent > 0) at += sent;
            event_base_loop(f->base, EVLOOP_NONBLOCK);
        }
    }
    event_base_loopexit(f->base, &brief);
    event_base_dispatch(f->base);
    while ((n = recv(f->fd, bytes, sizeof bytes, 0)) > 0) {
        if (f->client != NULL)
            assert_true(nghttp2_session_mem_recv(f->client, (const uint8_t *)bytes, (size_t)n) == n);
    }
}

struct upload {
    struct strbuf bytes;
    size_t at;
    bool open; /* leaves the stream open at the end */
};

static ssize_t
on_upload(nghttp2_session *session, int32_t stream, uint8_t *out, size_t room, uint32_t *flags,
    nghttp2_data_source *source, void *context)
{
    struct upload *upload = source->ptr;
    size_t n = upload->bytes.len - upload->at;
    (void)session;
    (void)stream;
    (void)context;
    if (n > room) n = room;
    if (n > 0) memcpy(out, upload->bytes.at + upload->at, n);
    upload->at += n;
    if (upload->at == upload->bytes.len) {
        if (!upload->open) *flags |= NGHTTP2_DATA_FLAG_EOF;
        if (upload->open && n == 0) return NGHTTP2_ERR_DEFERRED;
    }
    return (ssize_t)n;
}

static void
add_message(struct upload *upload, char flag, uint32_t announced, struct slice bytes)
{
    const char prefix[5] = {
        flag, (char)(announced >> 24), (char)(announced >> 16), (char)(announced >> 8), (char)announced};
    strbuf_add(&upload->bytes, prefix, sizeof prefix);
    strbuf_add_slice(&upload->bytes, bytes);
}

static int32_t
ask(struct fixture *f, const char *method, const char *path, const char *type, const char *timeout,
    struct upload *upload)
{
    const char *const rows[][2] = {{":method", method}, {":scheme", "http"}, {":authority", "x"},
        {":path", path}, {"content-type", type}, {"grpc-timeout", timeout}};
    nghttp2_nv nv[6];
    size_t count = 0;
    for (size_t i = 0; i < 6; i++) {
        if (rows[i][1] == NULL) continue;
        nv[count++] = (nghttp2_nv){(uint8_t *)rows[i][0], (uint8_t *)rows[i][1], strlen(rows[i][0]),
            strlen(rows[i][1]), NGHTTP2_NV_FLAG_NONE};
    }
    nghttp2_data_provider provider = {.source.ptr = upload, .read_callback = on_upload};
    int32_t stream =
        nghttp2_submit_request(f->client, NULL, nv, count, upload == NULL ? NULL : &provider, NULL);
    assert_true(stream > 0);
    return stream;
}

static struct seen *
await_close(struct fixture *f, int32_t stream)
{
    for (uint64_t end = clock_now_us() + 5000000; !seen_of(f, stream)->closed && clock_now_us() < end;)
        turn(f, 0);
    assert_true(seen_of(f, stream)->closed);
    return seen_of(f, stream);
}

static void
assert_head(const struct seen *seen, const char *line)
{
    if (seen->head.at == NULL || strstr(seen->head.at, line) == NULL)
        fail_msg("%s lacks %s", seen->head.at, line);
}

static void
echoes_a_message_however_it_is_cut(void **state)
{
    struct fixture *f = *state;
    for (size_t step = 0; step < 40; step++) {
        struct upload upload = {0};
        if (f->fd != -1) close(f->fd);
        nghttp2_session_del(f->client);
        memset(f->seen, 0, sizeof f->seen);
        dial(f, false);
        add_message(&upload, 0, 5, SLICE_LIT("hello"));
        int32_t stream = ask(f, "POST", "/echo", "application/grpc+proto", NULL, &upload);
        turn(f, step);
        struct seen *seen = await_close(f, stream);
        assert_head(seen, ":status: 200\n");
        assert_head(seen, "content-type: application/grpc\n");
        assert_head(seen, "grpc-status: 0\n");
        assert_int_equal(seen->body.len, 10);
        assert_memory_equal(seen->body.at, "\0\0\0\0\5hello", 10);
        assert_int_equal(seen->error, 0);
        strbuf_fini(&upload.bytes);
        strbuf_fini(&seen->head);
        strbuf_fini(&seen->body);
    }
}

static void
ends_a_bad_message_with_the_status_it_deserves(void **state)
{
    struct fixture *f = *state;
    static const struct {
        char flag;
        uint32_t announced;
        size_t bytes;
        const char *status;
    } rows[] = {
        {1, 3, 3, "grpc-status: 12\n"},    /* compressed */
        {0, 4, 3, "grpc-status: 13\n"},    /* cut off */
        {0, 2, 3, "grpc-status: 13\n"},    /* something behind it */
        {0, 70001, 3, "grpc-status: 8\n"}, /* too large, by its own word */
        {0, 70001, 70001, "grpc-status: 8\n"},
        {0, UINT32_MAX, 100000, "grpc-status: 8\n"},
        {0, 70000, 70000, "grpc-status: 0\n"},
    };
    char *filler = calloc(1, 100000);
    assert_non_null(filler);
    dial(f, false);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct upload upload = {0};
        add_message(&upload, rows[i].flag, rows[i].announced, (struct slice){filler, rows[i].bytes});
        int32_t stream = ask(f, "POST", "/echo", "application/grpc", NULL, &upload);
        struct seen *seen = await_close(f, stream);
        assert_head(seen, rows[i].status);
        assert_true(seen->error == NGHTTP2_NO_ERROR);
        strbuf_fini(&upload.bytes);
    }
    struct upload nothing = {0};
    assert_head(
        await_close(f, ask(f, "POST", "/echo", "application/grpc", NULL, &nothing)), "grpc-status: 13\n");
    assert_int_equal(f->calls, 1);
    free(filler);
}

static void
refuses_what_is_not_grpc(void **state)
{
    struct fixture *f = *state;
    dial(f, false);
    assert_head(await_close(f, ask(f, "GET", "/x", "application/grpc", NULL, NULL)), ":status: 405\n");
    assert_head(await_close(f, ask(f, "POST", "/x", "application/json", NULL, NULL)), ":status: 415\n");
    assert_head(await_close(f, ask(f, "POST", "/x", "application/grpcweb", NULL, NULL)), ":status: 415\n");
    assert_head(await_close(f, ask(f, "POST", "/x", NULL, NULL, NULL)), ":status: 415\n");
    assert_int_equal(f->calls, 0);
}

static void
encodes_the_message_of_a_status(void **state)
{
    struct fixture *f = *state;
    struct upload upload = {0};
    dial(f, false);
    add_message(&upload, 0, 0, SLICE_NONE);
    struct seen *seen = await_close(f, ask(f, "POST", "/fail", "application/grpc;x=y", NULL, &upload));
    assert_head(seen, "grpc-status: 3\ngrpc-message: 100%25 %C3%A9%0A\n");
    assert_int_equal(seen->body.len, 0);
    strbuf_fini(&upload.bytes);
}

static void
streams_both_ways_before_the_client_ends(void **state)
{
    struct fixture *f = *state;
    struct upload upload = {.open = true};
    dial(f, false);
    add_message(&upload, 0, 3, SLICE_LIT("one"));
    int32_t stream = ask(f, "POST", "/bidi", "application/grpc", NULL, &upload);
    for (uint64_t end = clock_now_us() + 5000000; seen_of(f, stream)->body.len < 8 && clock_now_us() < end;)
        turn(f, 0);
    assert_memory_equal(seen_of(f, stream)->body.at, "\0\0\0\0\3one", 8);
    add_message(&upload, 0, 3, SLICE_LIT("two"));
    add_message(&upload, 0, 5, SLICE_LIT("three"));
    upload.open = false;
    assert_int_equal(nghttp2_session_resume_data(f->client, stream), 0);
    struct seen *seen = await_close(f, stream);
    assert_int_equal(f->calls, 1);
    assert_int_equal(f->messages, 2);
    assert_true(f->ended);
    assert_int_equal(seen->body.len, 8 + 8 + 10);
    assert_head(seen, "grpc-status: 0\n");
    strbuf_fini(&upload.bytes);
}

static void
a_cut_message_ends_a_stream_and_its_owner_knows(void **state)
{
    struct fixture *f = *state;
    struct upload upload = {0};
    dial(f, false);
    add_message(&upload, 0, 3, SLICE_LIT("one"));
    add_message(&upload, 0, 3, SLICE_LIT("tw"));
    assert_head(
        await_close(f, ask(f, "POST", "/bidi", "application/grpc", NULL, &upload)), "grpc-status: 13\n");
    assert_int_equal(f->gone, 1);
    strbuf_fini(&upload.bytes);
}

static void
tells_the_owner_of_a_cancel_and_of_a_lost_connection(void **state)
{
    struct fixture *f = *state;
    struct upload upload = {0}, again = {0};
    dial(f, false);
    add_message(&upload, 0, 0, SLICE_NONE);
    int32_t stream = ask(f, "POST", "/hold", "application/grpc", NULL, &upload);
    for (uint64_t end = clock_now_us() + 5000000; f->calls < 1 && clock_now_us() < end;)
        turn(f, 0);
    nghttp2_submit_rst_stream(f->client, 0, stream, NGHTTP2_CANCEL);
    for (uint64_t end = clock_now_us() + 5000000; f->gone < 1 && clock_now_us() < end;)
        turn(f, 0);
    assert_int_equal(f->gone, 1);
    add_message(&again, 0, 0, SLICE_NONE);
    ask(f, "POST", "/hold", "application/grpc", NULL, &again);
    for (uint64_t end = clock_now_us() + 5000000; f->calls < 2 && clock_now_us() < end;)
        turn(f, 0);
    shutdown(f->fd, SHUT_RDWR);
    for (uint64_t end = clock_now_us() + 5000000; f->gone < 2 && clock_now_us() < end;)
        turn(f, 0);
    assert_int_equal(f->gone, 2);
    strbuf_fini(&upload.bytes);
    strbuf_fini(&again.bytes);
}

static void
ends_a_held_call_at_the_deadline_its_client_named(void **state)
{
    struct fixture *f = *state;
    struct upload upload = {0};
    dial(f, false);
    add_message(&upload, 0, 0, SLICE_NONE);
    assert_head(
        await_close(f, ask(f, "POST", "/hold", "application/grpc", "30m", &upload)), "grpc-status: 4\n");
    assert_int_equal(f->gone, 1);
    strbuf_fini(&upload.bytes);
}

static void
ends_a_request_that_never_ends(void **state)
{
    struct fixture *f = *state;
    struct upload upload = {.open = true};
    dial(f, false);
    strbuf_add(&upload.bytes, "\0\0\0", 3);
    assert_head(
        await_close(f, ask(f, "POST", "/echo", "application/grpc", NULL, &upload)), "grpc-status: 4\n");
    assert_int_equal(f->calls, 0);
    strbuf_fini(&upload.bytes);
}

static void
sends_no_more_than_the_window_lets_it(void **state)
{
    struct fixture *f = *state;
    struct upload upload = {0};
    enum { BIG = 1 << 20, WINDOW = 65535 };
    char *big = calloc(1, BIG);
    assert_non_null(big);
    f->blob = serve_blob_new((struct slice){big, BIG});
    free(big);
    dial(f, true);
    add_message(&upload, 0, 0, SLICE_NONE);
    int32_t stream = ask(f, "POST", "/blob", "application/grpc", NULL, &upload);
    struct seen *seen = seen_of(f, stream);
    for (uint64_t end = clock_now_us() + 5000000; seen->body.len < WINDOW && clock_now_us() < end;)
        turn(f, 0);
    for (int i = 0; i < 20; i++)
        turn(f, 0);
    assert_int_equal(seen->body.len, WINDOW);
    assert_int_equal(serve_pending_bytes(f->held), BIG + 5 - WINDOW);
    assert_int_equal(f->blob->refs, 2);
    size_t consumed = 0;
    serve_finish(f->held, GRPC_OK, NULL);
    for (uint64_t end = clock_now_us() + 5000000; !seen->closed && clock_now_us() < end;) {
        nghttp2_session_consume(f->client, stream, seen->body.len - consumed);
        consumed = seen->body.len;
        turn(f, 0);
    }
    assert_int_equal(seen->body.len, BIG + 5);
    assert_int_equal(f->blob->refs, 1);
    assert_head(seen, "grpc-status: 0\n");
    strbuf_fini(&upload.bytes);
}

static void
on_drained(void *context)
{
    ((struct fixture *)context)->ended = true;
}

static void
drains_with_a_goaway_and_without_cutting_a_call(void **state)
{
    struct fixture *f = *state;
    struct upload upload = {0};
    dial(f, false);
    add_message(&upload, 0, 0, SLICE_NONE);
    int32_t stream = ask(f, "POST", "/hold", "application/grpc", NULL, &upload);
    for (uint64_t end = clock_now_us() + 5000000; f->calls < 1 && clock_now_us() < end;)
        turn(f, 0);
    serve_drain(f->serve, 60000000, on_drained, f);
    for (uint64_t end = clock_now_us() + 5000000; f->goaway == 0 && clock_now_us() < end;)
        turn(f, 0);
    assert_int_equal(f->goaway, 1 + NGHTTP2_NO_ERROR);
    assert_false(f->ended);
    serve_finish(f->held, GRPC_UNAVAILABLE, "going");
    assert_head(await_close(f, stream), "grpc-status: 14\n");
    for (uint64_t end = clock_now_us() + 5000000; serve_connections(f->serve) > 0 && clock_now_us() < end;) {
        turn(f, 0);
        char byte;
        if (recv(f->fd, &byte, 1, 0) == 0) shutdown(f->fd, SHUT_RDWR);
    }
    turn(f, 0);
    assert_true(f->ended);
    strbuf_fini(&upload.bytes);
}

static void
serves_plain_http_2_where_both_are_spoken(void **state)
{
    struct fixture *f = *state;
    dial(f, false);
    int32_t stream = ask(f, "GET", "/plain?x=1", NULL, NULL, NULL);
    turn(f, 1);
    struct seen *seen = await_close(f, stream);
    assert_head(seen, ":status: 200\n");
    assert_head(seen, "x-plain: yes\n");
    assert_head(seen, "content-length: 6\n");
    assert_memory_equal(seen->body.at, "/plain", 6);
    seen = await_close(f, ask(f, "HEAD", "/plain", NULL, NULL, NULL));
    assert_head(seen, "content-length: 6\n");
    assert_int_equal(seen->body.len, 0);
}

static void
answers_garbage_with_a_goaway(void **state)
{
    struct fixture *f = *state;
    char bytes[256];
    ssize_t n = 0, last = 0;
    dial(f, false);
    nghttp2_session_del(f->client);
    f->client = NULL;
    assert_true(send(f->fd, "HELO example.org\r\nthis is no preface\r\n", 38, MSG_NOSIGNAL) == 38);
    struct strbuf got = {0};
    for (uint64_t end = clock_now_us() + 5000000; clock_now_us() < end;) {
        struct timeval brief = {0, 500};
        event_base_loopexit(f->base, &brief);
        event_base_dispatch(f->base);
        while ((n = last = recv(f->fd, bytes, sizeof bytes, 0)) > 0)
            strbuf_add(&got, bytes, (size_t)n);
        if (last == 0) break;
    }
    assert_int_equal(last, 0);
    assert_true(got.len > 9 + 8);
    assert_int_equal(got.at[got.len - 9 - 8 + 3], NGHTTP2_GOAWAY);
    assert_int_equal(got.at[got.len - 1], NGHTTP2_PROTOCOL_ERROR);
    strbuf_fini(&got);
}

int
main(void)
{
#define CLAIM(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CLAIM(echoes_a_message_however_it_is_cut),
        CLAIM(ends_a_bad_message_with_the_status_it_deserves),
        CLAIM(refuses_what_is_not_grpc),
        CLAIM(encodes_the_message_of_a_status),
        CLAIM(streams_both_ways_before_the_client_ends),
        CLAIM(a_cut_message_ends_a_stream_and_its_owner_knows),
        CLAIM(tells_the_owner_of_a_cancel_and_of_a_lost_connection),
        CLAIM(ends_a_held_call_at_the_deadline_its_client_named),
        CLAIM(ends_a_request_that_never_ends),
        CLAIM(sends_no_more_than_the_window_lets_it),
        CLAIM(drains_with_a_goaway_and_without_cutting_a_call),
        cmocka_unit_test_setup_teardown(serves_plain_http_2_where_both_are_spoken, setup_both, teardown),
        CLAIM(answers_garbage_with_a_goaway),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
