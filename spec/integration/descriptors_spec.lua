-- A worker that runs out of descriptors says so, answers what it can, and recovers by itself.
local support = require "spec.support"

local function count_fds(pid)
    local text = support.shell("ls /proc/" .. pid .. "/fd | wc -l")
    return assert(tonumber(text:match("%d+")))
end

-- Lowers the soft limit of a running process to what it holds and `room` more.
local function leave(pid, room)
    local out, code = support.command("prlimit", "--pid", tostring(pid), ("--nofile=%d:"):format(count_fds(pid) + room))
    assert.equal(0, code, out)
end

local function start(backend)
    local gateway = support.gateway { workers = 1, config = ([[
listeners: [ { address: "127.0.0.1:0" } ]
admin: { address: "127.0.0.1:0" }
routes: [ { match: { path_prefix: / }, service: web } ]
services: { web: { endpoints: [ "%s" ], strategy: round_robin } }
]]):format(backend.address) }
    return gateway, gateway:worker_pids()[1]
end

local GET = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"

describe("a worker without descriptors", function()
    after_each(support.finish)

    it("sheds, counts it, and serves again once some came free", function()
        local gateway, pid = start(support.backend { id = "a" })
        local room = 6
        leave(pid, room)
        local held = {}
        for i = 1, room * 2 do held[i] = support.open(gateway:port()) end
        support.wait_until("accepting pauses", function()
            return gateway:log():match("accept paused"), gateway:log_tail(5)
        end)

        held[1]:send(GET) -- accepted, but no descriptor is left for the backend
        assert.matches("^HTTP/1.1 503 .*shed", assert(held[1]:read_until("shed")))
        local _, _, metrics = support.curl(gateway:admin_url("/metrics"))
        local refused = tonumber(metrics:match("\nfluxgate_connections_refused_total%S* (%d+)"))
        assert.is_true(refused > 0, "it is counted")

        for _, connection in ipairs(held) do connection:close() end
        support.wait_until("a request is answered again", function()
            local status = support.curl(gateway:url())
            return status == 200, status
        end)
        assert.is_true(gateway:is_running())
        assert.equal(pid, gateway:worker_pids()[1])
    end)

    it("takes them from idle connections for a new client", function()
        local gateway, pid = start(support.backend { id = "a" })
        local room = 6
        leave(pid, room)
        local idle = {}
        for i = 1, room * 3 do
            idle[i] = support.open(gateway:port())
            idle[i]:send(GET)
            assert.matches("200", assert(idle[i]:read_until("\r\n\r\na\n")), "client " .. i)
        end
        for _, connection in ipairs(idle) do connection:close() end
    end)
end)
