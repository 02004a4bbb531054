local kit = require "fluxgate.testkit"

describe("canary", function()
    before_each(function() kit.seed(1) end)

    local function share(filter, request)
        local count = 0
        for i = 1, 4000 do
            if kit.run(filter, request(i)).forwarded.service == "next" then count = count + 1 end
        end
        return count
    end

    it("sends the share of its weight, within four standard deviations", function()
        local count = share(kit.filter("canary", { service = "next", weight = 25 }), function() return {} end)
        assert.is_true(math.abs(count - 1000) < 4 * math.sqrt(4000 * 0.25 * 0.75), "got " .. count)
    end)

    it("sends nobody at 0 and everybody at 100", function()
        assert.equal(0, share(kit.filter("canary", { service = "next" }), function() return {} end))
        assert.equal(4000, share(kit.filter("canary", { service = "next", weight = 100 }), function() return {} end))
    end)

    it("follows a header or a cookie of the right value alone", function()
        local filter = kit.filter("canary", { service = "next", header = "X-Canary", cookie = "canary", value = "yes" })
        local function service(request) return kit.run(filter, request).forwarded.service end
        assert.equal("next", service { headers = { ["X-Canary"] = "yes" } })
        assert.equal("next", service { cookies = { canary = "yes" } })
        assert.equal("test", service { headers = { ["X-Canary"] = "yes, no" } })
    end)

    it("keeps a client on its side by hash, and a larger weight only adds", function()
        local small, large = kit.filter("canary", { service = "next", weight = 20, hash = "client_ip" }),
            kit.filter("canary", { service = "next", weight = 60, hash = "client_ip" })
        for i = 1, 200 do
            local request = { client_ip = "192.0.2." .. i }
            local first = kit.run(small, request).forwarded.service
            assert.equal(first, kit.run(small, request).forwarded.service)
            if first == "next" then assert.equal("next", kit.run(large, request).forwarded.service) end
        end
    end)

    it("keeps the side once drawn in a cookie", function()
        local filter = kit.filter("canary", { service = "next", weight = 50, sticky_cookie = "side" })
        local got = kit.run(filter, {})
        local side = got.headers["set-cookie"]:match("^side=(%a+); Path=/; Max%-Age=86400; HttpOnly; SameSite=Lax$")
        for _ = 1, 20 do
            local again = kit.run(filter, { cookies = { side = side } })
            assert.equal(side == "canary" and "next" or "test", again.forwarded.service)
            assert.is_nil(again.headers["set-cookie"])
        end
        assert.is_not_nil(kit.run(filter, { cookies = { side = "root" } }).headers["set-cookie"])
    end)

    it("fails the request where the service is none", function()
        local request = kit.request { known_services = { test = true } }
        assert.equal(500, kit.run(kit.filter("canary", { service = "gone", weight = 100 }), request).status)
    end)
end)
