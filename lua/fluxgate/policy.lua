-- fluxgate/policy.lua: checks what a health policy's probe(), judge() and observe() answer before C reads it.
-- Rare calls, so tables.
local dialog = require "fluxgate.dialog"
local new_fleet = require "fluxgate.fleet"
local policy = {}

local JUDGEMENTS = { healthy = 1, unhealthy = 2, unchanged = 0 } -- enum script_judgement
local ACTIONS = { eject = 1, restore = 2 } -- enum script_action
local KINDS = { http = true, tcp = true, grpc = true, socket = true }
local STATUSES = 8
local WINDOW, WINDOW_MIN, WINDOW_MAX = 10, 0.05, 3600
local EJECT_MAX = 86400

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

-- kind, method, path, host, port, timeout in seconds, body, service, count and pairs of statuses: as
-- core/script/policy.c reads. A function to be run over the probe's socket waits as dialog number `id`.
function policy.probe(instance, backend, id)
    local answer = instance:probe(backend)
    if answer == nil then return "none" end
    if type(answer) == "function" then answer = { kind = "socket", run = answer } end
    if type(answer) ~= "table" then
        error("probe() must answer a table, a function or nil, it answered a " .. type(answer), 0)
    end
    local kind = answer.kind
    if not KINDS[kind] then
        error("probe() answered kind " .. tostring(kind) .. "; it may be http, tcp, grpc or socket", 0)
    end
    local timeout, port = tonumber(answer.timeout) or 2, tonumber(answer.port) or 0
    if not (timeout > 0 and timeout <= 3600) then error("probe() answered a timeout that is no time", 0) end
    if not (port >= 0 and port <= 65535) then error("probe() answered a port that is none", 0) end
    local flat, wrong = policy.ranges(answer.status or {})
    if not flat then error("probe(): " .. wrong, 0) end
    local method, path = text(answer, "method", "^%u+$") or "GET", text(answer, "path", "^/[^ ]*$") or "/"
    local host, body, service = text(answer, "host", "^[^ ]+$"), nil, text(answer, "service")
    if answer.body ~= false then body = text(answer, "body") or "" end -- "": judge() reads it
    if kind == "socket" then
        if type(answer.run) ~= "function" then error("probe() answered a socket without function run", 0) end
        dialog.open(id, answer.run)
    end
    return kind, method, path, host, port, timeout, body, service, #flat / 2, unpack(flat)
end

policy.dialog, policy.dialog_end = dialog.step, dialog.close

function policy.judge(instance, backend, ok, status, latency, failure, body, rise, fall, state, since, detail,
    id)
    local result = {
        ok = ok, status = status, latency = latency, body = body, failure = failure ~= "-" and failure or nil,
        detail = detail ~= "" and detail or nil, value = id ~= 0 and dialog.value(id) or nil,
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

-- How long the windows are that it observes, in seconds: its own word or 10; nil where it does not observe.
function policy.window(instance)
    if type(instance.observe) ~= "function" then return nil end
    local window = instance.window == nil and WINDOW or instance.window
    if type(window) ~= "number" or not (window >= WINDOW_MIN and window <= WINDOW_MAX) then
        error("window: expected seconds from " .. WINDOW_MIN .. " to " .. WINDOW_MAX, 0)
    end
    return window
end

local fleets = {} -- by service: what its endpoints did in the last window

function policy.fleet(service, flat)
    fleets[service] = new_fleet(flat)
end

-- The window that observe() sees. What it has to do with the last window is nil but in the call that follows
-- the window's end.
local function window_of(service, is_new, seconds, requests, failures, errors, failures_in_row, errors_in_row,
    latency, ejections, trial, endpoints, ejected)
    fleets[service] = fleets[service] or new_fleet({})
    local fleet = fleets[service]
    fleet.endpoints, fleet.ejected = endpoints, ejected
    local window = {
        is_new = is_new, failures_in_row = failures_in_row, errors_in_row = errors_in_row,
        latency = latency, ejections = ejections, trial = trial, fleet = fleet, seconds = seconds,
        requests = requests, failures = failures, errors = errors,
    }
    if requests > 0 then window.success_rate = 1 - errors / requests end
    return window
end

function policy.observe(instance, backend, ...)
    local action, seconds, reason = instance:observe(backend, window_of(...))
    if action == nil then return 0, 0 end
    if not ACTIONS[action] then
        error("observe() must answer \"eject\", \"restore\" or nil, it answered " .. tostring(action), 0)
    end
    if type(seconds) == "string" and reason == nil then seconds, reason = nil, seconds end
    if seconds ~= nil and not (type(seconds) == "number" and seconds > 0 and seconds <= EJECT_MAX) then
        error("observe() must eject for more than 0 s and at most a day, not for " .. tostring(seconds), 0)
    end
    return ACTIONS[action], seconds or 0, type(reason) == "string" and reason or nil
end

return policy
