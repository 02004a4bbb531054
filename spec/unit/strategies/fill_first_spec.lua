local kit = require "fluxgate.testkit"

local function actives(fleet)
    local list = {}
    for i = 1, #fleet do list[i] = fleet[i].active end
    return list
end

describe("fill_first", function()
    local fleet
    before_each(function()
        kit.seed(1)
        fleet = kit.backends { { id = "b" }, { id = "c" }, { id = "a" } }
    end)

    it("answers nil when no endpoint is eligible", function()
        assert.is_nil(kit.strategy("fill_first"):pick(kit.request(), kit.backends {}))
    end)

    it("fills the endpoints in the order of their ids, each up to its limit", function()
        local strategy = kit.strategy("fill_first", { limit = 10 })
        for _ = 1, 14 do kit.begin(strategy:pick(kit.request(), fleet)) end
        assert.same({ 10, 4, 0 }, actives(fleet))
    end)

    it("goes back to the first as soon as that has room", function()
        local strategy = kit.strategy("fill_first", { limit = 2 })
        for _ = 1, 3 do kit.begin(strategy:pick(kit.request(), fleet)) end
        kit.finish(fleet.a)
        assert.equal("a", strategy:pick(kit.request(), fleet).id)
    end)

    it("spreads what is beyond all limits", function()
        local strategy = kit.strategy("fill_first", { limit = 2 })
        for _ = 1, 12 do kit.begin(strategy:pick(kit.request(), fleet)) end
        assert.same({ 4, 4, 4 }, actives(fleet))
    end)

    it("lets requests wait where it was told to", function()
        local strategy = kit.strategy("fill_first", { limit = 1, when_full = "queue" })
        for _ = 1, 3 do kit.begin(strategy:pick(kit.request(), fleet)) end
        assert.equal(kit.QUEUE, strategy:pick(kit.request(), fleet))
        assert.is_nil(strategy:pick(kit.request(), kit.backends {}))
    end)

    it("passes over the endpoint that a retry has tried", function()
        local strategy = kit.strategy("fill_first", { limit = 10 })
        assert.equal("b", kit.pick(strategy, kit.request { tried = { fleet.a } }, fleet).id)
    end)

    it("refuses a limit below 1", function()
        local ok, message = pcall(kit.strategy, "fill_first", { limit = 0 })
        assert.same({ false, "services.test.options.limit: expected at least 1" }, { ok, message })
    end)
end)
