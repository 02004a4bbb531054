/* Every allocation of a load fails once: what comes back is the same configuration or a refusal, never a
 * crash or a configuration with holes. The sanitizers own malloc in their builds, so there the suite has
 * nothing to do. */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "spec/unit/config/support.h"

static long until_failure = -1; /* allocations that still succeed; below 0: all */

#ifndef __SANITIZE_ADDRESS__
extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t count, size_t bytes);
extern void *__libc_realloc(void *at, size_t bytes);

static int
fails_now(void)
{
    if (until_failure < 0 || until_failure-- > 0) return 0;
    errno = ENOMEM;
    return 1;
}

void *
malloc(size_t bytes)
{
    return fails_now() ? NULL : __libc_malloc(bytes);
}

void *
calloc(size_t count, size_t bytes)
{
    return fails_now() ? NULL : __libc_calloc(count, bytes);
}

void *
realloc(void *at, size_t bytes)
{
    return fails_now() ? NULL : __libc_realloc(at, bytes);
}
enum { IN_CHARGE = 1 };
#else
enum { IN_CHARGE = 0 };
#endif

static struct bundle *
bundle_for(const char *yaml)
{
    struct bundle *bundle = bundle_with_plugins();
    put(bundle, MAIN_FILE, yaml);
    put(bundle, "/conf/f.lua", "return {}");
    put(bundle, "/conf/more.yaml", "routes: [{match: {path: /more}, respond: {}}]\n");
    return bundle;
}

/* The n-th allocation of config_load fails, for every n until it needs no more. */
static void
fail_each(const char *yaml)
{
    for (long n = 0;; n++) {
        struct loaded loaded = {.bundle = bundle_for(yaml)};
        until_failure = n;
        loaded.config = config_load(loaded.bundle, MAIN_FILE, &loaded.diags);
        bool reached = until_failure == -1;
        until_failure = -1;
        if (loaded.config != NULL && diags_ok(&loaded.diags)) {
            struct loaded whole = load_with(bundle_for(yaml), yaml);
            char *got = print_config(loaded.config), *expected = print_config(whole.config);
            assert_string_equal(got, expected);
            free(got), free(expected);
            unload(&whole);
        }
        unload(&loaded);
        if (!reached) break;
        assert_true(n < 100000);
    }
}

static void
loads_whole_or_not_at_all_when_memory_ends(void **state)
{
    (void)state;
    if (!IN_CHARGE) skip();
    setenv("FLUXGATE_SPEC_MEMORY", "value", 1);
    fail_each("include: more.yaml\n" LISTENERS "routes:\n"
              "  - {match: {path: /f}, service: web, filters: [./f.lua, {use: ./f.lua, options: {a: 1}, "
              "on_error: skip}]}\n"
              "  - {match: {host: A.b, path_prefix: /x, methods: [GET], headers: {a: b}, query: {c: d}}, "
              "service: {web: 1, users: 2}}\n"
              "  - {match: {path: /y}, redirect: {to: /$path}, timeouts: {}}\n"
              "services:\n"
              "  web: &web {endpoints: [\"a:1\", {address: \"b:1\", id: x, metadata: {k: v}}], options: {a: "
              "[1, {b: c}]}}\n"
              "  users: {<<: *web, discover: \"*\", health: {interval: 5s, status: [200]}, timeouts: "
              "{connect: 1s}}\n"
              "registry: {embedded: true, listen: {http: \"127.0.0.1:1\"}}\n"
              "state: state\n"
              "zone: \"${FLUXGATE_SPEC_MEMORY}-$${x}\"\n"
              "trusted_proxies: [10.0.0.0/8]\n"
              "lua_path: [a, b]\nstrategies_path: [c]\nadmin: {}\nlog: {access: x}\n");
    fail_each("port: 1\nserviceRegistryURL: http://a:1\n");
    fail_each("registry: {store: \"sqlite:x\"}\n");
}

static void
complains_without_a_crash_when_memory_ends(void **state)
{
    (void)state;
    if (!IN_CHARGE) skip();
    fail_each(
        "listeners: [{adress: x}, 5, {address: 1}]\nrouts: 1\nworkers: 0\nworkers: 1\nzone: ${FLUXGATE_NO}\n"
        "routes: [{service: x}, {match: {methods: [GTE], path: //}, respond: {status: 1}}]\n"
        "services: {web: {strategy: nope, health: {policy: nope, rise: 0}}}\nlog: {level: x}\n");
    fail_each("a: [1");
    fail_each("port: 1\nother: 2\n");
}

static void
seals_whole_or_not_at_all_when_memory_ends(void **state)
{
    (void)state;
    if (!IN_CHARGE) skip();
    for (long n = 0;; n++) {
        struct bundle *bundle = bundle_for("a: b\n");
        int fd = memfd_create("bundle", MFD_ALLOW_SEALING);
        until_failure = n;
        bool sealed = bundle_seal(bundle, fd);
        struct bundle *other = sealed ? bundle_from_fd(fd) : NULL;
        bool reached = until_failure == -1;
        until_failure = -1;
        if (other == NULL) close(fd);
        bundle_free(other);
        bundle_free(bundle);
        if (!reached) break;
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loads_whole_or_not_at_all_when_memory_ends),
        cmocka_unit_test(complains_without_a_crash_when_memory_ends),
        cmocka_unit_test(seals_whole_or_not_at_all_when_memory_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
