-- What dies, and what it may cost: a process of ours, a backend, the registry.
local support = require "spec.support"

local function config(list, more)
    local addresses = {}
    for i, backend in ipairs(list) do addresses[i] = '"' .. backend.address .. '"' end
    return ([[
listeners: [ { address: "127.0.0.1:0" } ]
admin: { address: "127.0.0.1:0" }
workers: 2
routes: [ { match: { path_prefix: / }, service: web } ]
services:
  web:
    endpoints: [ %s ]
    health: { policy: http, path: /health, interval: 100ms, timeout: 500ms, rise: 1, fall: 2 }
%s]]):format(table.concat(addresses, ", "), more or "")
end

local registry = [[
registry: { embedded: true, listen: { http: "127.0.0.1:0", grpc: "127.0.0.1:0" }, store: memory }
]]

local function discovering(more)
    return [[
listeners: [ { address: "127.0.0.1:0" } ]
admin: { address: "127.0.0.1:0" }
workers: 2
routes: [ { match: { path_prefix: / }, service: web } ]
services:
  web:
    discover: users
    health: { policy: http, path: /health, interval: 100ms, timeout: 500ms, rise: 1, fall: 2 }
]] .. (more or registry)
end

local function register(url, backend, name)
    local body = ('{"id":"%s","serviceName":"%s","host":"127.0.0.1","port":%d,"url":"http://%s","healthPath":"/health"}')
        :format(backend.id, name or "users", backend.port, backend.address)
    local status, _, answer = support.curl("-H", "Content-Type: application/json", "-d", body, url .. "/api/v1/services/register")
    assert.equal(201, status, answer)
end

local function serves(gateway, body)
    support.wait_until("the gateway serves " .. body, function()
        local _, _, got = support.curl(gateway:url())
        return got == body .. "\n", got
    end)
end

describe("under load", function()
    local list
    before_each(function() list = { support.backend { id = "a" }, support.backend { id = "b" } } end)
    after_each(support.finish)

    it("kill -9 of a worker costs its own connections alone, and its successor serves", function()
        local gateway = support.gateway { config = config(list) }
        local load = support.load_start { url = gateway:url(), duration = 60, concurrency = 8, rate = 400 }
        local pid = gateway:worker_pids()[1]
        gateway:kill(pid, "KILL")
        support.wait_until("a successor runs", function() return gateway:worker_pids()[1] ~= pid end)
        for _ = 1, 20 do assert.equal(200, (support.curl(gateway:url()))) end
        local result = load:finish()
        assert.is_true(result.failure_count <= 8, "more failures than connections")
        support.wait_until("no request of the dead one is counted as active", function()
            return gateway:metric("loadbalancer_backend_active_connections") == 0
        end)
        assert.equal(1, gateway:metric("fluxgate_worker_restarts_total"))
    end)

    it("kill -STOP of a worker: a sibling accepts what waits in its queue", function()
        local gateway = support.gateway { config = config(list), env = { FLUXGATE_WATCHDOG = "0" } }
        local pid = gateway:worker_pids()[1]
        gateway:kill(pid, "STOP")
        for _ = 1, 30 do assert.equal(200, (support.curl("--max-time", "20", gateway:url()))) end
        gateway:kill(pid, "CONT")
    end)

    it("kill -9 of control costs nothing, and its successor knows the endpoints", function()
        local gateway = support.gateway { config = config(list) }
        local load = support.load_start { url = gateway:url(), duration = 60, concurrency = 8, rate = 400 }
        local pid = gateway:control_pid()
        gateway:kill(pid, "KILL")
        support.wait_until("a successor runs", function() return gateway:control_pid() ~= pid end)
        support.wait_until("it answers", function()
            local ok, value = pcall(gateway.metric, gateway, "loadbalancer_backend_status")
            return ok and value == 2
        end)
        local result = load:finish()
        assert.equal(0, result.failure_count)
        assert.equal(result.requests, result.ok)
    end)

    it("kill -9 of a backend is seen by no client and by its health policy", function()
        local gateway = support.gateway { config = config(list) }
        support.wait_until("both are healthy", function() return gateway:metric("loadbalancer_backend_status") == 2 end)
        local load = support.load_start { url = gateway:url(), duration = 60, concurrency = 4, rate = 300 }
        list[1]:kill(list[1].pid, "KILL")
        support.wait_until("a left the rotation", function()
            return gateway:metric("loadbalancer_backend_status", { backend_id = list[1].address }) == 0
        end)
        local result = load:finish()
        assert.is_true(result.failure_count + result.requests - result.ok <= 4, "more than the requests in flight failed")
    end)

    it("kill -STOP of a backend ends in its probe's timeout and its requests in theirs", function()
        local gateway = support.gateway { config = config(list, "    timeouts: { response: 500ms }\n") }
        list[1]:signal("STOP")
        support.wait_until("a left the rotation", function()
            return gateway:metric("loadbalancer_backend_status", { backend_id = list[1].address }) == 0
        end)
        for _ = 1, 10 do assert.equal("b\n", (select(3, support.curl(gateway:url())))) end
        list[1]:signal("CONT")
        support.wait_until("a is back", function() return gateway:metric("loadbalancer_backend_status") == 2 end)
    end)

    it("a registry killed with -9 is started again, and traffic never pauses", function()
        local gateway = support.gateway { config = discovering() }
        register(gateway:registry_url(), list[1])
        serves(gateway, "a")
        local load = support.load_start { url = gateway:url(), duration = 60, concurrency = 4, rate = 300 }
        local pid = gateway:registry_pid()
        gateway:kill(pid, "KILL")
        support.wait_until("a successor runs", function() return gateway:registry_pid() ~= pid end)
        register(gateway:registry_url(), list[2])
        support.wait_until("the gateway picks b too", function()
            return select(3, support.curl(gateway:url())) == "b\n"
        end)
        local result = load:finish()
        assert.equal(0, result.failure_count)
        assert.equal(result.requests, result.ok)
    end)

    it("a durable registry has its instances again after kill -9", function()
        local store = support.dir() .. "/registry.db"
        local gateway = support.gateway { config = discovering(([[
registry: { embedded: true, listen: { http: "127.0.0.1:0", grpc: "127.0.0.1:0" }, store: "sqlite:%s" }
]]):format(store)) }
        register(gateway:registry_url(), list[1])
        serves(gateway, "a")
        local pid = gateway:registry_pid()
        gateway:kill(pid, "KILL")
        support.wait_until("the instance is there again", function()
            local _, _, body = support.curl(gateway:registry_url("/api/v1/services"))
            return gateway:registry_pid() ~= pid and body and body:find('"a"', 1, true), body
        end)
        serves(gateway, "a")
    end)

    it("a change at the registry reaches the gateway by the held request, and a deregistration too", function()
        local gateway = support.gateway { config = discovering((registry:gsub("store: memory", "%0, poll_interval: 1h"))) }
        register(gateway:registry_url(), list[1])
        serves(gateway, "a")
        register(gateway:registry_url(), list[2])
        support.wait_until("b is picked", function() return select(3, support.curl(gateway:url())) == "b\n" end)
        local status = support.curl("-X", "DELETE", gateway:registry_url("/api/v1/services/deregister/a"))
        assert.equal(204, status)
        support.wait_until("a is gone from the metrics", function()
            return not gateway:metrics():find('backend_id="a"', 1, true)
        end)
        for _ = 1, 6 do assert.equal("b\n", (select(3, support.curl(gateway:url())))) end
    end)

    it("an instance whose weight is set to 0 gets no new requests", function()
        local gateway = support.gateway { config = discovering() }
        register(gateway:registry_url(), list[1])
        register(gateway:registry_url(), list[2])
        support.wait_until("both serve", function() return gateway:metric("loadbalancer_backend_status") == 2 end)
        local status = support.curl("-X", "PATCH", "-H", "Content-Type: application/json", "-d", '{"weight":0}',
            gateway:registry_url("/api/v2/instances/a"))
        assert.equal(200, status)
        support.wait_until("a is out of rotation", function()
            return gateway:metric("loadbalancer_backend_status", { backend_id = "a" }) == 0
        end)
        for _ = 1, 6 do assert.equal("b\n", (select(3, support.curl(gateway:url())))) end
    end)

    it("a strategy that raises is served by the fallback and quarantined", function()
        local path = support.file("bad.lua", [[
local Bad = { name = "bad", api = 1 }
Bad.__index = Bad
function Bad.new() return setmetatable({}, Bad) end
function Bad:pick() error("no") end
return Bad
]])
        local gateway = support.gateway { config = config(list, "    strategy: " .. path .. "\n") }
        local result = support.load { url = gateway:url(), requests = 200, concurrency = 4 }
        assert.equal(200, result.ok)
        assert.is_true(gateway:metric("fluxgate_script_errors_total") > 0)
        assert.is_true(gateway:metric("fluxgate_script_quarantines_total") > 0)
    end)

    it("a worker that gets no CPU is not taken for one that is stuck", function()
        local path = support.file("busy.lua", [[
local Busy = { name = "busy", api = 1 }
Busy.__index = Busy
function Busy.new() return setmetatable({}, Busy) end
function Busy:on_request(request)
    local start = os.clock() -- CPU time
    while os.clock() - start < 0.03 do end
    return request:answer(418, "") -- which leaves the worker nothing to do
end
return Busy
]])
        local yaml, replaced = config(list):gsub("workers: 2", "workers: 1"):gsub("routes: %[",
            "%0 { match: { path_prefix: /busy }, service: web, filters: [ " .. path .. " ] },")
        assert.equal(1, replaced)
        local gateway = support.gateway { config = yaml }
        local pid = gateway:worker_pids()[1]
        support.command("renice", "-n", "19", "-p", pid)
        local cpu = support.command("taskset", "-cp", pid):match("(%d+)%D*$")
        support.command("taskset", "-cp", cpu, pid)
        for _ = 1, 3 do
            local hogs = {}
            for i = 1, 2 do
                hogs[i] = support.run { name = "hog", argv = { "taskset", "-c", cpu, "luajit", "-e", "while true do end" } }
            end
            local connection = support.open(gateway:port(), { timeout = 60 })
            connection:send("GET /busy HTTP/1.1\r\nHost: x\r\n\r\n")
            -- Twice the time of one that is stuck; past ten times of it patience ends in any case.
            local head = connection:read_until("\r\n\r\n", 2)
            for _, hog in ipairs(hogs) do hog:kill(hog.pid, "KILL") end
            assert.truthy((head or assert(connection:read_until("\r\n\r\n"))):find("HTTP/1.1 418 ", 1, true))
            connection:close()
            assert.equal(200, (support.curl(gateway:url())))
        end
        assert.same({}, gateway:events("child is stuck, it is killed"))
        assert.equal(pid, gateway:worker_pids()[1])
    end)

    it("a strategy that never returns costs no connection", function()
        local path = support.file("loop.lua", [[
local Loop = { name = "loop", api = 1 }
Loop.__index = Loop
function Loop.new() return setmetatable({}, Loop) end
function Loop:pick(request, backends)
    local x = 0
    while request.path == "/loop" do x = x + 1 end
    local forever = request.path == "/compiled"
    while forever do x = x + 1 end
    return backends[1]
end
return Loop
]])
        local gateway = support.gateway { config = config(list, "    strategy: " .. path .. "\n") }
        assert.equal(200, (support.curl(gateway:url())))
        assert.equal(200, (support.curl(gateway:url("/loop"))))
        assert.equal(200, (support.curl(gateway:url("/compiled"))))
        assert.is_true(gateway:metric("fluxgate_script_runaways_total") > 0)
        assert.equal(1, gateway:metric("fluxgate_script_abandonments_total"))
        assert.equal(0, gateway:metric("fluxgate_worker_restarts_total"))
        for _ = 1, 10 do assert.equal(200, (support.curl(gateway:url()))) end
    end)
end)
