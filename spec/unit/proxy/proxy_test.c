/* links: shm metrics config */
#include "spec/unit/proxy/rig.h"

static void
relays_a_request_and_keeps_both_connections(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client,
        "GET /a/../b?x=1 HTTP/1.1\r\nHost: Example.com\r\nConnection: x-gone\r\nX-Gone: 1\r\nX-Kept: "
        "2\r\n\r\n");
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    assert_int_equal(strncmp(backend->text, "GET /b?x=1 HTTP/1.1\r\nHost: Example.com\r\n", 40), 0);
    assert_null(strstr(backend->text, "X-Gone"));
    assert_non_null(strstr(backend->text, "X-Kept: 2\r\n"));
    assert_non_null(strstr(backend->text, "X-Forwarded-For: 127.0.0.1\r\n"));
    assert_non_null(strstr(backend->text, "X-Forwarded-Host: Example.com\r\n"));
    assert_non_null(strstr(backend->text, "X-Forwarded-Proto: http\r\n"));
    assert_non_null(strstr(backend->text, "X-Request-Id: "));
    assert_non_null(strstr(backend->text, "traceparent: 00-"));
    rig_say(rig, backend, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nKeep-Alive: timeout=9\r\n\r\nhello");
    rig_expect(rig, client, "\r\n\r\nhello");
    assert_non_null(strstr(client->text, "Content-Length: 5\r\n"));
    assert_null(strstr(client->text, "Keep-Alive"));
    assert_null(strstr(client->text, "Connection"));
    rig_forget(client);
    rig_forget(backend);
    rig_say(rig, client, "GET /second HTTP/1.1\r\nHost: a\r\n\r\n");
    rig_expect(rig, backend, "GET /second HTTP/1.1\r\n");
    rig_say(rig, backend, "HTTP/1.1 204 No Content\r\n\r\n");
    rig_expect(rig, client, "HTTP/1.1 204 No Content\r\n");
    rig_expect_log(rig, "path=\"/second\" status=204");
    assert_int_equal(fake_results, 2);
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(relays_a_request_and_keeps_both_connections),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
