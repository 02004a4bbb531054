-- strategies/power_of_two.lua: of two endpoints drawn at random, the one with less load for its weight.
-- Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", IEEE TPDS 12(10), 2001. It looks at
-- two counts instead of all, and unlike least_connections many gateways that see old counts do not all run to
-- the same endpoint. Options: none.
local draws = require "fluxgate.draws"
local random = gateway.random

---@class PowerOfTwo : Strategy
local PowerOfTwo = { name = "power_of_two", api = 1 }
PowerOfTwo.__index = PowerOfTwo

function PowerOfTwo.new(options, service)
    gateway.options(service, options, {})
    return setmetatable({ draws = draws.new() }, PowerOfTwo)
end

function PowerOfTwo:on_change(backends)
    self.draws:prepare(backends)
end

-- Hot. The first is drawn by weight, so that an idle service is used by weight. The second takes over where,
-- with this request, it bears no more for its weight than the first does without it. Compared crosswise: no
-- division.
function PowerOfTwo:pick(request, backends)
    local count = #backends
    if count < 2 then return backends[1] end
    local i, j = self.draws:index(backends), random(count - 1)
    if j >= i then j = j + 1 end
    local first, second = backends[i], backends[j]
    if (second.active + 1) * first.effective_weight <= first.active * second.effective_weight then
        return second
    end
    return first
end

return PowerOfTwo
