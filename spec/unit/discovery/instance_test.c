/* links: shm base */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/discovery/instance.h"
#include "proto/service_registry.pb-c.h"
#include "proto/service_registry_v2.pb-c.h"

static struct instances *
parse(const char *json)
{
    const char *why = NULL;
    struct instances *all = instances_from_json(slice_of(json), &why);
    if (all == NULL) fail_msg("%s", why);
    return all;
}

static void
assert_slice(struct slice got, const char *expected)
{
    if (slice_equal(got, slice_of(expected))) return;
    fail_msg("got '%.*s', expected '%s'", (int)got.len, got.at, expected);
}

static void
reads_an_answer_of_the_old_contract(void **state)
{
    (void)state;
    struct instances *all =
        parse("[{\"id\":\"u-1\",\"serviceName\":\"users\",\"host\":\"10.0.0.1\",\"port\":9001,"
              "\"url\":\"http://10.0.0.1:9001\",\"healthPath\":\"/health\",\"alive\":true,"
              "\"lastHeartbeat\":1712345678901}]");
    assert_false(all->is_v2);
    assert_int_equal(all->count, 1);
    assert_int_equal(all->bad, 0);
    assert_slice(all->rows[0].view.id, "u-1");
    assert_slice(all->rows[0].view.service, "users");
    assert_slice(all->rows[0].connect_host, "10.0.0.1");
    assert_int_equal(all->rows[0].connect_port, 9001);
    assert_slice(all->rows[0].view.health_path, "/health");
    assert_slice(all->rows[0].path_prefix, "");
    assert_int_equal(all->rows[0].view.weight, 1);
    instances_free(all);
}

static void
reads_all_that_the_second_contract_tells(void **state)
{
    (void)state;
    struct instances *all =
        parse("{\"index\":7,\"epoch\":\"e1\",\"instances\":[{\"id\":\"a\",\"serviceName\":\"s\","
              "\"host\":\"b.example\",\"port\":80,\"url\":null,\"healthPath\":\"up\",\"weight\":5,"
              "\"zone\":\"z\",\"version\":\"1\",\"metadata\":{\"k\":\"v\",\"a\":1},\"lapsed\":true,"
              "\"maintenance\":false,\"draining\":true}]}");
    assert_true(all->is_v2);
    assert_int_equal(all->index, 7);
    assert_slice(all->epoch, "e1");
    assert_int_equal(all->count, 1);
    const struct instance *view = &all->rows[0].view;
    assert_slice(all->rows[0].connect_host, "b.example");
    assert_slice(view->health_path, "/up");
    assert_slice(view->zone, "z");
    assert_slice(view->metadata, "{\"a\":1,\"k\":\"v\"}");
    assert_int_equal(view->weight, 5);
    assert_true(view->lapsed && view->draining && !view->maintenance);
    instances_free(all);
}

static void
goes_where_the_url_points(void **state)
{
    static const struct {
        const char *url, *host, *prefix;
        uint32_t port;
    } rows[] = {
        {"http://h:81/base", "h", "/base", 81},
        {"http://h:81/", "h", "", 81},
        {"http://h:81/a/b//", "h", "/a/b", 81},
        {"HTTP://h", "h", "", 80},
        {"http://[::1]:82", "::1", "", 82},
        {"http://10.1.2.3:83", "10.1.2.3", "", 83},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char json[256];
        snprintf(json, sizeof json,
            "[{\"id\":\"a\",\"serviceName\":\"s\",\"host\":\"other\",\"port\":9,\"url\":\"%s\"}]",
            rows[i].url);
        struct instances *all = parse(json);
        assert_int_equal(all->count, 1);
        assert_slice(all->rows[0].connect_host, rows[i].host);
        assert_slice(all->rows[0].path_prefix, rows[i].prefix);
        assert_slice(all->rows[0].view.host, "other");
        assert_int_equal(all->rows[0].connect_port, rows[i].port);
        instances_free(all);
    }
}

static void
leaves_bad_instances_out_and_keeps_the_good_ones(void **state)
{
    static const char *const bad[] = {
        "7",
        "null",
        "{}",
        "{\"id\":\"\",\"serviceName\":\"s\",\"url\":\"http://h:1\"}",
        "{\"id\":1,\"serviceName\":\"s\",\"url\":\"http://h:1\"}",
        "{\"id\":\"b\",\"serviceName\":\"\",\"url\":\"http://h:1\"}",
        "{\"id\":\"b\",\"serviceName\":\"s\"}",
        "{\"id\":\"b\",\"serviceName\":\"s\",\"host\":\"h\"}",
        "{\"id\":\"b\",\"serviceName\":\"s\",\"host\":\"h\",\"port\":70000}",
        "{\"id\":\"b\",\"serviceName\":\"s\",\"host\":\"h\",\"port\":-1}",
        "{\"id\":\"b\",\"serviceName\":\"s\",\"host\":\"h\",\"port\":\"80\"}",
        "{\"id\":\"b\",\"serviceName\":\"s\",\"host\":\"h\",\"port\":80.5}",
        "{\"id\":\"b\",\"serviceName\":\"s\",\"host\":\"h h\",\"port\":80}",
        "{\"id\":\"b\",\"serviceName\":\"s\",\"host\":\"h\",\"port\":80,\"weight\":65536}",
        "{\"id\":\"b\",\"serviceName\":\"s\",\"host\":\"h\",\"port\":80,\"weight\":-1}",
        "{\"id\":\"b\",\"serviceName\":\"s\",\"url\":\"https://h:1\"}",
        "{\"id\":\"b\",\"serviceName\":\"s\",\"url\":\"ftp://h:1\"}",
        "{\"id\":\"b\",\"serviceName\":\"s\",\"url\":\"h:1\"}",
        "{\"id\":\"b\",\"serviceName\":\"s\",\"url\":\"http://\"}",
        "{\"id\":\"b\",\"serviceName\":\"s\",\"url\":\"http://h:0\"}",
        "{\"id\":\"b\",\"serviceName\":\"s\",\"url\":\"http://h:\"}",
        "{\"id\":\"b\",\"serviceName\":\"s\",\"url\":\"http://h:65536\"}",
        "{\"id\":\"b\",\"serviceName\":\"s\",\"url\":\"http://u:p@h:1\"}",
        "{\"id\":\"b\",\"serviceName\":\"s\",\"url\":\"http://h:1/?q\"}",
        "{\"id\":\"b\",\"serviceName\":\"s\",\"url\":\"http://h:1/#f\"}",
        "{\"id\":\"b\",\"serviceName\":\"s\",\"url\":\"http://h:1/a b\"}",
        "{\"id\":\"b\",\"serviceName\":\"s\",\"url\":\"http://h:1/a\\r\\nX: y\"}",
        "{\"id\":\"b\",\"serviceName\":\"s\",\"url\":\"http://[::g]:1\"}",
        "{\"id\":\"b\",\"serviceName\":\"s\",\"url\":\"http://h:1\",\"healthPath\":\"/a b\"}",
        "{\"id\":\"b\",\"serviceName\":\"s\",\"url\":\"http://h:1\",\"healthPath\":\"/\\r\\nX: y\"}",
        "{\"id\":\"b\",\"serviceName\":\"s\",\"url\":\"http://h:1\",\"healthPath\":7}",
        "{\"id\":\"b\\u0000c\",\"serviceName\":\"s\",\"url\":\"http://h:1\"}",
        "{\"id\":\"b\\u0000\",\"serviceName\":\"s\",\"url\":\"http://h:1\"}",
        "{\"id\":\"b\xff\",\"serviceName\":\"s\",\"url\":\"http://h:1\"}",
        "{\"id\":\"b\",\"serviceName\":\"s\",\"url\":\"http://h:1\",\"metadata\":\"[]\"}",
        "{\"id\":\"b\",\"serviceName\":\"s\",\"url\":\"http://h:1\",\"metadata\":[]}",
        "{\"id\":\"b\",\"serviceName\":\"s\",\"url\":\"http://h:1\",\"lapsed\":\"yes\"}",
        "{\"id\":\"first\",\"serviceName\":\"s\",\"url\":\"http://h:1\"}",
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char json[1024];
        snprintf(json, sizeof json,
            "[{\"id\":\"first\",\"serviceName\":\"s\",\"url\":\"http://h:1\"},%s,"
            "{\"id\":\"last\",\"serviceName\":\"s\",\"url\":\"http://h:2\"}]",
            bad[i]);
        struct instances *all = parse(json);
        if (all->count != 2 || all->bad != 1) fail_msg("%s: %zu good, %zu bad", bad[i], all->count, all->bad);
        assert_slice(all->rows[1].view.id, "last");
        assert_non_null(all->bad_why);
        instances_free(all);
    }
}

static void
leaves_out_what_no_slot_has_room_for(void **state)
{
    static const struct {
        const char *key;
        size_t most;
    } rows[] = {{"id", 255}, {"serviceName", 255}, {"zone", 63}, {"healthPath", 1023}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        for (size_t over = 0; over < 2; over++) {
            struct strbuf json = {0};
            strbuf_add_text(&json, "[{\"url\":\"http://h:1\"");
            if (i != 0) strbuf_add_text(&json, ",\"id\":\"a\"");
            if (i != 1) strbuf_add_text(&json, ",\"serviceName\":\"s\"");
            strbuf_printf(&json, ",\"%s\":\"/", rows[i].key);
            for (size_t n = 1; n < rows[i].most + over; n++)
                strbuf_add_char(&json, 'x');
            strbuf_add_text(&json, "\"}]");
            struct instances *all = parse(json.at);
            assert_int_equal(all->count, over == 0);
            assert_int_equal(all->bad, over);
            instances_free(all);
            strbuf_fini(&json);
        }
    }
}

static void
refuses_documents_that_are_no_answer(void **state)
{
    static const char *const rows[] = {"", "nonsense", "{", "[", "7", "\"x\"", "{}", "{\"instances\":{}}",
        "{\"instances\":[]}", "{\"index\":\"1\",\"instances\":[]}", "{\"index\":-1,\"instances\":[]}",
        "{\"index\":1,\"epoch\":5,\"instances\":[]}", "[{\"id\":\"a\"", "[1] trailing",
        "[{\"port\":99999999999999999999999}]"};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const char *why = NULL;
        assert_null(instances_from_json(slice_of(rows[i]), &why));
        assert_non_null(why);
    }
}

static void
writes_what_it_reads_back_to_the_same(void **state)
{
    (void)state;
    struct strbuf once = {0}, twice = {0};
    struct instances *all = parse(
        "{\"index\":9,\"epoch\":\"\\\"e\\\"\",\"instances\":[{\"id\":\"\xc3\xa9/"
        "1\",\"serviceName\":\"s\",\"host\":\"h\","
        "\"port\":80,\"metadata\":\"{\\\"a\\\": 1}\",\"zone\":\"z\"},{\"id\":\"b\",\"serviceName\":\"t\","
        "\"url\":\"http://[::1]:9/p/\",\"lapsed\":true,\"weight\":3}]}");
    assert_int_equal(all->count, 2);
    instances_to_json(all, NULL, NULL, NULL, &once);
    struct instances *again = parse(once.at);
    assert_int_equal(again->count, 2);
    assert_int_equal(again->bad, 0);
    instances_to_json(again, NULL, NULL, NULL, &twice);
    assert_string_equal(once.at, twice.at);
    instances_free(all);
    instances_free(again);
    strbuf_fini(&once);
    strbuf_fini(&twice);
}

static bool
keep_all(void *context, const struct known_instance *row)
{
    (void)context;
    return !slice_equal(row->view.id, SLICE_LIT("dropped"));
}

static void
adds_the_ghosts_that_are_kept_and_not_there_twice(void **state)
{
    (void)state;
    struct strbuf json = {0};
    struct instances *all = parse("[{\"id\":\"a\",\"serviceName\":\"s\",\"url\":\"http://h:1\"}]");
    struct instances *ghosts = parse("[{\"id\":\"a\",\"serviceName\":\"s\",\"url\":\"http://h:2\"},"
                                     "{\"id\":\"b\",\"serviceName\":\"s\",\"url\":\"http://h:3\"},"
                                     "{\"id\":\"dropped\",\"serviceName\":\"s\",\"url\":\"http://h:4\"}]");
    instances_to_json(all, ghosts, keep_all, NULL, &json);
    struct instances *both = parse(json.at);
    assert_int_equal(both->count, 2);
    assert_int_equal(both->rows[0].connect_port, 1);
    assert_int_equal(both->rows[1].connect_port, 3);
    instances_free(all);
    instances_free(ghosts);
    instances_free(both);
    strbuf_fini(&json);
}

static void
reads_messages_of_both_grpc_contracts(void **state)
{
    (void)state;
    const char *why = NULL;
    uint8_t bytes[512];
    Serviceregistry__GrpcServiceInstance old = SERVICEREGISTRY__GRPC_SERVICE_INSTANCE__INIT, wrong = old;
    Serviceregistry__GrpcServiceInstance *olds[] = {&old, &wrong};
    Serviceregistry__GetHealthyServicesResponse response =
        SERVICEREGISTRY__GET_HEALTHY_SERVICES_RESPONSE__INIT;
    old.id = (char *)"a";
    old.servicename = (char *)"s";
    old.url = (char *)"http://10.0.0.1:9001";
    old.port = 9001;
    wrong = old;
    wrong.port = 70000;
    response.services = olds;
    response.n_services = 2;
    size_t len = serviceregistry__get_healthy_services_response__pack(&response, bytes);
    struct instances *all = instances_from_healthy((struct slice){(char *)bytes, len}, &why);
    assert_non_null(all);
    assert_int_equal(all->count, 1);
    assert_int_equal(all->bad, 1);
    assert_slice(all->rows[0].connect_host, "10.0.0.1");
    instances_free(all);

    Serviceregistry__V2__Instance instance = SERVICEREGISTRY__V2__INSTANCE__INIT, *instances[] = {&instance};
    Serviceregistry__V2__Snapshot snapshot = SERVICEREGISTRY__V2__SNAPSHOT__INIT;
    instance.id = (char *)"a";
    instance.service_name = (char *)"s";
    instance.host = (char *)"h";
    instance.port = 1;
    instance.lapsed = 1;
    snapshot.index = 3;
    snapshot.epoch = (char *)"e";
    snapshot.instances = instances;
    snapshot.n_instances = 1;
    len = serviceregistry__v2__snapshot__pack(&snapshot, bytes);
    all = instances_from_snapshot((struct slice){(char *)bytes, len}, &why);
    assert_non_null(all);
    assert_true(all->is_v2 && all->index == 3 && all->rows[0].view.lapsed);
    instances_free(all);
    for (size_t cut = 1; cut < len; cut++) { /* a cut message is one or none, never a crash */
        all = instances_from_snapshot((struct slice){(char *)bytes, cut}, &why);
        instances_free(all);
    }
    assert_null(instances_from_snapshot(SLICE_LIT("\xff\xff\xff"), &why));
    assert_null(instances_from_healthy(SLICE_LIT("\x0a\x7f"), &why));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_an_answer_of_the_old_contract),
        cmocka_unit_test(reads_all_that_the_second_contract_tells),
        cmocka_unit_test(goes_where_the_url_points),
        cmocka_unit_test(leaves_bad_instances_out_and_keeps_the_good_ones),
        cmocka_unit_test(leaves_out_what_no_slot_has_room_for),
        cmocka_unit_test(refuses_documents_that_are_no_answer),
        cmocka_unit_test(writes_what_it_reads_back_to_the_same),
        cmocka_unit_test(adds_the_ghosts_that_are_kept_and_not_there_twice),
        cmocka_unit_test(reads_messages_of_both_grpc_contracts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
