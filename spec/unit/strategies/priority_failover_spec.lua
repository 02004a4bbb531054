local kit = require "fluxgate.testkit"

local function ids_of(strategy, fleet, picks)
    local counts = {}
    for _ = 1, picks or 120 do
        local id = strategy:pick(kit.request(), fleet).id
        counts[id] = (counts[id] or 0) + 1
    end
    return counts
end

describe("priority_failover", function()
    local fleet
    before_each(function()
        kit.seed(1)
        fleet = kit.backends { { id = "main1" }, { id = "main2", metadata = { priority = 0 } },
            { id = "spare1", metadata = { priority = 1 } }, { id = "spare2", metadata = { priority = "1" } },
            { id = "last", metadata = { priority = 2 } } }
    end)

    it("answers nil when no endpoint is eligible", function()
        assert.is_nil(kit.strategy("priority_failover"):pick(kit.request(), kit.backends {}))
    end)

    it("uses the lowest number alone, an endpoint without one counting as 0", function()
        assert.same({ main1 = 60, main2 = 60 }, ids_of(kit.strategy("priority_failover"), fleet))
    end)

    it("goes from number to number as they fail, and back", function()
        local strategy = kit.strategy("priority_failover")
        kit.set(fleet, "main1", { state = "unhealthy" })
        assert.same({ main2 = 120 }, ids_of(strategy, fleet))
        kit.set(fleet, "main2", { state = "unhealthy" })
        assert.same({ spare1 = 60, spare2 = 60 }, ids_of(strategy, fleet))
        kit.set(fleet, "spare1", { state = "unhealthy" })
        kit.set(fleet, "spare2", { state = "unhealthy" })
        assert.same({ last = 120 }, ids_of(strategy, fleet))
        kit.set(fleet, "main1", { state = "healthy" })
        assert.same({ main1 = 120 }, ids_of(strategy, fleet))
    end)

    it("lets the next number join while fewer than min_available are left", function()
        local strategy = kit.strategy("priority_failover", { min_available = 2 })
        assert.same({ main1 = 60, main2 = 60 }, ids_of(strategy, fleet))
        kit.set(fleet, "main2", { state = "unhealthy" })
        assert.same({ main1 = 40, spare1 = 40, spare2 = 40 }, ids_of(strategy, fleet))
    end)

    it("goes by the option before the metadata", function()
        local strategy = kit.strategy("priority_failover", { priorities = { last = -1 } })
        assert.same({ last = 120 }, ids_of(strategy, fleet))
    end)

    it("gives a retry the best number that was not tried", function()
        local strategy = kit.strategy("priority_failover")
        strategy:pick(kit.request(), fleet)
        assert.equal("main2", kit.pick(strategy, kit.request { tried = { fleet.main1 } }, fleet).id)
        local other = kit.pick(strategy, kit.request { tried = { fleet.main1, fleet.main2 } }, fleet)
        assert.is_truthy(other.id:find("^spare"))
    end)

    for message, options in pairs {
        ["services.test.options.priorities: expected numbers by endpoint id, such as { a: 0, b: 1 }"] = { priorities = { a = "x" } },
        ["services.test.options.min_available: expected at least 1"] = { min_available = 0 },
    } do
        it("refuses options with: " .. message, function()
            local ok, got = pcall(kit.strategy, "priority_failover", options)
            assert.same({ false, message }, { ok, got })
        end)
    end
end)
