local kit = require "fluxgate.testkit"

local function count(strategy, fleet, picks)
    local counts = {}
    for _ = 1, picks do
        local backend = strategy:pick(kit.request(), fleet)
        counts[backend.id] = (counts[backend.id] or 0) + 1
    end
    return counts
end

describe("round_robin", function()
    before_each(function() kit.seed(1) end)

    it("answers nil when no endpoint is eligible", function()
        assert.is_nil(kit.strategy("round_robin"):pick(kit.request(), kit.backends {}))
    end)

    it("gives equal endpoints exactly equal counts", function()
        local fleet = kit.backends { { id = "a" }, { id = "b" }, { id = "c" } }
        assert.same({ a = 100, b = 100, c = 100 }, count(kit.strategy("round_robin"), fleet, 300))
    end)

    it("shares its turn with every other worker of the service", function()
        local fleet = kit.backends { { id = "a" }, { id = "b" }, { id = "c" } }
        local workers = { kit.strategy("round_robin"), kit.strategy("round_robin") }
        local counts = {}
        for i = 1, 300 do
            local backend = workers[i % 5 < 2 and 1 or 2]:pick(kit.request(), fleet)
            counts[backend.id] = (counts[backend.id] or 0) + 1
        end
        assert.same({ a = 100, b = 100, c = 100 }, counts)
    end)

    it("gives each endpoint its weight's share exactly", function()
        local fleet = kit.backends { { id = "a", weight = 5 }, { id = "b", weight = 2 }, { id = "c", weight = 1 } }
        assert.same({ a = 500, b = 200, c = 100 }, count(kit.strategy("round_robin"), fleet, 800))
    end)

    it("spreads a heavy endpoint's turns instead of running them together", function()
        local fleet = kit.backends { { id = "a", weight = 3 }, { id = "b", weight = 3 } }
        local strategy, order = kit.strategy("round_robin"), {}
        for i = 1, 6 do order[i] = strategy:pick(kit.request(), fleet).id end
        assert.equal("ababab", table.concat(order))
    end)

    -- Shares are whole turns of a round of at most 4096: the error is under half a turn for each endpoint.
    it("keeps the ratio of weights that have no common divisor within half a turn of its round", function()
        local fleet = kit.backends { { id = "a", weight = 65535 }, { id = "b", weight = 65534 }, { id = "c", weight = 6553 } }
        local counts = count(kit.strategy("round_robin"), fleet, 4096)
        assert.is_true(math.abs(counts.a - 4096 * 65535 / 137622) <= 1.5)
        assert.is_true(math.abs(counts.c - 4096 * 6553 / 137622) <= 1.5)
    end)

    it("goes on with the endpoints that are left after one fails its probes", function()
        local fleet = kit.backends { { id = "a" }, { id = "b" }, { id = "c" } }
        local strategy = kit.strategy("round_robin")
        count(strategy, fleet, 7)
        kit.set(fleet, "b", { state = "unhealthy" })
        local counts = count(strategy, fleet, 100)
        assert.same({ 50, 50, nil }, { counts.a, counts.c, counts.b })
    end)

    it("never gives a retry the endpoint that was tried", function()
        local fleet = kit.backends { { id = "a", weight = 8 }, { id = "b" }, { id = "c" } }
        local strategy = kit.strategy("round_robin")
        for _ = 1, 50 do
            assert.not_equal("a", kit.pick(strategy, kit.request { tried = { fleet.a } }, fleet).id)
        end
    end)

    it("refuses an option and names its place in the YAML", function()
        local ok, message = pcall(kit.strategy, "round_robin", { d = 3 })
        assert.same({ false, "services.test.options.d: no such option" }, { ok, message })
    end)
end)
