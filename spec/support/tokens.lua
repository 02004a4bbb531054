-- Keys and signed tokens for specs, made by the openssl command: nothing here is our own crypto.
local http = require "spec.support.http"
local process = require "spec.support.process"

local tokens = {}

local function run(command)
    local out, code = http.shell(command)
    if code ~= 0 then error("openssl: " .. out, 2) end
    return out
end

-- Bytes come back as hex, since the shell's output is text.
local function bytes_of(command)
    local hex = run(command .. " | od -An -v -tx1"):gsub("%s", "")
    return (hex:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end))
end

function tokens.base64url(bytes)
    return (require("mime").b64(bytes):gsub("+", "-"):gsub("/", "_"):gsub("=", ""))
end

-- { file, pem, jwk }: an RSA or P-256 key pair of the spec's own; `pem` is the public half.
function tokens.key(kind, path, kid)
    local how = kind == "RSA" and "RSA -pkeyopt rsa_keygen_bits:2048" or "EC -pkeyopt ec_paramgen_curve:P-256"
    run(("openssl genpkey -algorithm %s -out %s 2>/dev/null"):format(how, path))
    local key = { file = path, kind = kind, pem = run("openssl pkey -pubout -in " .. path) }
    key.jwk = { kty = kind, kid = kid, use = "sig" }
    if kind == "RSA" then
        local hex = run("openssl rsa -noout -modulus -in " .. path):match("Modulus=(%x+)")
        key.jwk.n = tokens.base64url((hex:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end)))
        key.jwk.e, key.jwk.alg = "AQAB", "RS256"
    else
        local point = bytes_of("openssl pkey -pubout -outform DER -in " .. path):sub(-64)
        key.jwk.crv, key.jwk.alg = "P-256", "ES256"
        key.jwk.x, key.jwk.y = tokens.base64url(point:sub(1, 32)), tokens.base64url(point:sub(33))
    end
    return key
end

-- SEQUENCE { INTEGER r, INTEGER s } as two numbers of 32 bytes (RFC 7518 section 3.4).
local function raw_signature(der)
    local out, at = {}, 3
    for i = 1, 2 do
        local len = der:byte(at + 1)
        local number = der:sub(at + 2, at + 1 + len):gsub("^%z+", "")
        out[i], at = ("\0"):rep(32 - #number) .. number, at + 2 + len
    end
    return out[1] .. out[2]
end

-- { alg, kid, secret | key, claims = JSON text } → a compact JWS.
function tokens.sign(given)
    local head = ('{"alg":"%s","typ":"JWT"%s}'):format(given.alg, given.kid and ',"kid":"' .. given.kid .. '"' or "")
    local text = tokens.base64url(head) .. "." .. tokens.base64url(given.claims)
    local file = os.tmpname()
    local signature
    process.write_file(file, text)
    if given.alg == "HS256" then
        signature = bytes_of(("openssl dgst -sha256 -hmac %s -binary %s"):format(http.quote(given.secret), file))
    else
        signature = bytes_of(("openssl dgst -sha256 -sign %s -binary %s"):format(given.key.file, file))
        if given.alg == "ES256" then signature = raw_signature(signature) end
    end
    os.remove(file)
    return text .. "." .. tokens.base64url(signature)
end

return tokens
