-- fluxgate/fakes.lua: the test kit's endpoints, requests and results. To a script they look like the
-- gateway's views: the same fields and methods, reading a name that is none raises, and so does every
-- write.
local sha256 = require "fluxgate.sha256"

local fakes = {}

local data = setmetatable({}, { __mode = "k" })   -- view → its row
local fleets = setmetatable({}, { __mode = "k" }) -- array of offered views → its fleet

function fakes.data(view)
    return data[view] or error("not an object of the test kit: " .. tostring(view), 3)
end
function fakes.fleet_of(backends) return fleets[backends] end

-- `closed(row, key)` says why one may not be read now, nil where it may.
local function view(kind, fields, methods, closed)
    return {
        __index = function(self, key)
            local wrong = closed and closed(data[self], key)
            if wrong then error(wrong, 2) end
            if methods[key] then return methods[key] end
            if not fields[key] then error(kind .. " has no field '" .. tostring(key) .. "'", 2) end
            return data[self][key]
        end,
        __newindex = function(_, key)
            error(kind .. "." .. tostring(key) .. " cannot be written: it is a view", 2)
        end,
        __tostring = function(self) return kind == "backend" and "backend " .. data[self].id or kind end,
        __metatable = false,
    }
end

-- backends
local BACKEND = {
    id = true, host = true, port = true, weight = true, effective_weight = true, zone = true, metadata = true,
    active = true, latency_ewma = true, failures = true, load = true, full = true, state = true,
    health_path = true,
}
local backend_view = view("backend", BACKEND, {})
local TIERS = { healthy = 1, suspect = 1, unproven = 2, ejected = 3 }
local STATES = "healthy, unproven, suspect, unhealthy, ejected, draining, maintenance, gone"

function fakes.is_state(state)
    return (", " .. STATES .. ","):find(", " .. tostring(state) .. ",", 1, true) ~= nil
end

-- At the line of the spec, which called what calls this.
local function check_backend(what, fields)
    if type(fields) ~= "table" then error(what .. ": expected tables, got a " .. type(fields), 5) end
    for key in pairs(fields) do
        if not BACKEND[key] then error(what .. ": there is no field '" .. tostring(key) .. "'", 5) end
    end
    local state = fields.state
    if state ~= nil and not fakes.is_state(state) then
        error(("%s: there is no state '%s'; there are %s"):format(what, tostring(state), STATES), 5)
    end
end

local function backend_row(row, number, count)
    local made = {
        id = ("backend-%0" .. #tostring(count) .. "d"):format(number), host = "127.0.0.1",
        port = 9000 + number,
        weight = 1, zone = "", metadata = {}, active = 0, latency_ewma = 0, failures = 0, load = 0,
        full = false, state = "healthy", health_path = "",
    }
    check_backend("kit.backends", row)
    for key, value in pairs(row) do made[key] = value end
    made.effective_weight = made.effective_weight or made.weight
    return made
end

-- What is offered: the best tier that has anybody, by id.
local function offer(fleet)
    local best = 4
    for _, backend in ipairs(fleet.all) do
        if data[backend].weight > 0 then best = math.min(best, TIERS[data[backend].state] or 4) end
    end
    for i = #fleet.offered, 1, -1 do fleet.offered[i] = nil end
    for _, backend in ipairs(fleet.all) do
        local row = data[backend]
        if row.weight > 0 and TIERS[row.state] == best then fleet.offered[#fleet.offered + 1] = backend end
    end
    fleet.version = fleet.version + 1
end

function fakes.fleet(rows)
    local fleet = { all = {}, by_id = {}, version = 0 }
    fleet.offered = setmetatable({}, { __index = function(_, id) return fleet.by_id[id] end })
    for number, row in ipairs(rows) do
        local made = setmetatable({}, backend_view)
        data[made] = backend_row(row, number, #rows)
        fleet.all[number], fleet.by_id[data[made].id] = made, made
    end
    table.sort(fleet.all, function(a, b) return data[a].id < data[b].id end)
    fleets[fleet.offered] = fleet
    offer(fleet)
    return fleet
end

function fakes.change(fleet, id, changes)
    local row = data[fleet.by_id[id] or error("kit.set: no backend '" .. tostring(id) .. "'", 3)]
    check_backend("kit.set", changes)
    for key, value in pairs(changes) do row[key] = value end
    if changes.weight and not changes.effective_weight then row.effective_weight = changes.weight end
    if changes.state == "gone" then
        for i, backend in ipairs(fleet.all) do
            if data[backend] == row then table.remove(fleet.all, i) break end
        end
        fleet.by_id[id] = nil
    end
    offer(fleet)
end

function fakes.without_tried(backends, request)
    local tried = data[request].tried
    if #tried == 0 then return backends end
    local left = {}
    for i = 1, #backends do
        local is_tried = false
        for _, other in ipairs(tried) do is_tried = is_tried or other == backends[i] end
        if not is_tried then left[#left + 1] = backends[i] end
    end
    return left
end

-- requests
local BINDABLE = { healthy = true, suspect = true, unproven = true, ejected = true, draining = true }
local methods = {}

local function check_name(value, what)
    if type(value) == "string" then return end
    local hint = value == nil and "; is there a '.' where a ':' belongs?" or ""
    error(what .. ": the name must be a string, got " .. type(value) .. hint, 3)
end

function methods:header(name)
    check_name(name, "request:header")
    return data[self].headers[name:lower()]
end

local function cookie_of(row, name, nth)
    local value = row.cookies[name]
    if type(value) == "table" then return value[nth or 1] end
    return (nth or 1) == 1 and value or nil
end

function methods:cookie(name, nth)
    check_name(name, "request:cookie")
    if nth ~= nil and (type(nth) ~= "number" or nth < 1 or nth % 1 ~= 0) then
        error("request:cookie: expected a number from 1 on", 2)
    end
    return cookie_of(data[self], name, nth)
end

local COOKIE_OPTIONS = {
    path = "string", domain = "string", secure = "boolean", http_only = "boolean", same_site = "string",
    max_age = "number",
}
local SAME_SITE = { Lax = true, Strict = true, None = true }

-- What the gateway refuses, and what it would not see: a name that is no option.
local function cookie_fault(options)
    for key, value in pairs(options) do
        local wanted = COOKIE_OPTIONS[key]
        if not wanted then return "there is no option '" .. tostring(key) .. "'" end
        if type(value) ~= wanted then return key .. ": expected a " .. wanted end
    end
    local path, domain = options.path or "/", options.domain
    if path ~= "" and path:sub(1, 1) ~= "/" or path:find("[%z\1-\31\127-\255;]") then
        return "the path must begin with '/' and hold neither ';' nor control bytes"
    end
    if domain and (domain == "" or domain:find("[^%w.-]")) then return "the domain is no host name" end
    if options.same_site and not SAME_SITE[options.same_site] then
        return "same_site must be Lax, Strict or None"
    end
    return nil
end

function methods:set_cookie(name, value, options)
    if data[self].phase then
        error("request:set_cookie: in a filter use response:add_header, since pick() sets cookies anew", 2)
    end
    if type(name) ~= "string" or not name:find("^[%w!#$%%&'*+.^_`|~-]+$") then
        error("request:set_cookie: the name is no token", 2)
    end
    if type(value) ~= "string" or value:find("[%z\1-\32\127-\255\",;\\]") then
        error("request:set_cookie: the value holds a blank, a control byte or one of \" , ; \\", 2)
    end
    local wrong = cookie_fault(options or {})
    if wrong then error("request:set_cookie: " .. wrong, 2) end
    local list = data[self].set_cookies
    list[#list + 1] = { name = name, value = value, options = options or {} }
end

local HASHED = { client_ip = true, path = true, host = true, query = true, method = true }

-- Another hash than the gateway's, but as even and as stable.
function methods:hash(key)
    check_name(key, "request:hash")
    local row = data[self]
    local kind, name = key:match("^(%a+):(.+)$")
    local value
    if kind == "header" then value = row.headers[name:lower()]
    elseif kind == "cookie" then value = cookie_of(row, name)
    elseif kind == "query" then value = ("&" .. row.query):match("&" .. name:gsub("%W", "%%%0") .. "=([^&]*)")
    elseif HASHED[key] then value = row[key]
    else
        error("request:hash: '" .. key .. "' is none of client_ip, path, host, query, method, header:NAME, "
            .. "cookie:NAME, query:NAME", 2)
    end
    if not value then return nil end
    local a, b, c, d, e, f = sha256.digest(value):byte(1, 6)
    return ((((a * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f
end

function methods:bound(id)
    local row = data[self]
    local backend = id ~= nil and row.fleet and row.fleet.by_id[id]
    if not backend or not BINDABLE[data[backend].state] then return nil end
    for _, other in ipairs(row.tried) do
        if other == backend then return nil end
    end
    row.bound[backend] = true
    return backend
end

local REQUEST = {
    method = true, path = true, query = true, host = true, client_ip = true, attempt = true, ctx = true,
    id = true, scheme = true, route = true, service = true,
}
local FILTERS_ONLY = { id = true, scheme = true, route = true, service = true }
local EVERYBODYS = {
    header = true, cookie = true, set_cookie = true, hash = true, bound = true,
}
-- In pick() a request is not a filter's, however the same object is used around it.
local request_view = view("request", REQUEST, methods, function(row, key)
    if not row.in_pick then return nil end
    if FILTERS_ONLY[key] then return "request." .. key .. ": only filters have it" end
    if methods[key] and not EVERYBODYS[key] then
        return "request:" .. key .. ": only filters may do that: this request is in pick()"
    end
    return nil
end)
fakes.request_methods = methods -- chain.lua adds those of filters
function fakes.in_pick(request, is_in) data[request].in_pick = is_in end

function fakes.request(fields)
    local made = setmetatable({}, request_view)
    local row = {
        method = "GET", path = "/", query = "", host = "example.com", client_ip = "192.0.2.1", ctx = {},
        id = "6f1c8a52-0000-4000-8000-000000000001", scheme = "http", route = "test", service = "test",
        body = "",
        cookies = {}, tried = {}, set_cookies = {}, bound = {},
    }
    for key, value in pairs(fields) do row[key] = value end
    row.attempt = row.attempt or #row.tried + 1
    row.headers = {}
    for name, value in pairs(fields.headers or {}) do row.headers[name:lower()] = value end
    data[made] = row
    if fields.cookies then
        local pairs_of = {}
        for name, value in pairs(fields.cookies) do
            for _, one in ipairs(type(value) == "table" and value or { value }) do
                pairs_of[#pairs_of + 1] = name .. "=" .. one
            end
        end
        table.sort(pairs_of)
        row.headers.cookie = row.headers.cookie or table.concat(pairs_of, "; ")
    else
        fakes.read_cookies(made)
    end
    return made
end

-- The cookies that the Cookie header holds, read again when a filter changed it.
function fakes.read_cookies(request)
    local row = data[request]
    row.cookies = {}
    for name, value in (row.headers.cookie or ""):gmatch("([^%s=;]+)=([^;]*)") do
        local values = row.cookies[name] or {}
        values[#values + 1] = value
        row.cookies[name] = values
    end
end

-- A pick for `request` begins: its cookies are forgotten, and bound() looks in `fleet`.
function fakes.serve(request, fleet)
    local row = data[request]
    row.fleet, row.set_cookies, row.bound = fleet or row.fleet, {}, {}
end

function fakes.was_bound(request, backend) return data[request].bound[backend] == true end

-- results
local result_view = view("result", { status = true, latency = true, failure = true },
    { header = function(self, name) return data[self].headers[name:lower()] end })

function fakes.result(fields)
    local made = setmetatable({}, result_view)
    local row = { status = fields.status or (fields.failure and 0 or 200), latency = fields.latency or 0.001,
        failure = fields.failure, headers = {} }
    for name, value in pairs(fields.headers or {}) do row.headers[name:lower()] = value end
    data[made] = row
    return made
end

return fakes
