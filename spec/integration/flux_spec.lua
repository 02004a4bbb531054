local cjson = require "cjson"
local support = require "spec.support"

local function has_line(child, text) return child:log():find(text, 1, true) ~= nil end

-- flux run with the app of spec/support/app.py, beating each 200 ms. `args` and `env` add to it.
local function run(registry, options)
    options = options or {}
    local port = support.free_port()
    local argv = { support.flux, "run", "--service", "users", "--host", "127.0.0.1", "--port", port,
        "--heartbeat", "200ms", "--timeout", "2s", "--protocol", options.protocol or "http",
        "--registry", type(registry) == "table" and registry.url or registry }
    for _, arg in ipairs(options.args or {}) do argv[#argv + 1] = arg end
    argv[#argv + 1] = "--"
    for _, word in ipairs(options.command or { "python3", "spec/support/app.py" }) do argv[#argv + 1] = word end
    local child = support.run { name = "flux", argv = argv, env = options.env }
    child.port, child.id = port, "users-127.0.0.1-" .. port
    function child:app_pid() return tonumber(self:log():match("app: pid (%d+)")) end
    return child
end

local function wait_registered(registry, flux, limit)
    support.wait_until("the instance is registered", function()
        local ids = registry:ids()
        return ids[1] == (flux.id or true), ids
    end, limit)
end

for _, protocol in ipairs { "http", "grpc" } do
    describe("flux run by " .. protocol, function()
        local registry
        before_each(function() registry = support.fake_registry { grpc = protocol == "grpc" or nil } end)
        after_each(support.finish)

        it("registers the contract's instance once the port accepts, and not before", function()
            local gate = support.dir() .. "/gate"
            local flux = run(registry, { protocol = protocol, env = { APP_GATE = gate } })
            support.wait_until("the app runs", function() return flux:app_pid() end)
            assert.same({}, registry:ids())
            assert.equal(0, #registry:get().calls)
            support.write_file(gate, "")
            wait_registered(registry, flux)
            assert.same({
                id = flux.id, serviceName = "users", host = "127.0.0.1", port = flux.port,
                url = "http://127.0.0.1:" .. flux.port, healthPath = "/health",
            }, registry:get().instances[1])
        end)

        it("beats, and registers again at once when the registry forgot it", function()
            local flux = run(registry, { protocol = protocol })
            local beat = protocol == "grpc" and "/SendHeartbeat" or "/heartbeat/" .. flux.id
            wait_registered(registry, flux)
            support.wait_until("three beats", function() return registry:calls(beat) >= 3 end)
            registry:forget()
            wait_registered(registry, flux, 2)
            assert.is_true(has_line(flux, 'event="forgotten"'))
        end)

        it("leaves the registry before the program gets SIGTERM, and exits with its code", function()
            local flux = run(registry, { protocol = protocol,
                env = { APP_CODE = 7, APP_REGISTRY = protocol == "http" and registry.url or nil } })
            wait_registered(registry, flux)
            flux:signal("TERM")
            assert.equal(7, flux:wait())
            assert.same({}, registry:ids())
            local left, signalled = flux:log():find('event="deregistered"', 1, true), flux:log():find("app: signal SIGTERM", 1, true)
            assert.is_true(left < signalled)
            if protocol == "http" then assert.is_true(has_line(flux, "app: not listed")) end
        end)

        it("labels its metrics with the operation and the protocol", function()
            local port = support.free_port()
            local flux = run(registry, { protocol = protocol, args = { "--metrics-port", port } })
            wait_registered(registry, flux)
            support.wait_until("a beat was counted", function()
                local _, _, text = support.curl(("http://127.0.0.1:%d/metrics"):format(port))
                return text and text:find('operation="heartbeat"', 1, true), text
            end)
            local status, headers, text = support.curl(("http://127.0.0.1:%d/metrics"):format(port))
            assert.same({ 200, "text/plain; version=0.0.4; charset=utf-8" }, { status, headers["content-type"] })
            local function has(line) assert(text:find(line, 1, true), line .. "\nis missing in\n" .. text) end
            has(('flux_registry_calls_total{operation="register",protocol="%s",status="success"} 1'):format(protocol))
            has(('flux_registry_call_duration_seconds_bucket{operation="register",protocol="%s",status="success",le="0.005"}')
                :format(protocol))
            has(('flux_registrar_state{instance_id="%s",service_name="users"} 1'):format(flux.id))
            local path = support.file("metrics.txt", text)
            local complaints, code = support.shell(support.promtool .. " check metrics < " .. path)
            assert.same({ "", 0 }, { complaints, code })
            assert.equal(404, (support.curl(("http://127.0.0.1:%d/"):format(port))))
        end)

        it("sends weight, zone, version and metadata by v2, and falls back to v1", function()
            local args = { "--weight", 3, "--zone", "b", "--app-version", "1.2", "--metadata", "colour=blue", "--metadata", "n=1" }
            local old = run(registry, { protocol = protocol, args = args })
            wait_registered(registry, old)
            assert.is_nil(registry:get().instances[1].weight)
            assert.equal(1, registry:calls(protocol == "grpc" and "/RegisterInstance" or "/api/v2/instances"))
            old:stop()
            registry:set { v2 = true }
            local new = run(registry, { protocol = protocol, args = args })
            wait_registered(registry, new)
            local instance = registry:get().instances[1]
            local metadata = protocol == "grpc" and cjson.decode(instance.metadata) or instance.metadata
            assert.same({ 3, "b", "1.2", { colour = "blue", n = "1" } },
                { instance.weight, instance.zone, instance.version, metadata })
        end)

        it("stops within the call's limit while the registry hangs", function()
            local flux = run(registry, { protocol = protocol, args = { "--timeout", "300ms" } })
            wait_registered(registry, flux)
            registry:set { hang = true }
            flux:signal("TERM")
            assert.equal(0, flux:wait(3))
            assert.is_true(has_line(flux, 'event="deregister failed"'))
        end)

        it("tries again after failures, and tells why", function()
            registry:set { fail = protocol == "grpc" and "UNAVAILABLE" or 500 }
            local port = support.free_port()
            local flux = run(registry, { protocol = protocol, args = { "--metrics-port", port } })
            support.wait_until("two failures", function() return #flux:events("register failed") >= 2 end, 15)
            local _, _, text = support.curl(("http://127.0.0.1:%d/metrics"):format(port))
            assert.truthy(text:find(('operation="register",protocol="%s",status="failure"} '):format(protocol), 1, true))
            assert.truthy(text:find('service_name="users"} 0\n', 1, true))
            registry:set { fail = protocol == "grpc" and cjson.null or 0 }
            wait_registered(registry, flux, 15)
        end)
    end)
end

describe("flux run by grpc", function()
    after_each(support.finish)

    it("registers again where the registry answers NOT_FOUND to a beat", function()
        local registry = support.fake_registry { grpc = true, not_found = true }
        local flux = run(registry, { protocol = "grpc" })
        wait_registered(registry, flux)
        registry:forget()
        wait_registered(registry, flux, 2)
    end)

    it("takes success=false for a refusal of the registration", function()
        local registry = support.fake_registry { grpc = true, refuse = true }
        local out, code = support.command(support.flux, "register", "--service", "s", "--port", 1, "--host", "h",
            "--protocol", "grpc", "--registry", registry.url)
        assert.equal(76, code)
        assert.truthy(out:find("asked to refuse", 1, true))
    end)

    it("sends its time limit as grpc-timeout", function()
        local registry = support.fake_registry { grpc = true }
        support.command(support.flux, "register", "--service", "s", "--port", 1, "--host", "h", "--timeout", "3s",
            "--protocol", "grpc", "--registry", registry.url)
        local remaining = registry:get().calls[1].remaining
        assert.is_true(remaining > 1 and remaining <= 3)
    end)
end)

describe("flux run", function()
    after_each(support.finish)
    local nowhere = "http://127.0.0.1:1"

    it("registers with a registry that comes up later", function()
        local port = support.free_port()
        local flux = run("http://127.0.0.1:" .. port)
        support.wait_until("one try failed", function() return #flux:events("register failed") > 0 end)
        local registry = support.fake_registry { port = port }
        wait_registered(registry, flux, 15)
    end)

    it("gives the program PORT and SERVICE_NAME, keeps METRICS_PORT, and hands its signal mask on", function()
        local flux = run(nowhere, { env = { METRICS_PORT = support.free_port(), PORT = 1, SERVICE_NAME = "other" } })
        support.wait_until("the app speaks", function() return has_line(flux, "app: env") end)
        assert.is_true(has_line(flux, ("app: env %d users None"):format(flux.port)))
        assert.is_true(has_line(flux, "blocked 0"))
    end)

    it("forwards SIGHUP, SIGUSR1 and SIGUSR2 and stays registered", function()
        local registry = support.fake_registry()
        local flux = run(registry)
        wait_registered(registry, flux)
        for _, name in ipairs { "HUP", "USR1", "USR2" } do
            flux:signal(name)
            support.wait_until("the app got SIG" .. name, function() return has_line(flux, "app: signal SIG" .. name) end)
        end
        assert.same({ flux.id }, registry:ids())
    end)

    it("forwards SIGINT as SIGINT", function()
        local flux = run(nowhere, { env = { APP_CODE = 3 } })
        support.wait_until("the app listens", function() return has_line(flux, "app: listens") end)
        flux:signal("INT")
        assert.equal(3, flux:wait())
        assert.is_true(has_line(flux, "app: signal SIGINT"))
    end)

    it("kills a program that ignores SIGTERM when its grace is over", function()
        local flux = run(nowhere, { args = { "--grace", "300ms" }, env = { APP_STUBBORN = 1 } })
        support.wait_until("the app listens", function() return has_line(flux, "app: listens") end)
        flux:signal("TERM")
        assert.equal(137, flux:wait(5))
        assert.is_true(has_line(flux, "app: signal SIGTERM"))
    end)

    it("waits out the drain between leaving the registry and the signal, which a second SIGTERM cuts short", function()
        local registry = support.fake_registry()
        local flux = run(registry, { args = { "--drain", "10m" } })
        wait_registered(registry, flux)
        flux:signal("TERM")
        support.wait_until("it left", function() return #registry:ids() == 0 end)
        assert.is_false(has_line(flux, "app: signal"))
        assert.is_true(flux:is_running())
        flux:signal("TERM")
        assert.equal(0, flux:wait(5))
    end)

    it("deregisters and exits with the code of a program that ends by itself", function()
        local registry = support.fake_registry()
        local flux = run(registry, { env = { APP_EXIT_AFTER = "0.5", APP_CODE = 5 } })
        assert.equal(5, flux:wait())
        assert.equal(1, registry:calls("POST /api/v1/services/register"))
        assert.same({}, registry:ids())
    end)

    it("exits with 128 + the signal that ended the program, and leaves the registry", function()
        local registry = support.fake_registry()
        local flux = run(registry)
        wait_registered(registry, flux)
        flux:kill(flux:app_pid(), "KILL")
        assert.equal(137, flux:wait())
        assert.same({}, registry:ids())
    end)

    it("leaves no program behind when it is killed itself", function()
        local flux = run(nowhere)
        support.wait_until("the app listens", function() return has_line(flux, "app: listens") end)
        local app = flux:app_pid()
        flux:kill(flux.pid, "KILL")
        support.wait_until("the app is gone", function()
            return not support.read_file("/proc/" .. app .. "/stat"):find("^%d+ %b() [^Z]")
        end)
        assert.is_true(has_line(flux, "app: signal SIGTERM"))
    end)

    it("leaves nothing of the program's group behind", function()
        local flux = run(nowhere, { command = { "sh", "-c", "python3 spec/support/app.py & wait" } })
        support.wait_until("the app listens", function() return has_line(flux, "app: listens") end)
        local app = flux:app_pid()
        flux:signal("TERM")
        assert.equal(143, flux:wait())
        support.wait_until("the app is gone", function()
            return not support.read_file("/proc/" .. app .. "/stat"):find("^%d+ %b() [^Z]")
        end)
    end)

    it("gives up a program whose port never accepts", function()
        local flux = run(nowhere, { args = { "--ready-timeout", "300ms" }, env = { APP_GATE = "/nonexistent/gate" } })
        assert.equal(75, flux:wait(5))
        assert.is_true(has_line(flux, 'event="port not ready"'))
    end)

    it("says when the program cannot be started", function()
        assert.equal(127, run(nowhere, { command = { "no-such-program" } }):wait())
        assert.equal(126, run(nowhere, { command = { "/etc/passwd" } }):wait())
    end)

    it("does not run a program whose metrics port is taken", function()
        local taken = support.backend { id = "taken" }
        local flux = run(nowhere, { args = { "--metrics-port", taken.port } })
        assert.equal(71, flux:wait(5))
        assert.is_true(has_line(flux, 'event="metrics failed"'))
    end)

    it("sends the bearer token", function()
        local registry = support.fake_registry { token = "secret" }
        local flux = run(registry, { env = { REGISTRY_TOKEN = "secret" } })
        wait_registered(registry, flux)
        assert.equal("Bearer secret", registry:get().calls[1].authorization)
    end)
end)

describe("the flux command", function()
    after_each(support.finish)

    it("registers, beats, lists and deregisters one instance by single calls", function()
        local registry = support.fake_registry()
        local function flux(...) return support.command(support.flux, ...) end
        local id = "a/b ü%?"
        local out, code = flux("register", "--quiet", "--service", "users", "--port", 80, "--host", "::1", "--id", id,
            "--registry", registry.url)
        assert.same({ id .. "\n", 0 }, { out, code })
        assert.equal("http://[::1]:80", registry:get().instances[1].url)
        assert.equal(0, select(2, flux("heartbeat", "--id", id, "--registry", registry.url)))
        assert.equal(1, registry:calls("POST /api/v1/services/heartbeat/a%2Fb%20%C3%BC%25%3F"))
        out = flux("list", "--service", "users", "--json", "--registry", registry.url .. "/")
        assert.equal(id, cjson.decode(out)[1].id)
        assert.equal("[]\n", (flux("list", "--service", "others", "--json", "--registry", registry.url)))
        assert.equal(0, select(2, flux("deregister", "--id", id, "--registry", registry.url)))
        assert.same({}, registry:ids())
        assert.equal(0, select(2, flux("deregister", "--id", id, "--registry", registry.url)))
        assert.equal(67, select(2, flux("heartbeat", "--id", id, "--registry", registry.url)))
    end)

    it("lists by name from an old registry that has no such call", function()
        local registry = support.fake_registry()
        for _, name in ipairs { "a", "b" } do
            support.command(support.flux, "register", "--service", name, "--port", 80, "--host", "h", "--registry", registry.url)
        end
        local out = support.command(support.flux, "list", "--registry", registry.url)
        assert.truthy(out:find("a-h-80", 1, true) and out:find("b-h-80", 1, true))
    end)

    it("says which option is wrong, and what was meant", function()
        local cases = {
            { { "run", "--servce", "x", "--", "true" }, 64, "--servce: no such option; did you mean --service?" },
            { { "rnu" }, 64, "rnu: no such command; did you mean run?" },
            { { "run", "--service", "x", "--port", "70000", "--", "true" }, 64, "--port: a port from 1 to 65535 is expected" },
            { { "run", "--service", "x", "--port", "1", "--grace", "10", "--", "true" }, 64, "--grace: a duration such as" },
            { { "run", "--service", "x", "--port", "1" }, 64, "the command to run is missing" },
            { { "run", "--port", "1", "--", "true" }, 64, "SERVICE_NAME: a service name is needed" },
            { { "run", "--service", "x", "--", "true" }, 64, "PORT: a port from 1 to 65535 is expected" },
            { { "run", "--service", "x", "--port", "1", "--registry", "ftp://x", "--", "true" }, 64, "registry URL: " },
            { { "run", "--service", "x", "--port" }, 64, "--port: a value is missing" },
            { { "register", "--service", "x", "--port", "1", "--registry", "127.0.0.1:1" }, 69, "cannot be reached" },
        }
        for _, case in ipairs(cases) do
            local out, code = support.command("env", "-u", "SERVICE_NAME", "-u", "PORT", support.flux, unpack(case[1]))
            assert.same({ case[2], true }, { code, out:find(case[3], 1, true) ~= nil }, table.concat(case[1], " ") .. ": " .. out)
        end
    end)

    it("helps on itself and on every subcommand", function()
        for _, words in ipairs { { "--help" }, { "run", "--help" }, { "register", "--help" }, { "deregister", "--help" },
            { "heartbeat", "--help" }, { "list", "-h" } } do
            local out, code = support.command(support.flux, unpack(words))
            assert.equal(0, code)
            assert.truthy(out:find("^usage: flux "))
        end
        local out, code = support.command(support.flux, "--version")
        assert.equal(0, code)
        assert.truthy(out:find("^flux %d+%.%d+%.%d+\n$"))
    end)
end)

describe("the C backend on libflux", function()
    after_each(support.finish)

    it("registers itself, answers, and leaves the registry at SIGTERM", function()
        local registry, port = support.fake_registry(), support.free_port()
        local backend = support.run { name = "c-backend", argv = { support.flux:gsub("flux$", "examples/backend") .. "" },
            env = { SERVICE_NAME = "users", PORT = port, HOSTNAME = "127.0.0.1", REGISTRY_URL = registry.url } }
        support.wait_until("it is registered", function() return registry:ids()[1] == "users-127.0.0.1-" .. port end)
        local connection = support.open(port)
        local first, second = connection:request("GET /"), connection:request("GET /health")
        assert.same({ 200, 200, "ok\n" }, { first.status, second.status, second.body })
        assert.truthy(first.body:find("on " .. port, 1, true))
        connection:close()
        backend:signal("TERM")
        assert.equal(0, backend:wait())
        assert.same({}, registry:ids())
    end)
end)

describe("the Python backend under flux run", function()
    after_each(support.finish)

    it("answers with its name and port, and ends with its requests done", function()
        local registry = support.fake_registry()
        local flux = run(registry, { command = { "python3", "examples/backend.py" } })
        wait_registered(registry, flux)
        local connection = support.open(flux.port)
        assert.equal("hello from users on " .. flux.port .. "\n", connection:request("GET /").body)
        assert.equal(200, connection:request("GET /health").status)
        connection:send("GET /slow?ms=400 HTTP/1.1\r\nHost: x\r\n\r\n")
        local other = support.open(flux.port)
        assert.equal(200, other:request("GET /").status) -- the slow one has been read by now
        flux:signal("TERM")
        assert.equal(200, connection:reply().status)
        assert.equal(0, flux:wait())
        connection:close()
        other:close()
    end)
end)
