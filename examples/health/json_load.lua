-- examples/health/json_load.lua: GET /status answers {"status": "ok", "load": 0.4}. Well is who says ok and
-- is loaded no more than `most`; who was not comes back below `back`, so that nobody flaps at the edge. The
-- load is a metric, too. Options: path ("/status"), most (0.9), back (0.7), and those that every policy has.
local cjson = require "cjson"

local JsonLoad = { name = "json_load", api = 1 }
JsonLoad.__index = JsonLoad

local SCHEMA = {
    path = { type = "string", default = "/status" },
    most = { type = "number", default = 0.9 },
    back = { type = "number", default = 0.7 },
}

function JsonLoad.new(options, service)
    local self = setmetatable(gateway.options(service, options, SCHEMA), JsonLoad)
    local labels = { "service", "endpoint" }
    self.loads = gateway.metric("gauge", "endpoint_said_load", "Load as /status says.", labels)
    self.service = service.name
    return self
end

function JsonLoad:probe(backend)
    return { kind = "http", path = self.path, timeout = self.timeout, status = { 200 } }
end

-- What is wrong; nil for nothing.
function JsonLoad:fault(backend, result, state)
    if not result.ok then return result.failure end
    local is_json, said = pcall(cjson.decode, result.body)
    local load = is_json and type(said) == "table" and tonumber(said.load)
    local is_finite = load and load - load == 0 -- cjson reads NaN and Infinity, which no metric takes
    if result.status ~= 200 or not is_finite then return "status " .. result.status .. " without a load" end
    self.loads:set(load, self.service, backend.id)
    if said.status ~= "ok" then return "it says " .. tostring(said.status) end
    local most = state == "unhealthy" and self.back or self.most
    return load > most and ("load %.2f"):format(load) or nil
end

function JsonLoad:judge(backend, result, history)
    local fault = self:fault(backend, result, history.state)
    if fault then
        if history.fall + 1 >= self.fall then return "unhealthy", fault end
    elseif history.state == "unproven" or history.rise + 1 >= self.rise then
        return "healthy"
    end
    return nil -- as it was
end

return JsonLoad
