local kit = require "fluxgate.testkit"

local function fleet_of(count)
    local rows = {}
    for i = 1, count do rows[i] = {} end
    return kit.backends(rows)
end

local function highest(fleet)
    local most = 0
    for i = 1, #fleet do most = math.max(most, fleet[i].active) end
    return most
end

describe("power_of_two", function()
    before_each(function() kit.seed(1) end)

    it("answers nil when no endpoint is eligible", function()
        assert.is_nil(kit.strategy("power_of_two"):pick(kit.request(), kit.backends {}))
    end)

    it("gives weight 3 three times the load of weight 1", function()
        local strategy, fleet = kit.strategy("power_of_two"), kit.backends { { weight = 3 }, { weight = 1 } }
        for _ = 1, 400 do kit.begin(strategy:pick(kit.request(), fleet)) end
        assert.same({ 300, 100 }, { fleet[1].active, fleet[2].active })
    end)

    -- Mitzenmacher 2001: n balls in n bins; two choices leave ln ln n / ln 2 + O(1) = 2.8 + O(1) in the fullest bin,
    -- one choice ln n / ln ln n = 3.6 and more.
    it("fills the fullest of 1,000 with at most 4 of 1,000 requests, where a random draw needs more", function()
        local two, one = fleet_of(1000), fleet_of(1000)
        local strategy, random = kit.strategy("power_of_two"), kit.strategy("weighted_random")
        for _ = 1, 1000 do
            kit.begin(strategy:pick(kit.request(), two))
            kit.begin(random:pick(kit.request(), one))
        end
        assert.is_true(highest(two) <= 4, "two choices: " .. highest(two))
        assert.is_true(highest(one) > highest(two), "one choice: " .. highest(one))
    end)

    -- Berenbrink et al., "Balanced Allocations: The Heavily Loaded Case", 2000: the gap does not grow with the load.
    it("keeps the gap to the mean small however many requests are under way", function()
        local strategy, fleet = kit.strategy("power_of_two"), fleet_of(100)
        for _ = 1, 20000 do kit.begin(strategy:pick(kit.request(), fleet)) end
        assert.is_true(highest(fleet) - 200 <= 5, "gap " .. highest(fleet) - 200)
    end)

    it("uses an idle service by weight", function()
        local strategy, fleet = kit.strategy("power_of_two"), kit.backends { { id = "a", weight = 3 }, { id = "b" } }
        local counts = { a = 0, b = 0 }
        for _ = 1, 4000 do
            local id = strategy:pick(kit.request(), fleet).id
            counts[id] = counts[id] + 1
        end
        assert.is_true(math.abs(counts.a - 3000) < 110) -- four standard deviations
    end)

    it("never gives a retry the endpoint that was tried", function()
        local strategy, fleet = kit.strategy("power_of_two"), fleet_of(3)
        for _ = 1, 100 do
            assert.not_equal(fleet[2], kit.pick(strategy, kit.request { tried = { fleet[2] } }, fleet))
        end
    end)

    it("refuses an option and names its place in the YAML", function()
        local ok, message = pcall(kit.strategy, "power_of_two", { d = 3 })
        assert.same({ false, "services.test.options.d: no such option" }, { ok, message })
    end)
end)
