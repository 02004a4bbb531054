-- strategies/sticky_sessions.lua: a client stays with the endpoint that its cookie names. The cookie is
-- HMAC-SHA256(secret, service, endpoint id), so it names an endpoint of this service and can be forged into
-- nothing else; nothing is stored, so sessions hold over workers, restarts and gateways that share the
-- secrets. A draining endpoint keeps its sessions. One that is unhealthy or gone means a new pick by
-- `fallback` and a new cookie. Options: cookie ("SESSIONID"), secrets (one or two, newest first: a cookie of
-- the older is replaced), secure (false), http_only (true), same_site ("Lax"), max_age (a duration; a session
-- cookie without), path ("/"), fallback ("round_robin") and fallback_options. Without secrets a fixed key is
-- used: cookies then hold as well, but anyone can compute which one means which endpoint.
local PRODUCT_KEY = "fluxgate sticky_sessions: no secret was configured"
local COOKIES_MAX = 4 -- of one name that are looked at
local TOKEN_CHARACTERS = 27 -- 162 bits

---@class StickySessions : Strategy
local StickySessions = { name = "sticky_sessions", api = 1 }
StickySessions.__index = StickySessions

local function check_secrets(list)
    if #list < 1 or #list > 2 then return nil, "expected one secret, or two: the new and the old" end
    for _, secret in ipairs(list) do
        if type(secret) ~= "string" or secret == "" then
            return nil, "expected secrets that are not empty (32 random characters are good ones)"
        end
    end
    return list
end

local function check_cookie(name)
    if name:find("^[%w!#$%%&'*+.^_`|~-]+$") then return name end
    return nil, "expected a cookie name (letters, digits, '-', '_')"
end

local SCHEMA = {
    cookie = { type = "string", default = "SESSIONID", check = check_cookie },
    secrets = { type = "list", default = { PRODUCT_KEY }, check = check_secrets },
    secure = { type = "boolean", default = false },
    http_only = { type = "boolean", default = true },
    same_site = { type = "string", default = "Lax", one_of = { "Lax", "Strict", "None" } },
    max_age = { type = "duration" },
    path = { type = "string", default = "/" },
    fallback = { type = "string", default = "round_robin" },
    fallback_options = { type = "table", default = {} },
}

function StickySessions.new(options, service)
    local set = gateway.options(service, options, SCHEMA)
    if set.fallback == "sticky_sessions" then
        error(service.options_path .. ".fallback: expected another strategy than sticky_sessions", 0)
    end
    return setmetatable({
        service = service, cookie = set.cookie, secrets = set.secrets,
        attributes = {
            path = set.path, secure = set.secure, http_only = set.http_only, same_site = set.same_site,
            max_age = set.max_age,
        },
        fallback = gateway.strategy(set.fallback, set.fallback_options),
        current = {}, -- id → the token of the newest secret: what is sent
        old = {},     -- id → the token of the older secret
        ids = {},     -- token of any secret → id
    }, StickySessions)
end

local function token(secret, service, id)
    local digest = gateway.hmac_sha256(secret, service .. "\0" .. id)
    return gateway.base64url_encode(digest):sub(1, TOKEN_CHARACTERS)
end

-- Tokens are computed once an endpoint, the draining and the unhealthy too, and forgotten with it.
function StickySessions:on_change()
    local current, old, ids, name = {}, {}, {}, self.service.name
    for _, backend in ipairs(self.service:endpoints()) do
        local id = backend.id
        current[id] = self.current[id] or token(self.secrets[1], name, id)
        ids[current[id]] = id
        if self.secrets[2] then
            old[id] = self.old[id] or token(self.secrets[2], name, id)
            ids[old[id]] = id
        end
    end
    self.current, self.old, self.ids = current, old, ids
end

-- The first cookie of the name is the closest one (RFC 6265 §5.4), which may be an application's own.
local function find_behind(self, request)
    for nth = 2, COOKIES_MAX do
        local cookie = request:cookie(self.cookie, nth)
        if not cookie then return nil end
        local backend = request:bound(self.ids[cookie])
        if backend then return backend, cookie end
    end
end

-- Hot.
function StickySessions:pick(request, backends)
    local cookie = request:cookie(self.cookie)
    local backend = cookie and request:bound(self.ids[cookie])
    if cookie and not backend then backend, cookie = find_behind(self, request) end
    if not backend then
        backend = self.fallback:pick(request, backends)
        if not backend then return nil end
    end
    local fresh = self.current[backend.id]
    if fresh and fresh ~= cookie then request:set_cookie(self.cookie, fresh, self.attributes) end
    return backend
end

return StickySessions
