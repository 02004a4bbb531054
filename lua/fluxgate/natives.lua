-- fluxgate/natives.lua: what the gateway table has beside waiting: shared dictionaries, metrics, codecs,
-- keys and sets of addresses, over core/script/natives.h. The test kit's twin is waits.lua.
local ffi = require "ffi"
local layout = require "ffi.natives"
local arguments = require "fluxgate.arguments"
local C, to_string = ffi.C, ffi.string
local error, type, tostring, select = error, type, tostring, select

local natives = {}

-- scratch: one of each, since C keeps none of them
local SCRATCH_BYTES = 4096
local scratch = ffi.new("char[?]", SCRATCH_BYTES)
local number = ffi.new("double[1]")
local value = ffi.new("struct fg_value")
local slices = ffi.new("struct fg_slice[?]", layout.LABELS_MAX)

local function room(bytes)
    if bytes <= SCRATCH_BYTES then return scratch, SCRATCH_BYTES end
    return ffi.new("char[?]", bytes), bytes
end

-- dictionaries
local function dictionaries(extra, script)
    local positive, ttl_of = arguments.positive, arguments.ttl
    local key_of, value_of, finite = arguments.key, arguments.value, arguments.number
    local OK, NONE, EXISTS, REFUSED = layout.OK, layout.NONE, layout.EXISTS, layout.REFUSED
    local STRING, BOOLEAN = layout.STRING, layout.BOOLEAN
    local dict = {}

    local function failed(result) return nil, to_string(C.fg_dict_word(result)) end

    function dict:get(key)
        key_of("dict:get", key)
        local result = C.fg_dict_get(script, self, key, #key, value)
        if result == NONE then return nil end
        if result ~= OK then return failed(result) end
        if value.kind == STRING then return to_string(value.at, value.len) end
        if value.kind == BOOLEAN then return value.number ~= 0 end
        return value.number
    end

    local function put(self, key, given, ttl, only_new)
        local kind = type(given)
        if kind == "string" then
            return C.fg_dict_set(script, self, key, #key, STRING, 0, given, #given, ttl or 0, only_new)
        elseif kind == "boolean" then
            local truth = given and 1 or 0
            return C.fg_dict_set(script, self, key, #key, BOOLEAN, truth, nil, 0, ttl or 0, only_new)
        end
        return C.fg_dict_set(script, self, key, #key, layout.NUMBER, given, nil, 0, ttl or 0, only_new)
    end

    function dict:set(key, given, ttl)
        key_of("dict:set", key)
        local result = put(self, key, value_of("dict:set", given), ttl_of("dict:set", ttl), 0)
        if result == OK then return true end
        return failed(result)
    end

    function dict:add(key, given, ttl)
        key_of("dict:add", key)
        local result = put(self, key, value_of("dict:add", given), ttl_of("dict:add", ttl), 1)
        if result == OK then return true end
        if result == EXISTS then return false end
        return failed(result)
    end

    function dict:incr(key, by, initial, ttl)
        key_of("dict:incr", key)
        finite("dict:incr", by)
        if initial ~= nil then finite("dict:incr", initial) end
        ttl_of("dict:incr", ttl)
        local has = initial ~= nil and 1 or 0
        local result = C.fg_dict_incr(script, self, key, #key, by, has, initial or 0, ttl or 0, number)
        if result == OK then return number[0] end
        return failed(result)
    end

    function dict:delete(key)
        key_of("dict:delete", key)
        local result = C.fg_dict_delete(script, self, key, #key)
        if result ~= OK and result ~= NONE then return failed(result) end
        return true
    end

    function dict:ttl(key)
        key_of("dict:ttl", key)
        local result = C.fg_dict_ttl(script, self, key, #key, number)
        if result == NONE then return nil end
        if result ~= OK then return failed(result) end
        if number[0] < 0 then return nil end
        return number[0]
    end

    function dict:take(key, rate, burst, cost)
        key_of("dict:take", key)
        positive("dict:take: rate", rate)
        positive("dict:take: burst", burst)
        if cost ~= nil then positive("dict:take: cost", cost) end
        local result = C.fg_dict_take(script, self, key, #key, rate, burst, cost or 1, number)
        if result == OK then return true, number[0] end
        if result == REFUSED then return false, number[0] end
        return failed(result)
    end

    ffi.metatype("struct fg_dict", { __index = dict, __metatable = false })

    function extra.dict(name)
        arguments.shared_name("gateway.dict", name, 64)
        local handle = ffi.new("struct fg_dict")
        if C.fg_dict_open(script, name, #name, handle) == 0 then
            error("gateway.dict: no room for another dictionary: raise limits.shared_dicts", 2)
        end
        return handle
    end
end

-- metrics
local function label_text(name, given)
    local kind = type(given)
    if kind == "string" then return given end
    if kind ~= "number" and kind ~= "boolean" then
        error(name .. ": a label value is a string, a number or a boolean, not a " .. kind, 4)
    end
    return tostring(given)
end

-- The series of label values: out of a tree of tables by value, whose leaves C gave. What C counts in the
-- series `other` is not kept, so the tree is as bounded as the metric. `leaf` and `open` are those of its
-- kind.
local function finder(script, handle, name, count, leaf, open)
    local tree, kept = {}, 0
    local function slow(...)
        local texts = {} -- holds the strings while C reads them
        for i = 1, count do
            texts[i] = label_text(name, (select(i, ...)))
            slices[i - 1].at, slices[i - 1].len = texts[i], #texts[i]
        end
        local found = ffi.new(leaf)
        local result = open(script, handle, slices, count, found)
        if result ~= 1 or kept >= layout.SERIES_MAX then return found end
        kept = kept + 1
        local node = tree
        for i = 1, count do
            local part = select(i, ...)
            if part ~= part then part = texts[i] end
            if i == count then
                node[part] = found
            else
                node[part] = node[part] or {}
                node = node[part]
            end
        end
        if count == 0 then tree[1] = found end
        return found
    end
    return function(...)
        if count == 0 then return tree[1] or slow() end
        local node = tree
        for i = 1, count do
            node = node[(select(i, ...))]
            if node == nil then return slow(...) end
        end
        return node
    end
end

local function metrics(extra, script)
    local defined = {} -- name → its definition, in this state
    local series, histogram = ffi.typeof("struct fg_series"), ffi.typeof("struct fg_histogram")

    -- Raises, at the line of the script, where the name has another definition.
    local function prepare(what, name, definition, labels)
        if defined[name] and defined[name] ~= definition then
            error(what .. ": " .. name .. " is another metric already: " .. defined[name], 3)
        end
        for i = 1, #labels do slices[i - 1].at, slices[i - 1].len = labels[i], #labels[i] end
        return ffi.new("struct fg_metric")
    end

    function extra.metric(kind, name, help, labels)
        local number_of_kind = arguments.metric(kind, name, help, labels)
        labels = labels or {}
        local definition = arguments.definition(kind, labels)
        local handle = prepare("gateway.metric", name, definition, labels)
        local has_room = C.fg_metric_open(script, number_of_kind, name, #name, help, #help, slices, #labels,
            handle)
        if has_room == 0 then
            error("gateway.metric: no room for another metric", 2)
        end
        defined[name] = definition
        local count = #labels
        local find = finder(script, handle, name, count, series, C.fg_metric_series)
        return {
            add = function(_, n, ...)
                arguments.sample(number_of_kind, name, n, false)
                arguments.labels(name, count, select("#", ...))
                C.fg_series_add(find(...), n)
            end,
            set = function(_, n, ...)
                arguments.sample(number_of_kind, name, n, true)
                arguments.labels(name, count, select("#", ...))
                C.fg_series_set(find(...), n)
            end,
        }
    end

    function extra.histogram(name, help, labels, buckets)
        local bounds = arguments.histogram(name, help, labels, buckets)
        labels = labels or {}
        local definition, count = arguments.definition("histogram", labels, bounds), #labels
        local handle = prepare("gateway.histogram", name, definition, labels)
        local has_room = C.fg_histogram_open(script, name, #name, help, #help, slices, count,
            ffi.new("double[?]", #bounds, bounds), #bounds, handle)
        if has_room == 0 then
            error("gateway.histogram: no room for another metric", 2)
        end
        defined[name] = definition
        local find = finder(script, handle, name, count, histogram, C.fg_histogram_series)
        return {
            observe = function(_, n, ...)
                arguments.number(name, n)
                arguments.labels(name, count, select("#", ...))
                C.fg_histogram_observe(find(...), n)
            end,
        }
    end
end

-- codecs
local function codecs(extra)
    local text = arguments.text

    local function encode(what, is_url)
        return function(bytes)
            text(what, bytes)
            local out, cap = room(#bytes * 2 + 4)
            return to_string(out, C.fg_base64_encode(bytes, #bytes, is_url, out, cap))
        end
    end

    local function decode(what, is_url)
        local wrong = is_url == 1 and "base64url: no such text" or "base64: no such text"
        return function(given)
            text(what, given)
            local out, cap = room(#given)
            local len = C.fg_base64_decode(given, #given, is_url, out, cap)
            if len < 0 then return nil, wrong end
            return to_string(out, len)
        end
    end

    extra.base64_encode = encode("gateway.base64_encode", 0)
    extra.base64_decode = decode("gateway.base64_decode", 0)
    extra.base64url_encode = encode("gateway.base64url_encode", 1)
    extra.base64url_decode = decode("gateway.base64url_decode", 1)

    function extra.hex(bytes)
        text("gateway.hex", bytes)
        local out, cap = room(#bytes * 2)
        return to_string(out, C.fg_hex(bytes, #bytes, out, cap))
    end

    function extra.random_bytes(n)
        if type(n) ~= "number" or n % 1 ~= 0 or n < 0 or n > 65536 then
            error("gateway.random_bytes: expected a whole number from 0 to 65536, got " .. tostring(n), 2)
        end
        local out = room(n)
        if C.fg_random_bytes(out, n) ~= 1 then error("gateway.random_bytes: the system has none", 2) end
        return to_string(out, n)
    end

    function extra.uuid() -- RFC 9562 version 4
        if C.fg_random_bytes(scratch, 16) ~= 1 then error("gateway.uuid: the system has no bytes", 2) end
        scratch[6] = scratch[6] % 16 + 64
        scratch[8] = scratch[8] % 64 - 128
        local bytes = to_string(scratch, 16)
        local hex = to_string(scratch, C.fg_hex(bytes, 16, scratch, SCRATCH_BYTES))
        return ("%s-%s-%s-%s-%s"):format(hex:sub(1, 8), hex:sub(9, 12), hex:sub(13, 16), hex:sub(17, 20),
            hex:sub(21))
    end

    function extra.equal(a, b)
        text("gateway.equal", a)
        text("gateway.equal", b)
        return C.fg_equal(a, #a, b, #b) == 1
    end

    function extra.time() return C.fg_wall_time() end
end

-- keys: what C holds until Lua's collector lets it go
local function jwk_bytes(text)
    if type(text) ~= "string" or #text > SCRATCH_BYTES then return nil end
    local out, cap = room(#text)
    local len = C.fg_base64_decode(text, #text, 1, out, cap)
    if len < 0 then return nil end
    return to_string(out, len)
end

-- RFC 7517; nil, or what is wrong.
local function jwk_read(script, key, jwk)
    if jwk.use ~= nil and jwk.use ~= "sig" then return "its use is not sig" end
    local wrong
    if jwk.kty == "RSA" then
        local n, e = jwk_bytes(jwk.n), jwk_bytes(jwk.e)
        if not n or not e then return "n and e must be base64url" end
        wrong = C.fg_key_rsa(script, n, #n, e, #e, key)
    elseif jwk.kty == "EC" then
        local x, y = jwk_bytes(jwk.x), jwk_bytes(jwk.y)
        if jwk.crv ~= "P-256" then return "its curve is not P-256" end
        if not x or not y then return "x and y must be base64url" end
        wrong = C.fg_key_p256(script, x, #x, y, #y, key)
    elseif jwk.kty == "oct" then
        local secret = jwk_bytes(jwk.k)
        if not secret then return "k is no base64url" end
        wrong = C.fg_key_secret(script, secret, #secret, key)
    else
        return "kty " .. tostring(jwk.kty) .. " is none of RSA, EC and oct"
    end
    if wrong ~= nil then return to_string(wrong) end
    local algorithm = to_string(C.fg_key_algorithm(key))
    if jwk.alg ~= nil and jwk.alg ~= algorithm then
        return "its alg is " .. tostring(jwk.alg) .. ", not " .. algorithm
    end
    return nil
end

local function keys(extra, script)
    local text, key = arguments.text, {}

    function key:verify(algorithm, data, signature)
        text("key:verify: algorithm", algorithm)
        text("key:verify: data", data)
        text("key:verify: signature", signature)
        return C.fg_key_verify(self, algorithm, #algorithm, data, #data, signature, #signature) == 1
    end

    ffi.metatype("struct fg_key", {
        __index = key, __metatable = false, __gc = function(self) C.fg_key_free(self) end,
    })

    function extra.public_key(source)
        local made, wrong = ffi.new("struct fg_key"), nil
        if C.fg_natives_are_full(script) == 1 then collectgarbage() end
        if type(source) == "string" then
            wrong = C.fg_key_pem(script, source, #source, made)
            wrong = wrong ~= nil and to_string(wrong) or nil
        elseif type(source) == "table" then
            wrong = jwk_read(script, made, source)
        else
            error("gateway.public_key: expected PEM text or a JWK table, got " .. type(source), 2)
        end
        if wrong then return nil, "public_key: " .. wrong end
        return made
    end
end

-- sets of addresses
local function ip_sets(extra, script)
    local set = {}

    function set:has(ip)
        arguments.text("ip_set:has", ip)
        return C.fg_ipset_has(self, ip, #ip) == 1
    end

    ffi.metatype("struct fg_ipset", {
        __index = set, __metatable = false, __gc = function(self) C.fg_ipset_free(self) end,
    })

    function extra.ip_set(list)
        if type(list) ~= "table" then
            error("gateway.ip_set: expected a list of addresses and CIDRs, got " .. type(list), 2)
        end
        local made = ffi.new("struct fg_ipset")
        if C.fg_natives_are_full(script) == 1 then collectgarbage() end
        local full = "gateway.ip_set: too many address sets are in use"
        if C.fg_ipset_new(script, made) == 0 then error(full, 2) end
        for _, entry in ipairs(list) do
            entry = tostring(entry)
            local result = C.fg_ipset_add(made, entry, #entry)
            if result == 1 then error("ip_set: no CIDR: " .. entry, 2) end
            if result ~= 0 then error(full, 2) end
        end
        return made
    end
end

-- Once a state: the functions to merge into host.extra.
function natives.extra(script, natives_layout)
    layout.check(natives_layout)
    local extra = {}
    dictionaries(extra, script)
    metrics(extra, script)
    codecs(extra)
    keys(extra, script)
    ip_sets(extra, script)
    return extra
end

return natives
