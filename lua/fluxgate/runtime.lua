-- fluxgate/runtime.lua: the first Lua of a state: takes what C offers (core/script/state.c) and gives back
-- what C calls.
local host = ...

-- Modules of ours come from the bundle, like everything else; only C modules (cjson) are looked up on the
-- system.
package.path = ""
package.cpath = package.cpath:gsub("^%./[^;]*;", ""):gsub(";%./[^;]*", "")
table.insert(package.loaders, 2, function(name)
    local path = host.share .. "/lua/" .. name:gsub("%.", "/") .. ".lua"
    local source, missing = host.read(path)
    if not source then return "\n\t" .. missing end
    return assert(load(source, "@lua/" .. name:gsub("%.", "/") .. ".lua", "t"))
end)

local ffi = require "ffi"
require("ffi.view").check(host.layout)
local cjson = require "cjson.safe"
local plugin = require "fluxgate.plugin"
local sandbox = require "fluxgate.sandbox"
local views = require "fluxgate.views"
local policies = require "fluxgate.policy"
require("ffi.filter").check(host.filter_layout)
local filter_views = require("fluxgate.filter_views").new(host)
local C = ffi.C
local script = ffi.cast("struct script *", host.script)
local digest = ffi.new("uint8_t[32]")

sandbox.seal(function() return C.fg_stack_is_deep() ~= 0 end)

-- Their buffers are malloc's: kept ones would leak when the state is dropped, since no finaliser runs then.
for _, name in ipairs { "cjson", "cjson.safe" } do require(name).encode_keep_buffer(false) end

-- All plug-ins share it, so it can hold nothing: a table would let them write to each other by rawset.
host.QUEUE = newproxy(true)
do
    local meta = getmetatable(host.QUEUE)
    meta.__newindex = function() error("gateway.QUEUE is a mark", 2) end
    meta.__tostring = function() return "gateway.QUEUE" end
    meta.__metatable = false
end
host.now = function() return C.fg_now() end
host.random = function(n)
    local r = C.fg_random(script)
    if n == nil then return r end
    if type(n) ~= "number" or n < 1 then error("gateway.random: expected a number of 1 or more", 2) end
    r = r * n
    return r - r % 1 + 1
end
host.counter = function(name) return views.counter(script, name) end
host.log = function(level, message) C.fg_log(script, level, message, #message) end
host.sha256 = function(data)
    if C.fg_sha256(data, #data, digest) ~= 1 then error("gateway.sha256: failed", 3) end
    return ffi.string(digest, 32)
end
host.hmac_sha256 = function(key, data)
    if C.fg_hmac_sha256(key, #key, data, #data, digest) ~= 1 then error("gateway.hmac_sha256: failed", 3) end
    return ffi.string(digest, 32)
end

-- What only C can give beside these; checker and control have it too, so that a file loads alike everywhere.
host.extra = require("fluxgate.tasks").extra(host)
for name, value in pairs(require("fluxgate.natives").extra(script, host.natives_layout)) do
    host.extra[name] = value
end

local loader = plugin.new_loader(host)

-- cjson gives null for an empty YAML value: an option that is not set.
local function without_nulls(value)
    for key, item in pairs(value) do
        if item == cjson.null then value[key] = nil
        elseif type(item) == "table" then without_nulls(item) end
    end
    return value
end

local function decode_options(json)
    local value = cjson.decode(json)
    return type(value) == "table" and without_nulls(value) or {}
end

local function service_object(index, name, options_path)
    return {
        name = name, options_path = options_path,
        endpoints = function() return views.all[index + 1] or {} end, -- borrowed: the array is the gateway's
    }
end

-- "file:line: " of a callback: what C says of a call that never came back.
local function where(callback)
    local info = type(callback) == "function" and debug.getinfo(callback, "S")
    return info and info.short_src .. ":" .. info.linedefined .. ": " or ""
end

local runtime = {
    views = views.backends, texts = views.texts, contexts = views.contexts, by_id = views.by_id,
    requests = views.requests, result = views.result, new_view = views.new_view, QUEUE = host.QUEUE,
    probe = policies.probe, judge = policies.judge, fleet = policies.fleet, observe = policies.observe,
    dialog = policies.dialog, dialog_end = policies.dialog_end,
    new_request = views.new_request, new_response = filter_views.new_response, stages = filter_views.stages,
    run_stage = filter_views.run_stage, log_request = filter_views.log_request,
    log_response = filter_views.log_response,
}

function runtime.load_strategy(index, service_name, _, file, shown, json, options_path, previous)
    local offered, scratch, all = {}, {}, {}
    views.all[index + 1] = all
    local service = service_object(index, service_name, options_path)
    local carried = previous and cjson.decode(previous) or nil
    local instance, inner = loader:make("strategy", file, shown, decode_options(json), service, carried)
    local on_change = loader.on_change(instance, inner)
    return instance, instance.pick, on_change, instance.on_result, offered, scratch, all,
        where(instance.pick)
end

-- The policy (or the passive one beside it), whether it probes, and the seconds of its window if it observes.
function runtime.load_policy(index, service_name, _, file, shown, json, options_path, kind)
    local service = service_object(index, service_name, options_path)
    local instance = loader:make(kind, file, shown, decode_options(json), service)
    return instance, kind == "policy" and instance.probe ~= nil, policies.window(instance),
        where(instance.judge or instance.observe)
end

-- `name` is the route's or the service's.
function runtime.load_filter(name, file, shown, json, options_path)
    local owner = { name = name, options_path = options_path }
    local filter = loader:make("filter", file, shown, decode_options(json), owner)
    return filter, filter.on_request, filter.on_response, filter.on_log,
        where(filter.on_request or filter.on_response or filter.on_log)
end

-- What a file's class and environment hold is garbage, once its instances are.
function runtime.forget(file) loader:forget(file) end

-- What a strategy hands to its successor in the next generation, as JSON; nil where it has nothing to hand
-- over.
function runtime.export(instance)
    if type(instance.export) ~= "function" then return nil end
    return cjson.encode(instance:export())
end

return runtime
