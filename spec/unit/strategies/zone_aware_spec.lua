local kit = require "fluxgate.testkit"

local function zones_of(strategy, fleet, picks)
    local counts = { a = 0, b = 0 }
    for _ = 1, picks or 300 do
        local zone = strategy:pick(kit.request(), fleet).zone
        counts[zone] = counts[zone] + 1
    end
    return counts
end

describe("zone_aware", function()
    local fleet
    before_each(function()
        kit.seed(1)
        fleet = kit.backends { { id = "a1", zone = "a" }, { id = "a2", zone = "a" }, { id = "b1", zone = "b" },
            { id = "b2", zone = "b" }, { id = "b3", zone = "b" } }
    end)

    it("answers nil when no endpoint is eligible", function()
        assert.is_nil(kit.strategy("zone_aware", { zone = "a" }):pick(kit.request(), kit.backends {}))
    end)

    it("keeps every request in its own zone", function()
        assert.same({ a = 300, b = 0 }, zones_of(kit.strategy("zone_aware", { zone = "a" }), fleet))
    end)

    it("uses all zones evenly while its own has fewer than min_local, and comes back", function()
        local strategy = kit.strategy("zone_aware", { zone = "a", min_local = 2, strategy = "round_robin" })
        assert.same({ a = 300, b = 0 }, zones_of(strategy, fleet))
        kit.set(fleet, "a1", { state = "unhealthy" })
        assert.same({ a = 75, b = 225 }, zones_of(strategy, fleet))
        kit.set(fleet, "a1", { state = "healthy" })
        assert.same({ a = 300, b = 0 }, zones_of(strategy, fleet))
    end)

    it("leaves its zone when nobody is left there", function()
        local strategy = kit.strategy("zone_aware", { zone = "a" })
        kit.set(fleet, "a1", { state = "unhealthy" })
        kit.set(fleet, "a2", { state = "draining" })
        assert.same({ a = 0, b = 300 }, zones_of(strategy, fleet))
    end)

    it("keeps a retry in the zone, and lets it out when the zone was tried", function()
        local strategy = kit.strategy("zone_aware", { zone = "a" })
        strategy:pick(kit.request(), fleet)
        assert.equal("a2", kit.pick(strategy, kit.request { tried = { fleet.a1 } }, fleet).id)
        assert.equal("b", kit.pick(strategy, kit.request { tried = { fleet.a1, fleet.a2 } }, fleet).zone)
        assert.equal("a1", kit.pick(strategy, kit.request { tried = { fleet.a2 } }, fleet).id)
    end)

    it("hands results to the strategy that it is made with", function()
        local strategy = kit.strategy("zone_aware", { zone = "a", strategy = "peak_ewma" })
        strategy:pick(kit.request(), fleet)
        strategy:on_result(kit.request(), fleet.a1, kit.result { status = 503 })
        local counts = { a1 = 0, a2 = 0 }
        for _ = 1, 1000 do
            local id = strategy:pick(kit.request(), fleet).id
            counts[id] = counts[id] + 1
        end
        assert.is_true(counts.a1 < 50)
    end)

    for message, options in pairs {
        ["services.test.options.zone: this option is needed: the gateway's own `zone` is not set"] = {},
        ["services.test.options.min_local: expected at least 1"] = { zone = "a", min_local = 0 },
        ["services.test.options.strategy: there is no strategy 'fastest'"] = { zone = "a", strategy = "fastest" },
    } do
        it("refuses options with: " .. message, function()
            local ok, got = pcall(kit.strategy, "zone_aware", options)
            assert.same({ false, message }, { ok, got })
        end)
    end
end)
