local kit = require "fluxgate.testkit"

describe("json_load", function()
    local policy, backend
    before_each(function()
        kit.seed(1)
        policy = kit.policy("examples/health/json_load.lua", { fall = 1, rise = 1 })
        backend = kit.backends({ { id = "a" } })[1]
    end)

    local function says(load, status) return { status = 200, body = ('{"status":"%s","load":%g}'):format(status or "ok", load) } end

    it("goes by the load, and lets nobody flap at the edge", function()
        local states, reasons = kit.judge(policy, backend, { says(0.5), says(0.95), says(0.8), says(0.6), says(0.8) })
        assert.same({ "healthy", "unhealthy", "unhealthy", "healthy", "healthy" }, states)
        assert.equal("load 0.95", reasons[2])
        assert.same({ ["test,a"] = 0.8 }, kit.metrics().endpoint_said_load)
    end)

    for what, result in pairs {
        ["no JSON"] = { status = 200, body = "<html>" }, ["JSON that is no object"] = { status = 200, body = "7" },
        ["no load"] = { status = 200, body = "{}" }, ["a 500"] = { status = 500, body = '{"load":0}' },
        ["a load that is no number"] = { status = 200, body = '{"status":"ok","load":NaN}' },
        ["an endless load"] = { status = 200, body = '{"status":"ok","load":1e999}' }, ["no answer"] = { ok = false, failure = "connect_refused" },
    } do
        it("takes " .. what .. " for not well", function() assert.same({ "unhealthy" }, (kit.judge(policy, backend, { result }))) end)
    end

    it("believes what it says of itself", function()
        local _, reasons = kit.judge(policy, backend, { says(0.1, "draining") })
        assert.equal("it says draining", reasons[1])
    end)
end)
