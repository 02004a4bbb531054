-- examples/filters/webhook.lua: lets in what was signed: X-Signature: sha256=HEX, an HMAC-SHA256 of
-- "TIME.BODY" by a shared secret, TIME being X-Timestamp, seconds since 1970 and no older than `age`.
-- Options: secret (needed, 16 bytes or more), age (5m), max_body (65536 bytes).
local Webhook = { name = "webhook", api = 1 }
Webhook.__index = Webhook

local function check_secret(secret)
    if #secret >= 16 then return secret end
    return nil, "expected 16 bytes or more"
end

local SCHEMA = {
    secret = { type = "string", required = true, check = check_secret },
    age = { type = "duration", default = "5m" },
    max_body = { type = "integer", default = 65536, min = 0 },
}

function Webhook.new(options, owner)
    return setmetatable(gateway.options(owner, options, SCHEMA), Webhook)
end

function Webhook:on_request(request)
    local stamp = request:header("X-Timestamp") or ""
    local given = (request:header("X-Signature") or ""):match("^sha256=(%x+)$")
    if not given or not stamp:find("^%d+$") then return request:answer(401, "it is not signed\n") end
    local age = math.abs(gateway.time() - tonumber(stamp))
    if age > self.age then return request:answer(401, "it is too old\n") end
    local body, why = request:body(self.max_body)
    if not body then return request:answer(why == "too large" and 413 or 400, why .. "\n") end
    local wanted = gateway.hex(gateway.hmac_sha256(self.secret, stamp .. "." .. body))
    if not gateway.equal(wanted, given:lower()) then request:answer(401, "the signature is wrong\n") end
end

return Webhook
