-- A pooled connection that its backend closes in the moment a request sets out on it.
local support = require "spec.support"

local REQUESTS = tonumber(os.getenv("FLUXGATE_STALE_REQUESTS")) or 100000

local config = [[
listeners: [ { address: "127.0.0.1:0" } ]
admin: { address: "127.0.0.1:0" }
workers: 2
routes: [ { match: { path_prefix: / }, service: web } ]
services: { web: { endpoints: [ "%s" ] } }
]]

describe("a backend that closes idle connections when it likes", function()
    after_each(support.finish)

    -- The first close that the gateway could learn from would be the one that loses the POST.
    it("gets no POST on the first connection that it closes", function()
        local backend = support.backend { id = "a", trap = true }
        local gateway = support.gateway { config = config:format(backend.address):gsub("workers: 2", "workers: 1") }
        assert.equal(200, (support.curl(gateway:url("/"))))
        for _ = 1, 20 do
            local status, _, body = support.curl("-d", "x", gateway:url("/post"))
            assert.same({ 200, "a\n" }, { status, body })
        end
        local posts = 0
        for _, request in ipairs(backend:requests()) do
            if request.method == "POST" then posts = posts + 1 end
        end
        assert.equal(20, posts)
        -- A GET draws the trap, and costs nobody anything.
        assert.equal(200, (support.curl(gateway:url("/"))))
        gateway:expect_idle()
    end)

    it("costs no client a request", function()
        local backend = support.backend { id = "a", hasty = { 0.001, 0.02 } }
        local gateway = support.gateway { config = config:format(backend.address) }
        local get = support.load_start { url = gateway:url("/"), requests = REQUESTS / 2, concurrency = 8 }
        local post = support.load_start {
            url = gateway:url("/"), requests = REQUESTS / 2, concurrency = 8, method = "POST", body_bytes = 100,
        }
        for _, load in ipairs { get, post } do
            local result = load:result(300)
            assert.same({}, result.bad)
            assert.same({}, result.failed)
            assert.equal(REQUESTS / 2, result.requests)
        end
        assert.is_true(gateway:metric("fluxgate_upstream_reused_total") > 500)
        gateway:expect_idle()
    end)
end)
