-- fluxgate/spill.lua: requests divided among priority levels as Envoy does ("Priority levels" and
-- "Overprovisioning factor" of its docs): a level takes `factor` × the share of its endpoints that may be
-- picked, at most all; what is left goes to the next. Where all levels together take less than all, each
-- takes in proportion.
local random, min = gateway.random, math.min

local Spill = {}
Spill.__index = Spill

-- `inners`: a strategy for each level. Numbers beyond the last one's count as its own.
local function new_spill(inners, factor)
    return setmetatable({ inners = inners, factor = factor, levels = {}, scratch = {} }, Spill)
end

local function level_of(levels, number)
    for _, level in ipairs(levels) do
        if number <= level.last then return level end
    end
    return nil
end

local function new_levels(numbers, most)
    local sorted, levels = {}, {}
    for _, number in pairs(numbers) do sorted[#sorted + 1] = number end
    table.sort(sorted)
    for _, number in ipairs(sorted) do
        local level = levels[#levels]
        if not level or (level.last < number and #levels < most) then
            levels[#levels + 1] = { last = number, total = 0, here = {}, share = 0 }
        else
            level.last = number
        end
    end
    return levels
end

local function divide(levels, factor)
    local sum, left = 0, 1
    for _, level in ipairs(levels) do
        level.health = level.total > 0 and min(1, factor * #level.here / level.total) or 0
        sum = sum + level.health
    end
    for _, level in ipairs(levels) do
        level.share = sum > 0 and min(left, level.health / min(1, sum)) or 0
        left = left - level.share
    end
end

-- `numbers`: id → priority, of `all` the endpoints of the service. Those that leave on purpose do not count.
function Spill:change(numbers, all, backends)
    local levels = new_levels(numbers, #self.inners)
    for _, backend in ipairs(backends) do
        local level = level_of(levels, numbers[backend.id] or 0) or levels[#levels]
        level.here[#level.here + 1] = backend
    end
    for _, backend in ipairs(all) do
        local is_leaving = backend.state == "draining" or backend.state == "maintenance"
        local level = level_of(levels, numbers[backend.id])
        if not is_leaving and backend.weight > 0 then level.total = level.total + 1 end
    end
    divide(levels, self.factor)
    for i, level in ipairs(levels) do
        level.inner = self.inners[i]
        if level.inner.on_change then level.inner:on_change(level.here) end
    end
    self.levels, self.numbers, self.prepared = levels, numbers, backends
end

-- Hot.
function Spill:draw()
    local levels, at, last = self.levels, random(), nil
    for i = 1, #levels do
        local level = levels[i]
        if level.share > 0 then
            if at < level.share then return level end
            at, last = at - level.share, level
        end
    end
    return last -- what rounding left over
end

-- Those of `backends` that stand in `wanted`.
local function keep(self, backends, wanted)
    local scratch, count = self.scratch, 0
    for i = 1, #backends do
        if level_of(self.levels, self.numbers[backends[i].id] or 0) == wanted then
            count = count + 1
            scratch[count] = backends[i]
        end
    end
    for i = #scratch, count + 1, -1 do scratch[i] = nil end
    return count
end

-- Hot. A retry that finds its level tried out goes to the first that has anybody left.
function Spill:pick(request, backends)
    local level = self:draw()
    if not level then return nil end
    if backends == self.prepared then return level.inner:pick(request, level.here) end
    if keep(self, backends, level) > 0 then return level.inner:pick(request, self.scratch) end
    for _, other in ipairs(self.levels) do
        if keep(self, backends, other) > 0 then return other.inner:pick(request, self.scratch) end
    end
    return backends[1]
end

return new_spill
