-- The commands as a person meets them: help, wrong words, broken files, the flat file of the replaced system.
local support = require "spec.support"

local good = [[
listeners: [ { address: "127.0.0.1:0" } ]
routes: [ { match: { path_prefix: / }, service: web } ]
services: { web: { endpoints: [ "127.0.0.1:9001" ] } }
]]

local function fluxgate(...) return support.command(support.fluxgate, ...) end

describe("fluxgate", function()
    after_each(support.finish)

    it("has help for itself and for every subcommand", function()
        local text, code = fluxgate("--help")
        assert.equal(0, code)
        for name in text:gmatch("\n  (%l+) ") do
            local help, status = fluxgate(name, "--help")
            assert.equal(0, status, help)
            assert.truthy(help:find("usage: fluxgate " .. name, 1, true), help)
        end
    end)

    it("answers a wrong word with the one that was meant and exit code 64", function()
        local text, code = fluxgate("chekc", "-c", "x")
        assert.equal(64, code)
        assert.truthy(text:find("did you mean 'check'", 1, true), text)
        text, code = fluxgate("check", "--confg", "x")
        assert.equal(64, code)
        assert.truthy(text:find("did you mean '--config'", 1, true), text)
        text, code = fluxgate("run")
        assert.equal(64, code, text)
    end)

    it("takes a file that begins with a byte order mark", function()
        local text, code = fluxgate("check", "-c", support.file("bom.yaml", "\239\187\191" .. good))
        assert.equal(0, code, text)
    end)

    it("runs a registry from a file that tells gateways where it is", function()
        support.registry { config = [[
registry:
  url: "http://127.0.0.1:1"
  listen: { http: "127.0.0.1:0", grpc: "127.0.0.1:0" }
]] }
    end)

    it("checks a good file", function()
        local text, code = fluxgate("check", "-c", support.file("good.yaml", good))
        assert.equal(0, code, text)
        assert.truthy(text:find("valid", 1, true))
    end)

    it("prints every error of a bad file with its place and the nearest name, and exits 1", function()
        local text, code = fluxgate("check", "-c", support.file("bad.yaml", [[
listeners: [ { address: "127.0.0.1:99999" } ]
routes:
  - match: { path_prefx: / }
    service: wbe
services:
  web:
    endpoints: [ "127.0.0.1:9001" ]
    strategy: round_robbin
    timeouts: { response: 5 }
]]))
        assert.equal(1, code)
        for _, part in ipairs {
            "bad.yaml:1:", "bad.yaml:3:", "'path_prefix'", "bad.yaml:4:", "'web'", "bad.yaml:8:", "'round_robin'", "bad.yaml:9:",
        } do
            assert.truthy(text:find(part, 1, true), part .. " is missing in\n" .. text)
        end
    end)

    it("refuses what comes in a later version by its name", function()
        for _, line in ipairs { "registry: { embedded: true, token: x }" } do
            local text, code = fluxgate("check", "-c", support.file("later.yaml", good .. line .. "\n"))
            assert.equal(1, code)
            assert.truthy(text:find("later.yaml:4:", 1, true), text)
            assert.truthy(text:find("token", 1, true), text)
        end
    end)

    it("names the line of a strategy's error, and the YAML line of a wrong option", function()
        local script = support.file("mine.lua", "local M = {}\nfunction M.new( return M end\nreturn M\n")
        local text, code = fluxgate("check", "-c", support.file("a.yaml", (good:gsub(" } }\n$", ", strategy: " .. script .. " } }\n"))))
        assert.equal(1, code)
        assert.truthy(text:find("mine.lua:2", 1, true), text)
        text, code = fluxgate("check", "-c", support.file("b.yaml", [[
listeners: [ { address: "127.0.0.1:0" } ]
routes: [ { match: { path_prefix: / }, service: web } ]
services:
  web:
    endpoints: [ "127.0.0.1:9001" ]
    strategy: round_robin
    options:
      wieght: 3
      colour: red
]]))
        assert.equal(1, code)
        assert.truthy(text:find("b.yaml:8:", 1, true), text)
        assert.truthy(text:find("b.yaml:9:", 1, true), text)
    end)

    it("prints an effective configuration that loads again to the same", function()
        local text, code = fluxgate("config", "--effective", "-c", support.file("good.yaml", good))
        assert.equal(0, code, text)
        local again, status = fluxgate("config", "--effective", "-c", support.file("again.yaml", text))
        assert.equal(0, status, again)
        assert.equal(text, again)
    end)

    it("refuses an access log that cannot be written, with its line and what to do", function()
        local dir = support.dir()
        local cases = {
            { dir .. "/none/access.log", "there is no directory " .. dir .. "/none for it: make it (mkdir -p " },
            { dir, "is a directory" },
            { support.file("plain", "") .. "/access.log", "there is no directory" },
            { "/proc/self/none/access.log", "there is no directory" },
        }
        if tonumber((support.shell("id -u"))) ~= 0 then
            cases[#cases + 1] = { "/proc/self/access.log", "no file can be made in /proc/self" }
        end
        for _, case in ipairs(cases) do
            local file = support.file("log.yaml", good .. ("log: { access: %s }\n"):format(case[1]))
            local _, lines = good:gsub("\n", "")
            for _, command in ipairs { "check", "run" } do
                local text, code = fluxgate(command, "-c", file)
                assert.equal(1, code, text)
                assert.truthy(text:find(("log.yaml:%d:"):format(lines + 1), 1, true), text)
                assert.truthy(text:find(case[2], 1, true), text)
                assert.truthy(text:find('or "-" for standard output', 1, true), text)
            end
        end
        local text, code = fluxgate("check", "-c", support.file("log.yaml", good .. "log: { access: new.log }\n"))
        assert.equal(0, code, text)
        assert.is_nil(io.open(dir .. "/new.log"))
    end)

    it("does not start on a taken address and says which", function()
        local gateway = support.gateway { config = good }
        local other = (good:gsub("127%.0%.0%.1:0", "127.0.0.1:" .. gateway:port()))
        local taken = support.gateway { name = "second", config = other, wait = false }
        assert.equal(1, taken:wait(10))
        assert.truthy(taken:log():find(tostring(gateway:port()), 1, true), taken:log())
    end)

    it("starts on the flat file of the replaced system, unchanged but for its ports", function()
        local registry = support.registry {}
        local backend = support.backend { id = "old" }
        local port = support.free_port()
        local gateway = support.gateway { config = ([[
port: %d
strategy: round_robin # or least_connections, sticky_sessions
serviceRegistryURL: http://127.0.0.1:%d # for grpc: localhost:9091, no scheme
serviceRegistryType: http # or grpc
healthCheckInterval: 1s
backendHealthPath: /health
healthCheckTimeout: 2s
someOldKey: 1
]]):format(port, registry:registry_http_port()) }
        local body = ('{"id":"old","serviceName":"s","host":"127.0.0.1","port":%d,"url":"http://%s","healthPath":"/health"}')
            :format(backend.port, backend.address)
        local url = ("http://127.0.0.1:%d"):format(registry:registry_http_port())
        assert.equal(201, (support.curl("-H", "Content-Type: application/json", "-d", body, url .. "/api/v1/services/register")))
        support.wait_until("traffic flows", function()
            local status, _, answer = support.curl(("http://127.0.0.1:%d/"):format(port))
            return answer == "old\n", status
        end)
        local status, _, text = support.curl(("http://127.0.0.1:%d/metrics"):format(port))
        assert.equal(200, status)
        assert.truthy(text:find("loadbalancer_total_requests{", 1, true))
        assert.truthy(gateway:log():find("someOldKey", 1, true), gateway:log())
    end)

    it("follows a registry by gRPC as well", function()
        local registry = support.registry {}
        local backend = support.backend { id = "old" }
        local gateway = support.gateway { config = ([[
listeners: [ { address: "127.0.0.1:0" } ]
routes: [ { match: { path_prefix: / }, service: web } ]
services: { web: { discover: "*" } }
registry: { url: "127.0.0.1:%d", protocol: grpc }
]]):format(registry:registry_grpc_port()) }
        local body = ('{"id":"old","serviceName":"s","host":"127.0.0.1","port":%d,"url":"http://%s","healthPath":"/health"}')
            :format(backend.port, backend.address)
        local url = ("http://127.0.0.1:%d"):format(registry:registry_http_port())
        assert.equal(201, (support.curl("-H", "Content-Type: application/json", "-d", body, url .. "/api/v1/services/register")))
        support.wait_until("traffic flows", function() return select(3, support.curl(gateway:url())) == "old\n" end, 5)
    end)
end)
