-- fluxgate/arguments.lua: what the gateway table's functions ask of their arguments, the same in gateway and
-- test kit. Each raises at the line of the script that called: level 3, seen from the function that checks.
local arguments = {}

local error, type, tostring, pairs, ipairs = error, type, tostring, pairs, ipairs
local HUGE, SECONDS_MAX = math.huge, 366 * 86400

function arguments.text(what, value)
    if type(value) ~= "string" then error(what .. ": expected a string, got " .. type(value), 3) end
    return value
end

function arguments.number(what, value)
    if type(value) ~= "number" or value ~= value or value == HUGE or value == -HUGE then
        error(what .. ": expected a finite number, got " .. tostring(value), 3)
    end
    return value
end

function arguments.positive(what, value)
    if type(value) ~= "number" or not (value > 0 and value < HUGE) then
        error(what .. ": expected a number above 0, got " .. tostring(value), 3)
    end
    return value
end

-- How long to wait: at least `least`, at most a year.
function arguments.seconds(what, value, least)
    if type(value) ~= "number" or not (value >= least and value <= SECONDS_MAX) then
        error(what .. ": expected a number of seconds, got " .. tostring(value), 3)
    end
    return value
end

function arguments.bytes(what, value)
    if type(value) ~= "number" or value ~= value or value < 0 then
        error(what .. ": expected a number of bytes, got " .. tostring(value), 3)
    end
    return value
end

-- A level of compression: nil for the usual one.
function arguments.level(what, value, most)
    if value ~= nil and not (type(value) == "number" and value >= 1 and value <= most) then
        error(what .. ": no such level: " .. tostring(value), 3)
    end
    return value
end

-- A time to live: nil for ever.
function arguments.ttl(what, value)
    if value ~= nil and not (type(value) == "number" and value > 0) then
        error(what .. ": expected a ttl in seconds above 0, or none, got " .. tostring(value), 3)
    end
    return value
end

-- A name that all workers share, of a dictionary or counter: at most `most` bytes, and none of the gateway's
-- own (SCRIPT_OWN_NAMES of core/script/script_internal.h).
function arguments.shared_name(what, value, most)
    if type(value) ~= "string" then error(what .. ": expected a string, got " .. type(value), 3) end
    if value == "" or #value > most then
        error(("%s: expected a name of 1 to %d bytes, got %d"):format(what, most, #value), 3)
    end
    if value:sub(1, 9) == "fluxgate/" then
        error(what .. ": names that begin with \"fluxgate/\" are fluxgate's own; choose another name", 3)
    end
    return value
end

-- The test kit's: a table whose names are among `names`, words of a text. At the line of the spec.
function arguments.known(what, given, names)
    if type(given) ~= "table" then error(what .. ": expected a table, got a " .. type(given), 3) end
    for key in pairs(given) do
        if type(key) ~= "string" or not (" " .. names .. " "):find(" " .. key .. " ", 1, true) then
            error(("%s: there is no field '%s'; there are %s"):format(what, tostring(key), names), 3)
        end
    end
end

-- A table of options, of which each name is known; none is an empty one. `level` as error's.
local function check_options(what, options, known, level)
    if options == nil then return {} end
    if type(options) ~= "table" then error(what .. ": expected a table of options", level + 1) end
    for name in pairs(options) do
        if not known[name] then
            error(("%s: there is no option '%s'"):format(what, tostring(name)), level + 1)
        end
    end
    return options
end

local FETCH = { method = true, headers = true, body = true, timeout = true, max_body = true }
local TIMEOUT, TIMEOUT_MAX, BODY_MAX, BODY_CAP = 5, 3600, 1024 * 1024, 64 * 1024 * 1024

-- { name, value, name, value, … } of a mapping to values or lists of values.
local function flat(headers)
    local list = {}
    if type(headers) ~= "table" then error("gateway.fetch: headers must be a table", 4) end
    for name, value in pairs(headers) do
        for _, one in ipairs(type(value) == "table" and value or { value }) do
            if type(name) ~= "string" or (type(one) ~= "string" and type(one) ~= "number") then
                error("gateway.fetch: headers must be names with strings", 4)
            end
            list[#list + 1], list[#list + 2] = name, tostring(one)
        end
    end
    return list
end

-- gateway.fetch's, with the defaults filled in; `fields` are its headers.
function arguments.fetch(url, options)
    options = check_options("gateway.fetch", options, FETCH, 3)
    if type(url) ~= "string" or not (url:find("^https?://[^/]") or url:find("^service://[^/]")) then
        error("gateway.fetch: expected a URL http://…, https://… or service://NAME/…", 3)
    end
    local method, body, timeout, max = options.method, options.body, options.timeout, options.max_body
    if type(method or "") ~= "string" then error("gateway.fetch: the method is no token", 3) end
    if type(body or "") ~= "string" then error("gateway.fetch: the body must be a string", 3) end
    timeout = timeout == nil and TIMEOUT or timeout
    if type(timeout) ~= "number" or not (timeout >= 0.001 and timeout <= SECONDS_MAX) then
        error("gateway.fetch: timeout: expected a number of seconds, got " .. tostring(timeout), 3)
    end
    max = max == nil and BODY_MAX or max
    if type(max) ~= "number" or max < 0 or max ~= max then
        error("gateway.fetch: max_body must be a number of bytes", 3)
    end
    return {
        method = method or "GET", body = body, timeout = timeout < TIMEOUT_MAX and timeout or TIMEOUT_MAX,
        max_body = max < BODY_CAP and max or BODY_CAP, fields = flat(options.headers or {}),
    }
end

-- gateway.every's `once`.
function arguments.every(options)
    local once = check_options("gateway.every", options, { once = true }, 3).once
    if once ~= nil and once ~= "worker" and once ~= "gateway" then
        error("gateway.every: once must be \"worker\" or \"gateway\"", 3)
    end
    return once
end

-- What is said of a header that scripts may not set.
function arguments.owned(name)
    name = name:lower()
    return name .. " belongs to the gateway" .. (name == "host" and ": request:set_host() changes it" or "")
end

-- A key of a dictionary.
function arguments.key(what, value)
    if type(value) ~= "string" or value == "" or #value > 256 then
        local got = type(value) == "string" and #value .. " bytes" or type(value)
        error(what .. ": expected a key of 1 to 256 bytes, got " .. got, 3)
    end
    return value
end

local KINDS = { string = true, number = true, boolean = true }
function arguments.value(what, value)
    if not KINDS[type(value)] then
        error(what .. ": expected a string, a number or a boolean, got " .. type(value), 3)
    end
    if type(value) == "string" and #value > 65536 then
        error(what .. ": the value is longer than 64 KiB", 3)
    end
    return value
end

-- metrics
-- of strategies/filters
local SHIPPED = { fluxgate_rate_limited_total = true, fluxgate_mirrored_total = true }
local OURS = { "^fluxgate_", "^loadbalancer_", "^flux_", "^service_registry_" }
local METRIC_KINDS = { counter = 0, gauge = 1 } -- enum meter_kind

-- What every metric has: raises at the line that called who calls this.
local function check_metric(what, name, help, labels)
    if type(name) ~= "string" or not name:find("^[%a_:][%w_:]*$") or #name > 127 then
        error(what .. ": no name of a metric: " .. tostring(name), 4)
    end
    for _, pattern in ipairs(OURS) do
        if name:find(pattern) and not SHIPPED[name] then
            error(what .. ": " .. name .. ": names of this kind are fluxgate's own", 4)
        end
    end
    if type(help) ~= "string" then error(what .. ": expected a help text, got " .. type(help), 4) end
    if labels ~= nil and type(labels) ~= "table" then
        error(what .. ": expected a list of label names, got " .. type(labels), 4)
    end
    if #(labels or {}) > 8 then error(what .. ": more than 8 labels", 4) end
    local seen = {}
    for _, label in ipairs(labels or {}) do
        local is_fine = type(label) == "string" and label:find("^[%a_][%w_]*$") and label:sub(1, 2) ~= "__"
        if not is_fine or #label > 63 or seen[label] then
            error(what .. ": no name of a label, or twice the same: " .. tostring(label), 4)
        end
        seen[label] = true
    end
    return seen
end

-- The number of the kind; raises where the definition is none.
function arguments.metric(kind, name, help, labels)
    if not METRIC_KINDS[kind] then
        error("gateway.metric: expected \"counter\" or \"gauge\", got " .. tostring(kind), 3)
    end
    check_metric("gateway.metric", name, help, labels)
    return METRIC_KINDS[kind]
end

-- The default of Prometheus' client libraries: seconds of a request.
local BUCKETS = { 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10 }

-- A copy of the bounds; raises where the definition is none.
function arguments.histogram(name, help, labels, buckets)
    local seen, bounds = check_metric("gateway.histogram", name, help, labels), {}
    if seen.le then error("gateway.histogram: the label le is the histogram's own", 3) end
    buckets = buckets == nil and BUCKETS or buckets
    if type(buckets) ~= "table" then
        error("gateway.histogram: expected a list of bounds, got " .. type(buckets), 3)
    end
    for i, bound in ipairs(buckets) do
        local is_fine = type(bound) == "number" and bound > -HUGE and bound < HUGE
        if not is_fine or (i > 1 and bound <= bounds[i - 1]) then
            error("gateway.histogram: bounds are finite numbers that go up, got " .. tostring(bound), 3)
        end
        bounds[i] = bound
    end
    if #bounds < 1 or #bounds > 32 then
        error("gateway.histogram: expected 1 to 32 bounds, got " .. #bounds, 3)
    end
    return bounds
end

-- What two metrics of one name must have in common, as text.
function arguments.definition(kind, labels, bounds)
    local text = kind .. "(" .. table.concat(labels, ",") .. ")"
    return bounds and text .. " by " .. table.concat(bounds, ",") or text
end

-- The number to add or set. `sets`: by set().
function arguments.sample(kind, name, n, sets)
    if type(n) ~= "number" or n ~= n or n == HUGE or n == -HUGE then
        error(name .. ": expected a finite number, got " .. tostring(n), 3)
    end
    if kind == 0 and sets then error(name .. ": a counter is not set, it counts: add()", 3) end
    if kind == 0 and n < 0 then error(name .. ": a counter only goes up", 3) end
    return n
end

function arguments.labels(name, wanted, got)
    if wanted ~= got then
        error(("%s: expected %d label values, got %d"):format(name, wanted, got), 3)
    end
end

return arguments
