-- The integration harness (STYLE.md's manner: a claim a spec, no sleeps, every wait bounded).
--
--     local support = require "spec.support"
--     describe("the gateway", function()
--         after_each(support.finish)
--         it("forwards a GET", function()
--             local a = support.backend { id = "a" }
--             local gateway = support.gateway { config = ([[
--     listeners: [ { address: "127.0.0.1:0" } ]
--     routes: [ { match: { path_prefix: / }, service: web } ]
--     services: { web: { endpoints: [ "127.0.0.1:%d" ], strategy: round_robin } }
--     ]]):format(a.port) }
--             local status, headers, body = support.curl(gateway:url("/"))
--             assert.same({ 200, "a\n" }, { status, body })
--         end)
--     end)
--
-- FLUXGATE_BIN and FLUX_BIN name other programs than build/release/fluxgate and build/release/flux.
local cjson = require "cjson"
local socket = require "socket"
local stdlib = require "posix.stdlib"
local unistd = require "posix.unistd"

local http = require "spec.support.http"
local process = require "spec.support.process"

local support = {
    curl = http.curl, raw = http.raw, open = http.open, shell = http.shell, quote = http.quote,
    poll = process.poll, read_file = process.read_file, write_file = process.write_file,
}
support.fluxgate = os.getenv("FLUXGATE_BIN") or "build/release/fluxgate"
support.flux = os.getenv("FLUX_BIN") or "build/release/flux"
support.promtool = "promtool"
support.limit_s = 30

local scratch
local counts = {}

-- The directory of this spec's files; gone after finish().
function support.dir()
    scratch = scratch or assert(stdlib.mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/fluxgate-spec-XXXXXX"))
    return scratch
end

function support.file(name, text)
    local path = support.dir() .. "/" .. name
    process.write_file(path, text)
    return path
end

local function unique(name)
    counts[name] = (counts[name] or 0) + 1
    return counts[name] == 1 and name or name .. counts[name]
end

-- A TCP port of 127.0.0.1 that nothing listens on right now.
function support.free_port()
    local tcp = assert(socket.bind("127.0.0.1", 0))
    local _, port = tcp:getsockname()
    tcp:close()
    return tonumber(port)
end

function support.log_tails()
    local tails = {}
    for _, child in ipairs(process.live) do
        tails[#tails + 1] = ("--- %s (pid %d, %s)\n%s"):format(child.name, child.pid,
            child:is_running() and "running" or tostring(child.how), child:log_tail(20))
    end
    return table.concat(tails, "\n")
end

local function show(value)
    if type(value) ~= "table" then return tostring(value) end
    local ok, text = pcall(cjson.encode, value)
    return ok and text or tostring(value)
end

-- Polls fn until it returns something true, and returns that. fn may return a second value: what is printed,
-- with the tail of every log, when the claim did not come true within limit_s (30: a limit ends a spec that
-- fails, and is no claim).
function support.wait_until(claim, fn, limit_s)
    local value, last = process.poll(limit_s or support.limit_s, fn)
    if value then return value end
    local text = "not within %g s: %s\nlast value: %s\n%s"
    error(text:format(limit_s or support.limit_s, claim, show(last), support.log_tails()), 2)
end

-- Any program: { name, argv, env, cwd } → a Process (spec/support/process.lua).
function support.run(spec)
    spec.name, spec.dir = unique(spec.name or spec.argv[1]:match("[^/]+$")), support.dir()
    return process.start(spec)
end

-- One command to its end: output, exit code.
function support.command(...)
    local words = {}
    for _, word in ipairs { ... } do words[#words + 1] = http.quote(word) end
    return http.shell("exec timeout 20 " .. table.concat(words, " ") .. " < /dev/null")
end

-- A child whose first line of JSON names its ports; `order` speaks to its control port.
function support.helper(script, name, options, python)
    local argument = next(options) and cjson.encode(options) or "{}"
    local argv = { python or "python3", "spec/support/" .. script, argument }
    local child = support.run { name = name, argv = argv }
    local line = support.wait_until(name .. " listens", function()
        return child:log():match("^({[^\n]*})\n"), child:log_tail(5)
    end)
    for key, value in pairs(cjson.decode(line)) do child[key] = value end
    function child:order(order)
        local tcp = assert(socket.connect("127.0.0.1", self.control))
        tcp:settimeout(support.limit_s)
        assert(tcp:send(cjson.encode(order) .. "\n"))
        local line_back = assert(tcp:receive("*l"))
        local answer = cjson.decode(line_back)
        tcp:close()
        if answer.error then error(answer.error, 2) end
        return answer
    end
    -- Its end needs no ceremony: a spec that has killed or stopped a helper means no harm.
    function child:on_finish()
        self:kill(self.pid, "KILL")
        self:wait(5)
    end
    return child
end

support.backend = require("spec.support.backend")(support)

local fluxgate = require("spec.support.fluxgate")(support)
support.gateway, support.registry = fluxgate.gateway, fluxgate.registry
support.metric = fluxgate.metric -- of the text of /metrics, as gateway:metric

-- A registry of the old contract that can forget, fail and hang (fake_registry.py; with grpc = true
-- fake_registry_grpc.py). Options: fail, hang, v2, token, port; grpc also: refuse, not_found.
function support.fake_registry(options)
    options = options or {}
    local child
    if options.grpc then
        options.grpc = nil
        child = support.helper("fake_registry_grpc.py", "fake-registry", options, "/usr/bin/python3")
        child.url = "127.0.0.1:" .. child.port
    else
        child = support.helper("fake_registry.py", "fake-registry", options)
        child.url = "http://127.0.0.1:" .. child.port
    end
    function child:get() return self:order { op = "get" } end
    function child:ids()
        local ids = {}
        for i, instance in ipairs(self:get().instances) do ids[i] = instance.id end
        table.sort(ids)
        return ids
    end
    -- How many calls came whose "METHOD path" holds that text.
    function child:calls(text)
        local count = 0
        for _, call in ipairs(self:get().calls) do
            if (call.method .. " " .. call.path):find(text, 1, true) then count = count + 1 end
        end
        return count
    end
    function child:set(order)
        order.op = "set"
        return self:order(order)
    end
    function child:forget(id) return self:order { op = "forget", id = id } end
    return child
end

local load_flags = {
    requests = "--requests", duration = "--duration", concurrency = "--concurrency", rate = "--rate",
    timeout = "--timeout", method = "--method", host = "--host", body_bytes = "--body-bytes",
}

-- Load in the background: { url, requests | duration, concurrency, rate, headers, close, replay, … }
-- (load.py). It has begun when this returns. :finish() tells it to stop, :result() waits for its end; both
-- return the counts.
function support.load_start(options)
    local argv = { "python3", "spec/support/load.py", options.url }
    for key, flag in pairs(load_flags) do
        if options[key] then
            argv[#argv + 1] = flag
            argv[#argv + 1] = options[key]
        end
    end
    for _, header in ipairs(options.headers or {}) do
        argv[#argv + 1] = "--header"
        argv[#argv + 1] = header
    end
    if options.close then argv[#argv + 1] = "--close" end
    if options.replay then argv[#argv + 1] = "--replay" end
    local child = support.run { name = "load", argv = argv }
    support.wait_until("the load runs", function()
        return child:log():find("begun\n", 1, true), child:log_tail(5)
    end)
    function child:result(limit_s)
        local code = self:wait(limit_s or 120)
        local line = self:log():match("({[^\n]*})\n$")
        if code ~= 0 or not line then
            error("load ended with " .. tostring(code) .. ":\n" .. self:log_tail(20), 2)
        end
        local result = cjson.decode(line)
        result.failure_count = 0
        for _, count in pairs(result.failures) do result.failure_count = result.failure_count + count end
        return result
    end
    function child:finish(limit_s)
        self:signal("TERM")
        return self:result(limit_s)
    end
    return child
end

-- Load to its end: { requests, ok, statuses = { ["200"] = n }, bodies = { text = n }, failures = { reason = n
-- }, failure_count, p50_ms, p99_ms, … }.
function support.load(options) return support.load_start(options):result(options.limit) end

-- Ends everything that the spec started, newest first, and fails it where a process died of a signal nobody
-- sent, a sanitizer spoke, or a child outlived its parent. after_each(support.finish).
function support.finish()
    local bad = {}
    for i = #process.live, 1, -1 do
        local child = process.live[i]
        if child.on_finish then child:on_finish() else child:stop() end
        for _, complaint in ipairs(child:complaints()) do bad[#bad + 1] = complaint end
    end
    local tails = #bad > 0 and support.log_tails()
    process.live, counts = {}, {}
    if scratch then
        local keep = os.getenv("FLUXGATE_KEEP_SPEC_FILES")
        if not keep then os.execute("rm -rf " .. http.quote(scratch)) end
        scratch = nil
    end
    if #bad > 0 then error(table.concat(bad, "\n") .. "\n" .. tails, 0) end
end

support.pid = unistd.getpid
return support
