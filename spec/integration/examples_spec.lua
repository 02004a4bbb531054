local cjson = require "cjson"
local support = require "spec.support"

describe("the examples", function()
    after_each(support.finish)

    it("hold a configuration that check takes without a word", function()
        local out, code = support.command(support.fluxgate, "check", "-c", "examples/fluxgate.yaml")
        assert.equal(0, code, out)
        assert.falsy(out:find("warning", 1, true), out)
    end)

    it("hold a configuration that runs as it says", function()
        local text = support.read_file("examples/fluxgate.yaml")
        for _, port in ipairs { 8080, 8081, 9091, 9901 } do text = text:gsub(":" .. port .. '(["# ])', ":0%1") end
        text = text:gsub("interval: %d+s", "interval: 200ms")
        local gateway, port = support.gateway { config = text }, support.free_port()
        support.run { name = "flux", argv = { support.flux, "run", "--service", "users", "--port", port, "--host", "127.0.0.1",
            "--registry", gateway:registry_url(), "--", "python3", "examples/backend.py" } }
        support.wait_until("the backend answers", function()
            local status, _, body = support.curl(gateway:url("/users"))
            return status == 200 and body == "hello from users on " .. port .. "\n", body
        end)
        assert.equal("pong\n", (select(3, support.curl(gateway:url("/ping")))))
        local status, headers = support.curl(gateway:url("/old"))
        assert.same({ 308, "/users" }, { status, headers.location })
    end)

    it("hold filters and a health policy that work in a gateway", function()
        local here = support.command("pwd"):gsub("%s+$", "")
        local web = support.backend { id = "web", rules = {
            ["/status"] = { body = '{"status":"ok","load":0.25}' }, ["/keys"] = { body = "ann" },
            ["/page"] = { headers = { { "Content-Type", "text/html" } }, body = "see http://old/x" },
        } }
        local function route(path, filter, options, service)
            return ("  - { match: { path: %s }, service: %s, filters: [ { use: %s/examples/filters/%s.lua, options: %s } ] }\n"):format(
                path, service or "web", here, filter, options)
        end
        local gateway = support.gateway { workers = 2, config = 'listeners: [ { address: "127.0.0.1:0" } ]\n'
            .. 'admin: { address: "127.0.0.1:0" }\nroutes:\n'
            .. route("/key", "api_key", '{ url: "service://web/keys" }') .. route("/hook", "webhook", "{ secret: 0123456789abcdef }")
            .. route("/page", "replace_text", '{ from: "http://old", to: "https://new" }')
            .. route("/dead", "breaker", "{ failures: 2, open: 1h }", "dead")
            .. ('services:\n  dead: { endpoints: [ "127.0.0.1:1" ] }\n  web: { endpoints: [ "%s" ], '
                .. "health: { policy: %s/examples/health/json_load.lua, interval: 50ms } }\n"):format(web.address, here) }
        support.wait_until("the policy has read the load", function()
            local _, _, metrics = support.curl(gateway:admin_url("/metrics"))
            return metrics:find("endpoint_said_load{[^}]*} 0.25\n"), "no such metric"
        end)
        assert.equal(401, (support.curl(gateway:url("/key"))))
        for _ = 1, 3 do assert.equal(200, (support.curl("-H", "X-Api-Key: a b", gateway:url("/key")))) end
        assert.equal(401, (support.curl("-d", "x", gateway:url("/hook"))))
        assert.equal("see https://new/x", (select(3, support.curl(gateway:url("/page")))))
        support.wait_until("the breaker has opened", function()
            local status, _, body = support.curl(gateway:url("/dead"))
            return status == 503 and body == "Back soon.\n", status
        end)
        local asked = 0
        for _, request in ipairs(web:requests()) do
            if request.target == "/keys?key=a%20b" then asked = asked + 1 end
            if request.target == "/key" then assert.equal("ann", request.header("X-User")) end
            assert.not_equal("/hook", request.target)
        end
        assert.equal(1, asked) -- by whichever worker
    end)

    it("hold a Prometheus configuration that promtool takes", function()
        local out, code = support.command(support.promtool, "check", "config", "examples/prometheus/prometheus.yml")
        assert.equal(0, code, out)
    end)

    it("hold a dashboard whose every series the documentation names", function()
        local dashboard = cjson.decode(support.read_file("examples/grafana/fluxgate.json"))
        local documented = support.read_file("docs/metrics.md") .. support.read_file("docs/flux.md")
            .. support.read_file("docs/registry.md")
        local seen = 0
        for _, panel in ipairs(dashboard.panels) do
            for _, target in ipairs(panel.targets) do
                for name in target.expr:gmatch("[a-z]+_[a-z_]+") do
                    if name:find("^loadbalancer_") or name:find("^fluxgate_") or name:find("^flux_r") then
                        name = name:gsub("_bucket$", "")
                        assert.truthy(documented:find(name, 1, true), name)
                        seen = seen + 1
                    end
                end
            end
        end
        assert.is_true(seen > 15)
    end)
end)
