-- strategies/health/grpc.lua: an endpoint is healthy when it answers grpc.health.v1.Health/Check with SERVING
-- in time ("GRPC Health Checking Protocol", grpc/grpc). `rise` good answers in a row make an unhealthy one
-- healthy again, `fall` bad ones make it unhealthy; one that was never proven needs only one good answer.
-- HTTP/2 without TLS. Options: service (its full name; the server as a whole without), host (the authority;
-- the endpoint's address without), port (the endpoint's own without), timeout (2s), rise (2), fall (3), and
-- how often: interval (5s), fast_interval (while a verdict is changing; interval without), jitter (0.1:
-- ± 10 %).
---@class GrpcPolicy : Policy
local GrpcPolicy = { name = "grpc", api = 1 }
GrpcPolicy.__index = GrpcPolicy

local function check_service(name)
    if #name <= 255 and not name:find("[%c ]") then return name end
    return nil, "expected the full name of a gRPC service, such as shop.v1.Basket"
end

local function check_host(host)
    if host:find("^[%w%.:%[%]_-]+$") then return host end
    return nil, "expected a host name, with a port or without"
end

local SCHEMA = {
    service = { type = "string", default = "", check = check_service },
    host = { type = "string", check = check_host },
    port = { type = "integer", default = 0, min = 0, max = 65535 },
    interval = { type = "duration", default = 5, min = 0.01 },
    fast_interval = { type = "duration", min = 0.01 },
    timeout = { type = "duration", default = 2, min = 0.001, max = 3600 },
    rise = { type = "integer", default = 2, min = 1, max = 1000 },
    fall = { type = "integer", default = 3, min = 1, max = 1000 },
    jitter = { type = "number", default = 0.1, min = 0, max = 1 },
}

function GrpcPolicy.new(options, service)
    return setmetatable(gateway.options(service, options, SCHEMA), GrpcPolicy)
end

function GrpcPolicy:probe(backend)
    local service, host, port = self.service, self.host, self.port
    return { kind = "grpc", service = service, host = host, port = port, timeout = self.timeout }
end

function GrpcPolicy:judge(backend, result, history)
    if result.ok then
        local needed = history.state == "unhealthy" and self.rise or 1
        if history.state ~= "healthy" and history.rise + 1 >= needed then return "healthy" end
    elseif history.state ~= "unhealthy" and history.fall + 1 >= self.fall then
        local fault = result.detail or (result.failure or "no answer"):gsub("_", " ")
        return "unhealthy", ("%d probes failed: %s"):format(history.fall + 1, fault)
    end
    return nil
end

return GrpcPolicy
