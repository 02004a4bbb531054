-- strategies/filters/compress.lua: compresses answers in the encoding that the client likes best (RFC 9110
-- section 12.5.3: q-values, "*", q=0 forbids; no field: nothing is compressed). Vary: Accept-Encoding
-- wherever another client could get another form, compressed or not. What is encoded, partial, no-transform
-- or without a body stays as it is. Compressing pages that hold both a secret and what a client sent lets
-- the secret be guessed by length (BREACH): leave such routes out. Options: encodings ([zstd, gzip], best
-- first; also deflate), types (list of media types, "text/*" too), min_length (1024 bytes, where
-- Content-Length is known), level (3 for zstd, 6 else).
---@class Compress : Filter
local Compress = { name = "compress", api = 1 }
Compress.__index = Compress

local KNOWN = { gzip = true, zstd = true, deflate = true }
local LEVELS = { zstd = 3, gzip = 6, deflate = 6 }
local TYPES = {
    "text/*", "application/json", "application/javascript", "application/xml", "application/wasm",
    "application/manifest+json", "application/problem+json", "image/svg+xml",
}

local function check_encodings(list)
    for _, name in ipairs(list) do
        if not KNOWN[name] then return nil, "expected encodings out of zstd, gzip, deflate" end
    end
    if #list == 0 then return nil, "expected at least one encoding" end
    return list
end

local function check_types(list)
    for _, name in ipairs(list) do
        if type(name) ~= "string" or not name:find("^[%w!#$&^_.+-]+/[%w!#$&^_.+*-]+$") then
            return nil, "expected media types like text/html or text/*"
        end
    end
    return list
end

local SCHEMA = {
    encodings = { type = "list", default = { "zstd", "gzip" }, check = check_encodings },
    types = { type = "list", default = TYPES, check = check_types },
    min_length = { type = "integer", default = 1024, min = 0 },
    level = { type = "integer", min = 1, max = 9 },
}

function Compress.new(options, route)
    local set, types = gateway.options(route, options, SCHEMA), {}
    for _, name in ipairs(set.types) do types[name:lower()] = true end
    return setmetatable({
        encodings = set.encodings, types = types, min_length = set.min_length, level = set.level,
    }, Compress)
end

-- Accept-Encoding as a table of name → q. An element that is malformed counts as not there.
local function accepted(value)
    local weights = {}
    for element in value:lower():gmatch("[^,]+") do
        local name, parameters = element:match("^%s*([%w!#$%%&'*+.^_`|~-]+)%s*(.-)%s*$")
        local q = parameters == "" and "1" or parameters and parameters:match("^;%s*q=([01]%.?%d?%d?%d?)$")
        q = tonumber(q)
        if name and q and q <= 1 then
            if name == "x-gzip" then name = "gzip" end
            weights[name] = weights[name] or q
        end
    end
    return weights
end

-- The encoding of the highest q that we have, ours in order where two are equal; nil where none, or where
-- the client would rather have the plain form.
function Compress:choose(value)
    if not value then return nil end
    local weights, best, best_q = accepted(value), nil, 0
    for _, name in ipairs(self.encodings) do
        local q = weights[name] or weights["*"] or 0
        if q > best_q then best, best_q = name, q end
    end
    if weights.identity and weights.identity > best_q then return nil end
    return best
end

function Compress:on_request(request)
    request.ctx.compress = self:choose(request:header("accept-encoding"))
end

local function adds_vary(response)
    for name in (response:header("vary") or ""):lower():gmatch("[^%s,]+") do
        if name == "accept-encoding" or name == "*" then return false end
    end
    return true
end

function Compress:on_response(request, response)
    local media = (response:header("content-type") or ""):lower():match("^%s*([^%s;]+)")
    if not media or not (self.types[media] or self.types[media:gsub("/.*$", "/*")]) then return end
    local length = tonumber(response:header("content-length") or "")
    if length and length < self.min_length then return end
    if adds_vary(response) then response:add_header("Vary", "Accept-Encoding") end
    local encoding = request.ctx.compress
    if encoding then response:compress(encoding, self.level or LEVELS[encoding]) end
end

return Compress
