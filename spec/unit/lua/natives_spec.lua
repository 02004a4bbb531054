local kit = require "fluxgate.testkit"

describe("what scripts call beside waiting", function()
    -- natives_test.c runs the same file in the gateway.
    it("is in the test kit what it is in the gateway", function()
        kit.filter("spec/support/natives_alike.lua")
        assert.same({ ["a,1"] = 3.5, ["b,true"] = 1 }, kit.metrics().alike_total)
        assert.same({ [""] = 5 }, kit.metrics().alike_depth)
        assert.same({
            a = { count = 8, sum = 16.1, buckets = { [-1] = 2, [0.5] = 5, [10] = 7 } },
            ["true"] = { count = 1, sum = 7, buckets = { [-1] = 0, [0.5] = 0, [10] = 1 } },
        }, kit.metrics().alike_sizes)
        assert.equal(1, kit.metrics().alike_seconds[""].buckets[0.25])
    end)

    it("lets a bucket's entry go once the bucket is full again", function()
        local dict = kit.dict("buckets", 2)
        assert.is_true((dict:take("a", 1, 10, 5)))
        assert.is_true((dict:take("b", 1, 10, 1)))
        assert.equal("full", select(2, dict:take("c", 1, 10)))
        kit.advance(2)
        assert.is_true((dict:take("c", 1, 10)))
        assert.equal("full", select(2, dict:take("d", 1, 10)))
        kit.advance(8)
        assert.is_true((dict:take("a", 1, 10, 10)))
    end)

    it("makes room of what expired before a dictionary is full", function()
        local dict = kit.dict("ttl", 2)
        assert.is_true(dict:set("a", 1, 5))
        assert.is_true(dict:set("b", 1))
        assert.equal("full", select(2, dict:set("c", 1)))
        kit.advance(5)
        assert.is_true(dict:set("c", 1))
        assert.equal(1, dict:get("b"))
    end)
end)
