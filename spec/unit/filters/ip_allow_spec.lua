local kit = require "fluxgate.testkit"

describe("ip_allow", function()
    before_each(function() kit.seed(1) end)

    local function status(filter, ip) return kit.run(filter, { client_ip = ip }).status end

    it("lets only the list in, without what deny takes out of it", function()
        local filter = kit.filter("ip_allow", { allow = { "10.0.0.0/8", "2001:db8::/32" }, deny = { "10.9.0.0/16" } })
        assert.same({ 200, 200, 403, 403, 403 }, { status(filter, "10.1.2.3"), status(filter, "2001:db8::1"),
            status(filter, "10.9.1.1"), status(filter, "192.0.2.1"), status(filter, "2001:db9::1") })
    end)

    it("lets everyone in but those of deny, where there is no allow", function()
        local filter = kit.filter("ip_allow", { deny = { "192.0.2.1" }, status = 404 })
        assert.same({ 404, 200 }, { status(filter, "192.0.2.1"), status(filter, "192.0.2.2") })
    end)

    it("lets nobody in by an empty list, or by an address that is none", function()
        assert.equal(403, status(kit.filter("ip_allow", { allow = {} }), "127.0.0.1"))
        assert.equal(403, status(kit.filter("ip_allow", { allow = { "0.0.0.0/0" } }), "unknown"))
    end)

    it("refuses an entry that is no CIDR, and a list of none", function()
        local ok, message = pcall(kit.filter, "ip_allow", { allow = { "10.0.0.0/33" } })
        assert.is_false(ok)
        assert.is_truthy(message:find("10.0.0.0/33", 1, true))
        assert.is_false(pcall(kit.filter, "ip_allow", {}))
    end)
end)
