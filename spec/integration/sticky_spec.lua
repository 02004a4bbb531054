-- sticky_sessions: the cookie holds over workers, restarts and gateways, and cannot be forged.
local support = require "spec.support"

local function config(list, options, admin)
    local addresses = {}
    for i, backend in ipairs(list) do addresses[i] = ('{ id: %s, address: "%s" }'):format(backend.id, backend.address) end
    return ([[
listeners: [ { address: "127.0.0.1:0" } ]
admin: { address: "127.0.0.1:%d" }
routes: [ { match: { path_prefix: / }, service: web } ]
services:
  web:
    endpoints: [ %s ]
    strategy: sticky_sessions
    options: %s
    health: { policy: http, path: /health, interval: 100ms, timeout: 500ms, rise: 1, fall: 2 }
]]):format(admin or 0, table.concat(addresses, ", "), options or '{ secrets: ["one"] }')
end

local function visit(gateway, cookie)
    local args = cookie and { "-H", "Cookie: SESSIONID=" .. cookie, gateway:url() } or { gateway:url() }
    local status, headers, body = support.curl(unpack(args))
    assert.equal(200, status)
    local set = headers["set-cookie"]
    return body:gsub("%s", ""), set and set:match("SESSIONID=([^;]+)"), set
end

describe("sticky_sessions", function()
    local list
    before_each(function()
        list = { support.backend { id = "a" }, support.backend { id = "b" }, support.backend { id = "c" } }
    end)
    after_each(support.finish)

    it("keeps a session on its backend over 2 workers, a restart and another gateway", function()
        local gateway = support.gateway { config = config(list), workers = 2 }
        local home, cookie, set = visit(gateway)
        assert.truthy(set:find("HttpOnly", 1, true) and set:find("SameSite=Lax", 1, true))
        for _ = 1, 12 do
            local where, again = visit(gateway, cookie)
            assert.equal(home, where)
            assert.is_nil(again)
        end
        assert.equal(0, gateway:stop())
        local other = support.gateway { config = config(list), workers = 1 }
        for _ = 1, 6 do assert.equal(home, (visit(other, cookie))) end
    end)

    it("takes a forged or foreign cookie for none, and no cookie holds an address", function()
        local gateway = support.gateway { config = config(list), workers = 1 }
        local _, cookie = visit(gateway)
        assert.is_nil(cookie:find("127.0.0.1", 1, true))
        for _, forged in ipairs { "127.0.0.1:1", cookie:sub(1, -2), cookie .. "A", ("A"):rep(#cookie), "a" } do
            local _, fresh = visit(gateway, forged)
            assert.is_string(fresh)
        end
    end)

    it("knows cookies of the old secret after a rotation and hands out new ones", function()
        local gateway = support.gateway { config = config(list, '{ secrets: ["one"] }'), workers = 1 }
        local home, cookie = visit(gateway)
        assert.is_true(gateway:reload(config(list, '{ secrets: ["two", "one"] }')))
        local where, renewed = visit(gateway, cookie)
        assert.equal(home, where)
        assert.is_string(renewed)
        assert.is_true(gateway:reload(config(list, '{ secrets: ["two"] }')))
        assert.equal(home, (visit(gateway, renewed)))
    end)

    it("moves the session of a dead backend and sets the cookie of the one that answered", function()
        local gateway = support.gateway { config = config(list), workers = 2 }
        local home, cookie = visit(gateway)
        for _, backend in ipairs(list) do
            if backend.id == home then backend:unlisten() backend:close_all() end
        end
        local where, fresh = visit(gateway, cookie)
        assert.are_not.equal(home, where)
        assert.is_string(fresh)
        for _ = 1, 6 do assert.equal(where, (visit(gateway, fresh))) end
    end)
end)
