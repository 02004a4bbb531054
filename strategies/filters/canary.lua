-- strategies/filters/canary.lua: sends a share of the requests to another service. In this order: a header
-- or cookie that says so (header: NAME, with value; cookie: NAME, with value), then the share `weight`
-- (percent). Sticky by `hash` (client_ip, header:NAME, cookie:NAME: the same value always falls on the same
-- side, and a larger weight only adds to it) or by a cookie of its own (sticky_cookie: the side once drawn
-- is kept; a client may write the cookie, so this is no access control). Options: service (needed), weight
-- (0), header, cookie, value ("1"), hash, sticky_cookie, max_age (of that cookie, 1d).
---@class Canary : Filter
local Canary = { name = "canary", api = 1 }
Canary.__index = Canary

local STEPS = 10000 -- a share is known to a hundredth of a percent

local function check_token(text)
    if text:find("^[%w!#$%%&'*+.^_`|~-]+$") then return text end
    return nil, "expected a name"
end

local function check_hash(text)
    if text == "client_ip" or text:find("^header:[%w!#$%%&'*+.^_`|~-]+$")
        or text:find("^cookie:[%w!#$%%&'*+.^_`|~-]+$") then
        return text
    end
    return nil, "expected client_ip, header:NAME or cookie:NAME"
end

local SCHEMA = {
    service = { type = "string", required = true },
    weight = { type = "number", default = 0, min = 0, max = 100 },
    header = { type = "string", check = check_token },
    cookie = { type = "string", check = check_token },
    value = { type = "string", default = "1" },
    hash = { type = "string", check = check_hash },
    sticky_cookie = { type = "string", check = check_token },
    max_age = { type = "duration", default = 86400 },
}

function Canary.new(options, route)
    local set = gateway.options(route, options, SCHEMA)
    if set.hash and set.sticky_cookie then
        error(route.options_path .. ".sticky_cookie: hash keeps clients on their side already", 0)
    end
    set.share = set.weight / 100 * STEPS
    return setmetatable(set, Canary)
end

local function draw(share) return gateway.random(STEPS) <= share end

-- Whether the request goes to the canary, and whether its side is to be remembered.
function Canary:decide(request)
    if self.header and request:header(self.header) == self.value then return true, false end
    if self.cookie and request:cookie(self.cookie) == self.value then return true, false end
    if self.hash then
        local hash = request:hash(self.hash)
        if hash then return hash % STEPS < self.share, false end
    elseif self.sticky_cookie and self.weight > 0 and self.weight < 100 then
        local side = request:cookie(self.sticky_cookie)
        if side == "canary" or side == "stable" then return side == "canary", false end
        return draw(self.share), true
    end
    return draw(self.share), false
end

function Canary:on_request(request)
    local is_canary, remember = self:decide(request)
    if is_canary then request:set_service(self.service) end
    request.ctx.canary = is_canary
    if remember then request.ctx.canary_cookie = is_canary and "canary" or "stable" end
end

function Canary:on_response(request, response)
    local side = request.ctx.canary_cookie
    if not side then return end
    response:add_header("Set-Cookie", ("%s=%s; Path=/; Max-Age=%d; HttpOnly; SameSite=Lax"):format(
        self.sticky_cookie, side, self.max_age))
end

return Canary
