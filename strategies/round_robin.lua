-- strategies/round_robin.lua: each endpoint in turn, as often as its weight says, spread evenly and not in runs.
-- The turn is one counter that all workers share, and every worker builds the same order (endpoints come sorted by id),
-- so 300 requests over three equal endpoints are 100 each, however many workers took them. Options: none.
local ORDER_MAX = 4096 -- turns in one round; finer ratios than that are rounded
local floor, max, min = math.floor, math.max, math.min

---@class RoundRobin : Strategy
local RoundRobin = { name = "round_robin", api = 1 }
RoundRobin.__index = RoundRobin

function RoundRobin.new(options, service)
    gateway.options(service, options, {})
    local turn = gateway.counter("round_robin/" .. service.name)
    return setmetatable({ turn = turn, order = {}, size = 0, prepared = nil }, RoundRobin)
end

local function gcd(a, b)
    while b > 0 do a, b = b, a % b end
    return a
end

-- Whole-number shares that keep the ratio of the weights; a round never passes ORDER_MAX turns, or one each.
local function shares_of(backends)
    local shares, divisor, total = {}, 0, 0
    for i = 1, #backends do
        local weight = backends[i].effective_weight
        shares[i] = max(1, floor(weight * 100 + 0.5)) -- slow start has fractions
        divisor, total = gcd(shares[i], divisor), total + shares[i]
    end
    total = total / max(divisor, 1)
    local scale = min(1, max(ORDER_MAX, #backends) / total) / max(divisor, 1)
    for i = 1, #shares do shares[i] = max(1, floor(shares[i] * scale + 0.5)) end
    return shares
end

-- Turn k of a share s stands at (k - 1/2)/s of the round: earliest deadline first, by a binary heap of endpoint numbers.
local function sift(heap, due, at, count)
    local item = heap[at]
    while at * 2 <= count do
        local child = at * 2
        local right = child + 1
        if right <= count and (due[heap[right]] < due[heap[child]]
            or (due[heap[right]] == due[heap[child]] and heap[right] < heap[child])) then child = right end
        local other = heap[child]
        if due[item] < due[other] or (due[item] == due[other] and item < other) then break end
        heap[at], at = other, child
    end
    heap[at] = item
end

local function spread(shares)
    local heap, due, total, order = {}, {}, 0, {}
    for i = 1, #shares do
        heap[i], due[i], total = i, 0.5 / shares[i], total + shares[i]
    end
    for i = floor(#heap / 2), 1, -1 do sift(heap, due, i, #heap) end
    for turn = 1, total do
        local first = heap[1]
        order[turn] = first
        due[first] = due[first] + 1 / shares[first]
        sift(heap, due, 1, #heap)
    end
    return order
end

-- pick() takes no more than one look into `order`.
function RoundRobin:on_change(backends)
    local order = spread(shares_of(backends))
    for i = 1, #order do order[i] = backends[order[i]] end
    self.order, self.size, self.prepared = order, #order, backends
end

-- Hot. A retry sees fewer backends than on_change did; it takes its turn by walking over the weights.
function RoundRobin:pick(request, backends)
    if backends == self.prepared and self.size > 0 then
        return self.order[self.turn:next() % self.size + 1]
    end
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
