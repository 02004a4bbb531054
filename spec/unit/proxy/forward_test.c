/* links: shm metrics config */
#include "spec/unit/proxy/rig.h"

static struct slice
client_of(const char *trusted, const char *forwarded, const char *also)
{
    static struct arena arena;
    struct config_cidr cidr[2] = {{.family = AF_INET, .bits = 8, .address = {10}},
        {.family = AF_INET, .bits = 32, .address = {127, 0, 0, 1}}};
    struct config config = {.trusted_proxies = cidr, .trusted_proxy_count = trusted == NULL ? 0 : 2};
    struct headers headers = {0};
    struct sockaddr_in peer = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    arena_reset(&arena);
    for (int i = 0; i < 2; i++) {
        const char *value = i == 0 ? forwarded : also;
        if (value != NULL)
            assert_true(headers_add(
                &headers, &arena, HEADER_X_FORWARDED_FOR, SLICE_LIT("X-Forwarded-For"), slice_of(value)));
    }
    struct slice found =
        forward_client_ip(&config, &headers, (struct sockaddr *)&peer, SLICE_LIT("127.0.0.1"));
    static char text[64];
    memcpy(text, found.at, found.len);
    text[found.len] = '\0';
    arena_fini(&arena);
    return (struct slice){text, found.len};
}

static void
the_client_is_the_last_hop_that_is_not_trusted(void **state)
{
    (void)state;
    assert_string_equal(client_of(NULL, "1.2.3.4", NULL).at, "127.0.0.1");
    assert_string_equal(client_of("", NULL, NULL).at, "127.0.0.1");
    assert_string_equal(client_of("", "1.2.3.4", NULL).at, "1.2.3.4");
    assert_string_equal(client_of("", "6.6.6.6, 1.2.3.4, 10.0.0.7", NULL).at, "1.2.3.4");
    assert_string_equal(client_of("", "6.6.6.6", "1.2.3.4, 10.1.1.1").at, "1.2.3.4");
    assert_string_equal(client_of("", "10.0.0.1, 10.0.0.2", NULL).at, "10.0.0.1");
    assert_string_equal(client_of("", "1.2.3.4, <script>", NULL).at, "127.0.0.1");
    assert_string_equal(client_of("", "[2001:db8::1]", NULL).at, "[2001:db8::1]");
}

static void
request_ids_are_short_and_plain(void **state)
{
    static char longest[129];
    (void)state;
    memset(longest, 'a', 128);
    assert_true(forward_request_id_is_valid(SLICE_LIT("0af7-4d2_x.Y:1")));
    assert_true(forward_request_id_is_valid((struct slice){longest, 128}));
    assert_false(forward_request_id_is_valid((struct slice){longest, 129}));
    assert_false(forward_request_id_is_valid(SLICE_LIT("")));
    assert_false(forward_request_id_is_valid(SLICE_LIT("a b")));
    assert_false(forward_request_id_is_valid(SLICE_LIT("a\"b")));
    assert_false(forward_request_id_is_valid((struct slice){"a\0b", 3}));
}

static void
traceparents_are_read_by_the_letter(void **state)
{
    (void)state;
#define VALID(text)   assert_true(forward_traceparent_is_valid(SLICE_LIT(text)))
#define INVALID(text) assert_false(forward_traceparent_is_valid(SLICE_LIT(text)))
    VALID("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    VALID("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-later");
    INVALID("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-later");
    INVALID("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    INVALID("00-00000000000000000000000000000000-b7ad6b7169203331-01");
    INVALID("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01");
    INVALID("00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    INVALID("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331");
    INVALID("");
}

static void
untrusted_forwarding_headers_do_not_pass(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client,
        "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\nx-forwarded-anything: 1\r\nForwarded: "
        "for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\n"
        "X-Forwarded-Proto: https\r\nX-Request-Id: mine-1\r\ntraceparent: "
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00\r\nTracestate: a=b\r\n\r\n");
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    assert_null(strstr(backend->text, "6.6.6.6"));
    assert_null(strcasestr(backend->text, "anything"));
    assert_non_null(strstr(backend->text, "X-Forwarded-For: 127.0.0.1\r\n"));
    assert_non_null(strstr(backend->text, "X-Forwarded-Proto: http\r\n"));
    assert_non_null(strstr(backend->text, "X-Request-Id: mine-1\r\n"));
    assert_non_null(strstr(backend->text, "traceparent: 00-0af7651916cd43dd8448eb211c80319c-"));
    assert_null(strstr(backend->text, "b7ad6b7169203331"));
    assert_non_null(strstr(backend->text, "Tracestate: a=b\r\n"));
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
trusted_forwarding_headers_are_continued(void **state)
{
    struct rig *rig = rig_new(
        RIG_YAML("  - match: { path_prefix: / }\n    service: web\n", "trusted_proxies: [ 127.0.0.0/8 ]\n"),
        1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client,
        "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: "
        "https\r\nX-Forwarded-Host: public.example\r\nX-Forwarded-For: 7.7.7.7\r\n\r\n");
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    assert_non_null(strstr(backend->text, "X-Forwarded-For: 6.6.6.6, 7.7.7.7, 127.0.0.1\r\n"));
    assert_non_null(strstr(backend->text, "X-Forwarded-Proto: https\r\n"));
    assert_non_null(strstr(backend->text, "X-Forwarded-Host: public.example\r\n"));
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    rig_expect_log(rig, "client=\"7.7.7.7\"");
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

#define VIA RIG_YAML("  - match: { path_prefix: / }\n    service: web\n", "via: edge-1\n")

static void
via_names_the_gateway_behind_those_before_it(void **state)
{
    struct rig *rig = rig_new(VIA, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client,
        "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n"
        "Via: 1.1 edge-10, 2.0 cdn (edge-1)\r\nVia: 1.1 x\r\n\r\n");
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    const char *first = strstr(backend->text, "Via: 1.1 edge-10, 2.0 cdn (edge-1)\r\nVia: 1.1 x\r\n");
    assert_non_null(first);
    assert_non_null(strstr(first, "Via: 1.0 edge-1\r\n"));
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    rig_expect(rig, client, "HTTP/1.1 200 ");
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
a_request_that_comes_back_is_refused(void **state)
{
    static const char *const rows[] = {"Via: 1.1 edge-1", "Via: 1.1 a, 1.0  Edge-1 (fluxgate)",
        "Via: 1.1 a\r\nVia: 1.1 b,1.1 edge-1,1.1 c", "Connection: via\r\nVia: 1.1 edge-1"};
    struct rig *rig = rig_new(VIA, 1);
    struct heard *client = rig_client(rig);
    char text[256];
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        snprintf(text, sizeof text, "GET / HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n", rows[i]);
        rig_say(rig, client, text);
        rig_expect(rig, client, "HTTP/1.1 508 Loop Detected\r\n");
        rig_expect(rig, client, "passed this gateway before\n");
        rig_forget(client);
    }
    assert_false(rig_has_connection(rig, 0));
    rig_hang_up(client);
    rig_free(rig);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_client_is_the_last_hop_that_is_not_trusted),
        cmocka_unit_test(request_ids_are_short_and_plain),
        cmocka_unit_test(traceparents_are_read_by_the_letter),
        cmocka_unit_test(untrusted_forwarding_headers_do_not_pass),
        cmocka_unit_test(trusted_forwarding_headers_are_continued),
        cmocka_unit_test(via_names_the_gateway_behind_those_before_it),
        cmocka_unit_test(a_request_that_comes_back_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
