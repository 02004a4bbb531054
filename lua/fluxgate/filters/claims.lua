-- fluxgate/filters/claims.lua: what the claims of a token must say (RFC 7519 section 4.1), for the filter
-- jwt.
local claims_of = {}

local function has(list, value)
    for _, one in ipairs(list) do
        if one == value then return true end
    end
    return false
end

local function audience_fits(claim, wanted)
    for _, one in ipairs(type(claim) == "table" and claim or { claim }) do
        if has(wanted, one) then return true end
    end
    return false
end

-- What is wrong with the claims, as `wanted` has it (leeway, require_exp, issuer, audience); nil: nothing.
function claims_of.complaint(claims, wanted)
    local now = gateway.time()
    for _, name in ipairs { "exp", "nbf", "iat" } do
        local value = claims[name]
        local is_number = type(value) == "number" and value == value
        if value ~= nil and not is_number then return name .. " is no number" end
    end
    if not claims.exp and wanted.require_exp then return "exp is missing" end
    if claims.exp and now >= claims.exp + wanted.leeway then return "the token has expired" end
    if claims.nbf and now < claims.nbf - wanted.leeway then return "the token is not valid yet" end
    if claims.iat and now < claims.iat - wanted.leeway then return "the token is from the future" end
    if wanted.issuer and claims.iss ~= wanted.issuer then return "another issuer" end
    if wanted.audience and not audience_fits(claims.aud, wanted.audience) then return "another audience" end
    return nil
end

function claims_of.check_headers(map)
    for claim, name in pairs(map) do
        if type(claim) ~= "string" or type(name) ~= "string" or not name:find("^[%w!#$%%&'*+.^_`|~-]+$") then
            return nil, "expected claims with the names of headers"
        end
    end
    return map
end

return claims_of
