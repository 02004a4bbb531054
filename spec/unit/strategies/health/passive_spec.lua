-- The policy against Envoy's numbers: docs/root/intro/arch_overview/upstream/outlier.rst.
local kit = require "fluxgate.testkit"

-- Endpoints a, b, c, …
local function fleet_of(count)
    local rows = {}
    for i = 1, count do rows[i] = { id = string.char(96 + i) } end
    return kit.backends(rows)
end

-- A window in which each endpoint had 200 requests of which `errors[i]` went wrong.
local function window(errors, requests)
    local rows = {}
    for i, count in ipairs(errors) do
        rows[string.char(96 + i)] = { requests = requests or 200, errors = count, latency = 0.01 }
    end
    return rows
end

local function ids(done)
    local list = {}
    for id in pairs(done) do list[#list + 1] = id end
    table.sort(list)
    return table.concat(list, " ")
end

describe("health policy passive", function()
    local policy
    before_each(function()
        kit.seed(1)
        policy = kit.policy("passive")
    end)

    it("sends no probes", function() assert.is_nil(policy.probe) end)

    it("ejects for five failures in a row, and not for four", function()
        local fleet = fleet_of(4)
        assert.same({}, kit.observe(policy, fleet, { a = { failures_in_row = 4 } }))
        local done = kit.observe(policy, fleet, { a = { failures_in_row = 5 } })
        assert.equal("eject", done.a.action)
        assert.equal("5 requests failed in a row", done.a.reason)
        assert.equal("ejected", fleet.a.state)
    end)

    it("ejects for five answers of 5xx in a row", function()
        local done = kit.observe(policy, fleet_of(4), { b = { errors_in_row = 5, failures_in_row = 1 } })
        assert.equal("5 requests in a row failed or got a 5xx", done.b.reason)
    end)

    it("leaves out what an option of 0 turns off", function()
        policy = kit.policy("passive", { consecutive_failures = 0, consecutive_errors = 0 })
        assert.same({}, kit.observe(policy, fleet_of(4), { a = { failures_in_row = 500 } }))
    end)

    it("ejects for 10 s the first time, for 20 s the second, and at most for 300 s, each within 10 %", function()
        local fleet = fleet_of(4)
        local least, most = math.huge, 0
        for n = 1, 60 do
            local rows = { a = n == 1 and { failures_in_row = 5 } or { trial = "failed" } }
            local share = kit.observe(policy, fleet, rows).a.seconds / math.min(10 * n, 300)
            least, most = math.min(least, share), math.max(most, share)
        end
        -- sixty even draws from 0.9 to 1.1 miss either outer tenth with a chance of 0.9^60 < 0.002; the seed is fixed
        assert.is_true(least >= 0.9 and least < 0.92, tostring(least))
        assert.is_true(most <= 1.1 and most > 1.08, tostring(most))
    end)

    it("ejects at most half", function()
        local fleet, rows = fleet_of(5), {}
        for i = 1, 5 do rows[string.char(96 + i)] = { failures_in_row = 9 } end
        assert.equal("a b", ids(kit.observe(policy, fleet, rows)))
        assert.equal("", ids(kit.observe(policy, fleet, rows)))
    end)

    it("ejects no more than max_ejected percent", function()
        policy = kit.policy("passive", { max_ejected = 20 })
        local fleet, rows = fleet_of(10), {}
        for i = 1, 10 do rows[string.char(96 + i)] = { failures_in_row = 9 } end
        assert.equal("a b", ids(kit.observe(policy, fleet, rows)))
    end)

    it("never ejects the last one", function()
        assert.same({}, kit.observe(policy, fleet_of(1), { a = { failures_in_row = 99 } }))
    end)

    it("restores what passed its trial and ejects again, for longer, what failed it", function()
        local fleet = fleet_of(4)
        kit.observe(policy, fleet, { a = { failures_in_row = 5 }, b = { failures_in_row = 5 } })
        local done = kit.observe(policy, fleet, { a = { trial = "passed" }, b = { trial = "failed" } })
        assert.same({ "restore", "eject" }, { done.a.action, done.b.action })
        assert.is_true(done.b.seconds >= 18 and done.b.seconds <= 22)
        assert.same({ "healthy", "ejected" }, { fleet.a.state, fleet.b.state })
        assert.equal("eject", kit.observe(policy, fleet, { b = { trial = "error" } }).b.action)
    end)

    it("takes a 5xx for a passed trial where those do not count", function()
        policy = kit.policy("passive", { consecutive_errors = 0 })
        local fleet = fleet_of(4)
        kit.observe(policy, fleet, { a = { failures_in_row = 5 } })
        assert.equal("restore", kit.observe(policy, fleet, { a = { trial = "error" } }).a.action)
    end)

    -- Of five endpoints whose rates are 1, 1, 1, 1 and r, the odd one lies two standard deviations below the mean,
    -- whatever r is (deviation 0.4 (1 - r), distance 0.8 (1 - r)): just outside 1.9, and always the same.
    it("ejects whose success rate lies 1.9 deviations below the fleet's mean", function()
        local fleet = fleet_of(5)
        local done = kit.observe(policy, fleet, window { 0, 0, 100, 0, 0 })
        assert.equal("c", ids(done))
        assert.equal("success rate 50.0 %, fleet 90.0 %", done.c.reason)
    end)

    it("ejects nobody where the same lies 2.1 deviations away at least", function()
        policy = kit.policy("passive", { stdev_factor = 2.1 })
        assert.same({}, kit.observe(policy, fleet_of(5), window { 0, 0, 200, 0, 0 }))
    end)

    it("ejects nobody where all do equally badly", function()
        assert.same({}, kit.observe(policy, fleet_of(6), window { 90, 90, 90, 90, 90, 90 }))
    end)

    it("ejects nobody of a fleet whose rates merely differ by chance", function()
        local ejected = 0
        math.randomseed(1)
        for _ = 1, 200 do -- 20 endpoints with a true success rate of 90 %
            local errors = {}
            for i = 1, 20 do
                errors[i] = 0
                for _ = 1, 200 do if math.random(10) == 1 then errors[i] = errors[i] + 1 end end
            end
            for _ in pairs(kit.observe(policy, fleet_of(20), window(errors))) do ejected = ejected + 1 end
        end
        -- 1.9 deviations cut off 2.9 % of a normal distribution: 115 of 4000, ± 3 × sqrt(4000 × 0.029 × 0.971) = 32
        assert.is_true(ejected > 60 and ejected < 160, tostring(ejected))
    end)

    it("compares no fewer than five endpoints of a hundred requests each", function()
        assert.same({}, kit.observe(policy, fleet_of(4), window { 0, 0, 0, 200 }))
        assert.same({}, kit.observe(policy, fleet_of(5), window({ 0, 0, 0, 0, 99 }, 99)))
        local rows = window { 0, 0, 0, 0, 0, 200 }
        rows.f.requests = 99
        assert.same({}, kit.observe(policy, fleet_of(6), rows))
    end)

    it("ejects whose latency is more than five times the fleet's median", function()
        local rows = window { 0, 0, 0, 0, 0 }
        rows.d.latency = 0.3
        for _, row in pairs(rows) do row.latency = row.latency * 5 end
        rows.e.latency = 0.24
        local done = kit.observe(policy, fleet_of(5), rows)
        assert.equal("d", ids(done))
        assert.equal("latency 1500 ms, fleet 50 ms", done.d.reason)
    end)

    it("finds nobody slow below its floor", function()
        local rows = window { 0, 0, 0, 0, 0 }
        rows.a.latency = 0.099
        assert.same({}, kit.observe(policy, fleet_of(5), rows))
        rows.a.latency = 0.101
        assert.equal("a", ids(kit.observe(policy, fleet_of(5), rows)))
    end)

    for options, message in pairs {
        [{ interval = "3s" }] = "services.test.health.interval: no such option",
        [{ max_ejected = 51 }] = "services.test.health.max_ejected: expected at most 50",
        [{ base_ejection = "10m" }] = "services.test.health.max_ejection: expected at least base_ejection",
        [{ window = "1ms" }] = "services.test.health.window: expected at least 0.05",
    } do
        it("refuses options with: " .. message, function()
            local ok, got = pcall(kit.policy, "passive", options)
            assert.same({ false, message }, { ok, got })
        end)
    end
end)

describe("a policy that observes", function()
    before_each(function() kit.seed(1) end)

    local function answering(...)
        local answer = { n = select("#", ...), ... }
        return { observe = function() return unpack(answer, 1, answer.n) end }
    end

    it("is held to what it may answer", function()
        for answer, message in pairs {
            [{ "ejct" }] = 'observe() must answer "eject", "restore" or nil, it answered ejct',
            [{ "eject", -1 }] = "observe() must eject for more than 0 s and at most a day, not for -1",
            [{ "eject", 0 / 0 }] = "observe() must eject for more than 0 s and at most a day, not for nan",
            [{ "eject", {} }] = "observe() must eject for more than 0 s",
        } do
            local ok, got = pcall(kit.observe, answering(unpack(answer)), fleet_of(2), { a = {} })
            assert.is_false(ok)
            assert.is_truthy(got:gsub("%-nan", "nan"):find(message, 1, true), got)
        end
    end)

    it("may leave the time to the gateway, and give a reason all the same", function()
        local done = kit.observe(answering("eject", "too hot"), fleet_of(2), { a = {} })
        assert.same({ a = { action = "eject", seconds = 0, reason = "too hot" } }, done)
    end)
end)
