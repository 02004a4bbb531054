#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/http/uri.h"

#define assert_slice(s, lit) assert_true(slice_equal(s, SLICE_LIT(lit)))

struct path_case {
    struct slice path;
    enum uri_result result;
    struct slice merged, kept; /* normal forms without and with keep_slashes */
    int line;
};
#define PATH(path, normal)                                                                                   \
    {                                                                                                        \
        SLICE_LIT(path), URI_OK, SLICE_LIT(normal), SLICE_LIT(normal), __LINE__                              \
    }
#define SLASHES(path, merged, kept)                                                                          \
    {                                                                                                        \
        SLICE_LIT(path), URI_OK, SLICE_LIT(merged), SLICE_LIT(kept), __LINE__                                \
    }
#define BAD(path, result)                                                                                    \
    {                                                                                                        \
        SLICE_LIT(path), result, {NULL, 0}, {NULL, 0}, __LINE__                                              \
    }

static const struct path_case paths[] = {
    PATH("/", "/"),
    PATH("*", "*"),
    PATH("/a/b/c", "/a/b/c"),
    PATH("/a/", "/a/"),
    PATH("/.well-known/x", "/.well-known/x"),
    PATH("/a/...", "/a/..."),
    PATH("/a..b/.c.", "/a..b/.c."),
    PATH("/%61%2D%2e%5F%7e", "/a-._~"),
    PATH("/%c3%a9%3a%3F", "/%C3%A9%3A%3F"),
    PATH("/a%2fb", "/a%2Fb"),
    PATH("/a%2Fb%20c", "/a%2Fb%20c"),
    PATH("/%25%32%65", "/%252e"),
    PATH("/%252e%252e/", "/%252e%252e/"),
    PATH("/a;b=c/d,e!$&'()*+=:@", "/a;b=c/d,e!$&'()*+=:@"),
    PATH("/{a}|\"<b>^`", "/{a}|\"<b>^`"),
    PATH("/.", "/"),
    PATH("/./", "/"),
    PATH("/..", "/"),
    PATH("/../", "/"),
    PATH("/../../a", "/a"),
    PATH("/a/.", "/a/"),
    PATH("/a/..", "/"),
    PATH("/a/./b", "/a/b"),
    PATH("/a/../b", "/b"),
    PATH("/a/b/../../c", "/c"),
    PATH("/a/b/..", "/a/"),
    PATH("/a/b/c/./../../g", "/a/g"),
    PATH("/mid/content=5/../6", "/mid/6"),
    PATH("/a/%2e%2e/b", "/b"),
    PATH("/a/.%2E/b", "/b"),
    PATH("/a/%2e/b", "/a/b"),
    PATH("/a/..;/b", "/a/..;/b"),
    PATH("/0123456789abcdef0123456789abcdef/../x", "/x"),
    PATH("/0123456789abcde/0123456789abcdef/%41", "/0123456789abcde/0123456789abcdef/A"),
    SLASHES("//", "/", "//"),
    SLASHES("//a", "/a", "//a"),
    SLASHES("/a//b", "/a/b", "/a//b"),
    SLASHES("/a///b//", "/a/b/", "/a///b//"),
    SLASHES("/a//../b", "/b", "/a/b"),
    SLASHES("/a//..", "/", "/a/"),
    SLASHES("/..//a", "/a", "//a"),
    SLASHES("/.//a", "/a", "//a"),
    SLASHES("/0123456789abcd//0123456789abcdef", "/0123456789abcd/0123456789abcdef",
        "/0123456789abcd//0123456789abcdef"),
    BAD("", URI_BAD_BYTE),
    BAD("a", URI_BAD_BYTE),
    BAD("**", URI_BAD_BYTE),
    BAD("/a b", URI_BAD_BYTE),
    BAD("/a\tb", URI_BAD_BYTE),
    BAD("/a\0b", URI_BAD_BYTE),
    BAD("/a\x7f", URI_BAD_BYTE),
    BAD("/\xc3\xa9", URI_BAD_BYTE),
    BAD("/a#b", URI_BAD_BYTE),
    BAD("/a?b", URI_BAD_BYTE),
    BAD("/a\\b", URI_BAD_BYTE),
    BAD("/..\\b", URI_BAD_BYTE),
    BAD("/0123456789abcdef0123456789abcdef\\", URI_BAD_BYTE),
    BAD("/%", URI_BAD_ESCAPE),
    BAD("/%4", URI_BAD_ESCAPE),
    BAD("/%g1", URI_BAD_ESCAPE),
    BAD("/%1g", URI_BAD_ESCAPE),
    BAD("/%%41", URI_BAD_ESCAPE),
    BAD("/%u0041", URI_BAD_ESCAPE),
    BAD("/% 41", URI_BAD_ESCAPE),
    BAD("/%4/1", URI_BAD_ESCAPE),
    BAD("/%00", URI_FORBIDDEN),
    BAD("/a%00.html", URI_FORBIDDEN),
    BAD("/%5c", URI_FORBIDDEN),
    BAD("/..%5C..%5Ca", URI_FORBIDDEN),
    BAD("/..%2F", URI_FORBIDDEN),
    BAD("/..%2fa", URI_FORBIDDEN),
    BAD("/a%2F..", URI_FORBIDDEN),
    BAD("/a%2f..%2fb", URI_FORBIDDEN),
    BAD("/a%2f.%2fb", URI_FORBIDDEN),
    BAD("/%2e%2e%2fa", URI_FORBIDDEN),
    BAD("/a/%2f%2e%2e/b", URI_FORBIDDEN),
    BAD("/.%2f", URI_FORBIDDEN),
};

/* Into a buffer of the smallest size allowed, so that a byte too many is seen. */
static enum uri_result
normalise(struct slice path, bool keep, char **out, struct slice *normal)
{
    *out = malloc(path.len + 1);
    char *in = malloc(path.len == 0 ? 1 : path.len);
    assert_non_null(*out);
    assert_non_null(in);
    if (path.len > 0) memcpy(in, path.at, path.len);
    enum uri_result result = uri_normalise((struct slice){in, path.len}, keep, *out, path.len + 1, normal);
    if (result == URI_OK && normal->at == in) { /* borrowed */
        assert_int_equal(normal->len, path.len);
        normal->at = path.at;
    }
    free(in);
    return result;
}

static void
brings_paths_into_normal_form(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        const struct path_case *test = &paths[i];
        for (int keep = 0; keep < 2; keep++) {
            struct slice normal = SLICE_NONE, again = SLICE_NONE, expected = keep ? test->kept : test->merged;
            char *out, *second;
            enum uri_result result = normalise(test->path, keep, &out, &normal);
            if (result != test->result) fail_msg("line %d: result %d", test->line, (int)result);
            if (result == URI_OK) {
                if (!slice_equal(normal, expected)) {
                    fail_msg("line %d: %.*s", test->line, (int)normal.len, normal.at);
                }
                assert_int_equal(normal.at == test->path.at, slice_equal(expected, test->path));
                assert_int_equal(normalise(normal, keep, &second, &again), URI_OK);
                assert_ptr_equal(again.at, normal.at); /* a normal form is its own */
                free(second);
            }
            free(out);
        }
    }
}

static void
says_when_the_buffer_is_too_small(void **state)
{
    (void)state;
    char out[8];
    struct slice normal;
    assert_int_equal(uri_normalise(SLICE_LIT("/a/../b"), false, out, 7, &normal), URI_TOO_LONG);
    assert_int_equal(uri_normalise(SLICE_LIT("/a/../b"), false, out, 8, &normal), URI_OK);
    assert_int_equal(uri_normalise(SLICE_LIT("/a/b/c/d/e"), false, NULL, 0, &normal), URI_OK);
}

/* Random paths of the bytes that matter, fixed seed: the normal form is a fixed point, no longer than the
 * path, and free of what it must not hold. */
static void
is_a_fixed_point_for_generated_paths(void **state)
{
    (void)state;
    static const char *const parts[] = {
        "/", "/", ".", "..", "a", "%2e", "%2F", "%41", "%7e", "%e2", "b", "%2f", "//", "%25"};
    unsigned seed = 1;
    for (int round = 0; round < 20000; round++) {
        char path[128] = "/";
        size_t len = 1;
        for (int i = rand_r(&seed) % 12; i > 0; i--) {
            const char *part = parts[(size_t)rand_r(&seed) % (sizeof parts / sizeof *parts)];
            len += (size_t)sprintf(path + len, "%s", part);
        }
        struct slice normal, again;
        char *out, *second;
        bool keep = round % 2 == 0;
        enum uri_result result = normalise((struct slice){path, len}, keep, &out, &normal);
        if (result == URI_OK) {
            assert_true(normal.len > 0 && normal.len <= len && normal.at[0] == '/');
            assert_int_equal(normalise(normal, keep, &second, &again), URI_OK);
            assert_ptr_equal(again.at, normal.at);
            if (!keep) assert_null(memmem(normal.at, normal.len, "//", 2));
            assert_null(memmem(normal.at, normal.len, "/../", 4));
            assert_null(memmem(normal.at, normal.len, "/./", 3));
            assert_null(memmem(normal.at, normal.len, "%2f", 3));
            free(second);
        } else {
            assert_int_equal(result, URI_FORBIDDEN);
        }
        free(out);
    }
}

static void
splits_authorities(void **state)
{
    (void)state;
    struct slice host, port;
    assert_true(uri_authority_split(SLICE_LIT("example.com:8080"), &host, &port));
    assert_slice(host, "example.com");
    assert_slice(port, "8080");
    assert_true(uri_authority_split(SLICE_LIT("[::1]"), &host, &port));
    assert_slice(host, "::1");
    assert_int_equal(port.len, 0);
    assert_true(uri_authority_split(SLICE_LIT("[2001:db8::192.0.2.1]:0"), &host, &port));
    assert_slice(port, "0");
    assert_true(uri_authority_split(SLICE_LIT("a:"), &host, &port));
    assert_int_equal(port.len, 0);
    static const char *const bad[] = {"", ":", ":1", "a:1:2", "a b", "u@h", "a:65536", "a:1a", "[", "[]",
        "[::1", "[::1]1", "[::1%lo]", "[v1.x]", "a%41", "a,b", "a/", "a?", "a#", "a\\", "a\"", "[1.2.3.4]",
        "::1", "a\x80"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (uri_authority_split(slice_of(bad[i]), &host, &port)) fail_msg("%s was taken", bad[i]);
    }
    assert_false(uri_authority_split(SLICE_LIT("a\0"), &host, &port));
    assert_false(uri_authority_split(SLICE_LIT("[::1\0]"), &host, &port));
}

static void
searches_queries(void **state)
{
    (void)state;
    struct slice value, query = SLICE_LIT("a=1&b&&c==2&a=3&d=");
    assert_true(uri_query_find(query, SLICE_LIT("a"), &value));
    assert_slice(value, "1");
    assert_true(uri_query_find(query, SLICE_LIT("b"), &value));
    assert_int_equal(value.len, 0);
    assert_true(uri_query_find(query, SLICE_LIT("c"), &value));
    assert_slice(value, "=2");
    assert_true(uri_query_find(query, SLICE_LIT("d"), &value));
    assert_int_equal(value.len, 0);
    assert_false(uri_query_find(query, SLICE_LIT("e"), &value));
    assert_false(uri_query_find(SLICE_NONE, SLICE_LIT("a"), &value));
    assert_true(uri_query_is_valid(SLICE_LIT("a=%zz&b=?/\\|{}")));
    assert_true(uri_query_is_valid(SLICE_NONE));
    assert_false(uri_query_is_valid(SLICE_LIT("a b")));
    assert_false(uri_query_is_valid(SLICE_LIT("a#b")));
    assert_false(uri_query_is_valid(SLICE_LIT("a\x7f")));
    assert_false(uri_query_is_valid(SLICE_LIT("a\x80")));
    assert_false(uri_query_is_valid(SLICE_LIT("a\0b")));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(brings_paths_into_normal_form),
        cmocka_unit_test(says_when_the_buffer_is_too_small),
        cmocka_unit_test(is_a_fixed_point_for_generated_paths),
        cmocka_unit_test(splits_authorities),
        cmocka_unit_test(searches_queries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
