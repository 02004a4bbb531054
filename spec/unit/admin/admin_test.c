#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/admin/admin.h"
#include "core/base/clock.h"
#include "core/metrics/stats.h"
#include "core/net/listener.h"

/* ---- the rooms beside admin, as far as it asks them ---- */

void
discovery_describe(const struct discovery *discovery, struct strbuf *out)
{
    assert_ptr_equal(discovery, (const void *)0x10);
    strbuf_add_text(out, "{\"ready\":true}");
}

void
health_describe(const struct health *health, struct strbuf *out)
{
    assert_ptr_equal(health, (const void *)0x20);
    strbuf_add_text(out, "{\"probes\":0}");
}

size_t
script_status(struct script *script, struct script_status *rows, size_t cap)
{
    assert_ptr_equal(script, (const void *)0x30);
    assert_true(cap >= 1);
    rows[0] = (struct script_status){.plugin = "http", .service = "users", .kind = "policy", .errors = 3};
    rows[0].quarantined_until_us = clock_now_us() + 10000000;
    snprintf(rows[0].last_error, sizeof(rows[0].last_error), "http.lua:3: <b>\"no\"</b>");
    return 1;
}

/* ---- fixture ---- */

struct fixture {
    struct event_base *base;
    struct shm *shm;
    struct admin *admin;
    uint16_t port;
    bool is_ready;
    unsigned reloads, drains;
    struct config config;
    struct config_service service;
    char answer[1 << 17];
};

static bool
is_ready(void *context)
{
    return ((struct fixture *)context)->is_ready;
}

static void
request_reload(void *context)
{
    ((struct fixture *)context)->reloads++;
}

static void
request_drain(void *context)
{
    ((struct fixture *)context)->drains++;
}

static uint16_t
listen_on(struct fixture *f)
{
    struct config_address address = {.text = "127.0.0.1:0", .host = "127.0.0.1"};
    struct sockaddr_in at;
    socklen_t len = sizeof(at);
    const char *why;
    int fd;
    assert_true(listener_open(&address, false, 1, &fd, &why));
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    assert_true(admin_listen(f->admin, fd));
    return ntohs(at.sin_port);
}

static int
setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    if (f == NULL) return -1;
    f->base = event_base_new();
    f->shm = shm_create(&(struct shm_params){.max_endpoints = 64, .stats_bytes = stats_region_bytes()});
    assert_non_null(f->base);
    assert_non_null(f->shm);
    struct admin_env env = {.shm = f->shm,
        .discovery = (void *)0x10,
        .health = (void *)0x20,
        .context = f,
        .is_ready = is_ready,
        .request_reload = request_reload,
        .request_drain = request_drain};
    f->admin = admin_new(f->base, &env);
    assert_non_null(f->admin);
    f->is_ready = true;
    f->service = (struct config_service){.name = "users", .discover = "users"};
    f->service.strategy.name = "round_robin";
    f->config = (struct config){
        .file = "gate.yaml", .workers = 2, .has_admin = true, .services = &f->service, .service_count = 1};
    char hash[17] = "0123456789abcdef";
    admin_use(f->admin, &f->config, (void *)0x30, 7, hash);
    memset(hash, 'x', 16); /* a message's buffer, used again */
    f->port = listen_on(f);
    struct slot_text text = {0};
    snprintf(text.id, sizeof(text.id), "u1<script>alert('x')</script>");
    snprintf(text.host, sizeof(text.host), "10.0.0.1");
    snprintf(text.reason, sizeof(text.reason), "2 probes \"passed\"");
    snprintf(text.metadata, sizeof(text.metadata), "{\"rack\":4}");
    text.address.v4 = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(8001)};
    text.address.v4.sin_addr.s_addr = htonl(0x0a000001);
    text.address_len = sizeof(text.address.v4);
    assert_int_equal(
        slot_claim(f->shm, shm_name_add(f->shm, slice_of("users")), SLOT_HEALTHY, 2, 8001, &text), 0);
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    struct fixture *f = *state;
    admin_free(f->admin);
    event_base_free(f->base);
    shm_destroy(f->shm);
    free(f);
    return 0;
}

static int
dial(struct fixture *f, uint16_t port)
{
    struct sockaddr_storage to;
    socklen_t len;
    assert_int_equal(address_resolve("127.0.0.1", port, &to, &len), 0);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_not_equal(fd, -1);
    (void)f;
    if (connect(fd, (struct sockaddr *)&to, len) == -1) {
        close(fd);
        return -1;
    }
    assert_true(socket_prepare(fd));
    return fd;
}

static int
send_request(struct fixture *f, const char *request)
{
    int fd = dial(f, f->port);
    assert_int_not_equal(fd, -1);
    assert_int_equal(write(fd, request, strlen(request)), (ssize_t)strlen(request));
    return fd;
}

/* Turns the loop until the server closed the connection; the status, the whole answer in f->answer. */
static int
receive(struct fixture *f, int fd)
{
    size_t len = 0;
    uint64_t until = clock_now_us() + 20000000;
    for (;;) {
        assert_true(clock_now_us() < until);
        assert_int_not_equal(event_base_loop(f->base, EVLOOP_NONBLOCK), -1);
        ssize_t n = read(fd, f->answer + len, sizeof(f->answer) - 1 - len);
        if (n == 0) break;
        if (n == -1) assert_int_equal(errno, EAGAIN);
        if (n > 0) len += (size_t)n;
        assert_true(len < sizeof(f->answer) - 1);
    }
    close(fd);
    f->answer[len] = '\0';
    assert_memory_equal(f->answer, "HTTP/1.1 ", 9);
    return atoi(f->answer + 9);
}

static int
ask_with(struct fixture *f, const char *method, const char *path, const char *headers)
{
    char request[1024];
    snprintf(request, sizeof(request),
        "%s %s HTTP/1.1\r\nHost: localhost:9901\r\nConnection: close\r\n%s\r\n", method, path, headers);
    return receive(f, send_request(f, request));
}

static int
ask(struct fixture *f, const char *method, const char *path)
{
    return ask_with(f, method, path, strcmp(method, "POST") == 0 ? "Content-Length: 0\r\n" : "");
}

static const char *
body(const struct fixture *f)
{
    const char *at = strstr(f->answer, "\r\n\r\n");
    assert_non_null(at);
    return at + 4;
}

static json_t *
body_json(const struct fixture *f)
{
    json_error_t error;
    json_t *root = json_loads(body(f), 0, &error);
    if (root == NULL) fail_msg("%s at %d in %s", error.text, error.position, body(f));
    return root;
}

static void
wait_for_reloads(struct fixture *f, unsigned count)
{
    uint64_t until = clock_now_us() + 20000000;
    while (f->reloads < count) {
        assert_true(clock_now_us() < until);
        assert_int_not_equal(event_base_loop(f->base, EVLOOP_NONBLOCK), -1);
    }
}

/* ---- claims ---- */

static void
serves_metrics_in_their_format(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(ask(f, "GET", "/metrics"), 200);
    assert_non_null(strcasestr(f->answer, "\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
    assert_non_null(strstr(body(f), "\nloadbalancer_backend_status{"));
    assert_non_null(strstr(
        body(f), "\nfluxgate_plugin_errors_total{kind=\"policy\",plugin=\"http\",service=\"users\"} 3\n"));
    assert_non_null(strstr(
        body(f), "\nfluxgate_plugin_quarantined{kind=\"policy\",plugin=\"http\",service=\"users\"} 1\n"));
}

static void
tells_alive_from_ready(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(ask(f, "GET", "/live"), 200);
    assert_int_equal(ask(f, "GET", "/ready"), 200);
    f->is_ready = false;
    assert_int_equal(ask(f, "GET", "/live"), 200);
    assert_int_equal(ask(f, "GET", "/ready"), 503);
    assert_int_equal(ask(f, "HEAD", "/ready"), 503);
    assert_string_equal(body(f), "");
}

static void
status_names_generation_workers_and_scripts(void **state)
{
    struct fixture *f = *state;
    atomic_store(&shm_worker(f->shm, 1)->pid, 4242);
    atomic_store(&shm_worker(f->shm, 1)->generation, 7);
    atomic_store(&shm_worker(f->shm, 1)->heartbeat_us, clock_now_us());
    assert_int_equal(ask(f, "GET", "/api/v1/status"), 200);
    json_t *root = body_json(f);
    assert_int_equal(json_integer_value(json_object_get(root, "generation")), 7);
    assert_string_equal(json_string_value(json_object_get(root, "hash")), "0123456789abcdef");
    assert_true(json_is_true(json_object_get(root, "ready")));
    json_t *workers = json_object_get(root, "workers");
    assert_int_equal(json_array_size(workers), 2);
    assert_true(json_is_null(json_object_get(json_array_get(workers, 0), "heartbeat_age_seconds")));
    assert_int_equal(json_integer_value(json_object_get(json_array_get(workers, 1), "pid")), 4242);
    assert_true(json_number_value(json_object_get(json_array_get(workers, 1), "heartbeat_age_seconds")) < 20);
    json_t *script = json_array_get(json_object_get(root, "scripts"), 0);
    assert_string_equal(
        json_string_value(json_object_get(script, "last_error")), "http.lua:3: <b>\"no\"</b>");
    assert_true(json_is_true(json_object_get(script, "quarantined")));
    assert_true(json_is_object(json_object_get(root, "discovery")));
    assert_true(json_is_object(json_object_get(root, "health")));
    assert_true(json_is_integer(json_object_get(json_object_get(root, "totals"), "reloads")));
    json_decref(root);
}

static void
endpoints_are_whole(void **state)
{
    struct fixture *f = *state;
    slot_begin(f->shm, 0, 0);
    slot_observe(f->shm, 0, 1500, false, clock_now_us());
    assert_int_equal(ask(f, "GET", "/api/v1/endpoints?x=1"), 200);
    json_t *root = body_json(f), *at = json_array_get(json_object_get(root, "endpoints"), 0);
    assert_string_equal(json_string_value(json_object_get(at, "service")), "users");
    assert_string_equal(json_string_value(json_object_get(at, "address")), "10.0.0.1:8001");
    assert_string_equal(json_string_value(json_object_get(at, "state")), "healthy");
    assert_string_equal(json_string_value(json_object_get(at, "reason")), "2 probes \"passed\"");
    assert_int_equal(json_integer_value(json_object_get(at, "weight")), 2);
    assert_int_equal(json_integer_value(json_object_get(at, "active")), 1);
    assert_int_equal(json_integer_value(json_object_get(at, "failures")), 0);
    assert_true(json_number_value(json_object_get(at, "latency_ms")) > 0);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(at, "metadata"), "rack")), 4);
    json_decref(root);
    slot_remove(f->shm, 0);
    assert_int_equal(ask(f, "GET", "/api/v1/endpoints"), 200);
    root = body_json(f);
    assert_int_equal(json_array_size(json_object_get(root, "endpoints")), 0);
    json_decref(root);
}

static void
the_page_escapes_what_others_wrote(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(ask(f, "GET", "/"), 200);
    assert_non_null(strcasestr(f->answer, "content-security-policy: default-src 'none'"));
    assert_non_null(strstr(body(f), "u1&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"));
    assert_null(strstr(body(f), "<script"));
    assert_null(strstr(body(f), "<b>"));
    assert_null(strstr(body(f), "http://"));
    assert_non_null(strstr(body(f), "round_robin"));
    assert_non_null(strstr(body(f), "0123456789abcdef"));
}

/* The real printer over a real file: what loads again, but not the keys that cookies are signed with. */
static void
the_config_is_printed_without_secrets(void **state)
{
    struct fixture *f = *state;
    char path[] = "/tmp/fluxgate-admin-XXXXXX";
    static const char yaml[] =
        "listeners: [ { address: 127.0.0.1:0 } ]\n"
        "admin: { address: 127.0.0.1:0 }\n"
        "services: { web: { endpoints: [ \"127.0.0.1:9001\" ], strategy: round_robin } }\n"
        "routes: [ { match: { path_prefix: / }, service: web } ]\n";
    int fd = mkstemp(path);
    assert_int_not_equal(fd, -1);
    assert_int_equal(write(fd, yaml, sizeof(yaml) - 1), (ssize_t)sizeof(yaml) - 1);
    close(fd);
    struct bundle *bundle = bundle_open();
    struct diags diags = {0};
    assert_non_null(bundle);
    struct config *config = config_load(bundle, path, &diags);
    assert_non_null(config);
    assert_true(diags_ok(&diags));
    config->services[0].strategy.options.json = "{\"cookie\":\"SID\",\"secrets\":[\"hunter2\",\"hunter1\"]}";
    admin_use(f->admin, config, (void *)0x30, 8, "x");
    assert_int_equal(ask(f, "GET", "/api/v1/config"), 200);
    assert_null(strstr(body(f), "hunter"));
    assert_non_null(strstr(body(f), "(hidden)"));
    assert_non_null(strstr(body(f), "SID"));
    assert_non_null(strstr(body(f), "127.0.0.1:9001"));
    admin_use(f->admin, &f->config, (void *)0x30, 9, "x");
    config_free(config);
    bundle_free(bundle);
    diags_fini(&diags);
    unlink(path);
}

static void
unknown_paths_and_methods_are_told_in_json(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(ask(f, "GET", "/nothing"), 404);
    json_t *root = body_json(f);
    assert_string_equal(json_string_value(json_object_get(root, "error")), "no such path");
    json_decref(root);
    assert_int_equal(ask(f, "POST", "/metrics"), 405);
    assert_non_null(strcasestr(f->answer, "\r\nAllow: GET, HEAD\r\n"));
    json_decref(body_json(f));
    assert_int_equal(ask(f, "GET", "/api/v1/reload"), 405);
    assert_non_null(strcasestr(f->answer, "\r\nAllow: POST\r\n"));
    assert_int_equal(f->reloads, 0);
}

#define RELOAD                                                                                               \
    "POST /api/v1/reload HTTP/1.1\r\nHost: localhost:9901\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

static void
a_reload_waits_for_its_verdict(void **state)
{
    struct fixture *f = *state;
    int fd = send_request(f, RELOAD);
    wait_for_reloads(f, 1);
    admin_reloaded(f->admin, true, "generation 8");
    assert_int_equal(receive(f, fd), 200);
    assert_string_equal(body(f), "generation 8\n");
    fd = send_request(f, RELOAD);
    wait_for_reloads(f, 2);
    admin_reloaded(f->admin, false, "gate.yaml:3:1: error: unknown key\nand more");
    assert_int_equal(receive(f, fd), 422);
    assert_string_equal(body(f), "gate.yaml:3:1: error: unknown key\nand more\n");
}

static void
one_verdict_answers_all_reloads_that_wait(void **state)
{
    struct fixture *f = *state;
    int first = send_request(f, RELOAD);
    wait_for_reloads(f, 1);
    int second = send_request(f, RELOAD);
    wait_for_reloads(f, 2);
    admin_reloaded(f->admin, true, "generation 8");
    assert_int_equal(receive(f, first), 200);
    assert_string_equal(body(f), "generation 8\n");
    assert_int_equal(receive(f, second), 200);
    assert_string_equal(body(f), "generation 8\n");
}

static void
a_client_that_leaves_a_reload_is_forgotten(void **state)
{
    struct fixture *f = *state;
    int fd = send_request(f, RELOAD);
    wait_for_reloads(f, 1);
    close(fd);
    assert_int_equal(ask(f, "GET", "/live"), 200); /* the loop saw the close by now, or the reply will */
    admin_reloaded(f->admin, true, "done");
    assert_int_equal(ask(f, "GET", "/live"), 200);
    f->is_ready = false;
    assert_int_equal(ask(f, "POST", "/api/v1/reload"), 503);
    assert_int_equal(f->reloads, 1);
    (void)send_request(f, RELOAD); /* teardown with a connection open */
}

static void
another_sites_page_changes_nothing(void **state)
{
    struct fixture *f = *state;
    static const char *const refused[] = {"Origin: http://evil.example\r\nContent-Length: 0\r\n",
        "Origin: null\r\nContent-Length: 0\r\n", "Origin: http://localhost:9902\r\nContent-Length: 0\r\n",
        "Sec-Fetch-Site: cross-site\r\nContent-Length: 0\r\n",
        "Origin: http://localhost:9901\r\nOrigin: http://evil.example\r\nContent-Length: 0\r\n"};
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        assert_int_equal(ask_with(f, "POST", "/api/v1/drain", refused[i]), 403);
        assert_int_equal(f->drains, 0);
    }
    static const char rebound[] = "POST /api/v1/drain HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n"
                                  "Origin: http://evil.example\r\nContent-Length: 0\r\n\r\n";
    assert_int_equal(receive(f, send_request(f, rebound)), 403);
    assert_int_equal(f->drains, 0);
    assert_int_equal(
        ask_with(f, "POST", "/api/v1/drain", "Origin: http://localhost:9901\r\nContent-Length: 0\r\n"), 202);
    assert_int_equal(ask(f, "POST", "/api/v1/drain"), 202);
    assert_int_equal(f->drains, 2);
}

static void
a_new_socket_replaces_the_old_one(void **state)
{
    struct fixture *f = *state;
    int held = send_request(f, RELOAD);
    wait_for_reloads(f, 1);
    uint16_t old = f->port;
    f->port = listen_on(f);
    assert_int_equal(ask(f, "GET", "/live"), 200);
    assert_int_equal(dial(f, old), -1);
    admin_reloaded(f->admin, true, "moved"); /* the call on the old socket still gets its answer */
    assert_int_equal(receive(f, held), 200);
    f->config.has_admin = false;
    admin_use(f->admin, &f->config, (void *)0x30, 8, "x");
    assert_int_equal(dial(f, f->port), -1);
}

static void
on_left(void *context)
{
    *(bool *)context = true;
}

static void
a_reload_without_an_address_does_not_keep_it_from_leaving(void **state)
{
    struct fixture *f = *state;
    bool has_left = false;
    uint64_t until = clock_now_us() + 20000000;
    assert_true(admin_leave(f->admin, on_left, &has_left));
    f->config.has_admin = false;
    admin_use(f->admin, &f->config, (void *)0x30, 8, "x");
    while (!has_left) {
        assert_true(clock_now_us() < until);
        assert_int_not_equal(event_base_loop(f->base, EVLOOP_NONBLOCK), -1);
    }
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(serves_metrics_in_their_format),
        TEST(tells_alive_from_ready),
        TEST(status_names_generation_workers_and_scripts),
        TEST(endpoints_are_whole),
        TEST(the_page_escapes_what_others_wrote),
        TEST(the_config_is_printed_without_secrets),
        TEST(unknown_paths_and_methods_are_told_in_json),
        TEST(a_reload_waits_for_its_verdict),
        TEST(one_verdict_answers_all_reloads_that_wait),
        TEST(a_client_that_leaves_a_reload_is_forgotten),
        TEST(another_sites_page_changes_nothing),
        TEST(a_new_socket_replaces_the_old_one),
        TEST(a_reload_without_an_address_does_not_keep_it_from_leaving),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
