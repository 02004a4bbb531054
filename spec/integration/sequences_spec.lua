-- Requests of every kind, one behind the other on connections, streams and buffers that are used again: what comes to the
-- backend is what was sent, and each client gets the answer to its own request. The seeds are fixed; a find belongs into a
-- spec of its own.
local support = require "spec.support"

local RUNS, CONNECTIONS = 4, 12

local SHELL = [[
local F = { name = "own", api = 1 }
F.__index = F
function F.new() return setmetatable({}, F) end
%s
return F
]]

local filters = {
    read = "function F:on_request(r) r:body() end",
    part = "function F:on_request(r) r:body(1000) end",
    wait = [[
function F:on_request(r) gateway.sleep(0.001) r:body() gateway.sleep(0.001) end
function F:on_response() gateway.sleep(0.001) end]],
    pack = "function F:on_response(_, a) a:compress('gzip') end",
    replace = [[function F:on_request(r) r:body() r:set_body("[" .. r:header("x-id") .. "]") end]],
    stage = [[function F:on_response(_, a) a:on_body(function(chunk, last) return chunk:upper() .. (last and "!" or "") end) end]],
}

local config = [[
listeners: [ { address: "127.0.0.1:0" } ]
admin: { address: "127.0.0.1:0" }
workers: %d
routes:
%s  - { match: { path_prefix: / }, service: web }
services: { web: { endpoints: [ "127.0.0.1:%d" ], limits: { active_per_endpoint: %d } } }
]]

local function routes()
    local out = {}
    local chains = { both = { "replace", "stage" } }
    for name in pairs(filters) do chains[name] = { name } end
    for name, used in pairs(chains) do
        local uses = {}
        for i, use in ipairs(used) do uses[i] = "{ use: " .. support.file(use .. ".lua", SHELL:format(filters[use])) .. " }" end
        out[#out + 1] = ("  - { match: { path_prefix: /%s/ }, service: web, filters: [ %s ] }\n"):format(name, table.concat(uses, ", "))
    end
    return table.concat(out)
end

describe("sequences of requests on what is used again", function()
    after_each(support.finish)

    for _, case in ipairs { { workers = 1, active = 4096 }, { workers = 1, active = 1 }, { workers = 2, active = 3 } } do
        it(("keep apart with %d worker(s) and %d request(s) at a time"):format(case.workers, case.active), function()
            local peers = support.helper("sequences.py", "sequences", {})
            local gateway = support.gateway { config = config:format(case.workers, routes(), peers.port, case.active),
                env = { FLUXGATE_POISON = "1" } }
            local answered, tunnels = 0, 0
            for seed = 1, RUNS do
                local result = peers:order { op = "run", gateway = gateway:port(), seed = seed, connections = CONNECTIONS }
                assert.same({}, result.problems, "seed " .. seed)
                answered, tunnels = answered + result.answered, result.tunnels
            end
            assert.is_true(answered > RUNS * CONNECTIONS)
            assert.is_true(tunnels > RUNS, tunnels .. " tunnels")
            gateway:expect_idle()
        end)
    end
end)
