-- strategies/filters/external_auth.lua: asks another server whether a request may pass (the behaviour of
-- nginx's auth_request). It is asked by GET with X-Forwarded-Method, -Uri and -Host and the chosen fields;
-- 2xx lets the request pass and the chosen fields of that answer replace the client's of the same name, 3xx
-- and 4xx are given to the client as they are (without framing fields). A 5xx, a time-out or no answer is
-- 503: it fails closed. Options: url (needed; http, https or service://NAME/path), headers ([Authorization,
-- Cookie]: sent along), response_headers ([]: copied to the backend; a client's own are always removed),
-- timeout (2s), cache (0: how long a 2xx holds for the same method, path, query and sent fields, at most
-- 1m), cache_max (1000 answers a worker).
---@class ExternalAuth : Filter
local ExternalAuth = { name = "external_auth", api = 1 }
ExternalAuth.__index = ExternalAuth

local function check_url(text)
    if text:find("^https?://[^/]") or text:find("^service://[^/]") then return text end
    return nil, "expected http://…, https://… or service://NAME/…"
end

local function check_names(list)
    for _, name in ipairs(list) do
        if type(name) ~= "string" or not name:find("^[%w!#$%%&'*+.^_`|~-]+$") then
            return nil, "expected a list of header names"
        end
    end
    return list
end

local SCHEMA = {
    url = { type = "string", required = true, check = check_url },
    headers = { type = "list", default = { "Authorization", "Cookie" }, check = check_names },
    response_headers = { type = "list", default = {}, check = check_names },
    timeout = { type = "duration", default = 2 },
    cache = { type = "duration", default = 0, max = 60 },
    cache_max = { type = "integer", default = 1000, min = 1, max = 100000 },
}

function ExternalAuth.new(options, route)
    local set = gateway.options(route, options, SCHEMA)
    set.entries, set.count = {}, 0
    return setmetatable(set, ExternalAuth)
end

local function question(self, request)
    local uri = request.path .. (request.query ~= "" and "?" .. request.query or "")
    local headers = {
        ["X-Forwarded-Method"] = request.method, ["X-Forwarded-Uri"] = uri,
        ["X-Forwarded-Host"] = request.host, ["X-Forwarded-For"] = request.client_ip,
        ["X-Request-Id"] = request.id,
    }
    local key = { request.method, request.host, uri, request.client_ip }
    for _, name in ipairs(self.headers) do
        local value = request:header(name)
        headers[name] = value
        key[#key + 1] = value and #value .. ":" .. value or "-"
    end
    return headers, self.cache > 0 and gateway.sha256(table.concat(key, "\n"))
end

function ExternalAuth:remember(key, copied)
    if self.count >= self.cache_max then self.entries, self.count = {}, 0 end
    if not self.entries[key] then self.count = self.count + 1 end
    self.entries[key] = { ends = gateway.now() + self.cache, copied = copied }
end

function ExternalAuth:pass(request, copied)
    for _, name in ipairs(self.response_headers) do
        request:remove_header(name)
        if copied[name] then request:set_header(name, copied[name]) end
    end
end

local ANSWER = {
    "content-type", "location", "www-authenticate", "set-cookie", "retry-after", "cache-control",
}

function ExternalAuth:on_request(request)
    local headers, key = question(self, request)
    local kept = key and self.entries[key]
    if kept and kept.ends > gateway.now() then return self:pass(request, kept.copied) end
    local asked = { headers = headers, timeout = self.timeout, max_body = 65536 }
    local answer, wrong = gateway.fetch(self.url, asked)
    local status = answer and answer.status or 0
    if status >= 200 and status <= 299 then
        local copied = {}
        for _, name in ipairs(self.response_headers) do
            copied[name] = answer.headers[name:lower()]
        end
        if key then self:remember(key, copied) end
        return self:pass(request, copied)
    end
    if status >= 300 and status <= 499 then
        local fields = {}
        for _, name in ipairs(ANSWER) do fields[name] = answer.headers[name] end
        return request:answer(status, answer.body, fields)
    end
    gateway.log("warn", "external_auth: no verdict: " .. (wrong or "status " .. status))
    return request:answer(503, "cannot tell whether this is allowed\n", { ["Retry-After"] = "1" })
end

return ExternalAuth
