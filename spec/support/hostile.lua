-- spec/support/hostile.lua: scripts that misbehave, as data. `pick` is the body of pick(self, request, backends); `more`
-- stands before it in the file, with the class S in reach. `is`: "stuck" (only leaving its state ends it), "slow" (the
-- soft budget or the hard one ends it), "full" (memory), "error" (it raises or answers nonsense), "harmless" (it must get
-- its own answer and find nothing: it answers nil where it got through), "early" (it was stuck before its first request).
local hostile = {}

local function add(is, name, pick, more)
    hostile[#hostile + 1] = { is = is, name = name, pick = pick, more = more or "" }
end

-- time
add("slow", "an endless loop", "while true do n = (n or 0) + 1 end")
add("stuck", "a compiled loop", "local x = 0 while true do x = x + 1 end")
add("stuck", "a compiled loop over its backends", "local x = 0 while true do x = x + backends[1].active end")
add("stuck", "a compiled loop that asks the clock", "while true do gateway.now() end")
add("slow", "a loop inside pcall", "while true do pcall(function() while true do n = (n or 0) + 1 end end) end")
add("stuck", "a compiled loop inside pcall",
    "while true do pcall(function() local x = 0 while true do x = x + 1 end end) end")
add("slow", "a loop inside the handler of xpcall", "xpcall(error, function() while true do n = (n or 0) + 1 end end)")
add("stuck", "a compiled loop in a coroutine",
    "coroutine.wrap(function() local x = 0 while true do x = x + 1 end end)()")
add("slow", "a coroutine that never ends", "local c = coroutine.wrap(function() while true do coroutine.yield() end end) "
    .. "while true do pcall(c) end")
add("slow", "tail calls without end", "local function f(n) return f(n + 1) end return f(1)")
add("slow", "a loop in a metamethod",
    "return setmetatable({}, { __index = function() local x = 0 while true do x = x + 1 end end }).x")
add("stuck", "a pattern that backtracks for ever",
    "return (('a'):rep(100)):find(('a-'):rep(60) .. 'b') and nil or backends[1]")
add("slow", "a sort by a comparison that never ends",
    "local t = {} for i = 1, 100 do t[i] = i end table.sort(t, function(a, b) while true do n = (n or 0) + 1 end end)")
add("slow", "a sort again and again", "local t = {} for i = 1, 1000 do t[i] = i end "
    .. "while true do table.sort(t, function(a, b) return a > b end) end")
add("slow", "gsub with a callback that never ends", "(('x'):rep(9)):gsub('.', function() while true do n = (n or 0) + 1 end end)")
add("slow", "chunks without end", "while true do load('return 1')() end")
add("slow", "a digest again and again", "local s = ('x'):rep(1e6) while true do gateway.sha256(s) end")
add("slow", "a compiled loop of native calls", "local s = ('x'):rep(1e6) while true do gateway.equal(s, s) end")
add("slow", "JSON again and again", "while true do cjson.decode(cjson.encode({ 1, 2, { 3 } })) end")

-- memory and depth
add("full", "a string that grows", "local s = 'x' while true do s = s .. s end")
add("full", "a string.rep bomb", "return ('x'):rep(1e9)")
add("full", "a string.rep bomb inside pcall", "pcall(string.rep, 'x', 1e9) return backends[1]")
add("full", "a table that grows", "local t = {} for i = 1, 1e9 do t[i] = { i } end")
add("error", "a JSON bomb", "local s, t = ('x'):rep(1e6), {} for i = 1, 1e4 do t[i] = s end return cjson.encode(t) and backends[1]")
add("full", "a table.new bomb", "require('table.new')(1e8, 0) return backends[1]")
add("full", "strings kept for ever",
    "kept = kept or {} for i = 1, 8 do kept[#kept + 1] = ('x'):rep(1e6) .. #kept end return backends[1]")
add("full", "closures kept in a coroutine that waits",
    "kept = kept or {} for i = 1, 8 do local c = coroutine.create(function() local s = ('x'):rep(1e6) .. #kept "
    .. "coroutine.yield() return s end) coroutine.resume(c) kept[#kept + 1] = c end return backends[1]")
add("error", "recursion", "local function f(n) return 1 + f(n + 1) end return f(1)")
add("error", "recursion by __index",
    "return setmetatable({}, { __index = function(t, k) return t[k .. 'x'] end }).x")
add("error", "recursion by __tostring",
    "return tostring(setmetatable({}, { __tostring = function(t) return tostring(t) .. 'x' end }))")
add("error", "recursion by gsub", "local function f() return (('x'):gsub('.', f)) end f() f()")
add("error", "recursion by sort", "local function f() table.sort({ 1, 2, 3 }, f) return true end f()")
add("error", "recursion by coroutines", "local function f() coroutine.wrap(f)() end f()")
add("error", "recursion by gsub in coroutines",
    "local function f() coroutine.wrap(function() ('x'):gsub('.', f) end)() end f()")
add("slow", "recursion inside pcall", "local function f() pcall(f) n = (n or 0) + 1 return f() end f()")
add("harmless", "text nested too deep for load",
    "if load(('('):rep(1e5)) or load('return ' .. ('{'):rep(1e5)) then return nil end return backends[1]")
add("harmless", "JSON nested too deep",
    "if pcall(cjson.decode, ('['):rep(1e5)) then return nil end return backends[1]")

-- errors and wrong answers
add("error", "an error", "error('no')")
add("error", "an error without a value", "error(nil)")
add("error", "an error with a table", "error({ code = 1 })")
add("error", "an error with a table that lies about its text",
    "error(setmetatable({}, { __tostring = function() while true do end end, __metatable = 'x' }))")
add("error", "a number for an answer", "return 1")
add("error", "true for an answer", "return true")
add("error", "a string for an answer", "return backends[1].id")
add("error", "a table that looks like a backend", "return { id = backends[1].id, host = 'x', port = 1 }")
add("error", "a table in a backend's shape by metatable", "return setmetatable({}, { __index = backends[1] })")
add("error", "the request for an answer", "return request")
add("error", "the array for an answer", "return backends")
add("error", "a function for an answer", "return self.pick")
add("error", "a counter for an answer", "return gateway.counter('x')")
add("error", "a yield", "coroutine.yield() return backends[1]")
add("error", "an error in on_result", "return backends[1]", "function S:on_result() error('no') end")
add("any", "an error in on_change", "return backends[1]", "function S:on_change() error('no') end")
add("stuck", "a compiled loop in on_result", "return backends[1]",
    "function S:on_result() local x = 0 while true do x = x + 1 end end")
add("early", "a compiled loop in on_change", "return backends[1]",
    "function S:on_change() local x = 0 while true do x = x + 1 end end")

-- what is not its own
add("error", "a write to a backend", "backends[1].weight = 5 return backends[1]")
add("error", "a write to a backend's handle", "backends[1].handle = 0 return backends[1]")
add("error", "a write to a new field of a backend", "backends[1].mine = 5 return backends[1]")
add("error", "a write to the request", "request.path = '/x' return backends[1]")
add("error", "a write to the request's handle", "request.handle = 1 return backends[1]")
add("error", "a write to the result", "return backends[1]", "function S:on_result(_, _, result) result.status = 1 end")
add("error", "a write to a counter", "gateway.counter('x').handle = 1 return backends[1]")
add("error", "a request kept past its life",
    "if self.kept then return self.kept.path and backends[1] end self.kept = request return backends[1]")
add("error", "a header of a request kept past its life",
    "if self.kept then return self.kept:header('host') and backends[1] end self.kept = request return backends[1]")
add("error", "CR and LF in a cookie", "request:set_cookie('a', 'x\\r\\nSet-Cookie: b=c') return backends[1]")
add("error", "CR and LF in a cookie's name", "request:set_cookie('a\\r\\nb', 'x') return backends[1]")
add("error", "CR and LF in a cookie's path", "request:set_cookie('a', 'x', { path = '/\\r\\nb' }) return backends[1]")
add("error", "a cookie that holds a NUL", "request:set_cookie('a', 'x\\0y') return backends[1]")
add("harmless", "its array emptied", "local first = backends[1] for i = #backends, 1, -1 do backends[i] = nil end "
    .. "self.first = self.first or first return self.first")
add("harmless", "its array made long", "local first = backends[1] for i = 1, 30 do backends[2 ^ i] = first end return first")
add("harmless", "its array with a metatable",
    "setmetatable(backends, { __index = error, __newindex = error, __len = error }) return backends[1]")
add("harmless", "globals overwritten",
    "pairs, ipairs, type, tostring, error, pcall, setmetatable, string, table, math, gateway, require, select = nil "
    .. "_G = nil return backends[1]")
add("harmless", "libraries overwritten",
    "for _, t in ipairs { string, table, math, bit, os, cjson, coroutine, gateway } do for k in pairs(t) do t[k] = nil end "
    .. "end return backends[1]")
add("harmless", "the metatable of strings",
    "if getmetatable('') or pcall(setmetatable, '', {}) or ('').dump then return nil end return backends[1]")
add("harmless", "metatables of views", "for _, v in ipairs { backends[1], request, gateway.QUEUE } do "
    .. "if type(getmetatable(v)) == 'table' or pcall(setmetatable, v, {}) or pcall(rawset, v, 'a', 1) then return nil end "
    .. "end return backends[1]")
add("harmless", "pointers out of views",
    "for _, f in ipairs { function() return backends[1][0] end, function() return backends[1] + 1 end, "
    .. "function() return request[1] end, function() return #request end, function() return request() end } do "
    .. "if pcall(f) then return nil end end return backends[1]")
add("harmless", "libraries by their names",
    "if io or debug or jit or ffi or package or newproxy or getfenv or setfenv or dofile or loadfile or module or "
    .. "os.execute or os.exit or os.remove or os.rename or os.getenv or os.tmpname or os.setlocale or string.dump or "
    .. "math.randomseed or _G.io or rawget(_G, 'debug') then return nil end return backends[1]")
add("harmless", "libraries by require",
    "for _, name in ipairs { 'ffi', 'io', 'debug', 'jit', 'jit.util', 'package', 'fluxgate.views', 'fluxgate.runtime', "
    .. "'ffi.view', '../ffi', 'fluxgate/views', '_G' } do if pcall(require, name) then return nil, name end end "
    .. "if require('os').execute or require('string').dump then return nil end return backends[1]")
add("harmless", "libraries by load", "local f = load('return io or debug or os.execute or ffi or jit or package') "
    .. "if f() or loadstring('return io or debug or jit')() then return nil end return backends[1]")
add("harmless", "bytecode", "for _, f in ipairs { load, loadstring } do if f('\\27LJ\\2\\2\\0\\0') then "
    .. "return nil end end if load('\\27LJ\\2\\2', 'x', 'b') or "
    .. "load('\\27LJ\\2\\2', 'x', 'bt') then return nil end return backends[1]")
add("harmless", "the collector", "if pcall(collectgarbage, 'stop') or pcall(collectgarbage, 'setpause', 1) or "
    .. "pcall(collectgarbage) then return nil end return backends[1]")
add("harmless", "a finaliser that never ends",
    "setmetatable({}, { __gc = function() while true do end end }) return backends[1]")
add("harmless", "words in the log without end", "for i = 1, 300 do gateway.log('warn', 'x') end return backends[1]")

-- at load: what stands in place of the file; `line` is the line that the complaint must name, where it names one
hostile.at_load = {
    { "an endless loop", "local x = 1\nwhile true do x = x + 1 end", line = 2 },
    { "an endless loop inside pcall", "local x = 1\nwhile true do pcall(function()\nwhile true do end\nend) end" },
    { "a pattern that backtracks for ever", "\n\nlocal x = (('a'):rep(100)):find(('a-'):rep(60) .. 'b')", line = 3 },
    { "an endless loop in new()", "return { pick = function() end, new = function()\nwhile true do end\nend }", line = 2 },
    { "a string.rep bomb", "local x = ('x'):rep(1e9)" },
    { "a table that grows", "local t = {}\nfor i = 1, 1e9 do t[i] = { i } end" },
    { "recursion", "local function f() return 1 + f() end\nf()", line = 1 },
    { "recursion by gsub", "local function f() return (('x'):gsub('.', f)) end\nf()", line = 1 },
    { "recursion by coroutines", "local function f() coroutine.wrap(f)() end\nf()", line = 1 },
    { "an error", "\nerror('no')", line = 2 },
    { "an error without a value", "\nerror(nil)" },
    { "an error with a hostile table", "error(setmetatable({}, { __tostring = function() while true do end end }))" },
    { "text that is no Lua", "local = 1", line = 1 },
    { "bytecode", "\27LJ\2\2\0\0" },
    { "nothing", "" },
    { "a number", "return 1" },
    { "a table without new", "return {}" },
    { "a class whose every field raises", "return setmetatable({}, { __index = function() error('no') end })", line = 1 },
    { "a new() that answers nothing", "return { new = function() end }" },
    { "an instance without pick", "return { new = function() return {} end }" },
    { "io", "local f = io.open('/etc/passwd')", line = 1 },
    { "os.execute", "os.execute('true')", line = 1 },
    { "ffi", "\nlocal ffi = require 'ffi'", line = 2 },
    { "debug", "debug.getregistry()", line = 1 },
    { "a metatable of nil", "getmetatable('').__index = nil", line = 1 },
    { "an api of the future", "return { api = 99, new = function() return {} end }" },
    { "an api that never answers", "return { api = setmetatable({}, { __tostring = function() while true do end end }), "
        .. "new = function() return {} end }" },
}

-- What filters and health policies do: a name and statements that fit into any function of theirs.
local LOOP = "local x = 0 while true do x = x + 1 end"
hostile.misdeeds = {
    { "a compiled loop", LOOP },
    { "a loop inside pcall", "while true do pcall(function() " .. LOOP .. " end) end" },
    { "a loop in a coroutine", "coroutine.wrap(function() " .. LOOP .. " end)()" },
    { "a loop of native calls", "local s = ('x'):rep(1e6) while true do gateway.equal(s, s) end" },
    { "a pattern that backtracks for ever", "return (('a'):rep(100)):find(('a-'):rep(60) .. 'b')" },
    { "a string.rep bomb", "return ('x'):rep(1e9)" },
    { "memory without end", "kept = kept or {} while true do kept[#kept + 1] = ('x'):rep(1e6) .. #kept end" },
    { "recursion", "local function f(n) return 1 + f(n + 1) end return f(1)" },
    { "recursion inside pcall", "local function f() pcall(f) n = (n or 0) + 1 return f() end f()" },
    { "an error without a value", "error(nil)" },
    { "an error that lies about its text",
        "error(setmetatable({}, { __tostring = function() while true do end end }))" },
    { "a wrong argument", "gateway.dict({})" },
}

return hostile
