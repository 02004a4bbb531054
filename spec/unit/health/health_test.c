/* links: shm http base */
/* Active probes, what they make of an endpoint, and what a new generation does to them. */
#include "spec/unit/health/world.h"

/* ---- active probes */

static void
proves_a_new_endpoint_with_its_first_good_answer(void **state)
{
    struct world *world = *state;
    char reason[128];
    backend_listen(&world->backend, world->base, 0, ok_answer);
    uint32_t slot = endpoint_add(world, "a", world->backend.port, SLOT_UNPROVEN);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, state_of(world, slot, reason) == SLOT_HEALTHY);
    assert_string_equal(reason, "1 probe passed");
    assert_int_equal(world->backend.connections, 1);
    char expected[256];
    snprintf(expected, sizeof expected,
        "GET /health HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nUser-Agent: fluxgate-health/" FLUXGATE_VERSION
        "\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        world->backend.port);
    assert_string_equal(world->backend.request, expected);
    assert_int_equal(atomic_load(&shm_totals(world->shm)->probe_failures), 0);
}

static void
takes_the_load_that_an_answer_reports(void **state)
{
    struct world *world = *state;
    backend_listen(&world->backend, world->base, 0,
        "HTTP/1.1 200 OK\r\nEndpoint-Load-Metrics: TEXT cpu_utilization=0.75\r\nContent-Length: 0\r\n\r\n");
    uint32_t slot = endpoint_add(world, "a", world->backend.port, SLOT_UNPROVEN);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, state_of(world, slot, NULL) == SLOT_HEALTHY);
    assert_int_equal(atomic_load(&slot_at(world->shm, slot)->load_milli), 750);
}

static void
asks_the_instances_own_path_below_its_urls(void **state)
{
    struct world *world = *state;
    struct slot_text text;
    backend_listen(&world->backend, world->base, 0, ok_answer);
    uint32_t slot = endpoint_add(world, "a", world->backend.port, SLOT_UNPROVEN);
    assert_true(slot_read(world->shm, slot, NULL, &text));
    assert_true(text_copy(text.path_prefix, sizeof text.path_prefix, SLICE_LIT("/base")));
    assert_true(text_copy(text.health_path, sizeof text.health_path, SLICE_LIT("/alive?deep=1")));
    slot_update(world->shm, slot, 1, world->backend.port, &text);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, state_of(world, slot, NULL) == SLOT_HEALTHY);
    assert_non_null(strstr(world->backend.request, "GET /base/alive?deep=1 HTTP/1.1\r\n"));
}

static void
falls_after_three_refused_connections_and_says_why(void **state)
{
    struct world *world = *state;
    char reason[128];
    uint32_t slot = endpoint_add(world, "a", refusing_port(), SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, state_of(world, slot, reason) == SLOT_UNHEALTHY);
    assert_string_equal(reason, "3 probes failed: connect refused");
    assert_true(atomic_load(&shm_totals(world->shm)->probe_failures) >= 3);
}

static void
comes_back_after_rise_successes(void **state)
{
    struct world *world = *state;
    char reason[128];
    uint16_t port = refusing_port();
    uint32_t slot = endpoint_add(world, "a", port, SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, state_of(world, slot, NULL) == SLOT_UNHEALTHY);
    atomic_store(&slot_at(world->shm, slot)->failures, 7);
    backend_listen(&world->backend, world->base, port, ok_answer);
    WAIT_FOR(world, state_of(world, slot, reason) == SLOT_HEALTHY);
    assert_string_equal(reason, "2 probes passed");
    assert_int_equal(atomic_load(&slot_at(world->shm, slot)->failures), 0);
}

static void
takes_a_wrong_status_a_silent_and_a_babbling_backend_for_failures(void **state)
{
    struct world *world = *state;
    static const struct {
        const char *answer, *reason;
    } rows[] = {
        {"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "3 probes failed: status 503"},
        {NULL, "3 probes failed: response timeout"},
        {"SSH-2.0-OpenSSH_9.2\r\n\r\n", "3 probes failed: bad response"},
        {"HTTP/1.1 200", "3 probes failed: reset before headers"},
    };
    health_use(world->health, &world->config, NULL);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char reason[128], id[16];
        world->service.health.timeout_us = rows[i].answer == NULL ? 60000 : WAIT_US;
        snprintf(id, sizeof id, "e%zu", i);
        backend_listen(&world->backend, world->base, 0, rows[i].answer);
        uint32_t slot = endpoint_add(world, id, world->backend.port, SLOT_HEALTHY);
        health_refresh(world->health);
        WAIT_FOR(world, state_of(world, slot, reason) == SLOT_UNHEALTHY);
        assert_string_equal(reason, rows[i].reason);
        slot_remove(world->shm, slot);
        health_refresh(world->health);
        backend_close(&world->backend);
    }
}

static void
reads_an_answer_that_comes_byte_by_byte_behind_a_100(void **state)
{
    struct world *world = *state;
    policy.body_contains = "good";
    backend_listen(&world->backend, world->base, 0,
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        "4\r\nall \r\n3;x=y\r\ngoo\r\n1\r\nd\r\n0\r\n\r\n");
    world->backend.slow = true;
    uint32_t slot = endpoint_add(world, "a", world->backend.port, SLOT_UNPROVEN);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, state_of(world, slot, NULL) == SLOT_HEALTHY);
}

static void
hands_the_body_to_a_policy_that_reads_it_for_itself(void **state)
{
    struct world *world = *state;
    policy.body_contains = "";
    policy.sought = "all good";
    for (int slow = 0; slow < 2; slow++) {
        backend_listen(&world->backend, world->base, 0,
            slow ? "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nall \r\n4\r\ngood\r\n0\r\n\r\n"
                 : "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nall good");
        world->backend.slow = slow;
        char id[] = {(char)('a' + slow), '\0'};
        uint32_t slot = endpoint_add(world, id, world->backend.port, SLOT_UNPROVEN);
        health_use(world->health, &world->config, NULL);
        WAIT_FOR(world, state_of(world, slot, NULL) == SLOT_HEALTHY);
        slot_remove(world->shm, slot);
        health_refresh(world->health);
        backend_close(&world->backend);
    }
}

static void
judges_a_body_that_never_ends_by_what_came(void **state)
{
    struct world *world = *state;
    policy.body_contains = "";
    policy.sought = "all";
    policy.timeout_us = 50000;
    backend_listen(&world->backend, world->base, 0, "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nall");
    world->backend.stays = true;
    uint32_t slot = endpoint_add(world, "a", world->backend.port, SLOT_UNPROVEN);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, state_of(world, slot, NULL) == SLOT_HEALTHY);
}

static void
fails_a_body_without_the_expected_words(void **state)
{
    struct world *world = *state;
    char reason[128];
    policy.body_contains = "good";
    backend_listen(&world->backend, world->base, 0, ok_answer);
    uint32_t slot = endpoint_add(world, "a", world->backend.port, SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, state_of(world, slot, reason) == SLOT_UNHEALTHY);
    assert_string_equal(reason, "3 probes failed: the body does not match");
}

static void
is_content_with_a_connection_where_the_policy_is_tcp(void **state)
{
    struct world *world = *state;
    policy.kind = PROBE_TCP;
    backend_listen(&world->backend, world->base, 0, NULL);
    uint32_t slot = endpoint_add(world, "a", world->backend.port, SLOT_UNPROVEN);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, state_of(world, slot, NULL) == SLOT_HEALTHY);
}

static void
talks_as_the_script_asks_however_slowly_the_answer_comes(void **state)
{
    struct world *world = *state;
    policy.kind = PROBE_SOCKET;
    for (int slow = 0; slow < 2; slow++) {
        backend_listen(&world->backend, world->base, 0, "send 4\r\nwellbeyond");
        world->backend.slow = slow;
        char id[] = {(char)('a' + slow), '\0'};
        uint32_t slot = endpoint_add(world, id, world->backend.port, SLOT_UNPROVEN);
        health_use(world->health, &world->config, NULL);
        WAIT_FOR(world, state_of(world, slot, NULL) == SLOT_HEALTHY);
        slot_remove(world->shm, slot);
        health_refresh(world->health);
        assert_int_equal(dialog.begun, dialog.ended);
        backend_close(&world->backend);
    }
}

static void
tells_a_script_that_the_endpoint_closed_and_what_came_before(void **state)
{
    struct world *world = *state;
    char reason[128];
    policy.kind = PROBE_SOCKET;
    backend_listen(&world->backend, world->base, 0, "send 5\nwell");
    uint32_t slot = endpoint_add(world, "a", world->backend.port, SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, state_of(world, slot, reason) == SLOT_UNHEALTHY);
    assert_string_equal(reason, "3 probes failed: closed after 'well'");
}

static void
leaves_an_endpoint_alone_whose_script_fails_in_its_dialog(void **state)
{
    struct world *world = *state;
    policy.kind = PROBE_SOCKET;
    dialog.fails = true;
    backend_listen(&world->backend, world->base, 0, "send 4\nwell");
    uint32_t slot = endpoint_add(world, "a", world->backend.port, SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, policy.plans >= 5);
    assert_int_equal(policy.judgements, 0);
    assert_int_equal(state_of(world, slot, NULL), SLOT_HEALTHY);
    assert_true(dialog.ended + 1 >= dialog.begun);
}

/* Its coroutine lives in the state that goes. */
static void
begins_a_dialog_anew_at_a_reload(void **state)
{
    struct world *world = *state;
    policy.kind = PROBE_SOCKET;
    policy.timeout_us = 60000000;
    backend_listen(&world->backend, world->base, 0, NULL);
    endpoint_add(world, "a", world->backend.port, SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, world->backend.request[0] == 'H');
    assert_int_equal(dialog.ended, 0);
    struct config next = world->config;
    health_use(world->health, &next, NULL);
    assert_int_equal(dialog.ended, 1);
    WAIT_FOR(world, dialog.begun == 2 && world->backend.connections == 2);
}

static void
takes_no_http_for_grpc(void **state)
{
    struct world *world = *state;
    char reason[128];
    policy.kind = PROBE_GRPC;
    backend_listen(&world->backend, world->base, 0, ok_answer);
    uint32_t slot = endpoint_add(world, "a", world->backend.port, SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, state_of(world, slot, reason) == SLOT_UNHEALTHY);
    assert_string_equal(reason, "3 probes failed: it speaks no HTTP/2");
    assert_int_equal(memcmp(world->backend.request, "PRI * HTTP/2.0\r\n", 16), 0);
}

static void
leaves_an_endpoint_alone_whose_policy_fails(void **state)
{
    struct world *world = *state;
    uint32_t slot = endpoint_add(world, "a", refusing_port(), SLOT_HEALTHY);
    policy.fails = true;
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, policy.plans >= 5);
    assert_int_equal(state_of(world, slot, NULL), SLOT_HEALTHY);
    struct strbuf text = {0};
    health_describe(world->health, &text);
    assert_null(strstr(text.at, "\"policy_errors\":0,"));
    strbuf_fini(&text);
}

static void
refuses_a_path_that_would_end_the_request_line(void **state)
{
    struct world *world = *state;
    policy.path = "/x HTTP/1.1\r\nX-Evil: 1\r\n";
    backend_listen(&world->backend, world->base, 0, ok_answer);
    endpoint_add(world, "a", world->backend.port, SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, policy.plans >= 1);
    assert_int_equal(world->backend.connections, 0);
    assert_int_equal(atomic_load(&shm_totals(world->shm)->probes), 0);
}

static void
does_not_touch_what_drains_or_is_in_maintenance(void **state)
{
    struct world *world = *state;
    uint16_t port = refusing_port();
    uint32_t draining = endpoint_add(world, "a", port, SLOT_DRAINING);
    uint32_t resting = endpoint_add(world, "b", port, SLOT_MAINTENANCE);
    uint32_t probed = endpoint_add(world, "c", port, SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, state_of(world, probed, NULL) == SLOT_UNHEALTHY);
    assert_int_equal(state_of(world, draining, NULL), SLOT_DRAINING);
    assert_int_equal(state_of(world, resting, NULL), SLOT_MAINTENANCE);
    backend_listen(&world->backend, world->base, port, ok_answer);
    slot_set_state(world->shm, resting, SLOT_UNPROVEN, "back");
    WAIT_FOR(world, state_of(world, resting, NULL) == SLOT_HEALTHY);
}

static void
probes_many_endpoints_no_more_than_256_at_once(void **state)
{
    struct world *world = *state;
    enum { MANY = 600 };
    uint32_t slots[MANY];
    unsigned healthy = 0;
    backend_listen(&world->backend, world->base, 0, ok_answer);
    world->service.health.interval_us = world->service.health.fast_interval_us = 60000000;
    for (unsigned i = 0; i < MANY; i++) {
        char id[16];
        snprintf(id, sizeof id, "e%u", i);
        slots[i] = endpoint_add(world, id, world->backend.port, SLOT_UNPROVEN);
    }
    health_use(world->health, &world->config, NULL);
    uint64_t until = clock_now_us() + WAIT_US;
    do {
        struct strbuf text = {0};
        health_describe(world->health, &text);
        assert_int_equal(strncmp(text.at, "{\"active\":", 10), 0);
        assert_true(strtol(text.at + 10, NULL, 10) <= 256);
        strbuf_fini(&text);
        healthy = 0;
        for (unsigned i = 0; i < MANY; i++)
            healthy += state_of(world, slots[i], NULL) == SLOT_HEALTHY;
    } while (healthy < MANY && turn(world, until));
    assert_int_equal(healthy, MANY);
    assert_int_equal(world->backend.connections, MANY);
}

/* ---- damping */

static void
holds_down_what_falls_and_rises_and_lets_it_go_when_it_was_quiet(void **state)
{
    struct damping damping = {0};
    const struct config_damping rules = {60000000, 300000000, 3, 1};
    uint64_t now = 1000000;
    (void)state;
    for (int i = 0; i < 3; i++) {
        damping_fell(&damping, &rules, now += 1000000);
        assert_int_equal(damping_left_us(&damping, &rules, now), 0);
    }
    damping_fell(&damping, &rules, now += 1000000); /* the fourth: 4 less what decayed in 6 s */
    uint64_t left = damping_left_us(&damping, &rules, now);
    assert_true(left > 115000000 && left < 120000000); /* log2(3.93) minutes */
    assert_true(damping_left_us(&damping, &rules, now + 60000000) < left - 59000000);
    assert_true(
        damping_left_us(&damping, &rules, now + left - 1000) > 0); /* below suppress is not yet reuse */
    assert_int_equal(damping_left_us(&damping, &rules, now + left), 0);

    for (int i = 0; i < 200; i++)
        damping_fell(&damping, &rules, now += 1000);
    assert_true(damping_left_us(&damping, &rules, now) <= 300000001); /* max, whatever came before */
    damping = (struct damping){0};
    for (int i = 0; i < 200; i++) { /* a fall a minute adds up to 2 */
        damping_fell(&damping, &rules, now += 60000000);
        assert_int_equal(damping_left_us(&damping, &rules, now), 0);
    }
    const struct config_damping off = {0};
    damping.is_held = true;
    damping_fell(&damping, &off, now);
    assert_int_equal(damping_left_us(&damping, &off, now), 0);
}

static void
says_of_an_endpoint_that_it_is_held_down_until_its_penalty_is_gone(void **state)
{
    struct world *world = *state;
    struct backend other;
    char reason[128];
    world->service.health.damping = (struct config_damping){3600000000, 36000000000, 0.5, 0.4};
    uint16_t port = refusing_port();
    uint32_t slot = endpoint_add(world, "a", port, SLOT_HEALTHY);
    backend_listen(&other, world->base, 0, ok_answer);
    endpoint_add(world, "b", other.port, SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    passive_scan(world->health, clock_now_us()); /* somebody else is well */
    WAIT_FOR(world, state_of(world, slot, NULL) == SLOT_UNHEALTHY);
    backend_listen(&world->backend, world->base, port, ok_answer);
    WAIT_FOR(world, state_of(world, slot, reason) == SLOT_UNHEALTHY && strstr(reason, "flapping") != NULL);
    assert_non_null(strstr(reason, "probes passed, but it is flapping: held down for 47")); /* log2(2.5) h */
    world->service.health.damping.half_life_us = 1000;
    WAIT_FOR(world, state_of(world, slot, reason) == SLOT_HEALTHY);
    backend_close(&other);
}

static void
holds_down_nobody_where_no_other_is_well(void **state)
{
    struct world *world = *state;
    char reason[128];
    world->service.health.damping = (struct config_damping){3600000000, 3600000000000, 0.5, 0.4};
    uint16_t port = refusing_port();
    uint32_t slot = endpoint_add(world, "a", port, SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, state_of(world, slot, NULL) == SLOT_UNHEALTHY);
    passive_scan(world->health, clock_now_us()); /* nobody is healthy */
    backend_listen(&world->backend, world->base, port, ok_answer);
    WAIT_FOR(world, state_of(world, slot, reason) == SLOT_HEALTHY);
}

/* The policy's own interval is an hour: only the fast one explains that its verdict comes. */
static void
probes_at_the_fast_interval_while_a_verdict_changes(void **state)
{
    struct world *world = *state;
    world->service.health.interval_us = 3600000000;
    world->service.health.fast_interval_us = 10000;
    backend_listen(&world->backend, world->base, 0, "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n");
    uint32_t slot = endpoint_add(world, "a", world->backend.port, SLOT_UNPROVEN);
    policy.fall = 10;
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(
        world, state_of(world, slot, NULL) == SLOT_UNHEALTHY); /* unproven: ten probes, not one an hour */
    assert_true(is_left_alone(world, slot));                   /* and then the verdict stands */
}

/* ---- suspects */

static void
tells_of_a_suspect_that_refuses_and_keeps_one_that_answers(void **state)
{
    struct world *world = *state;
    backend_listen(&world->backend, world->base, 0, ok_answer);
    uint32_t alive = endpoint_add(world, "a", world->backend.port, SLOT_SUSPECT);
    uint32_t dead = endpoint_add(world, "b", refusing_port(), SLOT_SUSPECT);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, world->suspects_failed == 1 && world->backend.connections >= 2);
    assert_int_equal(world->suspect_failed, dead);
    assert_int_equal(state_of(world, alive, NULL), SLOT_SUSPECT);
}

static void
connects_to_suspects_of_services_without_a_policy(void **state)
{
    struct world *world = *state;
    world->service.health.enabled = false;
    backend_listen(&world->backend, world->base, 0, NULL);
    uint32_t alive = endpoint_add(world, "a", world->backend.port, SLOT_SUSPECT);
    uint32_t dead = endpoint_add(world, "b", refusing_port(), SLOT_SUSPECT);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, world->suspects_failed == 1 && world->backend.connections == 1);
    assert_int_equal(world->suspect_failed, dead);
    assert_int_equal(state_of(world, alive, NULL), SLOT_SUSPECT);
    assert_int_equal(policy.plans, 0);
}

/* ---- generations */

static void
frees_the_endpoints_of_a_service_that_lost_its_policy(void **state)
{
    struct world *world = *state;
    uint32_t slot = endpoint_add(world, "a", refusing_port(), SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, state_of(world, slot, NULL) == SLOT_UNHEALTHY);
    struct config_service bare = world->service;
    bare.health.enabled = false;
    struct config next = {.services = &bare, .service_count = 1};
    health_use(world->health, &next, NULL);
    assert_int_equal(state_of(world, slot, NULL), SLOT_HEALTHY);
    assert_int_equal(world->health->targets[slot]->duty, DUTY_NONE);
    assert_true(is_left_alone(world, slot));
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, state_of(world, slot, NULL) == SLOT_UNHEALTHY);
}

static void
keeps_a_half_counted_fall_over_a_reload(void **state)
{
    struct world *world = *state;
    char reason[128];
    policy.fall = 40;
    uint32_t slot = endpoint_add(world, "a", refusing_port(), SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, policy.judgements >= 5);
    unsigned before = policy.judgements;
    struct config next = world->config;
    policy.fall = before + 2;
    health_use(world->health, &next, NULL);
    WAIT_FOR(world, state_of(world, slot, reason) == SLOT_UNHEALTHY);
    assert_int_equal(policy.judgements, before + 2);
}

static void
forgets_what_a_slot_was_when_it_gets_a_new_owner(void **state)
{
    struct world *world = *state;
    char reason[128];
    uint32_t slot = endpoint_add(world, "a", refusing_port(), SLOT_HEALTHY);
    health_use(world->health, &world->config, NULL);
    WAIT_FOR(world, state_of(world, slot, NULL) == SLOT_UNHEALTHY);
    slot_remove(world->shm, slot);
    assert_int_equal(shm_reap(world->shm), 1);
    assert_int_equal(endpoint_add(world, "b", refusing_port(), SLOT_HEALTHY), slot);
    WAIT_FOR(world, state_of(world, slot, reason) == SLOT_UNHEALTHY);
    assert_string_equal(reason, "3 probes failed: connect refused");
}

static void
on_unsent(void *context, const struct probe_outcome *outcome)
{
    assert_false(outcome->result.ok);
    assert_int_equal(outcome->result.failure, REASON_RESPONSE_TIMEOUT);
    *(bool *)context = true;
}

/* A request that finds no room in the sockets: its time ends while it is sent. */
static void
fails_an_endpoint_that_does_not_take_the_request(void **state)
{
    enum { PATH_BYTES = 32 << 20 };
    struct event_base *base = event_base_new();
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char *path = malloc(PATH_BYTES);
    bool is_done = false;
    (void)state;
    assert_non_null(base);
    assert_non_null(path);
    memset(path, '/', PATH_BYTES - 1);
    path[PATH_BYTES - 1] = '\0';
    assert_int_equal(bind(fd, (struct sockaddr *)&at, len), 0);
    assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    struct probe_spec spec = {.kind = PROBE_HTTP,
        .address = (struct sockaddr *)&at,
        .address_len = len,
        .timeout_us = 100000,
        .method = "GET",
        .path = path,
        .host = "a"};
    assert_non_null(probe_start(base, &spec, on_unsent, &is_done));
    while (!is_done)
        assert_int_equal(event_base_loop(base, EVLOOP_ONCE), 0);
    event_base_free(base);
    free(path);
    close(fd);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(proves_a_new_endpoint_with_its_first_good_answer),
        TEST(takes_the_load_that_an_answer_reports),
        TEST(asks_the_instances_own_path_below_its_urls),
        TEST(falls_after_three_refused_connections_and_says_why),
        TEST(comes_back_after_rise_successes),
        TEST(takes_a_wrong_status_a_silent_and_a_babbling_backend_for_failures),
        TEST(reads_an_answer_that_comes_byte_by_byte_behind_a_100),
        TEST(hands_the_body_to_a_policy_that_reads_it_for_itself),
        TEST(judges_a_body_that_never_ends_by_what_came),
        TEST(fails_a_body_without_the_expected_words),
        cmocka_unit_test(fails_an_endpoint_that_does_not_take_the_request),
        TEST(is_content_with_a_connection_where_the_policy_is_tcp),
        TEST(talks_as_the_script_asks_however_slowly_the_answer_comes),
        TEST(tells_a_script_that_the_endpoint_closed_and_what_came_before),
        TEST(leaves_an_endpoint_alone_whose_script_fails_in_its_dialog),
        TEST(begins_a_dialog_anew_at_a_reload),
        TEST(takes_no_http_for_grpc),
        TEST(leaves_an_endpoint_alone_whose_policy_fails),
        TEST(refuses_a_path_that_would_end_the_request_line),
        TEST(does_not_touch_what_drains_or_is_in_maintenance),
        TEST(probes_many_endpoints_no_more_than_256_at_once),
        cmocka_unit_test(holds_down_what_falls_and_rises_and_lets_it_go_when_it_was_quiet),
        TEST(says_of_an_endpoint_that_it_is_held_down_until_its_penalty_is_gone),
        TEST(holds_down_nobody_where_no_other_is_well),
        TEST(probes_at_the_fast_interval_while_a_verdict_changes),
        TEST(tells_of_a_suspect_that_refuses_and_keeps_one_that_answers),
        TEST(connects_to_suspects_of_services_without_a_policy),
        TEST(frees_the_endpoints_of_a_service_that_lost_its_policy),
        TEST(keeps_a_half_counted_fall_over_a_reload),
        TEST(forgets_what_a_slot_was_when_it_gets_a_new_owner),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
