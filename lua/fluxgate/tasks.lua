-- fluxgate/tasks.lua: what scripts may wait for and start: fetch, sleep, spawned functions and timers. A wait
-- is a C function that yields (core/script/task.c); waits.lua is the test kit's model of the same.
local arguments = require "fluxgate.arguments"

local error, type, tostring, pairs, ipairs = error, type, tostring, pairs, ipairs

local tasks = {}

local TIMEOUT, TIMEOUT_MAX, BODY_MAX, BODY_CAP = 5, 3600, 1024 * 1024, 64 * 1024 * 1024
local function check_function(fn, what)
    if type(fn) ~= "function" then error(what .. ": expected a function, got a " .. type(fn), 3) end
    return fn
end

local function check_options(options, what)
    if options == nil then return {} end
    if type(options) ~= "table" then error(what .. ": expected a table of options", 3) end
    return options
end

-- { name, value, name, value, … } of a mapping to values or lists of values.
local function flat(headers)
    local list = {}
    if type(headers) ~= "table" then error("gateway.fetch: headers must be a table", 3) end
    for name, value in pairs(headers) do
        for _, one in ipairs(type(value) == "table" and value or { value }) do
            if type(name) ~= "string" or (type(one) ~= "string" and type(one) ~= "number") then
                error("gateway.fetch: headers must be names with strings", 3)
            end
            list[#list + 1], list[#list + 2] = name, tostring(one)
        end
    end
    return list
end

-- What joins the gateway table.
function tasks.extra(host)
    local extra = {}

    function extra.fetch(url, options)
        options = check_options(options, "gateway.fetch")
        if type(url) ~= "string" or not (url:find("^https?://[^/]") or url:find("^service://[^/]")) then
            error("gateway.fetch: expected a URL http://…, https://… or service://NAME/…", 2)
        end
        local method, body, timeout, max = options.method, options.body, options.timeout, options.max_body
        if type(method or "") ~= "string" then error("gateway.fetch: the method is no token", 2) end
        if type(body or "") ~= "string" then error("gateway.fetch: the body must be a string", 2) end
        timeout = timeout == nil and TIMEOUT or arguments.seconds("gateway.fetch: timeout", timeout, 0.001)
        max = max == nil and BODY_MAX or max
        if type(max) ~= "number" or max < 0 or max ~= max then
            error("gateway.fetch: max_body must be a number of bytes", 2)
        end
        timeout, max = timeout < TIMEOUT_MAX and timeout or TIMEOUT_MAX, max < BODY_CAP and max or BODY_CAP
        local refused = host.fetch(url, method or "GET", body, timeout, max, flat(options.headers or {}))
        if refused ~= true then error("gateway.fetch: " .. refused, 2) end
        return host.answer()
    end

    function extra.sleep(seconds)
        local refused = host.sleep(arguments.seconds("gateway.sleep", seconds, 0))
        if refused ~= true then error("gateway.sleep " .. refused, 2) end
    end

    function extra.spawn(fn, ...)
        return host.spawn(check_function(fn, "gateway.spawn"), ...)
    end

    function extra.every(seconds, fn, options)
        arguments.seconds("gateway.every", seconds, 0.001)
        check_function(fn, "gateway.every")
        local once = check_options(options, "gateway.every").once
        if once ~= nil and once ~= "worker" and once ~= "gateway" then
            error("gateway.every: once must be \"worker\" or \"gateway\"", 2)
        end
        local refused = host.every(seconds, fn, once == "gateway")
        if refused then error("gateway.every: " .. refused, 2) end
    end

    return extra
end

return tasks
