/* Limits and retries at the three levels: read, merged, printed, refused. */
#include "spec/unit/config/support.h"

#include "core/shm/queue.h"

static_assert(QUEUE_TICKETS_MAX == 4096, "limits.queue is at most what the segment has room for");

#define SERVICES "services: {web: {endpoints: [127.0.0.1:9001]}, other: {endpoints: [127.0.0.1:9002]}}\n"

static void
has_defaults_that_limit_nothing_but_retries(void **state)
{
    (void)state;
    struct loaded loaded = load_ok(LISTENERS ROUTES WEB);
    const struct config *config = loaded.config;
    const struct config_service *web = &config->services[0];
    const struct config_route *route = &config->routes[0];
    assert_int_equal(config->limits.body_rate, 512);
    assert_int_equal(config->limits.connections_per_client, 0);
    assert_int_equal(config->limits.keepalive_requests, 10000);
    assert_int_equal(config->limits.max_connection_age, 3600000000);
    assert_int_equal(web->queue.active, 0);
    assert_int_equal(web->queue.active_per_endpoint, 0);
    assert_int_equal(web->queue.queue, 1000);
    assert_int_equal(web->queue.queue_timeout, 5000000);
    assert_int_equal(web->body.rate, 512);
    assert_int_equal(web->retry.attempts, 2);
    assert_int_equal(web->retry.budget_percent, 20);
    assert_int_equal(web->retry.on, RETRY_ON_NEVER_SENT | RETRY_ON_IDEMPOTENT_RESET);
    assert_int_equal(web->retry.per_try, 0);
    assert_false(config_retry_has_status(&web->retry, 503));
    assert_memory_equal(&route->retry, &web->retry, sizeof route->retry);
    assert_memory_equal(&route->queue, &web->queue, sizeof route->queue);
    assert_false(route->own_limits || route->own_retry);
    unload(&loaded);
}

static void
merges_key_by_key_route_over_service_over_top_level(void **state)
{
    (void)state;
    struct loaded loaded = load_ok(LISTENERS
        "limits: {active: 50, queue: 7, queue_timeout: 9s, body_bytes: 1M, body_rate: 0}\n"
        "retry: {attempts: 1, budget: 5%, status: [500]}\n"
        "routes:\n"
        "  - {match: {path: /a}, service: web, limits: {queue: 3, body_bytes: 2M}, retry: {on: never_sent}}\n"
        "  - {match: {path: /b}, service: web, limits: {}, retry: }\n"
        "  - {match: {path: /c}, service: {web: 1, other: 1}}\n"
        "services:\n"
        "  web: {endpoints: [\"a:1\"], limits: {active_per_endpoint: 10, active: 0, queue_timeout: 250ms},\n"
        "    retry: {attempts: 4, per_try: 1s, status: [502, 599]}}\n"
        "  other: {endpoints: [\"a:1\"]}\n");
    const struct config_service *web = &loaded.config->services[0], *other = &loaded.config->services[1];
    const struct config_route *routes = loaded.config->routes;
    assert_int_equal(web->queue.active_per_endpoint, 10);
    assert_int_equal(web->queue.active, 0);
    assert_int_equal(web->queue.queue, 7);
    assert_int_equal(web->queue.queue_timeout, 250000);
    assert_int_equal(web->body.bytes, 1 << 20);
    assert_int_equal(web->body.rate, 0);
    assert_int_equal(other->queue.active, 50);
    assert_int_equal(other->queue.queue_timeout, 9000000);
    assert_int_equal(web->retry.attempts, 4);
    assert_int_equal(web->retry.budget_percent, 5);
    assert_true(config_retry_has_status(&web->retry, 502) && config_retry_has_status(&web->retry, 599));
    assert_false(config_retry_has_status(&web->retry, 500) || config_retry_has_status(&web->retry, 200) ||
                 config_retry_has_status(&web->retry, 600));
    assert_int_equal(routes[0].queue.queue, 3);
    assert_int_equal(routes[0].queue.queue_timeout, 250000);
    assert_int_equal(routes[0].body.bytes, 2 << 20);
    assert_int_equal(routes[0].retry.on, RETRY_ON_NEVER_SENT);
    assert_int_equal(routes[0].retry.attempts, 4);
    assert_int_equal(routes[0].retry.per_try, 1000000);
    assert_true(routes[0].own_limits && routes[0].own_retry);
    assert_int_equal(routes[1].queue.queue, 7);
    assert_false(routes[1].own_limits || routes[1].own_retry);
    assert_int_equal(routes[2].queue.queue_timeout, 9000000); /* several services: the top level's */
    assert_true(config_retry_has_status(&routes[2].retry, 500));
    unload(&loaded);
}

static void
takes_an_empty_list_for_none(void **state)
{
    (void)state;
    struct loaded loaded =
        load_ok(LISTENERS ROUTES WEB "retry: {attempts: 0, budget: 0%, on: [], status: []}\n");
    assert_int_equal(loaded.config->retry.on, 0);
    assert_int_equal(loaded.config->retry.budget_percent, 0);
    assert_int_equal(loaded.config->routes[0].retry.on, 0);
    unload(&loaded);
}

static void
prints_what_loads_to_the_same(void **state)
{
    (void)state;
    struct loaded first =
        load_ok("listeners: [{address: \":0\", connections: 5}]\n" SERVICES
                "limits: {active: 5, body_rate: 1k, connections_per_client: 9, max_connection_age: 0}\n"
                "retry: {on: [], status: [503, 500], budget: 100%, per_try: 1500us}\n"
                "routes:\n"
                "  - {match: {path: /a}, service: web, limits: {queue: 0}, retry: {on: idempotent_reset}}\n"
                "  - {match: {path: /b}, service: other}\n");
    char *once = print_config(first.config);
    static const char *const lines[] = {"\n    connections: 5\n", "\n  active: 5\n", "\n  body_rate: 1024\n",
        "\n  budget: 100%\n", "\n  on: []\n", "\n  status: [500, 503]\n", "\n      queue: 0\n",
        "\n      on: [idempotent_reset]\n", "\n  per_try: 1500us\n", "\n      active: 5\n"};
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        if (strstr(once, lines[i]) == NULL) fail_msg("no line '%s' in:\n%s", lines[i], once);
    }
    struct loaded second = load_ok(once);
    char *twice = print_config(second.config);
    assert_string_equal(once, twice);
    free(once), free(twice);
    unload(&first), unload(&second);
}

static void
refuses_what_cannot_be_meant(void **state)
{
    (void)state;
    static const struct {
        const char *yaml, *text;
    } rows[] = {
        {"limits: {queue: 4097}", "queue: expected a whole number from 0 to 4096"},
        {"limits: {active: -1}", "active: expected a whole number"},
        {"limits: {queue_timeout: 0}", "queue_timeout: expected a duration of at least 1ms"},
        {"limits: {queue_timeout: 5}", "a duration with its unit"},
        {"limits: {body_rate: 2g}", "body_rate: expected a size from 0 to 1073741824 bytes"},
        {"services: {a: {limits: {headers: 5}}}", "a service's limits has no key 'headers'"},
        {"routes: [{limits: {active: 5}}]", "a route's limits has no key 'active'"},
        {"routes: [{limits: 5}]", "limits: expected a map"},
        {"retry: {attempts: 11}", "attempts: expected a whole number from 0 to 10"},
        {"retry: {budget: 20}", "budget: expected a share from 0% to 100%, such as 20%, found '20'"},
        {"retry: {budget: 101%}", "budget: expected a share"},
        {"retry: {budget: -1%}", "budget: expected a share"},
        {"retry: {budget: \"%\"}", "budget: expected a share"},
        {"retry: {on: [never_sned]}", "did you mean 'never_sent'?"},
        {"retry: {on: {}}", "on: expected a list of never_sent and idempotent_reset, found a map"},
        {"retry: {status: [404]}", "status: expected a status from 500 to 599, found '404'"},
        {"retry: {status: [5e2]}", "status: expected a status from 500 to 599"},
        {"retry: {atempts: 1}", "retry has no key 'atempts'; did you mean 'attempts'?"},
        {"services: {a: {retry: {per_try: x}}}", "per_try: expected a duration"},
        {"routes: [{retry: []}]", "retry: expected a map, found a list"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_refused(rows[i].yaml, rows[i].text);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(has_defaults_that_limit_nothing_but_retries),
        cmocka_unit_test(merges_key_by_key_route_over_service_over_top_level),
        cmocka_unit_test(takes_an_empty_list_for_none),
        cmocka_unit_test(prints_what_loads_to_the_same),
        cmocka_unit_test(refuses_what_cannot_be_meant),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
