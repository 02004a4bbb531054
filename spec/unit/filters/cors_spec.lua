local kit = require "fluxgate.testkit"

local function preflight(origin)
    return { method = "OPTIONS", headers = { Origin = origin, ["Access-Control-Request-Method"] = "PUT" } }
end

describe("cors", function()
    before_each(function() kit.seed(1) end)

    it("answers a preflight itself", function()
        local filter = kit.filter("cors", { origins = { "https://a.example" }, methods = { "PUT" }, headers = { "X-A" },
            credentials = true, max_age = "5m" })
        local got = kit.run(filter, preflight "https://a.example")
        assert.same({ 204, "https://a.example", "PUT", "X-A", "true", "300" }, { got.status,
            got.headers["access-control-allow-origin"], got.headers["access-control-allow-methods"],
            got.headers["access-control-allow-headers"], got.headers["access-control-allow-credentials"],
            got.headers["access-control-max-age"] })
        assert.is_truthy(got.headers.vary:find("Origin", 1, true))
        assert.is_nil(got.forwarded)
    end)

    it("allows no origin that only looks like one of the list", function()
        local filter = kit.filter("cors", { origins = { "https://a.example", "https://*.b.example" } })
        for _, origin in ipairs { "https://a.example.evil.net", "http://a.example", "https://xb.example", "https://.b.example",
            "https://evil.net/.b.example", "https://evil.net@x.b.example", "null", "https://A.example", "https://b.example", "" } do
            local got = kit.run(filter, preflight(origin))
            assert.same({ 204 }, { got.status, got.headers["access-control-allow-origin"] }, origin)
            assert.is_nil(kit.run(filter, { headers = { Origin = origin } }).headers["access-control-allow-origin"])
        end
        for _, origin in ipairs { "https://x.b.example", "https://y.x.b.example" } do
            assert.equal(origin, kit.run(filter, { headers = { Origin = origin } }).headers["access-control-allow-origin"])
        end
    end)

    it("replaces what the backend said and varies by origin", function()
        local filter = kit.filter("cors", { origins = { "https://a.example" }, expose = { "X-B" } })
        local backend = { headers = { ["Access-Control-Allow-Origin"] = "*", ["Access-Control-Allow-Credentials"] = "true" } }
        local got = kit.run(filter, { headers = { Origin = "https://a.example" } }, backend)
        assert.same({ "https://a.example", "X-B", "Origin" }, { got.headers["access-control-allow-origin"],
            got.headers["access-control-expose-headers"], got.headers.vary })
        assert.is_nil(got.headers["access-control-allow-credentials"])
        assert.equal("Origin", kit.run(filter, {}).headers.vary)
    end)

    it("sends * to all, and never with credentials", function()
        local got = kit.run(kit.filter("cors", { origins = { "*" } }), {})
        assert.same({ "*" }, { got.headers["access-control-allow-origin"], got.headers.vary })
        assert.is_false(pcall(kit.filter, "cors", { origins = { "*" }, credentials = true }))
    end)

    it("refuses origins that cannot match and wildcards that match too much", function()
        for _, origin in ipairs { "a.example", "https://a.example/", "https://*example.com", "https://*.com", "https://A.example",
            "https://*" } do
            assert.is_false(pcall(kit.filter, "cors", { origins = { origin } }), origin)
        end
    end)
end)
