-- fluxgate/fleet.lua: what a service's healthy endpoints did in one window, for policies that compare one of
-- them with all.

---@class Fleet
local Fleet = {}
Fleet.__index = Fleet

-- `flat`: requests, errors and latency of each endpoint, in turn.
local function new_fleet(flat)
    return setmetatable({ flat = flat, rates = {}, medians = {}, endpoints = 0, ejected = 0 }, Fleet)
end

local function each(flat, least, visit)
    local hosts = 0
    for i = 1, #flat, 3 do
        local requests = flat[i]
        if requests > 0 and requests >= least then
            hosts = hosts + 1
            visit(requests, flat[i + 1], flat[i + 2])
        end
    end
    return hosts
end

-- Mean and standard deviation (of the population) of the success rates, and how many endpoints they are of.
function Fleet:success_rate(least)
    local known = self.rates[least or 1]
    if not known then
        local rates, sum, squares = {}, 0, 0
        local hosts = each(self.flat, least or 1, function(requests, errors)
            rates[#rates + 1] = 1 - errors / requests
            sum = sum + rates[#rates]
        end)
        local mean = hosts > 0 and sum / hosts or 0
        for i = 1, hosts do squares = squares + (rates[i] - mean) ^ 2 end
        known = { mean, hosts > 0 and math.sqrt(squares / hosts) or 0, hosts }
        self.rates[least or 1] = known
    end
    return known[1], known[2], known[3]
end

-- Median of the latencies, and how many endpoints it is of.
function Fleet:latency(least)
    local known = self.medians[least or 1]
    if not known then
        local latencies = {}
        local hosts = each(self.flat, least or 1, function(_, _, latency)
            latencies[#latencies + 1] = latency
        end)
        table.sort(latencies)
        local low, high = latencies[math.floor((hosts + 1) / 2)], latencies[math.floor(hosts / 2) + 1]
        known = { hosts > 0 and (low + high) / 2 or 0, hosts }
        self.medians[least or 1] = known
    end
    return known[1], known[2]
end

return new_fleet
