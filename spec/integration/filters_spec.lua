-- The filters that ship, in the real gateway, spoken to by real clients.
local cjson = require "cjson"
local support = require "spec.support"
local tokens = require "spec.support.tokens"

local function indent(text, by) return (text:gsub("[^\n]+", (" "):rep(by) .. "%0")) end

-- One route with these filters (YAML of a list), to backend `web`; and what else there is.
local function config(backend, filters, more)
    more = more or {}
    local services = {}
    for name, other in pairs(more.services or {}) do
        services[#services + 1] = ('  %s: { endpoints: [ "%s" ] }\n'):format(name, other.address)
    end
    return ([[
listeners: [ { address: "127.0.0.1:0" } ]
admin: { address: "127.0.0.1:0" }
workers: %d
routes:
  - match: { path_prefix: /free }
    service: web
  - match: { path_prefix: / }
    service: web
    filters:
%s
services:
  web: { endpoints: [ "%s" ] }
%slog: { access: "%s" }
]]):format(more.workers or 1, indent(filters, 6), backend.address, table.concat(services), support.dir() .. "/access.log")
end

local function failed(gateway, reason)
    return gateway:metric("fluxgate_requests_failed_total", { reason = reason }) or 0
end

local function access_line(text)
    return support.wait_until("the access log holds " .. text, function()
        for line in support.read_file(support.dir() .. "/access.log"):gmatch("[^\n]+") do
            if line:find(text, 1, true) then return line end
        end
    end)
end

describe("the filter", function()
    local web
    before_each(function() web = support.backend { id = "web" } end)
    after_each(support.finish)

    it("headers edits the request and its answer", function()
        web:set { default = { headers = { { "Server", "secret/1.0" } } } }
        local gateway = support.gateway { config = config(web, [[
- use: headers
  options:
    request: { remove: [ X-Debug ], set: { X-Client: "$client_ip", X-Tenant: "$header_x_tenant" } }
    response: { remove: [ Server ], set: { X-Route: "$route" } }]]) }
        local status, headers = support.curl("-H", "X-Debug: 1", "-H", "X-Tenant: t7", gateway:url("/a"))
        assert.same({ 200, "/" }, { status, headers["x-route"] })
        assert.is_nil(headers.server)
        local seen = web:requests()[1]
        assert.same({ "127.0.0.1", "t7" }, { seen.header("x-client"), seen.header("x-tenant") })
        assert.is_nil(seen.header("x-debug"))
    end)

    it("rewrite moves paths, and redirects", function()
        local gateway = support.gateway { config = config(web, [[
- use: rewrite
  options:
    rules:
      - { prefix: /v1, to: /api/v1 }
      - { pattern: "/users/(%d+)/(%a+)", to: "/%2?user=%1" }
      - { prefix: /old, to: "https://new.example", redirect: 308 }]]) }
        support.curl(gateway:url("/v1/x?q=1"))
        support.curl(gateway:url("/users/42/cart"))
        local status, headers = support.curl(gateway:url("/old/page"))
        assert.same({ 308, "https://new.example/page" }, { status, headers.location })
        local targets = {}
        for i, request in ipairs(web:requests()) do targets[i] = request.target end
        assert.same({ "/api/v1/x?q=1", "/cart?user=42" }, targets)
    end)

    it("ip_allow refuses by address, and log and metrics say who refused", function()
        local gateway = support.gateway { config = config(web, "- { use: ip_allow, options: { deny: [ 127.0.0.0/8 ] } }") }
        assert.equal(403, (support.curl(gateway:url("/a"))))
        assert.equal(200, (support.curl(gateway:url("/free"))))
        assert.equal(1, #web:requests())
        assert.is_truthy(access_line('path="/a"'):find('status=403 reason="filter_denied"', 1, true))
        support.wait_until("the metric counts it", function()
            local count = failed(gateway, "filter_denied")
            return count == 1, count
        end)
    end)

    it("cors answers a preflight and marks the answer", function()
        local gateway = support.gateway { config = config(web,
            "- { use: cors, options: { origins: [ \"https://a.example\" ], methods: [ GET, PUT ] } }") }
        local status, headers = support.curl("-X", "OPTIONS", "-H", "Origin: https://a.example", "-H",
            "Access-Control-Request-Method: PUT", gateway:url("/a"))
        assert.same({ 204, "https://a.example" }, { status, headers["access-control-allow-origin"] })
        assert.is_truthy(headers["access-control-allow-methods"]:find("PUT"))
        assert.equal(0, #web:requests())
        status, headers = support.curl("-H", "Origin: https://a.example", gateway:url("/a"))
        assert.same({ 200, "https://a.example" }, { status, headers["access-control-allow-origin"] })
        local _, others = support.curl("-H", "Origin: https://b.example", gateway:url("/a"))
        assert.is_nil(others["access-control-allow-origin"])
    end)

    it("basic_auth lets in who knows the password", function()
        local hash = support.shell("printf %s secret | openssl dgst -sha256 -hmac salt"):match("(%x+)%s*$")
        local gateway = support.gateway { config = config(web,
            ("- { use: basic_auth, options: { users: { ann: \"hmac-sha256:salt:%s\" } } }"):format(hash)) }
        local status, headers = support.curl(gateway:url("/a"))
        assert.equal(401, status)
        assert.is_truthy(headers["www-authenticate"]:find('Basic realm="restricted"', 1, true))
        assert.equal(401, (support.curl("-u", "ann:wrong", gateway:url("/a"))))
        assert.equal(200, (support.curl("-u", "ann:secret", "-H", "X-Remote-User: eve", gateway:url("/a"))))
        local seen = web:requests()
        assert.equal(1, #seen)
        assert.equal("ann", seen[1].header("x-remote-user"))
        assert.is_nil(seen[1].header("authorization"))
    end)

    for _, workers in ipairs { 1, 2 } do
        it("rate_limit is exact over " .. workers .. " worker(s)", function()
            local gateway = support.gateway { config = config(web,
                "- { use: rate_limit, options: { rate: 7/h, burst: 7 } }", { workers = workers }) }
            local counts, headers = {}, nil
            local sockets = {}
            for i = 1, 40 do -- a connection each, so that the kernel spreads them
                sockets[i] = support.open(gateway:port())
                sockets[i]:send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
            end
            for _, connection in ipairs(sockets) do
                local reply = connection:reply()
                counts[reply.status] = (counts[reply.status] or 0) + 1
                if reply.status == 429 then headers = reply.headers end
                connection:close()
            end
            assert.same({ [200] = 7, [429] = 33 }, counts)
            assert.is_truthy(tonumber(headers["retry-after"]))
            assert.equal(7, #web:requests())
        end)
    end

    describe("jwt", function()
        local function ask(gateway, token)
            return (support.curl("-H", "Authorization: Bearer " .. token, gateway:url("/a")))
        end
        local claims = '{"sub":"ann","exp":4102444800,"aud":"api"}'

        it("verifies HS256, and takes no other algorithm for that key", function()
            local secret = ("s"):rep(32)
            local gateway = support.gateway { config = config(web,
                ("- { use: jwt, options: { secret: %s, audience: api, claims_to_headers: { sub: X-User } } }"):format(secret)) }
            assert.equal(200, ask(gateway, tokens.sign { alg = "HS256", secret = secret, claims = claims }))
            assert.equal("ann", web:requests()[1].header("x-user"))
            local none = tokens.base64url '{"alg":"none"}' .. "." .. tokens.base64url(claims) .. "."
            assert.equal(401, ask(gateway, none))
            assert.equal(401, ask(gateway, tokens.sign { alg = "HS256", secret = ("t"):rep(32), claims = claims }))
            local old = '{"sub":"ann","exp":1000000000,"aud":"api"}'
            assert.equal(401, ask(gateway, tokens.sign { alg = "HS256", secret = secret, claims = old }))
            assert.equal(401, (support.curl(gateway:url("/a"))))
            assert.equal(1, #web:requests())
        end)

        it("verifies RS256 by a public key of the file", function()
            local key = tokens.key("RSA", support.dir() .. "/rsa.pem")
            local other = tokens.key("RSA", support.dir() .. "/other.pem")
            local gateway = support.gateway { config = config(web,
                ("- { use: jwt, options: { public_key: %s } }"):format(cjson.encode(key.pem):gsub("\\/", "/"))) }
            assert.equal(200, ask(gateway, tokens.sign { alg = "RS256", key = key, claims = claims }))
            assert.equal(401, ask(gateway, tokens.sign { alg = "RS256", key = other, claims = claims }))
        end)

        it("verifies RS256 and ES256 by a key set from a URL", function()
            local rsa = tokens.key("RSA", support.dir() .. "/rsa.pem", "r1")
            local ec = tokens.key("EC", support.dir() .. "/ec.pem", "e1")
            local login = support.backend { id = "login", default = {
                headers = { { "Content-Type", "application/json" } }, body = cjson.encode { keys = { rsa.jwk, ec.jwk } },
            } }
            local gateway = support.gateway { config = config(web,
                ('- { use: jwt, options: { jwks_url: "http://%s/keys" } }'):format(login.address)) }
            assert.equal(200, ask(gateway, tokens.sign { alg = "RS256", kid = "r1", key = rsa, claims = claims }))
            assert.equal(200, ask(gateway, tokens.sign { alg = "ES256", kid = "e1", key = ec, claims = claims }))
            assert.equal(401, ask(gateway, tokens.sign { alg = "ES256", kid = "r1", key = ec, claims = claims }))
            assert.equal(401, ask(gateway, tokens.sign { alg = "HS256", kid = "r1", secret = rsa.pem, claims = claims }))
            assert.equal(2, #web:requests())
        end)
    end)

    it("external_auth asks a server, and fails closed without it", function()
        local auth = support.backend { id = "auth", default = { status = 204, headers = { { "X-User", "ann" } } } }
        local gateway = support.gateway { config = config(web,
            '- { use: external_auth, options: { url: "service://auth/check", response_headers: [ X-User ] } }',
            { services = { auth = auth } }) }
        assert.equal(200, (support.curl("-H", "X-User: eve", gateway:url("/a?b=1"))))
        assert.equal("ann", web:requests()[1].header("x-user"))
        local asked = auth:requests()[1]
        assert.same({ "/check", "/a?b=1" }, { asked.target, asked.header("x-forwarded-uri") })
        auth:set { default = { status = 401, headers = { { "WWW-Authenticate", "Basic" } }, body = "who?" } }
        local status, headers, body = support.curl(gateway:url("/a"))
        assert.same({ 401, "Basic", "who?" }, { status, headers["www-authenticate"], body })
        auth:on_finish()
        assert.equal(503, (support.curl(gateway:url("/a"))))
        assert.equal(1, #web:requests())
    end)

    it("canary sends those who ask for it to the other service", function()
        local next_web = support.backend { id = "next" }
        local gateway = support.gateway { config = config(web,
            "- { use: canary, options: { service: next, header: x-canary } }", { services = { next = next_web } }) }
        local _, _, plain = support.curl(gateway:url("/a"))
        local _, _, canary = support.curl("-H", "X-Canary: 1", gateway:url("/a"))
        assert.same({ "web\n", "next\n" }, { plain, canary })
        assert.is_truthy(access_line('service="next"'))
    end)

    it("mirror copies a request without making its client wait", function()
        local copy = support.backend { id = "copy", default = { hold = true } }
        local gateway = support.gateway { config = config(web,
            "- { use: mirror, options: { service: copy }, on_error: skip }", { services = { copy = copy } }) }
        local status, _, body = support.curl("-H", "Authorization: secret", "-d", "hello", gateway:url("/a?x=1"))
        assert.same({ 200, "web\n" }, { status, body })
        local seen = support.wait_until("the copy comes", function() return copy:requests()[1] end)
        assert.same({ "POST", "/a?x=1", "hello", "1" }, { seen.method, seen.target, seen.body, seen.header("x-mirror") })
        assert.is_nil(seen.header("authorization"))
        assert.same({ "hello", nil }, { web:requests()[1].body, web:requests()[1].header("x-mirror") })
        copy:release()
    end)

    describe("compress", function()
        local text = ("the quick brown fox jumps over the lazy dog. "):rep(1000)
        local decoders = {
            gzip = "gzip -dc", zstd = "zstd -dcq",
            deflate = "python3 -c 'import sys, zlib; sys.stdout.buffer.write(zlib.decompress(sys.stdin.buffer.read()))'",
        }
        local function start(workers)
            web:set { default = { body = text, headers = { { "Content-Type", "text/plain" }, { "ETag", '"x"' } } } }
            return support.gateway { config = config(web,
                "- { use: compress, options: { encodings: [ zstd, gzip, deflate ] } }", { workers = workers }) }
        end

        for encoding, decode in pairs(decoders) do
            it("speaks " .. encoding .. " that its own tool decodes", function()
                local gateway = start(1)
                local status, headers, body = support.curl("-H", "Accept-Encoding: " .. encoding, gateway:url("/a"))
                assert.same({ 200, encoding, 'W/"x"' }, { status, headers["content-encoding"], headers.etag })
                assert.is_nil(headers["content-length"])
                assert.is_true(#body < #text / 10)
                local file = support.file("body", body)
                assert.equal(text, (support.shell(decode .. " < " .. file)))
            end)
        end

        it("is decoded by curl, and leaves alone who does not ask", function()
            local gateway = start(2)
            local _, headers, body = support.curl("--compressed", gateway:url("/a"))
            assert.is_truthy(headers["content-encoding"])
            assert.equal(text, body)
            _, headers, body = support.curl(gateway:url("/a"))
            assert.is_nil(headers["content-encoding"])
            assert.equal(text, body)
            _, headers, body = support.curl("--http1.0", "-H", "Accept-Encoding: gzip", gateway:url("/a"))
            assert.same({ "gzip", "close" }, { headers["content-encoding"], headers.connection })
            assert.equal(text, (support.shell("gzip -dc < " .. support.file("body", body))))
            local _, head = support.curl("-I", "-H", "Accept-Encoding: gzip", gateway:url("/a"))
            assert.is_nil(head["content-encoding"])
        end)
    end)
end)
