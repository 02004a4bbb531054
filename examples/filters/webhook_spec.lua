local kit = require "fluxgate.testkit"

describe("webhook", function()
    local SECRET = "0123456789abcdef"
    local filter
    before_each(function()
        kit.seed(1)
        filter = kit.filter("examples/filters/webhook.lua", { secret = SECRET, max_body = 100 })
    end)

    -- What a sender does; `changes` are made to the request once it is signed.
    local function send(body, changes)
        local stamp = ("%d"):format(kit.gateway.time())
        local hex = kit.gateway.hex(kit.gateway.hmac_sha256(SECRET, stamp .. "." .. body))
        local request = { method = "POST", body = body, headers = { ["X-Timestamp"] = stamp, ["X-Signature"] = "sha256=" .. hex } }
        for key, value in pairs(changes or {}) do
            if key == "body" then request.body = value else request.headers[key] = value end
        end
        return kit.run(filter, request, { body = "taken" })
    end

    it("lets in what was signed, body and all", function()
        local got = send('{"a":1}')
        assert.same({ 200, '{"a":1}' }, { got.status, got.forwarded.body })
    end)

    it("takes a signature in capitals", function()
        local stamp = ("%d"):format(kit.gateway.time())
        local hex = kit.gateway.hex(kit.gateway.hmac_sha256(SECRET, stamp .. ".x"))
        assert.equal(200, send("x", { ["X-Signature"] = "sha256=" .. hex:upper() }).status)
    end)

    for what, changes in pairs {
        ["another body"] = { body = '{"a":2}' }, ["another time"] = { ["X-Timestamp"] = "1700001001" },
        ["a time that is none"] = { ["X-Timestamp"] = "1e9" }, ["another signature"] = { ["X-Signature"] = "sha256=00" },
        ["another algorithm"] = { ["X-Signature"] = "md5=00" },
    } do
        it("refuses " .. what, function()
            local got = send('{"a":1}', changes)
            assert.equal(401, got.status)
            assert.is_nil(got.forwarded)
        end)
    end

    it("refuses what was signed long ago, and bodies past its bound", function()
        assert.equal(413, send(("x"):rep(101)).status)
        local stamp = ("%d"):format(kit.gateway.time())
        local hex = kit.gateway.hex(kit.gateway.hmac_sha256(SECRET, stamp .. ".x"))
        kit.advance("6m")
        assert.equal(401, send("x", { ["X-Timestamp"] = stamp, ["X-Signature"] = "sha256=" .. hex }).status)
    end)

    it("wants a secret worth the name", function()
        local _, wrong = pcall(kit.filter, "examples/filters/webhook.lua", { secret = "short" })
        assert.equal("routes.test.filters.options.secret: expected 16 bytes or more", wrong)
    end)
end)
