-- fluxgate/plugin.lua: from a file to a living strategy or policy. The same code in gateway, checker and
-- test kit: only `host` differs, which has read(path), script_dirs, lua_path, share and the primitives of
-- the gateway table.
local arguments = require "fluxgate.arguments"
local base64 = require "fluxgate.base64"
local options = require "fluxgate.options"
local sandbox = require "fluxgate.sandbox"
local url = require "fluxgate.url"

local API = 1 -- the version of the contract that plug-ins name with `api = 1`
local DEPTH_MAX = 8 -- strategies made of strategies made of …
local COUNTERS_MAX = 64 -- that one new() makes, or a file after it
local KINDS = {
    strategy = { functions = { "pick" }, what = "a strategy" },
    policy = { functions = { "probe", "judge" }, or_else = "observe", what = "a health policy" },
    passive = { functions = { "observe" }, what = "a health policy beside another" },
    filter = { functions = {}, any = { "on_request", "on_response", "on_log" }, what = "a filter" },
}
local LEVELS = { debug = 0, info = 1, warn = 2, error = 3 }

local Loader = {}
Loader.__index = Loader

local function new_loader(host)
    local trusted = {}
    for _, file in ipairs(host.trust or {}) do trusted[file] = true end
    return setmetatable({ host = host, files = {}, chain = {}, trusted = trusted }, Loader)
end

-- A path as messages show it: without the share directory, its end where it is long.
local function display(host, path)
    local share = host.share .. "/"
    if path:sub(1, #share) == share then path = path:sub(#share + 1) end
    while #path > 56 do
        local tail = path:match("^.[^/]*/(.+)$")
        if not tail then break end
        path = tail
    end
    return path
end

local function find_module(host)
    return function(name)
        local sought, file = "", name:gsub("%.", "/")
        if not name:find("^[%w_%.%-]+$") or name:find("..", 1, true) then
            return nil, " the name is no module name"
        end
        for i = 1, #host.lua_path + 1 do
            local dir = host.lua_path[i] or host.share .. "/lua"
            for _, tail in ipairs { ".lua", "/init.lua" } do
                local source = host.read(dir .. "/" .. file .. tail)
                if source then return source, "@" .. display(host, dir .. "/" .. file .. tail) end
                sought = sought .. " " .. dir .. "/" .. file .. tail
            end
        end
        return nil, sought
    end
end

local function log(host)
    return function(level, message)
        if message == nil then level, message = "info", level end
        if not LEVELS[level] then error("gateway.log: no such level: " .. tostring(level), 2) end
        host.log(LEVELS[level], tostring(message))
    end
end

-- The gateway table. One a plug-in file: what a script writes into its own, no other sees.
function Loader:gateway()
    local host = self.host
    local function text(value, what)
        if type(value) ~= "string" then error(what .. ": expected a string, got " .. type(value), 3) end
        return value
    end
    local late = { names = {}, count = 0 } -- counters that are made after new()
    local gateway = {
        name = "fluxgate", version = host.version, zone = host.zone, api = API, QUEUE = host.QUEUE,
        now = host.now,
        random = host.random,
        counter = function(name)
            arguments.shared_name("gateway.counter", name, 200)
            return self:counter(name, late)
        end,
        strategy = function(name, given) return self:inner(text(name, "gateway.strategy"), given) end,
        log = log(host),
        sha256 = function(data) return host.sha256(text(data, "gateway.sha256")) end,
        hmac_sha256 = function(key, data)
            return host.hmac_sha256(text(key, "gateway.hmac_sha256"), text(data, "gateway.hmac_sha256"))
        end,
        base64url_encode = function(bytes) return base64.encode(text(bytes, "gateway.base64url_encode")) end,
        base64url_decode = function(data) return base64.decode(text(data, "gateway.base64url_decode")) end,
        url_encode = function(data) return url.encode(text(data, "gateway.url_encode")) end,
        url_decode = function(data) return url.decode(text(data, "gateway.url_decode")) end,
        query_decode = function(query) return url.query_decode(text(query, "gateway.query_decode")) end,
        query_encode = function(values)
            local query, wrong = nil, "the values"
            if type(values) == "table" then query, wrong = url.query_encode(values) end
            if not query then error("gateway.query_encode: expected names with strings, at " .. wrong, 2) end
            return query
        end,
        duration = function(value)
            local seconds, wrong = options.duration(value)
            if not seconds then error("gateway.duration: " .. wrong, 2) end
            return seconds
        end,
        options = function(service, given, schema)
            if type(service) ~= "table" or type(service.options_path) ~= "string" then
                error("gateway.options: expected the service or route that new() got", 2)
            end
            if type(schema) ~= "table" or (given ~= nil and type(given) ~= "table") then
                error("gateway.options: expected the options, and a table of rules for them", 2)
            end
            local frame = self.chain[#self.chain]
            if frame and frame.kind == "policy" then
                schema = options.with_probing(schema, given or {})
            end
            return options.check(service.options_path, given, schema)
        end,
    }
    for name, value in pairs(host.extra or {}) do gateway[name] = value end
    local every = gateway.every
    gateway.every = function(...) -- of each request it would be a timer more
        if #self.chain == 0 then error("gateway.every may be called in new() only", 2) end
        return every(...)
    end
    return gateway
end

-- The table that a file returns; each file is run once a state, however many services use it.
function Loader:class(file, shown)
    local class = self.files[file]
    if class then return class end
    local source, wrong = self.host.read(file)
    if not source then error(wrong, 0) end
    local env = sandbox.new(self:gateway(), find_module(self.host), self.trusted[file])
    if self.host.running then env.coroutine.running = self.host.running end
    local chunk, message = load(source, "@" .. shown, "t", env)
    if not chunk then error(message, 0) end
    class = chunk()
    if type(class) ~= "table" then
        error(shown .. ": the file must return a table with new(), it returned " .. type(class), 0)
    end
    if class.api ~= nil and class.api ~= API then
        local asked = tostring(class.api)
        error(("%s: it asks for api = %s; this fluxgate speaks api = %d"):format(shown, asked, API), 0)
    end
    if type(class.new) ~= "function" then error(shown .. ": the table has no function new", 0) end
    self.files[file] = class
    return class
end

function Loader:forget(file) self.files[file] = nil end

local function check_instance(instance, kind, shown)
    if type(instance) ~= "table" then
        error(("%s: new() must return %s, it returned %s"):format(shown, KINDS[kind].what, type(instance)), 0)
    end
    local or_else = KINDS[kind].or_else
    local is_else = or_else and instance[or_else] and not (instance.probe or instance.judge)
    for _, name in ipairs(is_else and {} or KINDS[kind].functions) do
        if type(instance[name]) ~= "function" then
            error(("%s: %s needs a function %s"):format(shown, KINDS[kind].what, name), 0)
        end
    end
    local any = KINDS[kind].any
    if any and not (instance[any[1]] or instance[any[2]] or instance[any[3]]) then
        local names = table.concat(any, ", ")
        error(("%s: %s needs one of the functions %s"):format(shown, KINDS[kind].what, names), 0)
    end
    for _, name in ipairs(any or { "on_change", "on_result", "export", "observe" }) do
        if instance[name] ~= nil and type(instance[name]) ~= "function" then
            error(("%s: %s must be a function, it is a %s"):format(shown, name, type(instance[name])), 0)
        end
    end
end

-- Makes an instance. Returns it and a list of the strategies that its new() made with gateway.strategy.
function Loader:make(kind, file, shown, given, service, previous)
    if #self.chain >= DEPTH_MAX then error("gateway.strategy: strategies are nested too deep", 0) end
    local frame = { kind = kind, service = service, given = given, inner = {} }
    frame.counters = { names = {}, count = 0 }
    self.chain[#self.chain + 1] = frame
    local depth = #self.chain
    local ok, instance = pcall(function()
        local class = self:class(file, shown)
        local made = class.new(given, service, previous)
        check_instance(made, kind, shown)
        return made
    end)
    for i = #self.chain, depth, -1 do self.chain[i] = nil end
    if not ok then error(instance, 0) end
    return instance, frame.inner
end

function Loader:find_script(name)
    if name:find("/", 1, true) or name:find("%.lua$") then return name end
    for _, dir in ipairs(self.host.strategies_path) do
        local path = dir .. "/" .. name .. ".lua"
        if self.host.read(path) then return path end
    end
    return nil
end

-- Most often the name is what one option says: then the complaint belongs to that option's line.
local function option_path(frame, name)
    for key, value in pairs(frame.given) do
        if value == name then return frame.service.options_path .. "." .. key end
    end
    return frame.service.options_path
end

-- gateway.strategy: another strategy for the service whose new() runs. Its on_change is called with its
-- maker's.
function Loader:inner(name, given)
    local frame = self.chain[#self.chain]
    if not frame then error("gateway.strategy may be called in new() only", 2) end
    local file = self:find_script(name)
    if not file then error(option_path(frame, name) .. ": there is no strategy '" .. name .. "'", 0) end
    local instance, inner = self:make("strategy", file, display(self.host, file), given or {}, frame.service)
    frame.inner[#frame.inner + 1] = { instance = instance, inner = inner }
    return instance
end

-- A counter stays for as long as the gateway runs: no script may use up those of all.
function Loader:counter(name, made)
    local frame = self.chain[#self.chain]
    made = frame and frame.counters or made
    if not made.names[name] then
        if made.count == COUNTERS_MAX then
            error("gateway.counter: more than " .. COUNTERS_MAX .. " names", 2)
        end
        made.names[name], made.count = true, made.count + 1
    end
    return self.host.counter(name)
end

local function change_all(inner, backends)
    for _, made in ipairs(inner) do
        change_all(made.inner, backends)
        if made.instance.on_change then made.instance:on_change(backends) end
    end
end

-- on_change of a strategy and of all that it is made of, inner ones first; nil where none has one.
function Loader.on_change(instance, inner)
    local own = instance.on_change
    if #inner == 0 then return own end
    return function(self, backends)
        change_all(inner, backends)
        if own then own(self, backends) end
    end
end

return { new_loader = new_loader, display = display, API = API }
