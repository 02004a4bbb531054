-- examples/filters/api_key.lua: a request needs an X-Api-Key that another service knows. What that said is
-- kept in a shared dictionary, so that a key is asked for once in `ttl` and not once a worker. Options: url
-- (needed), ttl (30s), refused_ttl (5s), timeout (1s).
local ApiKey = { name = "api_key", api = 1 }
ApiKey.__index = ApiKey

local SCHEMA = {
    url = { type = "string", required = true },
    ttl = { type = "duration", default = "30s", min = 1 },
    refused_ttl = { type = "duration", default = "5s", min = 1 },
    timeout = { type = "duration", default = "1s", min = 0.001 },
}

function ApiKey.new(options, owner)
    local self = setmetatable(gateway.options(owner, options, SCHEMA), ApiKey)
    self.known = gateway.dict("api_key") -- digest of a key → the user's name, "" for none
    self.asked = gateway.metric("counter", "api_key_lookups_total", "API keys looked up.", { "outcome" })
    return self
end

-- The user's name, "" for none; nil where the service cannot say.
function ApiKey:ask(key)
    local url = self.url .. "?" .. gateway.query_encode { key = key } -- the client chooses the query alone
    local answer, why = gateway.fetch(url, { timeout = self.timeout })
    if not answer or answer.status >= 500 then
        self.asked:add(1, "failed")
        gateway.log("warn", "api_key: no verdict: " .. (why or "status " .. answer.status))
        return nil
    end
    local is_good = answer.status == 200 and answer.body ~= ""
    self.asked:add(1, is_good and "good" or "refused")
    return is_good and answer.body or ""
end

function ApiKey:on_request(request)
    local key = request:header("X-Api-Key")
    if not key then return request:answer(401, "an API key is needed\n") end
    request:remove_header("X-Api-Key")
    local digest = gateway.hex(gateway.sha256(key)) -- no secrets in the dictionary
    local user = self.known:get(digest)
    if user == nil then
        user = self:ask(key)
        if user == nil then return request:answer(503, "try again\n", { ["Retry-After"] = 1 }) end
        self.known:set(digest, user, user ~= "" and self.ttl or self.refused_ttl)
    end
    if user == "" then return request:answer(403, "this API key is not known\n") end
    request:set_header("X-User", user) -- replaces what a client may have sent
    request.ctx.user = user
end

return ApiKey
