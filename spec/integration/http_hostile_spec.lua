-- Mutated requests against the real gateway: whatever comes in, the backend reads nothing but strict HTTP/1.1, and never
-- more requests than clients were answered. The seed is fixed; a find belongs into http_conformance_spec.lua.
local support = require "spec.support"

local GET = "GET /g HTTP/1.1\r\nHost: a\r\n\r\n"
local LENGTH = "POST /l HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
local CHUNKED = "POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\"b\"\r\nhello\r\n0\r\nA: b\r\n\r\n"
local FULL = "PUT http://b:80/p?q HTTP/1.1\r\nHost: a\r\nConnection: x, close\r\nX: 1\r\nTE: trailers\r\nCookie: a=b\r\n"
    .. "Expect: 100-continue\r\nContent-Length: 2\r\n\r\nhi"
local seeds = { GET, LENGTH, CHUNKED, FULL }
local pieces = {
    "\r\n", "\n", "\r", " ", "\t", ":", "\0", "\v", "\255", ",", ";a", "\"", "0\r\n\r\n", "5\r\nhello\r\n", "%2e", "/..", "//", "?", "#",
    "Content-Length: 5\r\n", "Content-Length: 0\r\n", "Transfer-Encoding: chunked\r\n", "Transfer-Encoding: x\r\n", "Host: b\r\n",
    "Connection: host, content-length, transfer-encoding\r\n", "Connection: upgrade\r\nUpgrade: h2c\r\n", "X_Y: z\r\n", "chunked",
    "HTTP/1.0", "Trailer: Host\r\n", "GET /evil HTTP/1.1\r\nHost: a\r\n\r\n",
}

local function mutate(bytes)
    for _ = 1, math.random(0, 3) do
        local at, how = math.random(0, #bytes), math.random(4)
        local before, behind = bytes:sub(1, at), bytes:sub(at + 1)
        if how <= 2 then
            bytes = before .. pieces[math.random(#pieces)] .. behind
        elseif how == 3 then
            bytes = before .. behind:sub(math.random(2, 4))
        else
            bytes = before .. string.char(math.random(0, 255)) .. behind:sub(2)
        end
    end
    return bytes
end

-- The body behind a head, by its only framing: what is left behind it; nil where it is not whole (yet).
local function skip_body(fields, rest)
    local length = fields["content-length"]
    if length then
        assert(length:find("^%d+$"), "length: " .. length)
        return #rest >= tonumber(length) and rest:sub(tonumber(length) + 1) or nil
    end
    if not fields["transfer-encoding"] then return rest end
    assert(fields["transfer-encoding"] == "chunked", "coding: " .. fields["transfer-encoding"])
    while true do
        local line, last = rest:match("^([^\r\n]*)\r\n()")
        if not line then return nil end
        assert(line:find("^%x+$"), "chunk size: " .. line)
        local size = tonumber(line, 16)
        if size == 0 then break end
        if #rest < last + size + 1 then return nil end
        assert(rest:sub(last + size, last + size + 1) == "\r\n", "no CRLF behind a chunk")
        rest = rest:sub(last + size + 2)
    end
    rest = rest:match("\r\n(.*)")
    while true do
        local line, behind = rest:match("^([^\r\n]*)\r\n(.*)$")
        if not line then return nil end
        if line == "" then return behind end
        rest = behind
        local name = line:lower():match("^([^:]*):")
        assert(name and name ~= "content-length" and name ~= "transfer-encoding" and name ~= "host", "trailer: " .. line)
    end
end

-- Counts the whole requests in what a backend's connection received; raises where they are not strict.
local function read_strictly(bytes)
    local count = 0
    while true do
        local head, rest = bytes:match("^(.-)\r\n\r\n(.*)$")
        if not head then return count end
        local fields, line = {}, head:match("^[^\r\n]*")
        assert(line:find("^[%w!#$%%&'*+.^_`|~-]+ /[!\"$-~]* HTTP/1%.1$"), "line: " .. line)
        assert(not head:gsub("\r\n", ""):find("[%z\1-\8\10-\31\127]"), "control byte: " .. head)
        for name, value in head:sub(#line + 3):gmatch("([^\r\n]-): ([^\r\n]*)") do
            assert(name:find("^[%w!#$%%&'*+.^_`|~-]+$") and not name:find("_", 1, true), "name: " .. name)
            name = name:lower()
            local is_single = name == "host" or name == "content-length" or name == "transfer-encoding"
            assert(not (is_single and fields[name]), "twice: " .. name)
            fields[name] = value
        end
        assert(fields.host and fields.host ~= "", "no Host")
        assert(not (fields["content-length"] and fields["transfer-encoding"]), "two framings")
        for _, hop in ipairs { "te", "trailer", "upgrade", "keep-alive", "connection", "http2-settings" } do
            assert(not fields[hop], "hop-by-hop: " .. hop)
        end
        bytes = skip_body(fields, rest)
        if not bytes then return count end
        count = count + 1
    end
end

describe("a hostile client", function()
    after_each(support.finish)

    for _, workers in ipairs { 1, 2 } do
        it("never makes the backend read two requests out of one, over " .. workers .. " worker(s)", function()
            local backend = support.backend { id = "b" }
            local gateway = support.gateway { workers = workers, config = ([[
listeners: [ { address: "127.0.0.1:0" } ]
routes: [ { match: { path_prefix: / }, service: web } ]
services: { web: { endpoints: [ "%s" ] } }
timeouts: { response: 5s, client_header: 2s, client_body_gap: 2s }
]]):format(backend.address) }
            local answered, read = 0, 0
            math.randomseed(workers)
            for _ = 1, 1500 do
                local input = mutate(seeds[math.random(#seeds)]) .. GET
                local bytes = support.raw(gateway:port(), input, { half_close = true, split = math.random(4) == 1 and 16 or nil })
                local _, count = bytes:gsub("HTTP/1%.1 200 ", "")
                answered = answered + count
            end
            for _, connection in ipairs(backend:connections()) do read = read + read_strictly(connection.received) end
            assert.is_true(answered > 500, "the mutations leave hardly a request that is answered: " .. answered)
            assert.equal(answered, read)
        end)
    end
end)
