/* links: shm base */
#include <arpa/inet.h>
#include <netdb.h>

#include "spec/unit/discovery/world.h"

/* ---- static endpoints */

static void
has_static_endpoints_in_the_table_before_it_returns(void **state)
{
    struct world *world = *state;
    struct slot cold;
    struct slot_text text;
    world->endpoints[0] = endpoint("one", "10.0.0.1", 9001, 3);
    world->endpoints[0].zone = "b";
    world->endpoints[1] = endpoint("two", "localhost", 9002, 1);
    world->endpoints[2] = endpoint("three", "::1", 9003, 0);
    world->endpoints[3] = endpoint("four", "/run/four.sock", 0, 1);
    world->endpoints[3].address.is_unix = true;
    world->endpoints[3].address.text = "unix:/run/four.sock";
    world->services[0].endpoint_count = 4;
    use(world, &world->config);
    assert_true(discovery_is_ready(world->discovery));
    uint32_t slot = slot_find(world->shm, world->web, SLICE_LIT("one"));
    assert_true(slot_read(world->shm, slot, &cold, &text));
    assert_int_equal(cold.state, SLOT_HEALTHY);
    assert_int_equal(cold.weight, 3);
    assert_int_equal(cold.port, 9001);
    assert_string_equal(text.host, "10.0.0.1");
    assert_string_equal(text.zone, "b");
    assert_int_equal(text.address.v4.sin_port, htons(9001));
    assert_int_equal(text.address.v4.sin_addr.s_addr, inet_addr("10.0.0.1"));
    assert_true(slot_read(world->shm, slot_find(world->shm, world->web, SLICE_LIT("two")), NULL, &text));
    assert_int_equal(text.address.v4.sin_addr.s_addr, htonl(INADDR_LOOPBACK));
    assert_string_equal(text.host, "localhost");
    assert_true(slot_read(world->shm, slot_find(world->shm, world->web, SLICE_LIT("three")), &cold, &text));
    assert_int_equal(text.address.any.sa_family, AF_INET6);
    assert_int_equal(cold.weight, 0);
    assert_true(slot_read(world->shm, slot_find(world->shm, world->web, SLICE_LIT("four")), NULL, &text));
    assert_string_equal(text.address.un.sun_path, "/run/four.sock");
    assert_string_equal(text.host, "unix:/run/four.sock");
}

static void
begins_unproven_where_a_policy_will_prove(void **state)
{
    struct world *world = *state;
    world->endpoints[0] = endpoint("one", "10.0.0.1", 9001, 1);
    world->services[0].endpoint_count = 1;
    world->services[0].health.enabled = true;
    use(world, &world->config);
    assert_int_equal(state_of(world, world->web, "one"), SLOT_UNPROVEN);
}

static void
keeps_slot_and_verdict_of_what_a_reload_keeps(void **state)
{
    struct world *world = *state;
    struct slot cold;
    struct slot_text text;
    world->endpoints[0] = endpoint("one", "10.0.0.1", 9001, 1);
    world->endpoints[1] = endpoint("two", "10.0.0.2", 9002, 1);
    world->services[0].endpoint_count = 2;
    use(world, &world->config);
    uint32_t one = slot_find(world->shm, world->web, SLICE_LIT("one"));
    slot_set_state(world->shm, one, SLOT_UNHEALTHY, "3 probes failed");
    assert_true(slot_read(world->shm, one, &cold, NULL));
    uint32_t incarnation = cold.incarnation;
    struct config_endpoint next[] = {
        endpoint("three", "10.0.0.3", 9003, 1), endpoint("one", "10.0.0.9", 9009, 5)};
    struct config_service service = {.name = "web", .endpoints = next, .endpoint_count = 2};
    struct config config = {.services = &service, .service_count = 1};
    use(world, &config);
    assert_int_equal(slot_find(world->shm, world->web, SLICE_LIT("one")), one);
    assert_true(slot_read(world->shm, one, &cold, &text));
    assert_int_equal(cold.incarnation, incarnation);
    assert_int_equal(cold.state, SLOT_UNHEALTHY);
    assert_string_equal(text.reason, "3 probes failed");
    assert_int_equal(cold.weight, 5);
    assert_int_equal(text.address.v4.sin_addr.s_addr, inet_addr("10.0.0.9"));
    assert_int_equal(state_of(world, world->web, "two"), SLOT_FREE);
    assert_int_equal(state_of(world, world->web, "three"), SLOT_HEALTHY);
    uint64_t version = shm_endpoints_version(world->shm);
    use(world, &config);
    assert_int_equal(shm_endpoints_version(world->shm), version); /* nothing moved, nothing published */
}

static void
frees_the_slots_of_what_is_gone(void **state)
{
    struct world *world = *state;
    struct slot cold;
    world->endpoints[0] = endpoint("one", "10.0.0.1", 9001, 1);
    world->services[0].endpoint_count = 1;
    use(world, &world->config);
    uint32_t slot = slot_find(world->shm, world->web, SLICE_LIT("one"));
    world->services[0].endpoint_count = 0;
    use(world, &world->config);
    assert_true(slot_read(world->shm, slot, &cold, NULL));
    assert_int_equal(cold.state, SLOT_GONE);
    WAIT_FOR(world, !slot_read(world->shm, slot, NULL, NULL));
}

static void
waits_for_a_name_without_an_address_and_serves_the_rest(void **state)
{
    struct world *world = *state;
    world->endpoints[0] = endpoint("one", "no-such-host.invalid", 9001, 1);
    world->endpoints[1] = endpoint("two", "10.0.0.2", 9002, 1);
    world->services[0].endpoint_count = 2;
    uint64_t begun = clock_now_us();
    use(world, &world->config);
    assert_true(clock_now_us() - begun < 500000);
    assert_int_equal(state_of(world, world->web, "one"), SLOT_FREE);
    assert_int_equal(state_of(world, world->web, "two"), SLOT_HEALTHY);
}

static void
resolves_names_in_the_background(void **state)
{
    struct world *world = *state;
    struct slot_text text;
    char name[256];
    assert_int_equal(gethostname(name, sizeof name), 0);
    world->endpoints[0] = endpoint("one", name, 9001, 1);
    world->services[0].endpoint_count = 1;
    use(world, &world->config);
    if (strcmp(name, "localhost") == 0) return;
    struct addrinfo *all = NULL;
    if (getaddrinfo(name, NULL, NULL, &all) != 0) return; /* this machine does not know itself */
    freeaddrinfo(all);
    WAIT_FOR(world, state_of(world, world->web, "one") == SLOT_HEALTHY);
    assert_true(slot_read(world->shm, slot_find(world->shm, world->web, SLICE_LIT("one")), NULL, &text));
    assert_string_equal(text.host, name);
    assert_true(text.address_len > 0);
}

/* ---- a registry with a watch */

static void
begin(struct world *world, const char *rows)
{
    world->paper.rows = rows;
    paper_open(&world->paper, world->base);
    registry_enable(world, REGISTRY_HTTP, "users");
    use(world, &world->config);
}

static void
learns_endpoints_and_changes_by_held_requests(void **state)
{
    struct world *world = *state;
    struct slot cold;
    struct slot_text text;
    begin(world, A "," OTHER);
    assert_false(discovery_is_ready(world->discovery));
    WAIT_FOR(world, state_of(world, world->users, "a") == SLOT_HEALTHY);
    assert_true(discovery_is_ready(world->discovery));
    assert_int_equal(state_of(world, world->users, "o"), SLOT_FREE);
    assert_true(slot_read(world->shm, slot_find(world->shm, world->users, SLICE_LIT("a")), &cold, &text));
    assert_string_equal(text.path_prefix, "/v1");
    assert_int_equal(text.origin, 1);
    assert_int_equal(cold.port, 9001);
    WAIT_FOR(world, strstr(world->paper.last, "?index=1&epoch=e1&wait=30s ") != NULL);
    uint64_t begun = clock_now_us();
    paper_set(&world->paper, A "," B);
    WAIT_FOR(world, state_of(world, world->users, "b") == SLOT_HEALTHY);
    assert_true(clock_now_us() - begun < 1000000);
    paper_set(&world->paper, B); /* deregistered: gone at once */
    WAIT_FOR(world, state_of(world, world->users, "a") == SLOT_FREE);
    assert_int_equal(state_of(world, world->users, "b"), SLOT_HEALTHY);
    assert_int_equal(total(world, "registry_sync_updates"), 3);
    assert_int_equal(total(world, "registry_sync_errors"), 0);
}

static void
gives_every_instance_to_a_service_that_discovers_all(void **state)
{
    struct world *world = *state;
    world->services[1].health.enabled = true;
    world->paper.rows = A "," OTHER;
    paper_open(&world->paper, world->base);
    registry_enable(world, REGISTRY_HTTP, "*");
    use(world, &world->config);
    WAIT_FOR(world, state_of(world, world->users, "o") == SLOT_UNPROVEN);
    assert_int_equal(state_of(world, world->users, "a"), SLOT_UNPROVEN);
    struct config_service services[2] = {world->services[0], world->services[1]};
    services[1].discover = "orders"; /* a reload that narrows it */
    struct config next = world->config;
    next.services = services;
    use(world, &next);
    assert_int_equal(state_of(world, world->users, "a"), SLOT_FREE);
    assert_int_equal(state_of(world, world->users, "o"), SLOT_UNPROVEN);
}

static void
suspects_a_lapsed_lease_and_buries_it_when_the_probe_fails(void **state)
{
    struct world *world = *state;
    begin(world, A "," B);
    WAIT_FOR(world, state_of(world, world->users, "b") == SLOT_HEALTHY);
    paper_set(&world->paper, A "," B_WITH("lapsed"));
    WAIT_FOR(world, state_of(world, world->users, "b") == SLOT_SUSPECT);
    paper_set(&world->paper, A "," B); /* the lease was renewed */
    WAIT_FOR(world, state_of(world, world->users, "b") == SLOT_HEALTHY);
    paper_set(&world->paper, A "," B_WITH("lapsed"));
    WAIT_FOR(world, state_of(world, world->users, "b") == SLOT_SUSPECT);
    discovery_suspect_failed(world->discovery, slot_find(world->shm, world->users, SLICE_LIT("b")));
    assert_int_equal(state_of(world, world->users, "b"), SLOT_FREE);
    paper_set(&world->paper, A "," B_WITH("lapsed") "," C); /* still listed: it does not come back for that */
    WAIT_FOR(world, state_of(world, world->users, "c") == SLOT_HEALTHY);
    assert_int_equal(state_of(world, world->users, "b"), SLOT_FREE);
    paper_set(&world->paper, A "," B);
    WAIT_FOR(world, state_of(world, world->users, "b") == SLOT_HEALTHY);
}

static void
ignores_a_probe_of_what_is_not_suspect(void **state)
{
    struct world *world = *state;
    begin(world, A);
    WAIT_FOR(world, state_of(world, world->users, "a") == SLOT_HEALTHY);
    discovery_suspect_failed(world->discovery, slot_find(world->shm, world->users, SLICE_LIT("a")));
    discovery_suspect_failed(world->discovery, SLOT_NONE);
    assert_int_equal(state_of(world, world->users, "a"), SLOT_HEALTHY);
}

static void
removes_nothing_for_a_registry_that_lost_its_memory(void **state)
{
    struct world *world = *state;
    begin(world, A "," B "," C);
    WAIT_FOR(world, state_of(world, world->users, "c") == SLOT_HEALTHY);
    paper_close(&world->paper);
    WAIT_FOR(world, total(world, "registry_sync_errors") >= 2);
    assert_int_equal(state_of(world, world->users, "a"), SLOT_HEALTHY);
    world->paper.epoch = "e2";
    world->paper.index = 0;
    world->paper.rows = A;
    paper_open(&world->paper, world->base);
    WAIT_FOR(world, state_of(world, world->users, "b") == SLOT_SUSPECT);
    assert_int_equal(state_of(world, world->users, "a"), SLOT_HEALTHY);
    assert_int_equal(state_of(world, world->users, "c"), SLOT_SUSPECT);
    paper_set(&world->paper, A "," B); /* the same epoch, but it never showed c */
    WAIT_FOR(world, state_of(world, world->users, "b") == SLOT_HEALTHY);
    assert_int_equal(state_of(world, world->users, "c"), SLOT_SUSPECT);
    discovery_suspect_failed(world->discovery, slot_find(world->shm, world->users, SLICE_LIT("c")));
    assert_int_equal(state_of(world, world->users, "c"), SLOT_FREE);
    paper_set(&world->paper, B);
    WAIT_FOR(world, state_of(world, world->users, "a") == SLOT_FREE);
}

static void
drains_and_rests_what_the_registry_says(void **state)
{
    struct world *world = *state;
    world->services[1].health.enabled = true;
    begin(world, A "," B);
    WAIT_FOR(world, state_of(world, world->users, "b") == SLOT_UNPROVEN);
    slot_set_state(
        world->shm, slot_find(world->shm, world->users, SLICE_LIT("b")), SLOT_HEALTHY, "1 probe passed");
    paper_set(&world->paper, A "," B_WITH("draining"));
    WAIT_FOR(world, state_of(world, world->users, "b") == SLOT_DRAINING);
    paper_set(&world->paper, A "," B_WITH("maintenance"));
    WAIT_FOR(world, state_of(world, world->users, "b") == SLOT_MAINTENANCE);
    paper_set(&world->paper, A "," B);
    WAIT_FOR(world, state_of(world, world->users, "b") == SLOT_UNPROVEN);
    slot_set_state(
        world->shm, slot_find(world->shm, world->users, SLICE_LIT("b")), SLOT_DRAINING, "by an operator");
    paper_set(&world->paper, A "," B "," C);
    WAIT_FOR(world, state_of(world, world->users, "c") == SLOT_UNPROVEN);
    assert_int_equal(state_of(world, world->users, "b"), SLOT_DRAINING);
}

static void
keeps_what_it_has_through_garbage(void **state)
{
    struct world *world = *state;
    static const char *const garbage[] = {
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nnonsense!",
        "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"index\":9}", /* cut off */
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",              /* the other contract */
        "HTTP/1.1 200 OK\r\nContent-Length: 28\r\n\r\n{\"index\":9,\"instances\":null}",
        "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "",
    };
    begin(world, A);
    WAIT_FOR(world, state_of(world, world->users, "a") == SLOT_HEALTHY);
    for (size_t i = 0; i < sizeof garbage / sizeof garbage[0]; i++) {
        uint64_t before = total(world, "registry_sync_errors");
        world->paper.raw = garbage[i];
        paper_close(&world->paper);
        paper_open(&world->paper, world->base);
        WAIT_FOR(world, total(world, "registry_sync_errors") >= before + 2);
        assert_int_equal(state_of(world, world->users, "a"), SLOT_HEALTHY);
        world->paper.raw = NULL; /* back-off starts anew with each good answer */
        world->paper.index++;
        unsigned asked = world->paper.v2_asked;
        WAIT_FOR(world, world->paper.v2_asked > asked);
    }
    paper_set(&world->paper, A "," B);
    WAIT_FOR(world, state_of(world, world->users, "b") == SLOT_HEALTHY);
}

static void
refuses_an_answer_without_an_end(void **state)
{
    struct world *world = *state;
    begin(world, A);
    WAIT_FOR(world, state_of(world, world->users, "a") == SLOT_HEALTHY);
    world->paper.raw = "HTTP/1.1 200 OK\r\n\r\n[";
    world->paper.flood = (size_t)ANSWER_BYTES_MAX + (2 << 20);
    paper_close(&world->paper);
    paper_open(&world->paper, world->base);
    struct strbuf text = {0};
    uint64_t until = clock_now_us() + 2 * WAIT_US;
    do {
        strbuf_clear(&text);
        discovery_describe(world->discovery, &text);
    } while (strstr(text.at, "\"last_error\":\"the answer is too long\"") == NULL && turn(world, until));
    assert_non_null(strstr(text.at, "\"last_error\":\"the answer is too long\""));
    assert_int_equal(state_of(world, world->users, "a"), SLOT_HEALTHY);
    strbuf_fini(&text);
}

static void
counts_bad_instances_and_takes_the_good(void **state)
{
    struct world *world = *state;
    begin(world, A ",{\"id\":\"x\"}," B ",7," A);
    WAIT_FOR(world, state_of(world, world->users, "b") == SLOT_HEALTHY);
    assert_int_equal(total(world, "registry_bad_instances"), 3);
}

static void
does_not_spin_on_a_registry_that_holds_nothing(void **state)
{
    struct world *world = *state;
    world->paper.holds_nothing = true;
    uint64_t begun = clock_now_us();
    begin(world, A);
    WAIT_FOR(world, state_of(world, world->users, "a") == SLOT_HEALTHY);
    WAIT_FOR(world, world->paper.v2_asked >= 5);
    assert_true(clock_now_us() - begun >= 550000); /* behind the second: 100, 200, 400 ms, less a fifth */
}

/* ---- a registry of the old contract */

static void
polls_a_registry_that_knows_no_watch(void **state)
{
    struct world *world = *state;
    world->paper.has_v2 = false;
    begin(world, A);
    WAIT_FOR(world, state_of(world, world->users, "a") == SLOT_HEALTHY);
    paper_set(&world->paper, A "," B);
    WAIT_FOR(world, state_of(world, world->users, "b") == SLOT_HEALTHY);
    assert_int_equal(world->paper.v2_asked, 1);
    paper_set(&world->paper, B);
    WAIT_FOR(world, state_of(world, world->users, "a") == SLOT_FREE);
    struct strbuf text = {0};
    discovery_describe(world->discovery, &text);
    assert_non_null(strstr(text.at, "\"mode\":\"poll\""));
    strbuf_fini(&text);
}

static void
suspects_all_when_an_old_registrys_list_is_suddenly_empty(void **state)
{
    struct world *world = *state;
    world->paper.has_v2 = false;
    begin(world, A "," B "," C);
    WAIT_FOR(world, state_of(world, world->users, "c") == SLOT_HEALTHY);
    paper_set(&world->paper, "");
    WAIT_FOR(world, state_of(world, world->users, "a") == SLOT_SUSPECT);
    assert_int_equal(state_of(world, world->users, "c"), SLOT_SUSPECT);
    paper_set(&world->paper, A); /* its clients come back one by one */
    WAIT_FOR(world, state_of(world, world->users, "a") == SLOT_HEALTHY);
    unsigned asked = world->paper.old_asked;
    WAIT_FOR(world, world->paper.old_asked > asked + 1);
    assert_int_equal(state_of(world, world->users, "b"), SLOT_SUSPECT);
    discovery_suspect_failed(world->discovery, slot_find(world->shm, world->users, SLICE_LIT("b")));
    assert_int_equal(state_of(world, world->users, "b"), SLOT_FREE);
}

/* ---- restarts */

static void
adopts_its_predecessors_table(void **state)
{
    struct world *world = *state;
    struct slot cold;
    world->endpoints[0] = endpoint("one", "10.0.0.1", 9001, 1);
    world->services[0].endpoint_count = 1;
    begin(world, A "," B);
    WAIT_FOR(world, state_of(world, world->users, "b") == SLOT_HEALTHY);
    uint32_t slot = slot_find(world->shm, world->users, SLICE_LIT("a"));
    slot_set_state(world->shm, slot, SLOT_UNHEALTHY, "3 probes failed");
    assert_true(slot_read(world->shm, slot, &cold, NULL));
    uint32_t incarnation = cold.incarnation;
    uint16_t port = world->paper.port;
    paper_close(&world->paper);
    discovery_free(world->discovery);
    shm_control_adopt(world->shm);
    world->discovery = discovery_new(world->base, world->shm);
    assert_non_null(world->discovery);
    use(world, &world->config);
    run_for(world, 300000); /* the registry is down: all stays */
    assert_int_equal(state_of(world, world->web, "one"), SLOT_HEALTHY);
    assert_int_equal(state_of(world, world->users, "a"), SLOT_UNHEALTHY);
    assert_int_equal(state_of(world, world->users, "b"), SLOT_HEALTHY);
    world->paper.port = port;
    world->paper.rows = A;
    paper_open(&world->paper, world->base);
    WAIT_FOR(
        world, state_of(world, world->users, "b") == SLOT_SUSPECT); /* nobody knows whose epoch b was of */
    assert_true(slot_read(world->shm, slot, &cold, NULL));
    assert_int_equal(cold.incarnation, incarnation);
    assert_int_equal(cold.state, SLOT_UNHEALTHY);
}

static void
drop_line(void *context, enum log_level level, const char *line, size_t len)
{
    (void)context;
    (void)level;
    (void)line;
    (void)len;
}

static void
keeps_what_the_generation_before_has_until_all_left_it(void **state)
{
    struct world *world = *state;
    world->endpoints[0] = endpoint("one", "10.0.0.1", 9001, 1);
    world->services[0].endpoint_count = 1;
    begin(world, A);
    WAIT_FOR(world, state_of(world, world->users, "a") == SLOT_HEALTHY);
    struct config_service web = {.name = "web"};
    struct config next = {.services = &web, .service_count = 1};
    assert_true(discovery_use(world->discovery, &next));
    assert_int_equal(state_of(world, world->web, "one"), SLOT_HEALTHY);
    assert_int_equal(state_of(world, world->users, "a"), SLOT_HEALTHY);
    discovery_commit(world->discovery);
    assert_int_equal(state_of(world, world->web, "one"), SLOT_FREE);
    assert_int_equal(state_of(world, world->users, "a"), SLOT_FREE);
}

static void
stays_with_its_config_when_the_next_one_cannot_be_used(void **state)
{
    struct world *world = *state;
    begin(world, A);
    WAIT_FOR(world, state_of(world, world->users, "a") == SLOT_HEALTHY);
    struct config *next = malloc(sizeof *next);
    assert_non_null(next);
    *next = world->config;
    next->registry.url = "http://[::1";
    log_set_sink(drop_line, NULL);
    assert_false(discovery_use(world->discovery, next));
    log_set_sink(NULL, NULL);
    free(next);
    paper_set(&world->paper, A "," B);
    WAIT_FOR(world, state_of(world, world->users, "b") == SLOT_HEALTHY);
}

static void
is_ready_without_an_answer_after_two_seconds(void **state)
{
    struct world *world = *state;
    registry_enable(world, REGISTRY_HTTP, "users");
    uint16_t port = 0;
    int fd = port_listen(&port);
    close(fd);
    snprintf(world->url, sizeof world->url, "127.0.0.1:%u", port);
    uint64_t begun = clock_now_us();
    use(world, &world->config);
    assert_false(discovery_is_ready(world->discovery));
    WAIT_FOR(world, discovery_is_ready(world->discovery));
    assert_true(clock_now_us() - begun >= 1900000);
}

static void
world_restart(struct world *world)
{
    struct shm_params params = {.max_endpoints = 256, .stats_bytes = 4096, .ring_bytes = 4096};
    discovery_free(world->discovery);
    shm_destroy(world->shm);
    world->shm = shm_create(&params);
    assert_non_null(world->shm);
    shm_control_adopt(world->shm);
    world->web = shm_name_add(world->shm, SLICE_LIT("web"));
    world->users = shm_name_add(world->shm, SLICE_LIT("users"));
    world->discovery = discovery_new(world->base, world->shm);
    assert_non_null(world->discovery);
    use(world, &world->config);
}

static void
serves_from_the_snapshot_while_the_registry_is_down(void **state)
{
    struct world *world = *state;
    char path[128];
    state_dir_make(world);
    begin(world, A "," B);
    WAIT_FOR(world, state_of(world, world->users, "b") == SLOT_HEALTHY);
    snprintf(path, sizeof path, "%s/instances.json", world->state_dir);
    WAIT_FOR(world, access(path, R_OK) == 0);
    paper_close(&world->paper);
    world_restart(world);
    assert_false(discovery_is_ready(world->discovery));
    WAIT_FOR(world, state_of(world, world->users, "b") == SLOT_HEALTHY);
    assert_true(discovery_is_ready(world->discovery));
    world->paper.rows = A; /* the same epoch: b was deregistered meanwhile */
    world->paper.index++;
    paper_open(&world->paper, world->base);
    WAIT_FOR(world, state_of(world, world->users, "b") == SLOT_FREE);
    assert_int_equal(state_of(world, world->users, "a"), SLOT_HEALTHY);
}

static void
keeps_suspects_in_the_snapshot(void **state)
{
    struct world *world = *state;
    state_dir_make(world);
    begin(world, A "," B);
    WAIT_FOR(world, state_of(world, world->users, "b") == SLOT_HEALTHY);
    world->paper.epoch = "e2";
    paper_set(&world->paper, "");
    WAIT_FOR(world, state_of(world, world->users, "b") == SLOT_SUSPECT);
    discovery_suspect_failed(world->discovery, slot_find(world->shm, world->users, SLICE_LIT("a")));
    paper_close(&world->paper);
    world_restart(world); /* writes what was not yet written */
    WAIT_FOR(world, state_of(world, world->users, "b") == SLOT_HEALTHY);
    assert_int_equal(state_of(world, world->users, "a"), SLOT_FREE);
}

static void
ignores_a_snapshot_of_garbage(void **state)
{
    struct world *world = *state;
    char path[128];
    state_dir_make(world);
    snprintf(path, sizeof path, "%s/instances.json", world->state_dir);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs("{\"index\":1,\"instances\":[{\"id\":", file);
    fclose(file);
    registry_enable(world, REGISTRY_HTTP, "users");
    uint16_t port = 0;
    close(port_listen(&port));
    snprintf(world->url, sizeof world->url, "http://127.0.0.1:%u", port);
    log_init("test", LOG_ERROR, LOG_LOGFMT);
    use(world, &world->config);
    WAIT_FOR(world, discovery_is_ready(world->discovery));
    struct strbuf text = {0};
    discovery_describe(world->discovery, &text);
    assert_non_null(strstr(text.at, "\"from_snapshot\":false"));
    strbuf_fini(&text);
}

static void
asks_the_embedded_registry_over_loopback(void **state)
{
    struct world *world = *state;
    world->paper.rows = A;
    paper_open(&world->paper, world->base);
    registry_enable(
        world, REGISTRY_GRPC, "users"); /* whatever the protocol: the embedded one always has REST */
    world->config.registry.embedded = true;
    world->config.registry.url = NULL;
    world->config.registry.listen_http =
        (struct config_address){.text = ":0", .host = "0.0.0.0", .port = world->paper.port};
    use(world, &world->config);
    WAIT_FOR(world, state_of(world, world->users, "a") == SLOT_HEALTHY);
}

static void
drops_registry_endpoints_with_the_registry_block(void **state)
{
    struct world *world = *state;
    begin(world, A);
    WAIT_FOR(world, state_of(world, world->users, "a") == SLOT_HEALTHY);
    struct config next = world->config;
    next.registry = (struct config_registry){0};
    use(world, &next);
    assert_int_equal(state_of(world, world->users, "a"), SLOT_FREE);
    assert_true(discovery_is_ready(world->discovery));
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, world_setup, world_teardown)
    const struct CMUnitTest tests[] = {
        TEST(has_static_endpoints_in_the_table_before_it_returns),
        TEST(begins_unproven_where_a_policy_will_prove),
        TEST(keeps_slot_and_verdict_of_what_a_reload_keeps),
        TEST(frees_the_slots_of_what_is_gone),
        TEST(waits_for_a_name_without_an_address_and_serves_the_rest),
        TEST(resolves_names_in_the_background),
        TEST(learns_endpoints_and_changes_by_held_requests),
        TEST(gives_every_instance_to_a_service_that_discovers_all),
        TEST(suspects_a_lapsed_lease_and_buries_it_when_the_probe_fails),
        TEST(ignores_a_probe_of_what_is_not_suspect),
        TEST(removes_nothing_for_a_registry_that_lost_its_memory),
        TEST(drains_and_rests_what_the_registry_says),
        TEST(keeps_what_it_has_through_garbage),
        TEST(refuses_an_answer_without_an_end),
        TEST(counts_bad_instances_and_takes_the_good),
        TEST(does_not_spin_on_a_registry_that_holds_nothing),
        TEST(polls_a_registry_that_knows_no_watch),
        TEST(suspects_all_when_an_old_registrys_list_is_suddenly_empty),
        TEST(adopts_its_predecessors_table),
        TEST(keeps_what_the_generation_before_has_until_all_left_it),
        TEST(stays_with_its_config_when_the_next_one_cannot_be_used),
        TEST(is_ready_without_an_answer_after_two_seconds),
        TEST(serves_from_the_snapshot_while_the_registry_is_down),
        TEST(keeps_suspects_in_the_snapshot),
        TEST(ignores_a_snapshot_of_garbage),
        TEST(asks_the_embedded_registry_over_loopback),
        TEST(drops_registry_endpoints_with_the_registry_block),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
