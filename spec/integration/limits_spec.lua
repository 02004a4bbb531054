-- Limits that are exact over all workers, and the line of those who wait for them.
local support = require "spec.support"

local function config(list, limits, more)
    local addresses = {}
    for i, backend in ipairs(list) do addresses[i] = ('{ id: %s, address: "%s" }'):format(backend.id, backend.address) end
    more = more or {}
    return ([[
listeners: [ { address: "127.0.0.1:0" } ]
admin: { address: "127.0.0.1:0" }
workers: %d
routes: [ { match: { path_prefix: / }, service: web } ]
services:
  web:
    endpoints: [ %s ]
    limits: { %s }
%s]]):format(more.workers or 4, table.concat(addresses, ", "), limits, more.service or "")
end

-- A request on a connection of its own, so that the kernel spreads them over the workers.
local function ask(gateway, path, headers)
    local connection = support.open(gateway:port(), { timeout = 15 })
    connection:send(("GET %s HTTP/1.1\r\nHost: a\r\n%s\r\n"):format(path, headers or ""))
    return connection
end

local function wait_depth(gateway, depth)
    support.wait_until(depth .. " requests wait", function()
        local now = gateway:metric("fluxgate_queue_depth", { service = "web" })
        return now == depth, now
    end)
end

local function wait_seen(backend, count)
    support.wait_until(backend.id .. " has seen " .. count, function()
        local seen = backend:counts().requests_seen
        return seen == count, seen
    end)
end

local function failed(gateway, reason)
    return gateway:metric("fluxgate_requests_failed_total", { reason = reason }) or 0
end

-- Lets go of what the backends hold until every connection has its answer: { status → how many }.
local function drain(list, connections)
    local statuses, left = {}, {}
    for i, connection in ipairs(connections) do left[i] = connection end
    support.wait_until("everybody has an answer", function()
        for _, backend in ipairs(list) do backend:release() end
        for i = #left, 1, -1 do
            local reply = left[i]:reply(false, 0.05)
            if reply then
                statuses[reply.status] = (statuses[reply.status] or 0) + 1
                left[i]:close()
                table.remove(left, i)
            end
        end
        return #left == 0, #left .. " wait"
    end, 30)
    return statuses
end

local function targets(backend)
    local seen = {}
    for i, request in ipairs(backend:requests()) do seen[i] = request.target end
    return seen
end

describe("limits", function()
    local a, b
    before_each(function()
        a, b = support.backend { id = "a", default = { hold = true } }, support.backend { id = "b", default = { hold = true } }
    end)
    after_each(support.finish)

    it("never let an 11th request reach an endpoint, over 4 workers", function()
        a:set { default = { delay = 0.002 } }
        local gateway = support.gateway { config = config({ a }, "active_per_endpoint: 10, queue_timeout: 20s") }
        local result = support.load { url = gateway:url(), duration = 4, concurrency = 64 }
        assert.equal(0, result.failure_count)
        assert.equal(10, a:counts().peak)
        assert.equal(0, gateway:metric("fluxgate_queue_depth", { service = "web" }))
        gateway:expect_idle()
    end)

    it("never let an 11th request into a service of two endpoints", function()
        a:set { default = { delay = 0.002 } }
        b:set { default = { delay = 0.002 } }
        local gateway = support.gateway { config = config({ a, b }, "active: 10, queue_timeout: 20s") }
        local result = support.load { url = gateway:url(), duration = 4, concurrency = 64 }
        assert.equal(0, result.failure_count)
        assert.is_true(a:counts().peak <= 10 and b:counts().peak <= 10)
        gateway:expect_idle()
    end)

    it("count what is under way in the whole service", function()
        local gateway = support.gateway { config = config({ a, b }, "active: 3") }
        local all = {}
        for i = 1, 8 do all[i] = ask(gateway, "/" .. i) end
        wait_depth(gateway, 5)
        assert.equal(3, a:counts().active + b:counts().active)
        assert.equal(3, gateway:metric("fluxgate_queue_active", { service = "web" }))
        assert.same({ [200] = 8 }, drain({ a, b }, all))
        gateway:expect_idle()
    end)

    it("serve in the order of coming, whatever worker a request came to", function()
        local gateway = support.gateway { config = config({ a }, "active_per_endpoint: 1, queue_timeout: 30s") }
        local all, expected = {}, {}
        for i = 1, 16 do
            all[i], expected[i] = ask(gateway, "/" .. i), "/" .. i
            if i == 1 then wait_seen(a, 1) else wait_depth(gateway, i - 1) end
        end
        assert.same({ [200] = 16 }, drain({ a }, all))
        assert.same(expected, targets(a))
        assert.equal(15, gateway:metric("fluxgate_queue_wait_seconds_count", { service = "web" }))
        assert.is_true(gateway:metric("fluxgate_queue_wait_seconds_sum", { service = "web" }) > 0)
    end)

    it("end a wait with 503 queue_timeout", function()
        local gateway = support.gateway { config = config({ a }, "active_per_endpoint: 1, queue_timeout: 300ms") }
        local one = ask(gateway, "/1")
        wait_seen(a, 1)
        local status = support.curl(gateway:url("/2"))
        assert.equal(503, status)
        assert.equal(1, failed(gateway, "queue_timeout"))
        assert.equal(1, gateway:metric("fluxgate_queue_timed_out_total", { service = "web" }))
        assert.equal(0, gateway:metric("fluxgate_queue_depth", { service = "web" }))
        assert.same({ "/1" }, targets(a))
        assert.same({ [200] = 1 }, drain({ a }, { one }))
    end)

    it("answer 503 all_full at once where nobody may wait, and where the line is full", function()
        local gateway = support.gateway { config = config({ a }, "active_per_endpoint: 1, queue: 0") }
        local all = { ask(gateway, "/1") }
        wait_seen(a, 1)
        assert.equal(503, (support.curl(gateway:url("/2"))))
        assert.equal(1, failed(gateway, "all_full"))
        assert.is_true(gateway:reload(config({ a }, "active_per_endpoint: 1, queue: 2")))
        for i = 2, 3 do
            all[i] = ask(gateway, "/" .. i)
            wait_depth(gateway, i - 1)
        end
        assert.equal(503, (support.curl(gateway:url("/4"))))
        assert.equal(2, failed(gateway, "all_full"))
        assert.equal(2, gateway:metric("fluxgate_queue_refused_total", { service = "web" }))
        assert.same({ [200] = 3 }, drain({ a }, all))
    end)

    it("put a retry before those who wait for their first attempt", function()
        local gateway = support.gateway { config = config({ a, b }, "active_per_endpoint: 1, queue_timeout: 30s") }
        local all = { ask(gateway, "/retried") }
        support.wait_until("one endpoint has it", function() return a:counts().active + b:counts().active == 1 end)
        local first_on = a:counts().active == 1 and a or b
        local other = first_on == a and b or a
        all[2] = ask(gateway, "/2")
        wait_seen(other, 1)
        for i = 3, 5 do
            all[i] = ask(gateway, "/" .. i)
            wait_depth(gateway, i - 2)
        end
        first_on:close_all(true)
        support.wait_until("the retry waits too", function()
            local entered = gateway:metric("fluxgate_queue_entered_total", { service = "web" })
            return entered == 4, entered
        end)
        other:release()
        wait_seen(other, 2)
        assert.equal("/retried", targets(other)[2])
        assert.same({ [200] = 5 }, drain({ a, b }, all))
    end)

    it("let a session wait for its own server without holding up the others", function()
        local sticky = '    strategy: sticky_sessions\n    options: { secrets: ["one"] }\n'
        a:set { default = {} }
        b:set { default = {} }
        local gateway = support.gateway {
            config = config({ a, b }, "active_per_endpoint: 1, queue_timeout: 30s", { service = sticky }),
        }
        local _, headers, body = support.curl(gateway:url())
        local cookie = "Cookie: " .. headers["set-cookie"]:match("^[^;]+") .. "\r\n"
        local home, other = a, b
        if body:find("b") then home, other = b, a end
        home:reset() other:reset()
        home:set { default = { hold = true } }
        local all = { ask(gateway, "/1", cookie) }
        wait_seen(home, 1)
        all[2] = ask(gateway, "/2", cookie)
        wait_depth(gateway, 1)
        for _ = 1, 5 do assert.equal(other.id .. "\n", select(3, support.curl(gateway:url("/free")))) end
        assert.same({ [200] = 2 }, drain({ home }, all))
        assert.same({ "/1", "/2" }, targets(home))
    end)

    it("strand nobody when an endpoint dies", function()
        local health = "    health: { policy: http, path: /health, interval: 100ms, timeout: 300ms, rise: 1, fall: 2 }\n"
        local gateway = support.gateway {
            config = config({ a, b }, "active_per_endpoint: 1, queue_timeout: 30s", { service = health }),
        }
        local all = {}
        for i = 1, 8 do all[i] = ask(gateway, "/" .. i) end
        wait_depth(gateway, 6)
        a:unlisten()
        a:close_all(true)
        local statuses = drain({ b }, all)
        assert.equal(8, statuses[200])
        gateway:expect_idle()
    end)

    it("strand nobody when a reload raises, lowers or takes away a limit", function()
        local gateway = support.gateway { config = config({ a }, "active_per_endpoint: 1, queue_timeout: 30s") }
        local all = {}
        for i = 1, 12 do all[i] = ask(gateway, "/" .. i) end
        wait_depth(gateway, 11)
        assert.is_true(gateway:reload(config({ a }, "active_per_endpoint: 4, queue_timeout: 30s")))
        wait_seen(a, 4)
        wait_depth(gateway, 8)
        assert.is_true(gateway:reload(config({ a }, "active_per_endpoint: 2, queue_timeout: 30s")))
        assert.equal(4, a:counts().active)
        assert.is_true(gateway:reload(config({ a }, "active_per_endpoint: 0")))
        wait_seen(a, 12)
        wait_depth(gateway, 0)
        assert.same({ [200] = 12 }, drain({ a }, all))
        gateway:expect_idle()
    end)

    it("strand nobody when a worker that owns the head of the line is killed", function()
        local gateway = support.gateway { config = config({ a }, "active_per_endpoint: 2, queue_timeout: 30s") }
        local all = {}
        for i = 1, 24 do all[i] = ask(gateway, "/" .. i) end
        wait_depth(gateway, 22)
        for _, pid in ipairs { gateway:worker_pids()[1], gateway:worker_pids()[2] } do gateway:kill(pid, "KILL") end
        local answered = 0
        support.wait_until("everybody has an answer or lost its worker", function()
            a:release()
            for i = #all, 1, -1 do
                local reply = all[i]:reply(false, 0.05)
                if reply or all[i].closed then
                    answered = answered + (reply and reply.status == 200 and 1 or 0)
                    table.remove(all, i)
                end
            end
            return #all == 0, #all .. " wait"
        end, 30)
        wait_depth(gateway, 0)
        a:set { default = {} }
        a:release()
        for _ = 1, 10 do assert.equal(200, (support.curl(gateway:url()))) end
        assert.is_true(a:counts().peak <= 2 + 4, "the dead workers' requests may still be with the endpoint, no more")
    end)

    it("take who leaves out of the line", function()
        local gateway = support.gateway { config = config({ a }, "active_per_endpoint: 1, queue_timeout: 30s") }
        local one = ask(gateway, "/1")
        wait_seen(a, 1)
        local two = ask(gateway, "/2")
        wait_depth(gateway, 1)
        two:abort()
        wait_depth(gateway, 0)
        assert.equal(1, failed(gateway, "client_gone"))
        assert.same({ [200] = 1 }, drain({ a }, { one }))
        assert.same({ "/1" }, targets(a))
    end)
end)

describe("connections of a listener", function()
    after_each(support.finish)

    local yaml = [[
listeners: [ %s ]
admin: { address: "127.0.0.1:0" }
workers: 4
routes: [ { match: { path_prefix: / }, respond: { body: here } } ]
]]
    local PLAIN, SMALL = '{ address: "127.0.0.1:0" }', '{ address: "localhost:0", connections: 5 }'

    -- Opens `count` connections; how many were served.
    local function open(port, count, kept)
        local served = 0
        for _ = 1, count do
            local connection = support.open(port)
            local reply = connection:request("GET /")
            kept[#kept + 1] = connection
            if reply and reply.status == 200 then served = served + 1 end
        end
        return served
    end

    it("are limited over all workers, whatever the other listeners have", function()
        local gateway, kept = support.gateway { config = yaml:format(PLAIN .. ", " .. SMALL) }, {}
        local plain, small = gateway:port(1), gateway:port(2)
        assert.equal(5, open(small, 12, kept))
        assert.equal(12, open(plain, 12, kept))
        for _, connection in ipairs(kept) do connection:close() end
        support.wait_until("those shed are counted", function()
            local shed = gateway:metric("fluxgate_connections_closed_total", { reason = "limit" })
            return shed == 7, shed
        end)
        support.wait_until("the closed ones are off the count", function()
            local more = {}
            local served = open(small, 5, more)
            for _, connection in ipairs(more) do connection:close() end
            return served == 5, served
        end)
    end)

    it("keep their limit over a reload that changes the listeners' order", function()
        local gateway, kept = support.gateway { config = yaml:format(PLAIN .. ", " .. SMALL) }, {}
        local plain, small = gateway:port(1), gateway:port(2)
        assert.equal(3, open(small, 3, kept))
        assert.is_true((gateway:reload(yaml:format(SMALL .. ", " .. PLAIN))))
        assert.equal(2, open(small, 6, kept))
        assert.equal(6, open(plain, 6, kept))
        for _, connection in ipairs(kept) do connection:close() end
    end)
end)
