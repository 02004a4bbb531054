-- What a backend says, raw: a lie is a 502, a body that was cut stays visibly cut for every client, and no byte of one
-- answer reaches the next client.
local errno, poll, posix_socket = require "posix.errno", require "posix.poll", require "posix.sys.socket"

local support = require "spec.support"

local config = [[
listeners: [ { address: "127.0.0.1:0" } ]
admin: { address: "127.0.0.1:0" }
routes: [ { match: { path_prefix: / }, service: web } ]
services: { web: { endpoints: [ "%s" ] } }
limits: { header_bytes: 16k, headers: 50 }
retry: { attempts: 0 }
timeouts: { response: 5s, stream_idle: 5s }
workers: 1
]]

local OK, EVIL = "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
local LENGTH, CHUNKED = OK .. "Content-Length: 5\r\n\r\nhello", OK .. "Transfer-Encoding: chunked\r\n\r\n"

-- Of core/proxy/proxy_internal.h; a few bytes less without what a buffer says of itself.
local BUF_SMALL = 24576 + 304

-- { claim, bytes of the backend, status and body that the client gets (502 without) }
local heads = {
    { "nothing but text", "hello\r\n\r\n" },
    { "HTTP/0.9", "<html>" },
    { "a request", "GET / HTTP/1.1\r\nHost: a\r\n\r\n" },
    { "an empty line first", "\r\n" .. LENGTH },
    { "a blank first", " " .. LENGTH },
    { "a NUL first", "\0" .. LENGTH },
    { "a version in lower case", "http/1.1 200 OK\r\n\r\n" },
    { "HTTP/2.0", "HTTP/2.0 200 OK\r\n\r\n" },
    { "HTTP/1.10", "HTTP/1.10 200 OK\r\n\r\n" },
    { "ICY", "ICY 200 OK\r\n\r\n" },
    { "a status of no digits", "HTTP/1.1 abc OK\r\n\r\n" },
    { "a status of two digits", "HTTP/1.1 20 OK\r\n\r\n" },
    { "a status of four digits", "HTTP/1.1 2000 OK\r\n\r\n" },
    { "a status of 0", "HTTP/1.1 000 OK\r\n\r\n" },
    { "a status of 099", "HTTP/1.1 099 OK\r\n\r\n" },
    { "a status of 600", "HTTP/1.1 600 OK\r\n\r\n" },
    { "a status with a sign", "HTTP/1.1 +20 OK\r\n\r\n" },
    { "two blanks before the status", "HTTP/1.1  200 OK\r\n\r\n" },
    { "a tab before the status", "HTTP/1.1\t200 OK\r\n\r\n" },
    { "no blank behind the status", "HTTP/1.1 200OK\r\n\r\n" },
    { "a control byte in the phrase", "HTTP/1.1 200 O\1K\r\n\r\n" },
    { "a bare LF behind the status line", "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n" },
    { "a bare CR in the status line", "HTTP/1.1 200 OK\rA: b\r\nContent-Length: 0\r\n\r\n" },
    { "bare LFs all over", "HTTP/1.1 200 OK\nContent-Length: 0\n\n" },
    { "a bare CR in a value", OK .. "A: b\rSet-Cookie: c\r\nContent-Length: 0\r\n\r\n" },
    { "a NUL in a value", OK .. "A: b\0\r\nContent-Length: 0\r\n\r\n" },
    { "a folded line", OK .. "A: b\r\n c\r\nContent-Length: 0\r\n\r\n" },
    { "a blank before the colon", OK .. "Content-Length : 0\r\n\r\n" },
    { "no colon", OK .. "A\r\nContent-Length: 0\r\n\r\n" },
    { "no name", OK .. ": b\r\nContent-Length: 0\r\n\r\n" },
    { "a name with a blank", OK .. "A B: c\r\nContent-Length: 0\r\n\r\n" },
    { "two Content-Lengths", OK .. "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!" },
    { "two equal Content-Lengths", OK .. "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello" },
    { "a list of Content-Lengths", OK .. "Content-Length: 5, 5\r\n\r\nhello" },
    { "a negative Content-Length", OK .. "Content-Length: -5\r\n\r\nhello" },
    { "a Content-Length past 64 bits", OK .. "Content-Length: 18446744073709551621\r\n\r\nhello" },
    { "a Content-Length past signed 64 bits", OK .. "Content-Length: 9223372036854775808\r\n\r\nhello" },
    { "an empty Content-Length", OK .. "Content-Length:\r\n\r\nhello" },
    { "Content-Length and Transfer-Encoding", OK .. "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" },
    { "Transfer-Encoding and Content-Length", OK .. "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" },
    { "gzip, chunked", OK .. "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" },
    { "identity", OK .. "Transfer-Encoding: identity\r\n\r\nhello" },
    { "chunked, identity", OK .. "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" },
    { "chunked twice", OK .. "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" },
    { "Transfer-Encoding in 1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" },
    { "a 101 that nobody asked for", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nhello" },
    { "a 101 behind a 100", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n" },
    { "a 100 with a length", "HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\nhello" .. LENGTH },
    { "a 103 with chunks", "HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" .. LENGTH },
    { "1xx without end", ("HTTP/1.1 102 Processing\r\n\r\n"):rep(40) .. LENGTH },
    { "a section past header_bytes", OK .. "A: " .. ("x"):rep(17000) .. "\r\n\r\n" },
    { "more fields than headers", OK .. ("A: b\r\n"):rep(51) .. "\r\n" },
    { "a status line without end", "HTTP/1.1 200 " .. ("x"):rep(20000) },
    { "half a head", "HTTP/1.1 200 OK\r\nContent-Le" },
    { "nothing", "" },
    -- what is sound, in its form
    { "a length", LENGTH, 200, "hello" },
    { "no phrase", "HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\nhello", 200, "hello" },
    { "no blank before no phrase", "HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", 200, "hello" },
    { "chunks with extensions", CHUNKED .. "2;a=b\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", 200, "hello" },
    { "as many 1xx as are let through", ("HTTP/1.1 103 Early Hints\r\n\r\n"):rep(16) .. LENGTH, 200, "hello" },
    { "HTTP/1.0 to the close", "HTTP/1.0 200 OK\r\n\r\nhello", 200, "hello" },
    { "HTTP/1.1 to the close", OK .. "\r\nhello", 200, "hello" },
    { "an empty body to the close", OK .. "\r\n", 200, "" },
    -- what stands behind the end of an answer
    { "bytes behind a length", LENGTH .. EVIL, 200, "hello" },
    { "bytes behind the last chunk", CHUNKED .. "5\r\nhello\r\n0\r\n\r\n" .. EVIL, 200, "hello" },
    { "bytes behind trailers", CHUNKED .. "5\r\nhello\r\n0\r\nA: b\r\n\r\n" .. EVIL, 200, "hello" },
    { "bytes behind a length of 0", OK .. "Content-Length: 0\r\n\r\n" .. EVIL, 200, "" },
    { "one byte behind a length", LENGTH .. "\n", 200, "hello" },
    { "a body behind 204", "HTTP/1.1 204 No Content\r\n\r\n" .. EVIL, 204, "" },
    { "a body behind 204 with a length", "HTTP/1.1 204 No Content\r\nContent-Length: " .. #EVIL .. "\r\n\r\n" .. EVIL, 204, "" },
    { "chunks behind 204", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 204, "" },
    { "a body behind 304", "HTTP/1.1 304 Not Modified\r\nContent-Length: " .. #EVIL .. "\r\n\r\n" .. EVIL, 304, "" },
    { "a final answer behind another", LENGTH .. "HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n", 200, "hello" },
    { "a 100 behind an answer", LENGTH .. "HTTP/1.1 100 Continue\r\n\r\n", 200, "hello" },
    { "hop-by-hop fields", OK .. "Connection: x-a, keep-alive\r\nX-A: 1\r\nKeep-Alive: timeout=9\r\nUpgrade: h2c\r\nTrailer: B\r\n"
        .. "Proxy-Connection: x\r\nContent-Length: 5\r\n\r\nhello", 200, "hello" },
}

-- Sound heads whose bodies are broken or cut: { claim, bytes }.
local cuts = {
    { "inside a length", OK .. "Content-Length: 50\r\n\r\nhello" },
    { "behind the head, by length", OK .. "Content-Length: 50\r\n\r\n" },
    { "behind the head, chunked", CHUNKED },
    { "inside a chunk", CHUNKED .. "50\r\nhello" },
    { "behind a chunk", CHUNKED .. "5\r\nhello\r\n" },
    { "inside a size", CHUNKED .. "5\r\nhello\r\n5" },
    { "inside the last chunk", CHUNKED .. "5\r\nhello\r\n0\r" },
    { "before the last line", CHUNKED .. "5\r\nhello\r\n0\r\n" },
    { "inside the trailers", CHUNKED .. "5\r\nhello\r\n0\r\nA: b\r\n" },
    { "by a size that is none", CHUNKED .. "5\r\nhello\r\nzz\r\n0\r\n\r\n" },
    { "by a size with a sign", CHUNKED .. "5\r\nhello\r\n+5\r\nhello\r\n0\r\n\r\n" },
    { "by a size past 64 bits", CHUNKED .. "5\r\nhello\r\n10000000000000005\r\nhello\r\n0\r\n\r\n" },
    { "by a bare LF behind a size", CHUNKED .. "5\r\nhello\r\n5\nhello\r\n0\r\n\r\n" },
    { "by a bare LF behind data", CHUNKED .. "5\r\nhello\n0\r\n\r\n" },
    { "by a chunk longer than its size", CHUNKED .. "4\r\nhello\r\n0\r\n\r\n" },
    { "by a bare CR in an extension", CHUNKED .. "5\r\nhello\r\n0;a\rb\r\n\r\n" },
    { "by a trailer without colon", CHUNKED .. "5\r\nhello\r\n0\r\nA\r\n\r\n" },
    { "by a folded trailer", CHUNKED .. "5\r\nhello\r\n0\r\nA: b\r\n c\r\n\r\n" },
    { "by a bare LF as the last line", CHUNKED .. "5\r\nhello\r\n0\r\n\n" },
}

describe("a backend that answers with", function()
    local gateway, backend

    lazy_setup(function()
        backend = support.backend { id = "b" }
        gateway = support.gateway { config = config:format(backend.address) }
    end)
    lazy_teardown(support.finish)

    local function answer_with(bytes, close)
        backend:set { default = { raw = bytes, close = close } }
    end

    -- On the connection given, or a new one: the backend's own answer and nothing else.
    local function assert_sane(client)
        backend:set { default = {} }
        for i = 1, 2 do
            client = client or support.open(gateway:port())
            local reply = client:request("GET /next" .. i)
            assert.same({ 200, "b\n" }, { reply and reply.status, reply and reply.body })
        end
        client:close()
    end

    -- All that comes, and whether it ended with RST, which LuaSocket would call a close.
    local function read_to_the_end(client)
        local fd, pieces = client.tcp:getfd(), {}
        while true do
            assert(poll.rpoll(fd, 4000) == 1, "the connection stays open")
            local bytes, _, why = posix_socket.recv(fd, 65536)
            if not bytes then return table.concat(pieces), why == errno.ECONNRESET end
            if bytes == "" then return table.concat(pieces), false end
            pieces[#pieces + 1] = bytes
        end
    end

    for _, case in ipairs(heads) do
        for _, close in ipairs { "after", false } do
            -- What ends only with its connection is nothing to wait for without its end.
            local is_whole = not case[2]:find("^HTTP/1.%d 200 OK\r\n\r\n") and case[2] ~= "" and not case[2]:find("Le$")
            if close or is_whole then
                it(case[1] .. (close and ", and closes" or ", and stays"), function()
                    answer_with(case[2], close or nil)
                    local client = support.open(gateway:port())
                    local reply = client:request("GET /first")
                    assert.same({ case[3] or 502, case[4] }, { reply and reply.status, case[4] and reply.body })
                    if not case[3] then
                        local reason = reply.body:match("^502 ([%w_]+):")
                        assert.equal(case[2] == "" and "reset_before_headers" or "bad_response", reason)
                    end
                    for _, name in ipairs { "x-a", "upgrade", "keep-alive", "trailer", "proxy-connection", "set-cookie" } do
                        assert.is_nil(reply.headers[name])
                    end
                    assert_sane(client)
                end)
            end
        end
    end

    for _, close in ipairs { "after", false } do
        it("a body to HEAD" .. (close and ", and closes" or ", and stays"), function()
            answer_with("HTTP/1.1 200 OK\r\nContent-Length: " .. #EVIL .. "\r\n\r\n" .. EVIL, close or nil)
            local client = support.open(gateway:port())
            local reply = client:request("HEAD /first HTTP/1.1\r\nHost: a\r\n\r\n")
            assert.same({ 200, tostring(#EVIL) }, { reply.status, reply.headers["content-length"] })
            assert_sane(client)
        end)
    end

    describe("a body cut", function()
        for _, case in ipairs(cuts) do
            it(case[1] .. " leaves it visibly cut for 1.1 and 1.0", function()
                for _, version in ipairs { "1.1", "1.0" } do
                    answer_with(case[2], "after")
                    local client = support.open(gateway:port())
                    client:send("GET /cut HTTP/" .. version .. "\r\nHost: a\r\n\r\n")
                    local bytes, is_reset = read_to_the_end(client)
                    client:close()
                    local body = bytes:match("\r\n\r\n(.*)$")
                    assert.truthy(bytes:find("^HTTP/1%.1 200 ") or (is_reset and bytes == ""), bytes)
                    assert.is_nil(body and version == "1.1" and body:find("0\r\n\r\n$") or nil)
                    local length = tonumber(bytes:match("\r\nContent%-Length: (%d+)\r\n"))
                    if length then
                        assert.is_true(#body < length)
                    elseif version == "1.0" then
                        assert.is_true(is_reset, "a FIN looks like the end")
                    else
                        assert.truthy(bytes:find("\r\nTransfer-Encoding: chunked\r\n", 1, true))
                    end
                end
                assert_sane()
            end)
        end
    end)

    -- Each prefix of an answer, then the end of the connection, by FIN and by RST.
    for name, whole in pairs { ["a length"] = LENGTH, ["chunks"] = CHUNKED .. "5\r\nhello\r\n0\r\nA: b\r\n\r\n" } do
        it(name .. " and ends at any byte of it", function()
            local head_bytes = select(2, whole:find("\r\n\r\n", 1, true))
            for bytes = 0, #whole - 1 do
                backend:set { default = { raw = whole:sub(1, bytes), close = "after", reset = bytes % 2 == 1 } }
                local client = support.open(gateway:port())
                client:send("GET /part HTTP/1.1\r\nHost: a\r\n\r\n")
                local reply, why = client:reply()
                client:close()
                if bytes < head_bytes then
                    assert.equal(502, reply and reply.status, "cut at " .. bytes)
                else -- where RST overtook the head, its request may have been answered 502
                    assert.is_true(reply == nil or reply.status == 502, "cut at " .. bytes .. ": " .. tostring(why))
                end
            end
            assert_sane()
        end)
    end

    -- The read that takes its last byte is full by then, and what stands behind it is left in the socket.
    it("more than it said, whose true end fills the gateway's buffer", function()
        local client, head = support.open(gateway:port()), OK .. "Content-Length: %d\r\n\r\n"
        for bytes = BUF_SMALL - 48, BUF_SMALL do
            local body = ("x"):rep(bytes - #head:format(bytes))
            backend:set { default = {}, rules = { ["/full"] = { raw = head:format(#body) .. body .. EVIL } } }
            client:send("GET /full HTTP/1.1\r\nHost: a\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n")
            assert.equal(body, client:reply().body)
            assert.equal("b\n", client:reply().body, bytes)
        end
        client:close()
    end)

    it("Keep-Alive: timeout=0, whose connection carries no other request", function()
        answer_with(OK .. "Keep-Alive: timeout=0\r\nContent-Length: 5\r\n\r\nhello")
        backend:reset()
        local client = support.open(gateway:port())
        for _ = 1, 3 do assert.equal("hello", client:request("GET /last").body) end
        client:close()
        backend:set { default = {} }
        local seen = {}
        for _, request in ipairs(backend:requests()) do seen[request.connection] = (seen[request.connection] or 0) + 1 end
        for _, requests in pairs(seen) do assert.equal(1, requests) end
    end)

    -- While the worker stands still the answer comes first, then another client's request: both are of one turn of the loop.
    it("more than it said, through a stage of a filter, before another client's request", function()
        local stage = support.file("stage.lua", [[
local F = { name = "stage", api = 1 }
F.__index = F
function F.new() return setmetatable({}, F) end
function F:on_response(r, a) a:on_body(function(chunk) return chunk end) end
return F]])
        local staged = support.gateway { config = config:format(backend.address):gsub("service: web",
            "service: web, filters: [ { use: " .. stage .. " } ]", 1) }
        local worker, head = staged:worker_pids()[1], OK .. "Content-Length: %d\r\n\r\n"
        local one, other = support.open(staged:port()), support.open(staged:port())
        for bytes = BUF_SMALL - 48, BUF_SMALL do
            local body = ("x"):rep(bytes - #head:format(bytes))
            backend:set { default = {}, rules = { ["/full"] = { hold = true, raw = head:format(#body) .. body .. EVIL } } }
            assert.equal("b\n", other:request("GET /before").body)
            one:send("GET /full HTTP/1.1\r\nHost: a\r\n\r\n")
            support.wait_until("the backend holds it", function() return backend:counts().active == 1 end)
            staged:kill(worker, "STOP")
            support.wait_until("the worker stands still", function()
                local stat = support.read_file("/proc/" .. worker .. "/stat")
                return stat:match("%) (%a)") == "T", stat
            end)
            backend:release()
            support.wait_until("the answer is written", function() return backend:counts().active == 0 end)
            other:send("GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
            staged:kill(worker, "CONT")
            assert.equal(body, one:reply().body)
            assert.equal("b\n", other:reply().body, bytes)
        end
        one:close()
        other:close()
    end)

    -- While the worker stands still the request and what nobody asked for come together, the request first.
    it("something while its connection idles, which the next request finds there", function()
        local worker, client = gateway:worker_pids()[1], support.open(gateway:port())
        for i = 1, 20 do
            assert.equal("b\n", client:request("GET /before" .. i).body)
            gateway:kill(worker, "STOP")
            support.wait_until("the worker stands still", function()
                local stat = support.read_file("/proc/" .. worker .. "/stat")
                return stat:match("%) (%a)") == "T", stat
            end)
            client:send("GET /after HTTP/1.1\r\nHost: a\r\n\r\n")
            backend:push(EVIL)
            gateway:kill(worker, "CONT")
            local reply = client:reply()
            assert.same({ 200, "b\n" }, { reply and reply.status, reply and reply.body })
        end
        client:close()
    end)

    it("so many lies, and leaves nothing behind", function() gateway:expect_idle() end)
end)
