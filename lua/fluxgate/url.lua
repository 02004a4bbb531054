-- fluxgate/url.lua: percent encoding (RFC 3986 section 2.1) and query strings as forms write them. For
-- filters that build a URL for gateway.fetch or read what a client asked; not for the hot path.
local url = {}

local byte, char, format = string.byte, string.char, string.format

local function escape(c) return format("%%%02X", byte(c)) end
local function unescape(digits) return char(tonumber(digits, 16)) end

-- All but unreserved characters escaped: fit for a path's segment, and for a name or value of a query.
function url.encode(text) return (text:gsub("[^%w%-._~]", escape)) end

-- Every %XX as its byte; what is no escape stays. "+" is a plus.
function url.decode(text) return (text:gsub("%%(%x%x)", unescape)) end

local function decode_form(text) return url.decode((text:gsub("%+", " "))) end

-- name → its first value, so that nobody makes a list of it by saying it twice; and a list of { name, value }
-- with all of them in order.
function url.query_decode(query)
    local first, list = {}, {}
    for part in query:gmatch("[^&]+") do
        local name, value = part:match("^([^=]*)=?(.*)$")
        name, value = decode_form(name), decode_form(value)
        if first[name] == nil then first[name] = value end
        list[#list + 1] = { name, value }
    end
    return first, list
end

-- name → value, or a list of values: sorted by name, so that equal tables are equal texts. nil and the name
-- where a value is none.
function url.query_encode(values)
    local names, parts = {}, {}
    for name in pairs(values) do
        if type(name) ~= "string" then return nil, tostring(name) end
        names[#names + 1] = name
    end
    table.sort(names)
    for _, name in ipairs(names) do
        local value = values[name]
        for _, one in ipairs(type(value) == "table" and value or { value }) do
            local kind = type(one)
            if kind ~= "string" and kind ~= "number" and kind ~= "boolean" then return nil, name end
            parts[#parts + 1] = url.encode(name) .. "=" .. url.encode(tostring(one))
        end
    end
    return table.concat(parts, "&")
end

return url
