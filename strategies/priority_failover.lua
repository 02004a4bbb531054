-- strategies/priority_failover.lua: the endpoints of the lowest priority number serve; the next number joins
-- only while fewer than `min_available` of those before it may be picked, and steps back when they return.
-- With min_available 1 it is HAProxy's `backup` with `allbackups`. With `overprovisioning` requests are
-- divided as Envoy's priority levels divide them instead: of 1.4, a number with half of its endpoints takes
-- 70 %, and the next one the rest. An endpoint's number is priorities[its id], else its metadata.priority,
-- else 0. Options: priorities (id → number), min_available (1), overprovisioning (none; Envoy's is 1.4),
-- strategy ("least_connections", among those chosen) and strategy_options.
local new_spill = require "fluxgate.spill"

local LEVELS_MAX = 4 -- of numbers that requests are divided among

---@class PriorityFailover : Strategy
local PriorityFailover = { name = "priority_failover", api = 1 }
PriorityFailover.__index = PriorityFailover

local function check_priorities(map)
    for id, number in pairs(map) do
        if type(id) ~= "string" or type(number) ~= "number" then
            return nil, "expected numbers by endpoint id, such as { a: 0, b: 1 }"
        end
    end
    return map
end

local SCHEMA = {
    priorities = { type = "table", default = {}, check = check_priorities },
    min_available = { type = "integer", default = 1, min = 1 },
    overprovisioning = { type = "number", min = 1, max = 100 },
    strategy = { type = "string", default = "least_connections" },
    strategy_options = { type = "table", default = {} },
}

function PriorityFailover.new(options, service)
    local set = gateway.options(service, options, SCHEMA)
    local self = setmetatable({
        service = service, given = set.priorities, min_available = set.min_available,
        inner = gateway.strategy(set.strategy, set.strategy_options),
        numbers = {}, -- id → priority, of all endpoints: a retry may see such as on_change did not
        chosen = {}, prepared = nil,
        last = 0,     -- the highest number that serves
        scratch = {}, -- what a retry may choose from
    }, PriorityFailover)
    local inners = { self.inner }
    for i = 2, set.overprovisioning and LEVELS_MAX or 1 do
        inners[i] = gateway.strategy(set.strategy, set.strategy_options)
    end
    if set.overprovisioning then self.spill = new_spill(inners, set.overprovisioning) end
    if self.inner.on_result then
        self.on_result = function(_, request, backend, result)
            for i = 1, #inners do inners[i]:on_result(request, backend, result) end
        end
    end
    return self
end

local function number_of(self, backend)
    return self.given[backend.id] or tonumber(backend.metadata.priority) or 0
end

function PriorityFailover:on_change(backends)
    local numbers, sorted, chosen = {}, {}, {}
    for _, backend in ipairs(self.service:endpoints()) do numbers[backend.id] = number_of(self, backend) end
    if self.spill then return self.spill:change(numbers, self.service:endpoints(), backends) end
    for i, backend in ipairs(backends) do sorted[i] = numbers[backend.id] or 0 end
    table.sort(sorted)
    self.last = sorted[math.min(self.min_available, #sorted)] or 0
    for _, backend in ipairs(backends) do
        if (numbers[backend.id] or 0) <= self.last then chosen[#chosen + 1] = backend end
    end
    if #chosen == #backends then chosen = backends end
    self.numbers, self.chosen, self.prepared = numbers, chosen, backends
    if self.inner.on_change then self.inner:on_change(chosen) end
end

-- Hot.
function PriorityFailover:pick(request, backends)
    if self.spill then return self.spill:pick(request, backends) end
    if backends == self.prepared then return self.inner:pick(request, self.chosen) end
    local numbers, scratch, last, count = self.numbers, self.scratch, math.huge, 0
    for i = 1, #backends do
        local number = numbers[backends[i].id] or 0
        if number < last then last = number end
    end
    if last < self.last then last = self.last end
    for i = 1, #backends do
        if (numbers[backends[i].id] or 0) <= last then
            count = count + 1
            scratch[count] = backends[i]
        end
    end
    for i = #scratch, count + 1, -1 do scratch[i] = nil end
    return self.inner:pick(request, scratch)
end

return PriorityFailover
