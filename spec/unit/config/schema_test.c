/* The loader's own tables against what people and editors read: a key in one and not in the other fails here.
 */
#include <jansson.h>

#include "core/config/keys.h"
#include "spec/unit/config/support.h"

struct check {
    json_t *definitions;
    char *reference; /* docs/config.md */
    size_t seen, missing;
};

static json_t *
properties_of(const struct check *check, const char *block)
{
    return json_object_get(json_object_get(check->definitions, block), "properties");
}

static char *
read_text(const char *path)
{
    FILE *in = fopen(path, "r");
    char *text = NULL;
    size_t cap = 0;
    assert_non_null(in);
    assert_true(getdelim(&text, &cap, '\0', in) > 0);
    assert_int_equal(fclose(in), 0);
    return text;
}

static struct check
check_new(void)
{
    json_error_t error;
    json_t *schema = json_load_file("docs/fluxgate.schema.json", JSON_REJECT_DUPLICATES, &error);
    if (schema == NULL) fail_msg("docs/fluxgate.schema.json:%d: %s", error.line, error.text);
    struct check check = {.definitions = json_incref(json_object_get(schema, "definitions"))};
    json_decref(schema);
    assert_true(json_is_object(check.definitions));
    check.reference = read_text("docs/config.md");
    return check;
}

static void
check_free(struct check *check)
{
    json_decref(check->definitions);
    free(check->reference);
}

static void
expect_in_schema(void *context, const char *block, const char *key, bool later)
{
    struct check *check = context;
    bool there = json_object_get(properties_of(check, block), key) != NULL;
    check->seen++;
    if (there != later) return;
    check->missing++;
    fprintf(stderr, "%s.%s %s\n", block, key,
        later ? "is refused by the loader but in the schema" : "is not in the schema");
}

static void
expect_in_reference(void *context, const char *block, const char *key, bool later)
{
    struct check *check = context;
    char quoted[160];
    (void)later;
    snprintf(quoted, sizeof quoted, "`%s`", key);
    if (strstr(check->reference, quoted) != NULL) return;
    check->missing++;
    fprintf(stderr, "%s.%s is not in docs/config.md\n", block, key);
}

static void
count_key(void *context, const char *block, const char *key, bool later)
{
    (void)block;
    (void)key;
    if (!later) ++*(size_t *)context;
}

static void
schema_has_each_key_of_the_loader(void **state)
{
    (void)state;
    struct check check = check_new();
    config_keys(expect_in_schema, &check);
    assert_true(check.seen > 100);
    assert_int_equal(check.missing, 0);
    check_free(&check);
}

struct known {
    const char *block, *key;
    bool found;
};

static void
find_key(void *context, const char *block, const char *key, bool later)
{
    struct known *known = context;
    if (!later && strcmp(block, known->block) == 0 && strcmp(key, known->key) == 0) known->found = true;
}

static void
schema_has_no_key_that_the_loader_lacks(void **state)
{
    (void)state;
    struct check check = check_new();
    size_t loader = 0, schema = 0;
    const char *block, *key;
    json_t *definition, *property;
    config_keys(count_key, &loader);
    json_object_foreach(check.definitions, block, definition)
    {
        json_object_foreach(json_object_get(definition, "properties"), key, property)
        {
            struct known known = {block, key, false};
            config_keys(find_key, &known);
            if (!known.found) fail_msg("the schema's %s.%s is not known to the loader", block, key);
            schema++;
        }
    }
    assert_int_equal(schema, loader);
    check_free(&check);
}

static void
reference_names_each_key(void **state)
{
    (void)state;
    struct check check = check_new();
    config_keys(expect_in_reference, &check);
    assert_int_equal(check.missing, 0);
    check_free(&check);
}

/* Fenced blocks of the reference that begin with "# loads" are whole files and must load. */
static void
reference_shows_files_that_load(void **state)
{
    (void)state;
    struct check check = check_new();
    size_t count = 0;
    setenv("COOKIE_SECRET", "spec", 1);
    for (char *at = check.reference; (at = strstr(at, "```yaml\n# loads")) != NULL; count++) {
        char *begin = at + strlen("```yaml\n"), *end = strstr(begin, "\n```");
        assert_non_null(end);
        end[1] = '\0';
        struct bundle *bundle = bundle_with_plugins();
        put(bundle, "/conf/filters/audit.lua", "return {}");
        struct loaded loaded = load_with(bundle, begin);
        if (!diags_ok(&loaded.diags)) diags_print(&loaded.diags, stderr);
        assert_true(diags_ok(&loaded.diags));
        unload(&loaded);
        at = end + 2;
    }
    assert_true(count >= 3);
    check_free(&check);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(schema_has_each_key_of_the_loader),
        cmocka_unit_test(schema_has_no_key_that_the_loader_lacks),
        cmocka_unit_test(reference_names_each_key),
        cmocka_unit_test(reference_shows_files_that_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
