-- Filters and health policies that misbehave (spec/support/hostile.lua) in each of their functions, under traffic to their
-- own routes and to another one: what they guard stays shut, everybody else goes on over the same connections.
local cjson = require "cjson"
local hostile = require "spec.support.hostile"
local support = require "spec.support"

local CLASS = [[
local P = { name = "hostile", api = 1 }
P.__index = P
local function misdeed() %s end
function P.new()
    local self = setmetatable({ interval = 0.05, window = 1 }, P)
    %s
    return self
end
%s
return P
]]

-- Each with what its clients may get; `seen`: whether the endpoint may get their requests.
local filters = {
    { name = "on_request", code = "function P:on_request() misdeed() end", statuses = { 500, 503 }, seen = false },
    { name = "on_response", code = "function P:on_response() misdeed() end", statuses = { 500, 503 }, seen = true },
    { name = "on_body", code = "function P:on_response(_, a) a:on_body(misdeed) end", statuses = { 500, 503, "cut" }, seen = true },
    { name = "on_log", code = "function P:on_log() misdeed() end", statuses = { 200, 503 }, seen = true },
    { name = "spawned", code = "function P:on_request() gateway.spawn(misdeed) end", statuses = { 200, 503 }, seen = true },
    { name = "every", new = "gateway.every(0.05, misdeed)", code = "function P:on_request() end", statuses = { 200, 503 },
        seen = true },
}

local policies = {
    { name = "probe", code = "function P:probe() misdeed() end function P:judge() return 'unhealthy', 'no' end" },
    { name = "a probe of its own",
        code = "function P:probe() return function() misdeed() end end function P:judge() return 'unhealthy', 'no' end" },
    { name = "judge", code = "function P:probe() return { kind = 'tcp' } end function P:judge() misdeed() end" },
    { name = "observe", code = "function P:observe() misdeed() end", is_passive = true },
}

local function plugin(name, case, misdeed)
    return support.file(name .. ".lua", CLASS:format(misdeed, case.new or "", case.code))
end

-- A gateway of one worker with a route and a service for each misdeed, /N/ and sN, and load to another one.
local function start(case, services_more, use, misdeeds)
    local a, b = support.backend { id = "a" }, support.backend { id = "b" }
    local routes, services = {}, {}
    for i, misdeed in ipairs(misdeeds or hostile.misdeeds) do
        local path = plugin("hostile" .. i, case, misdeed[2])
        routes[i] = ("  - { match: { path_prefix: /%d/ }, service: s%d }\n"):format(i, i)
        services[i] = ("  s%d: { endpoints: [ \"%s\" ], %s }\n"):format(i, a.address, use:format(path))
    end
    local gateway = support.gateway { config = ([[
listeners: [ { address: "127.0.0.1:0" } ]
admin: { address: "127.0.0.1:0" }
workers: 1
routes:
%s  - { match: { path_prefix: / }, service: ours }
services:
%s  ours: { endpoints: [ "%s" ] }
%s]]):format(table.concat(routes), table.concat(services), b.address, services_more or "") }
    local load = support.load_start { url = gateway:url(), duration = 600, concurrency = 4, rate = 50 }
    return gateway, load, a
end

local function ask(gateway, connection, path)
    connection = connection or support.open(gateway:port(), { timeout = 20 })
    local reply, why = connection:request("GET " .. path .. " HTTP/1.1\r\nHost: x\r\n\r\n")
    if reply and reply.headers.connection ~= "close" then return reply.status, connection end
    connection:close()
    return reply and reply.status or "cut", nil, why
end

local function expect_nothing_noticed(gateway, load)
    local result = load:finish()
    assert.same({}, result.failures)
    assert.equal(4, result.connections)
    assert.is_true(result.ok > 0)
    assert.equal(0, gateway:metric("fluxgate_worker_restarts_total"))
    assert.equal(0, gateway:metric("fluxgate_control_restarts_total"))
end

describe("a filter that misbehaves", function()
    after_each(support.finish)

    for _, case in ipairs(filters) do
        it("in " .. case.name .. " leaves its routes shut or served, and nobody else notices", function()
            local gateway, load, backend = start(case, nil, "filters: [ %s ]")
            local ours, theirs, status, why
            for i, misdeed in ipairs(hostile.misdeeds) do
                for _ = 1, 3 do
                    status, theirs, why = ask(gateway, theirs, ("/%d/"):format(i))
                    local is_allowed = false
                    for _, allowed in ipairs(case.statuses) do is_allowed = is_allowed or status == allowed end
                    assert.is_true(is_allowed, misdeed[1] .. ": " .. tostring(status) .. " " .. tostring(why))
                    status, ours = ask(gateway, ours, "/")
                    assert.equal(200, status)
                    assert.is_truthy(ours)
                end
            end
            assert.equal(case.seen, #backend:requests() > 0)
            support.wait_until("each that never returns was abandoned, and the first was counted", function()
                local metrics = gateway:metrics()
                local count = support.metric(metrics, "fluxgate_script_abandonments_total")
                local errors = support.metric(metrics, "fluxgate_plugin_errors_total", { service = "s1", kind = "filter" })
                return count >= 4 and (errors or 0) >= 1, count .. ", errors " .. tostring(errors)
            end, 60)
            expect_nothing_noticed(gateway, load)
        end)
    end
end)

describe("a health policy that misbehaves", function()
    after_each(support.finish)

    for _, case in ipairs(policies) do
        it("in " .. case.name .. " leaves verdicts and traffic alone, and others are judged", function()
            local good = support.backend { id = "good" }
            local gateway, load = start(case, ([[
  good:
    endpoints: [ { id: good, address: "%s" } ]
    health: { policy: http, interval: 50ms, rise: 1, fall: 1 }
]]):format(good.address), "health: { policy: %s }")
            local function endpoints()
                local status, _, body = support.curl(gateway:admin_url("/api/v1/status"))
                return status and cjson.decode(body).health.endpoints or {} -- it is busy with loops
            end
            local function wait_for(state)
                support.wait_until("the good policy says " .. state, function()
                    for _, row in ipairs(endpoints()) do
                        if row.id == "good" then return row.state == state, row.state end
                    end
                end, 90)
            end
            local theirs, status
            for _ = 1, 3 do
                for i, misdeed in ipairs(hostile.misdeeds) do
                    status, theirs = ask(gateway, theirs, ("/%d/"):format(i))
                    assert.equal(200, status, misdeed[1])
                    assert.is_truthy(theirs)
                end
            end
            wait_for "healthy"
            -- What observes is asked where a window had requests: some may have come before control first looked.
            support.wait_until("every policy had its turn", function()
                local is_heard, text = pcall(gateway.metrics, gateway) -- it is busy with loops
                for i = 1, is_heard and #hostile.misdeeds or 0 do
                    if not text:find(('fluxgate_plugin_errors_total{[^}]*service="s%d"'):format(i)) then
                        status, theirs = ask(gateway, theirs, ("/%d/"):format(i))
                        assert.equal(200, status)
                        return false, i
                    end
                end
                return is_heard
            end, 120)
            good:set { health = 500 }
            wait_for "unhealthy"
            good:set { health = 200 }
            wait_for "healthy"
            local rows = support.wait_until("the admin address answers", function()
                local found = endpoints()
                return #found > 0 and found
            end)
            for _, row in ipairs(rows) do assert.is_true(row.state ~= "unhealthy" and row.state ~= "ejected", row.id) end
            expect_nothing_noticed(gateway, load)
        end)
    end

    it("is one of many, and control outlives all of them in a row", function()
        local loops = {}
        for i = 1, 26 do loops[i] = hostile.misdeeds[1] end -- at 250 ms each: past what control has for a sign of life
        local gateway, load = start(policies[4], nil, "health: { policy: %s }", loops)
        local theirs, status
        for i = 1, #loops do
            status, theirs = ask(gateway, theirs, ("/%d/"):format(i))
            assert.equal(200, status)
        end
        support.wait_until("each was abandoned", function()
            local is_heard, count = pcall(gateway.metric, gateway, "fluxgate_script_abandonments_total") -- it is busy
            return is_heard and count >= #loops, count
        end, 60)
        expect_nothing_noticed(gateway, load)
    end)
end)
