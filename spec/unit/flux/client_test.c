/* links: serve base */
/* libflux against a registry in a thread of this process, whose next answer each test sets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/serve/serve.h"
#include "flux/internal.h"

static struct {
    pthread_t thread;
    pthread_mutex_t lock;
    struct event_base *base;
    int port, stop;
    /* under lock */
    int status, code;  /* of every answer: HTTP, gRPC */
    struct slice body; /* HTTP body, or the gRPC message without its prefix */
    char path[256], request[2048], method[16];
    int calls;
} fake = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void
on_request(void *context, struct serve_call *call, const struct serve_request *request)
{
    (void)context;
    pthread_mutex_lock(&fake.lock);
    fake.calls++;
    snprintf(fake.path, sizeof fake.path, "%.*s", (int)request->path.len, request->path.at);
    snprintf(fake.method, sizeof fake.method, "%.*s", (int)request->method_text.len, request->method_text.at);
    snprintf(fake.request, sizeof fake.request, "%.*s", (int)request->body.len, request->body.at);
    if (request->is_grpc) {
        if (fake.code == GRPC_OK) serve_send(call, fake.body);
        serve_finish(call, (enum grpc_code)fake.code, "as the test said");
    } else {
        serve_reply(call, fake.status, "application/json", fake.body);
    }
    pthread_mutex_unlock(&fake.lock);
}

static void
on_stop(evutil_socket_t fd, short what, void *context)
{
    (void)fd;
    (void)what;
    event_base_loopbreak(context);
}

static void *
run_fake(void *context)
{
    struct event *stop = event_new(fake.base, fake.stop, EV_READ, on_stop, fake.base);
    event_add(stop, NULL);
    event_base_dispatch(fake.base);
    event_free(stop);
    serve_free(context);
    return NULL;
}

static int
start_fake(void **state)
{
    static const struct serve_limits limits = {65536, 64, 10000000, 75000000};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    (void)state;
    assert_int_equal(bind(fd, (struct sockaddr *)&address, len), 0);
    assert_int_equal(listen(fd, 64), 0);
    getsockname(fd, (struct sockaddr *)&address, &len);
    fake.port = ntohs(address.sin_port);
    fake.stop = eventfd(0, EFD_CLOEXEC);
    fake.base = event_base_new();
    struct serve *serve = serve_new(fake.base, SERVE_BOTH, &limits, on_request, NULL);
    assert_non_null(serve);
    assert_true(serve_listen(serve, fd));
    return pthread_create(&fake.thread, NULL, run_fake, serve);
}

static int
stop_fake(void **state)
{
    const uint64_t one = 1;
    (void)state;
    assert_int_equal(write(fake.stop, &one, sizeof one), (int)sizeof one);
    pthread_join(fake.thread, NULL);
    event_base_free(fake.base);
    close(fake.stop);
    return 0;
}

static void
answer(int status, int code, struct slice body)
{
    pthread_mutex_lock(&fake.lock);
    fake.status = status;
    fake.code = code;
    fake.body = body;
    pthread_mutex_unlock(&fake.lock);
}

static struct flux_client *
client_of(enum flux_protocol protocol, unsigned weight)
{
    char url[64];
    const struct flux_instance instance = {
        .id = "a/b", .service_name = "users", .host = "h", .port = 80, .weight = weight};
    snprintf(url, sizeof url, "127.0.0.1:%d", fake.port);
    const struct flux_options options = {
        .registry_url = url, .protocol = protocol, .timeout_ms = 2000, .heartbeat_ms = 20};
    return flux_new(&instance, &options, NULL);
}

static void
speaks_the_rest_contract(void **state)
{
    struct flux_client *client = client_of(FLUX_HTTP, 0);
    (void)state;
    answer(201, 0, SLICE_LIT("{}"));
    assert_int_equal(flux_register(client), FLUX_OK);
    assert_true(flux_is_registered(client));
    assert_string_equal(fake.path, "/api/v1/services/register");
    assert_string_equal(fake.request, "{\"id\":\"a/b\",\"serviceName\":\"users\",\"host\":\"h\",\"port\":80,"
                                      "\"url\":\"http://h:80\",\"healthPath\":\"/health\"}");
    answer(200, 0, SLICE_NONE);
    assert_int_equal(flux_heartbeat(client), FLUX_OK);
    assert_string_equal(fake.path, "/api/v1/services/heartbeat/a%2Fb");
    answer(404, 0, SLICE_NONE);
    assert_int_equal(flux_heartbeat(client), FLUX_UNKNOWN_ID);
    assert_false(flux_is_registered(client));
    assert_int_equal(flux_deregister(client), FLUX_OK); /* gone already is gone */
    assert_string_equal(fake.method, "DELETE");
    answer(400, 0, SLICE_LIT("{\"error\":\"port\"}"));
    assert_int_equal(flux_register(client), FLUX_REJECTED);
    assert_int_equal(flux_deregister(client), FLUX_REJECTED);
    answer(500, 0, SLICE_NONE);
    assert_int_equal(flux_heartbeat(client), FLUX_REJECTED);
    flux_free(client);
}

static void
reads_lists_and_nothing_else(void **state)
{
    struct flux_client *client = client_of(FLUX_HTTP, 0);
    char *json = NULL;
    (void)state;
    answer(200, 0, SLICE_LIT("[{\"serviceName\":\"a\",\"x\":1},{\"serviceName\":\"b\"},{},3]"));
    assert_int_equal(flux_healthy(client, "a", &json), FLUX_OK);
    assert_string_equal(json, "[{\"serviceName\":\"a\",\"x\":1}]");
    free(json);
    static const char *const bad[] = {"", "{}", "[", "[]x", "null", "\xff"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        answer(200, 0, slice_of(bad[i]));
        assert_int_equal(flux_healthy(client, "", &json), FLUX_REJECTED);
        assert_null(json);
    }
    flux_free(client);
}

static void
maps_every_grpc_status(void **state)
{
    static const struct {
        int code;
        enum flux_error error;
    } rows[] = {{GRPC_CANCELLED, FLUX_REJECTED}, {GRPC_UNKNOWN, FLUX_REJECTED},
        {GRPC_INVALID_ARGUMENT, FLUX_REJECTED}, {GRPC_DEADLINE_EXCEEDED, FLUX_TIMEOUT},
        {GRPC_NOT_FOUND, FLUX_UNKNOWN_ID}, {GRPC_UNIMPLEMENTED, FLUX_REJECTED},
        {GRPC_UNAVAILABLE, FLUX_UNREACHABLE}, {GRPC_UNAUTHENTICATED, FLUX_REJECTED}};
    struct flux_client *client = client_of(FLUX_GRPC, 0);
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        answer(200, rows[i].code, SLICE_NONE);
        assert_int_equal(flux_heartbeat(client), rows[i].error);
    }
    answer(200, GRPC_OK, SLICE_LIT("\x08\x01"));
    assert_int_equal(flux_heartbeat(client), FLUX_OK);
    assert_string_equal(fake.path, "/serviceregistry.ServiceRegistry/SendHeartbeat");
    answer(200, GRPC_OK, SLICE_NONE); /* success=false is the empty message */
    assert_int_equal(flux_heartbeat(client), FLUX_UNKNOWN_ID);
    assert_int_equal(flux_register(client), FLUX_REJECTED);
    answer(200, GRPC_OK, SLICE_LIT("\x12\x7f")); /* a string longer than the message */
    assert_int_equal(flux_heartbeat(client), FLUX_REJECTED);
    char *json = NULL;
    assert_int_equal(flux_healthy(client, "", &json), FLUX_REJECTED);
    answer(200, GRPC_OK, SLICE_LIT("\x0a\x06\x0a\x01x\x12\x01y"));
    assert_int_equal(flux_healthy(client, "y", &json), FLUX_OK);
    assert_string_equal(json,
        "[{\"id\":\"x\",\"serviceName\":\"y\",\"host\":\"\",\"port\":0,\"url\":\"\",\"healthPath\":\"\"}]");
    free(json);
    assert_int_equal(flux_healthy(client, "z", &json), FLUX_OK);
    assert_string_equal(json, "[]");
    free(json);
    flux_free(client);
}

static void
bounds_its_wait_for_a_silent_registry(void **state)
{
    char url[64];
    struct flux_client *client;
    const struct flux_instance instance = {.service_name = "a", .port = 1};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof address;
    (void)state;
    assert_int_equal(bind(fd, (struct sockaddr *)&address, len), 0); /* bound, not listening: refused */
    getsockname(fd, (struct sockaddr *)&address, &len);
    snprintf(url, sizeof url, "127.0.0.1:%d", ntohs(address.sin_port));
    const struct flux_options options = {.registry_url = url, .protocol = FLUX_GRPC, .timeout_ms = 300};
    client = flux_new(&instance, &options, NULL);
    assert_int_equal(flux_heartbeat(client), FLUX_UNREACHABLE);
    assert_int_equal(listen(fd, 1), 0); /* accepts, and never says a word */
    assert_int_equal(flux_heartbeat(client), FLUX_TIMEOUT);
    close(fd);
    flux_free(client);
}

static bool
reaches(int calls)
{
    uint64_t limit = clock_now_us() + 5000000;
    int now;
    do {
        pthread_mutex_lock(&fake.lock);
        now = fake.calls;
        pthread_mutex_unlock(&fake.lock);
        usleep(1000);
    } while (now < calls && clock_now_us() < limit);
    return now >= calls;
}

static void
keeps_an_instance_registered_on_its_own_thread(void **state)
{
    struct flux_client *client = client_of(FLUX_HTTP, 2);
    (void)state;
    answer(200, 0, SLICE_NONE);
    fake.calls = 0;
    assert_int_equal(flux_start(client, 3000), FLUX_OK);
    assert_int_equal(flux_start(client, 0), FLUX_INVALID); /* one thread a client */
    assert_true(flux_is_registered(client));
    assert_true(reaches(5));
    assert_int_equal(flux_stop(client), FLUX_OK);
    assert_false(flux_is_registered(client));
    assert_string_equal(fake.method, "DELETE");
    flux_free(client);
}

static void
goes_on_trying_after_flux_start_gave_up_waiting(void **state)
{
    struct flux_client *client = client_of(FLUX_HTTP, 0);
    (void)state;
    answer(503, 0, SLICE_NONE);
    assert_int_equal(flux_start(client, 50), FLUX_TIMEOUT);
    answer(201, 0, SLICE_NONE);
    for (uint64_t limit = clock_now_us() + 10000000; !flux_is_registered(client) && clock_now_us() < limit;)
        usleep(1000);
    assert_true(flux_is_registered(client));
    flux_free(client); /* stops and deregisters */
    assert_string_equal(fake.method, "DELETE");
}

static void
counts_calls_with_their_own_operation_and_protocol(void **state)
{
    struct flux_client *client = client_of(FLUX_GRPC, 0);
    (void)state;
    char *text = flux_metrics(client);
    assert_null(strstr(text, "flux_registry_calls_total{")); /* a series begins with its first call */
    assert_non_null(strstr(text, "flux_registrar_state{instance_id=\"a/b\",service_name=\"users\"} 0\n"));
    free(text);
    answer(200, GRPC_OK, SLICE_LIT("\x08\x01"));
    assert_int_equal(flux_register(client), FLUX_OK);
    assert_int_equal(flux_heartbeat(client), FLUX_OK);
    assert_int_equal(flux_heartbeat(client), FLUX_OK);
    answer(200, GRPC_UNAVAILABLE, SLICE_NONE);
    assert_int_equal(flux_deregister(client), FLUX_UNREACHABLE);
    text = flux_metrics(client);
    assert_non_null(strstr(
        text, "flux_registry_calls_total{operation=\"register\",protocol=\"grpc\",status=\"success\"} 1\n"));
    assert_non_null(strstr(
        text, "flux_registry_calls_total{operation=\"heartbeat\",protocol=\"grpc\",status=\"success\"} 2\n"));
    assert_non_null(strstr(text,
        "flux_registry_calls_total{operation=\"deregister\",protocol=\"grpc\",status=\"failure\"} 1\n"));
    assert_non_null(strstr(text, "flux_registry_call_duration_seconds_count{operation=\"heartbeat\",protocol="
                                 "\"grpc\",status=\"success\"} 2\n"));
    assert_non_null(strstr(text, "status=\"success\",le=\"+Inf\"} 2\n"));
    free(text);
    flux_free(client);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(speaks_the_rest_contract),
        cmocka_unit_test(reads_lists_and_nothing_else),
        cmocka_unit_test(maps_every_grpc_status),
        cmocka_unit_test(bounds_its_wait_for_a_silent_registry),
        cmocka_unit_test(keeps_an_instance_registered_on_its_own_thread),
        cmocka_unit_test(goes_on_trying_after_flux_start_gave_up_waiting),
        cmocka_unit_test(counts_calls_with_their_own_operation_and_protocol),
    };
    return cmocka_run_group_tests(tests, start_fake, stop_fake);
}
