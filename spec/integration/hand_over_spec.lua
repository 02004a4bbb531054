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
    after_each(support.finish)

    it("is replaced, and nobody is refused, cut off or kept waiting for it", function()
        local a, b = support.backend { id = "a" }, support.backend { id = "b", rules = { ["/slow"] = { hold = true } } }
        local path, routes, services = support.file("runaway.lua", RUNAWAY), {}, {}
        for i = 1, STATES do
            routes[i] = ("  - { match: { path_prefix: /%d/ }, service: s%d }\n"):format(i, i)
            services[i] = ("  s%d: { endpoints: [ \"%s\" ], strategy: %s }\n"):format(i, a.address, path)
        end
        local gateway = support.gateway { config = ([[
listeners: [ { address: "127.0.0.1:0" } ]
admin: { address: "127.0.0.1:0" }
workers: 1
routes:
%s  - { match: { path_prefix: / }, service: ours }
services:
%s  ours: { endpoints: [ "%s" ] }
]]):format(table.concat(routes), table.concat(services), b.address) }
        local load = support.load_start { url = gateway:url(), duration = 600, concurrency = 4, rate = 50 }
        local slow, idle, theirs = support.open(gateway:port(), { timeout = 60 }), support.open(gateway:port()),
            support.open(gateway:port(), { timeout = 20 })
        slow:send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        support.wait_until("the slow request is under way", function() return b:counts().active >= 1 end)
        get(idle, "/", "b")

        for i = 1, STATES do
            if get(theirs, "/" .. i .. "/", "a").headers.connection == "close" then
                theirs = support.open(gateway:port(), { timeout = 20 })
            end
        end
        support.wait_until("another worker stands in", function() return #started(gateway, 1) == 1 end, 20)
        assert.equal("", idle:read_all()) -- closed, and in no middle of anything

        -- the old one has a request that goes on
        for _ = 1, 3 do
            local new = support.open(gateway:port())
            get(new, "/", "b")
            new:close()
        end
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
end)
