local kit = require "fluxgate.testkit"

describe("rate_limit", function()
    before_each(function() kit.seed(1) end)

    it("lets a burst pass, refuses the next with 429, and fills by its rate", function()
        local filter = kit.filter("rate_limit", { rate = "10/s", burst = 3 })
        for left = 2, 0, -1 do
            local got = kit.run(filter, {})
            assert.same({ 200, tostring(left), "3" }, { got.status, got.headers["ratelimit-remaining"], got.headers["ratelimit-limit"] })
        end
        local got = kit.run(filter, {})
        assert.same({ 429, "1", "0", "10;w=1;burst=3", "filter_denied" }, { got.status, got.headers["retry-after"],
            got.headers["ratelimit-remaining"], got.headers["ratelimit-policy"], got.reason })
        assert.is_nil(got.forwarded)
        kit.advance(0.1)
        assert.same({ 200, 429 }, { kit.run(filter, {}).status, kit.run(filter, {}).status })
    end)

    it("never lets more pass in a time than burst and rate allow", function()
        local filter, passed = kit.filter("rate_limit", { rate = "5/s", burst = 5 }), 0
        for _ = 1, 1000 do
            if kit.run(filter, {}).status == 200 then passed = passed + 1 end
            kit.advance(0.01)
        end
        assert.equal(math.floor(5 + 5 * 9.99), passed)
    end)

    it("counts clients by each key apart, and no value leads to another's bucket", function()
        local filter = kit.filter("rate_limit", { rate = "1/m", key = { "client_ip", "header:X-A", "cookie:b" } })
        local function ask(a, b) return kit.run(filter, { headers = { ["X-A"] = a, cookie = b and "b=" .. b } }).status end
        assert.same({ 200, 200, 200, 200 }, { ask("1", "2|3"), ask("1|2", "3"), ask("12"), ask() })
        assert.same({ 429, 429, 429, 429 }, { ask("1", "2|3"), ask("1|2", "3"), ask("12"), ask() })
    end)

    it("keeps long keys of clients out of shared memory", function()
        local filter = kit.filter("rate_limit", { rate = "1/m", key = "header:X-A" })
        kit.run(filter, { headers = { ["X-A"] = ("x"):rep(8000) } })
        local key = next(kit.dict("rate_limit").entries)
        assert.is_true(#key <= 64)
    end)

    it("denies a new client when the dictionary is full, unless told to allow", function()
        kit.dict("rate_limit", 0)
        local got = kit.run(kit.filter("rate_limit", { rate = "1/s" }), {})
        assert.same({ 503, nil }, { got.status, got.forwarded })
        assert.equal(200, kit.run(kit.filter("rate_limit", { rate = "1/s", when_full = "allow" }), {}).status)
    end)

    it("refuses rates, keys and costs that mean nothing", function()
        for _, options in ipairs { { rate = "fast" }, { rate = "0/s" }, { rate = "1/s", key = "body" }, {},
            { rate = "1/s", burst = 2, cost = 3 } } do
            assert.is_false(pcall(kit.filter, "rate_limit", options))
        end
    end)
end)
