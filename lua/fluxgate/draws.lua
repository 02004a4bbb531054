-- fluxgate/draws.lua: endpoints drawn at random by weight, in the same time however many there are. The alias
-- method: Walker, "An Efficient Method for Generating Discrete Random Variables with General Distributions",
-- ACM TOMS 3(3), 1977; its tables are built in one pass as Vose does, IEEE TSE 17(9), 1991.
local random = gateway.random

local Draws = {}
Draws.__index = Draws

local draws = {}

function draws.new()
    return setmetatable({ odds = {}, other = {}, prepared = nil, mean_weight = 1 }, Draws)
end

-- Column i holds 1/n of all luck: `odds[i]` of it belongs to endpoint i, the rest to endpoint `other[i]`.
function Draws:prepare(backends)
    local count, total = #backends, 0
    local odds, other, small, large = {}, {}, {}, {}
    for i = 1, count do total = total + backends[i].effective_weight end
    for i = 1, count do
        odds[i], other[i] = backends[i].effective_weight * count / total, i
        local pile = odds[i] < 1 and small or large
        pile[#pile + 1] = i
    end
    while #small > 0 and #large > 0 do
        local poor, rich = small[#small], large[#large]
        small[#small], other[poor] = nil, rich
        odds[rich] = odds[rich] + odds[poor] - 1
        if odds[rich] < 1 then
            large[#large] = nil
            small[#small + 1] = rich
        end
    end
    for _, pile in ipairs { small, large } do -- what rounding left over
        for i = 1, #pile do odds[pile[i]] = 1 end
    end
    self.odds, self.other, self.prepared = odds, other, backends
    self.mean_weight = count > 0 and total / count or 1
end

-- Hot. An index into `backends`, which must not be empty. A retry sees fewer than prepare() did: then the
-- weights are walked over.
function Draws:index(backends)
    local count = #backends
    if backends == self.prepared then
        local at = random() * count
        local column = at - at % 1
        if at - column < self.odds[column + 1] then return column + 1 end
        return self.other[column + 1]
    end
    local total = 0
    for i = 1, count do total = total + backends[i].effective_weight end
    local at = random() * total
    for i = 1, count - 1 do
        at = at - backends[i].effective_weight
        if at < 0 then return i end
    end
    return count
end

return draws
