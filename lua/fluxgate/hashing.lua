-- fluxgate/hashing.lua: what strategies that go by a hash of the request share.
local bit = require "bit"
local bxor, rol, tobit = bit.bxor, bit.rol, bit.tobit

local hashing = {}

local WORDS = { client_ip = true, path = true, host = true, query = true, method = true }

-- For the schema of an option: a key as request:hash() takes it.
function hashing.check_key(key)
    local kind, name = key:match("^(%l+):([%w!#$%%&'*+.^_`|~-]+)$")
    if WORDS[key] or kind == "header" or kind == "cookie" or (kind == "query" and name) then return key end
    return nil, "expected client_ip, path, host, query, method, header:NAME, cookie:NAME or query:NAME"
end

-- Two 32-bit numbers of an id, the same in every worker and gateway.
function hashing.seeds(id)
    local a, b, c, d, e, f, g, h = gateway.sha256(id):byte(1, 8)
    return ((a * 256 + b) * 256 + c) * 256 + d, ((e * 256 + f) * 256 + g) * 256 + h
end

-- The final mix of Jenkins' lookup3 (2006): every bit of the three numbers reaches every bit of the result, a
-- whole number below 2^32.
function hashing.mix(x, y, z)
    x, y, z = tobit(x), tobit(y), tobit(z)
    z = tobit(bxor(z, y) - rol(y, 14))
    x = tobit(bxor(x, z) - rol(z, 11))
    y = tobit(bxor(y, x) - rol(x, 25))
    z = tobit(bxor(z, y) - rol(y, 16))
    x = tobit(bxor(x, z) - rol(z, 4))
    y = tobit(bxor(y, x) - rol(x, 14))
    z = tobit(bxor(z, y) - rol(y, 24))
    return z % 4294967296
end

-- Hot. Walks `owners` (indexes into `prepared`) from place `at` on, at most `steps` of them, to the first
-- that is one of `backends`: where a retry goes. Whoever stands in none of them is found by the hash.
function hashing.walk(owners, prepared, backends, at, steps, hash)
    local size, count = #owners, #backends
    for _ = 1, prepared and steps or 0 do
        local owner = prepared[owners[at]]
        for i = 1, count do
            if backends[i] == owner then return owner end
        end
        at = at < size and at + 1 or 1
    end
    return backends[hash % count + 1]
end

return hashing
