-- Who is picked while endpoints fail: passive ejections and panic, with real binaries.
local support = require "spec.support"

local function config(list, more)
    local addresses = {}
    for i, backend in ipairs(list) do
        addresses[i] = ('{ id: %s, address: "%s" }'):format(backend.id, backend.address)
    end
    return ([[
listeners: [ { address: "127.0.0.1:0" } ]
admin: { address: "127.0.0.1:0" }
workers: 2
routes: [ { match: { path_prefix: / }, service: web } ]
services:
  web:
    endpoints: [ %s ]
%s]]):format(table.concat(addresses, ", "), more or "")
end

local function backends(count)
    local list = {}
    for i = 1, count do list[i] = support.backend { id = "b" .. i } end
    return list
end

-- { endpoint → how many of `count` requests it answered }
local function shares(gateway, count)
    local seen = {}
    for _ = 1, count do
        local _, _, body = support.curl(gateway:url("/"))
        local id = body:match("^(%w+)\n$") or "none"
        seen[id] = (seen[id] or 0) + 1
    end
    return seen
end

local function wait_total(gateway, name, value)
    support.wait_until(name .. " is " .. value, function()
        local now = gateway:metric("fluxgate_" .. name .. "_total", {})
        return now == value, now
    end)
end

describe("endpoints that fail", function()
    after_each(support.finish)

    it("are ejected for five failures in a row, though nothing probes", function()
        local list = backends(5)
        local gateway = support.gateway { config = config(list) }
        list[1]:unlisten()
        support.wait_until("b1 is ejected", function()
            shares(gateway, 5)
            local now = gateway:metric("fluxgate_ejections_total", {})
            return now == 1, now
        end)
        assert.same({ b2 = 5, b3 = 5, b4 = 5, b5 = 5 }, shares(gateway, 20))
    end)

    it("are ejected until half of them are left, and no further", function()
        local list = backends(5)
        local gateway = support.gateway { config = config(list) }
        for i = 1, 5 do list[i]:unlisten() end
        support.wait_until("two are ejected", function()
            shares(gateway, 5)
            local now = gateway:metric("fluxgate_ejections_total", {})
            return now == 2, now
        end)
        shares(gateway, 20)
        assert.equal(2, gateway:metric("fluxgate_service_endpoints", { service = "web", state = "ejected" }))
    end)

    it("are picked all the same where fewer than the panic share are healthy", function()
        local list = backends(3)
        local health = "    panic: 60%\n    health: { policy: http, path: /health, interval: 50ms, rise: 1, fall: 1 }\n"
        local gateway = support.gateway { config = config(list, health) }
        list[1]:set { health = 500 }
        support.wait_until("b1 is out", function()
            local now = gateway:metric("fluxgate_service_endpoints", { service = "web", state = "unhealthy" })
            return now == 1, now
        end)
        assert.same({ b2 = 10, b3 = 10 }, shares(gateway, 20)) -- two of three are more than 60 %
        list[2]:set { health = 500 }
        wait_total(gateway, "panics", 1)
        assert.same({ b1 = 10, b2 = 10, b3 = 10 }, shares(gateway, 30))
    end)
end)
