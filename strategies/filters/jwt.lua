-- strategies/filters/jwt.lua: lets requests pass that bear a valid JSON Web Token (RFC 7519; signatures RFC
-- 7515 and 7518: HS256, RS256, ES256). Each key verifies the one algorithm of its type, and only
-- `algorithms` are taken, so a token can choose neither "none" nor a public key as an HMAC secret (RFC 8725
-- sections 2.1 and 3.1); "crit" is refused. Refused: 401 with WWW-Authenticate: Bearer (RFC 6750 section
-- 3). Options: one of secret (HS256, 32 bytes or more), public_key (PEM) and jwks_url (fetched when first
-- needed and each jwks_refresh, 10m; an unknown kid fetches it again, at most once in jwks_cooldown, 30s;
-- while it is down the last keys hold, and without any the answer is 503); algorithms (what the key
-- allows), issuer, audience (a string or list), leeway (60s), require_exp (true), cookie (a cookie's name;
-- tried where Authorization bears no Bearer), claims_to_headers (claim → header; a client's own are
-- removed), strip (false).
local claims_of = require "fluxgate.filters.claims"
local cjson = require "cjson"
local jwks = require "fluxgate.filters.jwks"

---@class Jwt : Filter
local Jwt = { name = "jwt", api = 1 }
Jwt.__index = Jwt

local TOKEN_MAX = 16384

local function check_algorithms(list)
    for _, name in ipairs(list) do
        if name ~= "HS256" and name ~= "RS256" and name ~= "ES256" then
            return nil, "expected algorithms out of HS256, RS256, ES256"
        end
    end
    return #list > 0 and list or nil, "expected at least one algorithm"
end

local function check_strings(value)
    for _, one in ipairs(type(value) == "table" and value or { value }) do
        if type(one) ~= "string" then return nil, "expected a string or a list of strings" end
    end
    return type(value) == "table" and value or { value }
end

local SCHEMA = {
    secret = { type = "string" }, public_key = { type = "string" }, jwks_url = { type = "string" },
    jwks_refresh = { type = "duration", default = 600, min = 1 },
    jwks_cooldown = { type = "duration", default = 30, min = 1 },
    algorithms = { type = "list", check = check_algorithms },
    issuer = { type = "string" }, audience = { check = check_strings },
    leeway = { type = "duration", default = 60, max = 600 },
    require_exp = { type = "boolean", default = true },
    cookie = { type = "string" }, strip = { type = "boolean", default = false },
    claims_to_headers = { type = "table", default = {}, check = claims_of.check_headers },
}

function Jwt.new(options, route)
    local set = gateway.options(route, options, SCHEMA)
    local keys, wrong = jwks.keys(set)
    if not keys then error(route.options_path .. wrong, 0) end
    local allowed = {}
    for _, name in ipairs(set.algorithms or keys.algorithms) do allowed[name] = true end
    set.keys, set.allowed = keys, allowed
    return setmetatable(set, Jwt)
end

local function decode(part)
    local text = gateway.base64url_decode(part)
    local ok, value = pcall(cjson.decode, text or "")
    return ok and type(value) == "table" and value or nil
end

-- The claims, or nil, what is wrong, and true where the keys could not be had.
function Jwt:verify(token)
    if #token > TOKEN_MAX then return nil, "the token is too long" end
    local head, body, coded = token:match("^([%w_-]+)%.([%w_-]+)%.([%w_-]+)$")
    local header, signature = head and decode(head), coded and gateway.base64url_decode(coded)
    if not header or not signature then return nil, "no JWT" end
    local algorithm, kid = header.alg, header.kid
    if type(algorithm) ~= "string" or not self.allowed[algorithm] then return nil, "algorithm not allowed" end
    if header.crit ~= nil then return nil, "a critical extension is not known" end
    local candidates, down = self.keys:find(type(kid) == "string" and kid or nil)
    if down then return nil, "no keys", true end
    for _, key in ipairs(candidates) do
        if key:verify(algorithm, head .. "." .. body, signature) then
            local claims = decode(body)
            if claims then return claims end
            return nil, "the claims are no JSON object"
        end
    end
    return nil, "the signature does not hold"
end

function Jwt:on_request(request)
    local token = (request:header("authorization") or ""):match("^[Bb][Ee][Aa][Rr][Ee][Rr] +(%S+)$")
    token = token or self.cookie and request:cookie(self.cookie)
    if not token then
        return request:answer(401, "a token is needed\n", { ["WWW-Authenticate"] = "Bearer" })
    end
    local claims, wrong, down = self:verify(token)
    if down then return request:answer(503, "no keys to check the token by\n", { ["Retry-After"] = "1" }) end
    wrong = wrong or claims_of.complaint(claims, self)
    if wrong then
        local challenge = 'Bearer error="invalid_token", error_description="' .. wrong .. '"'
        return request:answer(401, wrong .. "\n", { ["WWW-Authenticate"] = challenge })
    end
    for claim, name in pairs(self.claims_to_headers) do
        local value = claims[claim]
        request:remove_header(name)
        if type(value) == "string" and not value:find("%c") or type(value) == "number" then
            request:set_header(name, tostring(value))
        end
    end
    if self.strip then request:remove_header("Authorization") end
    if type(claims.sub) == "string" then request.ctx.user = claims.sub end
end

return Jwt
