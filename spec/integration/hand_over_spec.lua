-- A worker that abandoned many Lua states drains by itself: what clients see of it, while requests of all kinds are under way.
local support = require "spec.support"

local STATES = 32 -- SCRIPT_STATES_MAX
local RUNAWAY = "return { new = function() return { pick = function() local x = 0 while true do x = x + 1 end end } end }"

local function get(connection, path, body)
    local reply, why = connection:request("GET " .. path .. " HTTP/1.1\r\nHost: x\r\n\r\n")
    assert(reply, why)
    assert.equal(200, reply.status)
    assert.equal(body .. "\n", reply.body)
    return reply
end

-- Workers by the log, in the order of their start.
local function started(gateway, worker)
    local pids = {}
    for _, event in ipairs(gateway:events("worker started")) do
        if tonumber(event.worker) == worker then pids[#pids + 1] = tonumber(event.pid) end
    end
    return pids
end

describe("a worker that abandoned many states", function()
    local a, b
    after_each(support.finish)

    local function start()
        a, b = support.backend { id = "a" }, support.backend { id = "b", rules = { ["/slow"] = { hold = true } } }
        local path, routes, services = support.file("runaway.lua", RUNAWAY), {}, {}
        for i = 1, STATES do
            routes[i] = ("  - { match: { path_prefix: /%d/ }, service: s%d }\n"):format(i, i)
            services[i] = ("  s%d: { endpoints: [ \"%s\" ], strategy: %s }\n"):format(i, a.address, path)
        end
        return support.gateway { config = ([[
listeners: [ { address: "127.0.0.1:0" } ]
admin: { address: "127.0.0.1:0" }
workers: 1
drain: { requests: 10m }
routes:
%s  - { match: { path_prefix: / }, service: ours }
services:
%s  ours: { endpoints: [ "%s" ] }
]]):format(table.concat(routes), table.concat(services), b.address) }
    end

    -- A request that its worker waits for.
    local function begin_slow(gateway)
        local slow = support.open(gateway:port(), { timeout = 60 })
        slow:send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        support.wait_until("the slow request is under way", function() return b:counts().active >= 1 end)
        return slow
    end

    local function abandon_all(gateway)
        local theirs = support.open(gateway:port(), { timeout = 20 })
        for i = 1, STATES do
            if get(theirs, "/" .. i .. "/", "a").headers.connection == "close" then
                theirs = support.open(gateway:port(), { timeout = 20 })
            end
        end
        support.wait_until("another worker stands in", function() return #started(gateway, 1) == 1 end, 20)
    end

    local function get_new(gateway)
        local new = support.open(gateway:port(), { timeout = 20 })
        get(new, "/", "b")
        new:close()
    end

    it("is replaced, and nobody is refused, cut off or kept waiting for it", function()
        local gateway = start()
        local load = support.load_start { url = gateway:url(), duration = 600, concurrency = 4, rate = 50 }
        local slow, idle = begin_slow(gateway), support.open(gateway:port())
        get(idle, "/", "b")
        abandon_all(gateway)
        assert.equal("", idle:read_all()) -- closed, and in no middle of anything

        -- the old one has a request that goes on
        for _ = 1, 3 do get_new(gateway) end
        assert.equal(1, #started(gateway, 0))

        b:release()
        local reply = slow:reply()
        assert.equal(200, reply.status)
        assert.equal("close", reply.headers.connection)
        support.wait_until("the successor is there and the other has left", function()
            return #started(gateway, 0) == 2 and #gateway:events("child ended") == 1
        end, 20)
        local new = support.open(gateway:port())
        get(new, "/", "b")
        -- and does not try what others found stuck; the quarantine of the last one has hardly begun
        get(new, "/" .. STATES .. "/", "a")

        local result = load:finish()

        assert.same({}, result.failures)
        assert.equal(0, result.replayed)
        assert.is_true(result.ok > 100)
        assert.equal(1, gateway:metric("fluxgate_worker_restarts_total"))
        assert.equal(STATES, gateway:metric("fluxgate_script_abandonments_total"))
    end)

    it("finishes its requests while a reload ends the one that stands in", function()
        local gateway = start()
        local load = support.load_start { url = gateway:url(), duration = 600, concurrency = 4, rate = 50 }
        local slow = begin_slow(gateway)
        abandon_all(gateway)
        assert.is_true((gateway:reload()))
        assert.is_true((gateway:reload()))
        -- somebody accepts for it, before and after it has left
        for _ = 1, 3 do get_new(gateway) end
        assert.equal(1, #started(gateway, 0))
        b:release()
        assert.equal(200, slow:reply().status)
        support.wait_until("the successor is there", function() return #started(gateway, 0) == 2 end, 20)
        for _ = 1, 3 do get_new(gateway) end
        support.wait_until("nobody stands in any more", function()
            local now, ever = #gateway:events("child ended"), 0
            for worker = 1, 63 do ever = ever + #started(gateway, worker) end
            return now == ever, now .. " of " .. ever
        end, 20)
        local result = load:finish()
        assert.same({}, result.failures)
        assert.equal(0, result.replayed)
        assert.equal(1, gateway:metric("fluxgate_worker_restarts_total"))
        assert.equal(2, gateway:metric("fluxgate_reloads_total"))
        assert.equal(0, gateway:stop())
    end)

    it("finishes its requests at SIGTERM, as does the one that stands in", function()
        local gateway = start()
        local slow = begin_slow(gateway)
        abandon_all(gateway)
        local theirs = support.open(gateway:port(), { timeout = 60 }) -- by the one that stands in
        theirs:send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        support.wait_until("its request is under way", function() return b:counts().active >= 2 end)
        gateway:signal("TERM")
        support.wait_until("it drains", function() return #gateway:events("draining") == 1 end)
        b:release()
        for _, connection in ipairs { slow, theirs } do
            local reply = connection:reply()
            assert.equal(200, reply.status)
            assert.equal("", connection:read_all()) -- closed, said or not: the word may come after the answer
        end
        assert.equal(0, gateway:wait(30))
        assert.same({}, gateway:survivors())
        assert.equal(0, #gateway:events("child did not end in time, it is killed"))
    end)
end)
