local kit = require "fluxgate.testkit"

describe("mirror", function()
    before_each(function() kit.seed(1) end)

    it("sends a copy beside the request, without its credentials", function()
        kit.on_fetch("^service://shadow/", { status = 500, delay = 3 })
        local before = kit.now()
        local got = kit.run(kit.filter("mirror", { service = "shadow" }), { method = "POST", path = "/a", query = "b=1",
            body = "hi", headers = { ["Content-Length"] = "2", Cookie = "s=1", ["X-A"] = "1" } })
        assert.same({ 200, "hi", before }, { got.status, got.forwarded.body, kit.now() })
        local copy = kit.fetched()[1]
        assert.same({ "service://shadow/a?b=1", "POST", "hi", "1", "1" },
            { copy.url, copy.method, copy.body, copy.headers["X-Mirror"], copy.headers["x-a"] })
        assert.is_nil(copy.headers.cookie)
        assert.is_nil(copy.headers["content-length"])
        kit.advance(3)
        assert.equal(1, kit.metrics().fluxgate_mirrored_total["test,answered"])
    end)

    it("does not hold a request up whose copy fails or is too large", function()
        local filter = kit.filter("mirror", { service = "down", max_body = 4 })
        assert.equal(200, kit.run(filter, {}).status)
        assert.equal(1, kit.metrics().fluxgate_mirrored_total["test,failed"])
        local got = kit.run(filter, { method = "POST", body = "12345", headers = { ["Content-Length"] = "5" } })
        assert.same({ "12345", 1 }, { got.forwarded.body, #kit.fetched() })
        assert.is_false(got.body_read) -- known too large: not a byte of it is held back
        got = kit.run(filter, { method = "POST", body = "12345" })
        assert.same({ "12345", 1 }, { got.forwarded.body, #kit.fetched() })
        assert.equal(2, kit.metrics().fluxgate_mirrored_total["test,too_large"])
    end)

    it("copies the share and the methods that it was told to", function()
        local filter = kit.filter("mirror", { service = "shadow", percent = 25, methods = { "GET" } })
        for _ = 1, 2000 do kit.run(filter, {}) end
        assert.is_true(math.abs(#kit.fetched() - 500) < 4 * math.sqrt(2000 * 0.25 * 0.75))
        local before = #kit.fetched()
        for _ = 1, 50 do kit.run(filter, { method = "HEAD" }) end
        assert.equal(before, #kit.fetched())
    end)
end)
