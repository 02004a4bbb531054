-- What the gateway does with filters, good and bad: order, bodies, waits, reloads; and that the test kit says
-- the same.
local kit = require "fluxgate.testkit"
local support = require "spec.support"

local SHELL = [[
local F = { name = "own", api = 1 }
F.__index = F
function F.new() return setmetatable({}, F) end
%s
return F
]]

-- A filter file of the spec's own whose functions `body` defines on F.
local function filter(name, body) return support.file(name .. ".lua", SHELL:format(body)) end

local function route(path, filters, more)
    return ("  - { match: { path_prefix: %s }, %s, filters: [ %s ] }\n"):format(path, more or "service: web", filters)
end

local function config(backend, routes, more)
    more = more or {}
    return ([[
listeners: [ { address: "127.0.0.1:0" } ]
admin: { address: "127.0.0.1:0" }
workers: %d
routes:
%s  - { match: { path_prefix: / }, service: web }
services:
  web: { endpoints: [ "%s" ]%s }
%slog: { access: "%s/access.log" }
%s]]):format(more.workers or 1, routes, backend.address, more.web or "", more.services or "", support.dir(), more.top or "")
end

local function targets(backend)
    local seen = {}
    for i, request in ipairs(backend:requests()) do seen[i] = request.target end
    return seen
end

local function log_has(gateway, text)
    return support.wait_until("the log holds " .. text, function() return gateway:log():find(text, 1, true) end)
end

-- VmHWM of the worker, in MiB.
local function peak_mib(gateway)
    local status = support.read_file("/proc/" .. gateway:worker_pids()[1] .. "/status")
    return tonumber(status:match("VmHWM:%s*(%d+) kB")) / 1024
end

describe("filters", function()
    local web
    before_each(function() web = support.backend { id = "web" } end)
    after_each(support.finish)

    it("run the route's first, then the service's, and back again", function()
        local function marks(name)
            return filter(name, ([[
function F:on_request(r) r:add_header("x-in", "%s") end
function F:on_response(r, a) a:add_header("x-out", "%s") end]]):format(name, name))
        end
        local gateway = support.gateway { config = config(web, route("/", marks "one" .. ", " .. marks "two"),
            { web = (", filters: [ %s ]"):format(marks "three") }) }
        local _, headers = support.curl(gateway:url("/a"))
        assert.equal("three, two, one", headers["x-out"])
        assert.equal("one, two, three", web:requests()[1].header("x-in"))
    end)

    for _, case in ipairs {
        { "raise", "error('no')" }, { "raise nil", "error(nil)" },
        { "loop", "while true do (function() end)() end" }, { "loop inside pcall", "while true do pcall(error) end" },
        { "take all memory", "local t = {} for i = 1, 1e9 do t[i] = ('x'):rep(1000) .. i end" },
        { "recurse", "local function f() return 1 + f() end f()" },
    } do
        it("that " .. case[1] .. " let nothing through, and other routes go on", function()
            local gateway = support.gateway { config =
                config(web, route("/locked", filter("bad", "function F:on_request(r) " .. case[2] .. " end"))) }
            for _ = 1, 3 do
                local status = support.curl(gateway:url("/locked"))
                assert.is_truthy(status == 500 or status == 503, tostring(status))
                assert.equal(200, (support.curl(gateway:url("/open"))))
            end
            assert.same({ "/open", "/open", "/open" }, targets(web))
            support.wait_until("the metrics say filter_error", function()
                local count = gateway:metric("fluxgate_requests_failed_total", { reason = "filter_error" })
                return count == 3, count
            end)
        end)
    end

    it("that fail are named with file and line by the admin API, the page and `fluxgate status`", function()
        local gateway = support.gateway { config =
            config(web, route("/locked", filter("bad", "function F:on_request(r)\n    error('who is there')\nend"))) }
        assert.equal(500, (support.curl(gateway:url("/locked"))))
        local status = support.wait_until("control has heard of it", function()
            local _, _, body = support.curl(gateway:admin_url("/api/v1/status"))
            return body:find("who is there", 1, true) and body, body
        end)
        assert.truthy(status:find('bad.lua:5: who is there', 1, true), status)
        local _, _, page = support.curl(gateway:admin_url("/"))
        assert.truthy(page:find("bad.lua:5: who is there", 1, true))
        local text, code = support.command(support.fluxgate, "status", "--admin", gateway:admin_url(""))
        assert.equal(0, code, text)
        assert.truthy(text:find("bad.lua:5: who is there", 1, true), text)
    end)

    it("that fail are passed over where their use says so", function()
        local bad = filter("bad", "function F:on_request(r) error('no') end")
        local gateway = support.gateway { config = config(web, route("/", ("{ use: %s, on_error: skip }"):format(bad))) }
        assert.equal(200, (support.curl(gateway:url("/a"))))
    end)

    it("wait no longer than timeouts.filter", function()
        local slow = filter("slow", "function F:on_request(r) gateway.sleep(30) end")
        local gateway = support.gateway { config = config(web, route("/slow", slow), { top = "timeouts: { filter: 300ms }\n" }) }
        local status, _, body = support.curl(gateway:url("/slow"))
        assert.is_truthy(status == 500 or status == 503, tostring(status))
        assert.is_truthy(body:find("filter_error", 1, true))
        assert.same({}, targets(web))
    end)

    it("rewrite a request's body", function()
        local upper = filter("upper", [[
function F:on_request(r)
    local body, why = r:body()
    if not body then return r:answer(413, why) end
    r:set_body(body:upper() .. "!")
end]])
        local gateway = support.gateway { config = config(web, route("/", upper)) }
        web:set { default = { reply = "echo" } }
        local status, _, body = support.curl("-d", "hello", gateway:url("/a"))
        assert.same({ 200, "HELLO!" }, { status, body })
        status, _, body = support.curl("-H", "Transfer-Encoding: chunked", "-d", "hello", gateway:url("/a"))
        assert.same({ 200, "HELLO!" }, { status, body })
        local large = support.file("large", ("x"):rep(2 * 1024 * 1024))
        status, _, body = support.curl("--data-binary", "@" .. large, gateway:url("/a"))
        assert.same({ 413, "too large" }, { status, body })
    end)

    it("read a body that still arrives whole", function()
        local reads = filter("reads", [[
function F:on_request(r) r:set_header("x-len", tostring(#(r:body(r:header("x-max") and tonumber(r:header("x-max"))) or "none"))) end]])
        local gateway = support.gateway { config = config(web, route("/", reads)) }
        local bytes = {}
        for i = 1, 50000 do bytes[i] = ("%08d"):format(i) end
        local text = table.concat(bytes)
        local file = support.file("large", text)
        for _, max in ipairs { "1000000", "1000" } do -- whole; and past the filter's bound, as it streams
            for _, form in ipairs { "Expect: 100-continue", "Transfer-Encoding: chunked" } do
                assert.equal(200, (support.curl("-H", "X-Max: " .. max, "-H", form, "--data-binary", "@" .. file, gateway:url("/a"))))
            end
        end
        local want = support.shell("sha256sum < " .. file):match("%x+")
        local seen = web:requests()
        assert.equal(4, #seen)
        for i, request in ipairs(seen) do
            assert.same({ #text, want }, { request.body_bytes, request.body_sha256 })
            assert.equal(i <= 2 and "400000" or "4", request.header("x-len"))
        end
    end)

    it("change a large body as it streams, in bounded memory", function()
        local upper = filter("upper", [[
function F:on_response(r, a) a:on_body(function(chunk) return (chunk:upper()) end) end]])
        web:set { default = { body_bytes = 80 * 1024 * 1024 } }
        local gateway = support.gateway { config = config(web, route("/", upper)) }
        support.curl(gateway:url("/warm"))
        local before = peak_mib(gateway)
        local out = support.shell(("curl -sS --limit-rate 60M '%s' | tr -d X | wc -c"):format(gateway:url("/a")))
        assert.equal("0", out:match("%d+"))
        assert.is_true(peak_mib(gateway) - before < 40, "grew by " .. peak_mib(gateway) - before .. " MiB")
    end)

    it("let a HEAD say what a GET would, of a body that they change", function()
        local stage = filter("stage", "function F:on_response(r, a) a:on_body(function(c) return c .. c end) end")
        local zip = filter("zip", "function F:on_response(r, a) a:compress('gzip') end")
        web:set { default = { body = "made", headers = { { "ETag", '"1"' } } } }
        local gateway = support.gateway { config = config(web, route("/stage", stage) .. route("/zip", zip)) }
        for _, path in ipairs { "/stage", "/zip" } do
            local status, headers = support.curl("-I", gateway:url(path))
            assert.same({ 200, 'W/"1"' }, { status, headers.etag })
            assert.is_nil(headers["content-length"])
        end
        local _, headers = support.curl("-I", gateway:url("/plain"))
        assert.same({ "4", '"1"' }, { headers["content-length"], headers.etag })
    end)

    it("cut a body whose stage fails, so that the client sees it", function()
        local bad = filter("bad", [[
function F:on_response(r, a)
    local n = 0
    a:on_body(function(chunk) n = n + 1 if n == 2 then error("no") end return chunk end)
end]])
        web:set { default = { body_bytes = 1024 * 1024 } }
        local gateway = support.gateway { config = config(web, route("/", bad)) }
        for _, flag in ipairs { "--http1.1", "--http1.0" } do
            local status, _, code = support.curl(flag, gateway:url("/a"))
            assert.is_nil(status)
            assert.is_truthy(code == 18 or code == 56, "curl's code was " .. tostring(code))
        end
        support.wait_until("the metrics say filter_error", function()
            return gateway:metric("fluxgate_requests_failed_total", { reason = "filter_error" }) == 2
        end)
    end)

    it("see each request's end in on_log, answered or not", function()
        local logs = filter("logs", [[
function F:on_request(r) r.ctx.who = r:header("x-who") end
function F:on_log(r, a)
    local text = ("seen %s %s?%s %d %s"):format(tostring(r.ctx.who), r.path, r.query, a.status, tostring(a.reason))
    gateway.log("info", text .. (" by %s in %d"):format(tostring(a.endpoint), a.attempts))
end]])
        local gateway = support.gateway { config = config(web, route("/a", logs) .. route("/dead", logs, "service: dead"),
            { services = '  dead: { endpoints: [ "127.0.0.1:1" ] }\n' }) }
        support.curl("-H", "X-Who: ann", gateway:url("/a?b=c"))
        support.curl("-H", "X-Who: bob", gateway:url("/dead"))
        log_has(gateway, "seen ann /a?b=c 200 nil by " .. web.address .. " in 1")
        log_has(gateway, "seen bob /dead? 502 connect_refused by 127.0.0.1:1 in 3")
    end)

    it("move a request to another route and service", function()
        local other = support.backend { id = "other" }
        local moves = filter("moves", [[
function F:on_request(r)
    if r.path == "/a/route" then r:set_route("beta") end
    if r.path == "/a/service" then r:set_service("other") end
    if r.path == "/a/answer" then r:set_route("teapot") end
end]])
        local routes = route("/a", moves) ..
            "  - { name: beta, match: { path: /never }, service: other, rewrite: { add_prefix: /beta } }\n" ..
            "  - { name: teapot, match: { path: /never2 }, respond: { status: 418, body: tea } }\n"
        local gateway = support.gateway { config = config(web, routes,
            { services = ('  other: { endpoints: [ "%s" ] }\n'):format(other.address) }) }
        for _, path in ipairs { "/a/plain", "/a/route", "/a/service" } do support.curl(gateway:url(path)) end
        local status, _, body = support.curl(gateway:url("/a/answer"))
        assert.same({ 418, "tea" }, { status, body })
        assert.same({ "/a/plain" }, targets(web))
        assert.same({ "/beta/a/route", "/a/service" }, targets(other))
    end)

    it("see redirects and other answers of a route too", function()
        local marks = filter("marks", [[function F:on_response(r, a) a:set_header("x-mark", tostring(a.status)) end]])
        local gateway = support.gateway { config = config(web,
            route("/go", marks, 'redirect: { to: "https://a.example", status: 301 }')) }
        local status, headers = support.curl(gateway:url("/go/x"))
        assert.same({ 301, "https://a.example/go/x", "301" }, { status, headers.location, headers["x-mark"] })
    end)

    for _, waits in ipairs { false, true } do
        it("see what the gateway answers where no endpoint did" .. (waits and ", and may wait" or ""), function()
            web:set { default = { hold = true } }
            local marks = filter("marks", ([[
function F:on_response(r, a)
    if %s then gateway.sleep(0.01) end
    a:set_header("x-why", a.reason or "none")
    if r:header("x-page") then a:answer(410, "<h1>soon</h1>", { ["Content-Type"] = "text/html" }) end
end]]):format(waits))
            local services = ([[
  down: { endpoints: [ "127.0.0.1:%d" ] }
  empty: { discover: nobody }
  silent: { endpoints: [ "%s" ], timeouts: { response: 100ms }, retry: { attempts: 1 } }
  full: { endpoints: [ "%s" ], limits: { active_per_endpoint: 1, queue: 5, queue_timeout: 100ms } }
]]):format(support.free_port(), web.address, web.address)
            local routes = ""
            for _, name in ipairs { "down", "empty", "silent", "full" } do
                routes = routes .. route("/" .. name, marks, "service: " .. name)
            end
            local gateway = support.gateway { config = config(web, routes, { services = services,
                top = 'registry: { url: "http://127.0.0.1:' .. support.free_port() .. '" }\n' }) }
            local holds = support.open(gateway:port())
            holds:send("GET /full HTTP/1.1\r\nHost: a\r\n\r\n")
            support.wait_until("the one place is taken", function() return web:counts().active == 1 end)
            for _, case in ipairs {
                { "down", 502, "connect_refused" }, { "empty", 503, "no_endpoints" },
                { "silent", 504, "response_timeout" }, { "full", 503, "queue_timeout" },
            } do
                local url = gateway:url("/" .. case[1])
                local status, headers, body = support.curl(url)
                assert.same({ case[2], case[3] }, { status, headers["x-why"] })
                assert.truthy(body:find(case[3], 1, true), body)
                status, headers, body = support.curl("-d", "x=1", "-H", "X-Page: 1", url)
                assert.same({ 410, "text/html", "<h1>soon</h1>" }, { status, headers["content-type"], body }, case[1])
            end
            local connection = support.open(gateway:port()) -- more of its body would come, but nobody waits for that
            connection:send("POST /down HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
            local reply = connection:reply()
            assert.same({ 502, "connect_refused", "close" }, { reply.status, reply.headers["x-why"], reply.headers.connection })
            connection:close()
            support.wait_until("the log keeps each reason", function()
                local log = support.read_file(support.dir() .. "/access.log")
                local _, refused = log:gsub('reason="connect_refused"', "")
                local _, page = log:gsub('status=410 reason="[qrcn][%w_]+"', "")
                return refused == 3 and page == 4, log
            end)
            web:release()
            assert.equal(200, holds:reply().status)
        end)
    end

    it("let a WebSocket through, and may refuse it", function()
        web:set { default = { upgrade = "echo" } }
        local guards = filter("guards", [[
function F:on_response(r, a) if r:header("x-bad") then a:answer(403, "no") else a:set_header("x-mark", "1") end end]])
        local gateway = support.gateway { config = config(web, route("/", guards)) }
        local function ask(more)
            local connection = support.open(gateway:port())
            connection:send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n" .. more .. "\r\n")
            return connection
        end
        local refused = ask("X-Bad: 1\r\n"):reply()
        assert.same({ 403, "no" }, { refused.status, refused.body })
        local connection = ask("")
        local reply = connection:reply(true)
        assert.same({ 101, "1" }, { reply.status, reply.headers["x-mark"] })
        connection:close()
    end)

    it("name a tunnel's own request in on_log, whoever came meanwhile", function()
        web:set { default = { upgrade = "echo" } }
        local tells = filter("tells", [[
function F:on_log(r) gateway.log("info", ("over: %s %s%s %s"):format(r.method, r.host, r.path, r.id)) end]])
        local gateway = support.gateway { config = config(web, route("/", tells)) }
        local function ask(host, path)
            local connection = support.open(gateway:port())
            connection:send(("GET %s HTTP/1.1\r\nHost: %s\r\nX-Request-Id: %s\r\nConnection: upgrade\r\n"):format(path, host, host)
                .. "Upgrade: websocket\r\n\r\n")
            assert.equal(101, connection:reply(true).status)
            return connection
        end
        local first = ask("first.example", "/of-the-first")
        local second = ask("a-second.example", "/of-the-second/with/another/length")
        first:close()
        log_has(gateway, "over: GET first.example/of-the-first ")
        second:close()
        log_has(gateway, "over: GET a-second.example/of-the-second/with/another/length ")
    end)

    for _, workers in ipairs { 1, 2 } do
        it(("lose no request that waits in one while %d worker(s) reload"):format(workers), function()
            local waits = filter("waits", [[
function F:on_request(r) gateway.sleep(0.05) r:set_header("x-in", "1") end
function F:on_response(r, a) gateway.sleep(0.02) a:on_body(function(chunk) return (chunk:upper()) end) end]])
            local gateway = support.gateway { config = config(web, route("/", waits), { workers = workers }) }
            local load = support.load_start { url = gateway:url("/a"), duration = 30, concurrency = 20 }
            for _ = 1, 6 do assert.is_true((gateway:reload())) end
            local result = load:finish()
            assert.equal(0, result.failure_count)
            assert.equal(result.requests, result.statuses["200"])
            assert.equal(result.requests, result.bodies.WEB)
            gateway:expect_idle()
        end)
    end

    it("are not asked about a client that left meanwhile, whose request goes nowhere", function()
        local waits = filter("waits", "function F:on_request(r) gateway.sleep(20) end")
        local gateway = support.gateway { config = config(web, route("/", waits), { top = "timeouts: { filter: 30s }\n" }) }
        local out = support.shell(("curl -sS --max-time 0.3 '%s'"):format(gateway:url("/a")))
        assert.is_truthy(out:find("timed out"))
        support.wait_until("the access log has it", function()
            return support.read_file(support.dir() .. "/access.log"):find('status=499 reason="client_gone"', 1, true)
        end)
        assert.same({}, targets(web))
    end)
end)

-- Each case goes through the kit and through the gateway.
local CASES = {
    { "answers", "function F:on_request(r) r:answer(403, 'no', { ['X-Why'] = 'because' }) end" },
    { "answers 200", "function F:on_request(r) r:answer(200, 'mine') end" },
    { "raises", "function F:on_request(r) error('no') end" },
    { "raises in on_response", "function F:on_response(r, a) error('no') end" },
    { "edits headers", [[function F:on_request(r)
        r:set_header('X-A', '1') r:add_header('X-A', '2') r:remove_header('X-Gone') end]] },
    { "moves the path", "function F:on_request(r) r:set_path('/b/../c//%7ed') r:set_query('x=1') end" },
    { "asks with another method", "function F:on_request(r) r:set_method('PUT') r:set_body('new') end" },
    { "breaks a rule of paths", "function F:on_request(r) r:set_path('no') end" },
    { "breaks a rule of headers", "function F:on_request(r) r:set_header('Content-Length', '1') end" },
    { "splits a header", "function F:on_request(r) r:set_header('X-A', 'a\\r\\nB: c') end" },
    { "changes the status", "function F:on_response(r, a) a:set_status(203) a:set_header('X-B', 'b') end" },
    { "adds fields to the answer", "function F:on_response(r, a) a:add_header('X-B', 'b') a:add_header('X-B', 'c') end" },
    { "answers instead", "function F:on_response(r, a) a:answer(410, 'gone', { ['X-B'] = 'b' }) end" },
    { "changes the body", "function F:on_response(r, a) a:on_body(function(c, last) return c:upper() .. (last and '.' or '') end) end" },
    { "reads the request's body", "function F:on_request(r) r:set_header('X-Len', tostring(#(r:body() or ''))) end" },
    { "finds a body too large", "function F:on_request(r) r:set_header('X-Why', select(2, r:body(2))) end" },
    { "asks for less than no body", "function F:on_request(r) r:body(-1) end" },
    { "asks for a body of no number", "function F:on_request(r) r:body(0 / 0) end" },
    { "asks for the request's body too late", "function F:on_response(r, a) r:body() end" },
    { "reads the body that it set", "function F:on_request(r) r:set_body('own') r:set_header('X-A', r:body()) end" },
    { "sets a cookie as pick does", "function F:on_request(r) r:set_cookie('a', 'b') end" },
    { "names no route", "function F:on_request(r) r:set_route({}) end" },
    { "names no host", "function F:on_request(r) r:set_host('a b') end" },
    { "breaks a line in a host", "function F:on_request(r) r:set_host('a\\r\\nb') end" },
    { "names no method", "function F:on_request(r) r:set_method('G T') end" },
    { "tunnels", "function F:on_request(r) r:set_method('CONNECT') end" },
    { "breaks a query", "function F:on_request(r) r:set_query('a b') end" },
    { "climbs out of the path", "function F:on_request(r) r:set_path('/../../etc') end" },
    { "hides a NUL in the path", "function F:on_request(r) r:set_path('/a%00b') end" },
    { "puts a query into the path", "function F:on_request(r) r:set_path('/a?b') end" },
    { "answers with no status", "function F:on_request(r) r:answer(0 / 0) end" },
    { "answers with 101", "function F:on_request(r) r:answer(101) end" },
    { "answers with text for a status", "function F:on_request(r) r:answer('403', 'x') end" },
    { "answers with a table", "function F:on_request(r) r:answer(403, {}) end" },
    { "answers with a length of its own", "function F:on_request(r) r:answer(403, 'x', { ['Content-Length'] = '9' }) end" },
    { "answers with a split field", "function F:on_request(r) r:answer(403, 'x', { ['X-B'] = 'a\\nb' }) end" },
    { "answers 204 with a body", "function F:on_request(r) r:answer(204, 'x') end" },
    { "answers twice", "function F:on_request(r) r:answer(403, 'x') r:answer(404, 'y') end" },
    { "answers and fails", "function F:on_request(r) r:answer(200, 'x') error('no') end" },
    { "catches its own answer's error", "function F:on_request(r) pcall(r.answer, r, 99) r:set_header('X-A', 'on') end" },
    { "writes a view", "function F:on_request(r) r.method = 'GET' end" },
    { "reads what a view has not", "function F:on_request(r) return r.nothing end" },
    { "adds a number to a view", "function F:on_request(r) return r + 1 end" },
    { "names a field with a blank", "function F:on_request(r) r:set_header('X A', '1') end" },
    { "sets a field to a table", "function F:on_request(r) r:set_header('X-A', {}) end" },
    { "sets a field to a number", "function F:on_request(r) r:set_header('X-A', 5) end" },
    { "sets the host as a field", "function F:on_request(r) r:set_header('Host', 'x') end" },
    { "sets a status that has no body", "function F:on_response(r, a) a:set_status(204) end" },
    { "sets no status", "function F:on_response(r, a) a:set_status(0 / 0) end" },
    { "frames the answer", "function F:on_response(r, a) a:set_header('Content-Length', '1') end" },
    { "answers late", "function F:on_response(r, a) r:answer(200, 'x') end" },
    { "moves late", "function F:on_response(r, a) r:set_path('/x') end" },
    { "changes the request late", "function F:on_response(r, a) r:set_header('X-A', 'x') end" },
    { "has no function for a stage", "function F:on_response(r, a) a:on_body(1) end" },
    { "compresses by no encoding", "function F:on_response(r, a) a:compress('br') end" },
    { "compresses by no level", "function F:on_response(r, a) a:compress('gzip', 99) end" },
    { "yields", "function F:on_request(r) coroutine.yield() end" },
    { "sleeps for no number", "function F:on_request(r) gateway.sleep(0 / 0) end" },
    { "sleeps back in time", "function F:on_request(r) gateway.sleep(-1) r:set_header('X-A', 'x') end" },
    { "waits in a sort", "function F:on_request(r) table.sort({ 2, 1 }, function() gateway.sleep(0) end) end" },
    { "waits in a coroutine", "function F:on_request(r) assert(coroutine.resume(coroutine.create(function() gateway.sleep(0) end))) end" },
    { "asks no URL", "function F:on_request(r) gateway.fetch('ftp://x/') end" },
    { "keeps a table in ctx", "function F:on_request(r) r.ctx.a = { 'x' } end function F:on_response(r, a) a:set_header('X-B', r.ctx.a[1]) end" },
    { "replaces ctx", "function F:on_request(r) r.ctx = {} end" },
    { "sleeps", "function F:on_request(r) gateway.sleep(0.05) end function F:on_response(r, a) gateway.sleep(0.05) a:set_header('X-B', 'b') end" },
}
local SEEN = { "x-a", "x-len", "x-why", "x-gone" }
local GOT = { "x-b", "x-why" }

describe("the test kit", function()
    after_each(support.finish)

    it("says what the gateway does", function()
        local web = support.backend { id = "web", default = { body = "made" } }
        local routes, files = {}, {}
        for i, case in ipairs(CASES) do
            files[i] = filter("case" .. i, case[2])
            routes[i] = route("/case" .. i .. "/", files[i])
        end
        local gateway = support.gateway { config = config(web, table.concat(routes)) }
        for i, case in ipairs(CASES) do
            web:reset()
            local path = "/case" .. i .. "/x"
            local status, headers, body = support.curl("-X", "POST", "-d", "hello", "-H", "X-Gone: 1", gateway:url(path))
            local sent = web:requests()[1]
            kit.seed(1)
            local told = kit.run(kit.filter(files[i]), { method = "POST", path = path, body = "hello",
                headers = { ["x-gone"] = "1" } }, { status = 200, body = "made" })
            local real = { status = status, headers = {}, seen = {} }
            local kits = { status = told.status, headers = {}, seen = {} }
            for _, name in ipairs(GOT) do
                real.headers[name], kits.headers[name] = headers[name], told.headers[name]
            end
            if told.reason ~= "filter_error" then real.body, kits.body = body, told.body end
            if sent or told.forwarded then
                assert.is_truthy(sent and told.forwarded, case[1] .. ": one of them sent it on, the other did not")
                for _, name in ipairs(SEEN) do
                    real.seen[name], kits.seen[name] = sent.header(name), told.forwarded.headers[name]
                end
                real.method, kits.method = sent.method, told.forwarded.method
                real.sent, kits.sent = sent.body, told.forwarded.body
                real.target = sent.target
                kits.target = told.forwarded.path .. (told.forwarded.query ~= "" and "?" .. told.forwarded.query or "")
            end
            assert.same(kits, real, case[1])
        end
    end)
end)
