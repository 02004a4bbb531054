#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/http/h1.h"
#include "core/metrics/stats.h"
#include "core/shm/queue.h"

struct fixture {
    struct shm *shm;
    struct stats *stats;
    struct stats_key key;
    struct strbuf out;
};

static uint32_t
claim(struct shm *shm, const char *service, const char *id)
{
    struct slot_text text = {0};
    snprintf(text.id, sizeof(text.id), "%s", id);
    snprintf(text.host, sizeof(text.host), "10.0.0.1");
    uint32_t slot = slot_claim(shm, shm_name_add(shm, slice_of(service)), SLOT_HEALTHY, 1, 80, &text);
    assert_int_not_equal(slot, SLOT_NONE);
    return slot;
}

static struct stats_key
key_of(struct shm *shm, const char *route, const char *service, uint32_t slot)
{
    struct stats_key key = {
        .route = shm_name_add(shm, slice_of(route)),
        .service = shm_name_add(shm, slice_of(service)),
        .slot = slot,
        .incarnation = slot == SLOT_NONE ? 0 : slot_at(shm, slot)->incarnation,
        .strategy = shm_name_add(shm, slice_of("round_robin")),
        .status = 200,
        .method = METHOD_GET,
        .reason = REASON_NONE,
    };
    return key;
}

static int
setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    if (f == NULL) return -1;
    f->shm = shm_create(&(struct shm_params){.max_endpoints = 64, .stats_bytes = stats_region_bytes()});
    assert_non_null(f->shm);
    f->stats = stats_open(f->shm, 0);
    assert_non_null(f->stats);
    f->key = key_of(f->shm, "/users", "users", claim(f->shm, "users", "u1"));
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    struct fixture *f = *state;
    stats_close(f->stats);
    strbuf_fini(&f->out);
    shm_destroy(f->shm);
    free(f);
    return 0;
}

static const char *
expose(struct fixture *f)
{
    strbuf_clear(&f->out);
    stats_expose(f->shm, 2, &f->out);
    assert_false(f->out.failed);
    return f->out.at;
}

static void
assert_line(struct fixture *f, const char *line)
{
    const char *found = strstr(expose(f), line);
    if (found == NULL || (found != f->out.at && found[-1] != '\n') || found[strlen(line)] != '\n')
        fail_msg("no line '%s' in\n%s", line, f->out.at);
}

#define LABELS "{path=\"/users\",method=\"GET\",status=\"200\",backend_id=\"u1\",strategy=\"round_robin\""

static void
counts_with_the_old_names_and_labels(void **state)
{
    struct fixture *f = *state;
    stats_add(f->stats, &f->key, 100, 10, 1000);
    stats_add(f->stats, &f->key, 101, 5, 500);
    stats_add(f->stats, &f->key, 20000000, 0, 0);
    assert_line(f, "# TYPE loadbalancer_total_requests counter");
    assert_line(f, "loadbalancer_total_requests" LABELS "} 3");
    assert_line(f, "loadbalancer_request_duration_seconds_bucket" LABELS ",le=\"0.0001\"} 1");
    assert_line(f, "loadbalancer_request_duration_seconds_bucket" LABELS ",le=\"0.00025\"} 2");
    assert_line(f, "loadbalancer_request_duration_seconds_bucket" LABELS ",le=\"10\"} 2");
    assert_line(f, "loadbalancer_request_duration_seconds_bucket" LABELS ",le=\"+Inf\"} 3");
    assert_line(f, "loadbalancer_request_duration_seconds_count" LABELS "} 3");
    assert_line(f, "loadbalancer_request_duration_seconds_sum" LABELS "} 20.000201");
    assert_line(f, "fluxgate_request_bytes_total{service=\"users\",backend_id=\"u1\"} 15");
    assert_line(f, "fluxgate_response_bytes_total{service=\"users\",backend_id=\"u1\"} 1500");
    assert_line(
        f, "loadbalancer_backend_status{backend_host=\"10.0.0.1\",backend_id=\"u1\",service=\"users\"} 1");
    slot_begin(f->shm, 0, f->key.slot);
    assert_line(f, "loadbalancer_backend_active_connections{backend_host=\"10.0.0.1\",backend_id=\"u1\","
                   "service=\"users\"} 1");
    slot_set_state(f->shm, f->key.slot, SLOT_UNHEALTHY, "3 probes failed");
    assert_line(
        f, "loadbalancer_backend_status{backend_host=\"10.0.0.1\",backend_id=\"u1\",service=\"users\"} 0");
    assert_line(f, "fluxgate_endpoint_state{service=\"users\",backend_id=\"u1\",state=\"unhealthy\"} 1");
    assert_line(f, "fluxgate_service_endpoints{service=\"users\",state=\"unhealthy\"} 1");
}

static void
names_what_has_no_route_and_no_endpoint(void **state)
{
    struct fixture *f = *state;
    struct stats_key key = {.route = UINT32_MAX,
        .service = UINT32_MAX,
        .slot = SLOT_NONE,
        .strategy = UINT32_MAX,
        .status = 404,
        .method = METHOD_OTHER,
        .reason = REASON_NO_ROUTE};
    stats_add(f->stats, &key, 50, 0, 0);
    assert_line(f,
        "loadbalancer_total_requests{path=\"none\",method=\"other\",status=\"404\",backend_id=\"none\","
        "strategy=\"none\"} 1");
    assert_line(f, "fluxgate_requests_failed_total{reason=\"no_route\",path=\"none\",service=\"none\","
                   "backend_id=\"none\"} 1");
}

static void
adds_up_workers_reasons_and_services_into_one_series(void **state)
{
    struct fixture *f = *state;
    struct stats *other = stats_open(f->shm, 63); /* also of a worker past the present number */
    assert_non_null(other);
    struct stats_key same = key_of(f->shm, "/users", "users_next", claim(f->shm, "users_next", "u1"));
    struct stats_key failed = f->key;
    failed.reason = REASON_RESET_AFTER_HEADERS;
    stats_add(f->stats, &f->key, 100, 0, 0);
    stats_add(other, &f->key, 100, 0, 0);
    stats_add(other, &same, 100, 0, 0);
    stats_add(other, &failed, 100, 0, 0);
    assert_line(f, "loadbalancer_total_requests" LABELS "} 4");
    assert_line(f,
        "fluxgate_requests_failed_total{reason=\"reset_after_headers\",path=\"/users\",service=\"users\","
        "backend_id=\"u1\"} 1");
    assert_line(f,
        "loadbalancer_backend_status{backend_host=\"10.0.0.1\",backend_id=\"u1\",service=\"users_next\"} 1");
    stats_close(other);
}

static void
a_successor_goes_on_counting(void **state)
{
    struct fixture *f = *state;
    stats_add(f->stats, &f->key, 100, 0, 0);
    stats_close(f->stats);
    f->stats = stats_open(f->shm, 0);
    assert_non_null(f->stats);
    stats_add(f->stats, &f->key, 100, 0, 0);
    assert_line(f, "loadbalancer_total_requests" LABELS "} 2");
}

static void
series_go_with_their_endpoint(void **state)
{
    struct fixture *f = *state;
    stats_add(f->stats, &f->key, 100, 0, 0);
    slot_remove(f->shm, f->key.slot);
    assert_null(strstr(expose(f), "u1"));
    stats_purge(f->stats);
    assert_int_equal(shm_reap(f->shm), 1);
    uint32_t again = claim(f->shm, "users", "u1"); /* a new owner of the slot, at its first request */
    assert_int_equal(again, f->key.slot);
    assert_null(strstr(expose(f), LABELS));
    struct stats_key key = key_of(f->shm, "/users", "users", again);
    assert_int_not_equal(key.incarnation, f->key.incarnation);
    stats_add(f->stats, &key, 100, 0, 0);
    assert_line(f, "loadbalancer_total_requests" LABELS "} 1");
}

static void
a_full_table_counts_what_it_drops_and_purging_makes_room(void **state)
{
    struct fixture *f = *state;
    struct stats_key key = f->key;
    for (uint32_t i = 0; i < STATS_SERIES + 10; i++) {
        key.route = i; /* names never given are shown as "" and add up: only the rows matter here */
        stats_add(f->stats, &key, 100, 0, 0);
    }
    assert_int_equal(atomic_load(&shm_totals(f->shm)->stats_series_dropped), 10);
    slot_remove(f->shm, f->key.slot);
    stats_purge(f->stats);
    struct stats_key next = key_of(f->shm, "/next", "users", claim(f->shm, "users", "u2"));
    for (uint32_t i = 0; i < STATS_SERIES; i++) {
        next.status = (uint16_t)(i % 500 + 100);
        next.method = (uint8_t)(i / 500 % METHOD_COUNT);
        next.reason = (uint8_t)(i / 5000);
        stats_add(f->stats, &next, 100, 0, 0);
    }
    assert_int_equal(atomic_load(&shm_totals(f->shm)->stats_series_dropped), 10);
}

/* The region as a killed, or a mad, worker may leave it: opening and scraping stay inside it. */
static void
survives_a_region_full_of_rubbish(void **state)
{
    struct fixture *f = *state;
    size_t bytes;
    unsigned char *region = shm_stats_region(f->shm, 1, &bytes);
    uint32_t seed = 3;
    for (size_t i = 0; i < bytes; i++) {
        seed = seed * 1664525u + 1013904223u;
        region[i] = (unsigned char)(seed >> 16);
    }
    (void)expose(f);
    struct stats *stats = stats_open(f->shm, 1);
    assert_non_null(stats);
    stats_purge(stats);
    stats_add(stats, &f->key, 100, 0, 0);
    assert_line(f, "loadbalancer_total_requests" LABELS "} 1");
    stats_close(stats);
}

static void
escapes_label_values(void **state)
{
    struct fixture *f = *state;
    stats_label(&f->out, (struct slice){"a\\b\"c\nd\xff\xc3\xa4", 10});
    assert_string_equal(f->out.at, "\"a\\\\b\\\"c\\nd\xef\xbf\xbd\xc3\xa4\"");
}

static void
ids_that_print_alike_give_one_series(void **state)
{
    struct fixture *f = *state;
    struct stats_key a = key_of(f->shm, "/x", "x", claim(f->shm, "x", "a\xff"));
    struct stats_key b = key_of(f->shm, "/x", "x", claim(f->shm, "x", "a\xfe"));
    stats_add(f->stats, &a, 100, 0, 0);
    stats_add(f->stats, &b, 100, 0, 0);
    const char *once = strstr(expose(f), "loadbalancer_total_requests{path=\"/x\"");
    assert_non_null(once);
    assert_null(strstr(once + 1, "loadbalancer_total_requests{path=\"/x\""));
    once = strstr(f->out.at, "loadbalancer_backend_status{backend_host=\"10.0.0.1\",backend_id=\"a");
    assert_non_null(once);
    assert_null(strstr(once + 1, "loadbalancer_backend_status{backend_host=\"10.0.0.1\",backend_id=\"a"));
}

/* A worker that adds, purges and reuses rows as fast as it can, killed and succeeded, while control scrapes.
 */
static void
churn_for_ever(struct fixture *f, uint32_t seed)
{
    struct stats *stats = stats_open(f->shm, 1);
    for (;;) {
        for (int i = 0; i < 100; i++) {
            struct stats_key key = f->key;
            seed = seed * 1664525u + 1013904223u;
            key.incarnation =
                (seed >> 10) % 2 == 0 ? f->key.incarnation : 1000 + seed % 7; /* half are gone ones */
            key.status = (uint16_t)(200 + (seed >> 20) % 5);
            stats_add(stats, &key, 100, 1, 1);
        }
        stats_purge(stats);
    }
}

static void
scrapes_stay_whole_and_counters_never_fall(void **state)
{
    struct fixture *f = *state;
    unsigned long long last = 0, scrapes = 0;
    for (int round = 0; round < 5; round++) {
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            churn_for_ever(f, (uint32_t)round);
        }
        uint64_t until = clock_now_us() + 50000;
        while (clock_now_us() < until || last == 0) {
            const char *at = strstr(expose(f), "loadbalancer_total_requests" LABELS "} ");
            if (at == NULL) continue;
            unsigned long long now =
                strtoull(at + strlen("loadbalancer_total_requests" LABELS "} "), NULL, 10);
            assert_true(now >= last);
            last = now;
            scrapes++;
        }
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
    }
    assert_true(scrapes > 10);
}

/* One complaint is allowed: the old counter's name, which the contract fixes, ends in no _total. */
static void
promtool_finds_nothing_but_the_old_name(void **state)
{
    struct fixture *f = *state;
    char said[4096];
    if (system("command -v promtool >/dev/null 2>&1") != 0) skip();
    stats_add(f->stats, &f->key, 100, 10, 1000);
    atomic_store(&shm_worker(f->shm, 0)->heartbeat_us, clock_now_us());
    struct stats_key odd = key_of(f->shm, "a \"quoted\\\nroute", "users", f->key.slot);
    odd.reason = REASON_STREAM_IDLE;
    stats_add(f->stats, &odd, 5000000, 0, 0);
    expose(f);
    char path[] = "/tmp/fluxgate-metrics-XXXXXX", command[128];
    int fd = mkstemp(path);
    assert_int_not_equal(fd, -1);
    assert_int_equal(write(fd, f->out.at, f->out.len), (ssize_t)f->out.len);
    close(fd);
    snprintf(command, sizeof(command), "promtool check metrics <%s 2>&1", path);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    size_t len = fread(said, 1, sizeof(said) - 1, pipe);
    int status = pclose(pipe);
    unlink(path);
    said[len] = '\0';
    assert_string_equal(said, "loadbalancer_total_requests counter metrics should have \"_total\" suffix\n");
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 3);
}

/* The tests run in the source tree. */
static void
shows_the_line_of_a_service_that_has_limits(void **state)
{
    struct fixture *f = *state;
    struct queue *queue = shm_queue(f->shm, shm_name_add(f->shm, SLICE_LIT("a \"b\"")));
    assert_non_null(queue);
    assert_true(queue_try_begin(f->shm, queue, 3, 1));
    assert_int_not_equal(queue_enter(f->shm, queue, 3, SLOT_NONE, false, 1), 0);
    assert_int_equal(queue_enter(f->shm, queue, 4, SLOT_NONE, false, 1), 0);
    queue_served(queue, 2000042);
    queue_timed_out(queue);
    static const char *const lines[] = {"\nfluxgate_queue_depth{service=\"a \\\"b\\\"\"} 1\n",
        "\nfluxgate_queue_active{service=\"a \\\"b\\\"\"} 1\n", "\nfluxgate_queue_entered_total{service=\"a",
        "\nfluxgate_queue_timed_out_total{service=\"a \\\"b\\\"\"} 1\n",
        "\nfluxgate_queue_refused_total{service=\"a \\\"b\\\"\"} 1\n",
        "\nfluxgate_queue_wait_seconds_sum{service=\"a \\\"b\\\"\"} 2.000042\n",
        "\nfluxgate_queue_wait_seconds_count{service=\"a \\\"b\\\"\"} 1\n"};
    const char *text = expose(f);
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        if (strstr(text, lines[i]) == NULL) fail_msg("no %s in:\n%s", lines[i], text);
    }
}

static void
every_series_stands_in_the_documentation(void **state)
{
    struct fixture *f = *state;
    static char docs[1 << 16];
    FILE *file = fopen("docs/metrics.md", "r");
    if (file == NULL) skip();
    docs[fread(docs, 1, sizeof(docs) - 1, file)] = '\0';
    fclose(file);
    for (const char *at = expose(f); (at = strstr(at, "# TYPE ")) != NULL; at++) {
        char name[128];
        snprintf(name, sizeof(name), "`%.*s`", (int)strcspn(at + 7, " "), at + 7);
        if (strstr(docs, name) == NULL) fail_msg("docs/metrics.md does not name %s", name);
    }
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(counts_with_the_old_names_and_labels),
        TEST(names_what_has_no_route_and_no_endpoint),
        TEST(adds_up_workers_reasons_and_services_into_one_series),
        TEST(a_successor_goes_on_counting),
        TEST(series_go_with_their_endpoint),
        TEST(a_full_table_counts_what_it_drops_and_purging_makes_room),
        TEST(survives_a_region_full_of_rubbish),
        TEST(escapes_label_values),
        TEST(ids_that_print_alike_give_one_series),
        TEST(scrapes_stay_whole_and_counters_never_fall),
        TEST(shows_the_line_of_a_service_that_has_limits),
        TEST(every_series_stands_in_the_documentation),
        TEST(promtool_finds_nothing_but_the_old_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
