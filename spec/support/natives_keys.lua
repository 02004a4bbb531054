-- spec/support/natives_keys.lua: a strategy whose new() checks gateway.public_key: the vectors of RFC 7515
-- appendix A, and all that must not verify. Run by spec/unit/script/natives_test.c, in the real runtime.
local PEM_RSA = [[-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAofgWCuLjybRlzo0tZWJj
NiuSfb4p4fAkd/wWJcyQoTbji9k0l8W26mPddxHmfHQp+Vaw+4qPCJrcS2mJPMEz
P1Pt0Bm4d4QlL+yRT+SFd2lZS+pCgNMsD1W/YpRPEwOWvG6b32690r2jZ47soMZo
9wGzjb/7OMg0LOL+bSf63kpaSHSXndS5z5rexMdbBYUsLA9e+KXBdQOS+UTo7WTB
EMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6/I5IhlJH7aGhyxX
FvUK+DWNmoudF8NAco9/h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXp
oQIDAQAB
-----END PUBLIC KEY-----]]
local PEM_P256 = [[-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEf83OJ3D2xF1Bg8vub9tLe1gHMzV7
6e8Tus9uPHvRVEXH8UTNG72bfocs3+257rn0s2ldbqkLJK2KRiMohYjlrQ==
-----END PUBLIC KEY-----]]
local PEM_RSA_1024 = [[-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDMBRWgLXQpZX8Kl8Z7z2liKEIL
DZ3HJnEpeNklo27abWeGt0lao29Wvrvqjt5D95LGC2uv/Y1R/F9wEu4ZiHcr1MIK
Gr6ORNRTF7LmU2C4n3+ZnLkRdmXyHgvbS281B5abFvWqPjfLITzlIaPSE0cvix/A
eWiaodMMEftVd0rCmQIDAQAB
-----END PUBLIC KEY-----]]
local PEM_P384 = [[-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEWT2EW3ygqavA16SXKHWgm7pPtEVKKMHg
DqMcfeLV85edXg+MPx6+KHbJKRdPnFsBUcZV7bQL8PJk1KjVGw0UkJ8o1FQVjriS
qq3rfw7WoQ3ddjE9wplWyGvb3Nox/TCA
-----END PUBLIC KEY-----]]
local CERTIFICATE = [[-----BEGIN CERTIFICATE-----
MIIBdjCCARugAwIBAgIUMhnVPk8FotQ7ntoRSx32WNYkUZwwCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEc3BlYzAgFw0yNjExMjUyMzE5MDRaGA8yMTI2MTEwMTIzMTkw
NFowDzENMAsGA1UEAwwEc3BlYzBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABHnZ
RfshuJdpAT9F1s14r14uxVFABr9M33KM6PmMDLcm/qavD8oKfANAxN7Cf3F7O/N/
6JP8LXaLExH41pLe0cyjUzBRMB0GA1UdDgQWBBSlJtLRGl7mFm8i85uLCnfXgPSy
ijAfBgNVHSMEGDAWgBSlJtLRGl7mFm8i85uLCnfXgPSyijAPBgNVHRMBAf8EBTAD
AQH/MAoGCCqGSM49BAMCA0kAMEYCIQClggqTA2nnX7bc1FnVpALBCqd2FoocOiHn
nq+qSqadRQIhAKRB2aTF/bnVmoIy0vZDj/wQMt7CbQcv3RZX4JXAmAZE
-----END CERTIFICATE-----]]
local CERTIFICATE_SIGNED = "3h15QN0y37J79cwuWufywpTWx-4YUuZrNcCg9UAfom_fLhRv82IzG1OV7NVPakS0wbuQxbWPt8_tlPPs-Jxa5w"

local BODY = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
local JWK_RSA = { kty = "RSA", e = "AQAB", n = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp"
    .. "-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63"
    .. "kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhy"
    .. "xXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ" }
local JWK_P256 = { kty = "EC", crv = "P-256", x = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    y = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0" }
local JWK_OCT = { kty = "oct", k = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZ"
    .. "r1Z9CAow" }
local VECTORS = { -- appendix A.1 to A.3
    { alg = "HS256", jwk = JWK_OCT, data = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9." .. BODY,
        signature = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk" },
    { alg = "RS256", jwk = JWK_RSA, pem = PEM_RSA, data = "eyJhbGciOiJSUzI1NiJ9." .. BODY,
        signature = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp"
        .. "5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe"
        .. "7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6L"
        .. "bgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw" },
    { alg = "ES256", jwk = JWK_P256, pem = PEM_P256, data = "eyJhbGciOiJFUzI1NiJ9." .. BODY,
        signature = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q" },
}

local Keys = {}

local function with(jwk, changes)
    local copy = {}
    for name, value in pairs(jwk) do copy[name] = value end
    for name, value in pairs(changes) do copy[name] = value end
    return copy
end

local function refused(source, message)
    local key, wrong = gateway.public_key(source)
    assert(key == nil and wrong:find(message, 1, true), "not refused for: " .. message .. ", but: " .. tostring(wrong))
end

-- Everything near a right signature is wrong.
local function check_key(key, vector)
    local signature = assert(gateway.base64url_decode(vector.signature))
    assert(key:verify(vector.alg, vector.data, signature), vector.alg .. " does not verify")
    for _, alg in ipairs { "HS256", "RS256", "ES256", "none", "None", "", "RS384", "PS256", "hs256", vector.alg .. "\0" } do
        if alg ~= vector.alg then assert(not key:verify(alg, vector.data, signature), "verifies as " .. alg) end
    end
    assert(not key:verify(vector.alg, vector.data .. ".", signature))
    assert(not key:verify(vector.alg, "", signature))
    for cut = 0, #signature - 1 do
        assert(not key:verify(vector.alg, vector.data, signature:sub(1, cut)), "verifies when cut")
    end
    assert(not key:verify(vector.alg, vector.data, signature .. "\0"))
    assert(not key:verify(vector.alg, vector.data, ("\0"):rep(#signature)))
    assert(not key:verify(vector.alg, vector.data, ("\255"):rep(#signature)))
    for at = 1, #signature do
        local byte = bit.bxor(signature:byte(at), 1)
        local changed = signature:sub(1, at - 1) .. string.char(byte) .. signature:sub(at + 1)
        assert(not key:verify(vector.alg, vector.data, changed), "verifies with a changed byte")
    end
end

function Keys.new()
    for _, vector in ipairs(VECTORS) do
        check_key(assert(gateway.public_key(vector.jwk)), vector)
        check_key(assert(gateway.public_key(with(vector.jwk, { alg = vector.alg, use = "sig", kid = "1" }))), vector)
        if vector.pem then check_key(assert(gateway.public_key(vector.pem)), vector) end
        for _, other in ipairs(VECTORS) do -- no key of another kind
            if other ~= vector then
                local signature = gateway.base64url_decode(vector.signature)
                local key = gateway.public_key(other.jwk)
                assert(not key:verify(vector.alg, vector.data, signature))
                assert(not key:verify(other.alg, vector.data, signature))
            end
        end
    end
    -- the public key's own text as an HMAC secret: what alg confusion is
    local forged = gateway.hmac_sha256(PEM_RSA, VECTORS[2].data)
    local rsa = gateway.public_key(PEM_RSA)
    assert(not rsa:verify("HS256", VECTORS[2].data, forged) and not rsa:verify("RS256", VECTORS[2].data, forged))
    local certificate = assert(gateway.public_key(CERTIFICATE))
    local signed = gateway.base64url_decode(CERTIFICATE_SIGNED)
    assert(certificate:verify("ES256", "what the certificate signs", signed))

    refused(PEM_RSA_1024, "2048")
    refused(PEM_P384, "P-256")
    refused("no key", "PEM")
    refused("", "PEM")
    refused((PEM_RSA:gsub("MIIB", "AIIB")), "PEM")
    refused({}, "kty nil")
    refused({ kty = "OKP" }, "kty OKP")
    refused(with(JWK_RSA, { use = "enc" }), "use")
    refused(with(JWK_RSA, { alg = "PS256" }), "alg is PS256")
    refused(with(JWK_RSA, { alg = "HS256" }), "alg is HS256")
    refused(with(JWK_RSA, { n = "AQAB" }), "2048")
    refused(with(JWK_RSA, { n = JWK_RSA.n .. "+" }), "base64url")
    refused(with(JWK_RSA, { n = 5 }), "base64url")
    refused(with(JWK_RSA, { e = "AQ" }), "RSA key") -- by the exponent 1 anybody signs
    refused(with(JWK_RSA, { e = "AAAA" }), "RSA key")
    refused(with(JWK_RSA, { e = "" }), "RSA key")
    refused(with(JWK_P256, { crv = "P-384" }), "P-256")
    refused(with(JWK_P256, { y = JWK_P256.x }), "point")
    refused(with(JWK_P256, { y = JWK_P256.y:sub(1, 40) }), "point")
    refused(with(JWK_OCT, { k = "c2hvcnQ" }), "32")
    refused(with(JWK_OCT, { k = "" }), "32")
    refused({ kty = "oct" }, "base64url")

    for _ = 1, 300 do assert(gateway.public_key(JWK_P256)) end -- let go by the collector, or with the state
    return { pick = function() end }
end

return Keys
