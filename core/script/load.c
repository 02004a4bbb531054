#include "core/script/filter_internal.h"

#include <stdio.h>
#include <string.h>

#include "core/base/text.h"

/* LuaJIT cuts a longer chunk name at its front, and then nobody finds the file again. */
enum { CHUNK_NAME_MAX = 56 };

/* The end of the path that still fits as a chunk name, cut at a '/'. */
static const char *
display_name(const char *file)
{
    const char *share = bundle_share_dir();
    size_t len = strlen(share);
    if (strncmp(file, share, len) == 0 && file[len] == '/') file += len + 1;
    while (strlen(file) > CHUNK_NAME_MAX) {
        const char *slash = strchr(file + 1, '/');
        if (slash == NULL) break;
        file = slash + 1;
    }
    return file;
}

/* "display:12: text" → line 12 and text; 0 where it does not begin so. */
static int
split_line(const char *message, const char *display, const char **text)
{
    size_t len = strlen(display);
    uint64_t line;
    if (strncmp(message, display, len) != 0 || message[len] != ':') return 0;
    const char *digits = message + len + 1, *end = strchr(digits, ':');
    if (end == NULL || !text_parse_u64((struct slice){digits, (size_t)(end - digits)}, 1000000, &line))
        return 0;
    *text = end + 1;
    while (**text == ' ')
        (*text)++;
    return (int)line;
}

/* Does this line begin with the path of one of the plug-in's options? */
static bool
is_option_error(const struct config_plugin *plugin, const char *line)
{
    size_t len = strlen(plugin->options.path);
    return strncmp(line, plugin->options.path, len) == 0 && strchr(".: ", line[len]) != NULL;
}

/* An option error names its place in the YAML, one a line; everything else the line of the Lua file. */
static void
load_diag(struct script *script, const struct config_plugin *plugin, const char *owner, const char *message,
    struct diags *diags)
{
    const char *text = message;
    if (is_option_error(plugin, message)) {
        for (const char *line = message, *end; *line != '\0'; line = *end == '\0' ? end : end + 1) {
            char path[512];
            end = line + strcspn(line, "\n");
            snprintf(path, sizeof path, "%.*s", (int)strcspn(line, ": "), line);
            struct place at =
                script->env.config->places == NULL ? plugin->place : config_place(script->env.config, path);
            diag_add(diags, DIAG_ERROR, at, NULL, "%.*s", (int)(end - line), line);
        }
        return;
    }
    int line = split_line(message, display_name(plugin->file), &text);
    struct place place = line == 0 ? plugin->place : (struct place){plugin->file, line, 0};
    diag_add(diags, DIAG_ERROR, place, NULL, "%s, plug-in %s: %s", owner, plugin->name, text);
}

/* The exported state of the same service's strategy in the generation before, as JSON on top of script's
 * stack; nil where there is none. */
static void
push_previous(struct script *script, struct script *previous, const struct service *service)
{
    for (size_t i = 0; previous != NULL && i < previous->service_count; i++) {
        struct service *old = &previous->services[i];
        if (!old->strategy.is_loaded || strcmp(old->config->name, service->config->name) != 0) continue;
        if (strcmp(old->config->strategy.name, service->config->strategy.name) != 0) break;
        lua_State *L = previous->L;
        if (L == NULL) break;
        lua_rawgeti(L, LUA_REGISTRYINDEX, previous->export_ref);
        lua_rawgeti(L, LUA_REGISTRYINDEX, old->strategy.self);
        if (!script_call(previous, &old->strategy, 1, 1, SCRIPT_CHANGE_BUDGET_US, "export")) break;
        size_t len = 0;
        const char *json = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &len) : NULL;
        if (json == NULL) {
            lua_pushnil(script->L);
        } else {
            lua_pushlstring(script->L, json, len);
        }
        lua_pop(L, 1);
        return;
    }
    lua_pushnil(script->L);
}

/* Pushes the file, its chunk name, the options as JSON and their path. */
void
load_push(lua_State *L, const struct config_plugin *plugin)
{
    lua_pushstring(L, plugin->file);
    lua_pushstring(L, display_name(plugin->file));
    lua_pushstring(L, plugin->options.json == NULL ? "{}" : plugin->options.json);
    lua_pushstring(L, plugin->options.path);
}

/* Pushes loader and its arguments: index and name of the service, plug-in, and what load_push says. */
static void
push_load(
    struct script *script, int loader, const struct service *service, const struct config_plugin *plugin)
{
    lua_State *L = script->L;
    lua_rawgeti(L, LUA_REGISTRYINDEX, loader);
    lua_pushinteger(L, service - script->services);
    lua_pushstring(L, service->config->name);
    lua_pushstring(L, plugin->name);
    load_push(L, plugin);
}

int
load_keep(lua_State *L, int index)
{
    if (lua_isnil(L, index)) return LUA_NOREF;
    lua_pushvalue(L, index);
    return luaL_ref(L, LUA_REGISTRYINDEX);
}

/* Where nobody waits for a verdict (the state was running before, or the checker has given it) it is a fault
 * like any other, and the plug-in stays out. */
void
load_failed(struct script *script, int status, struct plugin *plugin, const struct config_plugin *config,
    const char *owner, struct diags *diags)
{
    char message[1024], place[200];
    state_load_place(place, sizeof place);
    if (status == GUARD_ABANDONED) {
        script_drop(script);
        snprintf(message, sizeof message, "%sdid not return: loading may take 2 s of CPU time", place);
    } else {
        state_take_error(script->L, status, message, sizeof message);
        if (status == LUA_ERRMEM) snprintf(message, sizeof message, "%snot enough memory", place);
    }
    if (diags == NULL || script->env.was_checked)
        plugin_fault(script, plugin, "load", message, SCRIPT_ERRORS_MAX);
    else
        load_diag(script, config, owner, message, diags);
}

static void
service_failed(struct script *script, int status, struct plugin *plugin, const struct config_plugin *config,
    struct diags *diags)
{
    char owner[256];
    snprintf(owner, sizeof owner, "service %s", plugin->service);
    load_failed(script, status, plugin, config, owner, diags);
}

void
load_keep_where(struct plugin *plugin, lua_State *L)
{
    snprintf(
        plugin->where, sizeof plugin->where, "%s", lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "");
}

static void
load_strategy(struct script *script, struct service *service, struct script *previous, struct diags *diags)
{
    lua_State *L = script->L;
    int top = lua_gettop(L);
    push_load(script, script->load_strategy_ref, service, &service->config->strategy);
    push_previous(script, previous, service);
    script->running = &service->strategy; /* whose words gateway.log says */
    int status = state_load_call(script, 8, 8);
    script->running = NULL;
    struct plugin *plugin = &service->strategy;
    if (status != 0) {
        service_failed(script, status, plugin, &service->config->strategy, diags);
        if (script->L != NULL) lua_settop(L, top);
        return;
    }
    load_keep_where(plugin, L);
    plugin->self = load_keep(L, top + 1);
    plugin->hot = load_keep(L, top + 2);
    plugin->on_change = load_keep(L, top + 3);
    plugin->on_result = load_keep(L, top + 4);
    service->offered_ref = load_keep(L, top + 5);
    service->scratch_ref = load_keep(L, top + 6);
    service->all_ref = load_keep(L, top + 7);
    plugin->is_loaded = true;
    service->is_stale = true; /* its arrays are empty until the refresh that follows */
    lua_settop(L, top);
}

/* The loader answers the instance, whether it probes, and for one that observes the seconds of its window. */
static void
load_policy(struct script *script, struct service *service, const char *kind, struct plugin *plugin,
    const struct config_plugin *config, struct diags *diags)
{
    lua_State *L = script->L;
    int top = lua_gettop(L);
    push_load(script, script->load_policy_ref, service, config);
    lua_pushstring(L, kind);
    script->running = plugin;
    int status = state_load_call(script, 8, 4);
    script->running = NULL;
    if (status != 0) {
        service_failed(script, status, plugin, config, diags);
    } else {
        load_keep_where(plugin, L);
        plugin->self = load_keep(L, top + 1);
        plugin->is_loaded = plugin->was_loaded = true;
        service->policy_probes |= lua_toboolean(L, top + 2) != 0;
        if (lua_isnumber(L, top + 3)) {
            service->observer = plugin;
            service->window_us = (uint64_t)(lua_tonumber(L, top + 3) * 1e6);
        }
    }
    if (script->L != NULL) lua_settop(L, top);
}

bool
load_is_due(struct script *script, struct plugin *plugin)
{
    return script->L != NULL && !plugin->is_loaded && !plugin_is_quarantined(script, plugin);
}

void
load_plugins(struct script *script, struct script *previous, struct diags *diags)
{
    for (size_t i = 0; i < script->service_count; i++) {
        struct service *service = &script->services[i];
        if (script->env.role != SCRIPT_CONTROL && load_is_due(script, &service->strategy))
            load_strategy(script, service, previous, diags);
        const struct config_health *health = &service->config->health;
        if (script->env.role == SCRIPT_WORKER || !health->enabled) continue;
        if (load_is_due(script, &service->policy))
            load_policy(script, service, "policy", &service->policy, &health->policy, diags);
        if (health->passive.name != NULL && load_is_due(script, &service->passive))
            load_policy(script, service, "passive", &service->passive, &health->passive, diags);
    }
    if (script->env.role != SCRIPT_CONTROL && script->L != NULL) filters_load(script, diags);
}
