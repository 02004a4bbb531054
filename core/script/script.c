#include "core/script/script.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "core/base/clock.h"
#include "core/script/filter_internal.h"
#include "core/shm/dict.h"

enum { PROBE_TEXT_BYTES = 1024 };
#define ERROR_KEPT_US (24 * 3600 * UINT64_C(1000000))

static uint32_t
name_id(const struct script *script, const char *name)
{
    return script->env.shm == NULL ? UINT32_MAX : shm_name_find(script->env.shm, slice_of(name));
}

/* Words that all processes share, one a kind and key: what a plug-in's errors are in all workers together
 * ("errors"), how often it did not return ("runaways"), until when some worker keeps it out ("out"), and
 * until when all do, since one did not come back
 * ("stuck"). Scripts can't name them (fg_counter_open). */
static struct slice
word_name(char text[SHM_NAME_BYTES], const char *what, const struct plugin *plugin)
{
    int len = snprintf(text, SHM_NAME_BYTES, SCRIPT_OWN_NAMES "%s/%s/%s", what, plugin->kind, plugin->key);
    return (struct slice){text, len < 0 ? SHM_NAME_BYTES : (size_t)len};
}

_Atomic uint64_t *
plugin_word(struct script *script, const char *what, const struct plugin *plugin)
{
    char text[SHM_NAME_BYTES];
    return script->env.shm == NULL ? NULL : shm_counter(script->env.shm, word_name(text, what, plugin));
}

static uint64_t
read_word(const struct script *script, const char *what, const struct plugin *plugin)
{
    char text[SHM_NAME_BYTES];
    const _Atomic uint64_t *word =
        script->env.shm == NULL ? NULL : shm_counter_find(script->env.shm, word_name(text, what, plugin));
    return word == NULL ? 0 : atomic_load_explicit(word, memory_order_relaxed);
}

/* The last error of each, for control to show. */
static struct dict *
error_texts(const struct script *script)
{
    return script->env.shm == NULL ? NULL : shm_dict_own(script->env.shm);
}

static unsigned
who_am_i(const struct script *script)
{
    return script->env.role == SCRIPT_WORKER ? script->env.worker : DICT_CONTROL;
}

void
plugin_share_error(struct script *script, const struct plugin *plugin)
{
    char text[SHM_NAME_BYTES];
    struct dict *dict = error_texts(script);
    struct dict_value value = {.kind = DICT_STRING, .text = slice_of(plugin->last_error)};
    if (dict == NULL) return;
    /* Where there is no room for it, the log has it all the same. */
    (void)!dict_set(script->env.shm, dict, who_am_i(script), word_name(text, "errors", plugin),
        clock_now_us(), &value, ERROR_KEPT_US, false);
}

static void
read_error(const struct script *script, const struct plugin *plugin, char *out, size_t size)
{
    static char bytes[DICT_VALUE_BYTES]; /* control's alone */
    char text[SHM_NAME_BYTES];
    struct dict_value value;
    struct dict *dict = error_texts(script);
    if (dict == NULL || dict_get(script->env.shm, dict, who_am_i(script), word_name(text, "errors", plugin),
                            clock_now_us(), bytes, &value) != DICT_OK)
        return;
    if (value.kind == DICT_STRING) snprintf(out, size, "%.*s", (int)value.text.len, value.text.at);
}

/* Found again by the successor of a worker that was killed inside the plug-in. A new generation begins with a
 * clean slate: its script may be another. */
_Atomic uint64_t *
script_stuck_word(struct script *script, struct plugin *plugin, bool is_new_generation)
{
    static const char *const words[] = {"out", "runaways"};
    char text[SHM_NAME_BYTES];
    _Atomic uint64_t *stuck = plugin_word(script, "stuck", plugin);
    if (stuck != NULL && is_new_generation) atomic_store_explicit(stuck, 0, memory_order_relaxed);
    for (size_t i = 0; is_new_generation && script->env.shm != NULL && i < 2; i++) {
        _Atomic uint64_t *word = shm_counter_find(script->env.shm, word_name(text, words[i], plugin));
        if (word != NULL) atomic_store_explicit(word, 0, memory_order_relaxed);
    }
    uint64_t before = read_word(script, "runaways", plugin);
    plugin->runaways = before & ((1u << SCRIPT_RUNAWAYS_BITS) - 1);
    plugin->free_since_us = before >> SCRIPT_RUNAWAYS_BITS;
    return stuck;
}

struct plugin
script_plugin(const struct script *script, const char *kind, const char *key,
    const struct config_plugin *plugin, const char *service)
{
    return (struct plugin){.name = plugin->name == NULL ? "" : plugin->name,
        .service = service,
        .kind = kind,
        .key = key,
        .file = plugin->file == NULL ? "" : plugin->file,
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
        const char *name = service->config->name;
        service->strategy = script_plugin(script, "strategy", name, &service->config->strategy, name);
        service->policy = script_plugin(script, "policy", name, &service->config->health.policy, name);
        service->passive = script_plugin(script, "passive", name, &service->config->health.passive, name);
        if (script->env.role == SCRIPT_WORKER)
            service->strategy.stuck_until_us =
                script_stuck_word(script, &service->strategy, is_new_generation);
        if (script->env.role == SCRIPT_CONTROL) {
            service->policy.stuck_until_us = script_stuck_word(script, &service->policy, is_new_generation);
            service->passive.stuck_until_us = script_stuck_word(script, &service->passive, is_new_generation);
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
    script->hard_budget_us = SCRIPT_HARD_BUDGET_US;
    arena_init(&script->probe_text, PROBE_TEXT_BYTES);
    if (env->role == SCRIPT_WORKER && env->shm != NULL) script->mark = shm_worker(env->shm, env->worker);
    if (getrandom(script->random, sizeof script->random, 0) != (ssize_t)sizeof script->random)
        script->random[0] = clock_wall_us();
    if ((script->random[0] | script->random[1]) == 0) script->random[0] = 1;
    script->serial = script_random(script) | 1;
    if (!make_services(script, previous != NULL)) goto fail;
    if (!tasks_make(script)) goto fail;
    if (!filters_make(script, previous != NULL)) goto fail;
    script->L = state_new(script);
    if (script->L == NULL || !state_load_runtime(script, diags)) goto fail;
    guard_prepare();
    uint64_t start = clock_now_us();
    state_begin_load(script, SCRIPT_LOAD_BUDGET_US);
    load_plugins(script, previous, diags);
    if (script->L == NULL) return script; /* abandoned, and diags says so */
    lua_gc(script->L, LUA_GCCOLLECT, 0);
    script->gc_next_bytes = script->used_bytes + script->used_bytes / 2;
    script->load_took_us = clock_now_us() - start;
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

/* Elsewhere than where it runs, what the shared words say. */
static void
status_row(const struct script *script, const struct plugin *plugin, struct script_status *row)
{
    bool is_here = plugin->is_loaded || plugin->errors != 0;
    uint64_t until = is_here ? plugin->quarantined_until_us : read_word(script, "out", plugin);
    *row = (struct script_status){.plugin = plugin->name,
        .service = plugin->service,
        .kind = plugin->kind,
        .errors = is_here ? plugin->errors : read_word(script, "errors", plugin)};
    if (until > clock_now_us()) row->quarantined_until_us = until;
    memcpy(row->last_error, plugin->last_error, sizeof row->last_error);
    if (!is_here) read_error(script, plugin, row->last_error, sizeof row->last_error);
}

/* In the state, or kept out of it; or in another process's, and in trouble there. */
static bool
is_there(const struct script *script, const struct plugin *plugin)
{
    if (plugin->is_loaded || plugin->quarantined_until_us != 0) return true;
    return script->env.role == SCRIPT_CONTROL && plugin->name[0] != '\0' &&
           read_word(script, "errors", plugin) != 0;
}

struct listing {
    struct script *script;
    struct script_status *rows;
    size_t count, cap;
};

static void
list_plugin(void *context, struct plugin *plugin)
{
    struct listing *listing = context;
    if (listing->count < listing->cap && is_there(listing->script, plugin))
        status_row(listing->script, plugin, &listing->rows[listing->count++]);
}

size_t
script_status(struct script *script, struct script_status *rows, size_t cap)
{
    struct listing listing = {script, rows, 0, cap};
    script_each_plugin(script, list_plugin, &listing);
    return listing.count;
}

size_t
script_memory_bytes(const struct script *script)
{
    return script->used_bytes;
}
