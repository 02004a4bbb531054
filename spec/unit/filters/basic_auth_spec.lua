local kit = require "fluxgate.testkit"
local sha256 = require "fluxgate.sha256"
local waits = require "fluxgate.waits"

local encode, hex = waits.extra.base64_encode, waits.extra.hex
local function basic(text) return { Authorization = "Basic " .. encode(text) } end

describe("basic_auth", function()
    local filter
    before_each(function()
        kit.seed(1)
        filter = kit.filter("basic_auth", { realm = "staff", users = {
            ann = "hmac-sha256:na:" .. hex(sha256.hmac("na", "secret")),
            bob = "{SHA256}" .. encode(sha256.digest("pass:word")),
        } })
    end)

    it("knows RFC 7617's way of writing name and password", function()
        local got = kit.run(filter, { headers = basic("ann:secret") })
        assert.same({ 200, "ann" }, { got.status, got.forwarded.headers["x-remote-user"] })
        assert.is_nil(got.forwarded.headers.authorization)
        assert.equal(200, kit.run(filter, { headers = basic("bob:pass:word") }).status)
    end)

    it("challenges everyone else, and nothing goes on", function()
        for _, headers in ipairs { {}, basic("ann:wrong"), basic("ann:"), basic("eve:secret"), basic("ann"), basic(":secret"),
            basic("ann:secret\0"), { Authorization = "Basic !!" }, { Authorization = "Bearer x" },
            { Authorization = "Basic " .. ("A"):rep(100000) }, basic("ann\r\n:secret") } do
            local got = kit.run(filter, { headers = headers })
            assert.same({ 401, nil, 'Basic realm="staff", charset="UTF-8"' },
                { got.status, got.forwarded, got.headers["www-authenticate"] })
        end
    end)

    it("takes no name of a user from the client", function()
        local headers = basic("ann:secret")
        headers["X-Remote-User"] = "root"
        assert.equal("ann", kit.run(filter, { headers = headers }).forwarded.headers["x-remote-user"])
    end)

    it("warns of a plain password, and refuses what it cannot check", function()
        local plain = kit.filter("basic_auth", { users = { a = "plain:b" }, strip = false })
        assert.equal("warn", kit.logs[1].level)
        assert.is_not_nil(kit.run(plain, { headers = basic("a:b") }).forwarded.headers.authorization)
        for _, users in ipairs { { a = "b" }, { a = "$2y$05$abc" }, { ["a:b"] = "plain:c" }, {} } do
            assert.is_false(pcall(kit.filter, "basic_auth", { users = users }))
        end
    end)
end)
