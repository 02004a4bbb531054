-- strategies/consistent_hash.lua: requests with the same key go to the same endpoint, and when one joins or
-- leaves, only its own share of the keys moves. Karger et al., "Consistent Hashing and Random Trees", STOC
-- 1997. No endpoint is loaded beyond `load_factor` times its fair share: a key whose endpoint is full goes to
-- the next on the ring. Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads", SODA 2018.
-- The ring comes from the ids alone: all gateways agree. Options: key ("client_ip"; also path, host, query,
-- method, header:NAME, cookie:NAME, query:NAME), load_factor (1.25; 0: no bound), points (128 on the ring
-- for each endpoint), fallback ("round_robin", for requests that have no key) and fallback_options.
local hashing = require "fluxgate.hashing"
local floor, log, max, min = math.floor, math.log, math.max, math.min
local mix, seeds, walk = hashing.mix, hashing.seeds, hashing.walk

local POINTS_MAX = 65536  -- on the ring of a service, where that leaves each endpoint one
local ARCS_MAX = 262144   -- 2 MiB for each worker and service
local LOADS_A_PICK = 64   -- active counts that one pick brings up to date
local RETRY_STEPS = 256   -- owners along the ring that a retry looks at

---@class ConsistentHash : Strategy
local ConsistentHash = { name = "consistent_hash", api = 1 }
ConsistentHash.__index = ConsistentHash

local function check_factor(factor)
    if factor == 0 or factor >= 1 then return factor end
    return nil, "expected 1 or more, or 0 for no bound"
end

local SCHEMA = {
    key = { type = "string", default = "client_ip", check = hashing.check_key },
    load_factor = { type = "number", default = 1.25, check = check_factor },
    points = { type = "integer", default = 128, min = 1, max = 1024 },
    fallback = { type = "string", default = "round_robin" },
    fallback_options = { type = "table", default = {} },
}

function ConsistentHash.new(options, service)
    local set = gateway.options(service, options, SCHEMA)
    return setmetatable({
        key = set.key, load_factor = set.load_factor, points = set.points,
        fallback = gateway.strategy(set.fallback, set.fallback_options),
        ring = {},   -- arc of the hash space → number of its run of arcs with one owner
        owners = {}, -- run → index of the owner
        loads = {},  -- index → active, as it was when last looked at
        load = 0, next_load = 1, weight = 0, prepared = nil,
    }, ConsistentHash)
end

-- Points for one unit of weight: a power of two, since it then stays as it is while the fleet changes a
-- little, and halving it takes points away without moving one.
local function density(self, count, total_weight)
    return 2 ^ floor(log(min(self.points * count, max(POINTS_MAX, count)) / total_weight) / log(2) + 1e-9)
end

-- The ring is cut into arcs. The lowest point in an arc owns it; an arc without one goes to the next point.
local function owners_of_arcs(backends, each)
    local arcs, lowest, owners, owner, at = 32768, {}, {}, 0, 1
    while arcs < min(#backends * 64, ARCS_MAX) do arcs = arcs * 2 end
    for i = 1, arcs do owners[i], lowest[i] = 0, 4294967296 end
    for i = 1, #backends do
        local a, b = seeds(backends[i].id)
        for k = 1, max(1, floor(backends[i].effective_weight * each + 0.5)) do
            local point = mix(a, b, k)
            local arc = floor(point * arcs / 4294967296) + 1
            if point < lowest[arc] then owners[arc], lowest[arc] = i, point end
        end
    end
    while owner == 0 do owner, at = owners[at], at + 1 end -- the last arcs go round to the first point
    for i = arcs, 1, -1 do
        if owners[i] == 0 then owners[i] = owner else owner = owners[i] end
    end
    return owners
end

function ConsistentHash:on_change(backends)
    local count, total, ring, owners = #backends, 0, {}, {}
    self.ring, self.owners, self.prepared, self.loads = ring, owners, backends, {}
    self.load, self.next_load = 0, 1
    for i = 1, count do self.loads[i], total = 0, total + backends[i].effective_weight end
    self.weight = total
    for arc, owner in ipairs(count > 0 and owners_of_arcs(backends, density(self, count, total)) or {}) do
        if owner ~= owners[#owners] then owners[#owners + 1] = owner end
        ring[arc] = #owners
    end
end

-- Requests in flight over all endpoints. Exact for up to 64 of them; of more, each pick looks at the next 64.
local function total_load(self, backends)
    local loads, count, at, load = self.loads, #backends, self.next_load, self.load
    for _ = 1, min(count, LOADS_A_PICK) do
        local active = backends[at].active
        load = load + active - loads[at]
        loads[at] = active
        at = at < count and at + 1 or 1
    end
    self.load, self.next_load = load, at
    return load
end

-- The next owner from `run` on that has room: active + 1 <= ceil(factor * (load + 1) * its share of the
-- weights), multiplied out. A call instead of a loop: LuaJIT compiles short ones better.
local function with_room(self, backends, run, allowed, steps)
    local owner = backends[self.owners[run]]
    if steps == 0 or owner.active * self.weight < allowed * owner.effective_weight then return owner end
    return with_room(self, backends, run < #self.owners and run + 1 or 1, allowed, steps - 1)
end

-- Hot.
function ConsistentHash:pick(request, backends)
    if #backends < 2 then return backends[1] end
    local hash = request:hash(self.key)
    if not hash then return self.fallback:pick(request, backends) end
    local ring, owners, factor = self.ring, self.owners, self.load_factor
    hash = hash % 4294967296
    local run = ring[floor(hash * #ring / 4294967296) + 1]
    if backends ~= self.prepared then return walk(owners, self.prepared, backends, run, RETRY_STEPS, hash) end
    local first = backends[owners[run]]
    if factor == 0 or first.active == 0 then return first end
    return with_room(self, backends, run, factor * (total_load(self, backends) + 1), #owners)
end

return ConsistentHash
