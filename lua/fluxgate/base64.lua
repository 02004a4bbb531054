-- fluxgate/base64.lua: base64url without padding (RFC 4648 §5). For tokens and keys, not for the hot path.
local bit = require "bit"
local band, bor, lshift, rshift = bit.band, bit.bor, bit.lshift, bit.rshift

local ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
local TO, FROM = {}, {}
for i = 1, 64 do
    TO[i - 1] = ALPHABET:sub(i, i)
    FROM[ALPHABET:byte(i)] = i - 1
end

local base64 = {}

function base64.encode(bytes)
    local out = {}
    for i = 1, #bytes, 3 do
        local a, b, c = bytes:byte(i, i + 2)
        local word = bor(lshift(a, 16), lshift(b or 0, 8), c or 0)
        out[#out + 1] = TO[rshift(word, 18)] .. TO[band(rshift(word, 12), 63)]
        if b then out[#out + 1] = TO[band(rshift(word, 6), 63)] end
        if c then out[#out + 1] = TO[band(word, 63)] end
    end
    return table.concat(out)
end

-- nil, message where the text is no base64url.
function base64.decode(text)
    local out, word, bits = {}, 0, 0
    if #text % 4 == 1 then return nil, "base64url: the length is wrong" end
    for i = 1, #text do
        local value = FROM[text:byte(i)]
        if not value then return nil, "base64url: byte " .. i .. " is none of its alphabet" end
        word, bits = bor(lshift(band(word, 0xffff), 6), value), bits + 6
        if bits >= 8 then
            bits = bits - 8
            out[#out + 1] = string.char(band(rshift(word, bits), 255))
        end
    end
    if band(word, lshift(1, bits) - 1) ~= 0 then return nil, "base64url: its last bits are not zero" end
    return table.concat(out)
end

return base64
