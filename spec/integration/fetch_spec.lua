-- gateway.fetch as a script's user sees it: a filter that asks whatever URL its options name, curl as the client.
local support = require "spec.support"

-- The answer of the fetch, or why there is none, is the answer to the client.
local FILTER = [[
local Ask = { name = "ask", api = 1 }
Ask.__index = Ask
function Ask.new(options, route)
    local set = gateway.options(route, options, {
        url = { type = "string", required = true }, timeout = { type = "duration", default = 5 } })
    return setmetatable({ url = set.url, timeout = set.timeout }, Ask)
end
function Ask:on_request(request)
    local body = request.method == "POST" and "hello" or nil
    local answer, wrong = gateway.fetch(self.url .. request.path,
        { method = request.method, body = body, headers = { ["X-From"] = "ask" }, timeout = self.timeout, max_body = 1000 })
    if not answer then return request:answer(502, wrong) end
    return request:answer(answer.status, answer.body, { ["X-Said"] = answer.headers["x-said"] or "nothing" })
end
return Ask
]]

local function config(url, more)
    more = more or {}
    support.file("ask.lua", FILTER)
    return ([[
listeners: [ { address: "127.0.0.1:0" } ]
admin: { address: "127.0.0.1:0" }
workers: 1
routes:
  - match: { path_prefix: / }
    service: never
    filters: [ { use: %s/ask.lua, options: { url: "%s", timeout: %s } } ]
services:
  never: { endpoints: [ "127.0.0.1:1" ] }
%slog: { access: "%s" }
]]):format(support.dir(), url, more.timeout or "5s", more.services or "", support.dir() .. "/access.log")
end

local function access_line(text)
    return support.wait_until("the access log holds " .. text, function()
        for line in support.read_file(support.dir() .. "/access.log"):gmatch("[^\n]+") do
            if line:find(text, 1, true) then return line end
        end
    end)
end

describe("gateway.fetch", function()
    after_each(support.finish)

    it("asks a service of the gateway as a client would, past an endpoint that is dead", function()
        local backend = support.backend { id = "b", default = { headers = { { "X-Said", "so" } } } }
        local services = ('  web: { endpoints: [ "127.0.0.1:%d", "%s" ] }\n')
            :format(support.free_port(), backend.address)
        local gateway = support.gateway { config = config("service://web", { services = services }) }
        for i = 1, 4 do
            local status, headers, body = support.curl(gateway:url("/a" .. i))
            assert.same({ 200, "so", "b\n" }, { status, headers["x-said"], body })
        end
        support.curl("-d", "x", gateway:url("/post"))
        local seen = backend:requests()
        assert.same({ "GET", "/a1", "web", "ask" },
            { seen[1].method, seen[1].target, seen[1].header("host"), seen[1].header("x-from") })
        assert.is_nil(seen[1].header("x-forwarded-for"))
        assert.same({ "POST", "hello" }, { seen[5].method, seen[5].body })
        assert.is_truthy(access_line('route="(fetch)" service="web"'):find('client="-"', 1, true))
        assert.equal(5, gateway:metric("loadbalancer_total_requests", { path = "(fetch)" }))
    end)

    it("says why a service gave no answer", function()
        local services = '  web: { endpoints: [ "127.0.0.1:1" ] }\n'
        local gateway = support.gateway { config = config("service://web", { services = services }) }
        local status, _, body = support.curl(gateway:url("/"))
        assert.equal(502, status)
        assert.is_truthy(body:find("^connect_refused: service web"), body)
        gateway:stop()
        gateway = support.gateway { config = config("service://nobody") }
        _, _, body = support.curl(gateway:url("/"))
        assert.is_truthy(body:find("^no_route: there is no service nobody"), body)
    end)

    it("asks any server, and says what it did wrong", function()
        local backend = support.backend { id = "b" }
        local gateway = support.gateway { config = config("http://" .. backend.address, { timeout = "300ms" }) }
        local status, _, body = support.curl(gateway:url("/a"))
        assert.same({ 200, "b\n" }, { status, body })
        assert.equal(backend.address, backend:requests()[1].header("host"))
        backend:set { default = { body = ("x"):rep(1001) } }
        _, _, body = support.curl(gateway:url("/"))
        assert.is_truthy(body:find("^limit: "), body)
        backend:set { default = { hold = true } }
        _, _, body = support.curl(gateway:url("/"))
        assert.is_truthy(body:find("^response_timeout: .* 300 ms"), body)
        backend:release()
        backend:on_finish()
        _, _, body = support.curl(gateway:url("/"))
        assert.is_truthy(body:find("^connect_refused: connect refused by 127"), body)
    end)

    it("asks over TLS whom it can verify, and nobody else", function()
        local folder = support.dir()
        local _, code = support.command("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
            "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=x", "-addext",
            "subjectAltName=DNS:localhost", "-keyout", folder .. "/key.pem", "-out", folder .. "/certificate.pem")
        assert.equal(0, code)
        local server = support.helper("tls_backend.py", "tls",
            { certificate = folder .. "/certificate.pem", key = folder .. "/key.pem" })
        local env = { SSL_CERT_FILE = folder .. "/certificate.pem" }
        local gateway = support.gateway { env = env, config = config("https://localhost:" .. server.port) }
        for i = 1, 2 do
            local status, _, body = support.curl(gateway:url("/s" .. i))
            assert.same({ 200, "tls /s" .. i }, { status, body })
        end
        gateway:stop()
        gateway = support.gateway { env = env, config = config("https://127.0.0.1:" .. server.port) }
        local _, _, body = support.curl(gateway:url("/"))
        assert.is_truthy(body:find("^tls_error: .*IP address mismatch"), body)
        gateway:stop()
        gateway = support.gateway { config = config("https://localhost:" .. server.port) }
        _, _, body = support.curl(gateway:url("/"))
        assert.is_truthy(body:find("^tls_error: .*self.signed"), body)
    end)

    it("ends what it asked when its client leaves", function()
        local backend = support.backend { id = "b", default = { hold = true } }
        local services = ('  web: { endpoints: [ "%s" ] }\n'):format(backend.address)
        local gateway = support.gateway { config = config("service://web", { services = services }) }
        support.curl("-m", "1", gateway:url("/left"))
        assert.is_truthy(access_line('path="/left" status=499'))
        backend:release()
    end)
end)
