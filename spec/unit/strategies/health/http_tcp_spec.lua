local kit = require "fluxgate.testkit"

local GOOD, BAD = { status = 200 }, { ok = false, failure = "connect_refused", status = 0 }

describe("health policy http", function()
    local backend
    before_each(function()
        kit.seed(1)
        backend = kit.backends({ {} })[1]
    end)

    it("asks GET /health within 2 s by default", function()
        local probe = kit.probe(kit.policy("http"), backend)
        assert.same({ "http", "GET", "/health", 2 }, { probe.kind, probe.method, probe.path, probe.timeout })
    end)

    it("asks an instance's own path instead of the policy's", function()
        local own = kit.backends({ { health_path = "/ready" } })[1]
        assert.equal("/ready", kit.probe(kit.policy("http", { path = "/up" }), own).path)
        assert.equal("/up", kit.probe(kit.policy("http", { path = "/up" }), backend).path)
    end)

    it("finds a new endpoint healthy at its first good answer", function()
        assert.same({ "healthy" }, kit.judge(kit.policy("http"), backend, { GOOD }))
    end)

    it("finds an endpoint unhealthy after `fall` bad answers in a row and no sooner", function()
        assert.same({ "healthy", "healthy", "healthy", "healthy", "healthy", "unhealthy" },
            kit.judge(kit.policy("http", { fall = 3 }), backend, { BAD, BAD, GOOD, BAD, BAD, BAD }, "healthy"))
    end)

    it("finds an endpoint healthy again after `rise` good answers in a row and no sooner", function()
        assert.same({ "unhealthy", "unhealthy", "unhealthy", "healthy" },
            kit.judge(kit.policy("http", { rise = 2 }), backend, { GOOD, BAD, GOOD, GOOD }, "unhealthy"))
    end)

    it("says why", function()
        local policy = kit.policy("http", { fall = 1 })
        local verdict, reason = policy:judge(backend, { ok = true, status = 500, body = "" }, { rise = 0, fall = 0, state = "healthy" })
        assert.same({ "unhealthy", "1 probes failed: status 500" }, { verdict, reason })
    end)

    it("expects the statuses and the text that its options name", function()
        local policy = kit.policy("http", { status = { 204, "300-399" }, fall = 1 })
        assert.same({ "healthy" }, kit.judge(policy, backend, { { status = 302 } }, "healthy"))
        assert.same({ "unhealthy" }, kit.judge(policy, backend, { { status = 200 } }, "healthy"))
        local text = kit.policy("http", { body = "ready", fall = 1 })
        assert.same({ "healthy" }, kit.judge(text, backend, { { status = 200, body = "I am ready." } }, "healthy"))
        assert.same({ "unhealthy" }, kit.judge(text, backend, { { status = 200, body = "starting" } }, "healthy"))
    end)

    for options, message in pairs {
        [{ pth = "/x" }] = "services.test.health.pth: no such option; did you mean 'path'?",
        [{ path = "x" }] = "services.test.health.path: expected a path that begins with '/'",
        [{ status = { "2xx" } }] = "services.test.health.status: expected a status like 200 or a range like \"200-299\", got 2xx",
        [{ rise = 0 }] = "services.test.health.rise: expected at least 1",
        [{ timeout = "2" }] = "services.test.health.timeout: expected a duration like \"5s\", got \"2\"",
    } do
        it("refuses options with: " .. message, function()
            local ok, got = pcall(kit.policy, "http", options)
            assert.same({ false, message }, { ok, got })
        end)
    end
end)

describe("health policy tcp", function()
    before_each(function() kit.seed(1) end)

    it("asks for a connection within its timeout", function()
        local probe = kit.probe(kit.policy("tcp", { timeout = "500ms", port = 99 }), kit.backends({ {} })[1])
        assert.same({ "tcp", 0.5, 99 }, { probe.kind, probe.timeout, probe.port })
    end)

    it("counts connections by rise and fall", function()
        local policy, backend = kit.policy("tcp", { rise = 2, fall = 2 }), kit.backends({ {} })[1]
        assert.same({ "healthy", "healthy", "unhealthy", "unhealthy", "healthy" },
            kit.judge(policy, backend, { { ok = true }, BAD, BAD, { ok = true }, { ok = true } }))
    end)

    it("has no path", function()
        local ok, message = pcall(kit.policy, "tcp", { path = "/" })
        assert.is_false(ok)
        assert.is_truthy(message:find("services.test.health.path: no such option", 1, true))
    end)
end)
