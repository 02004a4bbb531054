local kit = require "fluxgate.testkit"
local lua_file = require "spec.support.lua_file"

-- class → set of its fields and functions, as lua/meta/fluxgate.lua declares them.
local function declared()
    local classes, class = {}
    for line in io.lines("lua/meta/fluxgate.lua") do
        local name = line:match("^%-%-%-@class (%S+)")
        if name then
            class = {}
            classes[name] = class
        end
        local field = line:match("^%-%-%-@field ([%w_]+)")
        if field then class[field] = true end
        local owner, method = line:match("^function (%w+)[.:]([%w_]+)")
        if owner then classes[owner][method] = true end
    end
    return classes
end

local function keys(set)
    local list = {}
    for key in pairs(set) do list[#list + 1] = key end
    table.sort(list)
    return list
end

-- An instance that shows what its file was given.
local function inside(body)
    return lua_file("return { new = function(options, service) return { pick = function() end, " .. body .. " } end }",
        kit.strategy)
end

describe("lua/meta/fluxgate.lua", function()
    local classes = declared()

    it("declares exactly what the gateway table has", function()
        assert.same(keys(inside("gateway = gateway").gateway), keys(classes.gateway))
    end)

    it("declares only fields that a backend has", function()
        local backend = kit.backends({ {} })[1]
        for name in pairs(classes.Backend) do assert.is_not_nil(backend[name], name) end
    end)

    it("declares only fields and methods that a request has", function()
        local request = kit.request()
        for name in pairs(classes.Request) do assert.is_not_nil(request[name], name) end
    end)

    it("declares only what a result, a service and a counter have", function()
        local result = kit.result { failure = "connect_refused" }
        for name in pairs(classes.Result) do assert.is_not_nil(result[name], name) end
        local service = inside("service = service").service
        for name in pairs(classes.Service) do assert.is_not_nil(service[name], name) end
        local counter = inside("counter = gateway.counter('x')").counter
        for name in pairs(classes.Counter) do assert.is_not_nil(counter[name], name) end
    end)

    it("declares exactly what dictionaries, metrics, keys and sets of addresses have", function()
        local function methods(source)
            local text, set = assert(io.open("lua/fluxgate/natives.lua")):read("*a"), {}
            for name in text:gmatch("function " .. source .. ":([%w_]+)") do set[name] = true end
            return set
        end
        assert.same(keys(methods "dict"), keys(classes.Dict))
        assert.same(keys(methods "key"), keys(classes.PublicKey))
        assert.same(keys(methods "set"), keys(classes.IpSet))
        local of_kit = inside("dict = gateway.dict('d'), metric = gateway.metric('gauge', 'g', ''), "
            .. "histogram = gateway.histogram('h', '')")
        for name in pairs(classes.Dict) do assert.is_function(of_kit.dict[name], name) end
        assert.same(keys(of_kit.metric), keys(classes.Metric))
        assert.same(keys(of_kit.histogram), keys(classes.Histogram))
    end)

    -- The gateway's own views are FFI structs, so their fields are compared by reading the source.
    it("declares exactly the fields that the gateway's views read", function()
        local source = assert(io.open("lua/fluxgate/views.lua")):read("*a")
        local function fields(name)
            local set = {}
            for field in source:match("\nlocal " .. name .. " = {(.-)\n}"):gmatch("\n    ([%w_]+) =") do set[field] = true end
            return set
        end
        local backend = fields("backend")
        backend.port, backend.weight, backend.effective_weight = true, true, true -- fields of the struct itself
        assert.same(keys(classes.Backend), keys(backend))
        local request = fields("request")
        request.attempt = true
        for method in source:gmatch("function methods:([%w_]+)") do request[method] = true end
        assert.same(keys(classes.Request), keys(request))
    end)

    it("declares exactly what filters have on a request and a response", function()
        local source = assert(io.open("lua/fluxgate/filter_views.lua")):read("*a")
        local function found(...)
            local set = {}
            for _, pattern in ipairs { ... } do
                for name in source:gmatch(pattern) do set[name] = true end
            end
            return keys(set)
        end
        assert.same(keys(classes.FilterRequest), found("function methods:([%w_]+)", "changer%(\"([%w_]+)", "\nfields%.([%w_]+)"))
        assert.same(keys(classes.Response), found("function replies:([%w_]+)", "function reply_fields%.([%w_]+)"))
        assert.same(keys(classes.LogRequest), found("([%w_]+) = log_text", "function log_fields%.([%w_]+)"))
        assert.same(keys(classes.LogResponse), found("([%w_]+) = log_number", "([%w_]+) = function%(self%) return given%(C.fg_log_"))
    end)
end)

describe("lua/meta/testkit.lua", function()
    it("declares exactly what the test kit has", function()
        local names = {}
        for line in io.lines("lua/meta/testkit.lua") do
            local name = line:match("^function kit%.([%w_]+)")
            if name then names[name] = true end
        end
        names.QUEUE, names.logs, names.gateway = true, true, true
        assert.same(keys(kit), keys(names))
    end)
end)
