-- strategies/round_robin.lua: each endpoint in turn, as often as its weight says. The turn is one counter
-- that all workers share, and every worker builds the same round (endpoints come sorted by id), so 300
-- requests over three equal endpoints are 100 each, however many workers took them. Options: none.
local rounds = require "fluxgate.rounds"

---@class RoundRobin : Strategy
local RoundRobin = { name = "round_robin", api = 1 }
RoundRobin.__index = RoundRobin

function RoundRobin.new(options, service)
    gateway.options(service, options, {})
    local turn = gateway.counter("round_robin/" .. service.name)
    return setmetatable({ turn = turn, order = {}, prepared = nil }, RoundRobin)
end

function RoundRobin:on_change(backends)
    self.order, self.prepared = rounds.order(backends), backends
end

-- Hot. A retry sees fewer backends than on_change did: it walks over the weights instead.
function RoundRobin:pick(request, backends)
    local order = self.order
    if backends == self.prepared and #order > 0 then return backends[order[self.turn:next() % #order + 1]] end
    local total = 0
    for i = 1, #backends do total = total + backends[i].weight end
    if total == 0 then return nil end
    local at = self.turn:next() % total
    for i = 1, #backends do
        at = at - backends[i].weight
        if at < 0 then return backends[i] end
    end
end

return RoundRobin
