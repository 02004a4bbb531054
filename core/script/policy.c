/* Health policies: probe() and judge(), for control. Rare calls, so the runtime's Lua does the checking. */
#include "core/script/script_internal.h"

#include <stdio.h>
#include <string.h>

static struct service *
policy_ready(struct script *script, uint32_t service, uint32_t slot, struct member **member)
{
    if (service >= script->service_count) return NULL;
    *member = script_member(script, slot);
    if (*member == NULL || (*member)->service != service) return NULL;
    struct service *row = &script->services[service];
    return row->policy.is_loaded && !plugin_is_quarantined(script, &row->policy) ? row : NULL;
}

/* Protected: the view of a member as the only result. */
static int
view_of(lua_State *L)
{
    struct member *member = lua_touserdata(L, 1);
    script_push_view(L, member);
    return 1;
}

static bool
push_policy_call(struct script *script, int function, const struct service *service, struct member *member)
{
    lua_State *L = script->L;
    lua_rawgeti(L, LUA_REGISTRYINDEX, function);
    lua_rawgeti(L, LUA_REGISTRYINDEX, service->policy.self);
    lua_pushcfunction(L, view_of);
    lua_pushlightuserdata(L, member);
    return lua_pcall(L, 1, 1, 0) == 0;
}

static const char *
probe_text(struct script *script, int index)
{
    size_t len;
    if (lua_type(script->L, index) != LUA_TSTRING) return NULL;
    const char *text = lua_tolstring(script->L, index, &len);
    return arena_strdup(&script->probe_text, (struct slice){text, len});
}

/* The runtime answered kind, method, path, host, port, timeout in seconds, body, count, then pairs of
 * statuses. */
static void
read_probe(struct script *script, int at, struct script_probe *probe)
{
    lua_State *L = script->L;
    const char *kind = lua_tostring(L, at);
    arena_reset(&script->probe_text);
    memset(probe, 0, sizeof *probe);
    probe->kind = kind == NULL                ? PROBE_NONE
                  : strcmp(kind, "http") == 0 ? PROBE_HTTP
                  : strcmp(kind, "tcp") == 0  ? PROBE_TCP
                                              : PROBE_NONE;
    probe->method = probe_text(script, at + 1);
    probe->path = probe_text(script, at + 2);
    probe->host_header = probe_text(script, at + 3);
    probe->port = (uint16_t)lua_tointeger(L, at + 4);
    probe->timeout_us = (uint64_t)(lua_tonumber(L, at + 5) * 1e6);
    probe->body_contains = probe_text(script, at + 6);
    int rows = (int)lua_tointeger(L, at + 7);
    for (int i = 0; i < rows && i < PROBE_STATUSES; i++) {
        probe->statuses[i].from = (int)lua_tointeger(L, at + 8 + 2 * i);
        probe->statuses[i].to = (int)lua_tointeger(L, at + 9 + 2 * i);
        probe->status_count++;
    }
}

bool
script_policy_probe(struct script *script, uint32_t service, uint32_t slot, struct script_probe *probe)
{
    struct member *member;
    struct service *row = policy_ready(script, service, slot, &member);
    if (row == NULL) return false;
    int top = lua_gettop(script->L);
    bool ok = push_policy_call(script, script->probe_ref, row, member) &&
              script_call(script, &row->policy, 2, 8 + 2 * PROBE_STATUSES, SCRIPT_CHANGE_BUDGET_US, "probe");
    if (ok) read_probe(script, top + 1, probe);
    lua_settop(script->L, top);
    return ok;
}

bool
script_policy_judge(struct script *script, uint32_t service, uint32_t slot,
    const struct script_probe_result *result, const struct script_history *history,
    enum script_judgement *judgement, char reason[128])
{
    struct member *member;
    struct service *row = policy_ready(script, service, slot, &member);
    *judgement = JUDGE_UNCHANGED;
    reason[0] = '\0';
    if (row == NULL) return false;
    lua_State *L = script->L;
    int top = lua_gettop(L);
    bool ok = push_policy_call(script, script->judge_ref, row, member);
    if (ok) {
        lua_pushboolean(L, result->ok);
        lua_pushinteger(L, result->status);
        lua_pushnumber(L, result->latency_us / 1e6);
        lua_pushstring(L, reason_word(result->failure));
        lua_pushlstring(L, result->body.at == NULL ? "" : result->body.at, result->body.len);
        lua_pushinteger(L, (lua_Integer)history->rise);
        lua_pushinteger(L, (lua_Integer)history->fall);
        lua_pushstring(L, slot_state_word((enum slot_state)history->state));
        lua_pushnumber(L, (double)history->since_us / 1e6);
        ok = script_call(script, &row->policy, 11, 2, SCRIPT_CHANGE_BUDGET_US, "judge");
    }
    if (ok) {
        *judgement = (enum script_judgement)lua_tointeger(L, top + 1);
        if (lua_type(L, top + 2) == LUA_TSTRING) snprintf(reason, 128, "%s", lua_tostring(L, top + 2));
    }
    lua_settop(L, top);
    return ok;
}
