-- strategies/filters/cors.lua: the server's half of CORS (Fetch standard, section 3.2). A preflight
-- (OPTIONS with Origin and Access-Control-Request-Method) is answered here, 204; other requests are sent
-- on, and their answer gets the fields where the origin is allowed and loses those that the backend set.
-- Origins are compared as bytes; "https://*.example.com" takes one or more labels, never part of one; "*"
-- takes all and cannot stand with credentials, since that would open every user's session to every site.
-- Vary: Origin whenever the answer depends on it. CORS tells browsers what they may read: it keeps nobody
-- else out. Options: origins (needed), methods ([GET, HEAD, POST]), headers ([]; names the request may
-- bear), expose ([]), credentials (false), max_age (10m).
---@class Cors : Filter
local Cors = { name = "cors", api = 1 }
Cors.__index = Cors

local FIELDS = {
    "Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Access-Control-Expose-Headers",
    "Access-Control-Allow-Methods", "Access-Control-Allow-Headers", "Access-Control-Max-Age",
}

local function check_origins(list)
    for _, origin in ipairs(list) do
        local is_one = type(origin) == "string"
            and (origin == "*" or origin:find("^[%l][%w+.-]*://%*?[%l%d%.%-:%[%]]+$"))
        if not is_one then return nil, "expected origins like https://a.example, lower case, no path" end
        local rest = origin:match("://%*(.*)$")
        if rest and (rest:sub(1, 1) ~= "." or not rest:find("^%.[%w-]+%.")) then
            return nil, origin .. ": a wildcard takes whole labels of a domain: https://*.example.com"
        end
    end
    if #list == 0 then return nil, "expected at least one origin" end
    return list
end

local function check_tokens(list)
    for _, name in ipairs(list) do
        if type(name) ~= "string" or not name:find("^[%w!#$%%&'*+.^_`|~-]+$") then
            return nil, "expected a list of names"
        end
    end
    return list
end

local SCHEMA = {
    origins = { type = "list", required = true, check = check_origins },
    methods = { type = "list", default = { "GET", "HEAD", "POST" }, check = check_tokens },
    headers = { type = "list", default = {}, check = check_tokens },
    expose = { type = "list", default = {}, check = check_tokens },
    credentials = { type = "boolean", default = false },
    max_age = { type = "duration", default = 600 },
}

function Cors.new(options, route)
    local set = gateway.options(route, options, SCHEMA)
    local exact, wildcards, any = {}, {}, false
    for _, origin in ipairs(set.origins) do
        local scheme, suffix = origin:match("^(.-://)%*(.*)$")
        if origin == "*" then any = true
        elseif scheme then wildcards[#wildcards + 1] = { scheme = scheme, suffix = suffix }
        else exact[origin] = true end
    end
    if set.credentials and any then
        error(route.options_path .. ".origins: '*' and credentials together would open every session", 0)
    end
    return setmetatable({
        exact = exact, wildcards = wildcards, any = any, credentials = set.credentials,
        methods = table.concat(set.methods, ", "), headers = table.concat(set.headers, ", "),
        expose = #set.expose > 0 and table.concat(set.expose, ", "),
        max_age = tostring(math.floor(set.max_age)),
    }, Cors)
end

-- What Access-Control-Allow-Origin says to this origin; nil where it is none of ours ("null" never is).
function Cors:allowed(origin)
    if self.any then return "*" end -- to whoever asks: caches then need no Vary
    if not origin then return nil end
    if self.exact[origin] then return origin end
    for _, one in ipairs(self.wildcards) do
        local label = origin:sub(#one.scheme + 1, -#one.suffix - 1)
        if origin:sub(1, #one.scheme) == one.scheme and origin:sub(-#one.suffix) == one.suffix
            and label:find("^[%l%d][%l%d%.%-]*$") then
            return origin
        end
    end
    return nil
end

function Cors:on_request(request)
    local origin = request:header("origin")
    request.ctx.cors_origin = origin
    if request.method ~= "OPTIONS" or not origin or not request:header("access-control-request-method") then
        return
    end
    local allowed = self:allowed(origin)
    local fields = { Vary = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers" }
    if allowed then
        fields["Access-Control-Allow-Origin"], fields["Access-Control-Allow-Methods"] = allowed, self.methods
        fields["Access-Control-Max-Age"] = self.max_age
        if self.headers ~= "" then fields["Access-Control-Allow-Headers"] = self.headers end
        if self.credentials then fields["Access-Control-Allow-Credentials"] = "true" end
    end
    return request:answer(204, "", fields)
end

function Cors:on_response(request, response)
    for _, name in ipairs(FIELDS) do response:remove_header(name) end
    local allowed = self:allowed(request.ctx.cors_origin)
    if not self.any then response:add_header("Vary", "Origin") end
    if not allowed then return end
    response:set_header("Access-Control-Allow-Origin", allowed)
    if self.credentials then response:set_header("Access-Control-Allow-Credentials", "true") end
    if self.expose then response:set_header("Access-Control-Expose-Headers", self.expose) end
end

return Cors
