-- strategies/health/tcp.lua: an endpoint is healthy when it accepts a connection in time. `rise` connections
-- in a row make an unhealthy endpoint healthy again, `fall` failures make it unhealthy; one that was never
-- proven needs only one connection. Options: timeout (2s), port (the endpoint's own without), rise (2), fall
-- (3), and how often: interval (5s), fast_interval (while a verdict is changing; interval without), jitter
-- (0.1: ± 10 %).
---@class TcpPolicy : Policy
local TcpPolicy = { name = "tcp", api = 1 }
TcpPolicy.__index = TcpPolicy

local SCHEMA = {
    port = { type = "integer", default = 0, min = 0, max = 65535 },
    interval = { type = "duration", default = 5, min = 0.01 },
    fast_interval = { type = "duration", min = 0.01 },
    timeout = { type = "duration", default = 2, min = 0.001, max = 3600 },
    rise = { type = "integer", default = 2, min = 1, max = 1000 },
    fall = { type = "integer", default = 3, min = 1, max = 1000 },
    jitter = { type = "number", default = 0.1, min = 0, max = 1 },
}

function TcpPolicy.new(options, service)
    return setmetatable(gateway.options(service, options, SCHEMA), TcpPolicy)
end

function TcpPolicy:probe(backend)
    return { kind = "tcp", port = self.port, timeout = self.timeout }
end

function TcpPolicy:judge(backend, result, history)
    if result.ok then
        local needed = history.state == "unhealthy" and self.rise or 1
        if history.state ~= "healthy" and history.rise + 1 >= needed then return "healthy" end
    elseif history.state ~= "unhealthy" and history.fall + 1 >= self.fall then
        local fault = (result.failure or "no connection"):gsub("_", " ")
        return "unhealthy", ("%d probes failed: %s"):format(history.fall + 1, fault)
    end
    return nil
end

return TcpPolicy
