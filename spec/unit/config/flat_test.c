#include "spec/unit/config/support.h"

/* The file as the replaced system shipped it. */
static const char shipped[] =
    "port: 8080\n"
    "strategy: round_robin # or least_connections, sticky_sessions\n"
    "serviceRegistryURL: http://localhost:8081 # for grpc: localhost:9091, no scheme\n"
    "serviceRegistryType: http # or grpc\n"
    "healthCheckInterval: 5s\n"
    "backendHealthPath: /health\n"
    "healthCheckTimeout: 2s\n";

static void
assert_is_as_shipped(const struct config *config)
{
    const struct config_service *backends = &config->services[0], *admin = &config->services[1];
    assert_true(config->is_flat);
    assert_int_equal(config->listener_count, 1);
    assert_string_equal(config->listeners[0].address.text, "0.0.0.0:8080");
    assert_true(config->registry.enabled && !config->registry.embedded);
    assert_string_equal(config->registry.url, "http://localhost:8081");
    assert_int_equal(config->registry.protocol, REGISTRY_HTTP);
    assert_int_equal(config->registry.poll_interval_us, 10000000);
    assert_int_equal(config->service_count, 2);
    assert_string_equal(backends->name, "backends");
    assert_string_equal(backends->discover, "*");
    assert_string_equal(backends->strategy.name, "round_robin");
    assert_true(backends->health.enabled);
    assert_string_equal(backends->health.policy.name, "http");
    assert_int_equal(backends->health.interval_us, 5000000);
    assert_int_equal(backends->health.timeout_us, 2000000);
    assert_non_null(strstr(backends->health.policy.options.json, "\"path\": \"/health\""));
    assert_non_null(strstr(backends->health.policy.options.json, "\"interval\": \"5s\""));
    assert_string_equal(admin->name, "fluxgate-admin");
    assert_int_equal(admin->endpoint_count, 1);
    assert_string_equal(admin->endpoints[0].address.text, "127.0.0.1:9901");
    assert_true(config->has_admin);
    assert_int_equal(config->admin.port, 9901);
}

static void
starts_a_gateway_from_the_shipped_file(void **state)
{
    (void)state;
    struct loaded loaded = load_ok(shipped);
    assert_int_equal(loaded.diags.count, 0);
    assert_is_as_shipped(loaded.config);
    unload(&loaded);
}

static void
routes_get_metrics_to_admin_and_all_else_to_the_backends(void **state)
{
    (void)state;
    struct loaded loaded = load_ok(shipped);
    const struct config_route *routes = loaded.config->routes;
    assert_int_equal(loaded.config->route_count, 2);
    assert_string_equal(routes[0].match.path, "/metrics");
    assert_string_equal(routes[0].match.methods[0], "GET");
    assert_string_equal(routes[0].match.methods[1], "HEAD");
    assert_null(routes[0].match.methods[2]);
    assert_int_equal(routes[0].targets[0].service, 1);
    assert_string_equal(routes[1].match.path_prefix, "/");
    assert_int_equal(routes[1].targets[0].service, 0);
    assert_int_equal(routes[1].weight_total, 1);
    unload(&loaded);
}

static void
takes_any_quoting_that_yaml_has(void **state)
{
    (void)state;
    struct loaded loaded = load_ok(
        "{\"port\": 8080, \"strategy\": \"round_robin\", 'serviceRegistryURL': 'http://localhost:8081',\n"
        " \"serviceRegistryType\": \"http\", \"healthCheckInterval\": \"5s\", \"backendHealthPath\": "
        "\"/health\",\n"
        " \"healthCheckTimeout\": '2s'}\n");
    assert_is_as_shipped(loaded.config);
    unload(&loaded);
    loaded = load_ok("port: \"8080\"\nserviceRegistryURL: \"http://localhost:8081\"\n");
    assert_is_as_shipped(loaded.config);
    unload(&loaded);
}

static void
listens_on_8080_where_no_port_is_given(void **state)
{
    (void)state;
    struct loaded loaded = load_ok("serviceRegistryURL: localhost:8081\n");
    assert_int_equal(loaded.config->listeners[0].address.port, 8080);
    assert_string_equal(loaded.config->registry.url, "localhost:8081");
    unload(&loaded);
}

static void
speaks_grpc_to_a_registry_without_scheme(void **state)
{
    (void)state;
    struct loaded loaded = load_ok("port: 9000\nserviceRegistryURL: localhost:9091\nserviceRegistryType: "
                                   "grpc\nhealthCheckInterval: 1m30s\n");
    assert_int_equal(loaded.config->registry.protocol, REGISTRY_GRPC);
    assert_string_equal(loaded.config->registry.url, "localhost:9091");
    assert_int_equal(loaded.config->registry.poll_interval_us, 180000000);
    assert_int_equal(loaded.config->listeners[0].address.port, 9000);
    unload(&loaded);
}

static void
warns_of_keys_that_the_old_program_ignored(void **state)
{
    (void)state;
    struct loaded loaded = load("port: 1\nserviceRegistryURL: a:1\nlogLevel: debug\n");
    assert_true(diags_ok(&loaded.diags));
    assert_int_equal(loaded.diags.count, 1);
    assert_string_equal(loaded.diags.rows[0].text,
        "/conf/fluxgate.yaml:3:1: warning: 'logLevel' is unknown in the flat form and has no effect");
    unload(&loaded);
}

static void
refuses_what_the_old_program_could_not_run_either(void **state)
{
    (void)state;
    static const struct {
        const char *yaml, *said;
    } rows[] = {
        {"port: 80800\n", "1:7: error: port: expected a whole number from 1 to 65535, found '80800'"},
        {"port: 80\n", "'serviceRegistryURL' is missing"},
        {"port: 80\nstrategy: random_robin\n", "2:11: error: unknown strategy 'random_robin'"},
        {"serviceRegistryType: grcp\n", "expected http or grpc, found 'grcp'; did you mean 'grpc'?"},
        {"healthCheckInterval: 5\n", "a duration with its unit"},
        {"backendHealthPath: health\n", "backendHealthPath: expected a path such as /health"},
        {"backendHealthPath: '/a HTTP/1.1'\n",
            "1:20: error: backendHealthPath: expected a path such as /health"},
        {"backendHealthPath: ''\n", "backendHealthPath: expected a path such as /health"},
        {"serviceRegistryURL: localhost\n", "has no port; did you mean 'localhost:8081'?"},
        {"port: 80\nlisteners: []\n", "'port' belongs to the flat form of file"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_refused(rows[i].yaml, rows[i].said);
}

static void
finds_the_flat_key_behind_a_path(void **state)
{
    (void)state;
    struct loaded loaded = load_ok(shipped);
    assert_int_equal(config_place(loaded.config, "services.backends.health.path").line, 6);
    assert_int_equal(config_place(loaded.config, "services.backends.health.interval").line, 5);
    assert_int_equal(config_place(loaded.config, "services.backends.options").line, 2);
    assert_int_equal(config_place(loaded.config, "registry.url").line, 3);
    assert_int_equal(config_place(loaded.config, "admin.address").line, 1);
    unload(&loaded);
}

static void
keeps_the_old_cookie_for_a_day(void **state)
{
    (void)state;
    struct loaded loaded =
        load_ok("port: 8080\nstrategy: sticky_sessions\nserviceRegistryURL: localhost:8081\n");
    assert_string_equal(loaded.config->services[0].strategy.options.json, "{\"max_age\":\"24h\"}");
    unload(&loaded);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(starts_a_gateway_from_the_shipped_file),
        cmocka_unit_test(routes_get_metrics_to_admin_and_all_else_to_the_backends),
        cmocka_unit_test(takes_any_quoting_that_yaml_has),
        cmocka_unit_test(listens_on_8080_where_no_port_is_given),
        cmocka_unit_test(speaks_grpc_to_a_registry_without_scheme),
        cmocka_unit_test(warns_of_keys_that_the_old_program_ignored),
        cmocka_unit_test(refuses_what_the_old_program_could_not_run_either),
        cmocka_unit_test(keeps_the_old_cookie_for_a_day),
        cmocka_unit_test(finds_the_flat_key_behind_a_path),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
