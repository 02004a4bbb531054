-- strategies/least_connections.lua: the endpoint with the fewest active requests for its weight. `active`
-- counts the requests of every worker. Among equals the search begins each time at the next one of a weighted
-- round, so that an idle service is used evenly and not from its first endpoint on. Options: none.
local rounds = require "fluxgate.rounds"

---@class LeastConnections : Strategy
local LeastConnections = { name = "least_connections", api = 1 }
LeastConnections.__index = LeastConnections

function LeastConnections.new(options, service)
    gateway.options(service, options, {})
    return setmetatable({ turn = gateway.random(1024), order = {} }, LeastConnections)
end

function LeastConnections:on_change(backends)
    self.order = rounds.order(backends)
end

-- Hot. Loads are compared crosswise, a/v < b/w as a*w < b*v: no division, and equal ratios are equal.
function LeastConnections:pick(request, backends)
    local count, order, turn = #backends, self.order, self.turn + 1
    if count == 0 then return nil end
    if turn >= #order then turn = 0 end
    self.turn = turn
    local at = (order[turn + 1] or 1) - 1
    local best, best_active, best_weight
    for _ = 1, count do
        at = at < count and at + 1 or 1
        local backend = backends[at]
        local active, weight = backend.active, backend.effective_weight
        if not best or active * best_weight < best_active * weight then
            best, best_active, best_weight = backend, active, weight
        end
    end
    return best
end

return LeastConnections
