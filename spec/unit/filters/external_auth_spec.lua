local kit = require "fluxgate.testkit"

describe("external_auth", function()
    before_each(function() kit.seed(1) end)

    local function filter(extra)
        local options = { url = "http://auth/check", response_headers = { "X-User" } }
        for key, value in pairs(extra or {}) do options[key] = value end
        return kit.filter("external_auth", options)
    end

    it("passes a 2xx on with the chosen fields, which no client can set", function()
        kit.on_fetch("^http://auth/check$", { status = 204, headers = { ["X-User"] = "ann" } })
        local got = kit.run(filter(), { path = "/a", query = "b=1", headers = { Cookie = "s=1", ["X-User"] = "root" } })
        assert.equal("ann", got.forwarded.headers["x-user"])
        local asked = kit.fetched()[1].headers
        assert.same({ "GET", "/a?b=1", "s=1" }, { asked["X-Forwarded-Method"], asked["X-Forwarded-Uri"], asked.Cookie })
        kit.on_fetch("^http://auth/check$", {})
        assert.is_nil(kit.run(filter(), { headers = { ["X-User"] = "root" } }).forwarded.headers["x-user"])
    end)

    it("gives the client the other answer", function()
        kit.on_fetch("auth", { status = 302, headers = { Location = "https://login.example/", Server = "x" } })
        local got = kit.run(filter(), {})
        assert.same({ 302, "https://login.example/" }, { got.status, got.headers.location })
        assert.is_nil(got.headers.server)
        assert.is_nil(got.forwarded)
    end)

    it("fails closed when there is no answer, a late one or a broken one", function()
        for _, given in ipairs { { failure = "connect_refused" }, { delay = 3 }, { status = 500 }, { status = 503 },
            { body = ("x"):rep(70000) } } do
            kit.on_fetch("auth", given)
            local got = kit.run(filter(), {})
            assert.same({ 503, "filter_denied" }, { got.status, got.reason })
            assert.is_nil(got.forwarded)
        end
    end)

    it("keeps a 2xx as long as it was told to, for the same credentials alone", function()
        kit.on_fetch("auth", function(_, asked) return { status = asked.headers.Cookie == "s=1" and 200 or 403 } end)
        local made = filter { cache = "5s" }
        local function status(cookie) return kit.run(made, { headers = { Cookie = cookie } }).status end
        assert.same({ 200, 200, 403, 403 }, { status "s=1", status "s=1", status "s=2", status "s=2" })
        assert.equal(3, #kit.fetched())
        kit.advance(5)
        kit.on_fetch("auth", { failure = "connect_refused" })
        assert.equal(503, status "s=1")
    end)

    it("keeps no more answers than cache_max", function()
        kit.on_fetch("auth", {})
        local made = filter { cache = "5s", cache_max = 10 }
        for i = 1, 1000 do kit.run(made, { path = "/" .. i }) end
        assert.is_true(made.count <= 10)
    end)
end)
