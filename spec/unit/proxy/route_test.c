/* links: shm metrics config */
#include "spec/unit/proxy/rig.h"

struct ask {
    const char *host, *path, *query, *header, *cookie;
    enum method method;
};

static const char *
found(struct rig *rig, struct ask ask)
{
    struct headers headers = {0};
    struct arena arena = {0};
    if (ask.header != NULL)
        assert_true(headers_add(&headers, &arena, header_identify(SLICE_LIT("X-Beta")), SLICE_LIT("X-Beta"),
            slice_of(ask.header)));
    if (ask.cookie != NULL)
        assert_true(headers_add(&headers, &arena, HEADER_COOKIE, SLICE_LIT("Cookie"), slice_of(ask.cookie)));
    struct route_request request = {ask.method == METHOD_OTHER ? METHOD_GET : ask.method,
        slice_of(method_name(ask.method == METHOD_OTHER ? METHOD_GET : ask.method)), slice_of(ask.host),
        slice_of(ask.path), slice_of(ask.query), &headers};
    const struct config_route *route = route_find(rig->proxy->generation->routes, &request);
    arena_fini(&arena);
    return route == NULL ? "" : route->respond.body;
}

#define ROUTE(match, body) "  - match: { " match " }\n    respond: { status: 200, body: " body " }\n"

static void
the_first_match_in_the_file_wins(void **state)
{
    struct rig *rig = rig_new(
        RIG_YAML(ROUTE("path: /exact", "exact")
                     ROUTE("host: api.example.com, path_prefix: /users, methods: [POST]", "post")
                         ROUTE("host: api.example.com, path_prefix: /users", "users")
                             ROUTE("host: \"*.example.com\", path_prefix: /users", "wild")
                                 ROUTE("host: api.example.com, path_prefix: /late", "late")
                                     ROUTE("path_prefix: /late", "any_late")
                                         ROUTE("path_prefix: /h, headers: { X-Beta: \"1\" }", "beta")
                                             ROUTE("path_prefix: /h, query: { v: \"2\" }", "query")
                                                 ROUTE("path_prefix: /h, cookies: { side: \"b\" }", "cookie")
                                                     ROUTE("host: last.example.org", "last"),
            ""),
        0);
    (void)state;
    assert_string_equal(found(rig, (struct ask){.host = "api.example.com", .path = "/exact"}), "exact");
    assert_string_equal(found(rig, (struct ask){.host = "x", .path = "/exact/more"}), "");
    assert_string_equal(
        found(rig, (struct ask){.host = "api.example.com", .path = "/users", .method = METHOD_POST}), "post");
    assert_string_equal(found(rig, (struct ask){.host = "api.example.com", .path = "/users/1"}), "users");
    assert_string_equal(found(rig, (struct ask){.host = "api.example.com", .path = "/usersx"}), "");
    assert_string_equal(found(rig, (struct ask){.host = "a.b.example.com", .path = "/users"}), "wild");
    assert_string_equal(found(rig, (struct ask){.host = "example.com", .path = "/users"}), "");
    assert_string_equal(found(rig, (struct ask){.host = "api.example.com", .path = "/late"}), "late");
    assert_string_equal(found(rig, (struct ask){.host = "other", .path = "/late"}), "any_late");
    assert_string_equal(found(rig, (struct ask){.host = "", .path = "/h", .header = "1"}), "beta");
    assert_string_equal(found(rig, (struct ask){.host = "", .path = "/h", .header = "2"}), "");
    assert_string_equal(found(rig, (struct ask){.host = "", .path = "/h", .query = "a=1&v=2"}), "query");
    assert_string_equal(
        found(rig, (struct ask){.host = "", .path = "/h", .cookie = "a=1; side=b"}), "cookie");
    assert_string_equal(found(rig, (struct ask){.host = "last.example.org", .path = "/"}), "last");
    rig_free(rig);
}

static void
prefixes_match_by_segment(void **state)
{
    (void)state;
    assert_true(route_prefix_matches(SLICE_LIT("/"), SLICE_LIT("/")));
    assert_true(route_prefix_matches(SLICE_LIT("/a"), SLICE_LIT("/")));
    assert_true(route_prefix_matches(SLICE_LIT("/a"), SLICE_LIT("/a")));
    assert_true(route_prefix_matches(SLICE_LIT("/a/b"), SLICE_LIT("/a")));
    assert_true(route_prefix_matches(SLICE_LIT("/a/b"), SLICE_LIT("/a/")));
    assert_false(route_prefix_matches(SLICE_LIT("/ab"), SLICE_LIT("/a")));
    assert_false(route_prefix_matches(SLICE_LIT("/a"), SLICE_LIT("/a/")));
}

static void
many_hosts_are_found_by_their_name(void **state)
{
    enum { HOSTS = 300 };
    static char yaml[HOSTS * 128 + 512];
    char *at = yaml + sprintf(yaml, "listeners: [ { address: 127.0.0.1:0 } ]\nworkers: 1\nservices: { web: { "
                                    "endpoints: [ \"127.0.0.1:1\" ] } }\nroutes:\n");
    (void)state;
    for (int i = 0; i < HOSTS; i++)
        at += sprintf(
            at, "  - match: { host: h%d.example.com }\n    respond: { status: 200, body: b%d }\n", i, i);
    struct rig *rig = rig_new(yaml, 0);
    for (int i = 0; i < HOSTS; i++) {
        char host[64], body[16];
        snprintf(host, sizeof host, "h%d.example.com", i);
        snprintf(body, sizeof body, "b%d", i);
        assert_string_equal(found(rig, (struct ask){.host = host, .path = "/"}), body);
    }
    assert_string_equal(found(rig, (struct ask){.host = "h300.example.com", .path = "/"}), "");
    rig_free(rig);
}

static void
hosts_match_without_case_port_and_final_dot(void **state)
{
    struct rig *rig = rig_new(RIG_YAML(ROUTE("host: api.example.com", "api"), ""), 0);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, "GET / HTTP/1.1\r\nHost: API.Example.COM.:8080\r\n\r\n");
    rig_expect(rig, client, "\r\n\r\napi");
    rig_forget(client);
    rig_say(rig, client, "GET http://api.example.com/x HTTP/1.1\r\nHost: api.example.com\r\n\r\n");
    rig_expect(rig, client, "\r\n\r\napi");
    rig_hang_up(client);
    rig_free(rig);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_match_in_the_file_wins),
        cmocka_unit_test(prefixes_match_by_segment),
        cmocka_unit_test(many_hosts_are_found_by_their_name),
        cmocka_unit_test(hosts_match_without_case_port_and_final_dot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
