-- strategies/health/passive.lua: ejects an endpoint for what requests tell, as Envoy's outlier detection does
-- (its defaults but for max_ejected): so many attempts in a row that failed, or that failed or were answered
-- by a 5xx; a success rate in one window that lies far below the fleet's (mean - stdev_factor × standard
-- deviation); and, which Envoy lacks, a latency far above the fleet's median. The n-th ejection in a row
-- lasts n × base_ejection, ± jitter; then one request is its trial, which restores it or ejects it again.
-- Alone (`policy: passive`) or beside a policy that probes (`passive: true`). Options: consecutive_failures
-- (5; 0: off), consecutive_errors (5; 0: off), window (10s), min_requests (100 in it) of min_hosts (5)
-- endpoints to compare, stdev_factor (1.9; 0: off), latency_factor (5 × the median; 0: off), latency_floor
-- (100ms, below which nobody is slow), base_ejection (10s), max_ejection (300s), jitter (0.1), max_ejected
-- (50, percent; the gateway allows no more, and never the last).
---@class PassivePolicy : Policy
local PassivePolicy = { name = "passive", api = 1 }
PassivePolicy.__index = PassivePolicy

local SCHEMA = {
    consecutive_failures = { type = "integer", default = 5, min = 0, max = 1000 },
    consecutive_errors = { type = "integer", default = 5, min = 0, max = 1000 },
    window = { type = "duration", default = 10, min = 0.05, max = 3600 },
    min_requests = { type = "integer", default = 100, min = 1 },
    min_hosts = { type = "integer", default = 5, min = 2 },
    stdev_factor = { type = "number", default = 1.9, min = 0 },
    latency_factor = { type = "number", default = 5, min = 0 },
    latency_floor = { type = "duration", default = 0.1 },
    base_ejection = { type = "duration", default = 10, min = 0.01, max = 3600 },
    max_ejection = { type = "duration", default = 300, min = 0.01, max = 86400 },
    jitter = { type = "number", default = 0.1, min = 0, max = 1 },
    max_ejected = { type = "integer", default = 50, min = 0, max = 50 },
}

function PassivePolicy.new(options, service)
    local policy = setmetatable(gateway.options(service, options, SCHEMA), PassivePolicy)
    if policy.max_ejection < policy.base_ejection then
        error(service.options_path .. ".max_ejection: expected at least base_ejection", 0)
    end
    return policy
end

-- How long the n-th ejection in a row lasts.
function PassivePolicy:span(n)
    local spread = 1 + self.jitter * (2 * gateway.random() - 1)
    return math.max(0.001, math.min(n * self.base_ejection, self.max_ejection) * spread)
end

function PassivePolicy:row_fault(window)
    local failures, errors = window.failures_in_row, window.errors_in_row
    if self.consecutive_failures > 0 and failures >= self.consecutive_failures then
        return failures .. " requests failed in a row"
    elseif self.consecutive_errors > 0 and errors >= self.consecutive_errors then
        return errors .. " requests in a row failed or got a 5xx"
    end
    return nil
end

function PassivePolicy:rate_fault(window)
    if self.stdev_factor == 0 then return nil end
    local mean, deviation, hosts = window.fleet:success_rate(self.min_requests)
    local least = mean - self.stdev_factor * deviation
    if hosts < self.min_hosts or window.success_rate >= least then return nil end
    return ("success rate %.1f %%, fleet %.1f %%"):format(window.success_rate * 100, mean * 100)
end

function PassivePolicy:latency_fault(window)
    if self.latency_factor == 0 or window.latency < self.latency_floor then return nil end
    local median, hosts = window.fleet:latency(self.min_requests)
    if hosts < self.min_hosts or window.latency <= self.latency_factor * median then return nil end
    return ("latency %.0f ms, fleet %.0f ms"):format(window.latency * 1000, median * 1000)
end

function PassivePolicy:fault(window)
    local fault = self:row_fault(window)
    if fault or not window.is_new or window.requests < self.min_requests then return fault end
    return self:rate_fault(window) or self:latency_fault(window)
end

function PassivePolicy:observe(backend, window)
    local trial, fleet = window.trial, window.fleet
    if trial == "passed" or (trial == "error" and self.consecutive_errors == 0) then
        return "restore", "its trial passed"
    elseif trial then
        local fault = trial == "failed" and "its trial failed" or "its trial got a 5xx"
        return "eject", self:span(window.ejections + 1), fault
    end
    local fault = self:fault(window)
    if not fault or (fleet.ejected + 1) * 100 > fleet.endpoints * self.max_ejected then return nil end
    return "eject", self:span(window.ejections + 1), fault
end

return PassivePolicy
