local kit = require "fluxgate.testkit"

describe("api_key", function()
    local filter
    before_each(function()
        kit.seed(1)
        filter = kit.filter("examples/filters/api_key.lua", { url = "http://keys.example/v1" })
        kit.on_fetch("key=", { status = 404 })
        kit.on_fetch("key=good%%26x$", { status = 200, body = "ann" })
    end)

    local function ask(key)
        return kit.run(filter, { headers = { ["X-Api-Key"] = key, ["X-User"] = "root" } }, { body = "hello" })
    end

    it("tells the endpoint who it is, and not the key", function()
        local sent = ask("good&x").forwarded
        assert.same({ "ann", nil }, { sent.headers["x-user"], sent.headers["x-api-key"] })
    end)

    it("asks once in 30 s for a key that is good and once in 5 s for another", function()
        for _ = 1, 3 do assert.same({ 200, 403 }, { ask("good&x").status, ask("bad").status }) end
        assert.equal(2, #kit.fetched())
        kit.advance("6s")
        for _ = 1, 3 do assert.same({ 200, 403 }, { ask("good&x").status, ask("bad").status }) end
        assert.equal(3, #kit.fetched())
        assert.same({ good = 1, refused = 2 }, kit.metrics().api_key_lookups_total)
    end)

    it("lets nobody in while the service does not answer, and remembers nothing of it", function()
        kit.on_fetch("key=good", { failure = "connect_refused" })
        assert.equal(503, ask("good&x").status)
        kit.on_fetch("key=good", { status = 200, body = "ann" })
        assert.equal(200, ask("good&x").status)
    end)

    it("lets in who is known though the dictionary is full", function()
        kit.dict("api_key", 1):set("other", "")
        assert.equal(200, ask("good&x").status)
    end)

    it("answers 401 without a key", function() assert.equal(401, ask(nil).status) end)
end)
