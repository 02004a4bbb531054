-- Every shipped strategy in the real gateway: one route and service each, two workers, three backends.
local support = require "spec.support"

local STRATEGIES = {
    { "round_robin" }, { "least_connections" }, { "sticky_sessions" }, { "weighted_random" }, { "power_of_two" },
    { "peak_ewma" }, { "maglev", "{ key: path }" }, { "consistent_hash", "{ key: 'header:X-User' }" },
    { "zone_aware", "{ min_local: 1 }" }, { "priority_failover" }, { "fill_first", "{ limit: 2 }" },
}

local function config(list)
    local routes, services = {}, {}
    local endpoints = ([[
    endpoints:
      - { id: a, address: "%s", zone: here }
      - { id: b, address: "%s", zone: there, weight: 2, metadata: { priority: "1" } }
      - { id: c, address: "%s", zone: there, metadata: { priority: "1" } }
]]):format(list[1].address, list[2].address, list[3].address)
    for i, row in ipairs(STRATEGIES) do
        local name, options = row[1], row[2] or "{}"
        routes[i] = ("  - { match: { path_prefix: /%s }, service: %s }\n"):format(name, name)
        services[i] = ("  %s:\n    strategy: %s\n    options: %s\n%s"):format(name, name, options, endpoints)
    end
    return ('listeners: [ { address: "127.0.0.1:0" } ]\nadmin: { address: "127.0.0.1:0" }\nzone: here\nroutes:\n%sservices:\n%s'):format(
        table.concat(routes), table.concat(services))
end

describe("a shipped strategy", function()
    local gateway

    setup(function()
        local list = { support.backend { id = "a" }, support.backend { id = "b" }, support.backend { id = "c" } }
        gateway = support.gateway { config = config(list), workers = 2 }
    end)
    teardown(support.finish)

    -- id → requests that it answered
    local function visits(path, count, header)
        local counts = {}
        for i = 1, count do
            local args = { gateway:url(path) }
            if header then args = { "-H", header:format(i), gateway:url(path) } end
            local status, _, body = support.curl(unpack(args))
            assert.equal(200, status)
            local id = body:gsub("%s", "")
            counts[id] = (counts[id] or 0) + 1
        end
        return counts
    end

    for _, row in ipairs(STRATEGIES) do
        it(row[1] .. " serves requests", function()
            local sum = 0
            for id, count in pairs(visits("/" .. row[1], 6)) do
                assert.is_truthy(id:find("^[abc]$"))
                sum = sum + count
            end
            assert.equal(6, sum)
        end)
    end

    it("consistent_hash keeps a header's value with one backend over 2 workers, and spreads the values", function()
        local used = {}
        for user = 1, 8 do
            local counts = visits("/consistent_hash", 6, "X-User: user-" .. user)
            local home = next(counts)
            assert.is_nil(next(counts, home), "user " .. user .. " went to more than one backend")
            used[home] = true
        end
        assert.is_truthy(next(used, next(used)), "all users went to one backend")
    end)

    it("maglev keeps a path with one backend over 2 workers", function()
        for path = 1, 4 do
            local counts = visits("/maglev/" .. path, 6)
            assert.is_nil(next(counts, next(counts)))
        end
    end)

    it("zone_aware stays in the gateway's own zone", function() assert.same({ a = 12 }, visits("/zone_aware", 12)) end)

    it("priority_failover uses the endpoint without a priority", function()
        assert.same({ a = 12 }, visits("/priority_failover", 12))
    end)

    it("fill_first leaves the others idle", function() assert.same({ a = 12 }, visits("/fill_first", 12)) end)

    it("raises no script error", function()
        assert.equal(0, #gateway:events("script error"))
        gateway:expect_idle()
    end)
end)

describe("peak_ewma", function()
    after_each(support.finish)

    it("leaves a backend that answers 503 at once, while the others take 20 ms, almost no traffic", function()
        local bad = support.backend { id = "bad", default = { status = 503 } }
        local good = support.backend { id = "good", default = { delay = 0.02 } }
        local also = support.backend { id = "also", default = { delay = 0.02 } }
        local gateway = support.gateway { workers = 2, config = ([[
listeners: [ { address: "127.0.0.1:0" } ]
routes: [ { match: { path_prefix: / }, service: web } ]
services:
  web: { strategy: peak_ewma, endpoints: [ "%s", "%s", "%s" ] }
]]):format(bad.address, good.address, also.address) }
        for _ = 1, 100 do support.curl(gateway:url()) end
        -- Two workers learn of it, then 1.5 % of 100 are probes: about 5; at random it were 33.
        assert.is_true(bad:counts().requests_seen <= 15, bad:counts().requests_seen .. " requests")
        -- One after the other, so that of two good ones the faster gets all that both are drawn for, and the slower a
        -- third of all: 33 ± 5.
        assert.is_true(good:counts().requests_seen >= 10 and also:counts().requests_seen >= 10)
    end)
end)
