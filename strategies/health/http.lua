-- strategies/health/http.lua: an endpoint is healthy when it answers a request with an expected status in
-- time. `rise` good answers in a row make an unhealthy endpoint healthy again, `fall` bad ones make it
-- unhealthy; one that was never proven needs only one good answer. An instance's own healthPath wins over
-- `path`. Options: path ("/health"), method ("GET"), host (the Host header; the endpoint's address without),
-- status (200-299; a list of numbers and ranges), body (text that the first 4 KiB must hold), timeout (2s),
-- rise (2), fall (3), and how often: interval (5s), fast_interval (while a verdict is changing; interval
-- without), jitter (0.1: ± 10 % of the interval).
---@class HttpPolicy : Policy
local HttpPolicy = { name = "http", api = 1 }
HttpPolicy.__index = HttpPolicy

local function check_path(path)
    if path:find("^/[%g]*$") then return path end
    return nil, "expected a path that begins with '/'"
end

local function check_method(method)
    if method:find("^%u+$") then return method end
    return nil, "expected a method in capitals"
end

local function check_host(host)
    if host:find("^[%w%.:%[%]_-]+$") then return host end
    return nil, "expected a host name, with a port or without"
end

-- { 200, "300-399" } → list of { from, to }
local function check_status(list)
    if type(list) ~= "table" then list = { list } end
    local ranges = {}
    for i, item in ipairs(list) do
        local from, to = tostring(item):match("^(%d%d%d)%-(%d%d%d)$")
        if not from then from = tostring(item):match("^%d%d%d$") end
        from, to = tonumber(from), tonumber(to or from)
        if not from or from < 100 or to > 599 or from > to then
            return nil, "expected a status like 200 or a range like \"200-299\", got " .. tostring(item)
        end
        ranges[i] = { from = from, to = to }
    end
    if #ranges < 1 or #ranges > 8 then return nil, "expected one to eight statuses or ranges" end
    return ranges
end

local SCHEMA = {
    path = { type = "string", default = "/health", check = check_path },
    method = { type = "string", default = "GET", check = check_method },
    host = { type = "string", check = check_host },
    status = { default = { { from = 200, to = 299 } }, check = check_status },
    body = { type = "string" },
    interval = { type = "duration", default = 5, min = 0.01 },
    fast_interval = { type = "duration", min = 0.01 },
    timeout = { type = "duration", default = 2, min = 0.001, max = 3600 },
    rise = { type = "integer", default = 2, min = 1, max = 1000 },
    fall = { type = "integer", default = 3, min = 1, max = 1000 },
    jitter = { type = "number", default = 0.1, min = 0, max = 1 },
}

function HttpPolicy.new(options, service)
    local policy = setmetatable(gateway.options(service, options, SCHEMA), HttpPolicy)
    policy.expected = {}
    for i, range in ipairs(policy.status) do policy.expected[i] = range.from .. "-" .. range.to end
    return policy
end

function HttpPolicy:probe(backend)
    local own = backend.health_path
    return {
        kind = "http", method = self.method, path = own ~= "" and own or self.path, host = self.host,
        timeout = self.timeout, status = self.expected, body = self.body or false, -- or: the head is enough
    }
end

-- nil where the answer is as it should be, else what is wrong with it.
function HttpPolicy:fault(result)
    if not result.ok then return (result.failure or "no answer"):gsub("_", " ") end
    local expected = false
    for _, range in ipairs(self.status) do
        if result.status >= range.from and result.status <= range.to then expected = true end
    end
    if not expected then return "status " .. result.status end
    if self.body and not result.body:find(self.body, 1, true) then
        return "the body lacks the expected text"
    end
    return nil
end

function HttpPolicy:judge(backend, result, history)
    local fault = self:fault(result)
    if not fault then
        local needed = history.state == "unhealthy" and self.rise or 1
        if history.state ~= "healthy" and history.rise + 1 >= needed then return "healthy" end
    elseif history.state ~= "unhealthy" and history.fall + 1 >= self.fall then
        return "unhealthy", ("%d probes failed: %s"):format(history.fall + 1, fault)
    end
    return nil
end

return HttpPolicy
