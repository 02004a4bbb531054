-- Filters that misbehave (spec/support/hostile_filters.lua), in one worker and one state: they fail closed, and the requests
-- of another service are answered on the connection that they came on.
local filters = require "spec.support.hostile_filters"
local support = require "spec.support"

local FILE = [[
local F = { name = "hostile", api = 1 }
F.__index = F
function F.new() return setmetatable({}, F) end
function F:%s(request, response)
    do %s end
end
return F
]]

describe("a filter that misbehaves", function()
    local gateway, web, ours

    setup(function()
        web = support.backend { id = "web", default = { body = "made" } }
        local routes = {}
        for i, case in ipairs(filters) do
            local path = support.file("hostile" .. i .. ".lua", FILE:format(case.callback, case.body))
            routes[i] = ("  - { match: { path_prefix: /%d/ }, service: web, filters: [ %s ] }\n"):format(i, path)
        end
        gateway = support.gateway { config = ([[
listeners: [ { address: "127.0.0.1:0" } ]
admin: { address: "127.0.0.1:0" }
workers: 1
timeouts: { filter: 300ms }
routes:
%s  - { match: { path_prefix: / }, service: web }
services: { web: { endpoints: [ "%s" ] } }
]]):format(table.concat(routes), web.address) }
        ours = support.open(gateway:port(), { timeout = 20 })
    end)
    teardown(support.finish)

    local function others_go_on()
        local reply = assert(ours:request("GET /free"))
        assert.same({ 200, "made" }, { reply.status, reply.body })
    end

    local function reached(path)
        local count = 0
        for _, request in ipairs(web:requests()) do count = count + (request.target == path and 1 or 0) end
        return count
    end

    for i, case in ipairs(filters) do
        it("and " .. case.name .. " harms nobody", function()
            local path = "/" .. i .. "/x"
            web:reset()
            for _ = 1, 3 do
                local theirs = support.open(gateway:port(), { timeout = 20 })
                local reply, why = theirs:request("GET " .. path)
                others_go_on()
                theirs:close()
                if case.callback == "on_request" then
                    assert.is_true(assert(reply, why).status >= 500, tostring(reply.status))
                elseif case.callback == "on_response" then
                    assert.is_true(reply == nil or reply.status >= 500, reply and tostring(reply.status))
                else
                    assert.equal(200, assert(reply, why).status)
                end
            end
            if case.callback == "on_request" then assert.equal(0, reached(path)) end
        end)
    end

    it("costs no worker", function()
        gateway:expect_idle()
        assert.equal(0, gateway:metric("fluxgate_worker_restarts_total"))
        assert.is_true(gateway:metric("fluxgate_script_abandonments_total") > 0)
    end)
end)
