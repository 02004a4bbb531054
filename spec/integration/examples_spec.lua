local cjson = require "cjson"
local support = require "spec.support"

describe("the examples", function()
    after_each(support.finish)

    it("hold a configuration that check takes without a word", function()
        local out, code = support.command(support.fluxgate, "check", "-c", "examples/fluxgate.yaml")
        assert.equal(0, code, out)
        assert.falsy(out:find("warning", 1, true), out)
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
