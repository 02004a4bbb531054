-- strategies/filters/headers.lua: sets, adds and removes header fields of the request and of its answer.
-- Values may hold $method $path $query $host $scheme $client_ip $request_id $route $service, $header_NAME
-- ("-" for "_"), $cookie_NAME and $$; a variable that the request lacks is empty. CR, LF and NUL that a
-- client's value brings become blanks, so it can end no line. Options: request and response, each { set =
-- {name = value}, add = {name = value}, remove = [names] }; remove comes first, then set, then add.
---@class HeadersFilter : Filter
local Headers = { name = "headers", api = 1 }
Headers.__index = Headers

local PLAIN = {
    method = "method", path = "path", query = "query", host = "host", scheme = "scheme",
    client_ip = "client_ip", request_id = "id", route = "route", service = "service",
}

local function check_variables(text)
    for name in text:gsub("%$%$", ""):gmatch("%$([%w_]*)") do
        if not PLAIN[name] and not name:find("^header_.") and not name:find("^cookie_.") then
            return nil, "there is no variable $" .. name
        end
    end
    return text
end

local function check_edits(edits)
    for what, list in pairs(edits) do
        if what ~= "set" and what ~= "add" and what ~= "remove" then
            return nil, "expected set, add or remove, got " .. tostring(what)
        end
        if type(list) ~= "table" then return nil, what .. ": expected a mapping, or a list to remove" end
        for name, value in pairs(list) do
            local field = what == "remove" and value or name
            if type(field) ~= "string" or not field:find("^[%w!#$%%&'*+.^_`|~-]+$") then
                return nil, what .. ": " .. tostring(field) .. " is no field name"
            end
            if what ~= "remove" then
                if type(value) ~= "string" then return nil, what .. "." .. name .. ": expected a string" end
                local ok, wrong = check_variables(value)
                if not ok then return nil, what .. "." .. name .. ": " .. wrong end
            end
        end
    end
    return edits
end

local SCHEMA = {
    request = { type = "table", check = check_edits },
    response = { type = "table", check = check_edits },
}

local function sorted(map)
    local rows = {}
    for name, value in pairs(map or {}) do rows[#rows + 1] = { name, value } end
    table.sort(rows, function(a, b) return a[1] < b[1] end)
    return rows
end

local function prepare(edits)
    return edits and { remove = edits.remove or {}, set = sorted(edits.set), add = sorted(edits.add) }
end

function Headers.new(options, route)
    local set = gateway.options(route, options, SCHEMA)
    local filter = { request = prepare(set.request), response = prepare(set.response) }
    return setmetatable(filter, Headers)
end

local function expand(text, request)
    if not text:find("$", 1, true) then return text end
    local value = text:gsub("%$(%$?)([%w_]*)", function(escaped, name)
        if escaped ~= "" then return "$" .. name end
        if PLAIN[name] then return request[PLAIN[name]] or "" end
        local kind, what = name:match("^(%a+)_(.+)$")
        if kind == "header" then return request:header((what:gsub("_", "-"))) or "" end
        return request:cookie(what) or ""
    end)
    return (value:gsub("[%z\r\n]", " "))
end

local function apply(edits, message, request)
    for _, name in ipairs(edits.remove) do message:remove_header(name) end
    for _, row in ipairs(edits.set) do message:set_header(row[1], expand(row[2], request)) end
    for _, row in ipairs(edits.add) do message:add_header(row[1], expand(row[2], request)) end
end

function Headers:on_request(request)
    if self.request then apply(self.request, request, request) end
end

function Headers:on_response(request, response)
    if self.response then apply(self.response, response, request) end
end

return Headers
