/* spec/unit/config/support.h: configurations out of memory: no test here needs a file on disk but those about
 * files. */
#ifndef FLUXGATE_SPEC_CONFIG_SUPPORT_H
#define FLUXGATE_SPEC_CONFIG_SUPPORT_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/config/config.h"

#define MAIN_FILE "/conf/fluxgate.yaml"

/* Everything that a file needs beside what a test is about. */
#define LISTENERS "listeners: [{address: 127.0.0.1:8080}]\n"
#define WEB       "services: {web: {endpoints: [127.0.0.1:9001]}}\n"
#define ROUTES    "routes: [{match: {path_prefix: /}, service: web}]\n"

struct loaded {
    struct bundle *bundle;
    struct diags diags;
    struct config *config;
};

static inline void
put(struct bundle *bundle, const char *path, const char *text)
{
    assert_true(bundle_put(bundle, path, slice_of(text)));
}

static inline struct bundle *
bundle_with_plugins(void)
{
    static const char *const names[] = {"round_robin", "least_connections", "sticky_sessions", "health/http",
        "health/tcp", "filters/rate_limit", "filters/compress"};
    struct bundle *bundle = bundle_open();
    assert_non_null(bundle);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[128];
        snprintf(path, sizeof path, "/conf/strategies/%s.lua", names[i]);
        put(bundle, path, "return {}");
    }
    return bundle;
}

static inline struct loaded
load_with(struct bundle *bundle, const char *yaml)
{
    struct loaded loaded = {.bundle = bundle};
    put(bundle, MAIN_FILE, yaml);
    loaded.config = config_load(bundle, MAIN_FILE, &loaded.diags);
    return loaded;
}

static inline struct loaded
load(const char *yaml)
{
    return load_with(bundle_with_plugins(), yaml);
}

static inline struct loaded
load_ok(const char *yaml)
{
    struct loaded loaded = load(yaml);
    if (!diags_ok(&loaded.diags)) diags_print(&loaded.diags, stderr);
    assert_true(diags_ok(&loaded.diags));
    assert_non_null(loaded.config);
    return loaded;
}

static inline void
unload(struct loaded *loaded)
{
    config_free(loaded->config);
    diags_fini(&loaded->diags);
    bundle_free(loaded->bundle);
}

static inline bool
said(const struct loaded *loaded, const char *text)
{
    for (size_t i = 0; i < loaded->diags.count; i++) {
        if (strstr(loaded->diags.rows[i].text, text) != NULL) return true;
    }
    return false;
}

/* The yaml is refused, and one complaint holds `text`. */
static inline void
assert_refused(const char *yaml, const char *text)
{
    struct loaded loaded = load(yaml);
    if (diags_ok(&loaded.diags) || !said(&loaded, text)) {
        diags_print(&loaded.diags, stderr);
        fail_msg("no complaint '%s' about:\n%s", text, yaml);
    }
    unload(&loaded);
}

static inline char *
print_config(const struct config *config)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    assert_non_null(out);
    config_print(config, out);
    assert_int_equal(fclose(out), 0);
    return text;
}

#endif
