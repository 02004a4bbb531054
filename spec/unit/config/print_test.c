#include "spec/unit/config/support.h"

/* print(load(x)) is a fixed point of load and print: what it says is what it means. */
static void
assert_prints_itself(const char *yaml)
{
    struct loaded first = load_ok(yaml);
    char *once = print_config(first.config);
    struct loaded second = load(once);
    if (!diags_ok(&second.diags)) {
        diags_print(&second.diags, stderr);
        fail_msg("the printed configuration does not load:\n%s", once);
    }
    char *twice = print_config(second.config);
    assert_string_equal(once, twice);
    free(once), free(twice);
    unload(&first), unload(&second);
}

static void
prints_the_defaults(void **state)
{
    (void)state;
    static const char *const lines[] = {"\nworkers: ", "\n  response: 1m\n", "\n  header_bytes: 32768\n",
        "\n  level: info\n", "    strategy: \"round_robin\"\n", "\n  delay: 0s\n", "trusted_proxies: []\n"};
    struct loaded loaded = load_ok(LISTENERS ROUTES WEB);
    char *text = print_config(loaded.config);
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
        assert_non_null(strstr(text, lines[i]));
    free(text);
    unload(&loaded);
    assert_prints_itself(LISTENERS ROUTES WEB);
}

static void
prints_texts_that_yaml_or_expansion_would_change(void **state)
{
    (void)state;
    setenv(
        "FLUXGATE_SPEC_TEXT", "${HOME} # x\ny: \xc2\x85\xe2\x80\xa8\xef\xbb\xbf\xc2\xa0\xf0\x9f\x98\x80", 1);
    assert_prints_itself(LISTENERS
        "zone: '$${HOME}$$${x}'\n"
        "routes:\n"
        "  - {respond: {body: \"a\\tb\\\"\\\\\\x1b\\u2028 ${FLUXGATE_SPEC_TEXT}\"}, name: \"- : # ~\"}\n"
        "  - {service: \"y\", name: \"null\", match: {headers: {x: }, query: {\"$${q}\": "
        "\"$${v}\\u2029\"}}}\n"
        "services:\n"
        "  \"y\":\n"
        "    endpoints: [{address: \"a:1\", id: \"1\", zone: \"~\", metadata: {\"$${k}\": \"$${v}\", e: "
        "\"\"}}]\n"
        "    options: {\"${k\": [\"$${v}\", '\"$${w}\":', 1.50, -0, 1e5, \"1\", null, \"null\", true, "
        "\"true\", [], {}]}\n");
}

static void
prints_every_kind_of_route_and_service(void **state)
{
    (void)state;
    assert_prints_itself(
        "listeners: [{address: \"*:8080\"}, {address: unix:/run/x.sock, connections: 7}, {address: "
        "\"[::]:1\"}]\n"
        "workers: 5\n"
        "routes:\n"
        "  - {match: {host: \"*.a.b\", path: \"/x%2Fy\", methods: [GET]}, service: {a: 1, b: 0}, path: raw, "
        "slashes: keep}\n"
        "  - {match: {path_prefix: //x, cookies: {c: }}, slashes: keep, service: {a: 7}}\n"
        "  - {match: {host: h}, redirect: {to: \"/$path?$query\"}}\n"
        "  - {service: b, rewrite: {strip_prefix: /a, add_prefix: /b, host: \"h:1\"}, timeouts: {request: "
        "1500us, response: 0}}\n"
        "  - {service: b, filters: [compress, {use: rate_limit, options: {rate: 5/s, key: [a, \"$${b}\"]}, "
        "on_error: skip}]}\n"
        "  - {service: b, timeouts: {filter: 1s}}\n"
        "services:\n"
        "  a: {discover: \"*\", health: {policy: tcp, interval: 1m0.5s, rise: 7}, timeouts: {connect: "
        "123456789us}}\n"
        "  b: {endpoints: [\"[::1]:80\", unix:/x], health: , filters: [{use: compress, options: }]}\n"
        "  c: {endpoints: [\"a:1\"], health: {policy: passive}}\n"
        "  d: {endpoints: [\"a:1\"], health: {passive: {window: 3s, policy: passive}, rise: 7}}\n"
        "  e: {endpoints: [\"a:1\"], health: {policy: passive, window: 4s, passive: on}}\n"
        "  f: {endpoints: [\"a:1\"], health: {damping: off}}\n"
        "  g: {endpoints: [\"a:1\"], health: {damping: {suppress: 2.25, max: 90s}}}\n"
        "registry: {url: \"http://a:1\", protocol: http, poll_interval: 3s}\n"
        "admin: {}\n"
        "lua_path: [., ./lua, ../up, /abs]\n"
        "strategies_path: mine\n"
        "state: ./state\n"
        "trusted_proxies: [1.2.3.4, \"::/0\"]\n"
        "limits: {body_bytes: 5g, pool_per_endpoint: 0}\n"
        "log: {access: \"-\", access_format: json}\n");
    assert_prints_itself(LISTENERS ROUTES WEB "log: {access_format: '$client \"$path\" $status'}\n");
}

static void
prints_a_registry_alone_and_the_flat_file(void **state)
{
    (void)state;
    assert_prints_itself("registry: {embedded: true, store: \"sqlite:x${NO:-}.db\", lease_ttl: 5s}\n");
    assert_prints_itself("registry: {listen: {grpc: \"127.0.0.1:0\"}}\n");
    assert_prints_itself(
        "port: 81\nserviceRegistryURL: a:1\nserviceRegistryType: grpc\nhealthCheckInterval: 1.000001s\n");
}

/* Paths are resolved against the file's folder when they are read, so they must not be once more when they
 * are printed. */
static void
prints_paths_of_a_file_named_without_a_folder(void **state)
{
    (void)state;
    static const char *const files[] = {"fluxgate.yaml", "sub/fluxgate.yaml", "/fluxgate.yaml"};
    for (size_t i = 0; i < 3; i++) {
        struct bundle *bundle = bundle_open();
        struct diags diags = {0};
        char *texts[2];
        put(bundle, i == 1 ? "sub/p.lua" : i == 0 ? "p.lua" : "/p.lua", "return {}");
        put(bundle, files[i],
            LISTENERS ROUTES "lua_path: [., lua]\nstate: x\nvia: edge-1\nlog: {access: a.log}\n"
                             "services: {web: {endpoints: [\"a:1\"], strategy: ./p.lua}}\n");
        for (int round = 0; round < 2; round++) {
            struct config *config = config_load(bundle, files[i], &diags);
            assert_non_null(config);
            assert_true(diags_ok(&diags));
            texts[round] = print_config(config);
            put(bundle, files[i], texts[round]);
            config_free(config);
        }
        assert_string_equal(texts[0], texts[1]);
        free(texts[0]), free(texts[1]);
        diags_fini(&diags);
        bundle_free(bundle);
    }
}

/* ---- random configurations
 * ------------------------------------------------------------------------------------- */

static uint64_t dice = 1;

static unsigned
roll(unsigned sides)
{
    dice = dice * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(dice >> 33) % sides;
}

static const char *
pick(const char *const *from, unsigned count)
{
    return from[roll(count)];
}
#define PICK(...)                                                                                            \
    pick((const char *const[]){__VA_ARGS__}, sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

static void
add_route(FILE *out)
{
    fprintf(out, "  - match: {%s%s%s}\n", PICK("", "host: a.b, ", "host: \"*.X\", "),
        PICK("", "path: /%7Bx, ", "path_prefix: /, "),
        PICK("", "methods: [PUT], ", "headers: {a: b, c: }", "query: {\"\\u2028\": \"$${\"}"));
    switch (roll(4)) {
    case 0: fprintf(out, "    service: %s\n", PICK("a", "b")); break;
    case 1: fprintf(out, "    service: {a: %u, b: %u}\n", roll(10), 1 + roll(65535)); break;
    case 2: fprintf(out, "    redirect: {to: %s}\n", PICK("/x", "https://$host$path")); break;
    default: fprintf(out, "    respond: {body: %s}\n", PICK("~x", "\"\"", "'it''s'", "\"\\u0085\""));
    }
    if (roll(3) == 0)
        fprintf(out, "    timeouts: {%s: %s}\n", PICK("connect", "request"),
            PICK("0", "1us", "1h1m1.000001s", "9ms"));
    if (roll(3) == 0) fprintf(out, "    slashes: %s\n", PICK("merge", "keep"));
}

static void
add_service(FILE *out, const char *name)
{
    fprintf(out, "  %s:\n    %s\n    strategy: %s\n    options: %s\n", name,
        PICK("discover: x", "endpoints: [\"h:1\", {address: \"h:2\", weight: 0}]"),
        PICK("round_robin", "sticky_sessions"),
        PICK("{}", "", "{a: [1, {b: ~}], \"c d\": 'x: y'}", "{secrets: [\"$${a}\", \"#\"]}"));
    if (roll(2) == 0)
        fprintf(out, "    health: {%s%s%s}\n", PICK("", "policy: tcp, "), PICK("", "interval: 1.5s, "),
            PICK("", "status: [200], ", "own: {a: 1}, "));
    if (roll(2) == 0)
        fprintf(
            out, "    timeouts: {%s: %s}\n", PICK("connect", "upstream_keepalive"), PICK("0", "77us", "2h"));
}

static void
prints_itself_whatever_it_holds(void **state)
{
    (void)state;
    for (int round = 0; round < 300; round++) {
        char *yaml = NULL;
        size_t len = 0;
        FILE *out = open_memstream(&yaml, &len);
        assert_non_null(out);
        fprintf(out, "listeners: [{address: \"%s\"}]\nroutes:\n", PICK(":0", "127.0.0.1:1", "[::1]:2"));
        for (unsigned n = 1 + roll(4); n > 0; n--)
            add_route(out);
        fputs("services:\n", out);
        add_service(out, "a");
        add_service(out, "b");
        fprintf(out, "registry: {%s}\nlimits: {%s: %u}\n",
            PICK("embedded: yes", "url: \"h:1\"", "url: \"http://h:1\", protocol: grpc"),
            PICK("headers", "connections"), 1 + roll(1000));
        if (roll(2) == 0) fprintf(out, "state: %s\n", PICK("/var/x", "x", "../x"));
        assert_int_equal(fclose(out), 0);
        assert_prints_itself(yaml);
        free(yaml);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prints_the_defaults),
        cmocka_unit_test(prints_texts_that_yaml_or_expansion_would_change),
        cmocka_unit_test(prints_every_kind_of_route_and_service),
        cmocka_unit_test(prints_a_registry_alone_and_the_flat_file),
        cmocka_unit_test(prints_paths_of_a_file_named_without_a_folder),
        cmocka_unit_test(prints_itself_whatever_it_holds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
