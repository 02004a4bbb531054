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
