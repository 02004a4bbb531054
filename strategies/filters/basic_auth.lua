-- strategies/filters/basic_auth.lua: HTTP Basic authentication (RFC 7617). Users are a mapping of names to
-- "hmac-sha256:SALT:HEX", where HEX is HMAC-SHA256 of the password under the salt's bytes (printf %s
-- PASSWORD | openssl dgst -sha256 -hmac SALT), to "sha256:BASE64" (htpasswd's {SHA256} is the same value),
-- or to "plain:PASSWORD", of which the log warns. All are fast hashes: keep the file secret and the
-- passwords long. An unknown name costs as much as a wrong password. Options: users (needed), realm
-- ("restricted"), user_header ("X-Remote-User": set for the backend, and never taken from a client; "" for
-- none), strip (true: Authorization is not sent on).
---@class BasicAuth : Filter
local BasicAuth = { name = "basic_auth", api = 1 }
BasicAuth.__index = BasicAuth

local PASSWORD_MAX = 1024

local function from_hex(text)
    return (text:gsub("%x%x", function(hex) return string.char(tonumber(hex, 16)) end))
end

-- What a user's line holds: the kind, the salt and the digest that a password must give.
local function read_secret(text)
    if type(text) ~= "string" then return nil end
    local salt, hex = text:match("^hmac%-sha256:([^:]+):(%x+)$")
    if salt and #hex == 64 then return { salt = salt, digest = from_hex(hex) } end
    local coded = text:match("^sha256:(.+)$") or text:match("^{SHA256}(.+)$")
    local digest = coded and gateway.base64_decode(coded)
    if digest and #digest == 32 then return { digest = digest } end
    local plain = text:match("^plain:(.+)$")
    if plain then return { digest = gateway.sha256(plain), is_plain = true } end
    return nil
end

local function check_users(given)
    local users, count = {}, 0
    for name, text in pairs(given) do
        name = tostring(name)
        if name == "" or name:find("[:%c]") then return nil, "a name may hold no ':' and no control byte" end
        users[name] = read_secret(text)
        if not users[name] then
            return nil, name .. ": expected hmac-sha256:SALT:HEX, sha256:BASE64 or plain:PASSWORD"
        end
        count = count + 1
    end
    if count == 0 then return nil, "expected at least one user" end
    return users
end

local function check_realm(text)
    if text:find("[%c\"\\]") then return nil, "expected text without quotes and control bytes" end
    return text
end

local function check_name(text)
    if text == "" or text:find("^[%w!#$%%&'*+.^_`|~-]+$") then return text end
    return nil, "expected a header name"
end

local SCHEMA = {
    users = { type = "table", required = true, check = check_users },
    realm = { type = "string", default = "restricted", check = check_realm },
    user_header = { type = "string", default = "X-Remote-User", check = check_name },
    strip = { type = "boolean", default = true },
}

function BasicAuth.new(options, route)
    local set = gateway.options(route, options, SCHEMA)
    for name, user in pairs(set.users) do
        if user.is_plain then
            gateway.log("warn", "basic_auth: the configuration holds the password of " .. name .. " in plain")
        end
    end
    return setmetatable({
        users = set.users, strip = set.strip, user_header = set.user_header ~= "" and set.user_header,
        challenge = 'Basic realm="' .. set.realm .. '", charset="UTF-8"',
        nobody = { salt = "nobody", digest = ("\0"):rep(32) },
    }, BasicAuth)
end

local function credentials(value)
    if not value or #value > 2 * PASSWORD_MAX then return nil end
    local coded = value:match("^[Bb][Aa][Ss][Ii][Cc] +([%w+/]+=*) *$")
    local text = coded and gateway.base64_decode(coded)
    if not text or #text > PASSWORD_MAX then return nil end
    return text:match("^([^:%c]+):(%C*)$")
end

-- The name of the user that the request proves to be, or nil.
function BasicAuth:user(request)
    local name, password = credentials(request:header("authorization"))
    if not name then return nil end
    local user = self.users[name] or self.nobody
    local digest = user.salt and gateway.hmac_sha256(user.salt, password) or gateway.sha256(password)
    local is_right = gateway.equal(digest, user.digest)
    return is_right and user ~= self.nobody and name or nil
end

function BasicAuth:on_request(request)
    local name = self:user(request)
    if not name then
        return request:answer(401, "authentication needed\n", { ["WWW-Authenticate"] = self.challenge })
    end
    if self.strip then request:remove_header("Authorization") end
    if self.user_header then request:set_header(self.user_header, name) end
    request.ctx.user = name
end

return BasicAuth
