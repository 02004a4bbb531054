-- fluxgate/sandbox.lua: the globals that a plug-in has: copies, so that none reaches another's or ours. What
-- could load bytecode, touch the disk, the process or the collector is not there at all.
local sandbox = {}

local BASE = {
    "assert", "error", "getmetatable", "ipairs", "next", "pairs", "pcall", "rawequal", "rawget", "rawset",
    "select", "setmetatable", "tonumber", "tostring", "type", "unpack", "xpcall", "_VERSION",
}

local JSON_MAX, JSON_DEPTH = 8 * 1024 * 1024, 1000

local function copy(from, without)
    local to = {}
    for key, value in pairs(from) do
        if not (without and without[key]) then to[key] = value end
    end
    return to
end

-- What is left of `left` bytes after the text of a value, escapes not counted; no deeper than cjson goes.
local function text_left(value, left, depth)
    if type(value) == "string" then return left - #value end
    if type(value) ~= "table" or depth > JSON_DEPTH then return left end
    for key, item in next, value do
        if type(key) == "string" then left = left - #key end
        left = text_left(item, left - 2, depth + 1)
        if left < 0 then break end
    end
    return left
end

-- cjson builds its text outside of the memory that scripts are bounded by: the text is bounded beforehand.
local function bounded(encode)
    return function(value)
        if text_left(value, JSON_MAX, 0) >= 0 then return encode(value) end
        error("cjson.encode: the text is longer than 8 MiB", 2)
    end
end

local function shared_libraries()
    local cjson = require("cjson").new()
    cjson.encode_keep_buffer(false) -- a dropped state runs no finaliser that would free it
    return {
        string = copy(string, { dump = true }),
        table = copy(table),
        math = copy(math, { randomseed = true }),
        coroutine = copy(coroutine),
        bit = copy(require "bit"),
        os = { time = os.time, clock = os.clock, date = os.date, difftime = os.difftime },
        cjson = {
            encode = bounded(cjson.encode), decode = cjson.decode, null = cjson.null,
            empty_array = cjson.empty_array,
        },
    }
end

-- Text only: bytecode is not verified by LuaJIT, so a crafted chunk could do anything.
local function safe_load(env)
    return function(chunk, name, _, chunk_env)
        if type(chunk) == "function" then
            local parts = {}
            for part in chunk do
                if part == "" then break end
                parts[#parts + 1] = part
            end
            chunk = table.concat(parts)
        end
        return load(chunk, name or "=(load)", "t", chunk_env == nil and env or chunk_env)
    end
end

-- LuaJIT counts the slots of a Lua stack, but not the C frames below a callback of gsub, nor those of
-- coroutines that resume each other: their recursion would end the process. `is_deep` tells when to refuse.
local function seal_recursion(is_deep)
    local gsub, resume, wrap = string.gsub, coroutine.resume, coroutine.wrap
    rawset(string, "gsub", function(subject, pattern, replacement, count)
        if type(replacement) ~= "string" and is_deep() then error("stack overflow", 2) end
        return gsub(subject, pattern, replacement, count)
    end)
    rawset(coroutine, "resume", function(...)
        if is_deep() then return false, "stack overflow" end
        return resume(...)
    end)
    rawset(coroutine, "wrap", function(body)
        local run = wrap(body)
        return function(...)
            if is_deep() then error("stack overflow", 2) end
            return run(...)
        end
    end)
end

-- Once a state, before any plug-in runs: the metatable that all strings share is out of reach, and has no
-- dump.
function sandbox.seal(is_deep)
    rawset(string, "dump", nil)
    getmetatable("").__metatable = false
    seal_recursion(is_deep)
end

-- All that Lua has, for a script that the configuration trusts: what `require` does not find in lua_path it
-- finds where Lua does (ffi, C modules).
local function trust(env, loaded)
    for _, name in ipairs {
        "io", "os", "debug", "jit", "package", "newproxy", "getfenv", "setfenv", "dofile", "loadfile", "load",
        "loadstring", "collectgarbage",
    } do env[name] = _G[name] end
    env.math.randomseed = math.randomseed
    for _, name in ipairs { "io", "os", "debug", "jit", "package" } do loaded[name] = _G[name] end
end

-- A fresh environment. `find_module(name)` returns the source and chunk name of a module, or nil and where it
-- was sought.
function sandbox.new(gateway, find_module, is_trusted)
    local env, libraries, loaded = {}, shared_libraries(), {}
    for _, name in ipairs(BASE) do env[name] = _G[name] end
    for name, library in pairs(libraries) do
        env[name] = library
        loaded[name] = library
    end
    loaded["table.new"], loaded["table.clear"] = require "table.new", require "table.clear"
    env._G, env.gateway = env, gateway
    env.load = safe_load(env)
    env.loadstring = function(chunk, name) return env.load(tostring(chunk), name) end
    env.collectgarbage = function(what)
        if what == "count" then return collectgarbage("count") end
        error("collectgarbage: only \"count\" is open to scripts", 2)
    end
    env.print = function(...)
        local parts = {}
        for i = 1, select("#", ...) do parts[i] = tostring((select(i, ...))) end
        gateway.log("info", table.concat(parts, "\t"))
    end
    env.require = function(name)
        if type(name) ~= "string" then error("require: the name must be a string", 2) end
        local module = loaded[name]
        if module == sandbox then error("require: module '" .. name .. "' requires itself", 2) end
        if module ~= nil then return module end
        local source, where = find_module(name)
        if not source and is_trusted then return require(name) end
        if not source then error("module '" .. name .. "' is not in lua_path:" .. where, 2) end
        local chunk, message = load(source, where, "t", env)
        if not chunk then error(message, 0) end
        loaded[name] = sandbox -- a mark that no module can be
        local result = chunk(name)
        if result == nil then result = true end
        loaded[name] = result
        return result
    end
    if is_trusted then trust(env, loaded) end
    return env
end

return sandbox
