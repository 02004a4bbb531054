-- fluxgate/views.lua: backend, request and result as scripts see them: FFI structs whose other fields and
-- methods are read from C when asked. Reading a name that does not exist raises at the caller's line, and so
-- does every write.
local ffi = require "ffi"
local cjson = require "cjson.safe"
local layout = require "ffi.view"
local C, to_string = ffi.C, ffi.string
local error, type, tostring, tonumber = error, type, tostring, tonumber

local views = {
    backends = {}, -- slot + 1 → the backend view; C fills it
    texts = {},    -- slot + 1 → its strings, read when asked; C clears a row when its text changed
    contexts = { [0] = 0 }, -- request.ctx tables; [0] heads the free list, as luaL_ref keeps it
    all = {},      -- service index + 1 → every endpoint that is not gone
    by_id = {},    -- service index + 1 → id → view; C clears a row when the members changed
}

local out = ffi.new("struct fg_slice")
local texts, contexts = views.texts, views.contexts
local OVER = "this request is over: a request may be used only inside the callback that it was given to"

local function read_only(kind)
    return function(_, key)
        error(kind .. "." .. tostring(key) .. " cannot be written: it is a view", 2)
    end
end

-- Called in tail position, as is given(): one level up is the script.
local function no_field(kind, key)
    error(kind .. " has no field '" .. tostring(key) .. "'", 2)
end

-- backends
local function text_of(self, name, which)
    local row = texts[self.slot + 1]
    if not row then
        row = {}
        texts[self.slot + 1] = row
    end
    local value = row[name]
    if value == nil then
        if C.fg_backend_text(self, which, out) ~= 1 then return "" end -- gone: nothing is kept
        value = to_string(out.at, out.len)
        row[name] = value
    end
    return value
end

local function is_gone(self) return self.incarnation == 0 end -- a 32-bit field: no box

local function metadata_of(self)
    if is_gone(self) then return {} end
    local row = texts[self.slot + 1]
    local value = row and row.decoded
    if value == nil then
        value = cjson.decode(text_of(self, "metadata", layout.METADATA))
        if type(value) ~= "table" then value = {} end
        row = texts[self.slot + 1]
        if row then row.decoded = value end
    end
    return value
end

local function backend_text(name, which)
    return function(self)
        if is_gone(self) then return "" end
        return text_of(self, name, which)
    end
end

-- No tail calls here: pick() reads several fields, so a trace may begin in one of these functions, and LuaJIT
-- does not follow the return out of a tail call. It would give the function up, and with it every pick().
local backend = {
    active = function(self)
        local value = C.fg_backend_active(self)
        return value
    end,
    failures = function(self)
        local value = C.fg_backend_failures(self)
        return value
    end,
    latency_ewma = function(self)
        local value = C.fg_backend_latency(self)
        return value
    end,
    load = function(self)
        local value = C.fg_backend_load(self)
        return value
    end,
    full = function(self) return C.fg_backend_full(self) == 1 end,
    id = backend_text("id", layout.ID),
    host = backend_text("host", layout.HOST_NAME),
    zone = backend_text("zone", layout.ZONE),
    health_path = backend_text("health_path", layout.HEALTH_PATH),
    metadata = metadata_of,
    state = function(self) -- moves without its text moving: never cached
        if C.fg_backend_text(self, layout.STATE, out) ~= 1 then return "gone" end
        return to_string(out.at, out.len)
    end,
}

ffi.metatype("struct fg_backend", {
    __index = function(self, key)
        local read = backend[key]
        if read then
            local value = read(self)
            return value
        end
        return no_field("backend", key)
    end,
    __newindex = read_only("backend"),
    __tostring = function(self) return "backend " .. self.id end,
    __metatable = false,
})

function views.new_view() return ffi.new("struct fg_backend") end

-- requests
local function given(found) -- the slice in `out` as a string; nil for none
    if found == 1 then return to_string(out.at, out.len) end
    if found < 0 then error(OVER, 2) end
    return nil
end

local function request_text(which)
    return function(self) return given(C.fg_request_text(self, which, out)) end
end

local function check_name(value, what)
    if type(value) == "string" then return end
    local hint = value == nil and "; is there a '.' where a ':' belongs?" or ""
    error(what .. ": the name must be a string, got " .. type(value) .. hint, 3)
end

local function context_of(self)
    local id = C.fg_request_ctx(self)
    if id > 0 then return contexts[id] end
    if id < 0 then error(OVER, 2) end
    id = contexts[0]
    if id ~= 0 then contexts[0] = contexts[id] else id = #contexts + 1 end
    local context = {}
    contexts[id] = context
    C.fg_request_set_ctx(self, id)
    return context
end

local methods = {}

function methods:header(name)
    check_name(name, "request:header")
    return given(C.fg_request_header(self, name, #name, out))
end

function methods:cookie(name, nth)
    check_name(name, "request:cookie")
    if nth and nth ~= 1 then
        if type(nth) ~= "number" or nth < 1 or nth % 1 ~= 0 then
            error("request:cookie: expected a number from 1 on", 2)
        end
        return given(C.fg_request_cookie_at(self, name, #name, nth - 1, out))
    end
    return given(C.fg_request_cookie(self, name, #name, out))
end

function methods:hash(key)
    check_name(key, "request:hash")
    local hash = C.fg_request_hash(self, key, #key)
    if hash >= 0 then return hash end
    if hash == -1 then return nil end
    if hash == -2 then error(OVER, 2) end
    error("request:hash: '" .. key .. "' is none of client_ip, path, host, query, method, header:NAME, "
        .. "cookie:NAME, query:NAME", 2)
end

function methods:bound(id)
    if type(id) ~= "string" then return nil end
    local index = self.service_index + 1
    local map = views.by_id[index]
    if not map then
        map = {}
        local all = views.all[index] or {}
        for i = 1, #all do map[all[i].id] = all[i] end
        views.by_id[index] = map
    end
    local view = map[id]
    if view == nil then return nil end
    local found = C.fg_request_bind(self, view)
    if found < 0 then error(OVER, 2) end
    if found == 1 then return view end
    return nil
end

local SAME_SITE = { Lax = "Lax", Strict = "Strict", None = "None" }
local COOKIE_ERRORS = {
    "the name is no token", "the value holds a blank, a control byte or one of \" , ; \\",
    "the path must begin with '/' and hold neither ';' nor control bytes", "out of memory", OVER,
    "in a filter use response:add_header, since pick() sets cookies anew",
    "the domain is no host name",
}
local NO_OPTIONS = {}

function methods:set_cookie(name, value, options)
    options = options or NO_OPTIONS
    if type(name) ~= "string" or type(value) ~= "string" then
        error("request:set_cookie: name and value must be strings", 2)
    end
    local same_site = options.same_site
    if same_site ~= nil and not SAME_SITE[same_site] then
        error("request:set_cookie: same_site must be Lax, Strict or None", 2)
    end
    local path, domain = options.path or "/", options.domain or ""
    if type(path) ~= "string" or type(domain) ~= "string" then
        error("request:set_cookie: path and domain must be strings", 2)
    end
    local flags = (options.secure and 1 or 0) + (options.http_only and 2 or 0)
    local failed = C.fg_request_set_cookie(self, name, #name, value, #value, path, #path, domain, #domain,
        same_site or "", tonumber(options.max_age) or -1, flags)
    if failed ~= 0 then error("request:set_cookie: " .. COOKIE_ERRORS[failed], 2) end
end

local request = {
    method = request_text(layout.METHOD),
    path = request_text(layout.PATH),
    query = request_text(layout.QUERY),
    host = request_text(layout.HOST),
    client_ip = request_text(layout.CLIENT_IP),
    ctx = context_of,
}

ffi.metatype("struct fg_request", {
    __index = function(self, key)
        local method = methods[key]
        if method then return method end
        local read = request[key]
        if read then return read(self) end
        return no_field("request", key)
    end,
    __newindex = read_only("request"),
    __tostring = function() return "request" end,
    __metatable = false,
})

views.request_methods, views.request_fields = methods, request -- filter_views.lua adds those of filters
views.out, views.given, views.no_field, views.read_only, views.OVER = out, given, no_field, read_only, OVER

function views.new_request() return ffi.new("struct fg_request") end

views.requests = {}
for i = 1, 64 do views.requests[i] = ffi.new("struct fg_request") end

-- results
local words = {}
local function failure_word(self)
    local number = self.failure_number
    if number == 0 then return nil end
    local word = words[number]
    if not word then
        word = to_string(C.fg_reason_word(number))
        words[number] = word
    end
    return word
end

local function result_header(self, name)
    check_name(name, "result:header")
    return given(C.fg_result_header(self, name, #name, out))
end

ffi.metatype("struct fg_result", {
    __index = function(self, key)
        if key == "failure" then return failure_word(self) end
        if key == "header" then return result_header end
        return no_field("result", key)
    end,
    __newindex = read_only("result"),
    __tostring = function() return "result" end,
    __metatable = false,
})
views.result = ffi.new("struct fg_result")

-- counters
local counter = {}
function counter:next() return C.fg_counter_next(self) end
function counter:get() return C.fg_counter_get(self) end
ffi.metatype("struct fg_counter", { __index = counter, __metatable = false })

function views.counter(script, name)
    local handle = ffi.new("struct fg_counter")
    if C.fg_counter_open(script, name, #name, handle) == 0 then
        error("gateway.counter: no room for another counter", 3)
    end
    return handle
end

return views
