/* What filters do once the head of a response is known: stages of its body, and on_log of what is over. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/script/filter_internal.h"

enum { CTX_MAX = 16 << 10, CTX_ROWS_MAX = 1024, CTX_END = 1, CTX_ESCAPE = 2 };

/* ---- body stages ---- */

/* runtime.lua's run_stage(number, is_last) reads filters->chunk and answers a string, or nil where the chunk
 * stays as it is. */
static bool
run_stage(struct filter_chain *chain, uint32_t at, bool is_last, struct slice *chunk)
{
    struct script *script = chain->script;
    struct filters *filters = script->filters;
    struct plugin *plugin = chain->stages[at].plugin;
    lua_State *L = script->L;
    if (plugin_is_quarantined(script, plugin)) return false;
    filters->chunk = *chunk;
    lua_rawgeti(L, LUA_REGISTRYINDEX, filters->stage_ref);
    lua_pushinteger(L, chain->stages[at].number);
    lua_pushboolean(L, is_last);
    if (!script_call(script, plugin, 2, 1, SCRIPT_FILTER_BUDGET_US, "on_body")) return false;
    if (lua_type(L, -1) == LUA_TSTRING) {
        chunk->at = lua_tolstring(L, -1, &chunk->len);
        lua_rawseti(L, LUA_REGISTRYINDEX, filters->chunk_ref); /* keeps it, until another takes the place */
    } else {
        lua_pop(L, 1);
    }
    return true;
}

bool
filter_body(struct filter_chain *chain, struct slice chunk, bool is_last, struct slice *out)
{
    *out = chunk;
    if (chain->serial != chain->script->serial) return chain->stage_total == chain->stage_first;
    for (uint32_t i = chain->stage_first; i < chain->stage_total; i++) {
        if (!run_stage(chain, i, is_last, out)) return false;
    }
    return true;
}

void
stages_drop(struct filter_chain *chain)
{
    lua_State *L = chain->script->L;
    if (LIKELY(chain->stage_total == 0)) return;
    lua_rawgeti(L, LUA_REGISTRYINDEX, chain->script->filters->stages_ref);
    for (uint32_t i = 0; i < chain->stage_total; i++)
        luaL_unref(L, -1, chain->stages[i].number);
    lua_pop(L, 1);
    chain->stage_first = chain->stage_total = 0;
}

/* ---- ctx as text: key, value, key, value …, each a letter (s, n, t, f), its text and a CTX_END ---- */

struct ctx_text {
    char *at;
    size_t len, cap;
    bool is_full;
};

static void
put_byte(struct ctx_text *out, char byte)
{
    if (out->len == out->cap) {
        size_t cap = out->cap == 0 ? 256 : out->cap * 2;
        char *grown = cap > CTX_MAX ? NULL : realloc(out->at, cap);
        if (grown == NULL) {
            out->is_full = true;
            return;
        }
        out->at = grown;
        out->cap = cap;
    }
    out->at[out->len++] = byte;
}

/* A letter, the text without the bytes that mean something here or end a C string, and the end. */
static void
put_text(struct ctx_text *out, char letter, const char *text, size_t len)
{
    put_byte(out, letter);
    for (size_t i = 0; i < len && !out->is_full; i++) {
        bool is_special = (unsigned char)text[i] <= CTX_ESCAPE;
        if (is_special) put_byte(out, CTX_ESCAPE);
        put_byte(out, is_special ? (char)(text[i] + 'a') : text[i]);
    }
    put_byte(out, CTX_END);
}

static bool
put_value(lua_State *L, int index, struct ctx_text *out)
{
    char number[32];
    size_t len;
    switch (lua_type(L, index)) {
    case LUA_TSTRING: {
        const char *text = lua_tolstring(L, index, &len);
        put_text(out, 's', text, len);
        return true;
    }
    case LUA_TNUMBER:
        len = (size_t)snprintf(number, sizeof number, "%.17g", lua_tonumber(L, index));
        put_text(out, 'n', number, len);
        return true;
    case LUA_TBOOLEAN: put_text(out, lua_toboolean(L, index) ? 't' : 'f', "", 0); return true;
    }
    return false;
}

/* Raw access and no conversion: nothing here runs Lua or takes memory of the state. */
const char *
filter_ctx(struct filter_chain *chain, struct arena *arena)
{
    struct script *script = chain->script;
    const struct script_request *pick = chain->request->pick;
    struct ctx_text out = {0};
    if (pick->ctx <= 0 || pick->ctx_generation != script->serial) return NULL;
    lua_State *L = script->L;
    int top = lua_gettop(L);
    lua_rawgeti(L, LUA_REGISTRYINDEX, script->ctx_ref);
    lua_rawgeti(L, -1, pick->ctx);
    if (lua_istable(L, -1)) {
        lua_pushnil(L);
        for (unsigned rows = 0; rows < CTX_ROWS_MAX && lua_next(L, -2) != 0; rows++) {
            size_t before = out.len;
            bool is_flat = put_value(L, -2, &out) && put_value(L, -1, &out);
            if (!is_flat || out.is_full) out.len = before;
            out.is_full = false;
            lua_pop(L, 1);
        }
    }
    lua_settop(L, top);
    char *kept = out.len == 0 ? NULL : arena_strdup(arena, (struct slice){out.at, out.len});
    free(out.at);
    return kept;
}

static bool
push_value(lua_State *L, const char **at)
{
    char letter = *(*at)++;
    const char *end = strchr(*at, CTX_END);
    if (end == NULL) return false;
    luaL_Buffer text;
    switch (letter) {
    case 't':
    case 'f': lua_pushboolean(L, letter == 't'); break;
    case 'n': lua_pushnumber(L, strtod(*at, NULL)); break;
    default:
        luaL_buffinit(L, &text);
        for (const char *byte = *at; byte < end; byte++) {
            bool is_special = *byte == CTX_ESCAPE && byte + 1 < end;
            if (is_special) byte++;
            luaL_addchar(&text, is_special ? (char)(*byte - 'a') : *byte);
        }
        luaL_pushresult(&text);
    }
    *at = end + 1;
    return true;
}

/* The table of the on_log that runs. */
static int
host_log_ctx(lua_State *L)
{
    struct script *script = lua_touserdata(L, lua_upvalueindex(1));
    lua_newtable(L);
    if (script->filters == NULL || script->filters->log_request->handle == 0) return 1;
    const struct filter_log *log = (const struct filter_log *)(uintptr_t)script->filters->log_request->handle;
    for (const char *at = log->ctx; at != NULL && *at != '\0';) {
        if (!push_value(L, &at) || *at == '\0' || !push_value(L, &at)) break;
        lua_rawset(L, 1);
    }
    lua_settop(L, 1);
    return 1;
}

void
log_push_host(lua_State *L, struct script *script)
{
    lua_pushlightuserdata(L, script);
    lua_pushcclosure(L, host_log_ctx, 1);
    lua_setfield(L, -2, "log_ctx");
}

/* ---- on_log ---- */

static void
log_list(struct script *script, const struct filter_list *list, const struct filter_log *log)
{
    struct filters *filters = script->filters;
    lua_State *L = script->L;
    uint64_t serial = script->serial;
    for (uint32_t i = list->count; i-- > 0 && serial == script->serial && L != NULL;) {
        struct filter_use *use = &list->uses[i];
        if (use->on_log == LUA_NOREF || !use->plugin.is_loaded || plugin_is_quarantined(script, &use->plugin))
            continue;
        filters->log_request->handle = (uint64_t)(uintptr_t)log;
        filters->log_request->serial = filters->log_serial;
        filters->log_response->handle = (uint64_t)(uintptr_t)log;
        lua_rawgeti(L, LUA_REGISTRYINDEX, use->on_log);
        lua_rawgeti(L, LUA_REGISTRYINDEX, use->plugin.self);
        lua_rawgeti(L, LUA_REGISTRYINDEX, filters->log_request_ref);
        lua_rawgeti(L, LUA_REGISTRYINDEX, filters->log_response_ref);
        (void)!script_call(script, &use->plugin, 3, 0, SCRIPT_FILTER_BUDGET_US, "on_log");
        if (serial != script->serial) return; /* the records went with the state */
        filters->log_request->handle = 0;
        filters->log_response->handle = 0;
    }
}

void
filter_run_log(struct script *script, const struct filter_log *log)
{
    struct filters *filters = script->filters;
    if (filters == NULL) return;
    filters->log_serial++;
    uint32_t name = script->env.shm == NULL ? UINT32_MAX : shm_name_find(script->env.shm, log->service);
    uint32_t service = name < SHM_NAMES_MAX ? script->service_by_name[name] : 0; /* index + 1 */
    if (service != 0 && filters->services[service - 1].has_log)
        log_list(script, &filters->services[service - 1], log);
    if (log->route_index < filters->route_count && filters->routes[log->route_index].has_log)
        log_list(script, &filters->routes[log->route_index], log);
}
