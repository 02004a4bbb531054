/* The uses of filters: made from the config, new()ed by the runtime, and the pools of views they are given.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/script/filter_internal.h"

enum { VIEWS_SPARE = 32 };

/* ---- views ---- */

struct view_order {
    struct script *script;
    int new_ref;
    struct view_slot made;
};

static int
make_view(lua_State *L)
{
    struct view_order *order = lua_touserdata(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, order->new_ref);
    lua_call(L, 0, 1);
    order->made.view = (void *)lua_topointer(L, -1);
    order->made.ref = luaL_ref(L, LUA_REGISTRYINDEX);
    return 0;
}

static bool
pool_grow(struct script *script, struct view_pool *pool, int new_ref)
{
    if (pool->made == pool->cap) {
        uint32_t cap = pool->cap == 0 ? 2 * VIEWS_SPARE : pool->cap * 2;
        struct view_slot *ring = calloc(cap, sizeof *ring);
        if (ring == NULL) return false;
        for (uint32_t i = 0; i < pool->count; i++)
            ring[i] = pool->free[(pool->head + i) % pool->cap];
        free(pool->free);
        pool->free = ring;
        pool->cap = cap;
        pool->head = 0;
    }
    struct view_order order = {script, new_ref, {NULL, LUA_NOREF}};
    if (lua_cpcall(script->L, make_view, &order) != 0) {
        lua_pop(script->L, 1);
        return false;
    }
    pool->made++;
    view_pool_put(pool, &order.made);
    return true;
}

void
view_pool_put(struct view_pool *pool, struct view_slot *slot)
{
    if (slot->view == NULL) return;
    pool->free[(pool->head + pool->count++) % pool->cap] = *slot;
    slot->view = NULL;
}

struct view_slot
view_pool_take(struct script *script, struct view_pool *pool, int new_ref)
{
    while (UNLIKELY(pool->count <= VIEWS_SPARE)) {
        if (!pool_grow(script, pool, new_ref)) break;
    }
    if (UNLIKELY(pool->count == 0)) return (struct view_slot){NULL, LUA_NOREF};
    struct view_slot slot = pool->free[pool->head];
    pool->head = (pool->head + 1) % pool->cap;
    pool->count--;
    return slot;
}

/* ---- uses ---- */

static bool
make_list(struct script *script, struct filter_list *list, const struct config_filter *configs, size_t count,
    const char *owner, bool is_new_generation)
{
    if (count == 0) return true;
    list->uses = calloc(count, sizeof *list->uses);
    if (list->uses == NULL) return false;
    list->count = (uint32_t)count;
    for (size_t i = 0; i < count; i++) {
        struct filter_use *use = &list->uses[i];
        use->config = &configs[i];
        use->plugin =
            script_plugin(script, "filter", configs[i].plugin.options.path, &configs[i].plugin, owner);
        use->on_request = LUA_REFNIL; /* until it is loaded nobody knows, so it is asked, and fails */
        use->on_response = use->on_log = LUA_NOREF;
        if (script->env.role == SCRIPT_WORKER) {
            use->plugin.stuck_until_us = script_stuck_word(script, &use->plugin, is_new_generation);
        }
    }
    return true;
}

bool
filters_make(struct script *script, bool is_new_generation)
{
    const struct config *config = script->env.config;
    struct filters *filters = script->filters = calloc(1, sizeof *filters);
    if (filters == NULL) return false;
    filters->chunk_ref = LUA_NOREF;
    filters->routes = calloc(config->route_count + 1, sizeof *filters->routes);
    filters->services = calloc(config->service_count + 1, sizeof *filters->services);
    if (filters->routes == NULL || filters->services == NULL) return false;
    filters->route_count = config->route_count;
    filters->service_count = config->service_count;
    bool ok = true;
    for (size_t i = 0; i < config->route_count; i++) {
        const struct config_route *route = &config->routes[i];
        ok &= make_list(
            script, &filters->routes[i], route->filters, route->filter_count, route->name, is_new_generation);
    }
    for (size_t i = 0; i < config->service_count; i++) {
        const struct config_service *service = &config->services[i];
        ok &= make_list(script, &filters->services[i], service->filters, service->filter_count, service->name,
            is_new_generation);
    }
    return ok;
}

static void
free_lists(struct filter_list *lists, size_t count)
{
    for (size_t i = 0; i < count && lists != NULL; i++)
        free(lists[i].uses);
    free(lists);
}

void
filters_free(struct script *script)
{
    struct filters *filters = script->filters;
    if (filters == NULL) return;
    free_lists(filters->routes, filters->route_count);
    free_lists(filters->services, filters->service_count);
    free(filters->requests.free);
    free(filters->responses.free);
    free(filters->joined);
    free(filters);
    script->filters = NULL;
}

static void
load_use(
    struct script *script, struct filter_use *use, const char *kind, const char *name, struct diags *diags)
{
    lua_State *L = script->L;
    int top = lua_gettop(L);
    lua_rawgeti(L, LUA_REGISTRYINDEX, script->filters->load_ref);
    lua_pushstring(L, name);
    load_push(L, &use->config->plugin);
    script->running = &use->plugin;
    int status = state_load_call(script, 5, 5);
    script->running = NULL;
    if (status != 0) {
        char owner[256];
        snprintf(owner, sizeof owner, "%s %s", kind, name);
        load_failed(script, status, &use->plugin, &use->config->plugin, owner, diags);
    } else {
        load_keep_where(&use->plugin, L);
        use->plugin.self = load_keep(L, top + 1);
        use->on_request = load_keep(L, top + 2);
        use->on_response = load_keep(L, top + 3);
        use->on_log = load_keep(L, top + 4);
        use->plugin.is_loaded = true;
    }
    if (script->L != NULL) lua_settop(L, top);
}

static void
load_list(
    struct script *script, struct filter_list *list, const char *kind, const char *name, struct diags *diags)
{
    list->has_log = false;
    for (uint32_t i = 0; i < list->count; i++) {
        if (load_is_due(script, &list->uses[i].plugin)) load_use(script, &list->uses[i], kind, name, diags);
        list->has_log |= list->uses[i].on_log != LUA_NOREF;
    }
}

void
filters_load(struct script *script, struct diags *diags)
{
    const struct config *config = script->env.config;
    for (size_t i = 0; i < script->filters->route_count; i++)
        load_list(script, &script->filters->routes[i], "route", config->routes[i].name, diags);
    for (size_t i = 0; i < script->filters->service_count; i++)
        load_list(script, &script->filters->services[i], "service", config->services[i].name, diags);
}

/* ---- the runtime ---- */

static int
take_ref(lua_State *L, int table, const char *name, void *view)
{
    lua_getfield(L, table, name);
    if (lua_isnil(L, -1)) luaL_error(L, "the runtime lacks %s", name);
    const void *at = lua_topointer(L, -1);
    if (view != NULL) memcpy(view, &at, sizeof at);
    return luaL_ref(L, LUA_REGISTRYINDEX);
}

/* Also where a fresh state replaces one that was abandoned: the views of that one are no more. */
void
filters_take_runtime(lua_State *L, struct script *script, int table)
{
    struct filters *filters = script->filters;
    if (filters == NULL) return;
    filters->load_ref = take_ref(L, table, "load_filter", NULL);
    filters->stage_ref = take_ref(L, table, "run_stage", NULL);
    filters->stages_ref = take_ref(L, table, "stages", NULL);
    filters->new_request_ref = take_ref(L, table, "new_request", NULL);
    filters->new_response_ref = take_ref(L, table, "new_response", NULL);
    filters->log_request_ref = take_ref(L, table, "log_request", &filters->log_request);
    filters->log_response_ref = take_ref(L, table, "log_response", &filters->log_response);
    lua_pushboolean(L, 0);
    filters->chunk_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    filters->requests.head = filters->requests.count = filters->requests.made = 0;
    filters->responses.head = filters->responses.count = filters->responses.made = 0;
    filters->draft.answer = NULL;
}

static void
each_of(struct filter_list *lists, size_t count, void (*each)(void *context, struct plugin *plugin),
    void *context)
{
    for (size_t i = 0; i < count; i++) {
        for (uint32_t j = 0; j < lists[i].count; j++)
            each(context, &lists[i].uses[j].plugin);
    }
}

void
filters_each(struct script *script, void (*each)(void *context, struct plugin *plugin), void *context)
{
    struct filters *filters = script->filters;
    if (filters == NULL) return;
    each_of(filters->routes, filters->route_count, each, context);
    each_of(filters->services, filters->service_count, each, context);
}
