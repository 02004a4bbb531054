/* What is an instance and what is not, and which field the complaint names. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "registry/validate.h"

#define V1(fields) "{\"id\":\"a\",\"serviceName\":\"s\",\"healthPath\":\"/h\"," fields "}"

/* The complaint's field, or NULL where the text is an instance. */
static const char *
refused(const char *text, bool v2, struct arena *arena, struct spec *spec)
{
    struct stated stated;
    struct complaint complaint = {"", ""};
    return validate_json(slice_of(text), v2, arena, spec, &stated, &complaint) ? NULL : complaint.field;
}

static void
host_and_port_come_from_the_url_where_they_are_missing(void **state)
{
    struct arena arena = {0};
    struct spec spec;
    static const struct {
        const char *url, *host;
        unsigned port;
    } rows[] = {
        {"http://10.0.0.1:8080", "10.0.0.1", 8080},
        {"https://Example.com/base/", "Example.com", 443},
        {"http://[::1]:9000/x", "::1", 9000},
        {"HTTP://my_host", "my_host", 80},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char text[256];
        snprintf(text, sizeof text, V1("\"url\":\"%s\",\"host\":null"), rows[i].url);
        assert_null(refused(text, false, &arena, &spec));
        assert_true(slice_equal(spec.host, slice_of(rows[i].host)));
        assert_int_equal(spec.port, rows[i].port);
        assert_true(slice_equal(spec.url, slice_of(rows[i].url)));
    }
    arena_fini(&arena);
}

static void
what_old_clients_post_back_is_taken(void **state)
{
    struct arena arena = {0};
    struct spec spec;
    (void)state;
    assert_null(
        refused("{\"id\":\"\xc3\xa9/ \\n\",\"serviceName\":\"\xe2\x82\xac\",\"host\":\"h\",\"port\":65535,"
                "\"url\":\"http://h:65535\",\"healthPath\":\"/h?x=1\",\"lastHeartbeat\":1.5,\"alive\":true,"
                "\"weight\":\"heavy\",\"zone\":7}",
            false, &arena, &spec));
    assert_int_equal(spec.weight, 1);
    assert_int_equal(spec.zone.len, 0);
    arena_fini(&arena);
}

static void
the_complaint_names_the_field(void **state)
{
    struct arena arena = {0};
    struct spec spec;
    static const struct {
        const char *text, *field;
    } rows[] = {
        {"", ""},
        {"[]", ""},
        {"null", ""},
        {"{\"id\":\"a\"", ""},
        {"{\"id\":\"a\",\"id\":\"b\"}", ""},
        {"{\"id\":\"\xff\"}", ""},
        {"{\"id\":\"\\u0000\"}", ""},
        {"{}", "id"},
        {"{\"id\":\"\"}", "id"},
        {"{\"id\":7}", "id"},
        {"{\"id\":null}", "id"},
        {"{\"id\":\"a\"}", "serviceName"},
        {"{\"id\":\"a\",\"serviceName\":\"s\"}", "url"},
        {"{\"id\":\"a\",\"serviceName\":\"s\",\"url\":\"http://h:1\"}", "healthPath"},
        {"{\"id\":\"a\",\"serviceName\":\"s\",\"url\":\"http://h:1\",\"healthPath\":\"\"}", "healthPath"},
        {V1("\"url\":\"http://h:1\",\"port\":0"), "port"},
        {V1("\"url\":\"http://h:1\",\"port\":65536"), "port"},
        {V1("\"url\":\"http://h:1\",\"port\":-1"), "port"},
        {V1("\"url\":\"http://h:1\",\"port\":\"1\""), "port"},
        {V1("\"url\":\"http://h:1\",\"port\":1.0"), "port"},
        {V1("\"url\":\"http://h:1\",\"port\":2"), "url"},
        {V1("\"url\":\"http://h:1\",\"host\":\"g\""), "url"},
        {V1("\"url\":\"http://h:1\",\"host\":\"a b\""), "host"},
        {V1("\"url\":\"http://h:1\",\"host\":\"a/b\""), "host"},
        {V1("\"url\":\"http://h:1\",\"host\":[]"), "host"},
        {V1("\"url\":\"ftp://h\""), "url"},
        {V1("\"url\":\"http://\""), "url"},
        {V1("\"url\":\"http://:80\""), "url"},
        {V1("\"url\":\"http://h:\""), "url"},
        {V1("\"url\":\"http://h:0\""), "url"},
        {V1("\"url\":\"http://h:65536\""), "url"},
        {V1("\"url\":\"http://h:8x\""), "url"},
        {V1("\"url\":\"http://u@h\""), "url"},
        {V1("\"url\":\"http://h?q\""), "url"},
        {V1("\"url\":\"http://h#f\""), "url"},
        {V1("\"url\":\"http://h /\""), "url"},
        {V1("\"url\":\"http://[::1\""), "url"},
        {V1("\"url\":\"http://[h]\""), "url"},
        {V1("\"url\":\"http://::1\""), "url"},
        {V1("\"url\":\"h:1\""), "url"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const char *field = refused(rows[i].text, false, &arena, &spec);
        if (field == NULL || strcmp(field, rows[i].field) != 0) fail_msg("%s: %s", rows[i].text, field);
    }
    arena_fini(&arena);
}

static void
lengths_end_where_a_slot_s_fields_do(void **state)
{
    struct arena arena = {0};
    struct spec spec;
    static const struct {
        const char *field, *begin;
        size_t max;
    } rows[] = {
        {"id", "", 255}, {"serviceName", "", 255}, {"healthPath", "/", 1023}, {"url", "http://h:1/", 1279}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        for (size_t over = 0; over < 2; over++) {
            char value[2048] = "", text[8192] = "{";
            memset(value, 'x', rows[i].max + over);
            memcpy(value, rows[i].begin, strlen(rows[i].begin));
            for (size_t k = 0; k < 4; k++) {
                static const char *const plain[] = {"a", "s", "/h", "http://h:1"};
                size_t n = strlen(text);
                snprintf(text + n, sizeof text - n, "%s\"%s\":\"%s\"", k == 0 ? "" : ",", rows[k].field,
                    k == i ? value : plain[k]);
            }
            strcat(text, "}");
            const char *field = refused(text, false, &arena, &spec);
            if (over == 0) assert_null(field);
            if (over == 1) assert_string_equal(field, rows[i].field);
        }
    }
    arena_fini(&arena);
}

static void
v2_takes_what_v1_has_no_field_for(void **state)
{
    struct arena arena = {0};
    struct spec spec;
    (void)state;
    assert_null(refused("{\"id\":\"a\",\"serviceName\":\"s\",\"host\":\"::1\",\"port\":80,\"weight\":0,"
                        "\"zone\":\"z\",\"version\":\"1\","
                        "\"metadata\":{ \"k\" : [1] },\"ttl\":\"1m\",\"draining\":true}",
        true, &arena, &spec));
    assert_true(slice_equal(spec.url, SLICE_LIT("http://[::1]:80")));
    assert_true(slice_equal(spec.metadata, SLICE_LIT("{\"k\":[1]}")));
    assert_int_equal(spec.weight, 0);
    assert_int_equal(spec.ttl_us, 60000000);
    assert_true(spec.draining && !spec.maintenance);
    static const struct {
        const char *more, *field;
    } rows[] = {
        {"\"weight\":65536", "weight"},
        {"\"weight\":1.5", "weight"},
        {"\"metadata\":\"x\"", "metadata"},
        {"\"ttl\":30", "ttl"},
        {"\"ttl\":\"25h\"", "ttl"},
        {"\"ttlMs\":1", "ttl"},
        {"\"ttlMs\":-1", "ttlMs"},
        {"\"draining\":1", "draining"},
        {"\"zone\":1", "zone"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char text[256];
        snprintf(text, sizeof text, "{\"id\":\"a\",\"serviceName\":\"s\",\"url\":\"http://h:1\",%s}",
            rows[i].more);
        assert_string_equal(refused(text, true, &arena, &spec), rows[i].field);
    }
    assert_string_equal(refused("{\"id\":\"a\",\"serviceName\":\"s\"}", true, &arena, &spec), "url");
    assert_string_equal(
        refused("{\"id\":\"a\",\"serviceName\":\"s\",\"host\":\"h\"}", true, &arena, &spec), "port");
    arena_fini(&arena);
}

static void
deep_nesting_is_refused_and_harmless(void **state)
{
    enum { DEEP = 200000 };
    struct arena arena = {0};
    struct spec spec;
    char *text = malloc(DEEP + 32);
    (void)state;
    assert_non_null(text);
    strcpy(text, "{\"id\":");
    memset(text + 6, '[', DEEP);
    text[6 + DEEP] = '\0';
    assert_string_equal(refused(text, false, &arena, &spec), "");
    free(text);
    arena_fini(&arena);
}

static void
a_patch_changes_flags_and_weight_alone(void **state)
{
    struct arena arena = {0};
    struct spec spec = {.weight = 5, .draining = true};
    struct stated stated;
    struct complaint complaint;
    (void)state;
    assert_true(
        validate_patch(SLICE_LIT("{\"maintenance\":true,\"weight\":7}"), &arena, &spec, &stated, &complaint));
    assert_true(spec.maintenance && spec.draining && spec.weight == 7);
    assert_false(validate_patch(SLICE_LIT("{\"port\":7}"), &arena, &spec, &stated, &complaint));
    assert_string_equal(complaint.field, "port");
    assert_false(validate_patch(SLICE_LIT("{\"draining\":\"no\"}"), &arena, &spec, &stated, &complaint));
    assert_string_equal(complaint.field, "draining");
    arena_fini(&arena);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(host_and_port_come_from_the_url_where_they_are_missing),
        cmocka_unit_test(what_old_clients_post_back_is_taken),
        cmocka_unit_test(the_complaint_names_the_field),
        cmocka_unit_test(lengths_end_where_a_slot_s_fields_do),
        cmocka_unit_test(v2_takes_what_v1_has_no_field_for),
        cmocka_unit_test(deep_nesting_is_refused_and_harmless),
        cmocka_unit_test(a_patch_changes_flags_and_weight_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
