/* links: base */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "flux/internal.h"

static char told[512];

static void
on_event(void *context, const char *event, const char *detail)
{
    (void)context;
    snprintf(told, sizeof told, "%s: %s", event, detail);
}

static int
clear(void **state)
{
    static const char *const names[] = {"SERVICE_NAME", "PORT", "METRICS_PORT", "REGISTRY_URL", "HOSTNAME"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        unsetenv(names[i]);
    told[0] = '\0';
    return 0;
}

static void
takes_everything_from_the_environment(void **state)
{
    (void)state;
    setenv("SERVICE_NAME", "users", 1);
    setenv("PORT", "9001", 1);
    setenv("METRICS_PORT", "9101", 1);
    setenv("REGISTRY_URL", "http://registry:8081/", 1);
    setenv("HOSTNAME", "pod-7", 1);
    struct flux_client *client = flux_new(NULL, NULL, NULL);
    assert_non_null(client);
    assert_string_equal(flux_id(client), "users-pod-7-9001");
    assert_string_equal(client->url, "http://pod-7:9001");
    assert_string_equal(client->health_path, "/health");
    assert_string_equal(client->registry_url, "http://registry:8081");
    assert_int_equal(client->metrics_port, 9101);
    assert_int_equal(client->heartbeat_ms, 10000);
    assert_int_equal(client->timeout_ms, 5000);
    assert_false(client->rich);
    assert_false(flux_is_registered(client));
    flux_free(client);
}

static void
prefers_arguments_to_the_environment(void **state)
{
    const struct flux_instance instance = {
        .id = "x", .service_name = "a", .host = "::1", .port = 80, .health_path = "/up", .zone = "b"};
    const struct flux_options options = {
        .registry_url = "h:1", .metrics_port = 2, .heartbeat_ms = 3, .timeout_ms = 4};
    (void)state;
    setenv("SERVICE_NAME", "users", 1);
    setenv("PORT", "garbage", 1);
    setenv("METRICS_PORT", "garbage", 1);
    setenv("REGISTRY_URL", "garbage://", 1);
    struct flux_client *client = flux_new(&instance, &options, NULL);
    assert_non_null(client);
    assert_string_equal(client->id, "x");
    assert_string_equal(client->service_name, "a");
    assert_string_equal(client->url, "http://[::1]:80");
    assert_string_equal(client->health_path, "/up");
    assert_string_equal(client->registry_url, "http://h:1");
    assert_true(client->rich);
    assert_int_equal(client->metrics_port, 2);
    flux_free(client);
}

static void
knows_the_default_registry_of_each_protocol(void **state)
{
    const struct flux_instance instance = {.service_name = "a", .port = 1};
    struct flux_options options = {.protocol = FLUX_GRPC};
    (void)state;
    struct flux_client *client = flux_new(&instance, &options, NULL);
    assert_string_equal(client->registry_url, "http://127.0.0.1:9091");
    assert_true(strlen(client->host) > 0); /* this machine's name */
    flux_free(client);
    client = flux_new(&instance, NULL, NULL);
    assert_string_equal(client->registry_url, "http://127.0.0.1:8081");
    flux_free(client);
}

static void
refuses(const struct flux_instance *instance, const char *registry, const char *why)
{
    const struct flux_options options = {.registry_url = registry, .on_event = on_event};
    enum flux_error error = FLUX_OK;
    told[0] = '\0';
    assert_null(flux_new(instance, &options, &error));
    assert_int_equal(error, FLUX_INVALID);
    if (strstr(told, why) == NULL) fail_msg("\"%s\" says nothing of \"%s\"", told, why);
}

static void
refuses_what_is_wrong_and_names_it(void **state)
{
    char longer[300];
    (void)state;
    memset(longer, 'a', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    refuses(NULL, NULL, "SERVICE_NAME");
    refuses(&(struct flux_instance){.service_name = "a"}, NULL, "PORT");
    refuses(&(struct flux_instance){.service_name = "a", .port = 65536}, NULL, "PORT");
    refuses(&(struct flux_instance){.service_name = "a", .port = -1}, NULL, "PORT");
    refuses(&(struct flux_instance){.service_name = "a\nb", .port = 1}, NULL, "service");
    refuses(&(struct flux_instance){.service_name = "\xff", .port = 1}, NULL, "service");
    refuses(&(struct flux_instance){.service_name = longer, .port = 1}, NULL, "service");
    refuses(&(struct flux_instance){.service_name = "a", .port = 1, .id = "\x7f"}, NULL, "id");
    refuses(
        &(struct flux_instance){.service_name = "a", .port = 1, .health_path = "up"}, NULL, "health path");
    refuses(&(struct flux_instance){.service_name = "a", .port = 1, .weight = 65536}, NULL, "weight");
    refuses(&(struct flux_instance){.service_name = "a", .port = 1, .metadata_json = "[]"}, NULL, "metadata");
    refuses(&(struct flux_instance){.service_name = "a", .port = 1, .metadata_json = "{"}, NULL, "metadata");
    const struct flux_instance fine = {.service_name = "a", .port = 1};
    static const char *const urls[] = {
        "ftp://h", "http://", "http://h:70000", "h:port", "http://h/?q", "http://h#f", "a b"};
    for (size_t i = 0; i < sizeof urls / sizeof urls[0]; i++)
        refuses(&fine, urls[i], "registry URL");
    setenv("PORT", "80x", 1);
    refuses(&(struct flux_instance){.service_name = "a"}, NULL, "PORT");
    setenv("METRICS_PORT", "65536", 1);
    refuses(&fine, NULL, "METRICS_PORT");
}

static void
frees_nothing_gladly(void **state)
{
    (void)state;
    flux_free(NULL);
    assert_string_equal(flux_strerror(FLUX_UNKNOWN_ID), "the registry does not know this instance");
    assert_string_equal(flux_strerror((enum flux_error)99), "unknown error");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(takes_everything_from_the_environment, clear),
        cmocka_unit_test_setup(prefers_arguments_to_the_environment, clear),
        cmocka_unit_test_setup(knows_the_default_registry_of_each_protocol, clear),
        cmocka_unit_test_setup(refuses_what_is_wrong_and_names_it, clear),
        cmocka_unit_test_setup(frees_nothing_gladly, clear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
