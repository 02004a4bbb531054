-- luacheck: std +busted
-- Run it with: luajit /usr/bin/busted --lpath='./lua/?.lua' examples/strategies/header_affinity_spec.lua
local kit = require "fluxgate.testkit"

local FILE = "examples/strategies/header_affinity.lua"

local function tenant(name) return kit.request { headers = { ["X-Tenant"] = name } } end

-- value → endpoint id for `count` tenants.
local function assign(strategy, fleet, count)
    local map, load = {}, {}
    for i = 1, count do
        local id = strategy:pick(tenant("tenant-" .. i), fleet).id
        map[i], load[id] = id, (load[id] or 0) + 1
    end
    return map, load
end

describe("header_affinity", function()
    local strategy, fleet
    before_each(function()
        kit.seed(1)
        strategy = kit.strategy(FILE, { header = "X-Tenant" })
        fleet = kit.backends { { id = "a" }, { id = "b" }, { id = "c" }, { id = "d" } }
    end)

    it("sends a tenant to the same endpoint each time, in every worker", function()
        local other = kit.strategy(FILE, { header = "x-tenant" })
        for i = 1, 50 do
            assert.equal(strategy:pick(tenant("t" .. i), fleet), other:pick(tenant("t" .. i), fleet))
        end
    end)

    -- 4000 draws of p = 1/4: 1000 with a standard deviation of 27; the bound is five of them.
    it("spreads tenants evenly", function()
        local _, load = assign(strategy, fleet, 4000)
        for _, id in ipairs { "a", "b", "c", "d" } do assert.is_true(math.abs(load[id] - 1000) < 137) end
    end)

    -- 4000 draws of p = 3/6: 2000 with a standard deviation of 32.
    it("spreads tenants by weight", function()
        kit.set(fleet, "a", { weight = 3 })
        local _, load = assign(strategy, fleet, 4000)
        assert.is_true(math.abs(load.a - 2000) < 158)
    end)

    it("moves nobody but the tenants of an endpoint that leaves", function()
        local before = assign(strategy, fleet, 1000)
        kit.set(fleet, "b", { state = "gone" })
        local after = assign(strategy, fleet, 1000)
        for i = 1, 1000 do
            if before[i] ~= "b" then assert.equal(before[i], after[i]) end
        end
    end)

    it("spreads requests without the header by the fallback", function()
        local counts = {}
        for _ = 1, 40 do
            local id = strategy:pick(kit.request(), fleet).id
            counts[id] = (counts[id] or 0) + 1
        end
        assert.same({ a = 10, b = 10, c = 10, d = 10 }, counts)
    end)

    it("needs the name of the header", function()
        local ok, message = pcall(kit.strategy, FILE, {})
        assert.same({ false, "services.test.options.header: this option is needed" }, { ok, message })
    end)
end)
