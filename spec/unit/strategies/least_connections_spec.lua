local kit = require "fluxgate.testkit"

describe("least_connections", function()
    before_each(function() kit.seed(1) end)

    it("answers nil when no endpoint is eligible", function()
        assert.is_nil(kit.strategy("least_connections"):pick(kit.request(), kit.backends {}))
    end)

    it("picks the endpoint with the fewest active requests", function()
        local fleet = kit.backends { { id = "a", active = 3 }, { id = "b", active = 1 }, { id = "c", active = 2 } }
        local strategy = kit.strategy("least_connections")
        for _ = 1, 10 do assert.equal("b", strategy:pick(kit.request(), fleet).id) end
    end)

    it("weighs the load: weight 3 holds three times the requests of weight 1", function()
        local strategy, fleet = kit.strategy("least_connections"), kit.backends { { weight = 3 }, { weight = 1 } }
        for _ = 1, 400 do kit.begin(strategy:pick(kit.request(), fleet)) end
        assert.same({ 300, 100 }, { fleet[1].active, fleet[2].active })
    end)

    it("keeps equal endpoints within one request of each other", function()
        local strategy, fleet = kit.strategy("least_connections"), kit.backends { {}, {}, {} }
        for _ = 1, 100 do kit.begin(strategy:pick(kit.request(), fleet)) end
        for i = 1, 3 do assert.is_true(fleet[i].active == 33 or fleet[i].active == 34) end
    end)

    it("uses an idle service evenly and not from its first endpoint on", function()
        local strategy, fleet = kit.strategy("least_connections"), kit.backends { {}, {}, {} }
        local counts = {}
        for _ = 1, 300 do
            local backend = strategy:pick(kit.request(), fleet)
            counts[backend.id] = (counts[backend.id] or 0) + 1
        end
        assert.same({ ["backend-1"] = 100, ["backend-2"] = 100, ["backend-3"] = 100 }, counts)
    end)

    it("uses an idle service by weight", function()
        local strategy, fleet = kit.strategy("least_connections"), kit.backends { { id = "a", weight = 3 }, { id = "b" } }
        local counts = { a = 0, b = 0 }
        for _ = 1, 400 do
            local id = strategy:pick(kit.request(), fleet).id
            counts[id] = counts[id] + 1
        end
        assert.same({ a = 300, b = 100 }, counts)
    end)

    it("refuses an option and names its place in the YAML", function()
        local ok, message = pcall(kit.strategy, "least_connections", { by = "cpu" })
        assert.same({ false, "services.test.options.by: no such option" }, { ok, message })
    end)
end)
