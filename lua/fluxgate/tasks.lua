-- fluxgate/tasks.lua: what scripts may wait for and start: fetch, sleep, spawned functions and timers. A wait
-- is a C function that yields (core/script/task.c); waits.lua is the test kit's model of the same.
local arguments = require "fluxgate.arguments"

local error, type = error, type

local tasks = {}

local function check_function(fn, what)
    if type(fn) ~= "function" then error(what .. ": expected a function, got a " .. type(fn), 3) end
    return fn
end

-- What joins the gateway table.
function tasks.extra(host)
    local extra = {}

    function extra.fetch(url, options)
        local set = arguments.fetch(url, options)
        local refused = host.fetch(url, set.method, set.body, set.timeout, set.max_body, set.fields)
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
        local once = arguments.every(options)
        local refused = host.every(seconds, fn, once == "gateway")
        if refused then error("gateway.every: " .. refused, 2) end
    end

    return extra
end

return tasks
