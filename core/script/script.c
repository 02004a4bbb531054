#include "core/script/script.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "core/base/clock.h"
#include "core/script/filter_internal.h"

enum { PROBE_TEXT_BYTES = 1024 };

static uint32_t
name_id(const struct script *script, const char *name)
{
    return script->env.shm == NULL ? UINT32_MAX : shm_name_find(script->env.shm, slice_of(name));
}

/* One word a service and kind, found again by the successor of a worker that was killed inside the plug-in. A
 * new generation begins with a clean slate: its script may be another. */
_Atomic uint64_t *
script_stuck_word(const struct script *script, const char *kind, const char *service, bool is_new_generation)
{
    char name[SHM_NAME_BYTES];
    if (script->env.shm == NULL) return NULL;
    int len = snprintf(name, sizeof name, "stuck/%s/%s", kind, service);
    if (len < 0 || len >= (int)sizeof name) return NULL;
    _Atomic uint64_t *word = shm_counter(script->env.shm, (struct slice){name, (size_t)len});
    if (word != NULL && is_new_generation) atomic_store_explicit(word, 0, memory_order_relaxed);
    return word;
}

struct plugin
script_plugin(const struct script *script, const struct config_plugin *plugin, const char *service)
{
    return (struct plugin){.name = plugin->name == NULL ? "" : plugin->name,
        .service = service,
        .name_id = plugin->name == NULL ? UINT32_MAX : name_id(script, plugin->name),
        .self = LUA_NOREF,
        .hot = LUA_NOREF,
        .on_change = LUA_NOREF,
        .on_result = LUA_NOREF};
}

static bool
make_services(struct script *script, bool is_new_generation)
{
    const struct config *config = script->env.config;
    script->services = calloc(config->service_count + 1, sizeof *script->services);
    script->service_by_name = calloc(SHM_NAMES_MAX, sizeof *script->service_by_name);
    if (script->services == NULL || script->service_by_name == NULL) return false;
    script->service_count = config->service_count;
    for (size_t i = 0; i < script->service_count; i++) {
        struct service *service = &script->services[i];
        service->script = script;
        service->config = &config->services[i];
        service->name_id = name_id(script, service->config->name);
        service->limit = service->config->queue.active_per_endpoint;
        service->offered_ref = service->scratch_ref = service->all_ref = LUA_NOREF;
        service->tier = TIER_COUNT;
        service->strategy = script_plugin(script, &service->config->strategy, service->config->name);
        service->policy = script_plugin(script, &service->config->health.policy, service->config->name);
        service->passive = script_plugin(script, &service->config->health.passive, service->config->name);
        if (script->env.role == SCRIPT_WORKER) {
            service->strategy.stuck_until_us =
                script_stuck_word(script, "strategy", service->config->name, is_new_generation);
        }
        if (service->name_id < SHM_NAMES_MAX) script->service_by_name[service->name_id] = (uint32_t)i + 1;
    }
    return true;
}

struct script *
script_new(const struct script_env *env, struct script *previous, struct diags *diags)
{
    struct script *script = calloc(1, sizeof *script);
    if (script == NULL) return NULL;
    script->env = *env;
    script->result_ref = LUA_NOREF;
    arena_init(&script->probe_text, PROBE_TEXT_BYTES);
    if (env->role == SCRIPT_WORKER && env->shm != NULL) script->mark = shm_worker(env->shm, env->worker);
    if (getrandom(script->random, sizeof script->random, 0) != (ssize_t)sizeof script->random)
        script->random[0] = clock_wall_us();
    if ((script->random[0] | script->random[1]) == 0) script->random[0] = 1;
    script->serial = script_random(script) | 1;
    if (!make_services(script, previous != NULL)) goto fail;
    if (!tasks_make(script)) goto fail;
    if (env->role != SCRIPT_CONTROL && !filters_make(script, previous != NULL)) goto fail;
    script->L = state_new(script);
    if (script->L == NULL || !state_load_runtime(script, diags)) goto fail;
    guard_prepare();
    load_plugins(script, previous, diags);
    lua_gc(script->L, LUA_GCCOLLECT, 0);
    script->gc_next_bytes = script->used_bytes + script->used_bytes / 2;
    if (diags_ok(diags)) script_refresh(script);
    return script;
fail:
    script_free(script);
    return NULL;
}

void
script_free(struct script *script)
{
    if (script == NULL) return;
    tasks_free(script);
    if (script->L != NULL) lua_close(script->L);
    filters_free(script);
    heap_destroy(script->heap);
    natives_free(script);
    for (uint32_t i = 0; i < script->slot_cap; i++) {
        if (script->by_slot[i] == NULL) continue;
        free(script->by_slot[i]->id);
        free(script->by_slot[i]);
    }
    free(script->by_slot);
    for (size_t i = 0; i < script->service_count; i++) {
        free(script->services[i].members);
        free(script->services[i].offered);
    }
    free(script->services);
    free(script->service_by_name);
    free(script->local_counters);
    arena_fini(&script->probe_text);
    free(script);
}

const char *
script_strategy_name(const struct script *script, uint32_t service)
{
    return service < script->service_count ? script->services[service].strategy.name : "";
}

void
script_status_row(const struct plugin *plugin, struct script_status *row)
{
    *row =
        (struct script_status){.plugin = plugin->name, .service = plugin->service, .errors = plugin->errors};
    if (plugin->quarantined_until_us > clock_now_us())
        row->quarantined_until_us = plugin->quarantined_until_us;
    memcpy(row->last_error, plugin->last_error, sizeof row->last_error);
}

size_t
script_status(struct script *script, struct script_status *rows, size_t cap)
{
    size_t count = 0;
    for (size_t i = 0; i < script->service_count; i++) {
        const struct service *service = &script->services[i];
        if (service->strategy.is_loaded && count < cap) script_status_row(&service->strategy, &rows[count++]);
        if (service->policy.is_loaded && count < cap) script_status_row(&service->policy, &rows[count++]);
        if (service->passive.is_loaded && count < cap) script_status_row(&service->passive, &rows[count++]);
    }
    return count + filters_status(script, rows + count, cap - count);
}

size_t
script_memory_bytes(const struct script *script)
{
    return script->used_bytes;
}
