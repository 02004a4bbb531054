#include "spec/unit/config/support.h"

struct wrong {
    const char *yaml, *said;
};

static void
refuse_all(const struct wrong *rows, size_t count)
{
    for (size_t i = 0; i < count; i++)
        assert_refused(rows[i].yaml, rows[i].said);
}
#define REFUSE_ALL(rows) refuse_all(rows, sizeof(rows) / sizeof((rows)[0]))

#define AT "/conf/fluxgate.yaml:"

static void
names_file_line_column_and_the_nearest_key(void **state)
{
    (void)state;
    static const struct wrong rows[] = {
        {"listners: []\n", AT "1:1: error: the file has no key 'listners'; did you mean 'listeners'?"},
        {"\n\nlisteners:\n  - adress: x\n",
            AT "4:5: error: a listener has no key 'adress'; did you mean 'address'?"},
        {"routes: [{match: {pth: /}}]", AT "1:19: error: match has no key 'pth'; did you mean 'path'?"},
        {"timeouts: {\n  conect: 1s}",
            AT "2:3: error: timeouts has no key 'conect'; did you mean 'connect'?"},
        {"limits: {header: 1}", "limits has no key 'header'; did you mean 'headers'?"},
        {"services: {web: {endpoint: []}}", "a service has no key 'endpoint'; did you mean 'endpoints'?"},
        {"registry: {embeded: true}", "registry has no key 'embeded'; did you mean 'embedded'?"},
        {"zzz: 1", AT "1:1: error: the file has no key 'zzz'"},
    };
    REFUSE_ALL(rows);
}

static void
shows_every_complaint_in_the_order_of_the_file(void **state)
{
    (void)state;
    struct loaded loaded =
        load("routes:\n  - service: nope\nworkers: 0\nlisteners: 5\nservices:\n  web: {strategy: x}\n");
    int line = 0;
    assert_false(diags_ok(&loaded.diags));
    assert_true(loaded.diags.errors >= 5);
    assert_int_equal(loaded.diags.errors, loaded.diags.count);
    for (size_t i = 0; i < loaded.diags.count; i++) {
        int at = atoi(loaded.diags.rows[i].text + strlen(AT));
        assert_true(at >= line);
        line = at;
    }
    unload(&loaded);
}

static void
refuses_yaml_that_is_none(void **state)
{
    (void)state;
    static const struct wrong rows[] = {
        {"a: [1, 2", "not valid YAML"},
        {"a: b: c", AT "1:5: error: not valid YAML: mapping values are not allowed in this context"},
        {"a: \"x", "not valid YAML"},
        {"\ta: 1", "not valid YAML"},
        {"a: 1\n---\nb: 2\n", AT "2:1: error: a second document begins here"},
        {"listeners: \"\xff\"", AT "1:13: error: not UTF-8: byte 0xff"},
        {"a: 1\nb: \x01\n", AT "2:4: error: not valid YAML: control characters are not allowed"},
        {"a: !include x.yaml", "the YAML tag '!include' is not supported"},
        {"a: !!python/object x", "is not supported"},
        {"? [a, b]\n: c\n", "a key must be text"},
        {"\"\": 1", "a key may neither be empty"},
        {"a: \"x\\0y\"", "a value may not hold a NUL byte"},
        {"- a\n- b\n", AT "1:1: error: expected a map such as 'listeners: [...]', found a list"},
        {"hello", "expected a map"},
        {"limits: {headers: ${X}}", "(inside { } or [ ], put quotes around a value that holds ${...})"},
    };
    REFUSE_ALL(rows);
}

static void
refuses_an_empty_file(void **state)
{
    (void)state;
    static const struct wrong rows[] = {
        {"", AT "1:1: error: the file is empty: expected 'listeners' and 'routes'"},
        {"# nothing\n", "the file is empty"},
        {"---\n...\n", "the file is empty"},
        {"{}", "the file is empty"},
        {"~", "the file is empty"},
    };
    REFUSE_ALL(rows);
    assert_refused(LISTENERS WEB, "'routes' is missing");
    assert_refused(ROUTES WEB, "'listeners' is missing");
    assert_refused("listeners: []\n" ROUTES WEB, "'listeners' is missing");
    assert_refused("listeners:\n" ROUTES WEB, "'listeners' is missing");
}

static void
refuses_a_key_given_twice(void **state)
{
    (void)state;
    assert_refused("workers: 1\nworkers: 1\n", AT "2:1: error: 'workers' is given twice, first in line 1");
    assert_refused("services: {web: {}, \"web\": {}}", AT "1:21: error: 'web' is given twice");
}

static void
bounds_aliases_depth_and_size(void **state)
{
    (void)state;
    char bomb[4096] = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n", deep[256] = "zone: ";
    for (int i = 1; i < 12; i++) {
        char line[128];
        snprintf(line, sizeof line, "a%d: &a%d [*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d]\n", i, i,
            i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1);
        strcat(bomb, line);
    }
    assert_refused(bomb, "values in all (those that aliases repeat count too)");
    memset(deep + strlen(deep), '[', 200);
    assert_refused(deep, "nested deeper than 32 levels");
    assert_refused("a: &a [*a]", "alias 'a' stands inside its own anchor");
    assert_refused("a: *b", "no anchor 'b' stands above this alias");

    /* bundle_put stops at BUNDLE_FILE_MAX already, which a configuration may have in full */
    size_t len = BUNDLE_FILE_MAX;
    char *big = malloc(len + 1);
    assert_non_null(big);
    memset(big, '#', len);
    big[len] = '\0';
    assert_refused(big, "the file is empty");
    free(big);
}

static void
shows_many_complaints_but_not_without_end(void **state)
{
    (void)state;
    enum { KEYS = 5000 };
    char *yaml = malloc(KEYS * 16 + 1), *at = yaml;
    assert_non_null(yaml);
    for (int i = 0; i < KEYS; i++)
        at += sprintf(at, "wrong%d: 1\n", i);
    struct loaded loaded = load(yaml);
    assert_true(loaded.diags.errors >= KEYS);
    assert_int_equal(loaded.diags.count, 1001);
    assert_true(said(&loaded, "more follow; only the first 1000 are shown"));
    unload(&loaded);
    free(yaml);
}

static void
refuses_bad_values(void **state)
{
    (void)state;
    static const struct wrong rows[] = {
        {"timeouts: {connect: 5}", AT
            "1:21: error: connect: expected a duration with its unit, such as 500ms, 5s or 1m30s, found '5'"},
        {"timeouts: {connect: fast}", "connect: expected a duration such as"},
        {"timeouts: {connect: [1s]}",
            "connect: expected a duration such as 500ms, 5s or 1m30s, found a list"},
        {"timeouts: {connect: -1s}", "expected a duration"},
        {"timeouts: {connect: 99999999h}", "a duration of at most 10 years"},
        {"timeouts: 5s", "timeouts: expected a map, found '5s'"},
        {"limits: {header_bytes: 32q}",
            "header_bytes: expected a size such as 512, 32k, 8M or 1g, found '32q'"},
        {"limits: {header_bytes: 1}", "a size from 1024 to 1048576 bytes"},
        {"limits: {connections: 0}", "a whole number from 1 to 10000000, found '0'"},
        {"limits: {connections: -1}", "a whole number"},
        {"limits: {connections: 1e3}", "a whole number"},
        {"limits: {connections: 99999999999999999999}", "a whole number"},
        {"trusted_proxies: [10.0.0.1/8]",
            "'10.0.0.1/8' has bits behind its prefix; did you mean '10.0.0.0/8'?"},
        {"trusted_proxies: [10.0.0.0/33]", "expected a network such as"},
        {"trusted_proxies: [localhost]", "expected a network such as"},
        {"trusted_proxies: {}", "expected a network such as"},
        {"workers: many", "workers: expected auto, or a number from 1 to 64, found 'many'"},
        {"workers: 65", "workers: expected a whole number from 1 to 64"},
        {"drain: {keep_sessions: maybe}", "keep_sessions: expected true or false, found 'maybe'"},
        {"log: {level: inf}",
            "level: expected debug, info, warn or error, found 'inf'; did you mean 'info'?"},
        {"log: {format: xml}", "format: expected logfmt or json, found 'xml'"},
        {"zone: ", "zone: expected the name of a zone, found nothing"},
        {"state: []", "state: expected a directory, found a list"},
        {"lua_path: {a: b}", "a list"},
        {"via: true", "via: expected a name of this gateway"},
        {"via: a b", "via: expected a name of this gateway"},
        {"via: [a]", "a name of this gateway"},
    };
    REFUSE_ALL(rows);
}

static void
refuses_bad_addresses(void **state)
{
    (void)state;
    static const struct wrong rows[] = {
        {"listeners: [{address: 8080}]", "did you mean ':8080'?"},
        {"listeners: [{address: 0.0.0.0:65536}]",
            "expected a port from 0 to 65535 behind the last colon, found '65536'"},
        {"listeners: [{address: \"0.0.0.0:\"}]", "expected a port"},
        {"listeners: [{address: \"::1:80\"}]", "did you mean '[::1]:80'?"},
        {"listeners: [{address: \"[::g]:80\"}]", "expected an address such as"},
        {"listeners: [{address: \"[::1:80\"}]", "expected an address such as"},
        {"listeners: [{address: 300.0.0.1:80}]", "expected an address such as"},
        {"listeners: [{address: \"a b:80\"}]", "expected an address such as"},
        {"listeners: [{address: unix:run/x}]", "expected unix:/absolute/path of at most 107 bytes"},
        {"listeners: [{address: \":80\"}, {address: \":80\"}]",
            "':80' is listened on twice, first in line 1"},
        {"listeners: [{}]", "a listener needs an address"},
        {"listeners: [\":80\"]", "expected a listener such as {address: 0.0.0.0:8080}, found ':80'"},
        {"admin: {address: nowhere}", "expected an address such as"},
        {"services: {web: {endpoints: [\":80\"]}}", "expected an address such as 10.0.0.1:8080"},
        {"services: {web: {endpoints: [\"a:0\"]}}", "expected a port from 1 to 65535"},
        {"registry: {url: \"http://h\"}", "has no port; did you mean 'http://h:8081'?"},
        {"registry: {url: h, protocol: grpc}", "has no port; did you mean 'h:9091'?"},
        {"registry: {url: \"https://h:1\"}", "a registry over TLS is not supported yet"},
        {"registry: {url: \"http://h:1/x\"}", "expected http://HOST:PORT"},
    };
    REFUSE_ALL(rows);
}

static void
refuses_bad_routes(void **state)
{
    (void)state;
    static const struct wrong rows[] = {
        {LISTENERS WEB "routes: [{match: {}, service: wbe}]", "unknown service 'wbe'; did you mean 'web'?"},
        {LISTENERS WEB "routes: [{match: {}, service: {web: 1, nope: 1}}]", "unknown service 'nope'"},
        {LISTENERS WEB "routes: [{match: {}}]",
            "a route has exactly one of 'service', 'redirect' and 'respond', found none"},
        {LISTENERS WEB "routes: [{service: web, respond: {}}]",
            "'service', 'redirect' and 'respond', found more"},
        {LISTENERS WEB "routes: [{service: {web: 0}}]", "at least one weight must be above 0"},
        {LISTENERS WEB "routes: [{service: {web: 65536}}]",
            "web: expected a whole number from 0 to 65535, found '65536'"},
        {LISTENERS WEB "routes: [{service: {}}]", "expected from 1 to 1024 services"},
        {LISTENERS WEB "routes: [web]", "expected a route such as"},
        {LISTENERS WEB "routes: {}", "routes: expected a list of routes"},
        {"routes: [{match: {host: \"a.b:80\"}}]", "without a port, found 'a.b:80'"},
        {"routes: [{match: {host: \"a..b\"}}]", "expected a host such as"},
        {"routes: [{match: {host: \"*\"}}]", "expected a host such as"},
        {"routes: [{match: {methods: [GTE]}}]", "unknown method 'GTE'; did you mean 'GET'?"},
        {"routes: [{match: {methods: [GET, post]}}]",
            AT "1:34: error: unknown method 'post'; did you mean 'POST'?"},
        {"routes: [{match: {methods: []}}]", "a list of methods"},
        {"routes: [{match: {path_prefix: users}}]", "the path 'users' does not begin with '/'"},
        {"routes: [{match: {path_prefix: /a/../b}}]",
            "is not in the normal form that requests are compared in; did you mean '/b'?"},
        {"routes: [{match: {path: /a//b/./c%7e}}]", "did you mean '/a/b/c~'?"},
        {"routes: [{match: {path: /a%2fb}}]", "did you mean '/a%2Fb'?"},
        {"routes: [{match: {path: /%zz}}]", "holds a '%' without two hex digits"},
        {"routes: [{match: {path: /%00}}]", "holds %00 or %5C"},
        {"routes: [{match: {path: \"/a?b\"}}]", "holds a byte that a path cannot have unescaped"},
        {"routes: [{match: {path: /\xc3\xa4}}]", "holds a byte that a path cannot have unescaped"},
        {"routes: [{match: {path: /a, path_prefix: /b}}]",
            "match has either 'path' or 'path_prefix', not both"},
        {"routes: [{match: {headers: {\"a b\": c}}}]", "'a b' is no name that a header or cookie can have"},
        {"routes: [{match: {headers: {a: [1]}}}]",
            "a: expected text without control characters, or nothing for any value, found a list"},
        {"routes: [{redirect: {to: x}}]", "to: expected an absolute http(s) URL, or a path"},
        {"routes: [{redirect: {to: /$pth}}]",
            "knows $path, $query and $host, found '$pth'; did you mean '$path'?"},
        {"routes: [{redirect: {status: 301}}]", "redirect needs 'to'"},
        {"routes: [{redirect: {to: /, status: 200}}]",
            "a redirect's status: 301, 302, 303, 307 or 308, found '200'"},
        {"routes: [{respond: {status: 199}}]", "status: expected a whole number from 200 to 599"},
        {"routes: [{respond: {status: 204, body: x}}]", "a 204 has no body"},
        {"routes: [{respond: {}, rewrite: {host: x}}]", "rewrite needs 'service'"},
        {"routes: [{respond: {}, path: /x}]", "the path to compare stands in match: {path: /x}"},
        {"routes: [{respond: {}, slashes: kep}]",
            "slashes: expected merge or keep, found 'kep'; did you mean 'keep'?"},
        {"routes: [{respond: {}, name: a}, {respond: {}, name: a}]",
            "the route's name 'a' is taken, first by the route in line 1"},
        {"routes: [{respond: {}, timeouts: {client_header: 1s}}]",
            "a route's timeouts has no key 'client_header'"},
    };
    REFUSE_ALL(rows);
}

static void
refuses_bad_services(void **state)
{
    (void)state;
    static const struct wrong rows[] = {
        {"services: {web: {}}", "the service 'web' needs endpoints or discover"},
        {"services: {web: {endpoints: []}}", "the service 'web' needs endpoints or discover"},
        {"services: [web]", "services: expected a map of services by name"},
        {"services: {web: {discover: web}}", "discover needs a 'registry' block"},
        {"services: {web: {endpoints: [\"a:1\", \"a:1\"]}}",
            "the endpoint 'a:1' is given twice, first in line 1"},
        {"services: {web: {endpoints: [{address: \"a:1\", id: x}, {address: \"a:2\", id: x}]}}",
            "the endpoint 'x' is given twice"},
        {"services: {web: {endpoints: [{id: x}]}}", "an endpoint needs an address"},
        {"services: {web: {endpoints: [{address: \"a:1\", weight: 65536}]}}",
            "weight: expected a whole number from 0 to 65535"},
        {"services: {web: {endpoints: [{address: \"a:1\", metadata: x}]}}",
            "metadata: expected a map, found 'x'"},
        {"services: {web: {strategy: rond_robin}}",
            "unknown strategy 'rond_robin': no file /conf/strategies/rond_robin.lua"},
        {"services: {web: {strategy: ../x}}", "expected the name of a strategy"},
        {"services: {web: {strategy: ./none.lua}}",
            "cannot read '/conf/none.lua': No such file or directory"},
        {"services: {web: {options: [1]}}", "options: expected a map, found a list"},
        {"services: {web: {health: {policy: htpp}}}",
            "unknown health policy 'htpp': no file /conf/strategies/health/htpp.lua"},
        {"services: {web: {health: {interval: 0}}}", "interval: expected a duration of at least 10ms"},
        {"services: {web: {health: {rise: 0}}}", "rise: expected a whole number from 1 to 1000"},
        {"services: {web: {health: {jitter: 1.5}}}", "jitter: expected a share from 0 to 1"},
        {"services: {web: {health: {status: [99]}}}",
            "expected a status such as 200, or a range such as \"200-299\", found '99'"},
        {"services: {web: {health: {status: \"300-200\"}}}", "found '300-200'"},
        {"services: {web: {health: {status: []}}}", "expected a status such as 200"},
        {"services: {web: {health: {path: health}}}", "path: expected a path such as /health"},
        {"services: {web: {health: {damping: 5}}}", "damping: expected true or false, found '5'"},
        {"services: {web: {health: {damping: {reuse: 3}}}}", "damping: reuse must be below suppress"},
        {"services: {web: {health: {damping: {suppress: -1}}}}",
            "suppress: expected a penalty from 0.01 to 1000"},
        {"services: {web: {health: {damping: {half: 1m}}}}", "damping has no key 'half'"},
        {"services: {web: {health: {passive: perhaps}}}", "passive: expected true or false, found 'perhaps'"},
        {"services: {web: {health: {passive: [1]}}}", "passive: expected a map, found a list"},
        {"services: {web: {health: {passive: {policy: pasive}}}}", "unknown health policy 'pasive'"},
        {"registry: {embedded: true, url: \"http://h:1\"}",
            "a registry is either embedded or has a url, not both"},
        {LISTENERS ROUTES WEB "registry: {}", "registry needs 'embedded: true' or a 'url'"},
        {"registry: {store: redis}", "store: expected memory or sqlite:/path, found 'redis'"},
        {"registry: {protocol: grcp}", "protocol: expected http or grpc, found 'grcp'; did you mean 'grpc'?"},
    };
    REFUSE_ALL(rows);
}

static void
refuses_bad_filters(void **state)
{
    (void)state;
    static const struct wrong rows[] = {
        {"routes: [{filters: cors}]", "filters: expected a list of filters, such as [cors, {use: rate_limit"},
        {"routes: [{filters: [[a]]}]", "expected a filter's name, or a map {use, options, on_error}"},
        {"routes: [{filters: [~]}]", "expected a filter's name"},
        {"routes: [{filters: [{options: {}}]}]", "a filter needs 'use', the name of one"},
        {"routes: [{filters: [rate_limt]}]",
            "unknown filter 'rate_limt': no file /conf/strategies/filters/rate_limt.lua"},
        {"routes: [{filters: [rate_limt]}]", "did you mean 'rate_limit'?"},
        {"routes: [{filters: [../x]}]", "expected the name of a filter"},
        {"routes: [{filters: [x.lua]}]", "cannot read '/conf/x.lua'"},
        {"services: {web: {filters: [{use: compress, on_error: ignore}]}}",
            "on_error: expected fail or skip, found 'ignore'"},
        {"services: {web: {filters: [{use: compress, options: [1]}]}}",
            "options: expected a map, found a list"},
        {"services: {web: {filters: [{use: compress, option: {}}]}}", "a filter has no key 'option'"},
        {"routes: [{filters: [a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,"
         "a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a]}]",
            "filters: at most 64"},
    };
    REFUSE_ALL(rows);
}

static void
refuses_by_name_what_is_not_there_yet(void **state)
{
    (void)state;
    static const struct wrong rows[] = {
        {"routes: [{errors: {}}]", "'errors' of a route is not supported yet"},
        {"services: {a: {tls: {}}}", "'tls' of a service is not supported yet"},
        {"services: {a: {slow_start: 5}}", "a duration with its unit"},
        {"services: {a: {panic: 1}}", "panic: expected a share from 0% to 100%, such as 50%"},
        {"services: {a: {protocol: h2}}", "'protocol' of a service is not supported yet"},
        {"listeners: [{tls: {}}]", "'tls' of a listener is not supported yet"},
        {"log: {access_format: $staus}", "there is no $staus to log; did you mean 'status'?"},
        {"listeners: [{mode: tcp}]", "'mode' of a listener is not supported yet"},
        {"listeners: [{proxy_protocol: true}]", "'proxy_protocol' of a listener is not supported yet"},
        {"registry: {token: x}", "'token' of registry is not supported yet"},
        {"registry: {tls: {}}", "'tls' of registry is not supported yet"},
        {"registry: {store: \"etcd://a:1\"}", "the store 'etcd' is not supported yet"},
    };
    REFUSE_ALL(rows);
}

static void
shows_hostile_bytes_escaped(void **state)
{
    (void)state;
    assert_refused("\"a\\e[31m\\n\": 1", "the file has no key 'a\\x1b[31m\\x0a'");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_file_line_column_and_the_nearest_key),
        cmocka_unit_test(shows_every_complaint_in_the_order_of_the_file),
        cmocka_unit_test(refuses_yaml_that_is_none),
        cmocka_unit_test(refuses_an_empty_file),
        cmocka_unit_test(refuses_a_key_given_twice),
        cmocka_unit_test(bounds_aliases_depth_and_size),
        cmocka_unit_test(shows_many_complaints_but_not_without_end),
        cmocka_unit_test(refuses_bad_values),
        cmocka_unit_test(refuses_bad_addresses),
        cmocka_unit_test(refuses_bad_routes),
        cmocka_unit_test(refuses_bad_services),
        cmocka_unit_test(refuses_bad_filters),
        cmocka_unit_test(refuses_by_name_what_is_not_there_yet),
        cmocka_unit_test(shows_hostile_bytes_escaped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
