local kit = require "fluxgate.testkit"

local GOOD, BAD = { ok = true, detail = "SERVING" }, { ok = false, failure = "bad_response", detail = "NOT_SERVING" }

describe("health policy grpc", function()
    local backend
    before_each(function()
        kit.seed(1)
        backend = kit.backends({ {} })[1]
    end)

    it("asks for the server as a whole within 2 s by default", function()
        local probe = kit.probe(kit.policy("grpc"), backend)
        assert.same({ "grpc", "", 2, 0 }, { probe.kind, probe.service, probe.timeout, probe.port })
    end)

    it("asks for the service that its options name", function()
        local probe = kit.probe(kit.policy("grpc", { service = "shop.v1.Basket", host = "shop", port = 50051 }), backend)
        assert.same({ "shop.v1.Basket", "shop", 50051 }, { probe.service, probe.host, probe.port })
    end)

    it("counts answers by rise and fall", function()
        local policy = kit.policy("grpc", { rise = 2, fall = 2 })
        assert.same({ "healthy", "healthy", "unhealthy", "unhealthy", "healthy" },
            kit.judge(policy, backend, { GOOD, BAD, BAD, GOOD, GOOD }))
    end)

    it("says what the service said", function()
        local policy = kit.policy("grpc", { fall = 1 })
        local history = { rise = 0, fall = 0, state = "healthy" }
        assert.same({ "unhealthy", "1 probes failed: NOT_SERVING" }, { policy:judge(backend, BAD, history) })
        local refused = { ok = false, failure = "connect_refused" }
        assert.same({ "unhealthy", "1 probes failed: connect refused" }, { policy:judge(backend, refused, history) })
    end)

    for options, message in pairs {
        [{ service = "a b" }] = "services.test.health.service: expected the full name of a gRPC service, such as shop.v1.Basket",
        [{ path = "/" }] = "services.test.health.path: no such option",
    } do
        it("refuses options with: " .. message, function()
            local ok, got = pcall(kit.policy, "grpc", options)
            assert.same({ false, message }, { ok, got })
        end)
    end
end)
