-- fluxgate/chain.lua: the test kit's filter chain. Drives on_request, on_response and on_log in the
-- gateway's order, in coroutines on a clock of its own, with the methods that only filters have on a
-- request and its answer. A wait is a yield of the time to go on at; whoever runs the chain moves the clock
-- there.
local arguments = require "fluxgate.arguments"
local fakes = require "fluxgate.fakes"

local chain = {}

local FORBIDDEN = {
    ["content-length"] = true, ["transfer-encoding"] = true, connection = true, upgrade = true, host = true,
    te = true, trailer = true, ["keep-alive"] = true, ["http2-settings"] = true, expect = true,
}
local BODY_MAX, BODY_CAP = 1024 * 1024, 16 * 1024 * 1024
local WAITS_MAX = 10 -- timeouts.filter: seconds in all of a request's waits

local function check_field(what, name, value)
    if type(name) ~= "string" or not name:find("^[%w!#$%%&'*+.^_`|~-]+$") then
        error(what .. ": the name is no token", 3)
    end
    name = name:lower()
    if FORBIDDEN[name] or name:find("^proxy%-") then
        error(what .. ": " .. arguments.owned(name), 3)
    end
    if value ~= nil then
        if type(value) == "number" then value = tostring(value) end
        if type(value) ~= "string" then error(what .. ": the value is no string", 3) end
        if value:find("[%z\1-\8\10-\31\127]") then
            error(what .. ": the value holds CR, LF, NUL or another control byte", 3)
        end
        value = value:match("^[ \t]*(.-)[ \t]*$")
    end
    return name, value
end

local function check_status(what, status)
    if type(status) ~= "number" or status % 1 ~= 0 or status < 200 or status > 599 then
        error(what .. ": the status is no whole number from 200 to 599", 3)
    end
end

local function answer_of(what, status, body, headers)
    check_status(what, status)
    if body ~= nil and type(body) ~= "string" then error(what .. ": the body is no string", 3) end
    local fields = {}
    for name, value in pairs(headers or {}) do
        for _, one in ipairs(type(value) == "table" and value or { value }) do
            local lower, text = check_field(what, name, one)
            fields[#fields + 1] = { lower, text }
        end
    end
    return { status = status, body = body or "", fields = fields }
end

-- RFC 3986 section 5.2.4 and the gateway's own refusals; nil where a client's path would get 400.
local function normal_path(path)
    if type(path) ~= "string" or path:sub(1, 1) ~= "/" or path:find("[%z\1-\32\127?#\\]") then return nil end
    if path:gsub("%%%x%x", ""):find("%%") then return nil end
    if path:find("%%00") or path:lower():find("%%5c") then return nil end
    path = path:gsub("%%(%x%x)", function(hex)
        local byte = string.char(tonumber(hex, 16))
        return byte:find("[%w%-%._~]") and byte or "%" .. hex:upper()
    end):gsub("//+", "/")
    local kept = {}
    for slash in path:gmatch("/[^/]*") do
        if slash == "/.." then kept[#kept] = nil
        elseif slash ~= "/." then kept[#kept + 1] = slash end
    end
    local last = path:match("/([^/]*)$")
    if last == "." or last == ".." then kept[#kept + 1] = "/" end
    return #kept > 0 and table.concat(kept) or "/"
end

-- requests
local methods = fakes.request_methods

function methods:headers()
    local copy = {}
    for name, value in pairs(fakes.data(self).headers) do copy[name] = value end
    return copy
end

function methods:set_header(name, value)
    if value == nil then error("request:set_header: the value is nil", 2) end
    name, value = check_field("request:set_header", name, value)
    fakes.data(self).headers[name] = value
    if name == "cookie" then fakes.read_cookies(self) end
end

function methods:add_header(name, value)
    if value == nil then error("request:add_header: the value is nil", 2) end
    name, value = check_field("request:add_header", name, value)
    local headers = fakes.data(self).headers
    headers[name] = headers[name] and headers[name] .. (name == "cookie" and "; " or ", ") .. value or value
    if name == "cookie" then fakes.read_cookies(self) end
end

function methods:remove_header(name)
    name = check_field("request:remove_header", name)
    fakes.data(self).headers[name] = nil
    if name == "cookie" then fakes.read_cookies(self) end
end

-- What would come too late once the answer is there.
local function check_phase(self, what)
    if fakes.data(self).phase == "on_response" then
        error(what .. ": only on_request may do that: the request has left", 3)
    end
end

function methods:set_path(path)
    check_phase(self, "request:set_path")
    fakes.data(self).path = normal_path(path) or error("request:set_path: no path that a client may send", 2)
end

function methods:set_query(query)
    check_phase(self, "request:set_query")
    if type(query) ~= "string" or query:find("[%z\1-\32\127-\255#]") then
        error("request:set_query: the query holds a blank, a control byte or #", 2)
    end
    fakes.data(self).query = query
end

function methods:set_host(host)
    check_phase(self, "request:set_host")
    if type(host) ~= "string" or not host:find("^[%w%.%-_:%[%]]+$") then
        error("request:set_host: no host name", 2)
    end
    fakes.data(self).host = host
end

function methods:set_method(method)
    check_phase(self, "request:set_method")
    if type(method) ~= "string" or not method:find("^[%w!#$%%&'*+.^_`|~-]+$") or method == "CONNECT" then
        error("request:set_method: no method that may be sent on", 2)
    end
    fakes.data(self).method = method
end

local function setter(field, known)
    return function(self, name)
        check_phase(self, "request:set_" .. field)
        local row = fakes.data(self)
        if type(name) ~= "string" or row[known] and not row[known][name] then
            error("request:set_" .. field .. ": there is no " .. field .. " '" .. tostring(name) .. "'", 2)
        end
        row[field] = name
    end
end
methods.set_service = setter("service", "known_services")
methods.set_route = setter("route", "known_routes")

function methods:body(max)
    local row = fakes.data(self)
    max = arguments.bytes("request:body", max or BODY_MAX)
    if not row.is_body_set then check_phase(self, "request:body") end
    row.body_read = true
    if row.body_cut then return nil, "cut" end
    if #row.body > math.min(max, BODY_CAP) then return nil, "too large" end
    return row.body
end

function methods:set_body(text)
    check_phase(self, "request:set_body")
    if type(text) ~= "string" then error("request:set_body: expected a string", 2) end
    local row = fakes.data(self)
    row.body, row.is_body_set, row.body_cut = text, true, nil
end

function methods:answer(status, body, headers)
    check_phase(self, "request:answer")
    fakes.data(self).answer = answer_of("request:answer", status, body, headers)
end

-- responses
local replies = {}

local function find(fields, name)
    local values = {}
    for _, field in ipairs(fields) do
        if field[1] == name then values[#values + 1] = field[2] end
    end
    return #values > 0 and table.concat(values, ", ") or nil
end

local function remove(fields, name)
    for i = #fields, 1, -1 do
        if fields[i][1] == name then table.remove(fields, i) end
    end
end

function replies:header(name) return find(self.fields, name:lower()) end

function replies:headers()
    local copy = {}
    for _, field in ipairs(self.fields) do copy[field[1]] = find(self.fields, field[1]) end
    return copy
end

local function bodiless(status) return status == 204 or status == 304 end

function replies:set_status(status)
    check_status("response:set_status", status)
    if bodiless(status) ~= bodiless(self.status) and self.has_body then
        error("response:set_status: a body stands, and " .. status .. " has none", 2)
    end
    self.status = status
end

function replies:set_header(name, value)
    if value == nil then error("response:set_header: the value is nil", 2) end
    name, value = check_field("response:set_header", name, value)
    remove(self.fields, name)
    self.fields[#self.fields + 1] = { name, value }
end

function replies:add_header(name, value)
    if value == nil then error("response:add_header: the value is nil", 2) end
    name, value = check_field("response:add_header", name, value)
    self.fields[#self.fields + 1] = { name, value }
end

function replies:remove_header(name) remove(self.fields, (check_field("response:remove_header", name))) end

function replies:answer(status, body, headers)
    local made = answer_of("response:answer", status, body, headers)
    self.status, self.fields, self.chunks, self.stages = made.status, made.fields, { made.body }, {}
    self.compressed, self.has_body, self.backend = nil, made.body ~= "", nil
    self.is_own = true
end

-- What leaves once the body is no longer the endpoint's bytes.
local function changed_body(self)
    for _, name in ipairs { "content-length", "accept-ranges", "content-md5", "digest", "content-digest" } do
        remove(self.fields, name)
    end
    local tag = find(self.fields, "etag")
    if tag and tag:sub(1, 2) ~= "W/" then
        remove(self.fields, "etag")
        self.fields[#self.fields + 1] = { "etag", "W/" .. tag }
    end
end

-- What a HEAD or a 304 says of the body is what a GET would say.
local function bodiless_changed(self)
    if not self.is_own then changed_body(self) end
end

function replies:on_body(fn)
    if type(fn) ~= "function" then error("response:on_body: expected a function", 2) end
    if not self.has_body then return bodiless_changed(self) end
    self.stages[#self.stages + 1] = fn
    changed_body(self)
end

function replies:compress(encoding, level)
    if encoding ~= "gzip" and encoding ~= "zstd" and encoding ~= "deflate" then
        error("response:compress: '" .. tostring(encoding) .. "' is none of gzip, zstd, deflate", 2)
    end
    arguments.level("response:compress", level, encoding == "zstd" and 19 or 9)
    local control = (find(self.fields, "cache-control") or ""):lower()
    if self.status == 206 or find(self.fields, "content-encoding")
        or control:find("no-transform", 1, true) then
        return false
    end
    if not self.has_body then
        bodiless_changed(self)
        return false
    end
    changed_body(self)
    self.fields[#self.fields + 1] = { "content-encoding", encoding }
    self.compressed = { encoding = encoding, level = level }
    return true
end

local function reply(request, given, backend)
    local made = { status = given.status or 200, fields = given.fields or {}, stages = {}, backend = backend }
    for name, value in pairs(given.headers or {}) do
        for _, one in ipairs(type(value) == "table" and value or { value }) do
            made.fields[#made.fields + 1] = { name:lower(), tostring(one) }
        end
    end
    made.chunks = given.chunks or { given.body or "" }
    made.has_body = not bodiless(made.status) and fakes.data(request).method ~= "HEAD"
    return setmetatable(made, { __index = replies })
end

-- The same as scripts see it: its fields, its methods, and no way to write to it.
local REPLY = { status = true, has_body = true, backend = true, reason = true }

local function view_of(response)
    return setmetatable({}, {
        __index = function(_, key)
            if REPLY[key] then return response[key] end
            local method = replies[key]
            if not method then error("response has no field '" .. tostring(key) .. "'", 2) end
            return function(_, ...) return method(response, ...) end -- a tail call: levels stay as they are
        end,
        __newindex = function(_, key)
            error("response." .. tostring(key) .. " cannot be written: it is a view", 2)
        end,
        __tostring = function() return "response" end,
        __metatable = false,
    })
end

-- The chunks of the body after every stage; nil and the error where one raised.
local function run_body(response)
    if not response.has_body then return "" end
    local out = {}
    for i, chunk in ipairs(response.chunks) do
        local is_last = i == #response.chunks
        for _, stage in ipairs(response.stages) do
            local ok, changed = pcall(stage, chunk, is_last)
            if ok and changed ~= nil and type(changed) ~= "string" then
                ok = false
                changed = "response:on_body: the function returned a " .. type(changed)
                    .. ", expected a string"
            end
            if not ok then return nil, changed end
            chunk = changed or chunk
        end
        out[i] = chunk
    end
    return table.concat(out)
end

local function over() error("the request is over: its headers are gone", 2) end

local function run_log(entries, request, result)
    local row = fakes.data(request)
    local view = {
        method = row.method, path = row.path, host = row.host, client_ip = row.client_ip, id = row.id,
        query = row.query, route = row.route, service = row.service, ctx = {},
        header = over, headers = over, cookie = over,
    }
    for key, value in pairs(row.ctx) do
        if type(value) ~= "table" and type(value) ~= "function" then view.ctx[key] = value end
    end
    local seen = { status = result.status, bytes = #(result.body or ""), duration = 0, reason = result.reason,
        endpoint = result.endpoint, attempts = result.forwarded and 1 or 0,
        header = over, headers = over }
    for i = #entries, 1, -1 do
        local filter = entries[i].filter
        if filter.on_log then
            local ok, wrong = pcall(filter.on_log, filter, view, seen)
            if not ok then result.errors[#result.errors + 1] = wrong end
        end
    end
end

local function failed(result, wrong)
    result.errors[#result.errors + 1] = wrong
    local is_late = wrong == "the filter waited longer than timeouts.filter"
    result.status, result.headers, result.body = is_late and 503 or 500, {}, ""
    result.reason, result.forwarded = "filter_error", result.forwarded
end

-- What the gateway refuses too (core/script/task.c).
local function nothing(...)
    for i = 1, select("#", ...) do
        local value = select(i, ...)
        if value ~= nil then
            error("returned a " .. type(value) .. ": to refuse or answer, call request:answer(status, …)", 0)
        end
    end
end

-- Calls one callback in `wait`, which runs a function as a task of the clock. True where the chain goes on.
local function call(wait, entry, result, name, ...)
    if not entry.filter[name] or result.skipped[entry] then return true end
    local callback = entry.filter[name]
    local run = name == "on_request" and function(...) nothing(callback(...)) end or callback
    local ok, wrong = wait(run, WAITS_MAX, entry.filter, ...)
    if ok then return true end
    if entry.on_error == "skip" then -- on without it, as if it were not in the list
        result.errors[#result.errors + 1] = wrong
        result.skipped[entry] = true
        if name == "on_request" then fakes.data((...)).answer = nil end
        return true
    end
    failed(result, wrong)
    return false
end

local function forward(request, endpoint)
    local row = fakes.data(request)
    local sent = { method = row.method, path = row.path, query = row.query, host = row.host, body = row.body,
        service = row.service, route = row.route, headers = request:headers() }
    if type(endpoint) == "function" then endpoint = endpoint(sent) end
    return sent, endpoint or { status = 200, body = "ok" }
end

-- What the gateway answers where an endpoint did not: status by core/http/reason.h.
local FAILURES = {
    no_endpoints = 503, all_unhealthy = 503, all_full = 503, queue_timeout = 503, connect_refused = 502,
    connect_timeout = 504, tls_error = 502, reset_before_headers = 502, bad_response = 502,
    response_timeout = 504, client_gone = 499, client_timeout = 408, script_error = 503,
    script_timeout = 503, draining = 503, shed = 503,
}
chain.FAILURES = FAILURES

local function failure_answer(word)
    local status = FAILURES[word]
    if not status then error("kit.run: there is no failure '" .. tostring(word) .. "'", 4) end
    return { status = status, reason = word, body = ("%d %s\n"):format(status, word),
        headers = { ["content-type"] = "text/plain" } }
end

-- Runs `entries` (list of { filter, on_error }) over `request`. Returns { forwarded, status, headers,
-- lines, body, reason, errors, compressed, body_read }; `forwarded` is nil where the request went nowhere.
function chain.run(wait, entries, request, endpoint)
    local row, result, last = fakes.data(request), { errors = {}, skipped = {} }, #entries
    row.phase = "on_request"
    for i, entry in ipairs(entries) do
        if not call(wait, entry, result, "on_request", request) then
            run_log(entries, request, result)
            return result
        end
        if row.answer then last = i - 1 break end
    end
    local given = row.answer
    if given then
        if given.status >= 400 then result.reason = "filter_denied" end
    else
        result.forwarded, given = forward(request, endpoint)
        if given.failure then given = failure_answer(given.failure) end
    end
    local response = reply(request, given, given.backend)
    result.endpoint = given.backend and given.backend.id
    local view = view_of(response)
    row.phase = "on_response"
    response.is_own = row.answer ~= nil or given.reason ~= nil or nil
    response.reason = given.reason
    for i = last, 1, -1 do
        if not call(wait, entries[i], result, "on_response", request, view) then
            run_log(entries, request, result)
            return result
        end
    end
    local body, wrong = run_body(response)
    if not body and response.is_own then -- no byte has gone out: it can still be told
        failed(result, wrong)
        run_log(entries, request, result)
        return result
    end
    if response.is_own then
        result.reason = response.reason or response.status >= 400 and "filter_denied" or nil
    end
    if not body then
        result.errors[#result.errors + 1], result.reason, result.cut = wrong, "filter_error", true
    end
    result.status, result.headers, result.lines = response.status, response:headers(), response.fields
    result.body, result.compressed = body, response.compressed
    result.body_read = row.body_read == true
    run_log(entries, request, result)
    return result
end

return chain
