/* links: shm http base */
/* The gRPC side of the sync against a small HTTP/2 server on nghttp2, and what times out. */
#include <nghttp2/nghttp2.h>

#include "proto/service_registry.pb-c.h"
#include "proto/service_registry_v2.pb-c.h"
#include "spec/unit/discovery/world.h"

/* ---- a gRPC registry */

struct grpc_paper {
    struct event_base *base;
    int fd;
    uint16_t port;
    struct event *accepts;
    struct grpc_peer *peer; /* one is enough */
    bool has_watch;
    const char *status; /* of polls: NULL is "0" */
    struct strbuf body; /* framed messages of the next answer, or of the stream so far */
    unsigned watched, polled;
};

struct grpc_peer {
    struct grpc_paper *paper;
    nghttp2_session *session;
    struct event *event;
    int fd;
    int32_t watch; /* the stream that is kept open, 0: none */
    size_t watch_sent;
    char path[128];
};

static void
frame_add(struct strbuf *body, const void *bytes, size_t len)
{
    unsigned char head[5] = {0, (unsigned char)(len >> 24), (unsigned char)(len >> 16),
        (unsigned char)(len >> 8), (unsigned char)len};
    strbuf_add(body, head, sizeof head);
    strbuf_add(body, bytes, len);
}

static void
peer_flush(struct grpc_peer *peer)
{
    const uint8_t *bytes;
    ssize_t n;
    while ((n = nghttp2_session_mem_send(peer->session, &bytes)) > 0)
        paper_send(peer->fd, (const char *)bytes, (size_t)n);
}

static void
peer_free(struct grpc_peer *peer)
{
    peer->paper->peer = NULL;
    nghttp2_session_del(peer->session);
    event_free(peer->event);
    close(peer->fd);
    free(peer);
}

#define NV(name, value)                                                                                      \
    {                                                                                                        \
        (uint8_t *)(name), (uint8_t *)(value), sizeof(name) - 1, strlen(value), NGHTTP2_NV_FLAG_NONE         \
    }

/* A watch gives what is there and then waits; a poll gives all and ends with trailers. */
static ssize_t
on_body(nghttp2_session *session, int32_t stream, uint8_t *out, size_t cap, uint32_t *flags,
    nghttp2_data_source *source, void *context)
{
    struct grpc_peer *peer = context;
    struct strbuf *body = &peer->paper->body;
    (void)source;
    size_t n = body->len - peer->watch_sent < cap ? body->len - peer->watch_sent : cap;
    if (n > 0) memcpy(out, body->at + peer->watch_sent, n);
    peer->watch_sent += n;
    if (stream == peer->watch) return n == 0 ? NGHTTP2_ERR_DEFERRED : (ssize_t)n;
    if (peer->watch_sent == body->len) {
        nghttp2_nv trailer = NV("grpc-status", "0");
        *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
        assert_int_equal(nghttp2_submit_trailer(session, stream, &trailer, 1), 0);
        peer->watch_sent = 0;
    }
    return (ssize_t)n;
}

static int
on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_len,
    const uint8_t *value, size_t value_len, uint8_t flags, void *context)
{
    struct grpc_peer *peer = context;
    (void)session;
    (void)frame;
    (void)flags;
    if (name_len != 5 || memcmp(name, ":path", 5) != 0) return 0;
    assert_true(text_copy(peer->path, sizeof peer->path, (struct slice){(const char *)value, value_len}));
    return 0;
}

static int
on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *context)
{
    struct grpc_peer *peer = context;
    struct grpc_paper *paper = peer->paper;
    nghttp2_data_provider provider = {{0}, on_body};
    if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) == 0) return 0;
    if (frame->hd.type != NGHTTP2_DATA && frame->hd.type != NGHTTP2_HEADERS) return 0;
    bool is_watch = strcmp(peer->path, "/serviceregistry.v2.Registry/WatchInstances") == 0;
    bool is_poll = strcmp(peer->path, "/serviceregistry.ServiceRegistry/GetHealthyServices") == 0;
    const char *status = is_watch && !paper->has_watch ? "12" : !is_watch && !is_poll ? "12" : paper->status;
    paper->watched += is_watch;
    paper->polled += is_poll;
    nghttp2_nv headers[] = {NV(":status", "200"), NV("content-type", "application/grpc"),
        NV("grpc-status", status == NULL ? "" : status), NV("grpc-message", "as told")};
    peer->watch_sent = 0;
    if (status != NULL) { /* trailers only */
        assert_int_equal(nghttp2_submit_response(session, frame->hd.stream_id, headers, 4, NULL), 0);
        return 0;
    }
    if (is_watch) peer->watch = frame->hd.stream_id;
    assert_int_equal(nghttp2_submit_response(session, frame->hd.stream_id, headers, 2, &provider), 0);
    return 0;
}

static void
on_grpc_peer(evutil_socket_t fd, short what, void *context)
{
    struct grpc_peer *peer = context;
    uint8_t bytes[4096];
    (void)what;
    ssize_t n = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (n <= 0 || nghttp2_session_mem_recv(peer->session, bytes, (size_t)n) < 0) {
        peer_free(peer);
        return;
    }
    peer_flush(peer);
}

static void
on_grpc_accept(evutil_socket_t fd, short what, void *context)
{
    struct grpc_paper *paper = context;
    nghttp2_session_callbacks *callbacks;
    int got = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
    (void)what;
    if (got == -1) return;
    if (paper->peer != NULL) peer_free(paper->peer);
    struct grpc_peer *peer = calloc(1, sizeof *peer);
    assert_non_null(peer);
    paper->peer = peer;
    peer->paper = paper;
    peer->fd = got;
    assert_int_equal(nghttp2_session_callbacks_new(&callbacks), 0);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
    assert_int_equal(nghttp2_session_server_new(&peer->session, callbacks, peer), 0);
    nghttp2_session_callbacks_del(callbacks);
    assert_int_equal(nghttp2_submit_settings(peer->session, NGHTTP2_FLAG_NONE, NULL, 0), 0);
    peer_flush(peer);
    peer->event = event_new(paper->base, got, EV_READ | EV_PERSIST, on_grpc_peer, peer);
    assert_int_equal(event_add(peer->event, NULL), 0);
}

static void
grpc_open(struct grpc_paper *paper, struct world *world)
{
    paper->base = world->base;
    paper->fd = port_listen(&paper->port);
    paper->accepts = event_new(world->base, paper->fd, EV_READ | EV_PERSIST, on_grpc_accept, paper);
    assert_int_equal(event_add(paper->accepts, NULL), 0);
}

static void
grpc_close(struct grpc_paper *paper)
{
    if (paper->peer != NULL) peer_free(paper->peer);
    event_free(paper->accepts);
    close(paper->fd);
}

static void
grpc_begin(struct grpc_paper *paper, struct world *world)
{
    grpc_open(paper, world);
    registry_enable(world, REGISTRY_GRPC, "users");
    snprintf(world->url, sizeof world->url, "127.0.0.1:%u", paper->port);
    use(world, &world->config);
}

static void
snapshot_add(
    struct grpc_paper *paper, uint64_t index, const char *epoch, const char *const *ids, size_t count)
{
    Serviceregistry__V2__Snapshot snapshot = SERVICEREGISTRY__V2__SNAPSHOT__INIT;
    Serviceregistry__V2__Instance rows[4], *pointers[4];
    uint8_t bytes[1024];
    for (size_t i = 0; i < count; i++) {
        serviceregistry__v2__instance__init(&rows[i]);
        rows[i].id = (char *)ids[i];
        rows[i].service_name = (char *)"users";
        rows[i].host = (char *)"127.0.0.1";
        rows[i].port = 9001 + (int32_t)i;
        pointers[i] = &rows[i];
    }
    snapshot.index = index;
    snapshot.epoch = (char *)epoch;
    snapshot.instances = pointers;
    snapshot.n_instances = count;
    frame_add(&paper->body, bytes, serviceregistry__v2__snapshot__pack(&snapshot, bytes));
    if (paper->peer != NULL && paper->peer->watch != 0) {
        assert_int_equal(nghttp2_session_resume_data(paper->peer->session, paper->peer->watch), 0);
        peer_flush(paper->peer);
    }
}

static void
learns_of_changes_by_a_grpc_stream(void **state)
{
    struct world *world = *state;
    struct grpc_paper paper = {.has_watch = true};
    const char *ids[] = {"a", "b"};
    snapshot_add(&paper, 1, "e1", ids, 1);
    grpc_begin(&paper, world);
    WAIT_FOR(world, state_of(world, world->users, "a") == SLOT_HEALTHY);
    snapshot_add(&paper, 2, "e1", ids, 2);
    WAIT_FOR(world, state_of(world, world->users, "b") == SLOT_HEALTHY);
    snapshot_add(&paper, 2, "e1", ids, 2); /* only to show that it lives */
    snapshot_add(&paper, 3, "e1", ids + 1, 1);
    WAIT_FOR(world, state_of(world, world->users, "a") == SLOT_FREE);
    assert_int_equal(paper.watched, 1);
    assert_int_equal(total(world, "registry_sync_updates"), 3);
    grpc_close(&paper); /* the stream breaks: all stays, and it is begun anew */
    WAIT_FOR(world, total(world, "registry_sync_errors") >= 1);
    assert_int_equal(state_of(world, world->users, "b"), SLOT_HEALTHY);
    strbuf_clear(&paper.body);
    snapshot_add(&paper, 4, "e1", ids, 2);
    grpc_open(&paper, world);
    WAIT_FOR(world, state_of(world, world->users, "a") == SLOT_HEALTHY);
    grpc_close(&paper);
    strbuf_fini(&paper.body);
}

static void
polls_a_grpc_registry_that_knows_no_watch(void **state)
{
    struct world *world = *state;
    struct grpc_paper paper = {0};
    uint8_t bytes[512];
    Serviceregistry__GrpcServiceInstance row = SERVICEREGISTRY__GRPC_SERVICE_INSTANCE__INIT, *rows[] = {&row};
    Serviceregistry__GetHealthyServicesResponse response =
        SERVICEREGISTRY__GET_HEALTHY_SERVICES_RESPONSE__INIT;
    row.id = (char *)"a";
    row.servicename = (char *)"users";
    row.url = (char *)"http://127.0.0.1:9001";
    response.services = rows;
    response.n_services = 1;
    frame_add(&paper.body, bytes, serviceregistry__get_healthy_services_response__pack(&response, bytes));
    grpc_begin(&paper, world);
    WAIT_FOR(world, state_of(world, world->users, "a") == SLOT_HEALTHY);
    assert_int_equal(paper.watched, 1);
    WAIT_FOR(world, paper.polled >= 3);
    strbuf_clear(&paper.body);
    frame_add(&paper.body, "", 0); /* an empty list */
    WAIT_FOR(world, state_of(world, world->users, "a") == SLOT_SUSPECT);
    assert_int_equal(total(world, "registry_sync_errors"), 0);
    grpc_close(&paper);
    strbuf_fini(&paper.body);
}

static void
tells_a_grpc_status_and_keeps_what_it_has(void **state)
{
    struct world *world = *state;
    struct grpc_paper paper = {.has_watch = true, .status = "14"};
    struct strbuf text = {0};
    grpc_begin(&paper, world);
    WAIT_FOR(world, total(world, "registry_sync_errors") >= 2);
    discovery_describe(world->discovery, &text);
    assert_non_null(strstr(text.at, "\"last_error\":\"gRPC status 14: as told\""));
    strbuf_fini(&text);
    grpc_close(&paper);
}

static void
cuts_a_stream_of_garbage(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
        const char *error;
    } rows[] = {
        {"\1\0\0\0\0", 5, "compressed"},
        {"\0\377\0\0\0", 5, "too long"},
        {"\0\0\0\0\2\377\377", 7, "not a Snapshot"},
    };
    struct world *world = *state;
    struct grpc_paper paper = {.has_watch = true};
    const char *ids[] = {"a"};
    snapshot_add(&paper, 1, "e1", ids, 1);
    grpc_begin(&paper, world);
    WAIT_FOR(world, state_of(world, world->users, "a") == SLOT_HEALTHY);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct strbuf text = {0};
        uint64_t before = total(world, "registry_sync_errors");
        strbuf_clear(&paper.body);
        strbuf_add(&paper.body, rows[i].bytes, rows[i].len);
        peer_free(paper.peer);
        WAIT_FOR(world, total(world, "registry_sync_errors") >= before + 2);
        discovery_describe(world->discovery, &text);
        assert_non_null(strstr(text.at, rows[i].error));
        strbuf_fini(&text);
        strbuf_clear(&paper.body);
        snapshot_add(&paper, 2 + i, "e1", ids, 1);
        uint64_t updates = total(world, "registry_sync_updates");
        WAIT_FOR(world, total(world, "registry_sync_updates") > updates);
        assert_int_equal(state_of(world, world->users, "a"), SLOT_HEALTHY);
    }
    grpc_close(&paper);
    strbuf_fini(&paper.body);
}

static void
does_not_take_http1_for_grpc(void **state)
{
    struct world *world = *state;
    paper_open(&world->paper, world->base);
    registry_enable(world, REGISTRY_GRPC, "users");
    world->paper.raw = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    use(world, &world->config);
    WAIT_FOR(world, total(world, "registry_sync_errors") >= 2);
}

/* ---- what times out */

struct sync_world {
    struct work *work;
    struct dns *dns;
    struct sync *sync;
    unsigned answers;
};

static void
on_nothing(void *context)
{
    (void)context;
}

static void
on_answer(void *context, struct instances *instances)
{
    struct sync_world *mine = context;
    mine->answers++;
    instances_free(instances);
}

static void
sync_begin(struct sync_world *mine, struct world *world, const struct sync_times *times,
    enum registry_protocol protocol)
{
    struct sync_target target = {world->url, protocol, 50000};
    snprintf(world->url, sizeof world->url, "http://127.0.0.1:%u", world->paper.port);
    mine->answers = 0;
    mine->work = work_new(world->base);
    assert_non_null(mine->work);
    mine->dns = dns_new(world->base, mine->work, on_nothing, NULL);
    assert_non_null(mine->dns);
    mine->sync = sync_new(world->base, world->shm, mine->dns, times, on_answer, mine);
    assert_non_null(mine->sync);
    assert_true(sync_use(mine->sync, &target));
}

static void
sync_end(struct sync_world *mine)
{
    sync_free(mine->sync);
    dns_free(mine->dns);
    work_free(mine->work);
}

static void
begins_a_watch_anew_that_shows_no_sign_of_life(void **state)
{
    struct world *world = *state;
    struct sync_world mine;
    struct sync_times times = sync_times_default();
    struct strbuf text = {0};
    times.idle = 150000;
    times.backoff_first = times.backoff_last = 10000;
    paper_open(&world->paper, world->base);
    sync_begin(&mine, world, &times, REGISTRY_HTTP);
    WAIT_FOR(world, mine.answers == 1);
    WAIT_FOR(world, world->paper.v2_asked >= 4); /* the held ones were cut */
    sync_describe(mine.sync, &text);
    assert_non_null(strstr(text.at, "\"last_error\":\"no sign of life\""));
    assert_int_equal(mine.answers, 1);
    strbuf_fini(&text);
    sync_end(&mine);
}

static void
tries_a_watch_now_and_then_while_it_polls(void **state)
{
    struct world *world = *state;
    struct sync_world mine;
    struct sync_times times = sync_times_default();
    struct strbuf text = {0};
    times.reprobe = 200000;
    world->paper.has_v2 = false;
    paper_open(&world->paper, world->base);
    sync_begin(&mine, world, &times, REGISTRY_HTTP);
    WAIT_FOR(world, world->paper.old_asked >= 3 && world->paper.v2_asked >= 2);
    world->paper.has_v2 = true; /* it was replaced by a newer one */
    WAIT_FOR(world, world->paper.v2_asked >= 4);
    WAIT_FOR(world, (strbuf_clear(&text), sync_describe(mine.sync, &text),
                        strstr(text.at, "\"mode\":\"watch\"") != NULL));
    unsigned asked = world->paper.old_asked;
    run_for(world, 200000);
    assert_int_equal(world->paper.old_asked, asked);
    strbuf_fini(&text);
    sync_end(&mine);
}

static void
gives_up_a_connect_that_hangs(void **state)
{
    struct world *world = *state;
    struct sync_world mine;
    struct sync_times times = sync_times_default();
    times.connect = 100000;
    times.backoff_first = times.backoff_last = 10000;
    world->paper.fd = port_listen(&world->paper.port);
    assert_int_equal(listen(world->paper.fd, 0), 0); /* a queue of one, which these fill */
    int fillers[8];
    struct sockaddr_in address = {.sin_family = AF_INET,
        .sin_port = htons(world->paper.port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    for (size_t i = 0; i < 8; i++) {
        fillers[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        assert_int_not_equal(fillers[i], -1);
        int done = connect(fillers[i], (struct sockaddr *)&address, sizeof address);
        assert_true(done == 0 || errno == EINPROGRESS);
    }
    sync_begin(&mine, world, &times, REGISTRY_HTTP);
    WAIT_FOR(world, total(world, "registry_sync_errors") >= 3);
    sync_end(&mine);
    for (size_t i = 0; i < 8; i++)
        close(fillers[i]);
    close(world->paper.fd);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, world_setup, world_teardown)
    const struct CMUnitTest tests[] = {
        TEST(learns_of_changes_by_a_grpc_stream),
        TEST(polls_a_grpc_registry_that_knows_no_watch),
        TEST(tells_a_grpc_status_and_keeps_what_it_has),
        TEST(cuts_a_stream_of_garbage),
        TEST(does_not_take_http1_for_grpc),
        TEST(begins_a_watch_anew_that_shows_no_sign_of_life),
        TEST(tries_a_watch_now_and_then_while_it_polls),
        TEST(gives_up_a_connect_that_hangs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
