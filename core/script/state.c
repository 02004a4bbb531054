#include "core/script/filter_internal.h"

#include <errno.h>
#include <luajit.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/clock.h"
#include "core/script/natives.h"

enum { LOAD_HOOK_INSTRUCTIONS = 1000 };

/* CPU time of this thread at which the running load ends. One load at a time a process, and the hook has no
 * argument. */
static uint64_t load_deadline_us;

static uint64_t
cpu_now_us(void)
{
    struct timespec now;
    if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now) == -1) return 0;
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* All memory of a state comes from one heap, so that script_free and script_drop drop it whole. */
static void *
state_alloc(void *context, void *block, size_t old_bytes, size_t new_bytes)
{
    struct script *script = context;
    guard_point();
    if (new_bytes == 0) {
        heap_give(script->heap, block);
        script->used_bytes -= block == NULL ? 0 : old_bytes;
        return NULL;
    }
    if (block == NULL) old_bytes = 0; /* Lua 5.1 passes 0; ours to rely on nothing */
    if (new_bytes > old_bytes && script->used_bytes + (new_bytes - old_bytes) > script->memory_cap_bytes) {
        script->was_refused = true;
        return NULL;
    }
    void *moved = heap_realloc(script->heap, block, new_bytes);
    if (moved == NULL) return NULL;
    script->used_bytes += new_bytes - old_bytes;
    return moved;
}

/* Only a call outside lua_pcall gets here, out of memory: a bug of ours, and the state cannot go on. */
static int
on_panic(lua_State *L)
{
    log_errorx("lua panic", F_STR("message", lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "?"));
    return 0;
}

/* Where the running call was stopped first. A pcall may swallow the error and the hook raise again further
 * out, even in our own loader; what a person wants to read is the first place. */
static char overrun_text[160];

void
state_forget_overrun(void)
{
    overrun_text[0] = '\0';
}

/* A hook has no frame of its own, so level 0 is the interrupted function; luaL_error would name its caller.
 */
void
state_raise_overrun(lua_State *L, const char *text)
{
    if (overrun_text[0] == '\0') {
        luaL_where(L, 0);
        snprintf(overrun_text, sizeof overrun_text, "%s%s", lua_tostring(L, -1), text);
        lua_pop(L, 1);
    }
    lua_pushstring(L, overrun_text);
    lua_error(L);
}

static_assert(SCRIPT_LOAD_BUDGET_US == 2000000, "the hook's text says 2 s");

/* Where the hook last saw the load, for one that never comes back: a long C function takes no hooks. */
static struct {
    char file[LUA_IDSIZE];
    int line;
} load_place;
static struct shm_worker *load_mark;

/* Instructions and lines, not time, drive this hook. Past the deadline it fires at every instruction, so that
 * a pcall which swallows the error raises again at its next step: control comes back to C. */
static void
on_load_hook(lua_State *L, lua_Debug *where)
{
    if (where->event == LUA_HOOKLINE) {
        load_place.line = where->currentline;
        if (lua_getinfo(L, "S", where) != 0)
            memcpy(load_place.file, where->short_src, sizeof load_place.file);
        return;
    }
    if (load_mark != NULL) /* a load is no stand-still: it has a budget of its own */
        atomic_store_explicit(&load_mark->heartbeat_us, clock_now_us(), memory_order_relaxed);
    if (cpu_now_us() < load_deadline_us || clock_patience() == 0) return;
    lua_sethook(L, on_load_hook, LUA_MASKCOUNT, 1);
    state_raise_overrun(L, "ran too long: loading may take 2 s of CPU time");
}

void
state_load_place(char *out, size_t size)
{
    snprintf(out, size, "%s:%d: ", load_place.file, load_place.line);
    if (load_place.line == 0) out[0] = '\0';
}

void
state_begin_load(struct script *script, uint64_t budget_us)
{
    if (budget_us > SCRIPT_LOAD_BUDGET_US) budget_us = SCRIPT_LOAD_BUDGET_US;
    script->load_deadline_us = cpu_now_us() + budget_us * clock_patience();
}

/* The hook ends the load at the deadline; the guard, later, one that is in a C function. */
int
state_load_call(struct script *script, int arguments, int results)
{
    lua_State *L = script->L;
    uint64_t now = cpu_now_us(), left = script->load_deadline_us > now ? script->load_deadline_us - now : 0;
    uint64_t hard_us = left + SCRIPT_HARD_BUDGET_US;
    load_deadline_us = script->load_deadline_us;
    load_mark = script->mark;
    load_place.line = 0;
    state_forget_overrun();
    script->memory_cap_bytes = SCRIPT_MEMORY_MAX;
    luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF); /* compiled loops take no hooks */
    lua_sethook(L, on_load_hook, LUA_MASKCOUNT | LUA_MASKLINE, LOAD_HOOK_INSTRUCTIONS);
    guard_enter(L, hard_us, hard_us, script->running == NULL ? NULL : script->running->stuck_until_us);
    int status = guard_pcall(L, arguments, results);
    bool overran = guard_leave();
    (void)overran;
    script->memory_cap_bytes = SCRIPT_MEMORY_MAX + SCRIPT_MEMORY_SPARE;
    script->was_refused = false;
    if (status == GUARD_ABANDONED) return status;
    lua_sethook(L, NULL, 0, 0);
    luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_ON);
    return status;
}

void
state_take_error(lua_State *L, int status, char *out, size_t size)
{
    const char *text = NULL;
    if (status == LUA_ERRMEM) {
        text = "not enough memory";
    } else if (lua_type(L, -1) == LUA_TSTRING) {
        text = lua_tostring(L, -1);
    }
    if (text != NULL) {
        snprintf(out, size, "%s", text);
    } else { /* __tostring would run Lua, so an object is named and no more */
        snprintf(out, size, "error with a %s value instead of a message", luaL_typename(L, -1));
    }
    lua_pop(L, 1);
}

/* host.read(path) → source or nil, message. */
static int
host_read(lua_State *L)
{
    struct script *script = lua_touserdata(L, lua_upvalueindex(1));
    const char *path = luaL_checkstring(L, 1);
    struct slice bytes;
    if (!bundle_read(script->env.bundle, path, &bytes)) {
        lua_pushnil(L);
        lua_pushfstring(L, "%s: %s", path, strerror(errno));
        return 2;
    }
    lua_pushlstring(L, bytes.at, bytes.len);
    return 1;
}

static void
push_paths(lua_State *L, const char *name, const char *const *paths)
{
    lua_newtable(L);
    for (int i = 0; paths != NULL && paths[i] != NULL; i++) {
        lua_pushstring(L, paths[i]);
        lua_rawseti(L, -2, i + 1);
    }
    lua_setfield(L, -2, name);
}

/* What the runtime is given: how to read sources, where to look for them, and the state's own handle. */
static void
push_host(lua_State *L, struct script *script)
{
    lua_newtable(L);
    lua_pushlightuserdata(L, script);
    lua_pushcclosure(L, host_read, 1);
    lua_setfield(L, -2, "read");
    lua_pushlightuserdata(L, script);
    lua_setfield(L, -2, "script");
    lua_pushstring(L, bundle_share_dir());
    lua_setfield(L, -2, "share");
    lua_pushstring(L, FLUXGATE_VERSION);
    lua_setfield(L, -2, "version");
    lua_pushstring(L, script->env.config->zone == NULL ? "" : script->env.config->zone);
    lua_setfield(L, -2, "zone");
    lua_pushstring(L, fg_layout());
    lua_setfield(L, -2, "layout");
    lua_pushstring(L, fg_filter_layout());
    lua_setfield(L, -2, "filter_layout");
    tasks_push_host(L, script);
    timers_push_host(L, script);
    log_push_host(L, script);
    lua_pushstring(L, fg_natives_layout());
    lua_setfield(L, -2, "natives_layout");
    push_paths(L, "lua_path", script->env.config->lua_path);
    push_paths(L, "strategies_path", script->env.config->strategies_path);
    push_paths(L, "trust", script->env.config->trust);
}

static int
ref_field(lua_State *L, int table, const char *name)
{
    lua_getfield(L, table, name);
    if (lua_isnil(L, -1)) luaL_error(L, "the runtime lacks %s", name);
    return luaL_ref(L, LUA_REGISTRYINDEX);
}

static void
take_views(lua_State *L, struct script *script, int table)
{
    lua_getfield(L, table, "requests");
    for (int i = 0; i < SCRIPT_VIEWS; i++) {
        lua_rawgeti(L, -1, i + 1);
        script->requests[i] = (struct fg_request *)lua_topointer(L, -1);
        if (script->requests[i] == NULL) luaL_error(L, "the runtime made no request views");
        script->request_refs[i] = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    lua_pop(L, 1);
    lua_getfield(L, table, "result");
    script->result = (struct fg_result *)lua_topointer(L, -1);
    script->result_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_getfield(L, table, "QUEUE");
    script->queue_mark = lua_topointer(L, -1);
    lua_pop(L, 1);
}

/* Runs protected: opens the libraries, runs share/lua/fluxgate/runtime.lua and keeps what it answers. */
static int
load_runtime(lua_State *L)
{
    struct script *script = lua_touserdata(L, 1);
    struct slice source;
    luaL_openlibs(L);
    const char *path = lua_pushfstring(L, "%s/lua/fluxgate/runtime.lua", bundle_share_dir());
    if (!bundle_read(script->env.bundle, path, &source)) {
        return luaL_error(L, "%s: %s", path, strerror(errno));
    }
    if (luaL_loadbufferx(L, source.at, source.len, "@lua/fluxgate/runtime.lua", "t") != 0)
        return lua_error(L);
    push_host(L, script);
    lua_call(L, 1, 1);
    int table = lua_gettop(L);
    luaL_checktype(L, table, LUA_TTABLE);
    script->views_ref = ref_field(L, table, "views");
    script->texts_ref = ref_field(L, table, "texts");
    script->by_id_ref = ref_field(L, table, "by_id");
    script->ctx_ref = ref_field(L, table, "contexts");
    script->new_view_ref = ref_field(L, table, "new_view");
    script->load_strategy_ref = ref_field(L, table, "load_strategy");
    script->load_policy_ref = ref_field(L, table, "load_policy");
    script->export_ref = ref_field(L, table, "export");
    script->probe_ref = ref_field(L, table, "probe");
    script->judge_ref = ref_field(L, table, "judge");
    script->fleet_ref = ref_field(L, table, "fleet");
    script->observe_ref = ref_field(L, table, "observe");
    script->dialog_ref = ref_field(L, table, "dialog");
    script->dialog_end_ref = ref_field(L, table, "dialog_end");
    script->forget_ref = ref_field(L, table, "forget");
    take_views(L, script, table);
    filters_take_runtime(L, script, table);
    return 0;
}

bool
state_load_runtime(struct script *script, struct diags *diags)
{
    char message[512];
    int status = lua_cpcall(script->L, load_runtime, script);
    if (status == 0) return true;
    state_take_error(script->L, status, message, sizeof message);
    diag_add(diags, DIAG_ERROR, (struct place){bundle_share_dir(), 0, 0}, NULL,
        "the Lua runtime does not start: %s", message);
    return false;
}

lua_State *
state_new(struct script *script)
{
    script->memory_cap_bytes = SCRIPT_MEMORY_MAX + SCRIPT_MEMORY_SPARE;
    script->heap = heap_new();
    if (script->heap == NULL) return NULL;
    lua_State *L = lua_newstate(state_alloc, script);
    if (L == NULL) return NULL;
    lua_atpanic(L, on_panic);
    /* Garbage is collected in small steps after a call (script_leave); the pause is the net for a call that
     * makes much. */
    lua_gc(L, LUA_GCSETPAUSE, 300);
    lua_gc(L, LUA_GCSETSTEPMUL, 400);
    return L;
}
