local kit = require "fluxgate.testkit"

describe("headers", function()
    before_each(function() kit.seed(1) end)

    it("removes, sets and adds on the way out, in that order", function()
        local filter = kit.filter("headers", { request = {
            remove = { "X-Old" }, set = { ["X-Client"] = "$client_ip via $scheme" }, add = { ["X-Tag"] = "b" } } })
        local got = kit.run(filter, { headers = { ["X-Old"] = "1", ["X-Client"] = "forged", ["X-Tag"] = "a" } })
        assert.same({ nil, "192.0.2.1 via http", "a, b" },
            { got.forwarded.headers["x-old"], got.forwarded.headers["x-client"], got.forwarded.headers["x-tag"] })
    end)

    it("edits the answer with what the request says", function()
        local filter = kit.filter("headers", { response = {
            remove = { "Server" }, set = { ["X-Path"] = "$path?$query $$5 $header_x_beta$cookie_none" } } })
        local got = kit.run(filter, { path = "/a", query = "b=1", headers = { ["X-Beta"] = "yes" } },
            { headers = { Server = "leaky/1.0" } })
        assert.is_nil(got.headers.server)
        assert.equal("/a?b=1 $5 yes", got.headers["x-path"])
    end)

    it("lets no value of a client begin a line of its own", function()
        local filter = kit.filter("headers", { response = { set = { ["X-Echo"] = "$cookie_a" } } })
        local got = kit.run(filter, { cookies = { a = "x\r\nSet-Cookie: y" } })
        assert.equal("x  Set-Cookie: y", got.headers["x-echo"])
    end)

    it("refuses a variable that is none, and a field name that is none", function()
        local ok, message = pcall(kit.filter, "headers", { request = { set = { a = "$nope" } } })
        assert.same({ false, "routes.test.filters.options.request: set.a: there is no variable $nope" }, { ok, message })
        assert.is_false(pcall(kit.filter, "headers", { request = { remove = { "a b" } } }))
    end)

    it("fails the request where the configuration names a field of the gateway", function()
        local got = kit.run(kit.filter("headers", { request = { set = { ["Content-Length"] = "0" } } }), {})
        assert.same({ 500, "filter_error" }, { got.status, got.reason })
        assert.is_nil(got.forwarded)
    end)
end)
