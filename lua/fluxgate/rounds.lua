-- fluxgate/rounds.lua: the order in which weighted endpoints take turns: each as often as its weight says,
-- spread evenly over the round instead of in runs. Built when endpoints change; pick() only looks into it.
local floor, max, min = math.floor, math.max, math.min

local rounds = {}

-- Turns in one round, or one for each endpoint if that is more; finer ratios are rounded.
local ORDER_MAX = 4096

local function gcd(a, b)
    while b > 0 do a, b = b, a % b end
    return a
end

-- Whole-number shares that keep the ratio of the weights. Slow start makes fractions: hundredths count.
local function shares_of(backends)
    local shares, divisor, total = {}, 0, 0
    for i = 1, #backends do
        shares[i] = max(1, floor(backends[i].effective_weight * 100 + 0.5))
        divisor, total = gcd(shares[i], divisor), total + shares[i]
    end
    divisor = max(divisor, 1)
    local scale = min(1, max(ORDER_MAX, #backends) / (total / divisor)) / divisor
    for i = 1, #shares do shares[i] = max(1, floor(shares[i] * scale + 0.5)) end
    return shares
end

-- Moves heap[at] down to its place: the number of the endpoint whose next turn is due first stands at the
-- top.
local function sift(heap, due, at, count)
    local item = heap[at]
    while at * 2 <= count do
        local child, right = at * 2, at * 2 + 1
        if right <= count then
            local a, b = due[heap[right]], due[heap[child]]
            if a < b or (a == b and heap[right] < heap[child]) then child = right end
        end
        local other = heap[child]
        if due[item] < due[other] or (due[item] == due[other] and item < other) then break end
        heap[at], at = other, child
    end
    heap[at] = item
end

-- When each endpoint's first turn is due. Those of equal shares stand apart by equal spaces, or their turns
-- would come in one heap: of 5, 1 and 1 as a b a a a c a, and not as a a a b c a a.
local function first_turns(shares)
    local sizes, seen, due = {}, {}, {}
    for i = 1, #shares do sizes[shares[i]] = (sizes[shares[i]] or 0) + 1 end
    for i = 1, #shares do
        local share = shares[i]
        seen[share] = (seen[share] or 0) + 1
        due[i] = (seen[share] - 0.5) / (sizes[share] * share)
    end
    return due
end

-- One round as indexes into `backends`: a share s is due each 1/s of the round, earliest first; equal input
-- gives equal output, so that all workers and gateways agree.
function rounds.order(backends)
    local shares, heap, total, order = shares_of(backends), {}, 0, {}
    local due = first_turns(shares)
    for i = 1, #shares do heap[i], total = i, total + shares[i] end
    for i = floor(#heap / 2), 1, -1 do sift(heap, due, i, #heap) end
    for turn = 1, total do
        local first = heap[1]
        order[turn] = first
        due[first] = due[first] + 1 / shares[first]
        sift(heap, due, 1, #heap)
    end
    return order
end

return rounds
