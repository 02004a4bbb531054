-- The main job end to end: client, gateway, backends; strategies exact over workers; failures with their reasons.
local support = require "spec.support"

local function fleet(n, options)
    local list, addresses = {}, {}
    for i = 1, n do
        local one = { id = string.char(96 + i) }
        for key, value in pairs(options or {}) do one[key] = value end
        list[i] = support.backend(one)
        addresses[i] = '"' .. list[i].address .. '"'
    end
    return list, table.concat(addresses, ", ")
end

local function config(addresses, service, more)
    return ([[
listeners: [ { address: "127.0.0.1:0" } ]
admin: { address: "127.0.0.1:0" }
routes:
  - match: { path_prefix: / }
    service: web
services:
  web:
    endpoints: [ %s ]
%s
%s]]):format(addresses, service or "    strategy: round_robin", more or "")
end

describe("the gateway", function()
    after_each(support.finish)

    it("gives 3 equal backends exactly 100 of 300 requests each over 2 workers", function()
        local _, addresses = fleet(3)
        local gateway = support.gateway { config = config(addresses), workers = 2 }
        local result = support.load { url = gateway:url(), requests = 300, concurrency = 6 }
        assert.equal(0, result.failure_count)
        assert.same({ a = 100, b = 100, c = 100 }, result.bodies)
    end)

    it("gives weight 3 three times the requests of weight 1", function()
        local list = fleet(2)
        local endpoints = ('{ address: "%s", weight: 3 }, { address: "%s" }'):format(list[1].address, list[2].address)
        local gateway = support.gateway { config = config(endpoints), workers = 2 }
        local result = support.load { url = gateway:url(), requests = 400, concurrency = 4 }
        assert.same({ a = 300, b = 100 }, result.bodies)
    end)

    it("sends nothing more to a busy endpoint than least_connections allows, over every worker", function()
        local list, addresses = fleet(2)
        local gateway = support.gateway { config = config(addresses, "    strategy: least_connections"), workers = 2 }
        list[1]:set { default = { hold = true } }
        local held = support.load_start { url = gateway:url(), requests = 4, concurrency = 4 }
        support.wait_until("a holds requests", function()
            return list[1]:counts().active >= 1, list[1]:counts()
        end)
        local before = list[1]:counts().requests_seen
        local result = support.load { url = gateway:url(), requests = 60, concurrency = 1 }
        assert.equal(60, result.bodies.b)
        assert.equal(before, list[1]:counts().requests_seen)
        list[1]:release()
        assert.equal(0, held:result().failure_count)
    end)

    it("streams a chunked upload and a chunked answer", function()
        local list, addresses = fleet(1, { default = { reply = "echo", chunked = true } })
        local gateway = support.gateway { config = config(addresses) }
        local body = ("0123456789abcdef"):rep(64 * 1024)
        local file = support.file("body", body)
        local status, _, answer = support.curl("-H", "Transfer-Encoding: chunked", "--data-binary", "@" .. file, gateway:url())
        assert.equal(200, status)
        assert.is_true(answer == body)
        assert.equal(#body, list[1]:requests()[1].body_bytes)
    end)

    it("keeps both connections alive and forwards what the client sent, with forwarding headers of its own", function()
        local list, addresses = fleet(1)
        local gateway = support.gateway { config = config(addresses), workers = 1 }
        local client = support.open(gateway:port())
        for i = 1, 5 do
            local reply = client:request("GET /a%7Eb/./c/../d?x=" .. i .. " HTTP/1.1\r\nHost: example.com\r\n"
                .. "X-Forwarded-For: 6.6.6.6\r\nConnection: x-secret\r\nX-Secret: 1\r\n\r\n")
            assert.equal(200, reply.status)
        end
        client:close()
        assert.equal(1, list[1]:counts().connections_seen)
        local request = list[1]:requests()[5]
        assert.equal("/a~b/d?x=5", request.target)
        assert.equal("example.com", request.header("host"))
        assert.equal("127.0.0.1", request.header("x-forwarded-for"))
        assert.is_nil(request.header("x-secret"))
        assert.is_string(request.header("x-request-id"))
        assert.is_string(request.header("traceparent"))
    end)

    it("answers 404 without a route, 503 without endpoints, 502 when refused, each with its reason", function()
        local port = support.free_port()
        local gateway = support.gateway { config = ([[
listeners: [ { address: "127.0.0.1:0" } ]
admin: { address: "127.0.0.1:0" }
registry: { embedded: true, listen: { http: "127.0.0.1:0", grpc: "127.0.0.1:0" } }
routes:
  - { match: { path_prefix: /empty }, service: empty }
  - { match: { path_prefix: /dead }, service: dead }
services:
  empty: { discover: nobody }
  dead: { endpoints: [ "127.0.0.1:%d" ] }
]]):format(port) }
        local seen = {}
        for _, path in ipairs { "/other", "/empty", "/dead" } do
            local status, _, body = support.curl(gateway:url(path))
            seen[#seen + 1] = status .. " " .. (body:match("[a-z]+_[a-z_]+") or body)
        end
        assert.same({ "404 no_route", "503 no_endpoints", "502 connect_refused" }, seen)
    end)

    it("answers 504 for a stopped backend instead of hanging", function()
        local list, addresses = fleet(1)
        local gateway = support.gateway { config = config(addresses, "    timeouts: { response: 300ms }") }
        list[1]:signal("STOP")
        local status, _, body = support.curl("--max-time", "10", gateway:url())
        list[1]:signal("CONT")
        assert.equal(504, status)
        assert.truthy(body:find("response_timeout", 1, true))
    end)

    it("never counts a client that leaves early against the backend", function()
        local list, addresses = fleet(1, { default = { hold = true } })
        local gateway = support.gateway { config = config(addresses), workers = 1 }
        for i = 1, 8 do
            local client = support.open(gateway:port())
            client:send("GET /leaves HTTP/1.1\r\nHost: x\r\n\r\n")
            support.wait_until("the backend has it", function() return list[1]:counts().requests_seen >= i end)
            client:abort()
        end
        support.wait_until("the gateway has let go", function()
            return gateway:metric("loadbalancer_backend_active_connections") == 0
        end)
        list[1]:set { default = {} }
        assert.equal(1, gateway:metric("loadbalancer_backend_status"))
        assert.equal(200, (support.curl(gateway:url())))
    end)

    it("redirects, responds and rewrites as its routes say", function()
        local list = fleet(1)
        local gateway = support.gateway { config = ([[
listeners: [ { address: "127.0.0.1:0" } ]
routes:
  - { match: { host: old.example.com }, redirect: { to: "https://example.com", status: 308 } }
  - { match: { path: /ping }, respond: { status: 200, body: pong } }
  - { match: { path_prefix: /shop, methods: [GET], headers: { x-beta: "1" } }, service: web, rewrite: { strip_prefix: /shop, add_prefix: /v2 } }
  - { match: { path_prefix: /q, query: { a: "1" } }, service: web }
  - { match: { path_prefix: /c, cookies: { beta: "yes" } }, service: web }
services: { web: { endpoints: [ "%s" ] } }
]]):format(list[1].address) }
        local status, headers = support.curl("-H", "Host: old.example.com", gateway:url("/x?y=1"))
        assert.same({ 308, "https://example.com/x?y=1" }, { status, headers.location })
        assert.equal("pong", select(3, support.curl(gateway:url("/ping"))))
        assert.equal(404, (support.curl(gateway:url("/shop/cart"))))
        assert.equal(200, (support.curl("-H", "X-Beta: 1", gateway:url("/shop/cart?n=2"))))
        assert.equal("/v2/cart?n=2", list[1]:requests()[1].target)
        assert.equal(404, (support.curl(gateway:url("/q?a=2"))))
        assert.equal(200, (support.curl(gateway:url("/q?b=1&a=1"))))
        assert.equal(404, (support.curl(gateway:url("/c"))))
        assert.equal(200, (support.curl("-b", "beta=yes", gateway:url("/c"))))
    end)

    it("carries a WebSocket handshake and both directions after it", function()
        local _, addresses = fleet(1, { default = { upgrade = "echo" } })
        local gateway = support.gateway { config = config(addresses) }
        local client = support.open(gateway:port())
        client:send("GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            .. "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n")
        local head = assert(client:read_until("\r\n\r\n"))
        assert.truthy(head:find("^HTTP/1.1 101 "))
        client:send("hello")
        assert.equal("hello", client:read_bytes(5))
        client:close()
    end)

    it("closes cleanly at SIGTERM: what is under way finishes, the exit code is 0", function()
        local list, addresses = fleet(1, { default = { hold = true } })
        local gateway = support.gateway { config = config(addresses), workers = 2 }
        local client = support.open(gateway:port())
        client:send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        support.wait_until("the backend has it", function() return list[1]:counts().active == 1 end)
        gateway:signal("TERM")
        support.wait_until("nobody listens any more", function()
            local ok, other = pcall(support.open, gateway:port())
            if ok then other:close() end
            return not ok
        end)
        list[1]:release()
        local reply = client:reply()
        assert.equal(200, reply.status)
        assert.equal(0, gateway:wait(15))
    end)
end)
