-- strategies/fill_first.lua: the first endpoint by id until it holds `limit` requests, then the second, and
-- so on: few are used at quiet times, and the rest can be switched off. HAProxy's `balance first` (its
-- configuration manual, §4.2), with `limit` in the place of maxconn. Counts are those of all workers.
-- Options: limit (100 active requests for each endpoint, whatever its weight), when_full ("spread": to the
-- one with the fewest; "queue": the request waits for room, as pick() answers gateway.QUEUE).
local QUEUE = gateway.QUEUE

---@class FillFirst : Strategy
local FillFirst = { name = "fill_first", api = 1 }
FillFirst.__index = FillFirst

local SCHEMA = {
    limit = { type = "integer", default = 100, min = 1 },
    when_full = { type = "string", default = "spread", one_of = { "spread", "queue" } },
}

function FillFirst.new(options, service)
    local set = gateway.options(service, options, SCHEMA)
    return setmetatable({ limit = set.limit, is_queueing = set.when_full == "queue" }, FillFirst)
end

-- Hot. A plain walk: what it passes is full, so its length is the number of endpoints at work.
function FillFirst:pick(request, backends)
    local limit, least, least_active = self.limit, nil, nil
    for i = 1, #backends do
        local backend = backends[i]
        local active = backend.active
        if active < limit then return backend end
        if not least or active < least_active then least, least_active = backend, active end
    end
    if least and self.is_queueing then return QUEUE end
    return least
end

return FillFirst
