-- flux with the real registry and the real gateway.
local cjson = require "cjson"
local support = require "spec.support"

local CONFIG = [[
listeners: [ { address: "127.0.0.1:0" } ]
routes: [ { match: { path_prefix: / }, service: users } ]
services:
  users:
    discover: users
    strategy: round_robin
    health: { policy: http, path: /health, interval: 200ms, timeout: 1s, rise: 1, fall: 2 }
registry: { embedded: true, listen: { http: "127.0.0.1:0", grpc: "127.0.0.1:0" }, store: memory }
admin: { address: "127.0.0.1:0" }
]]

local function join(url, protocol, args)
    local port = support.free_port()
    local argv = { support.flux, "run", "--service", "users", "--host", "127.0.0.1", "--port", port, "--heartbeat", "300ms",
        "--registry", url, "--protocol", protocol }
    for _, arg in ipairs(args or {}) do argv[#argv + 1] = arg end
    for _, arg in ipairs { "--", "python3", "examples/backend.py" } do argv[#argv + 1] = arg end
    local flux = support.run { name = "flux", argv = argv }
    flux.port, flux.id = port, "users-127.0.0.1-" .. port
    return flux
end

local function url_of(program, protocol)
    return protocol == "grpc" and "127.0.0.1:" .. program:registry_grpc_port() or program:registry_url()
end

local function instances(program)
    local status, _, body = support.curl(program:registry_url("/api/v1/services"))
    return status == 200 and cjson.decode(body) or {}
end

local function wait_count(program, count)
    support.wait_until(count .. " instances are registered", function()
        local list = instances(program)
        return #list == count, list
    end)
end

for _, protocol in ipairs { "http", "grpc" } do
    describe("flux and the registry by " .. protocol, function()
        after_each(support.finish)

        it("register, list, beat and leave", function()
            local registry = support.registry {}
            local flux = join(url_of(registry, protocol), protocol)
            wait_count(registry, 1)
            local instance = instances(registry)[1]
            assert.same({ flux.id, "users", "127.0.0.1", flux.port, "http://127.0.0.1:" .. flux.port, "/health" },
                { instance.id, instance.serviceName, instance.host, instance.port, instance.url, instance.healthPath })
            local out = support.command(support.flux, "list", "--service", "users", "--json", "--protocol", protocol,
                "--registry", url_of(registry, protocol))
            assert.equal(flux.id, cjson.decode(out)[1].id)
            local _, code = support.command(support.flux, "heartbeat", "--id", flux.id, "--protocol", protocol,
                "--registry", url_of(registry, protocol))
            assert.equal(0, code)
            _, code = support.command(support.flux, "heartbeat", "--id", "nobody", "--protocol", protocol,
                "--registry", url_of(registry, protocol))
            assert.equal(67, code)
            assert.equal(0, flux:stop())
            wait_count(registry, 0)
        end)

        it("find together again after the registry dropped the instance", function()
            local registry = support.registry {}
            local flux = join(url_of(registry, protocol), protocol)
            wait_count(registry, 1)
            support.command(support.flux, "deregister", "--id", flux.id, "--registry", registry:registry_url())
            support.wait_until("flux noticed", function() return #flux:events("forgotten") == 1 end)
            wait_count(registry, 1)
        end)

        it("carry weight, zone, version and metadata", function()
            local registry = support.registry {}
            join(url_of(registry, protocol), protocol,
                { "--weight", 3, "--zone", "b", "--app-version", "1.2", "--metadata", "colour=blue" })
            wait_count(registry, 1)
            local _, _, body = support.curl(registry:registry_url("/api/v2/instances"))
            local list = cjson.decode(body)
            local instance = (list.instances or list)[1]
            assert.same({ 3, "b", "1.2", "blue" },
                { instance.weight, instance.zone, instance.version, instance.metadata.colour })
        end)
    end)
end

describe("backends under flux run behind the gateway", function()
    after_each(support.finish)

    it("come and go without a failed request", function()
        local gateway = support.gateway { config = CONFIG, workers = 2 }
        local first = join(gateway:registry_url(), "http")
        support.wait_until("the first one answers", function()
            local _, _, body = support.curl(gateway:url("/"))
            return body == "hello from users on " .. first.port .. "\n", body
        end)
        local load = support.load_start { url = gateway:url("/"), concurrency = 4, replay = true }
        local second = join(url_of(gateway, "grpc"), "grpc")
        support.wait_until("the second one is picked", function()
            local _, _, body = support.curl(gateway:url("/"))
            return body == "hello from users on " .. second.port .. "\n", body
        end)
        assert.equal(0, first:stop())
        wait_count(gateway, 1)
        local result = load:finish()
        assert.same({ {}, { ["200"] = result.requests } }, { result.failures, result.statuses })
        assert.is_true(result.bodies["hello from users on " .. first.port] > 0)
        assert.is_true(result.bodies["hello from users on " .. second.port] > 0)
    end)
end)
