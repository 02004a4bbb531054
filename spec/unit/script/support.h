/* spec/unit/script/support.h: a state over an in-memory bundle and a real segment, for the specs of this
 * room. */
#ifndef FLUXGATE_SPEC_SCRIPT_SUPPORT_H
#define FLUXGATE_SPEC_SCRIPT_SUPPORT_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/script/script.h"

enum { FIXTURE_SERVICES = 3 };

struct fixture {
    struct shm *shm;
    struct bundle *bundle;
    struct config config;
    struct config_service services[FIXTURE_SERVICES];
    const char *strategies_path[2];
    const char *lua_path[2];
    char share_strategies[512];
    struct diags diags;
    struct script *script;
    struct arena arena;
    struct headers headers;
    struct script_request request;
    bool was_checked;
};

/* Services "a", "b" and "c", all with round_robin and no endpoint. */
static inline void
fixture_init(struct fixture *f)
{
    static const char *const names[FIXTURE_SERVICES] = {"a", "b", "c"};
    static const char *const paths[FIXTURE_SERVICES] = {
        "services.a.options", "services.b.options", "services.c.options"};
    static char shipped[512];
    memset(f, 0, sizeof *f);
    f->shm = shm_create(&(struct shm_params){.max_endpoints = 512, .stats_bytes = 4096, .ring_bytes = 65536});
    f->bundle = bundle_open();
    assert_non_null(f->shm);
    assert_non_null(f->bundle);
    arena_init(&f->config.arena, 0);
    f->config.file = "fluxgate.yaml";
    f->config.drain.keep_sessions = true;
    snprintf(f->share_strategies, sizeof f->share_strategies, "%s/strategies", bundle_share_dir());
    snprintf(shipped, sizeof shipped, "%s/strategies/round_robin.lua", bundle_share_dir());
    f->strategies_path[0] = f->share_strategies;
    f->lua_path[0] = "/mem/lua";
    f->config.strategies_path = f->strategies_path;
    f->config.lua_path = f->lua_path;
    for (int i = 0; i < FIXTURE_SERVICES; i++) {
        f->services[i].name = names[i];
        f->services[i].strategy =
            (struct config_plugin){"round_robin", shipped, {paths[i], "{}"}, {"fluxgate.yaml", 10 + i, 5}};
        assert_int_not_equal(shm_name_add(f->shm, slice_of(names[i])), UINT32_MAX);
    }
    f->config.services = f->services;
    f->config.service_count = FIXTURE_SERVICES;
}

static inline void
fixture_fini(struct fixture *f)
{
    script_free(f->script);
    arena_fini(&f->arena);
    arena_fini(&f->config.arena);
    diags_fini(&f->diags);
    bundle_free(f->bundle);
    shm_destroy(f->shm);
}

/* Service `index` gets a strategy of this source. */
static inline void
fixture_strategy(struct fixture *f, int index, const char *file, const char *source, const char *options)
{
    assert_true(bundle_put(f->bundle, file, slice_of(source)));
    f->services[index].strategy.name = file;
    f->services[index].strategy.file = file;
    f->services[index].strategy.options.json = options;
}

static inline uint32_t
fixture_endpoint(struct fixture *f, int service, const char *id, enum slot_state state, uint32_t weight)
{
    struct slot_text text = {0};
    snprintf(text.id, sizeof text.id, "%s", id);
    snprintf(text.host, sizeof text.host, "host-of-%s", id);
    snprintf(text.zone, sizeof text.zone, "zone-1");
    snprintf(text.metadata, sizeof text.metadata, "{\"version\":\"2\"}");
    uint32_t name = shm_name_find(f->shm, slice_of(f->services[service].name));
    uint32_t slot = slot_claim(f->shm, name, state, weight, 8000, &text);
    assert_int_not_equal(slot, SLOT_NONE);
    return slot;
}

static inline void
fixture_load_as(struct fixture *f, enum script_role role)
{
    struct script_env env = {.role = role,
        .config = &f->config,
        .bundle = f->bundle,
        .shm = role == SCRIPT_CHECKER ? NULL : f->shm,
        .was_checked = f->was_checked};
    f->script = script_new(&env, NULL, &f->diags);
}

/* Loads, and fails the spec with the complaints where there are any. */
static inline void
fixture_load(struct fixture *f)
{
    fixture_load_as(f, SCRIPT_WORKER);
    if (!diags_ok(&f->diags)) diags_print(&f->diags, stderr);
    assert_true(diags_ok(&f->diags));
    assert_non_null(f->script);
}

static inline void
fixture_header(struct fixture *f, const char *name, const char *value)
{
    assert_true(headers_add(
        &f->headers, &f->arena, header_identify(slice_of(name)), slice_of(name), slice_of(value)));
}

/* A fresh GET of /things to service `index`; headers added before with fixture_header stay. */
static inline struct script_request *
fixture_request(struct fixture *f, uint32_t service)
{
    f->request = (struct script_request){.method = METHOD_GET,
        .method_text = SLICE_LIT("GET"),
        .path = SLICE_LIT("/things"),
        .query = SLICE_LIT("user=7"),
        .host = SLICE_LIT("example.com"),
        .client_ip = SLICE_LIT("192.0.2.1"),
        .headers = &f->headers,
        .arena = &f->arena,
        .service = service,
        .attempt = 1};
    return &f->request;
}

/* Picks for a fresh request; SLOT_NONE where there was none. */
static inline uint32_t
fixture_pick(struct fixture *f, uint32_t service)
{
    uint32_t slot;
    enum reason reason;
    if (script_pick(f->script, fixture_request(f, service), &slot, &reason) != SCRIPT_PICKED)
        return SLOT_NONE;
    script_request_done(f->script, &f->request);
    return slot;
}

#endif
