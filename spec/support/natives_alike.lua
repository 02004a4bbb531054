-- spec/support/natives_alike.lua: a plug-in whose new() checks what the gateway table has beside waiting. Run in the
-- real runtime by spec/unit/script/natives_test.c and in the test kit by spec/unit/lua/natives_spec.lua: both must
-- be the same to a script.
local Alike = {}

local function same(wanted, got, what)
    if wanted ~= got then
        error((what or "value") .. ": expected " .. tostring(wanted) .. ", got " .. tostring(got), 2)
    end
end

-- The error names the line that called.
local function raises(message, fn, ...)
    local ok, wrong = pcall(fn, ...)
    if ok then error("nothing raised: " .. message, 2) end
    if not tostring(wrong):find(message, 1, true) then error("raised: " .. tostring(wrong), 2) end
    if not tostring(wrong):find("natives_alike.lua:%d+: ") then error("at no line of ours: " .. wrong, 2) end
end

local function dictionaries()
    local dict = gateway.dict("alike")
    same(nil, dict:get("k"))
    same(nil, dict:ttl("k"))
    for _, value in ipairs { "text", "", ("x"):rep(65536), "a\0b", 0, -1.5, 1e300, true, false } do
        same(true, dict:set("k", value))
        same(value, dict:get("k"))
        same(type(value), type(dict:get("k")))
    end
    same(false, dict:add("k", 1))
    same(true, dict:delete("k"))
    same(true, dict:delete("k"))
    same(true, dict:add("k", 1, 100))
    local left = dict:ttl("k")
    assert(left > 90 and left <= 100, left)
    same(true, dict:set("k", 2))
    same(nil, dict:ttl("k"), "a ttl without end")
    same(2, gateway.dict("alike"):get("k"))
    same(nil, gateway.dict("another"):get("k"))

    same("not found", select(2, dict:incr("n", 1)))
    same(6, dict:incr("n", 1, 5))
    same(5.5, dict:incr("n", -0.5))
    same(5.5, dict:get("n"))
    dict:set("s", "1")
    same("not a number", select(2, dict:incr("s", 1)))
    same("not a bucket", select(2, dict:take("s", 1, 1)))
    same("1", dict:get("s"))

    local taken, rest = dict:take("b", 0.001, 3)
    same(true, taken)
    same(2, rest)
    same(true, (dict:take("b", 0.001, 3, 2)))
    taken, rest = dict:take("b", 0.001, 3)
    same(false, taken)
    assert(rest > 900 and rest <= 1000, rest)
    same(nil, dict:get("b"), "a bucket's value")
    same("not a number", select(2, dict:incr("b", 1)))
    assert(dict:ttl("b") > 2000, "a bucket lives until it is full")
    same(true, dict:set("b", 1))
    same(1, dict:get("b"))

    raises("expected a key", function() dict:get(nil) end)
    raises("expected a key", function() dict:set("", 1) end)
    raises("got 257 bytes", function() dict:incr(("k"):rep(257), 1) end)
    raises("expected a key", function() dict:take(7, 1, 1) end)
    raises("expected a key", function() dict:delete({}) end)
    raises("expected a key", function() dict:ttl() end)
    raises("expected a string, a number or a boolean", function() dict:set("k", {}) end)
    raises("expected a string, a number or a boolean", function() dict:add("k", nil) end)
    raises("longer than 64 KiB", function() dict:set("k", ("x"):rep(65537)) end)
    raises("expected a ttl", function() dict:set("k", 1, 0) end)
    raises("expected a ttl", function() dict:add("k", 1, "5") end)
    raises("expected a ttl", function() dict:incr("k", 1, 1, -1) end)
    raises("finite number", function() dict:incr("k", 0 / 0) end)
    raises("finite number", function() dict:incr("k", 1, "1") end)
    for _, wrong in ipairs { 0, -1, 0 / 0, "1", 1 / 0 } do
        raises("above 0", function() dict:take("x", wrong, 1) end)
        raises("above 0", function() dict:take("x", 1, wrong) end)
        raises("above 0", function() dict:take("x", 1, 1, wrong) end)
    end
    raises("expected a string", function() gateway.dict(nil) end)
    raises("1 to 64 bytes", function() gateway.dict("") end)
    raises("1 to 64 bytes", function() gateway.dict(("x"):rep(65)) end)
    local own = "names that begin with \"fluxgate/\" are fluxgate's own; choose another name"
    raises("gateway.dict: " .. own, function() gateway.dict("fluxgate/errors") end)
    raises("gateway.dict: " .. own, function() gateway.dict("fluxgate/") end)
    assert(gateway.dict("fluxgate") and gateway.dict("my/fluxgate/x"))
    raises("gateway.counter: " .. own, function() gateway.counter("fluxgate/stuck/strategy/web") end)
    raises("gateway.counter: expected a name of 1 to 200 bytes, got 201", function() gateway.counter(("x"):rep(201)) end)
    raises("gateway.counter: expected a name", function() gateway.counter("") end)
    raises("gateway.counter: expected a string", function() gateway.counter({}) end)
end

local function metrics()
    local counter = gateway.metric("counter", "alike_total", "Help.", { "kind", "n" })
    local gauge = gateway.metric("gauge", "alike_depth", "Help.")
    counter:add(2, "a", 1)
    counter:add(0.5, "a", 1)
    counter:add(1, "b", true)
    gauge:set(7)
    gauge:add(-2)
    gateway.metric("counter", "alike_total", "Help.", { "kind", "n" }):add(1, "a", 1)
    raises("another metric already", function() gateway.metric("gauge", "alike_total", "Help.", { "kind", "n" }) end)
    raises("another metric already", function() gateway.metric("counter", "alike_total", "Help.", { "kind" }) end)
    raises("\"counter\" or \"gauge\"", function() gateway.metric("histogram", "x", "Help.") end)
    for _, name in ipairs { "", "1a", "a-b", "a b", "ä" } do
        raises("no name of a metric", function() gateway.metric("counter", name, "Help.") end)
    end
    raises("fluxgate's own", function() gateway.metric("counter", "fluxgate_retries_total", "Help.") end)
    raises("fluxgate's own", function() gateway.metric("gauge", "loadbalancer_backend_status", "Help.") end)
    gateway.metric("counter", "fluxgate_rate_limited_total", "Help.", { "route" })
    raises("help text", function() gateway.metric("counter", "x", nil) end)
    raises("list of label names", function() gateway.metric("counter", "x", "Help.", "kind") end)
    raises("no name of a label", function() gateway.metric("counter", "x", "Help.", { "a-b" }) end)
    raises("no name of a label", function() gateway.metric("counter", "x", "Help.", { "__a" }) end)
    raises("twice the same", function() gateway.metric("counter", "x", "Help.", { "a", "a" }) end)
    raises("more than 8", function() gateway.metric("counter", "x", "Help.", { "a", "b", "c", "d", "e", "f", "g", "h", "i" }) end)
    raises("expected 2 label values, got 1", function() counter:add(1, "a") end)
    raises("expected 0 label values, got 1", function() gauge:set(1, "a") end)
    raises("a label value is", function() counter:add(1, "a", nil) end)
    raises("a label value is", function() counter:add(1, {}, "a") end)
    raises("only goes up", function() counter:add(-1, "a", 1) end)
    raises("is not set", function() counter:set(1, "a", 1) end)
    raises("finite number", function() gauge:set(0 / 0) end)
    raises("finite number", function() gauge:add("1") end)
end

local function histograms()
    local sizes = gateway.histogram("alike_sizes", "Help.", { "kind" }, { -1, 0.5, 10 })
    for _, n in ipairs { -1, 0, 0.5, 0.6, 10, 11, -5 } do sizes:observe(n, "a") end
    sizes:observe(7, true)
    gateway.histogram("alike_seconds", "Help."):observe(0.25)
    gateway.histogram("alike_sizes", "Help.", { "kind" }, { -1, 0.5, 10 }):observe(0, "a")
    raises("another metric already", function() gateway.histogram("alike_sizes", "Help.", { "kind" }) end)
    raises("another metric already", function() gateway.metric("gauge", "alike_sizes", "Help.", { "kind" }) end)
    raises("gateway.histogram: no name of a metric", function() gateway.histogram("a-b", "Help.") end)
    raises("fluxgate's own", function() gateway.histogram("fluxgate_seconds", "Help.") end)
    raises("help text", function() gateway.histogram("x") end)
    raises("label le", function() gateway.histogram("x", "Help.", { "le" }) end)
    for _, wrong in ipairs { { 1, 1 }, { 2, 1 }, { 0 / 0 }, { 1, 1 / 0 }, { "1" }, { 1, {} } } do
        raises("bounds are finite numbers that go up", function() gateway.histogram("x", "Help.", nil, wrong) end)
    end
    raises("1 to 32 bounds, got 0", function() gateway.histogram("x", "Help.", nil, {}) end)
    local many = {}
    for i = 1, 33 do many[i] = i end
    raises("1 to 32 bounds, got 33", function() gateway.histogram("x", "Help.", nil, many) end)
    raises("list of bounds", function() gateway.histogram("x", "Help.", nil, 1) end)
    raises("finite number", function() sizes:observe(0 / 0, "a") end)
    raises("finite number", function() sizes:observe("1", "a") end)
    raises("expected 1 label values, got 0", function() sizes:observe(1) end)
    raises("a label value is", function() sizes:observe(1, {}) end)
end

local function codecs()
    for plain, coded in pairs { -- RFC 4648 §10
        [""] = "", f = "Zg==", fo = "Zm8=", foo = "Zm9v", foob = "Zm9vYg==", fooba = "Zm9vYmE=", foobar = "Zm9vYmFy",
        ["\0\255\254"] = "AP/+", ["\251\255"] = "+/8=",
    } do
        same(coded, gateway.base64_encode(plain))
        same(plain, gateway.base64_decode(coded))
        local url = coded:gsub("=", ""):gsub("+", "-"):gsub("/", "_")
        same(url, gateway.base64url_encode(plain))
        same(plain, gateway.base64url_decode(url))
    end
    for _, wrong in ipairs { "Z", "Zg", "Zg=", "Zg===", "====", "Zh==", "Zm9=", "Z=g=", "Zg==Zg==", "Zm-v", "Zm9v\n", " Zm9v" } do
        same(nil, gateway.base64_decode(wrong), wrong)
    end
    for _, wrong in ipairs { "Z", "Zg==", "Zh", "Zm9", "Zm+v", "Zm9v\n" } do
        same(nil, gateway.base64url_decode(wrong), wrong)
    end
    local long = ("\1\2\3\4\5"):rep(3000)
    same(long, gateway.base64_decode(gateway.base64_encode(long)))
    same(#long * 2, #gateway.hex(long))
    same("00ff7f", gateway.hex("\0\255\127"))
    same("", gateway.hex(""))
    same(0, #gateway.random_bytes(0))
    same(33, #gateway.random_bytes(33))
    same(65536, #gateway.random_bytes(65536))
    assert(gateway.random_bytes(16) ~= gateway.random_bytes(16))
    local seen = {}
    for _ = 1, 200 do
        local uuid = gateway.uuid()
        assert(uuid:find("^%x%x%x%x%x%x%x%x%-%x%x%x%x%-4%x%x%x%-[89ab]%x%x%x%-%x%x%x%x%x%x%x%x%x%x%x%x$"), uuid)
        assert(#uuid == 36 and not seen[uuid])
        seen[uuid] = true
    end
    same(true, gateway.equal("", ""))
    same(true, gateway.equal("a\0b", "a\0b"))
    same(false, gateway.equal("a\0b", "a\0c"))
    same(false, gateway.equal("a", "ab"))
    assert(gateway.time() > 1600000000)
    for _, name in ipairs { "base64_encode", "base64_decode", "hex" } do
        raises("expected a string", function() gateway[name](nil) end)
    end
    raises("expected a string", function() gateway.equal("a", 1) end)
    for _, wrong in ipairs { -1, 1.5, 65537, "1" } do
        raises("whole number", function() gateway.random_bytes(wrong) end)
    end
end

local function addresses()
    local set = gateway.ip_set {
        "10.0.0.0/8", "192.0.2.7", "192.0.2.8/31", "198.51.100.77/24", "2001:db8::/33", "::1", "::ffff:203.0.113.0/120",
        "10.1.0.0/16", "0.0.0.1/32",
    }
    for _, ip in ipairs { "10.0.0.0", "10.1.2.3", "10.255.255.255", "192.0.2.7", "192.0.2.8", "192.0.2.9", "198.51.100.0",
        "198.51.100.255", "2001:db8::", "2001:db8:7fff:ffff:ffff:ffff:ffff:ffff", "::1", "203.0.113.9", "::ffff:10.2.3.4",
        "::ffff:a02:304", "0.0.0.1" } do
        same(true, set:has(ip), ip)
    end
    for _, ip in ipairs { "9.255.255.255", "11.0.0.0", "192.0.2.6", "192.0.2.10", "198.51.101.0", "198.51.99.255",
        "2001:db8:8000::", "2001:db7::1", "::2", "::", "203.0.114.0", "0.0.0.0", "a00::1", "", "10.0.0", "10.0.0.0/8",
        "nobody", "10.0.0.1 ", ":::" } do
        same(false, set:has(ip), ip)
    end
    local all4, all6, none = gateway.ip_set { "0.0.0.0/0" }, gateway.ip_set { "::/0" }, gateway.ip_set {}
    same(true, all4:has("255.255.255.255"))
    same(true, all4:has("::ffff:1.2.3.4"))
    same(false, all4:has("::1"))
    same(true, all6:has("ffff::"))
    same(false, all6:has("1.2.3.4"))
    same(false, none:has("1.2.3.4"))
    for _, wrong in ipairs { "", "10.0.0.0/33", "10.0.0.0/", "10.0.0/8", "::/129", "10.0.0.0/-1", "10.0.0.0/8/8", "x", "/8",
        "::ffff:10.0.0.0/95" } do
        raises("no CIDR", function() gateway.ip_set { wrong } end)
    end
    raises("expected a list", function() gateway.ip_set("10.0.0.0/8") end)
    raises("expected a string", function() set:has(nil) end)
end

local function keys()
    local key = assert(gateway.public_key { kty = "oct", k = gateway.base64url_encode(("s"):rep(32)) })
    local signature = gateway.hmac_sha256(("s"):rep(32), "data")
    same(true, key:verify("HS256", "data", signature))
    same(false, key:verify("HS256", "datum", signature))
    same(false, key:verify("RS256", "data", signature))
    same(nil, (gateway.public_key { kty = "oct", k = "c2hvcnQ" }))
    same(nil, (gateway.public_key("no key")))
    raises("expected PEM text or a JWK", function() gateway.public_key(nil) end)
    raises("expected a string", function() key:verify("HS256", "data", nil) end)
    raises("expected a string", function() key:verify(nil, "data", signature) end)
end

function Alike.new()
    dictionaries()
    metrics()
    histograms()
    codecs()
    addresses()
    keys()
    return { pick = function() end, on_request = function() end }
end

return Alike
