/* Health policies: probe(), judge() and observe(), for control. Rare calls, so the runtime's Lua does the
 * checking. */
#include "core/script/script_internal.h"

#include <stdio.h>
#include <string.h>

static struct service *
policy_ready(struct script *script, uint32_t service, uint32_t slot, struct member **member)
{
    if (service >= script->service_count) return NULL;
    script_mend(script);
    *member = script_member(script, slot);
    if (*member == NULL || (*member)->service != service) return NULL;
    struct service *row = &script->services[service];
    bool is_ready =
        !plugin_is_quarantined(script, &row->policy) && row->policy.is_loaded && row->policy_probes;
    return is_ready ? row : NULL;
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
push_policy_call(struct script *script, int function, const struct plugin *plugin, struct member *member)
{
    lua_State *L = script->L;
    lua_rawgeti(L, LUA_REGISTRYINDEX, function);
    lua_rawgeti(L, LUA_REGISTRYINDEX, plugin->self);
    lua_pushcfunction(L, view_of);
    lua_pushlightuserdata(L, member);
    return lua_pcall(L, 1, 1, 0) == 0;
}

static const char *const probe_kinds[] = {[PROBE_NONE] = "none",
    [PROBE_TCP] = "tcp",
    [PROBE_HTTP] = "http",
    [PROBE_GRPC] = "grpc",
    [PROBE_SOCKET] = "socket"};

static const char *
probe_text(struct script *script, int index)
{
    size_t len;
    if (lua_type(script->L, index) != LUA_TSTRING) return NULL;
    const char *text = lua_tolstring(script->L, index, &len);
    return arena_strdup(&script->probe_text, (struct slice){text, len});
}

/* The runtime answered kind, method, path, host, port, timeout in seconds, body, service, count, then pairs
 * of statuses. */
static void
read_probe(struct script *script, int at, struct script_probe *probe)
{
    lua_State *L = script->L;
    const char *kind = lua_type(L, at) == LUA_TSTRING ? lua_tostring(L, at) : "none";
    arena_reset(&script->probe_text);
    memset(probe, 0, sizeof *probe);
    for (int i = PROBE_NONE; i <= PROBE_SOCKET; i++) {
        if (strcmp(kind, probe_kinds[i]) == 0) probe->kind = (enum probe_kind)i;
    }
    probe->method = probe_text(script, at + 1);
    probe->path = probe_text(script, at + 2);
    probe->host_header = probe_text(script, at + 3);
    probe->port = (uint16_t)lua_tointeger(L, at + 4);
    probe->timeout_us = (uint64_t)(lua_tonumber(L, at + 5) * 1e6);
    probe->body_contains = probe_text(script, at + 6);
    probe->service = probe_text(script, at + 7);
    int rows = (int)lua_tointeger(L, at + 8);
    for (int i = 0; i < rows && i < PROBE_STATUSES; i++) {
        probe->statuses[i].from = (int)lua_tointeger(L, at + 9 + 2 * i);
        probe->statuses[i].to = (int)lua_tointeger(L, at + 10 + 2 * i);
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
    if (++script->dialogs == 0) script->dialogs = 1;
    bool ok = push_policy_call(script, script->probe_ref, &row->policy, member);
    if (ok) {
        lua_pushnumber(script->L, script->dialogs);
        ok = script_call(script, &row->policy, 3, 9 + 2 * PROBE_STATUSES, SCRIPT_CHANGE_BUDGET_US, "probe");
    }
    if (ok) read_probe(script, top + 1, probe);
    if (ok && probe->kind == PROBE_SOCKET) probe->dialog = script->dialogs;
    if (script->L != NULL) lua_settop(script->L, top);
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
    bool ok = push_policy_call(script, script->judge_ref, &row->policy, member);
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
        lua_pushstring(L, result->detail);
        lua_pushnumber(L, result->dialog);
        ok = script_call(script, &row->policy, 13, 2, SCRIPT_CHANGE_BUDGET_US, "judge");
    }
    if (ok) {
        *judgement = (enum script_judgement)lua_tointeger(L, top + 1);
        if (lua_type(L, top + 2) == LUA_TSTRING) snprintf(reason, 128, "%s", lua_tostring(L, top + 2));
    }
    if (script->L != NULL) lua_settop(L, top);
    return ok;
}

/* The runtime answered what it wants, and then text; or kind and bytes; or whether it is well and why not. */
static bool
read_turn(lua_State *L, int at, struct script_dialog_turn *turn)
{
    size_t len = 0;
    const char *text;
    if (lua_type(L, at) != LUA_TNUMBER) return false;
    turn->want = (enum dialog_want)lua_tointeger(L, at);
    switch (turn->want) {
    case DIALOG_SEND:
        text = lua_type(L, at + 1) == LUA_TSTRING ? lua_tolstring(L, at + 1, &len) : "";
        turn->text = (struct slice){text, len};
        return true;
    case DIALOG_RECEIVE:
        turn->receive = (enum dialog_receive)lua_tointeger(L, at + 1);
        turn->bytes = (size_t)lua_tointeger(L, at + 2);
        return turn->bytes >= 1 && turn->bytes <= DIALOG_BYTES_MAX;
    case DIALOG_DONE:
        turn->ok = lua_toboolean(L, at + 1) != 0;
        if (lua_type(L, at + 2) == LUA_TSTRING)
            snprintf(turn->detail, sizeof turn->detail, "%s", lua_tostring(L, at + 2));
        return true;
    }
    return false;
}

/* Protected: a string of what came, nil for nothing. */
static int
string_of(lua_State *L)
{
    const struct slice *got = lua_touserdata(L, 1);
    if (got == NULL)
        lua_pushnil(L);
    else
        lua_pushlstring(L, got->at, got->len);
    return 1;
}

bool
script_policy_dialog(struct script *script, uint32_t service, uint32_t dialog, const struct slice *got,
    const char *why, struct script_dialog_turn *turn)
{
    struct service *row = service < script->service_count ? &script->services[service] : NULL;
    *turn = (struct script_dialog_turn){.want = DIALOG_DONE};
    script_mend(script);
    if (row == NULL || !row->policy_probes || plugin_is_quarantined(script, &row->policy)) return false;
    if (!row->policy.is_loaded) return false;
    lua_State *L = script->L;
    int top = lua_gettop(L);
    lua_rawgeti(L, LUA_REGISTRYINDEX, script->dialog_ref);
    lua_pushnumber(L, dialog);
    lua_pushcfunction(L, string_of);
    lua_pushlightuserdata(L, (void *)got);
    bool ok = lua_pcall(L, 1, 1, 0) == 0;
    if (ok) {
        lua_pushstring(L, why);
        ok = script_call(script, &row->policy, 3, 3, SCRIPT_CHANGE_BUDGET_US, "probe") &&
             read_turn(L, top + 1, turn);
    }
    /* A text outlives its place on the stack: the function that sends it still holds it. */
    if (script->L != NULL) lua_settop(L, top);
    return ok;
}

/* Protected. */
static int
end_dialog(lua_State *L)
{
    struct script *script = lua_touserdata(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, script->dialog_end_ref);
    lua_pushnumber(L, script->dialog_over);
    lua_call(L, 1, 0);
    return 0;
}

void
script_policy_dialog_end(struct script *script, uint32_t dialog)
{
    if (dialog == 0 || script->L == NULL) return;
    script->dialog_over = dialog;
    if (lua_cpcall(script->L, end_dialog, script) != 0) lua_pop(script->L, 1);
}

bool
script_policy_probes(const struct script *script, uint32_t service)
{
    if (service >= script->service_count) return false;
    const struct service *row = &script->services[service];
    return row->policy_probes || !row->policy.was_loaded;
}

uint64_t
script_policy_window_us(const struct script *script, uint32_t service)
{
    return service < script->service_count ? script->services[service].window_us : 0;
}

static struct plugin *
observer_ready(struct script *script, uint32_t service)
{
    struct plugin *plugin = service < script->service_count ? script->services[service].observer : NULL;
    script_mend(script);
    return plugin == NULL || plugin_is_quarantined(script, plugin) || !plugin->is_loaded ? NULL : plugin;
}

struct fleet {
    const struct script_window_row *rows;
    uint32_t count;
};

/* Protected: a flat table of requests, errors and seconds of latency, in turn. */
static int
table_of(lua_State *L)
{
    const struct fleet *fleet = lua_touserdata(L, 1);
    int at = 0;
    lua_createtable(L, (int)fleet->count * 3, 0);
    for (uint32_t i = 0; i < fleet->count; i++) {
        lua_pushnumber(L, (lua_Number)fleet->rows[i].requests);
        lua_rawseti(L, -2, ++at);
        lua_pushnumber(L, (lua_Number)fleet->rows[i].errors);
        lua_rawseti(L, -2, ++at);
        lua_pushnumber(L, fleet->rows[i].latency_us / 1e6);
        lua_rawseti(L, -2, ++at);
    }
    return 1;
}

bool
script_policy_fleet(
    struct script *script, uint32_t service, const struct script_window_row *rows, uint32_t count)
{
    struct fleet fleet = {rows, count};
    struct plugin *plugin = observer_ready(script, service);
    if (plugin == NULL) return false;
    lua_State *L = script->L;
    int top = lua_gettop(L);
    lua_rawgeti(L, LUA_REGISTRYINDEX, script->fleet_ref);
    lua_pushinteger(L, (lua_Integer)service);
    lua_pushcfunction(L, table_of);
    lua_pushlightuserdata(L, &fleet);
    bool ok =
        lua_pcall(L, 1, 1, 0) == 0 && script_call(script, plugin, 2, 0, SCRIPT_CHANGE_BUDGET_US, "observe");
    if (script->L != NULL) lua_settop(L, top);
    return ok;
}

static void
push_window(lua_State *L, uint32_t service, const struct script_window *window)
{
    static const char *const trials[] = {
        [TRIAL_PASSED] = "passed", [TRIAL_ERROR] = "error", [TRIAL_FAILED] = "failed"};
    const char *trial =
        (unsigned)window->trial < sizeof trials / sizeof trials[0] ? trials[window->trial] : NULL;
    lua_pushinteger(L, (lua_Integer)service);
    lua_pushboolean(L, window->is_new);
    lua_pushnumber(L, window->seconds);
    lua_pushnumber(L, (lua_Number)window->requests);
    lua_pushnumber(L, (lua_Number)window->failures);
    lua_pushnumber(L, (lua_Number)window->errors);
    lua_pushnumber(L, window->failures_in_row);
    lua_pushnumber(L, window->errors_in_row);
    lua_pushnumber(L, window->latency_us / 1e6);
    lua_pushnumber(L, window->ejections);
    lua_pushstring(L, trial); /* nil for NULL */
    lua_pushnumber(L, window->endpoints);
    lua_pushnumber(L, window->ejected);
}

bool
script_policy_observe(struct script *script, uint32_t service, uint32_t slot,
    const struct script_window *window, struct script_observation *word)
{
    struct plugin *plugin = observer_ready(script, service);
    struct member *member = plugin == NULL ? NULL : script_member(script, slot);
    *word = (struct script_observation){.action = OBSERVE_NOTHING};
    if (member == NULL || member->service != service) return false;
    lua_State *L = script->L;
    int top = lua_gettop(L);
    bool ok = push_policy_call(script, script->observe_ref, plugin, member);
    if (ok) {
        push_window(L, service, window);
        ok = script_call(script, plugin, 15, 3, SCRIPT_CHANGE_BUDGET_US, "observe");
    }
    if (ok) {
        word->action = (enum script_action)lua_tointeger(L, top + 1);
        word->span_us = (uint64_t)(lua_tonumber(L, top + 2) * 1e6);
        if (lua_type(L, top + 3) == LUA_TSTRING)
            snprintf(word->reason, sizeof word->reason, "%s", lua_tostring(L, top + 3));
    }
    if (script->L != NULL) lua_settop(L, top);
    return ok;
}
