-- spec/support/hostile_filters.lua: filters that misbehave, as data: { name, callback, body }. `callback` is "on_request"
-- (nothing may reach the endpoint, the client gets 500 or more), "on_response" (500 or more, or a body that is cut),
-- "on_log" (nobody notices).
local filters = {}

local function add(callback, name, body) filters[#filters + 1] = { callback = callback, name = name, body = body } end
local function request(name, body) add("on_request", name, body) end
local function response(name, body) add("on_response", name, body) end

-- what errors are made of
request("raises a table", "error({})")
request("raises the request", "error(request)")
request("raises 30 MB of text", "error(('x'):rep(3e7))")
request("raises an object whose __tostring never ends",
    "error(setmetatable({}, { __tostring = function() while true do end end }))")
request("fails in the handler of its error", "xpcall(error, function() error('again') end) error('end')")

-- time and memory
request("loops where LuaJIT compiles", "local x = 0 while true do x = x + 1 end")
request("loops over its own view", "while true do request:header('x') end")
request("loops in pcall in a coroutine",
    "coroutine.wrap(function() while true do pcall(function() while true do end end) end end)()")
request("calls string.gsub from its callback", "local function f(s) return (s:gsub('.', f)) end f('x')")
request("resumes coroutines in coroutines", "local function f() return coroutine.wrap(f)() end f()")
request("holds back for ever", "while true do gateway.sleep(0) end")
request("fills ctx", "for i = 1, 1e12 do request.ctx[i] = ('x'):rep(i % 1000) end")
request("asks for a body larger than all memory", "request:answer(503, ('x'):rep(3e7))")
request("sets fields for ever", "for i = 1, 1e9 do request:set_header('x', ('v'):rep(1000)) end")
request("sets 10,000 fields", "for i = 1, 10000 do request:set_header('x-' .. i, ('v'):rep(100)) end")
request("spawns until it may not", "while gateway.spawn(function() gateway.sleep(0.2) end) do end error('end')")
request("spawns what spawns", "local function f() gateway.spawn(f) gateway.spawn(f) gateway.sleep(0) end f() error('end')")
request("spawns a loop", "gateway.spawn(function() while true do end end) error('end')")
request("fetches without end", "while true do gateway.fetch('service://web/free') end")
request("nests JSON", "require('cjson').decode(('['):rep(1e6))")
request("has a million label values",
    "M = M or gateway.metric('counter', 'many_total', 'h', { 'l' }) for i = 1, 1e6 do M:add(1, i) end error('end')")

-- waits where none may be
request("yields to the gateway", "coroutine.yield(1, {}, request)")
request("sleeps in a coroutine of its own", "coroutine.wrap(function() gateway.sleep(0) end)()")
request("sleeps in a callback of gsub", "('x'):gsub('.', function() gateway.sleep(0) end)")
request("sleeps until never", "gateway.sleep(0 / 0)")
request("resumes itself", "assert(coroutine.resume(coroutine.running()))")

-- views and arguments
request("adds to a view", "return request + 1")
request("writes a view", "request.method = 'X'")
request("replaces the metatable of views", "getmetatable(request).__index = function() return 'owned' end error('end')")
request("keeps a request", "KEPT = KEPT or request error(KEPT:header('host'))")
request("splits a field", "request:set_header('X', 'a\\r\\nb: c')")
request("hides a NUL in a path", "request:set_path('/a\\0b')")
request("splits the host", "request:set_host('a\\r\\nb')")
request("names a method that is a line", "request:set_method('GET / HTTP/1.1\\r\\n')")
request("frames the request", "request:set_header('Transfer-Encoding', 'chunked')")
request("answers with no status", "request:answer(0 / 0)")
request("answers, then loops", "request:answer(200, 'x') while true do end")
request("answers, then fails", "request:answer(200, 'x') error('end')")
request("asks for a body of no size", "request:body(-1)")
request("looks for a way out", "return require('../../etc/passwd') or require('ffi') or io.open('/etc/passwd')")
request("takes the libraries away", "string.rep = nil pcall = nil type = nil setmetatable = nil error('end')")

response("loops in on_response", "while true do end")
response("takes all memory in on_response", "local t = {} for i = 1, 1e12 do t[i] = { i } end")
response("frames the answer", "response:set_header('Content-Length', '1')")
response("sets no status", "response:set_status(101)")
response("adds 10,000 fields", "for i = 1, 10000 do response:add_header('x-' .. i, ('v'):rep(100)) end")
response("writes the endpoint", "response.backend.weight = 5")
response("answers through the request", "request:answer(200, 'x')")
response("has 10,000 stages", "for _ = 1, 10000 do response:on_body(function(c) return c end) end")
response("loops in a stage", "response:on_body(function() while true do end end)")
response("sleeps in a stage", "response:on_body(function() gateway.sleep(1) end)")
response("yields in a stage", "response:on_body(function() coroutine.yield() end)")
response("answers a table in a stage", "response:on_body(function() return {} end)")
response("uses its views in a stage", "response:on_body(function() response:set_header('x', 'y') end)")

add("on_log", "loops in on_log", "while true do end")
add("on_log", "fetches in on_log", "gateway.fetch('service://web/free')")
add("on_log", "raises in on_log", "error({})")
add("on_log", "takes all memory in on_log", "local t = {} for i = 1, 1e12 do t[i] = { i } end")

return filters
