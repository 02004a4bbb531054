-- HTTP for specs: curl where a real client is wanted, raw sockets where every byte matters.
local socket = require "socket"
local process = require "spec.support.process"

local http = {}

local function quote(text) return "'" .. tostring(text):gsub("'", "'\\''") .. "'" end
http.quote = quote

-- Runs a shell command: its output (both streams) and exit code.
function http.shell(command)
    local pipe = assert(io.popen("(" .. command .. ") 2>&1; printf '\\n%d' $?"))
    local text = pipe:read("*a")
    pipe:close()
    local out, code = text:match("^(.*)\n(%d+)$")
    return out, tonumber(code)
end

-- Header fields of the last head in `text` by lower-case name; repeated ones are joined with ", ", and stand
-- whole in headers[1], headers[2]… as { name, value }, as sent.
local function parse_headers(text)
    local headers = {}
    for line in text:gmatch("[^\r\n]+") do
        local name, value = line:match("^([^:%s]+):%s*(.-)%s*$")
        if name then
            local key = name:lower()
            headers[#headers + 1] = { name, value }
            headers[key] = headers[key] and headers[key] .. ", " .. value or value
        end
    end
    return headers
end

-- curl(args…) → status, headers, body. Where curl itself failed: nil, its message, its exit code.
function http.curl(...)
    local base = os.tmpname()
    local words = { "curl -sS --max-time 30 --noproxy '*' -D", base .. ".head", "-o", base .. ".body" }
    for _, arg in ipairs { ... } do words[#words + 1] = quote(arg) end
    local out, code = http.shell(table.concat(words, " "))
    local head, body = process.read_file(base .. ".head"), process.read_file(base .. ".body")
    for _, suffix in ipairs { "", ".head", ".body" } do os.remove(base .. suffix) end
    if code ~= 0 then return nil, out, code end
    local status, last = nil, 1
    for at, number in head:gmatch("()HTTP/[%d.]+ (%d%d%d)") do status, last = tonumber(number), at end
    return status, parse_headers(head:sub(last)), body
end

---@class Connection
local Connection = {}
Connection.__index = Connection

function http.open(port, options)
    local tcp = assert(socket.tcp())
    tcp:settimeout(30)
    assert(tcp:connect("127.0.0.1", port))
    tcp:setoption("tcp-nodelay", true)
    return setmetatable({ tcp = tcp, buffer = "", timeout = options and options.timeout or 20 }, Connection)
end

-- `split` = n sends pieces of n bytes, each once the last one left; true means byte by byte.
function Connection:send(bytes, split)
    self.tcp:settimeout(self.timeout)
    local size = split == true and 1 or split or #bytes
    local at = 1
    while at <= #bytes do
        local ok, why = self.tcp:send(bytes:sub(at, at + size - 1))
        if not ok then return nil, why end
        at = at + size
        if split then socket.select(nil, { self.tcp }, 0.001) end
    end
    return true
end

function Connection:half_close() self.tcp:shutdown("send") end

-- One read into the buffer, bounded by `deadline`: true, or nil and "closed", "timeout" or the error.
function Connection:fill(deadline)
    if self.closed then return nil, self.closed end
    self.tcp:settimeout(math.max(0, deadline - socket.gettime()))
    local bytes, why, partial = self.tcp:receive(1)
    local got = bytes or partial or ""
    if #got > 0 then
        self.tcp:settimeout(0)
        local _, more_why, more = self.tcp:receive(65536)
        if more_why == nil then more = _ end
        self.buffer = self.buffer .. got .. (more or "")
        return true
    end
    if why ~= "timeout" then self.closed = why end
    return nil, why
end

-- Bytes up to and including the first match of the pattern, which leave the buffer. nil, why and what there
-- was instead.
function Connection:read_until(pattern, timeout)
    local deadline = socket.gettime() + (timeout or self.timeout)
    while true do
        local _, last = self.buffer:find(pattern)
        if last then
            local bytes = self.buffer:sub(1, last)
            self.buffer = self.buffer:sub(last + 1)
            return bytes
        end
        local ok, why = self:fill(deadline)
        if not ok then return nil, why, self.buffer end
    end
end

function Connection:read_bytes(count, timeout)
    local deadline = socket.gettime() + (timeout or self.timeout)
    while #self.buffer < count do
        local ok, why = self:fill(deadline)
        if not ok then return nil, why, self.buffer end
    end
    local bytes = self.buffer:sub(1, count)
    self.buffer = self.buffer:sub(count + 1)
    return bytes
end

-- Everything until the peer closes: bytes, how ("closed", "timeout", or an error of the socket).
function Connection:read_all(timeout)
    local deadline = socket.gettime() + (timeout or self.timeout)
    while true do
        local ok, why = self:fill(deadline)
        if not ok then
            local bytes = self.buffer
            self.buffer = ""
            return bytes, why
        end
    end
end

local function read_chunked(self, timeout)
    local body = {}
    while true do
        local line, why = self:read_until("\r\n", timeout)
        if not line then return nil, why end
        local size = tonumber(line:match("^(%x+)"), 16)
        if not size then return nil, "bad chunk size: " .. line end
        if size == 0 then break end
        local bytes
        bytes, why = self:read_bytes(size + 2, timeout)
        if not bytes then return nil, why end
        body[#body + 1] = bytes:sub(1, -3)
    end
    local trailer = {}
    while true do
        local line, why = self:read_until("\r\n", timeout)
        if not line then return nil, why end
        if line == "\r\n" then break end
        trailer[#trailer + 1] = line
    end
    return table.concat(body), parse_headers(table.concat(trailer))
end

-- One response: { status, reason, headers, body, trailers, head }. 1xx heads are gathered in .interim.
-- `head_only` for answers to HEAD. nil and why where none came whole.
function Connection:reply(head_only, timeout)
    local interim = {}
    while true do
        local head, why, rest = self:read_until("\r\n\r\n", timeout)
        if not head then return nil, why, rest end
        local status, reason = head:match("^HTTP/1%.%d (%d%d%d) ?([^\r]*)\r\n")
        if not status then return nil, "no status line: " .. head end
        status = tonumber(status)
        local reply = {
            status = status, reason = reason, headers = parse_headers(head), head = head, body = "",
            interim = interim,
        }
        if status >= 200 or status == 101 then
            if head_only or status == 204 or status == 304 or status == 101 then return reply end
            if reply.headers["transfer-encoding"] then
                reply.body, reply.trailers = read_chunked(self, timeout)
                if not reply.body then return nil, reply.trailers end
            elseif reply.headers["content-length"] then
                local count = tonumber(reply.headers["content-length"])
                local body, missing, part = self:read_bytes(count, timeout)
                if not body then return nil, ("body cut (%s) after %d bytes"):format(missing, #(part or "")) end
                reply.body = body
            else
                reply.body = self:read_all(timeout)
            end
            return reply
        end
        interim[#interim + 1] = reply
    end
end

-- Sends one request and reads its reply. `request` is raw bytes, or "GET /path" for a plain one.
function Connection:request(request)
    if not request:find("\r\n", 1, true) then request = request .. " HTTP/1.1\r\nHost: localhost\r\n\r\n" end
    local ok, why = self:send(request)
    if not ok then return nil, why end
    return self:reply(request:match("^HEAD ") ~= nil)
end

-- True once the peer has closed (or reset) the connection, within the limit.
function Connection:is_closed(timeout)
    local deadline = socket.gettime() + (timeout or 0)
    while true do
        local ok, why = self:fill(deadline)
        if not ok then return why ~= "timeout" end
    end
end

-- Closes with a FIN; abort() closes with a RST.
function Connection:close() self.tcp:close() end

function Connection:abort()
    self.tcp:setoption("linger", { on = true, timeout = 0 })
    self.tcp:close()
end

-- raw(port, bytes, options) → reply bytes, how it ended ("closed", "timeout"). options: half_close, split
-- (piece size or true), timeout (20 s), replies = n (end after n whole responses instead of waiting for a
-- close).
function http.raw(port, bytes, options)
    options = options or {}
    local connection = http.open(port, options)
    local sent, why = connection:send(bytes, options.split)
    if options.half_close then connection:half_close() end
    local result, how
    if options.replies then
        local heads = {}
        for i = 1, options.replies do
            local reply, wrong, rest = connection:reply()
            if not reply then
                result, how = table.concat(heads) .. (rest or ""), wrong
                break
            end
            heads[i] = reply.head .. reply.body
        end
        result, how = result or table.concat(heads), how or "replies"
    else
        result, how = connection:read_all(options.timeout)
    end
    connection:close()
    if not sent and result == "" then how = why end
    return result, how
end

return http
