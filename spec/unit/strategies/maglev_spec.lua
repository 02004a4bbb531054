local kit = require "fluxgate.testkit"

local function fleet_of(count, weights)
    local rows = {}
    for i = 1, count do rows[i] = { id = ("b%03d"):format(i), weight = weights and weights[i] or 1 } end
    return kit.backends(rows)
end

local function request(i) return kit.request { headers = { ["X-User"] = "user-" .. i } } end

-- The lookup table as ids: its entries are what the paper's statistics are about.
local function entries(strategy, fleet)
    strategy:pick(request(1), fleet)
    local ids, counts = {}, {}
    for i, index in ipairs(strategy.entries) do
        ids[i] = fleet[index].id
        counts[ids[i]] = (counts[ids[i]] or 0) + 1
    end
    return ids, counts
end

describe("maglev", function()
    local by_user = { key = "header:X-User" }
    before_each(function() kit.seed(1) end)

    it("answers nil when no endpoint is eligible", function()
        assert.is_nil(kit.strategy("maglev"):pick(kit.request(), kit.backends {}))
    end)

    it("sends equal keys to one endpoint, in every gateway", function()
        local here, there = kit.strategy("maglev", by_user), kit.strategy("maglev", by_user)
        local a, b = fleet_of(7), fleet_of(7)
        for i = 1, 200 do assert.equal(here:pick(request(i), a).id, there:pick(request(i), b).id) end
    end)

    it("spreads keys by its table", function()
        local strategy, fleet, counts = kit.strategy("maglev", by_user), fleet_of(10), {}
        for i = 1, 4000 do
            local id = strategy:pick(request(i), fleet).id
            counts[id] = (counts[id] or 0) + 1
        end
        for id, count in pairs(counts) do assert.is_true(math.abs(count - 400) < 76, id .. ": " .. count) end -- four sigma
    end)

    -- NSDI 2016 §3.4: turns make the numbers of entries differ by at most one.
    it("gives equal endpoints equal numbers of entries, within one", function()
        for _, size in ipairs { 3, 10, 100 } do
            local _, counts = entries(kit.strategy("maglev"), fleet_of(size))
            for _, count in pairs(counts) do assert.is_true(math.abs(count - 65537 / size) <= 1) end
        end
    end)

    it("gives entries by weight", function()
        local _, counts = entries(kit.strategy("maglev"), fleet_of(3, { 5, 2, 1 }))
        for i, weight in ipairs { 5, 2, 1 } do
            assert.is_true(math.abs(counts["b00" .. i] - 65537 * weight / 8) <= 8)
        end
    end)

    -- NSDI 2016 §5.3: beside the entries of the one that left, a few per cent of the others change hands.
    it("moves few entries of the others when an endpoint leaves or joins", function()
        local strategy, fleet = kit.strategy("maglev"), fleet_of(10)
        local before = entries(strategy, fleet)
        kit.set(fleet, "b004", { state = "unhealthy" })
        local after, moved = entries(strategy, fleet), 0
        for i = 1, #before do
            if before[i] ~= "b004" and before[i] ~= after[i] then moved = moved + 1 end
        end
        assert.is_true(moved / #before < 0.06, moved / #before .. " of the entries moved")
        kit.set(fleet, "b004", { state = "healthy" })
        assert.same(before, (entries(strategy, fleet)))
    end)

    it("spreads requests without the key by its fallback", function()
        local strategy, fleet, counts = kit.strategy("maglev", by_user), fleet_of(3), {}
        for _ = 1, 300 do
            local id = strategy:pick(kit.request(), fleet).id
            counts[id] = (counts[id] or 0) + 1
        end
        assert.same({ b001 = 100, b002 = 100, b003 = 100 }, counts)
    end)

    it("gives a retry another endpoint, the same in every gateway", function()
        local here, there, fleet = kit.strategy("maglev", by_user), kit.strategy("maglev", by_user), fleet_of(5)
        for i = 1, 50 do
            local home = here:pick(request(i), fleet)
            there:pick(request(i), fleet)
            local fields = { headers = { ["X-User"] = "user-" .. i }, tried = { home } }
            local second = kit.pick(here, kit.request(fields), fleet)
            assert.not_equal(home, second)
            assert.equal(second, kit.pick(there, kit.request(fields), fleet))
        end
    end)

    for message, options in pairs {
        ["services.test.options.table_size: expected a prime, such as 16381, 65537 or 655373"] = { table_size = 65536 },
        ["services.test.options.key: expected client_ip, path, host, query, method, header:NAME, cookie:NAME or query:NAME"] =
            { key = "user" },
    } do
        it("refuses options with: " .. message, function()
            local ok, got = pcall(kit.strategy, "maglev", options)
            assert.same({ false, message }, { ok, got })
        end)
    end
end)
