-- fluxgate/sha256.lua: SHA-256 (FIPS 180-4) and HMAC (RFC 2104) in Lua, for the test kit; the gateway uses
-- OpenSSL.
local bit = require "bit"
local band, bnot, bxor, ror, rshift, tobit = bit.band, bit.bnot, bit.bxor, bit.ror, bit.rshift, bit.tobit

-- The first 32 bits of the fractional parts of the square and cube roots of the first primes.
local H0, K = {}, {}
do
    local candidate, found = 2, 0
    while found < 64 do
        local prime = true
        for divisor = 2, math.floor(math.sqrt(candidate)) do
            if candidate % divisor == 0 then prime = false break end
        end
        if prime then
            found = found + 1
            -- Newton's step repairs the last bit of pow(), whose result the standard does not fix.
            local cube = candidate ^ (1 / 3)
            cube = cube - (cube * cube * cube - candidate) / (3 * cube * cube)
            K[found] = tobit(math.floor((cube % 1) * 2 ^ 32))
            if found <= 8 then H0[found] = tobit(math.floor((math.sqrt(candidate) % 1) * 2 ^ 32)) end
        end
        candidate = candidate + 1
    end
end

local function word(number)
    return string.char(band(rshift(number, 24), 255), band(rshift(number, 16), 255),
        band(rshift(number, 8), 255), band(number, 255))
end

local function block(h, w)
    for i = 17, 64 do
        local x, y = w[i - 15], w[i - 2]
        local s0 = bxor(ror(x, 7), ror(x, 18), rshift(x, 3))
        local s1 = bxor(ror(y, 17), ror(y, 19), rshift(y, 10))
        w[i] = tobit(w[i - 16] + s0 + w[i - 7] + s1)
    end
    local a, b, c, d, e, f, g, last = unpack(h)
    for i = 1, 64 do
        local s1 = bxor(ror(e, 6), ror(e, 11), ror(e, 25))
        local one = last + s1 + bxor(band(e, f), band(bnot(e), g)) + K[i] + w[i]
        local s0 = bxor(ror(a, 2), ror(a, 13), ror(a, 22))
        local two = s0 + bxor(band(a, b), band(a, c), band(b, c))
        last, g, f, e, d, c, b, a = g, f, e, tobit(d + one), c, b, a, tobit(one + two)
    end
    for i, value in ipairs { a, b, c, d, e, f, g, last } do h[i] = tobit(h[i] + value) end
end

local sha256 = {}

function sha256.digest(message)
    local h, bits = { unpack(H0) }, #message * 8
    local padding = "\128" .. ("\0"):rep((55 - #message) % 64)
    message = message .. padding .. word(math.floor(bits / 2 ^ 32)) .. word(tobit(bits))
    for at = 1, #message, 64 do
        local w = {}
        for i = 1, 16 do
            local p, q, r, s = message:byte(at + i * 4 - 4, at + i * 4 - 1)
            w[i] = tobit(p * 2 ^ 24 + q * 2 ^ 16 + r * 2 ^ 8 + s)
        end
        block(h, w)
    end
    local out = {}
    for i = 1, 8 do out[i] = word(h[i]) end
    return table.concat(out)
end

function sha256.hmac(key, message)
    if #key > 64 then key = sha256.digest(key) end
    key = key .. ("\0"):rep(64 - #key)
    local function pad(with)
        return (key:gsub(".", function(c) return string.char(bxor(c:byte(), with)) end))
    end
    return sha256.digest(pad(0x5c) .. sha256.digest(pad(0x36) .. message))
end

return sha256
