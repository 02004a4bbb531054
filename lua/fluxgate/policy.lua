-- fluxgate/policy.lua: checks what a health policy's probe() and judge() answer before C reads it. Rare
-- calls, so tables.
local policy = {}

local JUDGEMENTS = { healthy = 1, unhealthy = 2, unchanged = 0 } -- enum script_judgement
local STATUSES = 8

local function text(answer, name, pattern)
    local value = answer[name]
    if value == nil then return nil end
    if type(value) ~= "string" or value:find("[%c]") or (pattern and not value:find(pattern)) then
        error("probe() answered a " .. name .. " that cannot be sent: " .. tostring(value), 0)
    end
    return value
end

-- { 200, "200-299" } → count, from, to, from, to, …
function policy.ranges(list)
    local flat = {}
    for i, item in ipairs(list) do
        local from, to = tostring(item):match("^(%d%d%d)%-(%d%d%d)$")
        if not from then from = tostring(item):match("^(%d%d%d)$"); to = from end
        from, to = tonumber(from), tonumber(to)
        if not from or from < 100 or to > 599 or from > to then
            return nil, "expected a status like 200 or a range like \"200-299\", got " .. tostring(item)
        end
        if i > STATUSES then return nil, "expected at most " .. STATUSES .. " statuses and ranges" end
        flat[#flat + 1], flat[#flat + 2] = from, to
    end
    return flat
end

-- kind, method, path, host, port, timeout in seconds, body, count and pairs of statuses: as
-- core/script/policy.c reads.
function policy.probe(instance, backend)
    local answer = instance:probe(backend)
    if answer == nil then return "none" end
    if type(answer) ~= "table" then
        error("probe() must answer a table or nil, it answered a " .. type(answer), 0)
    end
    if answer.kind ~= "http" and answer.kind ~= "tcp" then
        error("probe() answered kind " .. tostring(answer.kind) .. "; it may be \"http\" or \"tcp\"", 0)
    end
    local timeout, port = tonumber(answer.timeout) or 2, tonumber(answer.port) or 0
    if not (timeout > 0 and timeout <= 3600) then error("probe() answered a timeout that is no time", 0) end
    if not (port >= 0 and port <= 65535) then error("probe() answered a port that is none", 0) end
    local flat, wrong = policy.ranges(answer.status or {})
    if not flat then error("probe(): " .. wrong, 0) end
    return answer.kind, text(answer, "method", "^%u+$") or "GET", text(answer, "path", "^/[^ ]*$") or "/",
        text(answer, "host", "^[^ ]+$"), port, timeout, text(answer, "body"), #flat / 2, unpack(flat)
end

function policy.judge(instance, backend, ok, status, latency, failure, body, rise, fall, state, since)
    local result = {
        ok = ok, status = status, latency = latency, body = body, failure = failure ~= "-" and failure or nil,
    }
    local history = { rise = rise, fall = fall, state = state, since = since }
    local answer, reason = instance:judge(backend, result, history)
    if answer == nil then return 0 end
    local judgement = JUDGEMENTS[answer]
    if not judgement then
        error("judge() must answer \"healthy\", \"unhealthy\" or nil, it answered " .. tostring(answer), 0)
    end
    return judgement, type(reason) == "string" and reason or nil
end

return policy
