-- strategies/weighted_random.lua: an endpoint at random, as often as its weight says. It needs neither counts
-- nor turns, so any number of gateways may share a service without marching in step. By the alias method
-- (Walker, ACM TOMS 3(3), 1977; Vose, IEEE TSE 17(9), 1991): 3 or 10,000 endpoints cost the same. Options:
-- none.
local draws = require "fluxgate.draws"

---@class WeightedRandom : Strategy
local WeightedRandom = { name = "weighted_random", api = 1 }
WeightedRandom.__index = WeightedRandom

function WeightedRandom.new(options, service)
    gateway.options(service, options, {})
    return setmetatable({ draws = draws.new() }, WeightedRandom)
end

function WeightedRandom:on_change(backends)
    self.draws:prepare(backends)
end

-- Hot.
function WeightedRandom:pick(request, backends)
    if #backends < 2 then return backends[1] end
    return backends[self.draws:index(backends)]
end

return WeightedRandom
