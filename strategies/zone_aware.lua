-- strategies/zone_aware.lua: requests stay in the gateway's own zone while that has `min_local` endpoints
-- that may be picked; with fewer, all zones serve, so that the last local one is not run over. As Envoy's
-- zone aware routing falls back to all zones below `min_cluster_size`, and Kubernetes' topology hints do.
-- With `spill` a zone that has less than an even share of the endpoints sends on what is too much for it, to
-- the zones that have more and as much as they have more: Envoy's proportions, for gateways that are spread
-- evenly over the zones. Retries stay local while a local endpoint is left. Options: zone (the gateway's own:
-- `zone` of the configuration), min_local (1), spill (false), strategy ("least_connections", among those
-- chosen) and strategy_options.
local random = gateway.random

---@class ZoneAware : Strategy
local ZoneAware = { name = "zone_aware", api = 1 }
ZoneAware.__index = ZoneAware

local SCHEMA = {
    zone = { type = "string" },
    min_local = { type = "integer", default = 1, min = 1 },
    spill = { type = "boolean", default = false },
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
        zone = zone, min_local = set.min_local, is_spilling = set.spill,
        inner = gateway.strategy(set.strategy, set.strategy_options),
        others = {}, away = 0, -- zones that take `away` of all requests: lists, each with its `share`
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

-- What leaves the zone and where to. Shares go by weight; Z zones with endpoints serve 1/Z of the requests
-- each.
local function others_of(self, backends)
    local weights, lists, total, zones, spare = {}, {}, 0, 0, 0
    for _, backend in ipairs(backends) do
        local zone = backend.zone
        if not lists[zone] then zones, lists[zone], weights[zone] = zones + 1, {}, 0 end
        table.insert(lists[zone], backend)
        weights[zone], total = weights[zone] + backend.effective_weight, total + backend.effective_weight
    end
    local away, others = math.max(0, 1 - zones * weights[self.zone] / total), {}
    for zone, list in pairs(lists) do
        list.name, list.share = zone, math.max(0, weights[zone] / total - 1 / zones)
        others[#others + 1], spare = list, spare + list.share
    end
    table.sort(others, function(a, b) return a.name < b.name end)
    for _, list in ipairs(others) do list.share = spare > 0 and list.share / spare * away or 0 end
    return others, away
end

function ZoneAware:on_change(backends)
    local near = {}
    for _, backend in ipairs(backends) do
        if backend.zone == self.zone then near[#near + 1] = backend end
    end
    self.is_local = #near >= self.min_local
    self.chosen, self.prepared = self.is_local and near or backends, backends
    self.others, self.away = {}, 0
    if self.is_spilling and self.is_local then self.others, self.away = others_of(self, backends) end
    if self.inner.on_change then self.inner:on_change(self.chosen) end
end

-- Hot. Those that the request goes to: the chosen, or another zone's.
local function draw(self)
    local others, at = self.others, random()
    if at >= self.away then return self.chosen end
    for i = 1, #others do
        if at < others[i].share then return others[i] end
        at = at - others[i].share
    end
    return self.chosen
end

-- Hot.
function ZoneAware:pick(request, backends)
    if backends == self.prepared then
        return self.inner:pick(request, self.away > 0 and draw(self) or self.chosen)
    end
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
