-- The registry as clients of the old contract see it, over sockets, curl and gRPC; and what v2 adds.
local cjson = require "cjson"
local socket = require "socket"
local support = require "spec.support"

local function config(options)
    return ([[
registry:
  embedded: true
  listen: { http: "127.0.0.1:0", grpc: "127.0.0.1:0" }
  store: %s
  lease_ttl: %s
]]):format(options.store or "memory", options.ttl or "30s")
end

local function start(options)
    options = options or {}
    return support.registry { config = config(options), name = options.name }
end

local function instance(id, more)
    local body = { id = id, serviceName = "users", host = "127.0.0.1", port = 9001, url = "http://127.0.0.1:9001",
        healthPath = "/health" }
    for key, value in pairs(more or {}) do body[key] = value end
    return body
end

local function send(registry, method, path, body, ...)
    local args = { "-X", method, registry:registry_url(path), ... }
    if body then
        args[#args + 1] = "--data-binary"
        args[#args + 1] = type(body) == "table" and cjson.encode(body) or body
        args[#args + 1] = "-H"
        args[#args + 1] = "Content-Type: application/json; charset=UTF-8"
    end
    return support.curl(unpack(args))
end

local function register(registry, id, more)
    local status, _, body = send(registry, "POST", "/api/v1/services/register", instance(id, more))
    assert.equal(201, status, body)
    return cjson.decode(body)
end

local function ids(registry, path)
    local status, headers, body = support.curl(registry:registry_url(path or "/api/v1/services"))
    assert.equal(200, status)
    assert.equal("application/json", headers["content-type"])
    local list = {}
    for i, row in ipairs(cjson.decode(body)) do list[i] = row.id end
    table.sort(list)
    return list
end

local function snapshot(registry, query)
    local status, _, body = support.curl(registry:registry_url("/api/v2/instances" .. (query or "")))
    assert.equal(200, status, body)
    return cjson.decode(body)
end

describe("the registry's old REST contract", function()
    after_each(support.finish)

    it("registers, beats, lists and deregisters", function()
        local registry = start()
        assert.same(instance("a"), register(registry, "a", { lastHeartbeat = 12.5, alive = true }) )
        register(registry, "b", { serviceName = "orders" })
        assert.same({ "a", "b" }, ids(registry))
        assert.same({ "b" }, ids(registry, "/api/v1/services/orders/healthy"))
        assert.same({}, ids(registry, "/api/v1/services/nobody/healthy"))
        local status, _, body = send(registry, "POST", "/api/v1/services/heartbeat/a")
        assert.same({ 200, "" }, { status, body })
        assert.equal(200, (send(registry, "POST", "/api/v1/services/heartbeat/a", "not json at all")))
        assert.equal(404, (send(registry, "POST", "/api/v1/services/heartbeat/nobody")))
        assert.equal(204, (send(registry, "DELETE", "/api/v1/services/deregister/a")))
        assert.equal(204, (send(registry, "DELETE", "/api/v1/services/deregister/a")))
        assert.same({ "b" }, ids(registry, "/api/v1/services?all=yes"))
    end)

    it("replaces an instance that registers again", function()
        local registry = start()
        register(registry, "a")
        register(registry, "a", { port = 9002, url = "http://127.0.0.1:9002" })
        local _, _, body = support.curl(registry:registry_url("/api/v1/services"))
        local list = cjson.decode(body)
        assert.equal(1, #list)
        assert.equal(9002, list[1].port)
    end)

    it("takes host and port from the url, and says which field is wrong", function()
        local registry = start()
        local body = instance("a", { url = "http://example.com:8080/base" })
        body.host, body.port = nil, nil
        local status, _, answer = send(registry, "POST", "/api/v1/services/register", body)
        assert.equal(201, status)
        assert.same({ "example.com", 8080 }, { cjson.decode(answer).host, cjson.decode(answer).port })
        local wrong = {
            { "id", "" }, { "id", cjson.null }, { "id", 7 }, { "id", ("x"):rep(256) }, { "serviceName", "" },
            { "url", "" }, { "url", "http://127.0.0.1:1" }, { "url", "nonsense" }, { "healthPath", "" },
            { "port", 0 }, { "port", 65536 }, { "port", "9001" }, { "host", "a b" },
        }
        for _, row in ipairs(wrong) do
            status, _, answer = send(registry, "POST", "/api/v1/services/register", instance("w", { [row[1]] = row[2] }))
            assert.equal(400, status, answer)
            local complaint = cjson.decode(answer)
            assert.equal(row[2] == "a b" and "host" or row[1], complaint.field, answer)
            assert.truthy(#complaint.error > 0)
        end
        for _, text in ipairs { "", "{", "[]", '{"id":"a","id":"b"}', '{"id":"\255"}' } do
            assert.equal(400, (send(registry, "POST", "/api/v1/services/register", text)), text)
        end
        assert.same({ "a" }, ids(registry))
    end)

    it("knows its paths, methods and media types", function()
        local registry = start()
        local function status_of(...) return (support.curl(...)) end
        assert.equal(404, status_of(registry:registry_url("/api/v1/nothing")))
        assert.equal(404, status_of(registry:registry_url("/")))
        assert.equal(404, status_of("-X", "POST", registry:registry_url("/actuator/shutdown")))
        for path, allow in pairs {
            ["/api/v1/services"] = "GET, HEAD", ["/api/v1/services/register"] = "POST",
            ["/api/v1/services/deregister/a"] = "DELETE",
        } do
            local status, headers = support.curl("-X", "PUT", registry:registry_url(path))
            assert.same({ 405, allow }, { status, headers.allow })
        end
        assert.equal(415, status_of("-d", "{}", registry:registry_url("/api/v1/services/register")))
        assert.equal(400, status_of("-d", "{}", "-H", "Content-Type: APPLICATION/JSON;charset=latin1",
            registry:registry_url("/api/v1/services/register")))
        local connection = support.open(registry:registry_http_port())
        local head = connection:request("HEAD /api/v1/services HTTP/1.1\r\nHost: x\r\n\r\n")
        assert.same({ 200, "2" }, { head.status, head.headers["content-length"] })
        assert.equal(200, connection:request("GET /api/v1/services").status)
        connection:close()
    end)

    it("takes any id that can be percent-encoded", function()
        local registry = start()
        for _, id in ipairs { "a/b", "sp ace", "10%", "käse-日本", "q?x=1&y", "..", "new\nline", '"\\' } do
            local escaped = id:gsub("[^%w]", function(c) return ("%%%02x"):format(c:byte()) end)
            register(registry, id)
            assert.same({ id }, ids(registry))
            assert.equal(200, (send(registry, "POST", "/api/v1/services/heartbeat/" .. escaped)), id)
            assert.equal(204, (send(registry, "DELETE", "/api/v1/services/deregister/" .. escaped)))
            assert.same({}, ids(registry))
        end
        assert.equal(400, (send(registry, "POST", "/api/v1/services/heartbeat/%00")))
        assert.equal(400, (send(registry, "POST", "/api/v1/services/heartbeat/%ff")))
    end)

    it("speaks HTTP as browsers and proxies do", function()
        local registry = start()
        local port, body = registry:registry_http_port(), cjson.encode(instance("chunky"))
        local reply = support.raw(port, table.concat {
            "POST /api/v1/services/register HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n",
            "Transfer-Encoding: chunked\r\n\r\n", ("%x;ext=1\r\n%s\r\n0\r\nX-Trailer: t\r\n\r\n"):format(#body, body),
            "GET http://x/api/v1/services HTTP/1.1\r\nHost: x\r\n\r\n",
            "POST /api/v1/services/heartbeat/chunky HTTP/1.0\r\n\r\n",
        }, { split = 7 })
        local statuses = {}
        for status in reply:gmatch("HTTP/1.1 (%d%d%d)") do statuses[#statuses + 1] = status end
        assert.same({ "201", "200", "200" }, statuses)
        local status = support.curl("-H", "Expect: 100-continue", "-H", "Content-Type: application/json", "--data-binary", body,
            registry:registry_url("/api/v1/services/register"))
        assert.equal(201, status)
        local connection = support.open(port)
        for _ = 1, 500 do
            assert.equal(200, connection:request("POST /api/v1/services/heartbeat/chunky HTTP/1.1\r\nHost: x\r\n\r\n").status)
        end
        connection:close()
        local large = support.file("large", (" "):rep(1100000))
        assert.equal(413, (send(registry, "POST", "/api/v1/services/register", "@" .. large)))
    end)

    it("forgets an instance that stops beating, and its metrics go with it", function()
        local registry = start { ttl = "1s" }
        register(registry, "quiet")
        register(registry, "loud")
        support.wait_until("the quiet one is gone", function()
            assert.equal(200, (send(registry, "POST", "/api/v1/services/heartbeat/loud")))
            local list = ids(registry)
            return #list == 1 and list[1] == "loud"
        end)
        assert.equal(404, (send(registry, "POST", "/api/v1/services/heartbeat/quiet")))
        support.wait_until("its series are gone too", function()
            assert.equal(200, (send(registry, "POST", "/api/v1/services/heartbeat/loud")))
            local _, _, text = support.curl(registry:registry_url("/actuator/prometheus"))
            return not text:find("quiet", 1, true) and text:find('{instance_id="loud",service_name="users"} 1', 1, true)
        end)
    end)

    it("keeps everybody when most fall silent together", function()
        local registry = start { ttl = "1s" }
        for i = 1, 8 do register(registry, "i" .. i) end
        support.wait_until("it says so", function()
            local _, _, text = support.curl(registry:registry_url("/actuator/prometheus"))
            return text:find("service_registry_self_protection 1\n", 1, true)
        end)
        assert.equal(8, #ids(registry))
        assert.truthy(registry:log():find("most leases ran out together", 1, true))
    end)
end)

describe("the registry's metrics", function()
    after_each(support.finish)

    it("pass promtool but for the name that is fixed", function()
        local registry = start()
        register(registry, 'odd "id" \\ \n')
        local status, headers, text = support.curl(registry:registry_url("/actuator/prometheus"))
        assert.equal(200, status)
        assert.truthy(headers["content-type"]:find("text/plain; version=0.0.4", 1, true))
        local out = support.shell(support.promtool .. " check metrics < " .. support.file("metrics.txt", text))
        for line in out:gmatch("[^\n]+") do
            assert.truthy(line:find("^service_registry_registered_services_total "), line)
        end
        for _, name in ipairs { "service_registry_registered_services 1\n", "service_registry_registered_services_total 1\n" } do
            assert.truthy(text:find("\n" .. name, 1, true), name)
        end
        assert.truthy(text:find([[{instance_id="odd \"id\" \\ \n",service_name="users"} 1]], 1, true))
        local _, _, health = support.curl(registry:registry_url("/actuator/health"))
        assert.equal('{"status":"UP"}', health)
    end)
end)

describe("the registry's v2", function()
    after_each(support.finish)

    it("holds a query until something changes", function()
        local registry = start()
        local before = snapshot(registry)
        assert.truthy(#before.epoch > 0)
        local ask = ("/api/v2/instances?index=%d&epoch=%s&wait=20s"):format(before.index, before.epoch)
        local held = support.open(registry:registry_http_port(), { timeout = 30 })
        assert(held:send("GET " .. ask .. " HTTP/1.1\r\nHost: x\r\n\r\n"))
        local early, why = held:read_until("\r\n", 0.3)
        assert.same({ nil, "timeout" }, { early, why })
        local begun = socket.gettime()
        register(registry, "a", { weight = 4 })
        local answer = cjson.decode(assert(held:reply()).body)
        assert.truthy(socket.gettime() - begun < 15) -- long before the hold is over
        assert.truthy(answer.index > before.index)
        assert.same({ before.epoch, "a", 1, false }, { answer.epoch, answer.instances[1].id, answer.instances[1].weight,
            answer.instances[1].lapsed })
        held:close()
        -- another epoch, another index or none: at once
        for _, query in ipairs { "?index=0&wait=20s", "?wait=20s", ("?index=%d&epoch=zz&wait=20s"):format(answer.index),
            ("?index=%d&epoch=%s&wait=20s"):format(answer.index - 1, answer.epoch) } do
            begun = socket.gettime()
            assert.equal(answer.index, snapshot(registry, query).index)
            assert.truthy(socket.gettime() - begun < 15, query)
        end
        begun = socket.gettime()
        assert.equal(answer.index, snapshot(registry, ("?index=%d&epoch=%s&wait=300ms"):format(answer.index, answer.epoch)).index)
        assert.truthy(socket.gettime() - begun >= 0.3)
        assert.equal(400, (support.curl(registry:registry_url("/api/v2/instances?index=x"))))
        assert.equal(400, (support.curl(registry:registry_url("/api/v2/instances?wait=soon"))))
    end)

    it("answers everybody who waits at one change", function()
        local registry = start()
        local first = snapshot(registry)
        local request = ("GET /api/v2/instances?index=%d&epoch=%s&wait=60s HTTP/1.1\r\nHost: x\r\n\r\n"):format(first.index, first.epoch)
        local held = {}
        for i = 1, 200 do
            held[i] = support.open(registry:registry_http_port(), { timeout = 10 })
            assert(held[i]:send(request))
        end
        support.wait_until("all wait", function()
            local _, _, text = support.curl(registry:registry_url("/actuator/prometheus"))
            return text:find("service_registry_watchers 200\n", 1, true)
        end)
        register(registry, "a")
        for i = 1, #held do
            assert.truthy(cjson.decode(assert(held[i]:reply()).body).index > first.index)
            held[i]:close()
        end
    end)

    it("keeps weight, zone, metadata and flags, and lets an operator set them", function()
        local registry = start()
        local status, _, body = send(registry, "POST", "/api/v2/instances",
            { id = "a", serviceName = "users", host = "10.0.0.1", port = 80, weight = 5, zone = "b", version = "7", ttl = "1m",
                metadata = { k = "v" } })
        assert.equal(201, status, body)
        local row = snapshot(registry).instances[1]
        assert.same({ 5, "b", "7", "v", 60000, "http://10.0.0.1:80" }, { row.weight, row.zone, row.version, row.metadata.k, row.ttlMs, row.url })
        status, _, body = send(registry, "PATCH", "/api/v2/instances/a", { maintenance = true })
        assert.equal(200, status, body)
        assert.is_true(snapshot(registry).instances[1].maintenance)
        assert.same({}, ids(registry)) -- the old contract has no word for it, so who must rest is not listed
        send(registry, "POST", "/api/v2/instances", { id = "a", serviceName = "users", host = "10.0.0.1", port = 80 })
        assert.is_true(snapshot(registry).instances[1].maintenance) -- an operator's word outlives a restart of the instance
        assert.equal(204, (send(registry, "PUT", "/api/v2/instances/a/heartbeat")))
        assert.equal(400, (send(registry, "PATCH", "/api/v2/instances/a", { port = 1 })))
        assert.equal(204, (send(registry, "DELETE", "/api/v2/instances/a")))
        assert.equal(404, (send(registry, "PUT", "/api/v2/instances/a/heartbeat")))
    end)

    it("tells of a lapsed lease for a while and then no more", function()
        local registry = start { ttl = "1s" }
        register(registry, "a")
        support.wait_until("it lapsed", function()
            local row = snapshot(registry).instances[1]
            return row and row.lapsed
        end)
        assert.same({}, ids(registry))
        support.wait_until("it is gone", function() return #snapshot(registry).instances == 0 end)
    end)
end)

describe("the registry's gRPC port", function()
    after_each(support.finish)

    it("is a gRPC server to python3-grpcio", function()
        local registry = start()
        local out, code = support.command("/usr/bin/python3", "spec/integration/clients/registry_grpc.py",
            "127.0.0.1:" .. registry:registry_grpc_port(), registry:registry_http_port(), ".")
        assert.equal(0, code, out)
    end)

    it("answers nghttp's plain requests with HTTP's own errors", function()
        local registry = start()
        local url = "http://127.0.0.1:" .. registry:registry_grpc_port() .. "/serviceregistry.ServiceRegistry/SendHeartbeat"
        local out = support.command("nghttp", "-v", url)
        assert.truthy(out:find(":status: 405", 1, true), out)
        out = support.command("nghttp", "-v", "-H", ":method: POST", "-H", "content-type: text/plain", url)
        assert.truthy(out:find(":status: 415", 1, true), out)
    end)
end)

describe("a registry that restarts", function()
    after_each(support.finish)

    it("has its instances again and looks unchanged to who watched, after a kill -9", function()
        local store = "sqlite:" .. support.dir() .. "/registry.db"
        local registry = start { store = store }
        register(registry, "a")
        register(registry, "b")
        send(registry, "DELETE", "/api/v1/services/deregister/b")
        local before = snapshot(registry)
        registry:kill(registry.pid, "KILL")
        registry:wait()
        registry = start { store = store, name = "again" }
        local after = snapshot(registry)
        assert.same({ before.index, before.epoch, "a", 1 }, { after.index, after.epoch, after.instances[1].id, #after.instances })
        assert.equal(200, (send(registry, "POST", "/api/v1/services/heartbeat/a")))
    end)

    it("begins another epoch where its store is memory", function()
        local registry = start()
        local before = snapshot(registry)
        assert.equal(0, registry:stop())
        registry = start { name = "again" }
        assert.not_equal(before.epoch, snapshot(registry).epoch)
    end)

    it("answers who waits before it goes", function()
        local registry = start()
        local first = snapshot(registry)
        local held = support.open(registry:registry_http_port(), { timeout = 10 })
        assert(held:send(("GET /api/v2/instances?index=%d&epoch=%s&wait=60s HTTP/1.1\r\nHost: x\r\n\r\n"):format(first.index, first.epoch)))
        support.wait_until("it waits", function()
            local _, _, text = support.curl(registry:registry_url("/actuator/prometheus"))
            return text:find("service_registry_watchers 1\n", 1, true)
        end)
        assert.equal(0, registry:stop())
        assert.equal(first.index, cjson.decode(assert(held:reply()).body).index)
    end)

    it("names a store that it cannot use", function()
        local path = support.file("bad.db", ("no database\n"):rep(1000))
        local registry = support.registry { config = config { store = "sqlite:" .. path }, wait = false }
        assert.equal(1, registry:wait())
        assert.truthy(registry:log():find(path .. ": opening: file is not a database", 1, true), registry:log())
    end)

    it("takes another lease_ttl by SIGHUP", function()
        local registry = start { ttl = "1h" }
        register(registry, "a")
        assert(registry:reload(config { ttl = "1s" }))
        support.wait_until("the lease is short now", function() return #ids(registry) == 0 end)
    end)
end)
