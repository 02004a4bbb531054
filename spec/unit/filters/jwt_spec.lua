local base64 = require "fluxgate.base64"
local cjson = require "cjson"
local kit = require "fluxgate.testkit"
local sha256 = require "fluxgate.sha256"

local SECRET = ("k"):rep(32)

local function token(header, claims, sign)
    local data = base64.encode(cjson.encode(header)) .. "." .. base64.encode(cjson.encode(claims))
    return data .. "." .. base64.encode(sign and sign(data) or sha256.hmac(SECRET, data))
end

describe("jwt", function()
    local now
    before_each(function()
        kit.seed(1)
        now = 1700000000 + kit.now()
    end)

    local function hs256(claims, header) return token(header or { alg = "HS256" }, claims) end
    local function run(filter, text, extra)
        local headers = extra or {}
        headers.Authorization = text and "Bearer " .. text
        return kit.run(filter, { headers = headers })
    end

    it("passes a good token and hands its claims on, which no client can set", function()
        local filter = kit.filter("jwt", { secret = SECRET, claims_to_headers = { sub = "X-User", role = "X-Role", evil = "X-Evil" } })
        local got = run(filter, hs256 { exp = now + 5, sub = "ann", evil = "a\r\nb" }, { ["X-User"] = "root", ["X-Role"] = "admin" })
        assert.same({ 200, "ann" }, { got.status, got.forwarded.headers["x-user"] })
        assert.is_nil(got.forwarded.headers["x-role"])
        assert.is_nil(got.forwarded.headers["x-evil"])
    end)

    it("refuses what is no token, changed, unsigned or of another algorithm", function()
        local filter = kit.filter("jwt", { secret = SECRET })
        local good = hs256 { exp = now + 5 }
        local head, _, signature = good:match("^(.-)%.(.-)%.(.*)$")
        local none = base64.encode('{"alg":"none"}') .. "." .. base64.encode('{"exp":9999999999}') .. "."
        for _, text in ipairs { "x", "..", good .. "x", head .. "." .. base64.encode('{"exp":9999999999}') .. "." .. signature,
            none, none .. "x", hs256({ exp = now + 5 }, { alg = "None" }), hs256({ exp = now + 5 }, { alg = "RS256" }),
            hs256({ exp = now + 5 }, { alg = { "HS256" } }), hs256({ exp = now + 5 }, { alg = "HS256", crit = { "b64" } }),
            ("a"):rep(20000), hs256("claims") } do
            local got = run(filter, text)
            assert.same({ 401, "filter_denied" }, { got.status, got.reason }, text:sub(1, 40))
            assert.is_nil(got.forwarded)
        end
        assert.equal("Bearer", run(filter).headers["www-authenticate"])
    end)

    it("takes no public key for an HMAC secret", function()
        kit.key("PEM", "RS256", function(data) return "signed " .. #data end)
        local filter = kit.filter("jwt", { public_key = "PEM" })
        local forged = token({ alg = "HS256" }, { exp = now + 5 }, function(data) return sha256.hmac("PEM", data) end)
        assert.equal(401, run(filter, forged).status)
        local good = token({ alg = "RS256" }, { exp = now + 5 }, function(data) return "signed " .. #data end)
        assert.equal(200, run(filter, good).status)
        assert.equal(401, run(kit.filter("jwt", { public_key = "PEM", algorithms = { "ES256" } }), good).status)
    end)

    it("checks times with leeway, issuer and audience", function()
        local filter = kit.filter("jwt", { secret = SECRET, leeway = "10s", issuer = "me", audience = { "a", "b" } })
        local function status(changes)
            local claims = { exp = now + 5, iss = "me", aud = "b" }
            for key, value in pairs(changes) do claims[key] = value end
            return run(filter, hs256(claims)).status
        end
        for _, good in ipairs { {}, { exp = now - 9 }, { nbf = now + 9 }, { iat = now + 9 }, { aud = { "x", "a" } } } do
            assert.equal(200, status(good))
        end
        for _, bad in ipairs { { exp = now - 11 }, { exp = "never" }, { exp = cjson.null }, { nbf = now + 11 }, { iat = now + 11 },
            { iss = "you" }, { aud = "c" }, { aud = {} }, { aud = { { "a" } } }, { exp = true } } do
            assert.equal(401, status(bad))
        end
        assert.equal(401, run(filter, hs256 { iss = "me", aud = "a" }).status)
    end)

    it("reads the token from a cookie where it was told to", function()
        local good = hs256 { exp = now + 5 }
        assert.equal(200, kit.run(kit.filter("jwt", { secret = SECRET, cookie = "t" }), { cookies = { t = good } }).status)
        assert.equal(401, kit.run(kit.filter("jwt", { secret = SECRET }), { cookies = { t = good } }).status)
    end)

    describe("with a JWK set", function()
        local function sign(kid) return function(data) return kid .. #data end end
        local function signed(kid, alg)
            return token({ alg = alg or "RS256", kid = kid }, { exp = now + 9e6 }, sign(kid))
        end
        local function serve(...)
            local keys = {}
            for i, kid in ipairs { ... } do
                kit.key(kid, "RS256", sign(kid))
                keys[i] = { kty = "RSA", kid = kid }
            end
            keys[#keys + 1] = { kty = "oct", kid = "oct", k = base64.encode(SECRET) }
            kit.on_fetch("jwks", { body = cjson.encode { keys = keys } })
        end
        local function jwks() return kit.filter("jwt", { jwks_url = "http://idp/jwks", jwks_refresh = "1h" }) end

        it("fetches it once and again for a kid that is new, at most once in a while", function()
            serve "one"
            local filter = jwks()
            assert.same({ 200, 200 }, { run(filter, signed "one").status, run(filter, signed "one").status })
            assert.equal(1, #kit.fetched())
            serve("one", "two")
            for i = 1, 50 do assert.equal(401, run(filter, signed("x" .. i)).status) end
            assert.equal(1, #kit.fetched())
            kit.advance(31)
            assert.equal(200, run(filter, signed "two").status)
            assert.equal(2, #kit.fetched())
        end)

        it("fails closed without keys, and keeps the last ones while the server is down", function()
            local filter = jwks()
            assert.same({ 503, nil }, { run(filter, signed "one").status, run(filter, signed "one").forwarded })
            kit.advance(31)
            serve "one"
            assert.equal(200, run(filter, signed "one").status)
            for _, broken in ipairs { { status = 500 }, { body = "{" }, { body = '{"keys":[]}' }, { failure = "connect_refused" } } do
                kit.on_fetch("jwks", broken)
                kit.advance("1h")
                assert.equal(200, run(filter, signed "one").status)
            end
        end)

        it("takes no shared secret out of a public set", function()
            serve "one"
            local forged = token({ alg = "HS256", kid = "oct" }, { exp = now + 500 })
            assert.equal(401, run(jwks(), forged).status)
            assert.equal(401, run(kit.filter("jwt", { jwks_url = "http://idp/jwks", algorithms = { "HS256" } }), forged).status)
        end)
    end)

    it("refuses a short secret, two kinds of keys and none", function()
        for _, options in ipairs { {}, { secret = "short" }, { secret = SECRET, jwks_url = "http://x/" }, { public_key = "none" } } do
            assert.is_false(pcall(kit.filter, "jwt", options))
        end
    end)
end)
