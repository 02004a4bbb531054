-- fluxgate/options.lua: durations, and options checked against a table that says what they may be.
local options = {}

local UNITS = { h = 3600, m = 60, s = 1, ms = 1e-3, us = 1e-6, ["µs"] = 1e-6, ns = 1e-9 }

-- "1m30s", "500ms", "0" → seconds; a number is seconds already. nil and what is wrong for anything else.
function options.duration(value)
    if type(value) == "number" then
        if value >= 0 and value < math.huge then return value end
        return nil, "expected a duration of 0 or more"
    end
    if type(value) ~= "string" then return nil, "expected a duration like \"5s\", got a " .. type(value) end
    if value == "0" then return 0 end
    local seconds, rest = 0, value
    repeat
        local number, unit, tail = rest:match("^(%d+%.?%d*)([^%d%.]+)(.*)$")
        if not number or not UNITS[unit] then
            return nil, "expected a duration like \"5s\", got \"" .. value .. "\""
        end
        seconds, rest = seconds + tonumber(number) * UNITS[unit], tail
    until rest == ""
    return seconds
end

local function distance(a, b) -- Levenshtein's, over bytes
    local row = {}
    for j = 0, #b do row[j] = j end
    for i = 1, #a do
        local corner = row[0]
        row[0] = i
        for j = 1, #b do
            local cost = a:byte(i) == b:byte(j) and 0 or 1
            corner, row[j] = row[j], math.min(row[j] + 1, row[j - 1] + 1, corner + cost)
        end
    end
    return row[#b]
end

local function nearest(wrong, names)
    local best, best_distance = nil, math.max(2, math.floor(#wrong / 3)) + 1
    for name in pairs(names) do
        local d = distance(wrong, name)
        if d < best_distance or (d == best_distance and best and name < best) then
            best, best_distance = name, d
        end
    end
    return best
end

local function is_integer(value)
    return type(value) == "number" and value == math.floor(value) and math.abs(value) < 2 ^ 53
end

local function is_list(value)
    if type(value) ~= "table" then return false end
    local count = 0
    for _ in pairs(value) do count = count + 1 end
    return count == #value
end

local READ = {
    string = function(value) return type(value) == "string" and value or nil, "expected a string" end,
    number = function(value) return type(value) == "number" and value or nil, "expected a number" end,
    integer = function(value) return is_integer(value) and value or nil, "expected a whole number" end,
    boolean = function(value)
        if type(value) == "boolean" then return value end
        return nil, "expected true or false"
    end,
    duration = options.duration,
    list = function(value) return is_list(value) and value or nil, "expected a list" end,
    table = function(value) return type(value) == "table" and value or nil, "expected a mapping" end,
    any = function(value) return value end,
}

local function read_one(value, rule)
    local read = READ[rule.type or "any"]
    if not read then error("no such option type: " .. tostring(rule.type), 4) end
    local got, wrong = read(value)
    if got == nil then return nil, wrong end
    if rule.min and got < rule.min then return nil, "expected at least " .. rule.min end
    if rule.max and got > rule.max then return nil, "expected at most " .. rule.max end
    if rule.one_of then
        for _, allowed in ipairs(rule.one_of) do
            if got == allowed then return got end
        end
        return nil, "expected one of " .. table.concat(rule.one_of, ", ")
    end
    if rule.check then return rule.check(got) end
    return got
end

local function sorted_keys(of)
    local keys = {}
    for key in pairs(of) do keys[#keys + 1] = tostring(key) end
    table.sort(keys) -- the same complaints in the same order, every time
    return keys
end

-- Read as an option of the same text would be; a script's own mistake is told at its line.
local function default_of(key, rule)
    local value = rule.default
    if rule.type ~= "duration" or type(value) ~= "string" then return value end
    local seconds, wrong = options.duration(value)
    if not seconds then error("gateway.options: the default of " .. key .. ": " .. wrong, 4) end
    return seconds
end

-- What the gateway gives every policy that probes; those that one's schema does not name are these.
local PROBING = {
    interval = { type = "duration", default = 5, min = 0.01 },
    fast_interval = { type = "duration", default = 5, min = 0.01 },
    timeout = { type = "duration", default = 2, min = 0.001, max = 3600 },
    rise = { type = "integer", default = 2, min = 1, max = 1000 },
    fall = { type = "integer", default = 3, min = 1, max = 1000 },
    jitter = { type = "number", default = 0.1, min = 0, max = 1 },
}

-- The schema of a policy that was given all of them.
function options.with_probing(schema, given)
    for key in pairs(PROBING) do
        if given[key] == nil then return schema end
    end
    local all = {}
    for key, rule in pairs(PROBING) do all[key] = rule end
    for key, rule in pairs(schema) do all[key] = rule end
    return all
end

-- What the gateway gives beside what stands in the YAML: defaults_json of core/config/services.c.
function options.probing_defaults(given)
    local all = {}
    for key, rule in pairs(PROBING) do
        all[key] = rule.type == "duration" and rule.default .. "s" or rule.default
    end
    for key, value in pairs(given) do all[key] = value end
    if given.fast_interval == nil then all.fast_interval = all.interval end
    return all
end

-- Checks `given` against `schema` (name → { type, default, min, max, one_of, check, required }) and returns a
-- table with every name of the schema. Raises a line "PATH.KEY: what was expected" for each wrong option,
-- which the gateway shows at its line of the YAML.
function options.check(path, given, schema)
    local result, complaints = {}, {}
    local function complain(key, what) complaints[#complaints + 1] = path .. "." .. key .. ": " .. what end
    for _, key in ipairs(sorted_keys(given or {})) do
        if schema[key] then
            local value, wrong = read_one(given[key], schema[key])
            if value == nil then complain(key, wrong or "not valid") end
            result[key] = value
        else
            local hint = nearest(key, schema)
            complain(key, "no such option" .. (hint and "; did you mean '" .. hint .. "'?" or ""))
        end
    end
    for _, key in ipairs(sorted_keys(schema)) do
        if result[key] == nil and (given or {})[key] == nil then
            if schema[key].required then complain(key, "this option is needed") end
            result[key] = default_of(key, schema[key])
        end
    end
    if #complaints > 0 then error(table.concat(complaints, "\n"), 0) end
    return result
end

return options
