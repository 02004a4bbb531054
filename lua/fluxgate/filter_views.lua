-- fluxgate/filter_views.lua: what a filter has beyond views.lua: the request's changes, the response, body
-- stages, and the flat records of on_log. chain.lua is the test kit's model of the same; errors read alike.
local arguments = require "fluxgate.arguments"
local ffi = require "ffi"
local filter = require "ffi.filter"
local views = require "fluxgate.views"
local C, to_string = ffi.C, ffi.string
local error, type, tostring, pairs, ipairs = error, type, tostring, pairs, ipairs

local out, out_value, at = views.out, ffi.new("struct fg_slice"), ffi.new("uint32_t[1]")
local given, no_field, read_only = views.given, views.no_field, views.read_only
local BODY_MAX, BODY_CAP = 1024 * 1024, 16 * 1024 * 1024
local SET, ADD, REMOVE, DONE = filter.SET, filter.ADD, filter.REMOVE, filter.DONE

local WRONG = {
    [filter.OVER] = views.OVER,
    [filter.NO_FILTER] = "only filters may do that: this request is in pick()",
    [filter.NAME] = "the name is no token",
    [filter.VALUE] = "the value holds CR, LF, NUL or another control byte",
    [filter.MEMORY] = "that is more than filters may write into one request",
    [filter.STATUS] = "the status is no whole number from 200 to 599",
    [filter.PHASE] = "only on_request may do that: the request has left",
}

-- These raise at the line of the script: `level` calls up, where it called the caller (3).
local function wrong(what, code, name, level)
    local text = WRONG[code] or "it is not valid"
    if code == filter.OWNED then text = arguments.owned(name) end
    error(what .. ": " .. text, level or 3)
end

local function text_of(value, what, level)
    if type(value) == "string" then return value end
    if type(value) == "number" then return tostring(value) end
    error(what .. (value == nil and ": the value is nil" or ": the value is no string"), level or 3)
end

local function name_of(name, what, level)
    if type(name) == "string" then return name end
    local hint = name == nil and "; is there a '.' where a ':' belongs?" or ""
    error(what .. ": the name is no token" .. hint, level or 3)
end

-- requests
local methods, fields = views.request_methods, views.request_fields

local function filter_text(which, name)
    return function(self)
        local found = C.fg_filter_text(self, which, out)
        if found == filter.NO_FILTER then error("request." .. name .. ": only filters have it", 2) end
        return given(found)
    end
end

fields.id = filter_text(filter.ID, "id")
fields.scheme = filter_text(filter.SCHEME, "scheme")
fields.route = filter_text(filter.ROUTE, "route")
fields.service = filter_text(filter.SERVICE, "service")

-- Name in lower case → value, from `next_field`, which steps through the fields.
local function all_fields(self, next_field, what)
    local copy = {}
    at[0] = 0
    while true do
        local found = next_field(self, at, out, out_value)
        if found == filter.NO then return copy end
        if found ~= DONE then wrong(what, found) end
        local name, value = to_string(out.at, out.len):lower(), to_string(out_value.at, out_value.len)
        local before = copy[name]
        copy[name] = before and before .. (name == "cookie" and "; " or ", ") .. value or value
    end
end

function methods:headers() return all_fields(self, C.fg_request_field, "request:headers") end

function methods:set_header(name, value)
    name, value = name_of(name, "request:set_header"), text_of(value, "request:set_header")
    local code = C.fg_request_edit(self, SET, name, #name, value, #value)
    if code ~= DONE then wrong("request:set_header", code, name) end
end

function methods:add_header(name, value)
    name, value = name_of(name, "request:add_header"), text_of(value, "request:add_header")
    local code = C.fg_request_edit(self, ADD, name, #name, value, #value)
    if code ~= DONE then wrong("request:add_header", code, name) end
end

function methods:remove_header(name)
    name = name_of(name, "request:remove_header")
    local code = C.fg_request_edit(self, REMOVE, name, #name, "", 0)
    if code ~= DONE then wrong("request:remove_header", code, name) end
end

-- request:NAME(text), of which C says whether it may be.
local function changer(name, which, refusal)
    local what = "request:" .. name
    methods[name] = function(self, text)
        if type(text) ~= "string" then error(what .. ": expected a string", 2) end
        local code = C.fg_request_change(self, which, text, #text)
        if code == filter.VALUE then error(what .. ": " .. refusal, 2) end
        if code == filter.UNKNOWN then error(what .. ": " .. refusal .. " '" .. text .. "'", 2) end
        if code ~= DONE then wrong(what, code) end
    end
end
changer("set_path", filter.SET_PATH, "no path that a client may send")
changer("set_query", filter.SET_QUERY, "the query holds a blank, a control byte or #")
changer("set_host", filter.SET_HOST, "no host name")
changer("set_method", filter.SET_METHOD, "no method that may be sent on")
changer("set_service", filter.SET_SERVICE, "there is no service")
changer("set_route", filter.SET_ROUTE, "there is no route")
changer("set_body", filter.SET_BODY, "no body")

-- Adds `headers` (name → value or list of values) to the answer that was begun, and commits it.
local function answer(script, what, begun, headers)
    if begun ~= DONE then wrong(what, begun, nil, 4) end
    for name, value in pairs(headers or {}) do
        for _, one in ipairs(type(value) == "table" and value or { value }) do
            name_of(name, what, 4)
            local text = text_of(one, what, 4)
            local code = C.fg_answer_field(script, name, #name, text, #text)
            if code ~= DONE then wrong(what, code, name, 4) end
        end
    end
    local code = C.fg_answer_commit(script)
    if code ~= DONE then wrong(what, code, nil, 4) end
end

local function body_text(body, what)
    if body == nil then return "" end
    if type(body) ~= "string" then error(what .. ": the body is no string", 3) end
    return body
end

local function status_of(status) return type(status) == "number" and status or 0 end

-- responses
local GONE = "this response is over: it may be used only inside the callback that it was given to"
local replies, reply_fields = {}, {}

function reply_fields.status(self)
    local status = C.fg_response_status(self)
    if status < 0 then error(GONE, 2) end
    return status
end

function reply_fields.has_body(self) return C.fg_response_has_body(self) == 1 end

function reply_fields.backend(self)
    local slot = C.fg_response_slot(self)
    if slot < 0 then return nil end
    return views.backends[slot + 1]
end

function reply_fields.reason(self)
    local found = C.fg_response_reason(self, out)
    if found < 0 then error(GONE, 2) end
    return given(found)
end

function replies:header(name)
    name = name_of(name, "response:header")
    return given(C.fg_response_header(self, name, #name, out))
end

function replies:headers() return all_fields(self, C.fg_response_field, "response:headers") end

function replies:set_status(status)
    local code = C.fg_response_set_status(self, status_of(status))
    if code == filter.VALUE then
        error("response:set_status: a body stands, and " .. status .. " has none", 2)
    end
    if code ~= DONE then wrong("response:set_status", code) end
end

function replies:set_header(name, value)
    name, value = name_of(name, "response:set_header"), text_of(value, "response:set_header")
    local code = C.fg_response_edit(self, SET, name, #name, value, #value)
    if code ~= DONE then wrong("response:set_header", code, name) end
end

function replies:add_header(name, value)
    name, value = name_of(name, "response:add_header"), text_of(value, "response:add_header")
    local code = C.fg_response_edit(self, ADD, name, #name, value, #value)
    if code ~= DONE then wrong("response:add_header", code, name) end
end

function replies:remove_header(name)
    name = name_of(name, "response:remove_header")
    local code = C.fg_response_edit(self, REMOVE, name, #name, "", 0)
    if code ~= DONE then wrong("response:remove_header", code, name) end
end

-- Functions of on_body by number; [0] heads the free list, as luaL_ref keeps it.
local stages = { [0] = 0 }

function replies:on_body(fn)
    if type(fn) ~= "function" then error("response:on_body: expected a function", 2) end
    local number = stages[0]
    if number ~= 0 then stages[0] = stages[number] else number = #stages + 1 end
    stages[number] = fn
    local code = C.fg_response_on_body(self, number)
    if code == DONE then return end
    stages[number], stages[0] = stages[0], number
    if code ~= filter.NO then wrong("response:on_body", code) end
end

local ENCODINGS = { gzip = 1, deflate = 2, zstd = 3 }
local LEVELS = { gzip = 6, deflate = 6, zstd = 3 }

function replies:compress(encoding, level)
    local number = ENCODINGS[encoding]
    if not number then
        error("response:compress: '" .. tostring(encoding) .. "' is none of gzip, zstd, deflate", 2)
    end
    level = arguments.level("response:compress", level, encoding == "zstd" and 19 or 9) or LEVELS[encoding]
    local code = C.fg_response_compress(self, number, level)
    if code < 0 then wrong("response:compress", code) end
    return code == DONE
end

local function typed(ctype, kind, kind_fields, kind_methods)
    ffi.metatype(ctype, {
        __index = function(self, key)
            local method = kind_methods[key]
            if method then return method end
            local read = kind_fields[key]
            if read then return read(self) end
            return no_field(kind, key)
        end,
        __newindex = read_only(kind),
        __tostring = function() return kind end,
        __metatable = false,
    })
end
typed("struct fg_response", "response", reply_fields, replies)

-- on_log
local function over() error("the request is over: its headers are gone", 2) end

local function log_text(which)
    return function(self) return given(C.fg_log_text(self, which, out)) end
end

local function log_number(which)
    return function(self)
        local value = C.fg_log_number(self, which)
        if value < 0 then error(views.OVER, 2) end
        return value
    end
end

local gone = { header = over, headers = over, cookie = over }
local log_fields = {
    method = log_text(filter.LOG_METHOD), path = log_text(filter.LOG_PATH), host = log_text(filter.LOG_HOST),
    client_ip = log_text(filter.LOG_CLIENT_IP), id = log_text(filter.LOG_ID),
    route = log_text(filter.LOG_ROUTE), service = log_text(filter.LOG_SERVICE),
    query = log_text(filter.LOG_QUERY),
}
local log_result = {
    status = log_number(filter.LOG_STATUS), bytes = log_number(filter.LOG_BYTES),
    duration = log_number(filter.LOG_DURATION), attempts = log_number(filter.LOG_ATTEMPTS),
    endpoint = function(self) return given(C.fg_log_endpoint(self, out)) end,
    reason = function(self) return given(C.fg_log_reason(self, out)) end,
}

local module = {}

-- Once a state, with what C gave it.
function module.new(host)
    local script = ffi.cast("struct script *", host.script)

    function methods:answer(status, body, headers)
        body = body_text(body, "request:answer")
        answer(script, "request:answer", C.fg_request_answer(self, status_of(status), body, #body), headers)
    end

    function replies:answer(status, body, headers)
        body = body_text(body, "response:answer")
        answer(script, "response:answer", C.fg_response_answer(self, status_of(status), body, #body), headers)
    end

    function methods:body(max)
        local found = C.fg_request_body(self, out)
        if found < 0 then wrong("request:body", found) end
        max = arguments.bytes("request:body", max or BODY_MAX)
        if max > BODY_CAP then max = BODY_CAP end
        if found == DONE then
            if out.len > max then return nil, "too large" end
            return to_string(out.at, out.len)
        end
        local refused = host.body(max)
        if refused ~= true then error("request:body " .. refused, 2) end
        return host.body_text()
    end

    local ctx, ctx_serial = nil, -1
    function log_fields.ctx(self)
        if self.handle == 0 then error(views.OVER, 2) end
        if self.serial ~= ctx_serial then ctx, ctx_serial = host.log_ctx(), self.serial end
        return ctx
    end
    typed("struct fg_log_request", "request", log_fields, gone)
    typed("struct fg_log_response", "response", log_result, gone)

    return {
        stages = stages,
        new_response = function() return ffi.new("struct fg_response") end,
        log_request = ffi.new("struct fg_log_request"), log_response = ffi.new("struct fg_log_response"),
        -- One stage over the chunk that C holds ready: the text that takes its place, nil where it stays.
        run_stage = function(number, is_last)
            C.fg_stage_chunk(script, out)
            local changed = stages[number](to_string(out.at, out.len), is_last)
            if changed == nil or type(changed) == "string" then return changed end
            error("response:on_body: the function returned a " .. type(changed) .. ", expected a string", 0)
        end,
    }
end

return module
