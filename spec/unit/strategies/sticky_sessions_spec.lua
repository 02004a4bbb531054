local kit = require "fluxgate.testkit"

local function sent(request)
    local list = kit.cookies(request)
    return list[#list]
end

describe("sticky_sessions", function()
    local fleet
    before_each(function()
        kit.seed(1)
        fleet = kit.backends { { id = "a" }, { id = "b" }, { id = "c" } }
    end)

    -- A first request: the backend that it got and the cookie that it was given.
    local function begin(strategy)
        local request = kit.request()
        local backend = strategy:pick(request, fleet)
        return backend, sent(request)
    end

    it("answers nil when no endpoint is eligible, and sets no cookie", function()
        local request = kit.request()
        assert.is_nil(kit.strategy("sticky_sessions"):pick(request, kit.backends {}))
        assert.is_nil(sent(request))
    end)

    it("gives a new client an HttpOnly, SameSite=Lax cookie for the whole site", function()
        local _, cookie = begin(kit.strategy("sticky_sessions"))
        assert.equal("SESSIONID", cookie.name)
        assert.same({ path = "/", http_only = true, secure = false, same_site = "Lax" }, cookie.options)
    end)

    it("keeps a client with its endpoint and sets no second cookie", function()
        local strategy = kit.strategy("sticky_sessions")
        local backend, cookie = begin(strategy)
        for _ = 1, 20 do
            local request = kit.request { cookies = { SESSIONID = cookie.value } }
            assert.equal(backend, strategy:pick(request, fleet))
            assert.is_nil(sent(request))
        end
    end)

    it("spreads new clients evenly", function()
        local strategy, counts = kit.strategy("sticky_sessions"), {}
        for _ = 1, 300 do
            local backend = begin(strategy)
            counts[backend.id] = (counts[backend.id] or 0) + 1
        end
        assert.same({ a = 100, b = 100, c = 100 }, counts)
    end)

    it("finds its cookie behind others of the same name, but not behind any number of them", function()
        local strategy = kit.strategy("sticky_sessions")
        local backend, cookie = begin(strategy)
        for _ = 1, 5 do
            local request = kit.request { cookies = { SESSIONID = { "the-application's", "x", cookie.value } } }
            assert.equal(backend, strategy:pick(request, fleet))
            assert.same({}, kit.cookies(request))
        end
        local request = kit.request { cookies = { SESSIONID = { "a", "b", "c", "d", cookie.value } } }
        strategy:pick(request, fleet)
        assert.equal(1, #kit.cookies(request))
    end)

    it("recognises the cookie in another worker, after a restart and in another gateway with the same secret", function()
        local backend, cookie = begin(kit.strategy("sticky_sessions", { secrets = { "first-secret" } }))
        local other = kit.strategy("sticky_sessions", { secrets = { "first-secret" } })
        for _ = 1, 5 do
            assert.equal(backend, other:pick(kit.request { cookies = { SESSIONID = cookie.value } }, fleet))
        end
    end)

    it("shows neither the endpoint's id nor its address in the cookie", function()
        local backend, cookie = begin(kit.strategy("sticky_sessions", { secrets = { "first-secret" } }))
        assert.is_nil(cookie.value:find(backend.host, 1, true))
        assert.is_truthy(cookie.value:find("^[%w_-]+$"))
        assert.is_true(#cookie.value >= 22)
    end)

    -- By the openssl command: HMAC-SHA256 of "test\0a" with the product's key, base64url, 27 characters.
    it("makes the token that its page describes", function()
        for _, id in ipairs { "b", "c" } do kit.set(fleet, id, { state = "unhealthy" }) end
        local _, cookie = begin(kit.strategy("sticky_sessions"))
        assert.equal("7HLSbm01wvF5jRRJqU4OKt0Dft9", cookie.value)
    end)

    it("takes a cookie of another secret, an id, an address and garbage for no cookie", function()
        local strategy = kit.strategy("sticky_sessions", { secrets = { "first-secret" } })
        local _, foreign = begin(kit.strategy("sticky_sessions", { secrets = { "other-secret" } }))
        for _, value in ipairs { foreign.value, "a", "127.0.0.1:9001", "", ("x"):rep(4000) } do
            local request = kit.request { cookies = { SESSIONID = value } }
            assert.is_truthy(strategy:pick(request, fleet))
            assert.is_truthy(sent(request))
        end
    end)

    it("accepts a cookie of the old secret and replaces it by one of the new", function()
        local backend, cookie = begin(kit.strategy("sticky_sessions", { secrets = { "older-secret" } }))
        local rotated = kit.strategy("sticky_sessions", { secrets = { "newer-secret", "older-secret" } })
        local request = kit.request { cookies = { SESSIONID = cookie.value } }
        assert.equal(backend, rotated:pick(request, fleet))
        local fresh = sent(request)
        assert.not_equal(cookie.value, fresh.value)
        local again = kit.request { cookies = { SESSIONID = fresh.value } }
        assert.equal(backend, kit.strategy("sticky_sessions", { secrets = { "newer-secret" } }):pick(again, fleet))
    end)

    it("keeps bound sessions on a draining endpoint and sends it no new client", function()
        local strategy = kit.strategy("sticky_sessions")
        local backend, cookie = begin(strategy)
        kit.set(fleet, backend.id, { state = "draining" })
        local request = kit.request { cookies = { SESSIONID = cookie.value } }
        assert.equal(backend, kit.pick(strategy, request, fleet))
        for _ = 1, 20 do assert.not_equal(backend, kit.pick(strategy, kit.request(), fleet)) end
    end)

    it("serves a bound session although every endpoint drains", function()
        local strategy = kit.strategy("sticky_sessions")
        local backend, cookie = begin(strategy)
        for _, id in ipairs { "a", "b", "c" } do kit.set(fleet, id, { state = "draining" }) end
        assert.equal(backend, kit.pick(strategy, kit.request { cookies = { SESSIONID = cookie.value } }, fleet))
        assert.is_nil((kit.pick(strategy, kit.request(), fleet)))
    end)

    for _, state in ipairs { "unhealthy", "gone", "maintenance" } do
        it("moves the session to another endpoint with a new cookie when its own is " .. state, function()
            local strategy = kit.strategy("sticky_sessions")
            local backend, cookie = begin(strategy)
            kit.set(fleet, backend.id, { state = state })
            local request = kit.request { cookies = { SESSIONID = cookie.value } }
            local other = kit.pick(strategy, request, fleet)
            assert.not_equal(backend, other)
            assert.not_equal(cookie.value, sent(request).value)
            local again = kit.request { cookies = { SESSIONID = sent(request).value } }
            assert.equal(other, kit.pick(strategy, again, fleet))
        end)
    end

    it("moves a session whose endpoint this request has tried", function()
        local strategy = kit.strategy("sticky_sessions")
        local backend, cookie = begin(strategy)
        local request = kit.request { cookies = { SESSIONID = cookie.value }, tried = { backend } }
        assert.not_equal(backend, kit.pick(strategy, request, fleet))
        assert.is_truthy(sent(request))
    end)

    it("places new clients by the strategy that `fallback` names", function()
        local strategy = kit.strategy("sticky_sessions", { fallback = "least_connections" })
        kit.set(fleet, "a", { active = 5 })
        kit.set(fleet, "b", { active = 5 })
        for _ = 1, 5 do assert.equal("c", (begin(strategy)).id) end
    end)

    it("writes the attributes that its options ask for", function()
        local _, cookie = begin(kit.strategy("sticky_sessions",
            { cookie = "SID", secure = true, http_only = false, same_site = "None", max_age = "1h", path = "/shop" }))
        assert.equal("SID", cookie.name)
        assert.same({ path = "/shop", secure = true, http_only = false, same_site = "None", max_age = 3600 }, cookie.options)
    end)

    for options, message in pairs {
        [{ cookies = "x" }] = "services.test.options.cookies: no such option; did you mean 'cookie'?",
        [{ secrets = { "12345678", "23456789", "34567890" } }] =
            "services.test.options.secrets: expected one secret, or two: the new and the old",
        [{ secrets = { "" } }] = "services.test.options.secrets: expected secrets that are not empty (32 random characters are good ones)",
        [{ same_site = "lax" }] = "services.test.options.same_site: expected one of Lax, Strict, None",
        [{ cookie = "a b" }] = "services.test.options.cookie: expected a cookie name (letters, digits, '-', '_')",
        [{ fallback = "sticky_sessions" }] = "services.test.options.fallback: expected another strategy than sticky_sessions",
        [{ fallback = "least" }] = "services.test.options.fallback: there is no strategy 'least'",
        [{ max_age = "soon" }] = "services.test.options.max_age: expected a duration like \"5s\", got \"soon\"",
    } do
        it("refuses options with: " .. message, function()
            local ok, got = pcall(kit.strategy, "sticky_sessions", options)
            assert.same({ false, message }, { ok, got })
        end)
    end
end)
