-- Scripts that misbehave (spec/support/hostile.lua), each under traffic to its own service and to another one in the same
-- state: every request is answered, on the connection that it came on.
local cjson = require "cjson"
local hostile = require "spec.support.hostile"
local support = require "spec.support"

local CLASS = [[
local S = { name = "hostile", api = 1 }
S.__index = S
function S.new() return setmetatable({}, S) end
%s
function S:pick(request, backends)
    do %s end
end
return S
]]

local function get(connection, path, body)
    local reply, why = connection:request("GET " .. path .. " HTTP/1.1\r\nHost: x\r\n\r\n")
    assert(reply, why)
    assert.equal(200, reply.status)
    assert.equal(body .. "\n", reply.body)
end

local TOTALS = { "errors", "fallbacks", "runaways", "abandonments", "memory_runaways" }

local function totals(gateway)
    local all, text = {}, gateway:metrics()
    for _, name in ipairs(TOTALS) do all[name] = tonumber(text:match("\nfluxgate_script_" .. name .. "_total (%d+)\n")) end
    return all
end

-- What the totals must say of each kind.
local proof = {
    stuck = function(grown) return grown.abandonments == 1 and grown.fallbacks > 0 end,
    slow = function(grown) return grown.runaways > 0 and grown.fallbacks > 0 end,
    full = function(grown) return grown.errors > 0 and grown.abandonments == 0 end,
    error = function(grown) return grown.errors > 0 and grown.abandonments == 0 end,
    early = function(grown) return grown.fallbacks == 12 and grown.abandonments == 0 end, -- it was at the start
    any = function(grown) return grown.abandonments == 0 end,
    harmless = function(grown) return grown.errors == 0 and grown.fallbacks == 0 end,
}

-- Ten at a time, so that none of them is tried again meanwhile: 30 s after its first offence.
local GROUP = 10

-- One worker, one state for all of a group, as services of one gateway: each has but its own quarantine.
local function describe_group(first, last) describe("while another service goes on", function()
    local gateway, load, ours

    setup(function()
        local a, b = support.backend { id = "a" }, support.backend { id = "b" }
        local routes, services = {}, {}
        for i = first, last do
            local path = support.file("hostile" .. i .. ".lua", CLASS:format(hostile[i].more, hostile[i].pick))
            routes[#routes + 1] = ("  - { match: { path_prefix: /%d/ }, service: s%d }\n"):format(i, i)
            services[#services + 1] = ("  s%d: { endpoints: [ \"%s\" ], strategy: %s }\n"):format(i, a.address, path)
        end
        gateway = support.gateway { config = ([[
listeners: [ { address: "127.0.0.1:0" } ]
admin: { address: "127.0.0.1:0" }
workers: 1
routes:
%s  - { match: { path_prefix: / }, service: ours }
services:
%s  ours: { endpoints: [ "%s" ] }
]]):format(table.concat(routes), table.concat(services), b.address) }
        load = support.load_start { url = gateway:url(), duration = 600, concurrency = 4, rate = 50 }
        ours = support.open(gateway:port(), { timeout = 20 })
    end)
    teardown(support.finish)

    for i = first, last do
        local case = hostile[i]
        it(case.name .. ": its own service is answered and nobody else notices", function()
            local theirs = support.open(gateway:port(), { timeout = 20 })
            local before, path = totals(gateway), "/" .. i .. "/hostile"
            for _ = 1, 12 do
                get(theirs, path, "a")
                get(ours, "/", "b")
            end
            local grown = totals(gateway)
            for name, value in pairs(grown) do grown[name] = value - before[name] end
            theirs:close()
            assert.is_true(proof[case.is](grown), cjson.encode(grown))
        end)
    end

    if first <= 2 then it("metrics and the admin API name each one in trouble", function()
        assert.equal(1, gateway:metric("fluxgate_plugin_quarantined", { service = "s2", kind = "strategy" }))
        assert.is_true(gateway:metric("fluxgate_plugin_errors_total", { service = "s2" }) >= 1)
        assert.is_nil(gateway:metric("fluxgate_plugin_errors_total", { service = "ours" }))
        assert.is_true(gateway:metric("fluxgate_worker_script_memory_bytes") > 1e5)
        local _, _, status = support.curl(gateway:admin_url("/api/v1/status"))
        local seen
        for _, row in ipairs(cjson.decode(status).scripts) do seen = seen or row.service == "s2" and row end
        assert.is_true(seen.quarantined)
        assert.equal("strategy", seen.kind)
    end) end

    it("no request of the other service failed, and it kept its connections", function()
        local result = load:finish()
        assert.same({}, result.failures)
        assert.equal(4, result.connections)
        assert.is_true(result.ok > 0)
        assert.equal(0, gateway:metric("fluxgate_worker_restarts_total"))
    end)
end) end

for first = 1, #hostile, GROUP do describe_group(first, math.min(first + GROUP - 1, #hostile)) end

describe("at load", function()
    after_each(support.finish)

    for _, case in ipairs(hostile.at_load) do
        it(case[1] .. " is refused with its place", function()
            local path = support.file("hostile.lua", case[2])
            local file = support.file("fluxgate.yaml", ([[
listeners: [ { address: "127.0.0.1:0" } ]
routes: [ { match: { path_prefix: / }, service: theirs } ]
services: { theirs: { endpoints: [ "127.0.0.1:9" ], strategy: %s } }
]]):format(path))
            local said, code = support.command(support.fluxgate, "check", "-c", file)
            assert.equal(1, code, said)
            local place = case.line and path .. ":" .. case.line or "hostile.lua"
            assert.is_truthy(said:find(place, 1, true), said)
        end)
    end
end)
