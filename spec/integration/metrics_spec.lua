-- What Prometheus sees: promtool reads every exposition, and a real Prometheus scrapes the gateway.
local cjson = require "cjson"
local support = require "spec.support"

local function config(addresses)
    return ([[
listeners: [ { address: "127.0.0.1:0" } ]
admin: { address: "127.0.0.1:0" }
registry: { embedded: true, listen: { http: "127.0.0.1:0", grpc: "127.0.0.1:0" }, store: memory }
workers: 2
routes:
  - match: { path_prefix: /users }
    service: web
services:
  web: { endpoints: [ %s ] }
]]):format(addresses)
end

-- promtool's own words; its lint of the names that the old contract fixes is not an error.
local function promtool(text)
    local file = support.file("metrics.txt", text)
    local said, code = support.shell("promtool check metrics < " .. support.quote(file))
    return code, said
end

describe("the metrics", function()
    local gateway
    before_each(function()
        local a, b = support.backend { id = "a" }, support.backend { id = "b" }
        gateway = support.gateway { config = config(('"%s", "%s"'):format(a.address, b.address)) }
    end)
    after_each(support.finish)

    it("are well-formed and carry the old names and labels, the route instead of the raw path", function()
        support.load { url = gateway:url("/users/4711?x=1"), requests = 40, concurrency = 4 }
        assert.equal(404, (support.curl(gateway:url("/nowhere/4712"))))
        local text
        support.wait_until("all are counted", function()
            text = gateway:metrics()
            return gateway:metric("loadbalancer_total_requests", { path = "/users", method = "GET", status = "200",
                strategy = "round_robin" }) == 40
        end)
        assert.equal(40, gateway:metric("loadbalancer_request_duration_seconds_count", { path = "/users" }))
        assert.equal(2, gateway:metric("loadbalancer_backend_status"))
        assert.equal(0, gateway:metric("loadbalancer_backend_active_connections"))
        assert.is_nil(text:find("471", 1, true))
        local code, said = promtool(text)
        assert.is_true(code == 0 or (code == 3 and not said:find("error", 1, true)), said)
        for line in said:gmatch("[^\n]+") do
            assert.truthy(line:find("^loadbalancer_") or line:find("^$"), "promtool complains of a name of ours: " .. line)
        end
    end)

    it("of the registry have the old names too, and an instance's series goes with it", function()
        local body = '{"id":"i1","serviceName":"s","host":"127.0.0.1","port":1,"url":"http://127.0.0.1:1","healthPath":"/h"}'
        local base = gateway:registry_url("/api/v1/services")
        assert.equal(201, (support.curl("-H", "Content-Type: application/json", "-d", body, base .. "/register")))
        local _, _, text = support.curl(gateway:registry_url("/actuator/prometheus"))
        assert.truthy(text:find("\nservice_registry_registered_services 1", 1, true), text)
        assert.truthy(text:find("\nservice_registry_registered_services_total 1", 1, true), text)
        assert.truthy(text:find('service_registry_instance_alive{instance_id="i1",service_name="s"} 1', 1, true), text)
        local code, said = promtool(text)
        assert.is_true(code == 0 or code == 3, said)
        assert.equal(204, (support.curl("-X", "DELETE", base .. "/deregister/i1")))
        _, _, text = support.curl(gateway:registry_url("/actuator/prometheus"))
        assert.is_nil(text:find('"i1"', 1, true))
        local _, _, health = support.curl(gateway:registry_url("/actuator/health"))
        assert.equal("UP", cjson.decode(health).status)
    end)

    it("are scraped by a real Prometheus", function()
        support.load { url = gateway:url("/users"), requests = 30, concurrency = 2 }
        local port = support.free_port()
        local yaml = support.file("prometheus.yml", ([[
global: { scrape_interval: 1s }
scrape_configs:
  - job_name: gateway
    static_configs: [ { targets: [ "127.0.0.1:%d" ] } ]
  - job_name: registry
    metrics_path: /actuator/prometheus
    static_configs: [ { targets: [ "127.0.0.1:%d" ] } ]
]]):format(gateway:admin_port(), gateway:registry_http_port()))
        local prometheus = support.run { name = "prometheus", argv = { "prometheus", "--config.file=" .. yaml,
            "--storage.tsdb.path=" .. support.dir() .. "/tsdb", "--web.listen-address=127.0.0.1:" .. port } }
        prometheus.expected[prometheus.pid] = true -- it may be told to end before it has a handler for that
        local function query(expression)
            local status, _, body = support.curl("http://127.0.0.1:" .. port .. "/api/v1/query?query=" .. expression)
            local result = status == 200 and cjson.decode(body).data.result[1]
            return result and result.value[2], body
        end
        support.wait_until("Prometheus has both targets and the count", function()
            local up, one = query("sum(up)")
            local sum, two = query("sum(loadbalancer_total_requests)")
            return up == "2" and sum == "30", { one, two }
        end, 30)
    end)
end)
