local kit = require "fluxgate.testkit"

local PICKS = 20000

local function count(strategy, fleet, picks)
    local counts = {}
    for i = 1, #fleet do counts[fleet[i].id] = 0 end
    for _ = 1, picks or PICKS do
        local id = strategy:pick(kit.request(), fleet).id
        counts[id] = counts[id] + 1
    end
    return counts
end

local function fleet_of(count_of_them, odd)
    local rows = { odd }
    for i = 2, count_of_them do rows[i] = { latency_ewma = 0.01 } end
    odd.id = "odd"
    return kit.backends(rows)
end

describe("peak_ewma", function()
    before_each(function() kit.seed(1) end)

    it("answers nil when no endpoint is eligible", function()
        assert.is_nil(kit.strategy("peak_ewma"):pick(kit.request(), kit.backends {}))
    end)

    for _, size in ipairs { 2, 3, 10 } do
        it("leaves a slow one of " .. size .. " between 1 and 2.5 % of the traffic as its probe", function()
            local counts = count(kit.strategy("peak_ewma"), fleet_of(size, { latency_ewma = 5 }))
            local share = counts.odd / PICKS
            assert.is_true(share >= 0.01 and share <= 0.025, "share " .. share)
        end)
    end

    it("leaves a slow one of 100 a fifth of its fair share", function()
        local counts = count(kit.strategy("peak_ewma"), fleet_of(100, { latency_ewma = 5 }), 100000)
        assert.is_true(counts.odd >= 140 and counts.odd <= 260, counts.odd .. " of about 200")
    end)

    it("is not attracted by an endpoint that fails within 1 ms", function()
        local counts = count(kit.strategy("peak_ewma"), fleet_of(3, { latency_ewma = 0.001, failures = 1 }))
        assert.is_true(counts.odd / PICKS <= 0.025, counts.odd .. " picks")
    end)

    it("is not attracted by an endpoint that answers 503 within 1 ms, and takes it back after an answer", function()
        local strategy, fleet = kit.strategy("peak_ewma"), fleet_of(3, { latency_ewma = 0.001 })
        strategy:pick(kit.request(), fleet)
        strategy:on_result(kit.request(), fleet.odd, kit.result { status = 503 })
        assert.is_true(count(strategy, fleet).odd / PICKS <= 0.025)
        strategy:on_result(kit.request(), fleet.odd, kit.result { status = 200 })
        assert.is_true(count(strategy, fleet).odd / PICKS > 0.5)
    end)

    it("finds the one that works among many that fail", function()
        local fleet = kit.backends { { id = "a", failures = 9 }, { id = "b", failures = 9 }, { id = "c", failures = 9 },
            { id = "good", latency_ewma = 3 } }
        local counts = count(kit.strategy("peak_ewma"), fleet)
        assert.is_true(counts.good / PICKS > 0.9, counts.good .. " picks")
    end)

    it("still answers when all fail", function()
        local fleet = kit.backends { { id = "a", failures = 9 }, { id = "b", failures = 9 } }
        local counts = count(kit.strategy("peak_ewma"), fleet, 1000)
        assert.is_true(counts.a > 300 and counts.b > 300)
    end)

    -- Latency × requests: where one is four times as slow, four times as many wait at the others.
    it("balances requests under way against latency", function()
        local strategy, fleet = kit.strategy("peak_ewma"), kit.backends { { latency_ewma = 0.04 }, { latency_ewma = 0.01 } }
        for _ = 1, 1000 do kit.begin(strategy:pick(kit.request(), fleet)) end
        assert.is_true(math.abs(fleet[1].active - 200) <= 25, fleet[1].active .. " of about 200")
    end)

    it("uses equal endpoints at rest by weight", function()
        local fleet = kit.backends { { id = "a", weight = 300, latency_ewma = 0.01 }, { id = "b", weight = 100, latency_ewma = 0.01 } }
        local counts = count(kit.strategy("peak_ewma"), fleet)
        assert.is_true(math.abs(counts.a / PICKS - 0.75) < 0.02, counts.a .. " of about 15000")
    end)

    it("does not flood a newcomer", function()
        local counts = count(kit.strategy("peak_ewma"), fleet_of(4, { latency_ewma = 0 }))
        assert.is_true(math.abs(counts.odd / PICKS - 0.25) < 0.02, counts.odd .. " of about 5000")
    end)

    it("never gives a retry the endpoint that was tried", function()
        local strategy, fleet = kit.strategy("peak_ewma"), fleet_of(3, { latency_ewma = 0.001 })
        for _ = 1, 100 do assert.not_equal("odd", kit.pick(strategy, kit.request { tried = { fleet.odd } }, fleet).id) end
    end)

    it("refuses an option and names its place in the YAML", function()
        local ok, message = pcall(kit.strategy, "peak_ewma", { decay = "5s" })
        assert.same({ false, "services.test.options.decay: no such option" }, { ok, message })
    end)
end)
