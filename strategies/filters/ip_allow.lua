-- strategies/filters/ip_allow.lua: who may come, by address. `deny` is looked at first, then `allow`; with
-- an allow list everyone else is refused, without one everyone else may pass. The address is client_ip: a
-- forwarded one counts only where the peer is one of trusted_proxies. Options: allow, deny (lists of
-- addresses and CIDRs, one of them needed), status (403).
---@class IpAllow : Filter
local IpAllow = { name = "ip_allow", api = 1 }
IpAllow.__index = IpAllow

local function check_list(list)
    local ok, set = pcall(gateway.ip_set, list)
    if ok then return set end
    return nil, (tostring(set):gsub("^[^ ]+:%d+: ", ""))
end

local SCHEMA = {
    allow = { type = "list", check = check_list },
    deny = { type = "list", check = check_list },
    status = { type = "integer", default = 403, min = 400, max = 599 },
}

function IpAllow.new(options, route)
    local set = gateway.options(route, options, SCHEMA)
    if not set.allow and not set.deny then error(route.options_path .. ": expected allow or deny", 0) end
    return setmetatable({ allow = set.allow, deny = set.deny, status = set.status }, IpAllow)
end

function IpAllow:on_request(request)
    local ip = request.client_ip
    local denied = self.deny and self.deny:has(ip)
    if denied or self.allow and not self.allow:has(ip) then
        return request:answer(self.status, "not allowed from this address\n")
    end
end

return IpAllow
