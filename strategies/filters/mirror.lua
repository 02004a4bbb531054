-- strategies/filters/mirror.lua: a copy of some requests goes to another service (shadow traffic). The copy
-- is sent beside the request by gateway.spawn: the client never waits for it, and its answer or failure is
-- counted and thrown away. Only bodies up to max_body are copied; a request with a larger one is not
-- mirrored, and goes on untouched. The copy bears X-Mirror: 1. Options: service (needed), percent (100),
-- methods (list; all), max_body (65536; 0: only requests without one), timeout (5s), without
-- ([Authorization, Cookie]: fields that the copy does not bear).
---@class Mirror : Filter
local Mirror = { name = "mirror", api = 1 }
Mirror.__index = Mirror

local SCHEMA = {
    service = { type = "string", required = true },
    percent = { type = "number", default = 100, min = 0, max = 100 },
    methods = { type = "list" },
    max_body = { type = "integer", default = 65536, min = 0, max = 1048576 },
    timeout = { type = "duration", default = 5 },
    without = { type = "list", default = { "Authorization", "Cookie" } },
}
-- What belongs to the first connection; fetch sets its own.
local OWN = { "host", "content-length", "transfer-encoding", "connection", "expect", "te", "upgrade",
    "trailer", "keep-alive", "http2-settings" }

function Mirror.new(options, route)
    local set = gateway.options(route, options, SCHEMA)
    local dropped, methods = {}, nil
    for _, name in ipairs(OWN) do dropped[name] = true end
    for _, name in ipairs(set.without) do dropped[tostring(name):lower()] = true end
    if set.methods then
        methods = {}
        for _, method in ipairs(set.methods) do methods[method] = true end
    end
    return setmetatable({
        base = "service://" .. set.service, share = set.percent / 100, methods = methods, dropped = dropped,
        max_body = set.max_body, timeout = set.timeout, route = route.name,
        count = gateway.metric("counter", "fluxgate_mirrored_total",
            "Copies sent by mirror, by what became of them", { "route", "result" }),
    }, Mirror)
end

local function send(self, url, options)
    local answer = gateway.fetch(url, options)
    self.count:add(1, self.route, answer and "answered" or "failed")
end

local BODILESS = { GET = true, HEAD = true, OPTIONS = true, DELETE = true, TRACE = true }

-- The body, "" where there is none, nil where it is too large or its sender left.
local function read_body(request, max)
    local length = tonumber(request:header("content-length") or "")
    if length == 0 or not length and BODILESS[request.method] then return "" end
    if length and length > max then return nil end
    return (request:body(max))
end

function Mirror:on_request(request)
    if self.methods and not self.methods[request.method] then return end
    if self.share < 1 and gateway.random() >= self.share then return end
    local body = read_body(request, self.max_body)
    if not body then return self.count:add(1, self.route, "too_large") end
    local headers = { ["X-Mirror"] = "1" }
    for name, value in pairs(request:headers()) do
        if not self.dropped[name] and not name:find("^proxy%-") then headers[name] = value end
    end
    local url = self.base .. request.path .. (request.query ~= "" and "?" .. request.query or "")
    local options = { method = request.method, headers = headers, timeout = self.timeout }
    if body ~= "" then options.body = body end
    if not gateway.spawn(send, self, url, options) then self.count:add(1, self.route, "dropped") end
end

return Mirror
