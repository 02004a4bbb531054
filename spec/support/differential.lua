-- Raw requests through a gateway to a recording backend, and what reached that backend, to the byte.
--
--     local differential = require "spec.support.differential"
--     local got = differential.send(port, backend, bytes)     → { statuses = "200 400", seen = { request… }, cut = 1 }
--
-- Behind `bytes` stands a probe that asks for a close: whoever answers it takes it for a request of its own. A request
-- seen is written as it came, with "|" for each CRLF, without the fields that a gateway always sets, and its chunks
-- joined: "POST /x HTTP/1.1|Host: a|Transfer-Encoding: chunked||{hello}A: b|". What is no strict HTTP/1.1 raises.
local http = require "spec.support.http"

local differential = {}

local PROBE = "GET /probe HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n"
local SYNC = "GET /sync HTTP/1.1\r\nHost: sync\r\nConnection: close\r\n\r\n"
differential.PROBE = PROBE

-- Always set, and once: the form that each must have.
local OWN = {
    ["x-forwarded-for"] = "^[%d.]+$", ["x-forwarded-proto"] = "^http$", ["x-forwarded-host"] = "^[^%s,]+$",
    ["x-request-id"] = "^%w+$", ["traceparent"] = "^00%-%x+%-%x+%-%x%x$",
}

local function check(condition, what, bytes)
    if not condition then error(what .. ": " .. ("%q"):format(bytes:sub(1, 400)), 0) end
end

local function read_fields(text, may_be_own)
    local fields, lines = {}, {}
    for line in text:gmatch("(.-)\r\n") do
        local name, value = line:match("^([%w!#$%%&'*+.^`|~-]+): (.*)$")
        if not name then name, value = line:match("^([%w!#$%%&'*+.^`|~-]+):( ?)$") end
        check(name, "field", line)
        check(not value:find("[%z\1-\8\10-\31\127]") and not value:find("^%s") and not value:find("%s$") or value == " ",
            "value", line)
        local key = name:lower()
        local is_single = OWN[key] or key == "host" or key == "content-length" or key == "transfer-encoding"
        check(not (is_single and fields[key]), "twice", line)
        fields[key] = value
        if may_be_own and OWN[key] then
            check(value:find(OWN[key]), "form", line)
        else
            lines[#lines + 1] = line .. "|"
        end
    end
    return fields, table.concat(lines)
end

local function read_chunks(rest)
    local data = {}
    while true do
        local line, at = rest:match("^(%x+)\r\n()")
        if not line then
            check(not rest:find("\n", 1, true), "chunk size", rest)
            return nil
        end
        local size = tonumber(line, 16)
        rest = rest:sub(at)
        if size == 0 then break end
        if #rest < size + 2 then return nil end
        check(rest:sub(size + 1, size + 2) == "\r\n", "end of chunk", rest)
        data[#data + 1] = rest:sub(1, size)
        rest = rest:sub(size + 3)
    end
    local trailers, behind = "", rest:match("^\r\n(.*)$")
    if not behind then
        trailers, behind = rest:match("^(.-\r\n)\r\n(.*)$")
        if not trailers then return nil end
    end
    local fields, lines = read_fields(trailers)
    for _, name in ipairs { "host", "content-length", "transfer-encoding", "authorization", "cookie", "connection" } do
        check(not fields[name], "trailer", trailers)
    end
    return "{" .. table.concat(data) .. "}" .. lines, behind
end

-- The first request in `bytes`, by the strictest reading: its normal form and what is behind it; nil where it is not
-- whole.
local function read_request(bytes)
    local line, at = bytes:match("^([^\r\n]*)\r\n()")
    if not line then return nil end
    check(line:find("^[%w!#$%%&'*+.^_`|~-]+ [/*][!\"$-~]* HTTP/1%.1$"), "request line", bytes)
    local section, rest = bytes:sub(at):match("^(.-\r\n)\r\n(.*)$")
    if not section then return nil end
    local fields, lines = read_fields(section, true)
    check(fields.host and fields.host ~= "", "no Host", bytes)
    check(not (fields["content-length"] and fields["transfer-encoding"]), "two framings", bytes)
    for _, name in ipairs { "te", "trailer", "keep-alive", "proxy-connection", "http2-settings" } do
        check(not fields[name], "hop-by-hop", bytes)
    end
    check((fields.connection or ""):lower() == (fields.upgrade and "upgrade" or ""), "Connection", bytes)
    local head, length, body = line .. "|" .. lines .. "|", fields["content-length"], ""
    if length then
        check(length:find("^%d+$"), "Content-Length", bytes)
        if #rest < tonumber(length) then return nil end
        body, rest = rest:sub(1, tonumber(length)), rest:sub(tonumber(length) + 1)
    elseif fields["transfer-encoding"] then
        check(fields["transfer-encoding"] == "chunked", "Transfer-Encoding", bytes)
        body, rest = read_chunks(rest)
        if not body then return nil end
    end
    return head .. body, rest
end

-- All that the backend read since the last call: whole requests in their normal form, and how many were cut off.
function differential.seen(port, backend)
    local synced = http.raw(port, SYNC)
    assert(synced:find("^HTTP/1%.1 200 "), "the gateway does not answer any more: " .. synced)
    local seen, cut = {}, 0
    for _, bytes in ipairs(backend:news()) do
        while bytes ~= "" do
            local request, rest = read_request(bytes)
            if not request then
                cut = cut + 1
                break
            end
            if not request:find("^GET /sync ") then seen[#seen + 1] = request end
            bytes = rest
        end
    end
    return seen, cut
end

function differential.statuses(bytes)
    local statuses = {}
    for status in bytes:gmatch("HTTP/1%.1 (%d%d%d) ") do statuses[#statuses + 1] = status end
    return table.concat(statuses, " ")
end

function differential.send(port, backend, bytes, split)
    local reply, how = http.raw(port, bytes .. PROBE, { timeout = 5, split = split })
    local seen, cut = differential.seen(port, backend)
    return { statuses = differential.statuses(reply), seen = seen, cut = cut, how = how, reply = reply }
end

return differential
