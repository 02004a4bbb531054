-- Control among health policies that do not return: it answers, it probes for the others, and what it left behind it is
-- taken over.
local cjson = require "cjson"
local support = require "spec.support"

local COUNT = 20
local HANG = "local x = 0 while true do x = x + 1 end"
local LOOPS = {
    "function P:probe() " .. HANG .. " end function P:judge() end",
    "function P:probe() return { kind = 'tcp' } end function P:judge() " .. HANG .. " end",
    "function P:probe() return function() " .. HANG .. " end end function P:judge() end",
    "function P:observe() " .. HANG .. " end",
}

local function policy(name, code)
    return support.file(name .. ".lua", ([[
local P = { name = "looping", api = 1 }
P.__index = P
function P.new() return setmetatable({ interval = 0.05, window = 0.1 }, P) end
%s
return P
]]):format(code))
end

-- Services s1, s2, … with the policies of `files` under /1/, /2/, …, and one, "good", that is probed over http.
local function config(files, bad, good)
    local routes, services = {}, {}
    for i, file in ipairs(files) do
        routes[i] = ("  - { match: { path_prefix: /%d/ }, service: s%d }\n"):format(i, i)
        services[i] = ("  s%d: { endpoints: [ \"%s\" ], health: { policy: %s } }\n"):format(i, bad.address, file)
    end
    return ([[
listeners: [ { address: "127.0.0.1:0" } ]
admin: { address: "127.0.0.1:0" }
workers: 1
routes:
%s  - { match: { path_prefix: / }, service: good }
services:
%s  good:
    endpoints: [ { id: good, address: "%s" } ]
    health: { policy: http, interval: 50ms, rise: 1, fall: 1 }
]]):format(table.concat(routes), table.concat(services), good.address)
end

describe("many health policies that do not return", function()
    after_each(support.finish)

    for _, case in ipairs {
        { name = "of one file", loops = { LOOPS[1] } },
        { name = "of many files, in each of their functions", loops = LOOPS },
    } do
        it(case.name .. ", leave control time for everything else", function()
            local good, bad = support.backend { id = "good" }, support.backend { id = "bad" }
            local files = {}
            for i = 1, COUNT do
                files[i] = case.loops[2] == nil and files[1] or policy("looping" .. i, case.loops[i % #case.loops + 1])
            end
            local gateway = support.gateway { config = config(files, bad, good) }
            -- whatever number of them was abandoned by then, control answers and has probed good since the last answer
            local probes, counts, text = {}, {}, nil
            support.wait_until("each of them was abandoned, and is counted and named", function()
                text = gateway:metrics()
                local count, missing = support.metric(text, "fluxgate_script_abandonments_total"), 0
                if not probes[count] then
                    probes[count] = good:counts().health_checks
                    counts[#counts + 1] = count
                end
                for i = 1, COUNT do
                    local of = { service = "s" .. i, kind = "policy" }
                    if (support.metric(text, "fluxgate_plugin_errors_total", of) or 0) < 1 then
                        missing = missing + 1
                        support.curl(gateway:url(("/%d/"):format(i))) -- for those that observe
                    end
                end
                return missing == 0, missing
            end, 180)
            local probed = 0
            for i = 2, #counts do probed = probed + (probes[counts[i]] > probes[counts[i - 1]] and 1 or 0) end
            local answers = "answers at " .. table.concat(counts, " ") .. ", probes before " .. probed
            assert.is_true(#counts >= COUNT / 2, answers)
            assert.is_true(probed >= #counts / 2, answers)
            assert.equal(support.metric(text, "fluxgate_script_abandonments_total"),
                support.metric(text, "fluxgate_script_runaways_total"))
            local kept_out = {}
            for _, event in ipairs(gateway:events("script is quarantined")) do kept_out[event.service] = true end
            for i = 1, COUNT do assert.is_true(kept_out["s" .. i], "s" .. i .. " is not quarantined") end
            assert.equal(0, #gateway:events("endpoint is unhealthy"))
            assert.equal(0, support.metric(text, "fluxgate_control_restarts_total"))
        end)
    end
end)

describe("control that abandoned many states", function()
    after_each(support.finish)

    it("is replaced, and keeps verdicts, quarantines and whoever asks the admin address", function()
        local good, bad, files = support.backend { id = "good" }, support.backend { id = "bad" }, {}
        for i = 2, 32 do files[i] = policy("looping" .. i, LOOPS[1]) end
        -- this one gives its verdict first
        files[1] = policy("turning", [[
function P:probe()
    self.probes = (self.probes or 0) + 1
    if self.probes > 1 then ]] .. HANG .. [[ end
    return { kind = 'tcp' }
end
function P:judge() return 'unhealthy', 'it was so then' end]])
        local gateway = support.gateway { config = config(files, bad, good) }
        local load = support.load_start { url = gateway:url("/x"), duration = 600, concurrency = 4, rate = 50 }
        local first, asked = gateway:control_pid(), 0
        local function ask(path)
            local status, _, body = support.curl(gateway:admin_url(path))
            assert.equal(200, status, path)
            asked = asked + 1
            return body
        end
        support.wait_until("a successor runs", function()
            assert.equal("ready\n", ask "/ready")
            local text = ask "/metrics"
            local restarts = support.metric(text, "fluxgate_control_restarts_total")
            return restarts == 1, support.metric(text, "fluxgate_script_abandonments_total")
        end, 240)
        assert.equal(2, #gateway:events("control started"))
        assert.is_true(gateway:control_pid() ~= first)
        assert.equal(1, #gateway:events("many Lua states were dropped: control finishes and is replaced"))
        assert.equal("0", gateway:events("child died, it is started again")[1].by:match("^exit (%d+)$"))
        -- who was abandoned last is still kept out, with what it said last
        local events, abandoned = gateway:events("script is quarantined"), nil
        for _, event in ipairs(events) do
            if event.message:find("was abandoned", 1, true) then abandoned = event.service end
        end
        assert.equal(1, support.metric(ask "/metrics", "fluxgate_plugin_quarantined", { service = abandoned }))
        local function turned()
            for _, row in ipairs(cjson.decode(ask "/api/v1/status").health.endpoints) do
                if row.service == "s1" then return row.state .. ": " .. row.reason end
            end
        end
        assert.equal("unhealthy: it was so then", turned())
        local before = good:counts().health_checks
        support.wait_until("the others are probed", function() return good:counts().health_checks > before + 3 end, 30)
        assert.equal("unhealthy: it was so then", turned())
        assert.is_true((gateway:reload()))
        assert.equal(2, #gateway:events("control started"))
        local result = load:finish()
        assert.same({}, result.failures)
        assert.equal(4, result.connections)
        assert.equal(0, gateway:metric("fluxgate_worker_restarts_total"))
        assert.is_true(asked > 32)
    end)
end)
