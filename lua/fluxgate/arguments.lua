-- fluxgate/arguments.lua: what the gateway table's functions ask of their arguments, the same in gateway and
-- test kit. Each raises at the line of the script that called: level 3, seen from the function that checks.
local arguments = {}

local error, type, tostring = error, type, tostring
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

-- The number of the kind; raises where the definition is none.
function arguments.metric(kind, name, help, labels)
    if not METRIC_KINDS[kind] then
        error("gateway.metric: expected \"counter\" or \"gauge\", got " .. tostring(kind), 3)
    end
    if type(name) ~= "string" or not name:find("^[%a_:][%w_:]*$") or #name > 127 then
        error("gateway.metric: no name of a metric: " .. tostring(name), 3)
    end
    for _, pattern in ipairs(OURS) do
        if name:find(pattern) and not SHIPPED[name] then
            error("gateway.metric: " .. name .. ": names of this kind are fluxgate's own", 3)
        end
    end
    if type(help) ~= "string" then error("gateway.metric: expected a help text, got " .. type(help), 3) end
    if labels ~= nil and type(labels) ~= "table" then
        error("gateway.metric: expected a list of label names, got " .. type(labels), 3)
    end
    if #(labels or {}) > 8 then error("gateway.metric: more than 8 labels", 3) end
    local seen = {}
    for _, label in ipairs(labels or {}) do
        local is_fine = type(label) == "string" and label:find("^[%a_][%w_]*$") and label:sub(1, 2) ~= "__"
        if not is_fine or #label > 63 or seen[label] then
            error("gateway.metric: no name of a label, or twice the same: " .. tostring(label), 3)
        end
        seen[label] = true
    end
    return METRIC_KINDS[kind]
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
