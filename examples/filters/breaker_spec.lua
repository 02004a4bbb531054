local kit = require "fluxgate.testkit"

describe("breaker", function()
    local filter
    before_each(function()
        kit.seed(1)
        filter = kit.filter("examples/filters/breaker.lua", { failures = 3, open = "10s", page = "sorry\n" })
    end)

    local function send(endpoint) return kit.run(filter, {}, endpoint or { body = "fine" }) end

    it("opens after three failures in a row, of whatever kind", function()
        send { failure = "connect_refused" }
        send { status = 503 }
        assert.equal(200, send().status) -- in a row: this one ends it
        for _, endpoint in ipairs { { failure = "connect_refused" }, { status = 504 }, { failure = "response_timeout" } } do
            assert.is_not_nil(send(endpoint).forwarded)
        end
        local got = send()
        assert.same({ 503, "sorry\n", "10" }, { got.status, got.body, got.headers["retry-after"] })
        assert.is_nil(got.forwarded)
        assert.equal("the circuit opens: response_timeout at none", kit.logs[1].message)
    end)

    it("tries one request after its time, and closes when that went well", function()
        for _ = 1, 3 do send { failure = "connect_refused" } end
        kit.advance("11s")
        assert.is_not_nil(send({ failure = "connect_refused" }).forwarded)
        assert.is_nil(send().forwarded) -- it did not
        kit.advance("11s")
        assert.equal(200, send().status)
        assert.equal(200, send().status)
    end)

    it("does not take a 500 or its own page for an outage", function()
        for _ = 1, 9 do assert.is_not_nil(send({ status = 500 }).forwarded) end
        for _ = 1, 3 do send { status = 502 } end
        for _ = 1, 9 do assert.is_nil(send().forwarded) end
        kit.advance("11s")
        assert.equal(200, send().status)
    end)
end)
