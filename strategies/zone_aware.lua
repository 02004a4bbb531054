-- strategies/zone_aware.lua: requests stay in the gateway's own zone while that has `min_local` endpoints
-- that may be picked; with fewer, all zones serve, so that the last local one is not run over. As Envoy's
-- zone aware routing falls back to all zones below `min_cluster_size`, and Kubernetes' topology hints do.
-- Retries stay local while a local endpoint is left. Options: zone (the gateway's own: `zone` of the
-- configuration), min_local (1), strategy ("least_connections", among those chosen) and strategy_options.
---@class ZoneAware : Strategy
local ZoneAware = { name = "zone_aware", api = 1 }
ZoneAware.__index = ZoneAware

local SCHEMA = {
    zone = { type = "string" },
    min_local = { type = "integer", default = 1, min = 1 },
    strategy = { type = "string", default = "least_connections" },
    strategy_options = { type = "table", default = {} },
}

function ZoneAware.new(options, service)
    local set = gateway.options(service, options, SCHEMA)
    local zone = set.zone or gateway.zone
    if zone == "" then
        error(service.options_path .. ".zone: this option is needed: the gateway's own `zone` is not set", 0)
    end
    local self = setmetatable({
        zone = zone, min_local = set.min_local,
        inner = gateway.strategy(set.strategy, set.strategy_options),
        chosen = {}, prepared = nil, is_local = false,
        scratch = {}, -- what a retry may choose from
    }, ZoneAware)
    if self.inner.on_result then
        self.on_result = function(_, request, backend, result)
            self.inner:on_result(request, backend, result)
        end
    end
    return self
end

function ZoneAware:on_change(backends)
    local near = {}
    for _, backend in ipairs(backends) do
        if backend.zone == self.zone then near[#near + 1] = backend end
    end
    self.is_local = #near >= self.min_local
    self.chosen, self.prepared = self.is_local and near or backends, backends
    if self.inner.on_change then self.inner:on_change(self.chosen) end
end

-- Hot.
function ZoneAware:pick(request, backends)
    if backends == self.prepared then return self.inner:pick(request, self.chosen) end
    local scratch, zone, count = self.scratch, self.zone, 0
    for i = 1, self.is_local and #backends or 0 do
        if backends[i].zone == zone then
            count = count + 1
            scratch[count] = backends[i]
        end
    end
    if count == 0 then return self.inner:pick(request, backends) end
    for i = #scratch, count + 1, -1 do scratch[i] = nil end
    return self.inner:pick(request, scratch)
end

return ZoneAware
