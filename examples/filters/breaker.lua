-- examples/filters/breaker.lua: a circuit breaker over all workers. After `failures` answers of 502, 503 or
-- 504 in a row, the gateway's own included, the route answers with a page of its own for `open`; then one
-- request in `open` tries whether it is better. Options: failures (5), open (10s), page.
local Breaker = { name = "breaker", api = 1 }
Breaker.__index = Breaker

local SCHEMA = {
    failures = { type = "integer", default = 5, min = 1 },
    open = { type = "duration", default = "10s", min = 0.01 },
    page = { type = "string", default = "Back soon.\n" },
}

function Breaker.new(options, owner)
    local self = setmetatable(gateway.options(owner, options, SCHEMA), Breaker)
    self.state = gateway.dict("breaker") -- kept over reloads
    self.count, self.pause = "count/" .. owner.name, "pause/" .. owner.name
    return self
end

function Breaker:on_request(request)
    if (self.state:get(self.count) or 0) < self.failures then return end
    if self.state:add(self.pause, true, self.open) then return end -- the one that tries
    request.ctx.is_breaker = true
    local headers = { ["Content-Type"] = "text/html; charset=utf-8", ["Retry-After"] = math.ceil(self.open) }
    request:answer(503, self.page, headers)
end

-- Hears of all requests, of those without an answer too.
function Breaker:on_log(request, response)
    if request.ctx.is_breaker or response.reason == "client_gone" then return end
    if response.status < 502 or response.status > 504 then
        self.state:delete(self.count)
    elseif self.state:incr(self.count, 1, 0, 3600) == self.failures then
        self.state:set(self.pause, true, self.open)
        local why, where = response.reason or response.status, response.endpoint or "none"
        gateway.log("warn", ("the circuit opens: %s at %s"):format(why, where))
    end
end

return Breaker
