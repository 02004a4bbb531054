-- Places of a request in which every byte there is stands once: { claim, build(byte), want(byte, its number) }, with wants
-- as in differential_requests.lua. What a grammar of RFC 9110, 9112 or 3986 allows passes, and nothing else.
local kit = require "spec.support.differential_requests"
local passes, broken = kit.passes, kit.broken
local GET, POST, CHUNKED, PLAIN, chunked = kit.GET, kit.POST, kit.CHUNKED, kit.PLAIN, kit.chunked

local sweeps = {}
local function sweep(claim, build, want) sweeps[#sweeps + 1] = { claim = claim, build = build, want = want } end

local function is_token(byte) return byte:find("^[%w!#$%%&'*+.^_`|~-]$") ~= nil end
local function is_text(at) return at == 9 or (at >= 32 and at ~= 127) end
local function is_visible(at) return at > 32 and at < 127 end

sweep("a method", function(byte) return "G" .. byte .. "T / HTTP/1.1\r\nHost: a\r\n\r\n" end,
    function(byte) return is_token(byte) and passes("G" .. byte .. "T / HTTP/1.1|Host: a||") end)
sweep("what stands before a method", function(byte) return byte .. "GET / HTTP/1.1\r\nHost: a\r\n\r\n" end,
    function(byte) return is_token(byte) and passes(byte .. "GET / HTTP/1.1|Host: a||") end)
sweep("a path", function(byte) return "GET /a" .. byte .. "c HTTP/1.1\r\nHost: a\r\n\r\n" end, function(byte, at)
    if not is_visible(at) or byte:find("[#%%\\]") then return nil end
    return passes("GET /a" .. byte .. "c HTTP/1.1|Host: a||")
end)
sweep("an escape's first digit", function(byte) return "GET /%" .. byte .. "a HTTP/1.1\r\nHost: a\r\n\r\n" end, function(byte)
    if not byte:find("%x") then return nil end
    local plain = string.char(tonumber(byte .. "a", 16))
    return passes("GET /" .. (plain:find("[%w._~-]") and plain or "%" .. byte:upper() .. "A") .. " HTTP/1.1|Host: a||")
end)
sweep("a query", function(byte) return "GET /?a" .. byte .. "c HTTP/1.1\r\nHost: a\r\n\r\n" end, function(byte, at)
    return is_visible(at) and byte ~= "#" and passes("GET /?a" .. byte .. "c HTTP/1.1|Host: a||")
end)
sweep("a version", function(byte) return "GET / HTTP/1" .. byte .. "1\r\nHost: a\r\n\r\n" end,
    function(byte) return byte == "." and passes(PLAIN) end)
sweep("what stands behind a version", function(byte) return "GET / HTTP/1.1" .. byte .. "\r\nHost: a\r\n\r\n" end, function() end)
sweep("a Host", function(byte) return "GET / HTTP/1.1\r\nHost: a" .. byte .. "c\r\n\r\n" end,
    function(byte) return byte:find("^[%w._~!$&'()*+;=-]$") and passes("GET / HTTP/1.1|Host: a" .. byte .. "c||") end)
sweep("an authority", function(byte) return "GET http://a" .. byte .. "c/ HTTP/1.1\r\nHost: d\r\n\r\n" end, function(byte)
    if byte == "/" then return passes("GET /c/ HTTP/1.1|Host: a||") end
    if byte == "?" then return passes("GET /?c/ HTTP/1.1|Host: a||") end
    return byte:find("^[%w._~!$&'()*+;=-]$") and passes("GET / HTTP/1.1|Host: a" .. byte .. "c||")
end)
sweep("a name", function(byte) return GET .. "A" .. byte .. "B: c\r\n\r\n" end, function(byte)
    if byte == "_" then return passes(PLAIN) end
    if byte == ":" then return passes("GET / HTTP/1.1|Host: a|A: B: c||") end
    return is_token(byte) and passes("GET / HTTP/1.1|Host: a|A" .. byte .. "B: c||")
end)
sweep("a name's only byte", function(byte) return GET .. byte .. ": c\r\n\r\n" end, function(byte)
    if byte == "_" then return passes(PLAIN) end
    return is_token(byte) and passes("GET / HTTP/1.1|Host: a|" .. byte .. ": c||")
end)
sweep("what stands behind a name", function(byte) return GET .. "Content-Length" .. byte .. ": 5\r\n\r\nhello" end, function(byte)
    if byte == ":" then return nil end -- its value is ": 5"
    local field = "Content-Length" .. byte
    return is_token(byte) and { "200 200 ", closes = true,
        "GET / HTTP/1.1|Host: a|" .. (byte == "_" and "" or field .. ": 5|") .. "|", "helloGET /probe HTTP/1.1|Host: probe||" }
end)
sweep("a value", function(byte) return GET .. "A: b" .. byte .. "d\r\n\r\n" end,
    function(byte, at) return is_text(at) and passes("GET / HTTP/1.1|Host: a|A: b" .. byte .. "d||") end)
sweep("a length", function(byte)
    local length = tonumber(byte:match("^%d$") and "1" .. byte .. "1") or 11
    return POST .. "Content-Length: 1" .. byte .. "1\r\n\r\n" .. ("x"):rep(length)
end, function(byte) return byte:find("^%d$") and passes(kit.length(("x"):rep(tonumber("1" .. byte .. "1")))) end)
sweep("what stands before a length", function(byte)
    return POST .. "Content-Length:" .. byte .. "5\r\n\r\n" .. ("x"):rep(byte:find("%d") and tonumber(byte .. "5") or 5)
end, function(byte)
    if byte:find("%d") then return passes(kit.length(("x"):rep(tonumber(byte .. "5")))) end
    return (byte == " " or byte == "\t") and passes(kit.length("xxxxx"))
end)
sweep("a coding", function(byte) return POST .. "Transfer-Encoding: chunk" .. byte .. "d\r\n\r\n2\r\nhi\r\n0\r\n\r\n" end,
    function(byte) return byte:lower() == "e" and passes(chunked("hi")) end)
sweep("what stands behind a coding",
    function(byte) return POST .. "Transfer-Encoding: chunked" .. byte .. "\r\n\r\n2\r\nhi\r\n0\r\n\r\n" end,
    function(byte) return (byte == " " or byte == "\t") and passes(chunked("hi")) end)
sweep("a chunk's size", function(byte)
    return CHUNKED .. "1" .. byte .. "\r\n" .. ("x"):rep(byte:find("%x") and tonumber("1" .. byte, 16) or 1) .. "\r\n0\r\n\r\n"
end, function(byte) return byte:find("%x") and passes(chunked(("x"):rep(tonumber("1" .. byte, 16)))) or broken() end)
sweep("a chunk's first byte", function(byte)
    return CHUNKED .. byte .. "1\r\n" .. ("x"):rep(byte == "1" and 17 or 300) .. "\r\n0\r\n\r\n"
end, function(byte) return byte == "1" and passes(chunked(("x"):rep(17))) or broken() end)
sweep("what stands behind a chunk", function(byte) return CHUNKED .. "1\r\nx" .. byte .. "\r\n0\r\n\r\n" end, function() return broken() end)
sweep("what stands before the last line", function(byte) return CHUNKED .. "0\r\n" .. byte .. "\r\n\r\n" end,
    function() return broken() end)
sweep("an extension's name", function(byte) return CHUNKED .. "2;a" .. byte .. "c\r\nhi\r\n0\r\n\r\n" end, function(byte)
    return (is_token(byte) or byte == "=" or byte == ";") and passes(chunked("hi")) or broken()
end)
sweep("an extension's quoted value", function(byte) return CHUNKED .. "2;a=\"b" .. byte .. "c\"\r\nhi\r\n0\r\n\r\n" end, function(byte, at)
    return is_text(at) and byte ~= "\"" and passes(chunked("hi")) or broken()
end)
sweep("a trailer's name", function(byte) return CHUNKED .. "2\r\nhi\r\n0\r\nA" .. byte .. "B: c\r\n\r\n" end, function(byte)
    if byte == "_" then return passes(chunked("hi")) end
    if byte == ":" then return passes(chunked("hi") .. "A: B: c|") end
    return is_token(byte) and passes(chunked("hi") .. "A" .. byte .. "B: c|") or broken()
end)
sweep("a trailer's value", function(byte) return CHUNKED .. "2\r\nhi\r\n0\r\nA: b" .. byte .. "d\r\n\r\n" end, function(byte, at)
    return is_text(at) and passes(chunked("hi") .. "A: b" .. byte .. "d|") or broken()
end)
sweep("a Connection option", function(byte) return GET .. "Connection: x" .. byte .. "y\r\nXy: 1\r\n\r\n" end, function(_, at)
    return is_text(at) and passes("GET / HTTP/1.1|Host: a|Xy: 1||")
end)
sweep("an expectation", function(byte) return POST .. "Expect: 100-continu" .. byte .. "\r\nContent-Length: 2\r\n\r\nhi" end,
    function(byte, at)
        if byte:lower() == "e" then
            return { "100 200 ", "POST / HTTP/1.1|Host: a|Expect: 100-continu" .. byte .. "|Content-Length: 2||hi" }
        end
        return is_text(at) and "417" or nil
    end)
sweep("an Upgrade", function(byte) return GET .. "Connection: upgrade\r\nUpgrade: h2c" .. byte .. "x\r\n\r\n" end, function(byte, at)
    if not is_text(at) then return nil end
    local named = is_token(byte) and "h2c" .. byte .. "x" or byte == "," and "x"
    return passes("GET / HTTP/1.1|Host: a|" .. (named and "Connection: upgrade|Upgrade: " .. named .. "|" or "") .. "|")
end)

return sweeps
