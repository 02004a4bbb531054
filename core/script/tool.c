#include "core/script/tool.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdio.h>

#include "core/config/bundle.h"

struct tool {
    const char *name;
    const char *const *arguments;
    int code;
};

static int
with_traceback(lua_State *L)
{
    if (lua_type(L, 1) != LUA_TSTRING) return 1;
    luaL_traceback(L, L, lua_tostring(L, 1), 1);
    return 1;
}

/* The modules of ours stand before those of the system, so that the kit is this gateway's own. */
static void
set_path(lua_State *L, const char *share)
{
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "path");
    lua_pushfstring(L, "%s/lua/?.lua;%s", share, lua_tostring(L, -1));
    lua_setfield(L, -3, "path");
    lua_pop(L, 2);
}

static int
run(lua_State *L)
{
    struct tool *tool = lua_touserdata(L, 1);
    const char *share = bundle_share_dir();
    int count = 0;
    luaL_openlibs(L);
    set_path(L, share);
    lua_pushcfunction(L, with_traceback);
    int handler = lua_gettop(L);
    const char *path = lua_pushfstring(L, "%s/lua/fluxgate/tool/%s.lua", share, tool->name);
    if (luaL_loadfile(L, path) != 0) return lua_error(L);
    lua_pushstring(L, share);
    for (; tool->arguments[count] != NULL; count++) {
        luaL_checkstack(L, 4, "too many arguments");
        lua_pushstring(L, tool->arguments[count]);
    }
    if (lua_pcall(L, count + 1, 1, handler) != 0) return lua_error(L);
    tool->code = lua_type(L, -1) == LUA_TNUMBER ? (int)lua_tointeger(L, -1) : 0;
    return 0;
}

int
script_tool(const char *name, const char *const *arguments)
{
    struct tool tool = {.name = name, .arguments = arguments};
    lua_State *L = luaL_newstate();
    if (L == NULL) {
        fputs("fluxgate: out of memory\n", stderr);
        return 1;
    }
    if (lua_cpcall(L, run, &tool) != 0) {
        const char *message = lua_tostring(L, -1);
        fprintf(stderr, "fluxgate: %s\n", message == NULL ? "an error without a message" : message);
        tool.code = 1;
    }
    lua_close(L);
    return tool.code;
}
