-- fluxgate/testkit.lua: drives strategies, health policies and filters without a gateway, under busted and
-- plain luajit. The files are loaded by the gateway's own loader into the gateway's own sandbox; endpoints,
-- requests, clock and dice are fakes.
--
--     local kit = require "fluxgate.testkit"
--     local strategy, fleet = kit.strategy("round_robin"), kit.backends { { weight = 3 }, {} }
--     local backend = strategy:pick(kit.request { path = "/x" }, fleet)
local arguments = require "fluxgate.arguments"
local chain = require "fluxgate.chain"
local dialog = require "fluxgate.dialog"
local fakes = require "fluxgate.fakes"
local options = require "fluxgate.options"
local plugin = require "fluxgate.plugin"
local policies = require "fluxgate.policy"
local sha256 = require "fluxgate.sha256"
local waits = require "fluxgate.waits"

local kit = { logs = {} }

local here = debug.getinfo(1, "S").source:match("^@(.*)/lua/fluxgate/[^/]*$") or "."
local state -- clock, dice and counters of the running spec

-- Park and Miller, "Random number generators: good ones are hard to find", CACM 31(10), 1988: exact in
-- doubles.
local function roll()
    state.dice = state.dice * 48271 % 2147483647
    return (state.dice - 1) / 2147483646
end

local function counter(name)
    local value = state.counters[name] or { count = 0 }
    state.counters[name] = value
    return {
        next = function() value.count = value.count + 1 return value.count - 1 end,
        get = function() return value.count end,
    }
end

-- What a spec may give, by name.
local REQUEST = "method path query host client_ip headers cookies body body_cut attempt tried ctx id scheme "
    .. "route service known_services known_routes"
local ANSWER = "status headers body chunks backend failure"
local RESULT = "ok status latency failure body detail value sent"
local WINDOW = "requests failures errors latency failures_in_row errors_in_row trial"

local LEVELS = { [0] = "debug", "info", "warn", "error" }

local host = {
    share = here, version = "0.1.0", zone = "",
    lua_path = { "." }, strategies_path = { ".", here .. "/strategies" },
    QUEUE = setmetatable({}, { __tostring = function() return "gateway.QUEUE" end }),
    read = function(path)
        local file = io.open(path, "rb")
        if not file then return nil, path .. ": no such file" end
        local source = file:read("*a")
        file:close()
        return source
    end,
    now = function() return state.now end,
    random = function(n)
        if n == nil then return roll() end
        return math.floor(roll() * n) + 1
    end,
    counter = counter,
    log = function(level, message) kit.logs[#kit.logs + 1] = { level = LEVELS[level], message = message } end,
    sha256 = sha256.digest, hmac_sha256 = sha256.hmac, extra = waits.extra,
}
kit.QUEUE = host.QUEUE

-- Starts afresh: clock at 1000 s, no counters, no log lines, dice from `seed`. Call it in before_each.
function kit.seed(seed)
    state = { now = 1000, counters = {}, dice = (seed or 1) % 2147483646 + 1 }
    state.random, host.zone = host.random, ""
    waits.reset(state)
    for _ = 1, 8 do roll() end -- near seeds begin with near numbers
    for i = #kit.logs, 1, -1 do kit.logs[i] = nil end
end
kit.seed(1)

function kit.now() return state.now end

-- The zone of the gateway, as plug-ins that are made from now on see it in gateway.zone; kit.seed forgets it.
function kit.zone(name)
    if type(name) ~= "string" then error("kit.zone: expected a name, got a " .. type(name), 2) end
    host.zone = name
end

-- Moves the clock on by a number of seconds or a duration such as "10s"; timers that fall due run.
function kit.advance(duration)
    waits.advance(state.now + assert(options.duration(duration)))
    return state.now
end

-- Directories that `require` and names of strategies are looked up in, before the shipped ones.
function kit.path(dir)
    table.insert(host.lua_path, 1, dir)
    table.insert(host.strategies_path, 1, dir)
end

local function locate(name, folder)
    if name:find("/", 1, true) or name:find("%.lua$") then return name end
    for _, dir in ipairs(host.strategies_path) do
        local path = dir .. "/" .. folder .. name .. ".lua"
        if host.read(path) then return path end
    end
    error("kit: there is no " .. folder .. name .. ".lua in " .. table.concat(host.strategies_path, ", "), 3)
end

local function leave(request, ok, ...)
    fakes.in_pick(request, nil)
    if not ok then error((...), 0) end
    return ...
end

-- What the gateway does before each pick: on_change where the endpoints are not those that the strategy saw
-- last.
local function watch(instance, on_change, service)
    local pick, seen, version = instance.pick, nil, nil
    instance.pick = function(self, request, backends)
        local fleet = fakes.fleet_of(backends)
        if fleet and (fleet ~= seen or fleet.version ~= version) then
            seen, version, service.fleet = fleet, fleet.version, fleet
            if on_change then on_change(self, fleet.offered) end
        end
        if fleet then fakes.serve(request, fleet) end
        fakes.in_pick(request, true)
        return leave(request, pcall(pick, self, request, backends))
    end
end

-- The gateway table as plug-ins have it, for what a spec has to compute itself: a signature, the time.
kit.gateway = plugin.new_loader(host):gateway()

-- An instance of the strategy `name` (or of a path that ends in .lua), made as for a service named "test".
function kit.strategy(name, given, previous)
    local loader, file = plugin.new_loader(host), locate(name, "")
    local service = { name = "test", options_path = "services.test.options" }
    service.endpoints = function() return service.fleet and service.fleet.all or {} end
    local shown = plugin.display(host, file)
    local instance, inner = loader:make("strategy", file, shown, given or {}, service, previous)
    watch(instance, loader.on_change(instance, inner), service)
    return instance
end

-- An instance of the health policy `name`.
function kit.policy(name, given)
    local file = locate(name, "health/")
    local service = { name = "test", options_path = "services.test.health" }
    service.endpoints = function() return {} end
    given = given or {}
    if name ~= "passive" then given = options.probing_defaults(given) end -- that one never probes
    return (plugin.new_loader(host):make("policy", file, plugin.display(host, file), given, service))
end

-- An instance of the filter `name` (or of a path that ends in .lua), made as for a route named "test".
function kit.filter(name, given)
    local file = locate(name, "filters/")
    local route = { name = "test", options_path = "routes.test.filters.options" }
    local loader = plugin.new_loader(host)
    return (loader:make("filter", file, plugin.display(host, file), given or {}, route))
end

-- What becomes of a request that passes `filters`: one, or a list whose items may be { filter, on_error =
-- "skip" }. `request` is a kit.request or its fields (with body, body_cut: the client left in the middle).
-- The endpoint is { status, headers, body or chunks }, or a function of the request that it sees. Returns {
-- forwarded (nil: it went nowhere), status, headers, lines, body, compressed, reason, errors }.
function kit.run(filters, request, endpoint)
    local entries = {}
    if type(filters) ~= "table" then
        error("kit.run: expected what kit.filter made, or a list of such, got a " .. type(filters), 2)
    end
    if type(endpoint) == "table" then arguments.known("kit.run: endpoint", endpoint, ANSWER) end
    if filters.on_request or filters.on_response or filters.on_log then filters = { filters } end
    for i, item in ipairs(filters) do
        entries[i] = { filter = item[1] or item, on_error = item.on_error or "fail" }
    end
    if getmetatable(request) ~= false then
        arguments.known("kit.run: request", request or {}, REQUEST)
        request = fakes.request(request or {})
    end
    return chain.run(waits.run, entries, request, endpoint)
end

-- Answers for gateway.fetch, kit.fetched() what was asked for; kit.metrics() what was counted; kit.key() a
-- key for gateway.public_key: waits.lua says how.
kit.on_fetch, kit.fetched, kit.metrics, kit.key = waits.on_fetch, waits.fetched, waits.metrics, waits.key

-- The shared dictionary `name`, as filters see it. `max` entries make it full.
function kit.dict(name, max)
    local dict = waits.extra.dict(name)
    dict.max = max or dict.max
    return dict
end

-- Endpoints, as pick() gets them: sorted by id, without those that may not be picked. Each row may have id,
-- host, port, weight, effective_weight, zone, metadata, state, active, latency_ewma, failures, load, full,
-- health_path. fleet["id"] finds any of them, offered or not.
function kit.backends(rows)
    local fleet = fakes.fleet(rows)
    return fleet.offered -- no tail call: messages count levels
end

-- Changes an endpoint (its state, weight, …); the strategy learns of it before its next pick.
function kit.set(backends, id, changes)
    local fleet = fakes.fleet_of(backends) or error("kit.set: expected what kit.backends made", 2)
    fakes.change(fleet, id, changes)
end

-- A request. Fields: method, path, query, host, client_ip, headers, cookies (name → value, or a
-- list), attempt, tried (a list of backends).
function kit.request(fields)
    arguments.known("kit.request", fields or {}, REQUEST)
    return fakes.request(fields or {})
end

-- The cookies that set_cookie was called with: a list of { name, value, options }.
function kit.cookies(request) return fakes.data(request).set_cookies end

-- A result for on_result. Fields: status, latency, failure, headers.
function kit.result(fields)
    arguments.known("kit.result", fields or {}, "status latency failure headers")
    return fakes.result(fields or {})
end

-- A request is placed on `backend`, or has left it.
function kit.begin(backend)
    local row = fakes.data(backend)
    row.active = row.active + 1
    return backend
end

function kit.finish(backend)
    local row = fakes.data(backend)
    if row.active == 0 then error("kit.finish: no request is on " .. row.id, 2) end
    row.active = row.active - 1
    return backend
end

-- pick() as the gateway calls it: without what the request tried, and with the answer checked. Raises where
-- the gateway would fall back; else returns the backend, or nil and the reason.
function kit.pick(strategy, request, backends)
    if tostring(request) ~= "request" or type(backends) ~= "table" then
        error("kit.pick: expected a strategy, what kit.request made and what kit.backends made", 2)
    end
    local offered = fakes.without_tried(backends, request)
    fakes.serve(request, fakes.fleet_of(backends))
    local backend, reason = strategy:pick(request, offered)
    if backend == nil or backend == host.QUEUE then return backend, reason end
    for i = 1, #offered do
        if offered[i] == backend then return backend end
    end
    if fakes.was_bound(request, backend) then return backend end
    error("pick() answered something that may not be picked now: " .. tostring(backend), 2)
end

-- What probe() answers, after the gateway's own checks.
function kit.probe(policy, backend)
    local kind, method, path, hostname, port, timeout, body, service = policies.probe(policy, backend, 1)
    return {
        kind = kind, method = method, path = path, host = hostname, port = port, timeout = timeout,
        body = body, service = service,
    }
end

-- Whether the gateway counts a result as good: an answer with a status that probe() declared, and its text.
local function passes(probe, result)
    local body, count = probe[7], probe[9] or 0
    if result.ok == false or probe[1] ~= "http" then return result.ok ~= false end
    if (body and not (result.body or ""):find(body, 1, true)) then return false end
    local status = result.status or 200
    for i = 10, 8 + 2 * count, 2 do
        if status >= probe[i] and status <= probe[i + 1] then return true end
    end
    return count == 0
end

-- Feeds probe results ({ ok, status, latency, failure, body, detail, value }) to judge() one after the other,
-- counting as the gateway counts. Returns the endpoint's state after each, and the reason of each verdict
-- (false where there was none).
function kit.judge(policy, backend, results, first_state)
    if type(results) ~= "table" or (results[1] == nil and next(results) ~= nil) then
        error("kit.judge: expected a list of results", 2)
    end
    if first_state ~= nil and not fakes.is_state(first_state) then
        error("kit.judge: there is no state '" .. tostring(first_state) .. "'", 2)
    end
    for _, result in ipairs(results) do arguments.known("kit.judge: result", result, RESULT) end
    local current, rise, fall, states, reasons = first_state or "unproven", 0, 0, {}, {}
    for i, result in ipairs(results) do
        local good = passes({ policies.probe(policy, backend, 1) }, result)
        dialog.keep(1, result.value)
        local verdict, reason = policies.judge(policy, backend, result.ok ~= false, result.status or 200,
            result.latency or 0.001, result.failure or "-", result.body or "", rise, fall, current, state.now,
            result.detail or "", 1)
        if good then rise, fall = rise + 1, 0 else rise, fall = 0, fall + 1 end
        current = verdict == 1 and "healthy" or verdict == 2 and "unhealthy" or current
        states[i], reasons[i] = current, reason or false
    end
    return states, reasons
end

local SEND, RECEIVE, DONE = 0, 1, 2 -- enum dialog_want
local LINE, BYTES = 1, 2 -- enum dialog_receive

-- Runs the function that probe() answers against `server`: a function of each text that is sent (of nil
-- first, for a greeting), which returns what comes back, nil for nothing, false to close. Returns the result
-- as judge() gets it, with `sent`, a list of the texts.
function kit.talk(policy, backend, server)
    local sent, pending, is_closed = {}, "", false
    local function serve(text)
        local answer = server(text)
        if answer == false then is_closed = true else pending = pending .. (answer or "") end
    end
    local function take(kind, bytes)
        local stop
        if kind == BYTES then stop = #pending >= bytes and bytes or nil
        elseif kind == LINE then stop = pending:find("\n", 1, true)
        else stop = #pending > 0 and math.min(#pending, bytes) or nil end
        if not stop and not is_closed then return nil, nil, true end
        local got, why = pending:sub(1, stop or #pending), not stop and "closed" or nil
        pending = pending:sub(#got + 1)
        return kind == LINE and stop and got:gsub("\r?\n$", "") or got, why
    end
    local kind = policies.probe(policy, backend, 1)
    if kind ~= "socket" then error("kit.talk: probe() answered kind " .. kind .. ", not a function", 2) end
    serve(nil)
    local want, a, b = dialog.step(1)
    while want ~= DONE do
        local got, why, is_silent
        if want == SEND then
            if is_closed then why = "closed" else sent[#sent + 1] = a; serve(a) end
        elseif want == RECEIVE then
            got, why, is_silent = take(a, b)
            if is_silent then
                return { ok = false, failure = "response_timeout", status = 0, body = "", sent = sent }
            end
        end
        want, a, b = dialog.step(1, got, why)
    end
    local result = { ok = a, detail = b, value = dialog.value(1), status = 0, body = "", sent = sent }
    if not a then result.failure = "bad_response" end
    return result
end

local ACTIONS = { "eject", "restore" }

-- What observe() makes of `rows`: endpoint's id → what its requests told: requests, failures, errors (those
-- that failed among them), latency, failures_in_row, errors_in_row, trial ("passed", "error", "failed"). The
-- rows with requests are a window that has just ended. Ejects and restores as the gateway does: at most half,
-- never the last, the ejections counted. Returns id → { action, seconds, reason } of what was done.
function kit.observe(policy, backends, rows)
    local fleet, flat, pickable, ejected, done = fakes.fleet_of(backends), {}, 0, 0, {}
    for id, row in pairs(rows) do
        if not fleet.by_id[id] then error("kit.observe: no backend '" .. tostring(id) .. "'", 2) end
        arguments.known("kit.observe: window", row, WINDOW)
    end
    fleet.ejections = fleet.ejections or {}
    for _, backend in ipairs(fleet.all) do
        local row = rows[backend.id] or {}
        if backend.state == "healthy" then
            flat[#flat + 1], flat[#flat + 2] = row.requests or 0, row.errors or row.failures or 0
            flat[#flat + 1] = row.latency or backend.latency_ewma
        end
        if backend.state == "healthy" or backend.state == "ejected" then pickable = pickable + 1 end
        if backend.state == "ejected" then ejected = ejected + 1 end
    end
    policies.fleet(0, flat)
    for _, backend in ipairs(fleet.all) do
        local row, id = rows[backend.id], backend.id
        local was_ejected = backend.state == "ejected"
        if row and (backend.state == "healthy" or (was_ejected and row.trial)) then
            local action, seconds, reason = policies.observe(policy, backend, 0, row.requests ~= nil,
                policies.window(policy), row.requests or 0, row.failures or 0,
                row.errors or row.failures or 0,
                row.failures_in_row or 0, row.errors_in_row or row.failures_in_row or 0,
                row.latency or backend.latency_ewma, fleet.ejections[id] or 0, row.trial, pickable, ejected)
            if action == 1 and (was_ejected or (ejected + 1) * 2 <= pickable) then
                if not was_ejected then ejected = ejected + 1 end
                fleet.ejections[id] = (fleet.ejections[id] or 0) + 1
                fakes.change(fleet, id, { state = "ejected" })
            elseif action == 2 and was_ejected then
                ejected = ejected - 1
                fakes.change(fleet, id, { state = "healthy" })
            else
                action = 0
            end
            if action > 0 then done[id] = { action = ACTIONS[action], seconds = seconds, reason = reason } end
        end
    end
    return done
end

return kit
