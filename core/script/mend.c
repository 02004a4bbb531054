/* What comes after a runaway: the state is dropped whole and another is built from the same bundle, in place.
 */
#include "core/script/filter_internal.h"

#include <string.h>

#include "core/base/clock.h"

enum { SUSPECTS = 8, LOAD_LEAST_US = 100000 };

static unsigned states_dropped; /* of this process */

unsigned
script_states_dropped(void)
{
    return states_dropped;
}

void
script_each_plugin(struct script *script, void (*each)(void *context, struct plugin *plugin), void *context)
{
    for (size_t i = 0; i < script->service_count; i++) {
        each(context, &script->services[i].strategy);
        each(context, &script->services[i].policy);
        each(context, &script->services[i].passive);
    }
    filters_each(script, each, context);
}

/* The callbacks of a filter keep their numbers: a filter that is out must not look like one without any. */
static void
plugin_let_go(void *context, struct plugin *plugin)
{
    (void)context;
    plugin->is_loaded = false;
    plugin->self = plugin->hot = plugin->on_change = plugin->on_result = LUA_NOREF;
    plugin->grown_bytes = 0;
}

void
script_drop(struct script *script)
{
    script->L = NULL;
    heap_destroy(script->heap);
    script->heap = NULL;
    natives_drop(script); /* their finalisers went with the state */
    script->used_bytes = script->gc_next_bytes = script->entered_bytes = 0;
    script->was_refused = false;
    script_each_plugin(script, plugin_let_go, NULL);
    for (size_t i = 0; i < script->service_count; i++) {
        struct service *service = &script->services[i];
        service->offered_ref = service->scratch_ref = service->all_ref = LUA_NOREF;
        service->scratch_count = 0;
        memset(service->filled, 0, sizeof service->filled);
    }
    for (uint32_t i = 0; i < script->slot_cap; i++) {
        if (script->by_slot[i] != NULL) script->by_slot[i]->view = NULL;
    }
    memset(script->requests, 0, sizeof script->requests);
    script->result = NULL;
    script->has_refreshed = false;
    script->serial = script_random(script) | 1; /* ctx tables went too */
    script->dropped++;
    states_dropped++;
    tasks_abandon(script);
}

static void
build(struct script *script)
{
    struct diags diags = {0};
    script->L = state_new(script);
    if (script->L == NULL || !state_load_runtime(script, &diags)) {
        log_errorx(
            "no state for the scripts", F_STR("because", diags.count > 0 ? diags.rows[0].text : "memory"));
        script_drop(script);
        script->mend_after_us = clock_now_us() + SCRIPT_MEND_PAUSE_US;
    }
    diags_fini(&diags);
}

void
script_mend(struct script *script)
{
    if (LIKELY(script->L != NULL && !script->wants_load) || script->is_mending) return;
    uint64_t start = clock_now_us();
    if (start < script->mend_after_us) return;
    bool is_new = script->L == NULL;
    script->is_mending = true;
    script->wants_load = false;
    state_begin_load(
        script, script->load_took_us * 4 < LOAD_LEAST_US ? LOAD_LEAST_US : script->load_took_us * 4);
    if (is_new) build(script);
    if (script->L != NULL) load_plugins(script, NULL, NULL);
    if (script->L != NULL && is_new) lua_gc(script->L, LUA_GCCOLLECT, 0);
    script->gc_next_bytes = script->used_bytes + script->used_bytes / 2;
    if (script->L != NULL) {
        script->endpoints_seen--; /* on_change of what was loaded now */
        script_refresh(script);
    }
    script->is_mending = false;
    if (is_new && script->L != NULL)
        log_info("scripts are back in a new state", F_US("after", clock_now_us() - start));
}

/* Protected: nothing of ours holds the plug-in any more. */
static int
forget(lua_State *L)
{
    struct plugin *plugin = lua_touserdata(L, 1);
    struct script *script = lua_touserdata(L, 2);
    luaL_unref(L, LUA_REGISTRYINDEX, plugin->self);
    luaL_unref(L, LUA_REGISTRYINDEX, plugin->hot);
    luaL_unref(L, LUA_REGISTRYINDEX, plugin->on_change);
    luaL_unref(L, LUA_REGISTRYINDEX, plugin->on_result);
    plugin_let_go(NULL, plugin);
    lua_rawgeti(L, LUA_REGISTRYINDEX, script->forget_ref);
    lua_pushstring(L, plugin->file);
    lua_call(L, 1, 0);
    return 0;
}

static void
suspect(void *context, struct plugin *plugin)
{
    struct plugin **most = context;
    if (plugin->is_loaded && (*most == NULL || plugin->grown_bytes > (*most)->grown_bytes)) *most = plugin;
}

/* The state is lost anyway: the plug-ins are let go one by one, those that grew most first, until there is
 * room. */
struct plugin *
script_drop_hoarder(struct script *script, struct plugin *running)
{
    struct plugin *culprit = running;
    size_t held = script->used_bytes;
    for (int suspects = 0; suspects < SUSPECTS && script->used_bytes > SCRIPT_MEMORY_FULL; suspects++) {
        struct plugin *next = NULL;
        script_each_plugin(script, suspect, &next);
        if (next == NULL) break;
        lua_pushcfunction(script->L, forget);
        lua_pushlightuserdata(script->L, next);
        lua_pushlightuserdata(script->L, script);
        if (lua_pcall(script->L, 2, 0, 0) != 0) break;
        lua_gc(script->L, LUA_GCCOLLECT, 0);
        if (script->used_bytes <= SCRIPT_MEMORY_FULL) culprit = next;
    }
    script_drop(script);
    log_warnx("scripts' memory is full and their state is dropped", F_STR("service", culprit->service),
        F_STR("plugin", culprit->name), F_UINT("bytes", held));
    return culprit;
}
