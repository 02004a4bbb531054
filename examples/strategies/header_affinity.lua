-- examples/strategies/header_affinity.lua: requests with the same value in a header go to the same endpoint,
-- so that its caches stay warm. Rendezvous hashing: the endpoint with the highest hash of (value, endpoint)
-- wins, weighted; when an endpoint joins or leaves, only its own share of the values moves. Thaler and
-- Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", IEEE/ACM TON 6(1), 1998. Requests without
-- the header are spread by `fallback`.
--
--     services:
--       tenants:
--         strategy: ./header_affinity.lua
--         options: { header: X-Tenant }
--
-- Options: header (needed), fallback ("round_robin").
local bit = require "bit"
local bxor, rol, tobit, log = bit.bxor, bit.rol, bit.tobit, math.log

---@class HeaderAffinity : Strategy
local HeaderAffinity = { name = "header_affinity", api = 1 }
HeaderAffinity.__index = HeaderAffinity

local SCHEMA = {
    header = { type = "string", required = true },
    fallback = { type = "string", default = "round_robin" },
}

function HeaderAffinity.new(options, service)
    local set = gateway.options(service, options, SCHEMA)
    return setmetatable({
        key = "header:" .. set.header,
        fallback = gateway.strategy(set.fallback),
        salts = {}, -- endpoint id → its own number, the same in every worker and gateway
    }, HeaderAffinity)
end

function HeaderAffinity:on_change(backends)
    local salts = {}
    for _, backend in ipairs(backends) do
        local a, b, c, d = gateway.sha256(backend.id):byte(1, 4)
        salts[backend.id] = tobit(((a * 256 + b) * 256 + c) * 256 + d)
    end
    self.salts = salts
end

-- The final mix of Jenkins' lookup3 (2006): every bit of hash and salt reaches every bit of the result. 0 <
-- result < 1.
local function mix(hash, salt)
    local x, y, z = tobit(hash % 4294967296), tobit(hash / 4294967296), salt
    z = tobit(bxor(z, y) - rol(y, 14))
    x = tobit(bxor(x, z) - rol(z, 11))
    y = tobit(bxor(y, x) - rol(x, 25))
    z = tobit(bxor(z, y) - rol(y, 16))
    x = tobit(bxor(x, z) - rol(z, 4))
    y = tobit(bxor(y, x) - rol(x, 14))
    z = tobit(bxor(z, y) - rol(y, 24))
    return (z + 2147483648.5) / 4294967296
end

function HeaderAffinity:pick(request, backends)
    local hash = request:hash(self.key)
    if not hash then return self.fallback:pick(request, backends) end
    local best, best_score
    for i = 1, #backends do
        local backend = backends[i]
        -- -w / ln(x) makes the winner's odds proportional to its weight.
        local score = -backend.effective_weight / log(mix(hash, self.salts[backend.id] or 0))
        if not best or score > best_score then best, best_score = backend, score end
    end
    return best
end

return HeaderAffinity
