-- strategies/maglev.lua: requests with the same key go to the same endpoint, by one look into a table that
-- every gateway fills alike. Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer",
-- NSDI 2016, §3.4. Shares are more even than consistent_hash's (within 1 % where the table has a hundred
-- entries for each endpoint); when an endpoint leaves, some keys of the others move too, and nothing bounds
-- the load. Weights are turns, as in Envoy's Maglev. Options: key ("client_ip"; also path, host, query,
-- method, header:NAME, cookie:NAME, query:NAME), table_size (65537, a prime), fallback ("round_robin", for
-- requests that have no key) and fallback_options.
local hashing = require "fluxgate.hashing"
local rounds = require "fluxgate.rounds"
local seeds, walk = hashing.seeds, hashing.walk

local RETRY_STEPS = 256 -- entries that a retry looks at

---@class Maglev : Strategy
local Maglev = { name = "maglev", api = 1 }
Maglev.__index = Maglev

-- With a prime every skip visits every entry.
local function check_prime(size)
    for divisor = 2, math.floor(math.sqrt(size)) do
        if size % divisor == 0 then return nil, "expected a prime, such as 16381, 65537 or 655373" end
    end
    return size
end

local SCHEMA = {
    key = { type = "string", default = "client_ip", check = hashing.check_key },
    table_size = { type = "integer", default = 65537, min = 101, max = 1000003, check = check_prime },
    fallback = { type = "string", default = "round_robin" },
    fallback_options = { type = "table", default = {} },
}

function Maglev.new(options, service)
    local set = gateway.options(service, options, SCHEMA)
    return setmetatable({
        key = set.key, size = set.table_size, entries = {}, prepared = nil,
        fallback = gateway.strategy(set.fallback, set.fallback_options),
    }, Maglev)
end

-- Each endpoint in turn takes the next free entry of its own permutation, offset + k * skip.
function Maglev:on_change(backends)
    local size, entries, places, skips = self.size, self.entries, {}, {}
    self.prepared = backends
    for i = 1, size do entries[i] = 0 end
    for i = 1, #backends do
        local a, b = seeds(backends[i].id)
        places[i], skips[i] = a % size, b % (size - 1) + 1
    end
    local order, turn = rounds.order(backends), 0
    local count = #order
    for _ = 1, count > 0 and size or 0 do
        turn = turn < count and turn + 1 or 1
        local i = order[turn]
        local place, skip = places[i], skips[i]
        while entries[place + 1] ~= 0 do place = (place + skip) % size end
        entries[place + 1], places[i] = i, place
    end
end

-- Hot.
function Maglev:pick(request, backends)
    if #backends < 2 then return backends[1] end
    local hash = request:hash(self.key)
    if not hash then return self.fallback:pick(request, backends) end
    hash = hash % 4294967296
    local at = hash % self.size + 1
    if backends == self.prepared then return backends[self.entries[at]] end
    return walk(self.entries, self.prepared, backends, at, RETRY_STEPS, hash)
end

return Maglev
