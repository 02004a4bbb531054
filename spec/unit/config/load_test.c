#include <arpa/inet.h>
#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "spec/unit/config/support.h"

static const char whole[] =
    "listeners:\n"
    "  - address: 0.0.0.0:8080\n"
    "  - { address: unix:/run/fluxgate.sock, connections: 7 }\n"
    "  - address: \"[::1]:8443\"\n"
    "workers: 3\n"
    "routes:\n"
    "  - match: { host: API.Example.com, path_prefix: /users, methods: [GET, HEAD], headers: { X-Beta: "
    "\"1\", x-any: }, query: { v: 2 }, cookies: { c: d } }\n"
    "    service: users\n"
    "    timeouts: { response: 5m }\n"
    "  - match: { host: old.example.com }\n"
    "    redirect: { to: \"https://example.com$path\", status: 301 }\n"
    "  - match: { path_prefix: /shop/ }\n"
    "    rewrite: { strip_prefix: /shop, add_prefix: /v2, host: shop.internal }\n"
    "    service: { web: 95, users: 5 }\n"
    "    path: raw\n"
    "    slashes: keep\n"
    "  - name: teapot\n"
    "    match: { path: /tea }\n"
    "    respond: { status: 418, body: \"short\\nstout\", content_type: text/plain }\n"
    "  - match: { path_prefix: / }\n"
    "    service: web\n"
    "services:\n"
    "  users:\n"
    "    discover: users\n"
    "    strategy: least_connections\n"
    "    options: { a: 1, b: \"1\", c: [true, ~, 0.5], d: { e: \"x\\\"y\" }, f: 007, g: "
    "12345678901234567890, h: -3 }\n"
    "    health: { policy: http, path: /health, interval: 5s, fast_interval: 1s, timeout: 1500ms, rise: 1, "
    "fall: 2, status: [200, \"300-399\"], own: x }\n"
    "    timeouts: { connect: 1s }\n"
    "  web:\n"
    "    endpoints: [ \"127.0.0.1:9001\", { address: \"127.0.0.1:9002\", id: two, weight: 2, zone: b, "
    "metadata: { rack: 7 } } ]\n"
    "registry:\n"
    "  embedded: true\n"
    "  listen: { http: 0.0.0.0:18081, grpc: 0.0.0.0:19091 }\n"
    "  store: sqlite:data/registry.db\n"
    "  lease_ttl: 45s\n"
    "admin: { address: 127.0.0.1:9999 }\n"
    "trusted_proxies: [10.0.0.0/8, \"fd00::/8\", 192.168.1.7]\n"
    "lua_path: [ ./lua, /opt/lua ]\n"
    "trust: [ ./mine.lua ]\n"
    "timeouts: { connect: 2s, response: 60s, request: 0 }\n"
    "limits: { header_bytes: 64k, body_bytes: 10M }\n"
    "drain: { delay: 5s, keep_sessions: off }\n"
    "log: { level: warn, format: json, access: access.log }\n"
    "state: state\n"
    "zone: eu-1\n";

static void
reads_every_part_into_its_type(void **state)
{
    (void)state;
    struct loaded loaded = load_ok(whole);
    const struct config *config = loaded.config;
    assert_false(config->is_flat);
    assert_int_equal(config->listener_count, 3);
    assert_string_equal(config->listeners[0].address.host, "0.0.0.0");
    assert_int_equal(config->listeners[0].address.port, 8080);
    assert_true(config->listeners[1].address.is_unix);
    assert_int_equal(config->listeners[0].connections, 0);
    assert_int_equal(config->listeners[1].connections, 7);
    assert_string_equal(config->listeners[1].address.host, "/run/fluxgate.sock");
    assert_string_equal(config->listeners[2].address.host, "::1");
    assert_int_equal(config->workers, 3);
    assert_true(config->registry.enabled && config->registry.embedded);
    assert_int_equal(config->registry.listen_http.port, 18081);
    assert_string_equal(config->registry.store, "sqlite:/conf/data/registry.db");
    assert_int_equal(config->registry.lease_ttl_us, 45000000);
    assert_int_equal(config->registry.poll_interval_us, 10000000);
    assert_true(config->has_admin);
    assert_int_equal(config->admin.port, 9999);
    assert_string_equal(config->lua_path[0], "/conf/lua");
    assert_string_equal(config->lua_path[1], "/opt/lua");
    assert_null(config->lua_path[2]);
    assert_string_equal(config->trust[0], "/conf/mine.lua");
    assert_null(config->trust[1]);
    assert_string_equal(config->state_dir, "/conf/state");
    assert_string_equal(config->zone, "eu-1");
    assert_int_equal(config->timeouts.connect, 2000000);
    assert_int_equal(config->timeouts.request, 0);
    assert_int_equal(config->timeouts.keepalive, 75000000);
    assert_int_equal(config->limits.header_bytes, 65536);
    assert_int_equal(config->limits.body_bytes, 10 << 20);
    assert_int_equal(config->limits.connections, 20000);
    assert_int_equal(config->drain.delay_us, 5000000);
    assert_int_equal(config->drain.requests_us, 30000000);
    assert_false(config->drain.keep_sessions);
    assert_int_equal(config->log.level, LOG_WARN);
    assert_int_equal(config->log.format, LOG_JSON);
    assert_string_equal(config->log.access, "/conf/access.log");
    assert_string_equal(config->log.access_format, "json");
    unload(&loaded);
}

static void
reads_routes(void **state)
{
    (void)state;
    struct loaded loaded = load_ok(whole);
    const struct config_route *routes = loaded.config->routes;
    const struct config_match *match = &routes[0].match;
    assert_int_equal(loaded.config->route_count, 5);
    assert_string_equal(routes[0].name, "api.example.com/users");
    assert_string_equal(match->host, "api.example.com");
    assert_string_equal(match->path_prefix, "/users");
    assert_string_equal(match->methods[1], "HEAD");
    assert_null(match->methods[2]);
    assert_int_equal(match->header_count, 2);
    assert_string_equal(match->headers[0].name, "x-beta");
    assert_string_equal(match->headers[0].value, "1");
    assert_null(match->headers[1].value); /* present with any value */
    assert_string_equal(match->query[0].value, "2");
    assert_string_equal(match->cookies[0].name, "c");
    assert_int_equal(routes[0].target_count, 1);
    assert_true(routes[0].own_timeouts);
    assert_int_equal(routes[0].timeouts.response, 300000000);     /* the route's */
    assert_int_equal(routes[0].timeouts.connect, 1000000);        /* its service's */
    assert_int_equal(routes[0].timeouts.tunnel_idle, 3600000000); /* the top level's */
    assert_int_equal(routes[1].action, ACTION_REDIRECT);
    assert_int_equal(routes[1].redirect.status, 301);
    assert_string_equal(routes[2].rewrite.strip_prefix, "/shop");
    assert_string_equal(routes[2].rewrite.add_prefix, "/v2");
    assert_string_equal(routes[2].rewrite.host, "shop.internal");
    assert_true(routes[2].path_raw && routes[2].slashes_keep);
    assert_int_equal(routes[2].target_count, 2);
    assert_int_equal(routes[2].targets[0].weight, 95);
    assert_string_equal(loaded.config->services[routes[2].targets[0].service].name, "web");
    assert_int_equal(routes[2].weight_total, 100);
    assert_string_equal(routes[3].name, "teapot");
    assert_int_equal(routes[3].action, ACTION_RESPOND);
    assert_int_equal(routes[3].respond.body_len, 11);
    assert_string_equal(routes[3].match.path, "/tea");
    assert_string_equal(routes[4].name, "/");
    assert_false(routes[4].own_timeouts);
    unload(&loaded);
}

static void
reads_services(void **state)
{
    (void)state;
    struct loaded loaded = load_ok(whole);
    const struct config_service *users = &loaded.config->services[0], *web = &loaded.config->services[1];
    assert_int_equal(loaded.config->service_count, 2);
    assert_string_equal(users->discover, "users");
    assert_string_equal(users->strategy.name, "least_connections");
    assert_string_equal(users->strategy.file, "/conf/strategies/least_connections.lua");
    assert_string_equal(users->strategy.options.path, "services.users.options");
    assert_string_equal(users->strategy.options.json,
        "{\"a\": 1, \"b\": \"1\", \"c\": [true, null, 0.5], \"d\": {\"e\": \"x\\\"y\"}, \"f\": \"007\", "
        "\"g\": \"12345678901234567890\", \"h\": -3}");
    assert_true(users->health.enabled);
    assert_string_equal(users->health.policy.file, "/conf/strategies/health/http.lua");
    assert_string_equal(users->health.policy.options.path, "services.users.health");
    assert_string_equal(users->health.policy.options.json,
        "{\"path\": \"/health\", \"interval\": \"5s\", \"fast_interval\": \"1s\", \"timeout\": \"1500ms\", "
        "\"rise\": 1, "
        "\"fall\": 2, \"status\": [200, \"300-399\"], \"own\": \"x\", \"jitter\": 0.1}");
    assert_int_equal(users->health.timeout_us, 1500000);
    assert_int_equal(users->health.fast_interval_us, 1000000);
    assert_int_equal(users->health.rise, 1);
    assert_int_equal(users->health.fall, 2);
    assert_null(web->discover);
    assert_false(web->health.enabled);
    assert_string_equal(web->strategy.name, "round_robin");
    assert_int_equal(web->endpoint_count, 2);
    assert_string_equal(web->endpoints[0].id, "127.0.0.1:9001");
    assert_int_equal(web->endpoints[0].weight, 1);
    assert_string_equal(web->endpoints[0].metadata_json, "");
    assert_string_equal(web->endpoints[1].id, "two");
    assert_int_equal(web->endpoints[1].weight, 2);
    assert_string_equal(web->endpoints[1].zone, "b");
    assert_string_equal(web->endpoints[1].metadata_json, "{\"rack\": 7}");
    unload(&loaded);
}

static void
gives_a_health_block_its_defaults(void **state)
{
    (void)state;
    struct loaded loaded =
        load_ok(LISTENERS ROUTES "services: {web: {endpoints: [\"a:1\"], health: {interval: 3s}}}");
    const struct config_health *health = &loaded.config->services[0].health;
    assert_string_equal(health->policy.name, "http");
    assert_int_equal(health->fast_interval_us, 3000000);
    assert_int_equal(health->timeout_us, 2000000);
    assert_int_equal(health->rise, 2);
    assert_int_equal(health->fall, 3);
    assert_string_equal(health->policy.options.json,
        "{\"interval\": \"3s\", \"fast_interval\": \"3s\", \"timeout\": \"2s\", "
        "\"rise\": 2, \"fall\": 3, \"jitter\": 0.1}");
    unload(&loaded);
}

static void
reads_a_policy_that_only_observes_and_one_beside_another(void **state)
{
    (void)state;
    struct loaded loaded = load_ok(LISTENERS ROUTES
        "services:\n"
        "  web: {endpoints: [\"a:1\"], health: {policy: passive, consecutive_failures: 3}}\n"
        "  b: {endpoints: [\"a:1\"], health: {policy: tcp, passive: yes}}\n"
        "  c: {endpoints: [\"a:1\"], health: {passive: {policy: passive, window: 3s}, timeout: 1s}}\n"
        "  d: {endpoints: [\"a:1\"], health: {passive: no}}\n");
    const struct config_health *alone = &loaded.config->services[0].health;
    assert_string_equal(alone->policy.options.json, "{\"consecutive_failures\": 3}"); /* it sends no probes */
    assert_null(alone->passive.name);
    const struct config_health *beside = &loaded.config->services[1].health;
    assert_string_equal(beside->policy.name, "tcp");
    assert_null(strstr(beside->policy.options.json, "passive"));
    assert_string_equal(beside->passive.name, "passive");
    assert_string_equal(beside->passive.options.json, "{}");
    const struct config_health *given = &loaded.config->services[2].health;
    assert_string_equal(given->policy.name, "http");
    assert_string_equal(given->passive.options.json, "{\"window\": \"3s\"}");
    assert_string_equal(given->passive.options.path, "services.c.health.passive");
    assert_null(loaded.config->services[3].health.passive.name);
    unload(&loaded);
}

static void
answers_workers_auto_with_the_cpus_at_hand(void **state)
{
    (void)state;
    struct loaded loaded = load_ok(LISTENERS ROUTES WEB "workers: auto\n");
    assert_in_range(loaded.config->workers, 1, 64);
    unload(&loaded);
}

static void
takes_a_file_for_a_registry_alone(void **state)
{
    (void)state;
    struct loaded loaded = load_ok("registry: {listen: {http: \"127.0.0.1:0\"}, lease_ttl: 5s}\n");
    assert_true(loaded.config->registry.enabled);
    assert_false(loaded.config->registry.embedded);
    assert_string_equal(loaded.config->registry.store, "memory");
    assert_int_equal(loaded.config->registry.listen_grpc.port, 9091);
    assert_int_equal(loaded.config->listener_count, 0);
    unload(&loaded);
    loaded = load_ok("registry: {embedded: true}\nstate: /var/lib/fluxgate\n");
    assert_string_equal(loaded.config->registry.store, "sqlite:/var/lib/fluxgate/registry.db");
    unload(&loaded);
}

static void
takes_a_registry_url_with_and_without_scheme(void **state)
{
    (void)state;
    static const struct {
        const char *yaml, *url;
    } rows[] = {
        {"registry: {url: \"http://localhost:8081\"}\n", "http://localhost:8081"},
        {"registry: {url: \"http://localhost:8081/\"}\n", "http://localhost:8081"},
        {"registry: {url: \"10.0.0.5:8081\"}\n", "10.0.0.5:8081"},
        {"registry: {url: \"localhost:9091\", protocol: grpc}\n", "localhost:9091"},
        {"registry: {url: \"http://localhost:9091\", protocol: grpc}\n", "localhost:9091"},
        {"registry: {url: \"http://[::1]:8081\"}\n", "http://[::1]:8081"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char yaml[512];
        snprintf(yaml, sizeof yaml, "%s%s", LISTENERS ROUTES WEB, rows[i].yaml);
        struct loaded loaded = load_ok(yaml);
        assert_string_equal(loaded.config->registry.url, rows[i].url);
        unload(&loaded);
    }
}

static void
knows_aliases_and_merge_keys(void **state)
{
    (void)state;
    struct loaded loaded = load_ok(LISTENERS ROUTES
        "services:\n"
        "  web: &web { endpoints: [\"a:1\"], strategy: &s least_connections, options: { n: 1 } }\n"
        "  two: { <<: *web, endpoints: [\"b:1\"] }\n"
        "  three: { strategy: *s, endpoints: [\"c:1\"] }\n");
    const struct config_service *services = loaded.config->services;
    assert_string_equal(services[1].strategy.name, "least_connections");
    assert_string_equal(services[1].strategy.options.json, "{\"n\": 1}");
    assert_string_equal(services[1].endpoints[0].id, "b:1");
    assert_string_equal(services[2].strategy.name, "least_connections");
    unload(&loaded);
}

/* ---- ${ENV}
 * ---------------------------------------------------------------------------------------------------- */

static void
expands_the_environment_inside_values(void **state)
{
    (void)state;
    setenv("FLUXGATE_SPEC_PORT", "8099", 1);
    setenv("FLUXGATE_SPEC_HOST", "127.0.0.1", 1);
    setenv("FLUXGATE_SPEC_EMPTY", "", 1);
    unsetenv("FLUXGATE_SPEC_NONE");
    struct loaded loaded =
        load_ok(ROUTES WEB "listeners: [{address: \"${FLUXGATE_SPEC_HOST}:${FLUXGATE_SPEC_PORT}\"}]\n"
                           "workers: ${FLUXGATE_SPEC_NONE:-2}\n"
                           "zone: '${FLUXGATE_SPEC_EMPTY:-a}$${x}$1'\n");
    assert_int_equal(loaded.config->listeners[0].address.port, 8099);
    assert_int_equal(loaded.config->workers, 2);
    assert_string_equal(loaded.config->zone, "a${x}$1");
    unload(&loaded);
}

static void
does_not_let_the_environment_write_yaml(void **state)
{
    (void)state;
    setenv("FLUXGATE_SPEC_EVIL", "x, b: [1]}\nworkers: 7\n# ", 1);
    struct loaded loaded = load_ok(LISTENERS ROUTES
        "workers: 1\nservices: {web: {endpoints: [\"a:1\"], options: {a: \"${FLUXGATE_SPEC_EVIL}\"}}}\n");
    assert_int_equal(loaded.config->workers, 1);
    assert_string_equal(
        loaded.config->services[0].strategy.options.json, "{\"a\": \"x, b: [1]}\\nworkers: 7\\n# \"}");
    unload(&loaded);
}

static void
refuses_a_variable_that_is_not_set(void **state)
{
    (void)state;
    setenv("FLUXGATE_SPEC_PORT", "1", 1);
    setenv("FLUXGATE_SPEC_LATIN", "\xe4", 1);
    assert_refused("zone: ${FLUXGATE_SPEC_PROT}", "1:7: error: the environment variable FLUXGATE_SPEC_PROT "
                                                  "is not set; did you mean 'FLUXGATE_SPEC_PORT'?");
    assert_refused("zone: ${}", "expected ${NAME} or ${NAME:-default}, found ${}");
    assert_refused("zone: ${1A}", "expected ${NAME}");
    assert_refused("zone: \"${A\"", "'${' without its '}'");
    assert_refused("zone: ${FLUXGATE_SPEC_LATIN}", "FLUXGATE_SPEC_LATIN does not hold UTF-8");
}

/* ---- include
 * --------------------------------------------------------------------------------------------------- */

static void
merges_maps_and_appends_lists_of_included_files(void **state)
{
    (void)state;
    struct bundle *bundle = bundle_with_plugins();
    put(bundle, "/conf/parts/services.yaml",
        "services:\n  two: {endpoints: [\"b:1\"]}\ninclude: more.yaml\n");
    put(bundle, "/conf/parts/more.yaml",
        "routes: [{match: {path_prefix: /two}, service: two}]\ntimeouts: {response: 9s}\n");
    struct loaded loaded =
        load_with(bundle, "include: [./parts/services.yaml]\ntimeouts: {connect: 1s}\n" LISTENERS ROUTES WEB);
    assert_true(diags_ok(&loaded.diags));
    assert_int_equal(loaded.config->service_count, 2);
    assert_int_equal(loaded.config->route_count, 2);
    assert_string_equal(loaded.config->routes[1].name, "/two"); /* behind those of the file itself */
    assert_int_equal(loaded.config->timeouts.connect, 1000000);
    assert_int_equal(loaded.config->timeouts.response, 9000000);
    struct place place = config_place(loaded.config, "services.two.endpoints");
    assert_string_equal(place.file, "/conf/parts/services.yaml");
    assert_int_equal(place.line, 2);
    unload(&loaded);
}

static void
names_the_included_file_in_complaints(void **state)
{
    (void)state;
    struct bundle *bundle = bundle_with_plugins();
    put(bundle, "/conf/a.yaml", "include: b.yaml\nworkers: 2\n");
    put(bundle, "/conf/b.yaml",
        "include: [fluxgate.yaml, none.yaml]\nservices: {x: {strateg: y}}\nlisteners: {}\n");
    struct loaded loaded = load_with(bundle, "include: [a.yaml]\nworkers: 1\n" LISTENERS ROUTES WEB);
    assert_true(
        said(&loaded, "/conf/b.yaml:2:16: error: a service has no key 'strateg'; did you mean 'strategy'?"));
    assert_true(said(&loaded, "/conf/b.yaml:1:11: error: '/conf/fluxgate.yaml' includes itself"));
    assert_true(
        said(&loaded, "/conf/b.yaml:1:26: error: cannot read '/conf/none.yaml': No such file or directory"));
    assert_true(
        said(&loaded, "/conf/a.yaml:2:1: error: 'workers' is given twice, first in /conf/fluxgate.yaml:2"));
    assert_true(said(&loaded, "/conf/b.yaml:3:1: error: 'listeners' is given twice"));
    unload(&loaded);
    assert_refused("include: {a: b}", "include: expected a list of YAML files, found a map");
}

static void
says_that_the_main_file_is_missing(void **state)
{
    (void)state;
    struct bundle *bundle = bundle_open();
    struct diags diags = {0};
    assert_null(config_load(bundle, "/conf/none.yaml", &diags));
    assert_int_equal(diags.count, 1);
    assert_string_equal(diags.rows[0].text,
        "/conf/none.yaml: error: cannot read '/conf/none.yaml': No such file or directory");
    diags_fini(&diags);
    bundle_free(bundle);
}

/* ---- places, paths, plug-ins
 * ----------------------------------------------------------------------------------- */

static void
finds_the_place_of_a_path_or_of_its_nearest_parent(void **state)
{
    (void)state;
    static const struct {
        const char *path;
        int line, column;
    } rows[] = {
        {"routes[1].match.host", 10, 14},
        {"routes[1]", 10, 5},
        {"routes[9]", 6, 1},
        {"services.users.options.d.e", 26, 54},
        {"services.users", 23, 3},
        {"services.users.options.zzz", 26, 5},
        {"services.nobody.options", 22, 1},
        {"nothing.at.all", 1, 1},
        {"", 1, 1},
        {"services.web.endpoints[1].zone", 30, 85},
        {"routes[x].y", 6, 1},
        {"log.", 43, 1},
    };
    struct loaded loaded = load_ok(whole);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct place place = config_place(loaded.config, rows[i].path);
        if (place.line != rows[i].line || place.column != rows[i].column)
            fail_msg("%s: %d:%d, expected %d:%d", rows[i].path, place.line, place.column, rows[i].line,
                rows[i].column);
        assert_string_equal(place.file, MAIN_FILE);
    }
    unload(&loaded);
}

static void
finds_a_service_whose_name_holds_dots(void **state)
{
    (void)state;
    struct loaded loaded =
        load_ok(LISTENERS "routes: [{service: a.b}]\nservices:\n  a: {endpoints: [\"x:1\"]}\n"
                          "  a.b: {endpoints: [\"x:1\"], options: {}}\n");
    assert_int_equal(config_place(loaded.config, "services.a.b.options").line, 5);
    assert_int_equal(config_place(loaded.config, "services.a.endpoints").line, 4);
    unload(&loaded);
}

static void
searches_strategies_in_order(void **state)
{
    (void)state;
    struct bundle *bundle = bundle_with_plugins();
    put(bundle, "/opt/mine/round_robin.lua", "return {}");
    put(bundle, "/conf/own/pick.lua", "return {}");
    struct loaded loaded = load_with(bundle, LISTENERS ROUTES
        "strategies_path: [/opt/mine]\n"
        "services: {web: {endpoints: [\"a:1\"]}, own: {endpoints: [\"a:1\"], strategy: own/pick.lua}}\n");
    assert_true(diags_ok(&loaded.diags));
    assert_string_equal(loaded.config->services[0].strategy.file, "/opt/mine/round_robin.lua");
    assert_string_equal(loaded.config->services[1].strategy.file, "/conf/own/pick.lua");
    assert_string_equal(loaded.config->services[1].strategy.name, "own/pick.lua");
    assert_string_equal(loaded.config->strategies_path[0], "/opt/mine");
    assert_string_equal(loaded.config->strategies_path[1], "/conf/strategies");
    assert_null(loaded.config->strategies_path[3]);
    unload(&loaded);
}

static void
suggests_the_nearest_strategy_among_the_files(void **state)
{
    (void)state;
    char folder[] = "/tmp/fluxgate-config-XXXXXX", path[256], yaml[512];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/my_pick.lua", folder);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fclose(file), 0);
    snprintf(yaml, sizeof yaml, "strategies_path: %s\nservices: {web: {strategy: my_pik}}\n", folder);
    assert_refused(yaml, "/my_pik.lua, /conf/strategies/my_pik.lua");
    assert_refused(yaml, "did you mean 'my_pick'?");
    unlink(path);
    rmdir(folder);
}

static void
loads_the_same_from_a_sealed_bundle(void **state)
{
    (void)state;
    struct loaded open = load_ok(whole);
    int fd = memfd_create("bundle", MFD_ALLOW_SEALING);
    assert_true(bundle_seal(open.bundle, fd));
    struct loaded sealed = {.bundle = bundle_from_fd(fd)};
    assert_non_null(sealed.bundle);
    sealed.config = config_load(sealed.bundle, MAIN_FILE, &sealed.diags);
    assert_true(diags_ok(&sealed.diags));
    char *a = print_config(open.config), *b = print_config(sealed.config);
    assert_string_equal(a, b);
    free(a), free(b);
    unload(&open), unload(&sealed);
}

static void
matches_addresses_with_networks(void **state)
{
    (void)state;
    static const struct {
        const char *ip;
        bool in;
    } rows[] = {
        {"10.1.2.3", true},
        {"11.0.0.1", false},
        {"192.168.1.7", true},
        {"192.168.1.6", false},
        {"fd12::1", true},
        {"fe80::1", false},
        {"::ffff:10.1.2.3", true},
        {"::ffff:11.1.2.3", false},
    };
    struct loaded loaded = load_ok(whole);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct sockaddr_in v4 = {.sin_family = AF_INET};
        struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
        bool is_v4 = inet_pton(AF_INET, rows[i].ip, &v4.sin_addr) == 1;
        if (!is_v4) assert_int_equal(inet_pton(AF_INET6, rows[i].ip, &v6.sin6_addr), 1);
        const struct sockaddr *address = is_v4 ? (const void *)&v4 : (const void *)&v6;
        assert_int_equal(
            config_cidr_has(loaded.config->trusted_proxies, loaded.config->trusted_proxy_count, address),
            rows[i].in);
    }
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    assert_false(config_cidr_has(loaded.config->trusted_proxies, 3, (const void *)&local));
    unload(&loaded);
}

static void
reads_filters_and_knows_their_lines(void **state)
{
    (void)state;
    struct bundle *bundle = bundle_with_plugins();
    put(bundle, "/conf/own/f.lua", "return {}");
    struct loaded loaded = load_with(bundle, LISTENERS "routes:\n"
                                                       "  - {match: {path: /a}, service: web}\n"
                                                       "  - match: {path: /b}\n"
                                                       "    service: web\n"
                                                       "    timeouts: {filter: 2s}\n"
                                                       "    filters:\n"
                                                       "      - compress\n"
                                                       "      - use: own/f.lua\n"
                                                       "        options: {rate: 5/s,\n"
                                                       "          burst: 7}\n"
                                                       "        on_error: skip\n"
                                                       "services:\n"
                                                       "  web:\n"
                                                       "    endpoints: [127.0.0.1:9001]\n"
                                                       "    filters: [rate_limit]\n"
                                                       "    timeouts: {filter: 3s}\n");
    if (!diags_ok(&loaded.diags)) diags_print(&loaded.diags, stderr);
    assert_non_null(loaded.config);
    const struct config_route *routes = loaded.config->routes;
    const struct config_service *web = &loaded.config->services[0];
    assert_int_equal(loaded.config->timeouts.filter, 10000000);
    assert_int_equal(routes[0].filter_count, 0);
    assert_int_equal(routes[0].timeouts.filter, 3000000);
    assert_int_equal(routes[1].timeouts.filter, 2000000);
    assert_int_equal(routes[1].filter_count, 2);
    assert_string_equal(routes[1].filters[0].plugin.file, "/conf/strategies/filters/compress.lua");
    assert_string_equal(routes[1].filters[0].plugin.options.json, "{}");
    assert_false(routes[1].filters[0].skip_on_error);
    const struct config_filter *own = &routes[1].filters[1];
    assert_string_equal(own->plugin.file, "/conf/own/f.lua");
    assert_string_equal(own->plugin.options.json, "{\"rate\": \"5/s\", \"burst\": 7}");
    assert_string_equal(own->plugin.options.path, "routes[1].filters[1].options");
    assert_true(own->skip_on_error);
    assert_int_equal(own->plugin.place.line, 9);
    assert_int_equal(config_place(loaded.config, "routes[1].filters[1].options.burst").line, 11);
    assert_int_equal(config_place(loaded.config, "routes[1].filters[0].options.rate").line, 8);
    assert_int_equal(web->filter_count, 1);
    assert_string_equal(web->filters[0].plugin.options.path, "services.web.filters[0].options");
    assert_int_equal(config_place(loaded.config, "services.web.filters[0].options").line, 16);
    unload(&loaded);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_every_part_into_its_type),
        cmocka_unit_test(reads_routes),
        cmocka_unit_test(reads_services),
        cmocka_unit_test(gives_a_health_block_its_defaults),
        cmocka_unit_test(reads_a_policy_that_only_observes_and_one_beside_another),
        cmocka_unit_test(answers_workers_auto_with_the_cpus_at_hand),
        cmocka_unit_test(takes_a_file_for_a_registry_alone),
        cmocka_unit_test(takes_a_registry_url_with_and_without_scheme),
        cmocka_unit_test(knows_aliases_and_merge_keys),
        cmocka_unit_test(expands_the_environment_inside_values),
        cmocka_unit_test(does_not_let_the_environment_write_yaml),
        cmocka_unit_test(refuses_a_variable_that_is_not_set),
        cmocka_unit_test(merges_maps_and_appends_lists_of_included_files),
        cmocka_unit_test(names_the_included_file_in_complaints),
        cmocka_unit_test(says_that_the_main_file_is_missing),
        cmocka_unit_test(finds_the_place_of_a_path_or_of_its_nearest_parent),
        cmocka_unit_test(finds_a_service_whose_name_holds_dots),
        cmocka_unit_test(searches_strategies_in_order),
        cmocka_unit_test(suggests_the_nearest_strategy_among_the_files),
        cmocka_unit_test(loads_the_same_from_a_sealed_bundle),
        cmocka_unit_test(matches_addresses_with_networks),
        cmocka_unit_test(reads_filters_and_knows_their_lines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
