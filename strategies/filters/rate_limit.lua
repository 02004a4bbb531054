-- strategies/filters/rate_limit.lua: at most so many requests a client and time, by a token bucket in the
-- shared segment: exact over all workers, kept over reloads. Refused: 429 with Retry-After (RFC 6585
-- section 4). Every answer says RateLimit-Limit, -Policy, -Remaining and -Reset
-- (draft-ietf-httpapi-ratelimit-headers-06). Options: rate ("100/s", also /m, /h, /d; needed), burst
-- (requests at once: what one second earns, at least 1), key (client_ip, host, path, header:NAME,
-- cookie:NAME, or a list of them; client_ip), cost (1), when_full (deny or allow: what happens to a new
-- client when the dictionary has no room; deny), dict ("rate_limit"; filters that name the same dict and
-- the same scope share their buckets), scope (the route's name), headers (true). A client that sends no
-- value for a key shares the bucket of all who send none: leaving a header out is no way around the limit.
---@class RateLimit : Filter
local RateLimit = { name = "rate_limit", api = 1 }
RateLimit.__index = RateLimit

local UNITS = { s = 1, m = 60, h = 3600, d = 86400 }
local PLAIN = { client_ip = true, host = true, path = true }
local KEY_BYTES = 64 -- longer keys are hashed, so that no client makes long ones in shared memory

local function check_rate(text)
    local count, unit = tostring(text):match("^(%d+)/([smhd])$")
    count = tonumber(count)
    if not count or count <= 0 then return nil, "expected a rate like \"100/s\" (s, m, h or d)" end
    return { per_second = count / UNITS[unit], count = count, window = UNITS[unit] }
end

local function check_key(given)
    local list = type(given) == "table" and given or { given }
    for _, key in ipairs(list) do
        local kind = type(key) == "string" and key:match("^(%a+):[%w!#$%%&'*+.^_`|~-]+$")
        if not PLAIN[key] and kind ~= "header" and kind ~= "cookie" then
            return nil, "expected client_ip, host, path, header:NAME, cookie:NAME or a list of them"
        end
    end
    if #list == 0 then return nil, "expected at least one key" end
    return list
end

local SCHEMA = {
    rate = { required = true, check = check_rate },
    burst = { type = "integer", min = 1 },
    key = { default = { "client_ip" }, check = check_key },
    cost = { type = "integer", default = 1, min = 1 },
    when_full = { type = "string", default = "deny", one_of = { "deny", "allow" } },
    dict = { type = "string", default = "rate_limit" },
    scope = { type = "string" },
    headers = { type = "boolean", default = true },
}

function RateLimit.new(options, route)
    local set = gateway.options(route, options, SCHEMA)
    local burst = set.burst or math.max(1, math.floor(set.rate.per_second))
    if set.cost > burst then
        error(route.options_path .. ".cost: more than a bucket of " .. burst .. " can ever hold", 0)
    end
    return setmetatable({
        rate = set.rate.per_second, burst = burst, cost = set.cost, keys = set.key, headers = set.headers,
        allow_when_full = set.when_full == "allow", scope = set.scope or route.name,
        policy = ("%d;w=%d;burst=%d"):format(set.rate.count, set.rate.window, burst),
        dict = gateway.dict(set.dict),
        refused = gateway.metric("counter", "fluxgate_rate_limited_total",
            "Requests that rate_limit refused", { "route" }),
        route = route.name,
    }, RateLimit)
end

-- Every part is led by its length: no value can be cut so that it becomes another client's key.
function RateLimit:key(request)
    local parts = { self.scope }
    for i, key in ipairs(self.keys) do
        local kind, name = key:match("^(%a+):(.+)$")
        local value
        if kind then value = request[kind](request, name) else value = request[key] end
        parts[i + 1] = value and #value .. ":" .. value or "-"
    end
    local text = table.concat(parts, "|")
    if #text <= KEY_BYTES then return text end
    return gateway.base64url_encode(gateway.sha256(text))
end

local function seconds(value) return tostring(math.ceil(value)) end

function RateLimit:on_request(request)
    local taken, more = self.dict:take(self:key(request), self.rate, self.burst, self.cost)
    if taken then
        local ctx = request.ctx
        if self.headers and not (ctx.rate_left and ctx.rate_left <= more) then -- of several, the tightest
            ctx.rate_left, ctx.rate_reset = math.floor(more), (self.burst - more) / self.rate
            ctx.rate_limit, ctx.rate_policy = self.burst, self.policy
        end
        return
    end
    if type(more) ~= "number" then -- no room for another bucket
        if self.allow_when_full then return end
        self.refused:add(1, self.route)
        return request:answer(503, "the rate limiter has no room\n", { ["Retry-After"] = "1" })
    end
    self.refused:add(1, self.route)
    local headers = { ["Retry-After"] = seconds(more) }
    if self.headers then
        headers["RateLimit-Limit"], headers["RateLimit-Policy"] = tostring(self.burst), self.policy
        headers["RateLimit-Remaining"], headers["RateLimit-Reset"] = "0", seconds(more)
    end
    return request:answer(429, "too many requests\n", headers)
end

function RateLimit:on_response(request, response)
    local left = self.headers and request.ctx.rate_left
    if not left then return end
    response:set_header("RateLimit-Limit", tostring(request.ctx.rate_limit))
    response:set_header("RateLimit-Policy", request.ctx.rate_policy)
    response:set_header("RateLimit-Remaining", tostring(left))
    response:set_header("RateLimit-Reset", seconds(request.ctx.rate_reset))
end

return RateLimit
