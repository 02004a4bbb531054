local kit = require "fluxgate.testkit"

local function count(strategy, fleet, picks)
    local counts = {}
    for i = 1, #fleet do counts[fleet[i].id] = 0 end
    for _ = 1, picks do
        local id = strategy:pick(kit.request(), fleet).id
        counts[id] = counts[id] + 1
    end
    return counts
end

describe("weighted_random", function()
    before_each(function() kit.seed(1) end)

    it("answers nil when no endpoint is eligible", function()
        assert.is_nil(kit.strategy("weighted_random"):pick(kit.request(), kit.backends {}))
    end)

    -- Pearson's chi-square with 9 degrees of freedom: 27.9 is passed once in 1,000 by fair dice.
    it("gives each endpoint its weight's share", function()
        local rows, total, sum = {}, 0, 0
        for i = 1, 10 do rows[i], total = { id = "b" .. i, weight = i }, total + i end
        local fleet = kit.backends(rows)
        local counts = count(kit.strategy("weighted_random"), fleet, 20000)
        for i = 1, #fleet do
            local expected = 20000 * fleet[i].weight / total
            sum = sum + (counts[fleet[i].id] - expected) ^ 2 / expected
        end
        assert.is_true(sum < 27.9, "chi-square " .. sum)
    end)

    it("gives shares of weights that differ by a thousand", function()
        local fleet = kit.backends { { id = "a", weight = 1000 }, { id = "b" } }
        local counts = count(kit.strategy("weighted_random"), fleet, 100000)
        assert.is_true(counts.b > 60 and counts.b < 140, counts.b .. " of about 100")
    end)

    it("gives the share of one that left to the others", function()
        local fleet = kit.backends { { id = "a" }, { id = "b" }, { id = "c" } }
        local strategy = kit.strategy("weighted_random")
        count(strategy, fleet, 10)
        kit.set(fleet, "b", { state = "unhealthy" })
        local counts = count(strategy, fleet, 1000)
        assert.is_nil(counts.b)
        assert.is_true(math.abs(counts.a - 500) < 64) -- four standard deviations
    end)

    it("draws a retry by weight among those not tried", function()
        local fleet = kit.backends { { id = "a", weight = 8 }, { id = "b", weight = 3 }, { id = "c" } }
        local strategy, counts = kit.strategy("weighted_random"), { b = 0, c = 0 }
        for _ = 1, 4000 do
            local id = kit.pick(strategy, kit.request { tried = { fleet.a } }, fleet).id
            counts[id] = counts[id] + 1
        end
        assert.is_true(math.abs(counts.b - 3000) < 110) -- four standard deviations
    end)

    it("refuses an option and names its place in the YAML", function()
        local ok, message = pcall(kit.strategy, "weighted_random", { seed = 3 })
        assert.same({ false, "services.test.options.seed: no such option" }, { ok, message })
    end)
end)
