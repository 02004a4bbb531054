-- fluxgate/filters/jwks.lua: the keys of the filter jwt: one from the configuration, or a set (RFC 7517)
-- that is fetched. A set that cannot be fetched or read changes nothing: the last one holds.
local cjson = require "cjson"

local jwks = {}

local Fixed, Remote = {}, {}
Fixed.__index, Remote.__index = Fixed, Remote

local BODY_MAX, KEYS_MAX, TIMEOUT = 65536, 100, 5
local TYPES = { RSA = true, EC = true } -- never oct: a set is public, its secrets would be too

function Fixed:find() return self.list, false end

local function read_set(text)
    local ok, set = pcall(cjson.decode, text)
    if not ok or type(set) ~= "table" or type(set.keys) ~= "table" then return nil, "no JWK set" end
    local by_kid, all = {}, {}
    for i, jwk in ipairs(set.keys) do
        if i > KEYS_MAX then break end
        local is_ours = type(jwk) == "table" and TYPES[jwk.kty] and (jwk.use == nil or jwk.use == "sig")
        local key = is_ours and gateway.public_key(jwk)
        if key then -- RFC 7517 section 5: what one cannot use is left out
            all[#all + 1] = key
            if type(jwk.kid) == "string" then by_kid[jwk.kid] = { key } end
        end
    end
    if #all == 0 then return nil, "the JWK set holds no key that can be used" end
    return { by_kid = by_kid, all = all }
end

function Remote:refresh()
    self.asked_at, self.fetching = gateway.now(), true
    local answer, wrong = gateway.fetch(self.url, { timeout = TIMEOUT, max_body = BODY_MAX })
    self.fetching = false
    local set
    if answer and answer.status == 200 then set, wrong = read_set(answer.body)
    elseif answer then wrong = "status " .. answer.status end
    if set then self.set = set else gateway.log("warn", "jwt: " .. self.url .. ": " .. wrong) end
end

function Remote:may_ask() return not self.asked_at or gateway.now() - self.asked_at >= self.cooldown end

-- The keys that a token with this kid may be signed by, and whether there are none at all to be had. A kid
-- that is not known costs a fetch, but a client can bring about no more than one in `cooldown`.
function Remote:find(kid)
    local known = self.set and (not kid or self.set.by_kid[kid])
    if not known and self:may_ask() then self:refresh() end
    -- another request asked just now: its fetch may have ended without us where its client left
    while not self.set and self.fetching and gateway.now() - self.asked_at <= TIMEOUT do
        gateway.sleep(0.02)
    end
    if not self.set then return {}, true end
    if kid then return self.set.by_kid[kid] or {}, false end
    return self.set.all, false
end

-- The keys of a filter's options, with `algorithms`; nil and what to say behind the options' path.
function jwks.keys(set)
    local count = (set.secret and 1 or 0) + (set.public_key and 1 or 0) + (set.jwks_url and 1 or 0)
    if count ~= 1 then return nil, ": expected one of secret, public_key and jwks_url" end
    if set.jwks_url then
        if not set.jwks_url:find("^https?://[^/]") and not set.jwks_url:find("^service://[^/]") then
            return nil, ".jwks_url: expected http://…, https://… or service://NAME/…"
        end
        local keys = setmetatable({
            url = set.jwks_url, cooldown = set.jwks_cooldown, algorithms = { "RS256", "ES256" },
        }, Remote)
        gateway.every(set.jwks_refresh, function() keys:refresh() end)
        return keys
    end
    local is_secret = set.secret ~= nil
    if is_secret and #set.secret < 32 then -- RFC 7518 section 3.2
        return nil, ".secret: expected 32 bytes or more"
    end
    local source = is_secret and { kty = "oct", k = gateway.base64url_encode(set.secret) } or set.public_key
    local key, wrong = gateway.public_key(source)
    if not key then return nil, (is_secret and ".secret: " or ".public_key: ") .. wrong end
    local algorithms = is_secret and { "HS256" } or { "RS256", "ES256" }
    return setmetatable({ list = { key }, algorithms = algorithms }, Fixed)
end

return jwks
