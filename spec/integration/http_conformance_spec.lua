-- The gateway as a server and as a client of HTTP/1.1: what is malformed or can be read in two ways never reaches the
-- backend, what travels leaves in one form, and nothing that a backend says shows up in another answer.
local support = require "spec.support"

local config = [[
listeners: [ { address: "127.0.0.1:0" } ]
routes: [ { match: { path_prefix: / }, service: web } ]
services: { web: { endpoints: [ "%s" ] } }
limits: { header_bytes: 16k, headers: 50, uri_bytes: 4k, body_bytes: 1m }
timeouts: { response: 5s }
workers: 1
]]

local GET, POST = "GET / HTTP/1.1\r\nHost: a\r\n", "POST / HTTP/1.1\r\nHost: a\r\n"
local CHUNKED = POST .. "Transfer-Encoding: chunked\r\n\r\n"
local EVIL = "GET /evil HTTP/1.1\r\nHost: a\r\n\r\n"

-- { claim, bytes, status }. A second request stands behind each, which nobody may answer.
local malformed = {
    -- the request line
    { "a bare LF behind the request line", "GET / HTTP/1.1\nHost: a\r\n\r\n" },
    { "bare LFs throughout", "GET / HTTP/1.1\nHost: a\n\n" },
    { "a bare CR behind the request line", "GET / HTTP/1.1\rHost: a\r\n\r\n" },
    { "HTTP/0.9", "GET /\r\n" },
    { "HTTP/0.9 by number", "GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505 },
    { "HTTP/2.0 by number", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505 },
    { "the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505 },
    { "a version in lower case", "GET / http/1.1\r\nHost: a\r\n\r\n" },
    { "a version of three digits", "GET / HTTP/1.10\r\nHost: a\r\n\r\n" },
    { "two blanks before the target", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n" },
    { "two blanks before the version", "GET /  HTTP/1.1\r\nHost: a\r\n\r\n" },
    { "a tab for a blank", "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n" },
    { "a blank inside the target", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n" },
    { "a blank behind the version", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n" },
    { "a blank before the method", " GET / HTTP/1.1\r\nHost: a\r\n\r\n" },
    { "two empty lines before the request", "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n" },
    { "a method that is no token", "G@T / HTTP/1.1\r\nHost: a\r\n\r\n" },
    { "a NUL in the method", "G\0T / HTTP/1.1\r\nHost: a\r\n\r\n" },
    { "a TLS hello", "\22\3\1\2\0\1\0\1\252\3\3" },
    -- the target
    { "a fragment in the target", "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n" },
    { "a NUL in the target", "GET /a\0b HTTP/1.1\r\nHost: a\r\n\r\n" },
    { "a byte past ASCII in the target", "GET /\195\169 HTTP/1.1\r\nHost: a\r\n\r\n" },
    { "a control byte in the target", "GET /a\127 HTTP/1.1\r\nHost: a\r\n\r\n" },
    { "a backslash in the path", "GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n" },
    { "a broken escape", "GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n" },
    { "an escaped NUL", "GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n" },
    { "an escaped backslash", "GET /..%5cetc HTTP/1.1\r\nHost: a\r\n\r\n" },
    { "dot segments that an escaped slash hides", "GET /a%2f..%2fb HTTP/1.1\r\nHost: a\r\n\r\n" },
    { "a relative target", "GET a HTTP/1.1\r\nHost: a\r\n\r\n" },
    { "an asterisk for GET", "GET * HTTP/1.1\r\nHost: a\r\n\r\n" },
    { "an authority for GET", "GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n" },
    { "a foreign scheme", "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n" },
    { "user information in the target", "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n" },
    { "an absolute target without host", "GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n" },
    { "a target past uri_bytes", "GET /" .. ("a"):rep(5000) .. " HTTP/1.1\r\nHost: a\r\n\r\n", 414 },
    -- Host
    { "no Host", "GET / HTTP/1.1\r\n\r\n" },
    { "an empty Host", "GET / HTTP/1.1\r\nHost:\r\n\r\n" },
    { "two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" },
    { "the same Host twice", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n" },
    { "two Hosts in HTTP/1.0", "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n" },
    { "a list for Host", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n" },
    { "a Host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n" },
    { "a Host with user information", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n" },
    { "a Host with a broken port", "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n" },
    { "a Host with two ports", "GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n" },
    { "a Host with an open bracket", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n" },
    { "an absolute target and no Host", "GET http://a/ HTTP/1.1\r\n\r\n" },
    { "an absolute target and an invalid Host", "GET http://a/ HTTP/1.1\r\nHost: b c\r\n\r\n" },
    -- header lines
    { "a folded line", GET .. "A: b\r\n c\r\n\r\n" },
    { "a blank before the first field", "GET / HTTP/1.1\r\n Host: a\r\n\r\n" },
    { "a blank before the colon", GET .. "A : b\r\n\r\n" },
    { "a tab before the colon", GET .. "A\t: b\r\n\r\n" },
    { "Content-Length with a blank before the colon", POST .. "Content-Length : 5\r\n\r\nhello" },
    { "Transfer-Encoding with a blank before the colon", POST .. "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" },
    { "a field without name", GET .. ": b\r\n\r\n" },
    { "a field without colon", GET .. "A\r\n\r\n" },
    { "a name that is no token", GET .. "A(b): c\r\n\r\n" },
    { "a NUL in a name", GET .. "A\0: c\r\n\r\n" },
    { "a NUL in a value", GET .. "A: b\0c\r\n\r\n" },
    { "a control byte in a value", GET .. "A: b\1c\r\n\r\n" },
    { "a bare CR in a value", GET .. "A: b\rContent-Length: 5\r\n\r\n" },
    { "a bare LF in a value", GET .. "A: b\nContent-Length: 5\r\n\r\n" },
    { "a bare CR at the end of the section", GET .. "A: b\r\n\rx" },
    { "a bare LF at the end of the section", GET .. "A: b\r\n\n" },
    { "a header section past header_bytes", GET .. ("A: b\r\n"):rep(40) .. "B: " .. ("x"):rep(20000) .. "\r\n\r\n", 431 },
    { "more fields than headers", GET .. ("A: b\r\n"):rep(60) .. "\r\n", 431 },
    -- Content-Length
    { "an empty Content-Length", POST .. "Content-Length:\r\n\r\n" },
    { "a Content-Length with a sign", POST .. "Content-Length: +5\r\n\r\nhello" },
    { "a negative Content-Length", POST .. "Content-Length: -5\r\n\r\nhello" },
    { "a hexadecimal Content-Length", POST .. "Content-Length: 0x5\r\n\r\nhello" },
    { "a Content-Length with a blank inside", POST .. "Content-Length: 5 5\r\n\r\nhello" },
    { "a list of Content-Lengths", POST .. "Content-Length: 5, 5\r\n\r\nhello" },
    { "two equal Content-Lengths", POST .. "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello" },
    { "two Content-Lengths", POST .. "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello" },
    { "a Content-Length past 64 bits", POST .. "Content-Length: 18446744073709551621\r\n\r\nhello" },
    { "a Content-Length past signed 64 bits", POST .. "Content-Length: 9223372036854775808\r\n\r\nhello" },
    { "a Content-Length past body_bytes", POST .. "Content-Length: 1048577\r\n\r\n", 413 },
    -- Transfer-Encoding
    { "Content-Length and Transfer-Encoding", POST .. "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" },
    { "Transfer-Encoding and Content-Length", POST .. "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" },
    { "Transfer-Encoding: identity", POST .. "Transfer-Encoding: identity\r\n\r\n" },
    { "Transfer-Encoding: gzip, chunked", POST .. "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" },
    { "Transfer-Encoding: chunked, identity", POST .. "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" },
    { "Transfer-Encoding: chunked, chunked", POST .. "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n" },
    { "Transfer-Encoding: xchunked", POST .. "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" },
    { "Transfer-Encoding with a vertical tab", POST .. "Transfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n" },
    { "Transfer-Encoding with a comma behind", POST .. "Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n" },
    { "an empty Transfer-Encoding", POST .. "Transfer-Encoding:\r\n\r\n0\r\n\r\n" },
    { "Transfer-Encoding twice", POST .. "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" },
    { "a folded Transfer-Encoding", POST .. "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" },
    { "Transfer-Encoding in HTTP/1.0", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" },
    -- Expect and Upgrade
    { "an unknown expectation", POST .. "Content-Length: 5\r\nExpect: magic\r\n\r\nhello", 417 },
    { "Upgrade with a body", POST .. "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\nhello" },
    { "Upgrade with a chunked body", POST .. "Connection: upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" },
}

-- The head may have left when these are seen: the backend must not take the message for a whole one.
local broken_bodies = {
    { "an empty chunk size", CHUNKED .. "\r\nhello\r\n0\r\n\r\n" },
    { "a chunk size with a sign", CHUNKED .. "+5\r\nhello\r\n0\r\n\r\n" },
    { "a chunk size with 0x", CHUNKED .. "0x5\r\nhello\r\n0\r\n\r\n" },
    { "a blank before the chunk size", CHUNKED .. " 5\r\nhello\r\n0\r\n\r\n" },
    { "a blank behind the chunk size", CHUNKED .. "5 \r\nhello\r\n0\r\n\r\n" },
    { "a chunk size past 64 bits", CHUNKED .. "10000000000000005\r\nhello\r\n0\r\n\r\n" },
    { "a chunk size past signed 64 bits", CHUNKED .. "8000000000000000\r\nhello\r\n0\r\n\r\n" },
    { "a bare LF behind the chunk size", CHUNKED .. "5\nhello\r\n0\r\n\r\n" },
    { "a bare CR behind the chunk size", CHUNKED .. "5\rhello\r\n0\r\n\r\n" },
    { "a chunk longer than its size", CHUNKED .. "5\r\nhello!\r\n0\r\n\r\n" },
    { "a chunk without CRLF", CHUNKED .. "5\r\nhello0\r\n\r\n" },
    { "a bare LF behind a chunk", CHUNKED .. "5\r\nhello\n0\r\n\r\n" },
    { "a bare LF in a chunk extension", CHUNKED .. "5;a\nb\r\nhello\r\n0\r\n\r\n" },
    { "a NUL in a chunk extension", CHUNKED .. "5;a\0\r\nhello\r\n0\r\n\r\n" },
    { "an endless chunk extension", CHUNKED .. "5;" .. ("a"):rep(300) .. "\r\nhello\r\n0\r\n\r\n" },
    { "a bare LF behind the last chunk", CHUNKED .. "0\n\r\n" },
    { "a bare LF behind the trailers", CHUNKED .. "0\r\nA: b\r\n\n" },
    { "a trailer without colon", CHUNKED .. "0\r\nA\r\n\r\n" },
    { "a folded trailer", CHUNKED .. "0\r\nA: b\r\n c\r\n\r\n" },
    { "a request line among the trailers", CHUNKED .. "0\r\n" .. EVIL },
    { "a chunked body past body_bytes", CHUNKED .. "100001\r\nhello", 413 },
}

-- { claim, bytes, head as it leaves (request line, then sorted fields but those that the gateway always sets), body }.
local normal = {
    { "an absolute target in origin form", "GET http://b.example:81/x?y HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /x?y HTTP/1.1|Host: b.example:81" },
    { "an absolute target without path", "GET http://b HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1|Host: b" },
    { "an empty port left off", "GET / HTTP/1.1\r\nHost: a:\r\n\r\n", "GET / HTTP/1.1|Host: a" },
    { "HTTP/1.0 as 1.1", "GET / HTTP/1.0\r\nHost: a\r\n\r\n", "GET / HTTP/1.1|Host: a" },
    { "HTTP/1.9 as 1.1", "GET / HTTP/1.9\r\nHost: a\r\n\r\n", "GET / HTTP/1.1|Host: a" },
    { "an empty line before the request left off", "\r\n" .. GET .. "\r\n", "GET / HTTP/1.1|Host: a" },
    { "dot segments resolved", "GET /a/./b/../c//d HTTP/1.1\r\nHost: a\r\n\r\n", "GET /a/c/d HTTP/1.1|Host: a" },
    { "unreserved characters decoded, escapes in upper case", "GET /%61%2fb%c3%a9 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a%2Fb%C3%A9 HTTP/1.1|Host: a" },
    { "a value without the blanks around it", GET .. "A: \t b c \t\r\n\r\n", "GET / HTTP/1.1|A: b c|Host: a" },
    { "a length as plain digits", POST .. "Content-Length: 0005\r\n\r\nhello",
        "POST / HTTP/1.1|Content-Length: 5|Host: a", "hello" },
    { "chunks without their extensions", CHUNKED .. "3;a=b\r\nhel\r\n02 ; c=\"\\\"d\"\r\nlo\r\n0;z\r\n\r\n",
        "POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked", "hello" },
    { "chunked in any case as chunked", POST .. "Transfer-Encoding: ChUnKeD\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked", "hello" },
    { "nothing that Connection nominates", GET .. "Connection: x-a, close, cookie\r\nX-A: 1\r\nx-a: 2\r\nCookie: c=d\r\n\r\n",
        "GET / HTTP/1.1|Host: a" },
    { "no hop-by-hop field", GET .. "TE: trailers\r\nKeep-Alive: timeout=5\r\nProxy-Connection: close\r\n"
        .. "Proxy-Authorization: x\r\nTrailer: A\r\nUpgrade: x\r\nHTTP2-Settings: y\r\n\r\n", "GET / HTTP/1.1|Host: a" },
    { "no upgrade to h2c", GET .. "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
        "GET / HTTP/1.1|Host: a" },
    { "no upgrade out of HTTP/1.0", "GET / HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        "GET / HTTP/1.1|Host: a" },
    { "no expectation out of HTTP/1.0", "POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\nExpect: magic\r\n\r\nhello",
        "POST / HTTP/1.1|Content-Length: 5|Host: a", "hello" },
    { "no name with an underscore", GET .. "Content_Length: 5\r\nX_Forwarded_For: 6.6.6.6\r\n\r\n", "GET / HTTP/1.1|Host: a" },
    { "no X-Forwarded field of a stranger", GET .. "X-Forwarded-Prefix: /x\r\nForwarded: for=1\r\nX-Real-IP: 6.6.6.6\r\n\r\n",
        "GET / HTTP/1.1|Host: a" },
    { "an unknown method as it is", "M-SEARCH /x HTTP/1.1\r\nHost: a\r\n\r\n", "M-SEARCH /x HTTP/1.1|Host: a" },
}

local set_by_the_gateway = {
    ["x-forwarded-for"] = true, ["x-forwarded-proto"] = true, ["x-forwarded-host"] = true,
    ["x-request-id"] = true, ["traceparent"] = true,
}

local function normal_form(request)
    local fields = {}
    for _, pair in ipairs(request.headers) do
        if not set_by_the_gateway[pair[1]:lower()] then fields[#fields + 1] = pair[1] .. ": " .. pair[2] end
    end
    table.sort(fields)
    table.insert(fields, 1, request.head:match("^[^\r\n]+"))
    return table.concat(fields, "|")
end

-- What a backend may not say. { claim, bytes }.
local lies = {
    { "no status line", "hello\r\n\r\n" },
    { "HTTP/0.9", "<html>hello</html>" },
    { "a status line of HTTP/2", "HTTP/2.0 200 OK\r\n\r\n" },
    { "a status of two digits", "HTTP/1.1 20 OK\r\n\r\n" },
    { "a status of four digits", "HTTP/1.1 2000 OK\r\n\r\n" },
    { "a status past 599", "HTTP/1.1 999 OK\r\n\r\n" },
    { "a bare LF", "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n" },
    { "a bare CR in a value", "HTTP/1.1 200 OK\r\nA: b\rC: d\r\nContent-Length: 0\r\n\r\n" },
    { "a NUL in a value", "HTTP/1.1 200 OK\r\nA: b\0\r\nContent-Length: 0\r\n\r\n" },
    { "a folded line", "HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n" },
    { "a blank before the colon", "HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n" },
    { "a field without colon", "HTTP/1.1 200 OK\r\nA\r\nContent-Length: 0\r\n\r\n" },
    { "two Content-Lengths", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!" },
    { "a list of Content-Lengths", "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello" },
    { "a negative Content-Length", "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello" },
    { "Content-Length and Transfer-Encoding", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" },
    { "a coding that is not chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" },
    { "Transfer-Encoding in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" },
    { "a 101 that nobody asked for", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nhello" },
    { "a 100 with a body", "HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" },
    { "a header section without end", "HTTP/1.1 200 OK\r\nA: " .. ("x"):rep(40000) .. "\r\n\r\n" },
}

describe("HTTP/1.1 at the gateway", function()
    local gateway, backend

    lazy_setup(function()
        backend = support.backend { id = "b" }
        gateway = support.gateway { config = config:format(backend.address) }
    end)
    lazy_teardown(support.finish)
    before_each(function() backend:set { default = {}, script = {} } end)

    -- The backend answers a request of ours, so whatever was sent before it has arrived as well. Then all that it saw.
    local function all_seen()
        local reply = support.open(gateway:port()):request("GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert.equal(200, reply and reply.status)
        local seen = {}
        for _, request in ipairs(backend:requests()) do
            if request.target ~= "/last" then seen[#seen + 1] = request end
        end
        return seen
    end

    local function count_responses(bytes)
        local _, count = bytes:gsub("HTTP/1%.1 %d%d%d ", "")
        return count
    end

    describe("never lets through", function()
        for _, case in ipairs(malformed) do
            it(case[1], function()
                backend:reset()
                local bytes, how = support.raw(gateway:port(), case[2] .. EVIL, { timeout = 3 })
                assert.equal(tostring(case[3] or 400), bytes:match("^HTTP/1%.1 (%d%d%d)"))
                assert.equal(1, count_responses(bytes))
                assert.equal("close", bytes:match("\r\nConnection: (%a+)\r\n"))
                assert.equal("closed", how)
                assert.same({}, all_seen())
            end)
        end
    end)

    describe("never lets a backend take for a whole message", function()
        for _, case in ipairs(broken_bodies) do
            it(case[1], function()
                backend:reset()
                local bytes, how = support.raw(gateway:port(), case[2] .. EVIL, { timeout = 3 })
                if bytes ~= "" then assert.equal(tostring(case[3] or 400), bytes:match("^HTTP/1%.1 (%d%d%d)")) end
                assert.is_true(count_responses(bytes) <= 1)
                assert.equal("closed", how)
                local seen = all_seen()
                assert.is_true(#seen <= 1)
                if seen[1] then assert.same({ "/", false }, { seen[1].target, seen[1].whole }) end
            end)
        end
    end)

    describe("sends on", function()
        for _, case in ipairs(normal) do
            for _, split in ipairs { false, true } do
                it(case[1] .. (split and ", read byte by byte" or ""), function()
                    backend:reset()
                    local client = support.open(gateway:port())
                    client:send(case[2], split)
                    local reply = client:reply()
                    client:close()
                    assert.equal(200, reply and reply.status)
                    local seen = all_seen()
                    assert.equal(1, #seen)
                    assert.equal(case[3], normal_form(seen[1]))
                    assert.equal(case[4] or "", seen[1].body)
                    assert.is_true(seen[1].whole)
                end)
            end
        end

        it("trailers, but none that frames, routes or authenticates", function()
            backend:reset()
            local client = support.open(gateway:port())
            client:send(CHUNKED .. "5\r\nhello\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\nHost: b\r\nAuthorization: x\r\n"
                .. "Transfer-Encoding: x\r\nX_Sum: 2\r\n\r\n")
            assert.equal(200, client:reply().status)
            client:close()
            local seen = all_seen()
            assert.same({ { "X-Sum", "1" } }, seen[1].trailers)
        end)

        it("pipelined requests one by one, answered in order", function()
            backend:reset()
            local input = {}
            for i = 1, 20 do
                input[i] = i % 2 == 0 and ("GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"):format(i)
                    or ("POST /%d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"):format(i)
            end
            backend:set { default = { reply = "request" } }
            local client = support.open(gateway:port())
            client:send(table.concat(input))
            for i = 1, 20 do
                local reply = client:reply()
                assert.equal(200, reply and reply.status)
                assert.truthy(reply.body:find('"target": "/' .. i .. '"', 1, true))
            end
            client:close()
            backend:set { default = {} }
            assert.equal(20, #all_seen())
        end)
    end)

    describe("answers by itself", function()
        it("CONNECT with 405 and a close", function()
            backend:reset()
            local bytes, how = support.raw(gateway:port(), "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n" .. EVIL, { timeout = 3 })
            assert.truthy(bytes:match("^HTTP/1%.1 405 ") or bytes:match("^HTTP/1%.1 501 "))
            assert.same({ 1, "closed" }, { count_responses(bytes), how })
            assert.same({}, all_seen())
        end)

        it("OPTIONS * without a backend", function()
            backend:reset()
            local reply = support.open(gateway:port()):request("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
            assert.is_true(reply.status == 200 or reply.status == 204)
            assert.same({}, all_seen())
        end)
    end)

    describe("answers 502, and nothing of it reaches the next client, when a backend says", function()
        for _, case in ipairs(lies) do
            it(case[1], function()
                backend:reset()
                backend:set { default = { raw = case[2], close = "after" } }
                local client = support.open(gateway:port())
                local reply = client:request("POST /lie HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
                assert.equal(502, reply and reply.status)
                assert.truthy(reply.body:find("bad_response", 1, true))
                client:close()
                backend:set { default = {} }
                assert.same({ 200, "b\n" }, { (support.curl(gateway:url("/next"))), (select(3, support.curl(gateway:url("/next")))) })
            end)
        end
    end)

    describe("answers 502 to a client that asked for websocket when a backend switches with", function()
        local upgrade = GET .. "Connection: upgrade\r\nUpgrade: websocket, h2c\r\n\r\n"
        for _, case in ipairs {
            { "no Upgrade", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\r\nx" },
            { "no Connection", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\nx" },
            { "another protocol", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\nx" },
            { "h2c", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\nx" },
        } do
            it(case[1], function()
                backend:reset()
                backend:set { default = { raw = case[2] } }
                local client = support.open(gateway:port())
                client:send(upgrade)
                local reply = client:reply()
                client:close()
                assert.equal(502, reply and reply.status)
                assert.equal("websocket", backend:requests()[1].header("upgrade"))
            end)
        end
    end)

    describe("keeps what a backend says too much from the next client:", function()
        local evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
        local cases = {
            { "bytes behind a length", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello" .. evil, 200, "hello" },
            { "bytes behind the last chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n" .. evil, 200, "hello" },
            { "a second answer", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" .. evil, 200, "" },
            { "a body behind 204", "HTTP/1.1 204 No Content\r\nContent-Length: 44\r\n\r\n" .. evil, 204, "" },
            { "a body behind 304", "HTTP/1.1 304 Not Modified\r\nContent-Length: 44\r\n\r\n" .. evil, 304, "" },
        }
        for _, case in ipairs(cases) do
            it(case[1], function()
                backend:reset()
                backend:set { default = { raw = case[2] } }
                local client = support.open(gateway:port())
                local reply = client:request("GET /much")
                assert.same({ case[3], case[4] }, { reply.status, reply.body })
                backend:set { default = {} }
                for _ = 1, 3 do
                    local after = client:request("GET /next")
                    assert.same({ 200, "b\n" }, { after and after.status, after and after.body })
                end
                client:close()
            end)
        end

        it("a body behind HEAD", function()
            backend:set { default = { raw = "HTTP/1.1 200 OK\r\nContent-Length: 44\r\n\r\n" .. evil } }
            local client = support.open(gateway:port())
            local reply = client:request("HEAD /much HTTP/1.1\r\nHost: a\r\n\r\n")
            assert.same({ 200, "44" }, { reply.status, reply.headers["content-length"] })
            backend:set { default = {} }
            assert.equal("b\n", client:request("GET /next").body)
            client:close()
        end)
    end)

    describe("leaves a cut answer visibly cut:", function()
        local cases = {
            { "inside a length", "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello" },
            { "inside a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n50\r\nhello" },
            { "before the last chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n" },
            { "inside the trailers", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n" },
            { "by a broken chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n" },
        }
        for _, case in ipairs(cases) do
            it(case[1], function()
                backend:set { default = { raw = case[2], close = "after" } }
                local client = support.open(gateway:port())
                client:send("GET /cut HTTP/1.1\r\nHost: a\r\n\r\n")
                local head = client:read_until("\r\n\r\n")
                assert.truthy(head and head:find("^HTTP/1%.1 200 "))
                local rest, how = client:read_all(3)
                client:close()
                assert.equal("closed", how)
                assert.is_nil(rest:find("\r\n0\r\n", 1, true))
                assert.is_true(#rest < 50)
            end)
        end
    end)

    it("turns an answer that ends with its connection into chunks for 1.1, and lets it end for 1.0", function()
        backend:set { default = { raw = "HTTP/1.1 200 OK\r\n\r\nhello", close = "after" } }
        local client = support.open(gateway:port())
        local reply = client:request("GET /")
        assert.same({ "chunked", "hello" }, { reply.headers["transfer-encoding"], reply.body })
        client:close()
        local bytes, how = support.raw(gateway:port(), "GET / HTTP/1.0\r\nHost: a\r\n\r\n", { timeout = 3 })
        assert.same({ "\r\n\r\nhello", "closed" }, { bytes:match("\r\n\r\n.*$"), how })
    end)
end)
