-- fluxgate/waits.lua: what filters call on the gateway, for the test kit: fetch, sleep, timers and spawned
-- functions on the kit's clock, and the shared dictionaries. A task is a coroutine that yields the time to
-- wake at; the clock jumps from one to the next, so a spec never waits.
local arguments = require "fluxgate.arguments"
local sha256 = require "fluxgate.sha256"

local waits = {}

local SPAWNED_MAX = 1024
local state, clock -- tasks, rules, dicts and metrics of the running spec; the kit's clock

function waits.reset(kit_clock)
    clock = kit_clock
    state = {
        tasks = {}, rules = {}, fetched = {}, dicts = {}, metrics = {}, defined = {}, current = nil,
        spawned = 0,
    }
end

local function resume(task)
    local outer = state.current
    state.current = task
    local results = { coroutine.resume(task.co, unpack(task.args, 1, task.count)) }
    state.current = outer
    task.args, task.count = {}, 0
    local is_dead, is_waiting = coroutine.status(task.co) == "dead", task.is_waiting
    task.is_waiting = false
    if is_dead or not is_waiting then
        task.done, task.ok, task.wrong = true, is_dead and results[1], results[2]
        if not is_dead then task.wrong = "it yielded, and no coroutine of its own was there to take that" end
        if task.on_done then task.on_done() end
    else
        task.wake = results[2]
        state.tasks[#state.tasks + 1] = task
    end
end

local function start(fn, ...)
    local task = { co = coroutine.create(fn), args = { ... }, count = select("#", ...), waited = 0 }
    resume(task)
    return task
end

-- Runs the earliest task that is due until `limit`; false where there is none.
local function step(limit)
    local at
    for i, task in ipairs(state.tasks) do
        if task.wake <= limit and (not at or task.wake < state.tasks[at].wake) then at = i end
    end
    if not at then return false end
    local task = table.remove(state.tasks, at)
    clock.now = math.max(clock.now, task.wake)
    if task.tick then task.tick() else resume(task) end
    return true
end

-- The clock goes to `target`, and all that is due on the way runs.
function waits.advance(target)
    while step(target) do end
    clock.now = target
end

-- Runs fn as a task to its end, however far the clock has to go. true, or false and the error.
function waits.run(fn, limit, ...)
    local task = start(fn, ...)
    while not task.done do
        if task.wake - clock.now + task.waited > limit then
            for i, other in ipairs(state.tasks) do
                if other == task then table.remove(state.tasks, i) break end
            end
            return false, "the filter waited longer than timeouts.filter"
        end
        task.waited = task.waited + task.wake - clock.now
        step(math.huge)
    end
    while step(clock.now) do end -- what it spawned
    return task.ok, task.wrong
end

local function wait_until(what, time)
    local task = state.current
    if not task or coroutine.running() ~= task.co then
        error(what .. " may wait only in on_request, on_response and timers", 3)
    end
    task.is_waiting = true
    coroutine.yield(time)
end

-- Answers of fetch: `given` is { status, headers, body, delay (seconds) }, { failure = "connect_refused" },
-- or a function(url, options) that returns one. The newest rule whose Lua pattern finds itself in the URL
-- counts.
function waits.on_fetch(pattern, given)
    if type(pattern) ~= "string" then error("kit.on_fetch: expected a Lua pattern", 2) end
    if type(given) == "table" then
        arguments.known("kit.on_fetch", given, "status headers body delay failure")
    elseif type(given) ~= "function" then
        error("kit.on_fetch: expected an answer, or a function that returns one", 2)
    end
    table.insert(state.rules, 1, { pattern = pattern, given = given })
end

-- What was fetched, in order: { url, method, headers, body }.
function waits.fetched() return state.fetched end

-- metric name → label values joined by "," → sum; of a histogram { count, sum, buckets: bound → how many are
-- no greater }.
function waits.metrics() return state.metrics end

-- What core/proxy/fetch_url.c refuses, as far as a script's own mistakes go.
local function refused_url(url)
    if url:find("[%z\1-\32\127-\255]") then return "the URL holds a byte that must be escaped" end
    if url:match("^%a+://([^/?#]*)"):find("@", 1, true) then return "the URL holds userinfo" end
    return nil
end

local extra = {}
waits.extra = extra -- joins the gateway table of a filter

function extra.fetch(url, options)
    local set = arguments.fetch(url, options)
    local seen = { url = url, method = set.method, headers = options and options.headers or {} }
    seen.body, seen.timeout = set.body, options and options.timeout
    state.fetched[#state.fetched + 1] = seen
    local given
    for _, rule in ipairs(state.rules) do
        if url:find(rule.pattern) then given = rule.given break end
    end
    if type(given) == "function" then given = given(url, seen) end
    given = given or { failure = "connect_refused" }
    local wrong = refused_url(url)
    if wrong then given = { failure = "bad_request", detail = wrong } end
    local timeout, delay = set.timeout, given.delay or 0
    wait_until("gateway.fetch", clock.now + math.min(delay, timeout))
    if delay > timeout then return nil, "response_timeout: no answer within " .. timeout .. " s" end
    if given.failure then return nil, given.failure .. ": " .. (given.detail or url) end
    if #(given.body or "") > set.max_body then
        return nil, "limit: the body is too large"
    end
    local headers = {}
    for name, value in pairs(given.headers or {}) do headers[name:lower()] = value end
    return { status = given.status or 200, headers = headers, body = given.body or "" }
end

function extra.sleep(seconds)
    wait_until("gateway.sleep", clock.now + arguments.seconds("gateway.sleep", seconds, 0))
end

function extra.spawn(fn, ...)
    if type(fn) ~= "function" then error("gateway.spawn: expected a function, got a " .. type(fn), 2) end
    if state.spawned >= SPAWNED_MAX then return nil, "limit: too many spawned functions run" end
    state.spawned = state.spawned + 1
    local task = { co = coroutine.create(fn), args = { ... }, count = select("#", ...), waited = 0 }
    task.wake = clock.now
    task.on_done = function() state.spawned = state.spawned - 1 end
    state.tasks[#state.tasks + 1] = task
    return true
end

-- No jitter: a spec says when a timer runs. `options.once` is "worker" (the default) or "gateway": one of the
-- workers runs it; here there is but one.
function extra.every(seconds, fn, options)
    arguments.seconds("gateway.every", seconds, 0.001)
    if type(fn) ~= "function" then error("gateway.every: expected a function, got a " .. type(fn), 2) end
    arguments.every(options)
    local timer, running = { wake = clock.now + seconds }, nil
    function timer.tick()
        timer.wake = timer.wake + seconds
        state.tasks[#state.tasks + 1] = timer
        if not running or running.done then running = start(fn) end
    end
    state.tasks[#state.tasks + 1] = timer
end

function extra.time() return 1700000000 + clock.now end

-- dictionaries
local dicts = {}
dicts.__index = dicts

function dicts:entry(key)
    local entry = self.entries[key]
    if entry and entry.ends and entry.ends <= clock.now then
        self.entries[key], self.count = nil, self.count - 1
        return nil
    end
    return entry
end

function dicts:make(key, ttl)
    if self.count >= self.max then -- what expired makes room
        for other in pairs(self.entries) do self:entry(other) end
    end
    if self.count >= self.max then return nil end
    local entry = { ends = ttl and clock.now + ttl }
    self.entries[key], self.count = entry, self.count + 1
    return entry
end

function dicts:get(key)
    local entry = self:entry(arguments.key("dict:get", key))
    return entry and entry.value
end

local function put(self, key, value, ttl)
    local entry = self:entry(key) or self:make(key)
    if not entry then return nil, "full" end
    entry.value, entry.ends, entry.left = value, ttl and clock.now + ttl, nil
    return true
end

function dicts:set(key, value, ttl)
    arguments.key("dict:set", key)
    return put(self, key, arguments.value("dict:set", value), arguments.ttl("dict:set", ttl))
end

function dicts:add(key, value, ttl)
    arguments.key("dict:add", key)
    arguments.value("dict:add", value)
    arguments.ttl("dict:add", ttl)
    if self:entry(key) then return false end
    return put(self, key, value, ttl)
end

function dicts:incr(key, by, initial, ttl)
    arguments.key("dict:incr", key)
    arguments.number("dict:incr", by)
    if initial ~= nil then arguments.number("dict:incr", initial) end
    arguments.ttl("dict:incr", ttl)
    local entry = self:entry(key)
    if not entry then
        if not initial then return nil, "not found" end
        entry = self:make(key, ttl)
        if not entry then return nil, "full" end
        entry.value = initial
    end
    if type(entry.value) ~= "number" then return nil, "not a number" end
    entry.value = entry.value + by
    return entry.value
end

function dicts:delete(key)
    if self:entry(arguments.key("dict:delete", key)) then
        self.entries[key], self.count = nil, self.count - 1
    end
    return true
end

function dicts:ttl(key)
    local entry = self:entry(arguments.key("dict:ttl", key))
    return entry and entry.ends and entry.ends - clock.now
end

-- A bucket of `burst` that fills by `rate` a second; its entry lives until it would be full again. A full
-- dictionary: nil, "full".
function dicts:take(key, rate, burst, cost)
    arguments.key("dict:take", key)
    arguments.positive("dict:take: rate", rate)
    arguments.positive("dict:take: burst", burst)
    if cost ~= nil then arguments.positive("dict:take: cost", cost) end
    cost = cost or 1
    local entry = self:entry(key)
    if entry and not entry.left then return nil, "not a bucket" end
    entry = entry or self:make(key)
    if not entry then return nil, "full" end
    local left = math.min(burst, (entry.left or burst) + (clock.now - (entry.at or clock.now)) * rate)
    local taken = left + 1e-9 >= cost
    local rest = taken and math.max(0, left - cost) or (cost - left) / rate
    entry.at, entry.left = clock.now, taken and rest or left
    entry.ends = clock.now + (burst - entry.left) / rate
    return taken, rest
end

function extra.dict(name)
    arguments.shared_name("gateway.dict", name, 64)
    local dict = state.dicts[name]
    if not dict then
        dict = setmetatable({ entries = {}, count = 0, max = 65536 }, dicts)
        state.dicts[name] = dict
    end
    return dict
end

-- The sums of one name; raises, at the line of the script, where it has another definition.
local function define(what, name, definition)
    if state.defined[name] and state.defined[name] ~= definition then
        error(what .. ": " .. name .. " is another metric already: " .. state.defined[name], 3)
    end
    state.defined[name], state.metrics[name] = definition, state.metrics[name] or {}
    return state.metrics[name]
end

local function key_of(name, count, ...)
    local texts = { ... }
    for i = 1, count do
        local what = type(texts[i])
        if what ~= "string" and what ~= "number" and what ~= "boolean" then
            error(name .. ": a label value is a string, a number or a boolean, not a " .. what, 3)
        end
        texts[i] = tostring(texts[i])
    end
    return table.concat(texts, ",")
end

function extra.metric(kind, name, help, labels)
    local number_of_kind, count = arguments.metric(kind, name, help, labels), #(labels or {})
    local sums = define("gateway.metric", name, arguments.definition(kind, labels or {}))
    return {
        add = function(_, n, ...)
            arguments.sample(number_of_kind, name, n, false)
            arguments.labels(name, count, select("#", ...))
            local key = key_of(name, count, ...)
            sums[key] = (sums[key] or 0) + n
        end,
        set = function(_, n, ...)
            arguments.sample(number_of_kind, name, n, true)
            arguments.labels(name, count, select("#", ...))
            local key = key_of(name, count, ...)
            sums[key] = n
        end,
    }
end

function extra.histogram(name, help, labels, buckets)
    local bounds, count = arguments.histogram(name, help, labels, buckets), #(labels or {})
    local sums = define("gateway.histogram", name, arguments.definition("histogram", labels or {}, bounds))
    return {
        observe = function(_, n, ...)
            arguments.number(name, n)
            arguments.labels(name, count, select("#", ...))
            local key = key_of(name, count, ...)
            local one = sums[key]
            if not one then
                one = { count = 0, sum = 0, buckets = {} }
                for _, bound in ipairs(bounds) do one.buckets[bound] = 0 end
                sums[key] = one
            end
            one.count, one.sum = one.count + 1, one.sum + n
            for _, bound in ipairs(bounds) do
                if n <= bound then one.buckets[bound] = one.buckets[bound] + 1 end
            end
        end,
    }
end

-- bytes and keys
local ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

function extra.base64_encode(bytes)
    arguments.text("gateway.base64_encode", bytes)
    local out = bytes:gsub("..?.?", function(part)
        local a, b, c = part:byte(1, 3)
        local n = a * 65536 + (b or 0) * 256 + (c or 0)
        local text = ""
        for shift = 18, 0, -6 do
            local at = math.floor(n / 2 ^ shift) % 64 + 1
            text = text .. ALPHABET:sub(at, at)
        end
        return text:sub(1, #part + 1) .. ("="):rep(3 - #part)
    end)
    return out
end

function extra.base64_decode(text)
    local core = arguments.text("gateway.base64_decode", text):match("^([%w+/]*)=?=?$")
    if not core or #text % 4 ~= 0 or #core % 4 == 1 then return nil, "base64: no such text" end
    local bits, value, out = 0, 0, {}
    for letter in core:gmatch(".") do
        value, bits = value * 64 + ALPHABET:find(letter, 1, true) - 1, bits + 6
        if bits >= 8 then
            bits = bits - 8
            out[#out + 1] = string.char(math.floor(value / 2 ^ bits))
            value = value % 2 ^ bits
        end
    end
    if value ~= 0 then return nil, "base64: no such text" end -- one text for each run of bytes
    return table.concat(out)
end

function extra.hex(bytes)
    arguments.text("gateway.hex", bytes)
    return (bytes:gsub(".", function(byte) return ("%02x"):format(byte:byte()) end))
end

function extra.random_bytes(n)
    if type(n) ~= "number" or n % 1 ~= 0 or n < 0 or n > 65536 then
        error("gateway.random_bytes: expected a whole number from 0 to 65536, got " .. tostring(n), 2)
    end
    local bytes = {}
    for i = 1, n do bytes[i] = string.char(clock.random(256) - 1) end
    return table.concat(bytes)
end

function extra.uuid()
    local hex = extra.hex(extra.random_bytes(16))
    return ("%s-%s-4%s-8%s-%s"):format(hex:sub(1, 8), hex:sub(9, 12), hex:sub(14, 16), hex:sub(18, 20),
        hex:sub(21))
end

function extra.equal(a, b)
    arguments.text("gateway.equal", a)
    arguments.text("gateway.equal", b)
    return a == b
end

-- A public key of a spec: what public_key(text) or a JWK with this kid gives. `algorithm` is what it
-- verifies, and `sign(data)` says which signature is the right one.
function waits.key(text_or_kid, algorithm, sign)
    state.keys = state.keys or {}
    state.keys[text_or_kid] = { algorithm = algorithm, sign = sign }
end

function extra.public_key(source)
    local made
    if type(source) ~= "string" and type(source) ~= "table" then
        error("gateway.public_key: expected PEM text or a JWK table, got " .. type(source), 2)
    end
    if type(source) == "table" and source.kty == "oct" then
        local secret = require("fluxgate.base64").decode(source.k)
        if not secret then return nil, "public_key: k is no base64url" end
        if #secret < 32 then return nil, "public_key: a secret needs 32 to 4096 bytes" end
        made = { algorithm = "HS256", sign = function(data) return sha256.hmac(secret, data) end }
    else
        made = (state.keys or {})[type(source) == "table" and source.kid or source]
    end
    if not made then return nil, "public_key: no key" end
    return { verify = function(_, algorithm, data, signature)
        arguments.text("key:verify: algorithm", algorithm)
        arguments.text("key:verify: data", data)
        arguments.text("key:verify: signature", signature)
        return algorithm == made.algorithm and signature == made.sign(data)
    end }
end

-- The bytes of an address, and how many bits it has as it is written.
local read_ip
function read_ip(text)
    local a, b, c, d = text:match("^(%d+)%.(%d+)%.(%d+)%.(%d+)$")
    if a then
        local bytes = { tonumber(a), tonumber(b), tonumber(c), tonumber(d) }
        for _, byte in ipairs(bytes) do
            if byte > 255 then return nil end
        end
        return bytes, 32
    end
    local before, tail_v4 = text:match("^(.*:)(%d+%.%d+%.%d+%.%d+)$")
    if before then
        local last = read_ip(tail_v4)
        if not last then return nil end
        text = before .. ("%x:%x"):format(last[1] * 256 + last[2], last[3] * 256 + last[4])
    end
    if not text:find("^[%x:]+$") or not text:find(":", 1, true) then return nil end
    local head, tail = text:match("^(.-)::(.*)$")
    local bytes = {}
    local function words(part, into)
        for word in part:gmatch("%x+") do
            local value = tonumber(word, 16)
            into[#into + 1], into[#into + 2] = math.floor(value / 256), value % 256
        end
        return into
    end
    words(head or text, bytes)
    local rest = words(tail or "", {})
    if not head and #bytes ~= 16 then return nil end
    while #bytes + #rest < 16 do bytes[#bytes + 1] = 0 end
    for _, byte in ipairs(rest) do bytes[#bytes + 1] = byte end
    if #bytes ~= 16 then return nil end
    for i = 1, 12 do
        if bytes[i] ~= (i > 10 and 255 or 0) then return bytes, 128 end
    end
    return { bytes[13], bytes[14], bytes[15], bytes[16] }, 128 -- an IPv4 address, mapped (RFC 4291 2.5.5.2)
end

function extra.ip_set(list)
    if type(list) ~= "table" then
        error("gateway.ip_set: expected a list of addresses and CIDRs, got " .. type(list), 2)
    end
    local nets = {}
    for i, entry in ipairs(list) do
        local address, bits = tostring(entry), nil
        if address:find("/", 1, true) then address, bits = address:match("^([^/]+)/(%d+)$") end
        local bytes, written = read_ip(address or "")
        bits = tonumber(bits) or bytes and written
        if bytes and #bytes * 8 < written then bits = bits - 96 end -- mapped
        if bits and bits < 0 then bytes = nil end
        if not bytes or bits > #bytes * 8 then error("ip_set: no CIDR: " .. tostring(entry), 2) end
        nets[i] = { bytes = bytes, bits = bits }
    end
    return { has = function(_, ip)
        local bytes = read_ip(arguments.text("ip_set:has", ip))
        for _, net in ipairs(bytes and nets or {}) do
            local same = #net.bytes == #bytes
            for i = 1, same and math.ceil(net.bits / 8) or 0 do
                local unit = 2 ^ math.max(0, 8 * i - net.bits)
                same = same and math.floor(net.bytes[i] / unit) == math.floor(bytes[i] / unit)
            end
            if same then return true end
        end
        return false
    end }
end

return waits
