-- Requests that are malformed, or that two readers may read in two ways, and what becomes of each. A row is
-- { claim, bytes, want }: want is the status of a refusal (400 where absent: one answer, a close, nothing for the
-- backend), or { statuses, seen… } with `closes` where the connection ends with it (else the probe behind it is
-- answered), or { statuses, broken = true }: what reached the backend was cut off and cannot pass for a whole message.
-- The limits are those of spec/integration/differential_spec.lua.
local requests = {}

local function add(claim, bytes, want) requests[#requests + 1] = { claim, bytes, want or "400" } end
local function passes(...) return { ("200 "):rep(select("#", ...)), ... } end
local function closes(...) return { ("200 "):rep(select("#", ...)), closes = true, ... } end
local function broken(status) return { status or "400", broken = true } end

local GET = "GET / HTTP/1.1\r\nHost: a\r\n"
local POST = "POST / HTTP/1.1\r\nHost: a\r\n"
local CHUNKED = POST .. "Transfer-Encoding: chunked\r\n\r\n"
local PLAIN = "GET / HTTP/1.1|Host: a||"
local SMUGGLED = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
local function chunked(data) return "POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked||{" .. data .. "}" end
local function length(data) return ("POST / HTTP/1.1|Host: a|Content-Length: %d||%s"):format(#data, data) end
local function get(path) return "GET " .. path .. " HTTP/1.1\r\nHost: a\r\n\r\n" end
local function got(path) return "GET " .. path .. " HTTP/1.1|Host: a||" end

-- The request line
add("two blanks before the target", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n")
add("two blanks before the version", "GET /  HTTP/1.1\r\nHost: a\r\n\r\n")
add("a tab before the target", "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n")
add("a tab before the version", "GET /\tHTTP/1.1\r\nHost: a\r\n\r\n")
add("a vertical tab before the version", "GET /\vHTTP/1.1\r\nHost: a\r\n\r\n")
add("a form feed before the version", "GET /\fHTTP/1.1\r\nHost: a\r\n\r\n")
add("a bare CR before the version", "GET /\rHTTP/1.1\r\nHost: a\r\n\r\n")
add("a blank behind the version", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n")
add("a word behind the version", "GET / HTTP/1.1 x\r\nHost: a\r\n\r\n")
add("a blank before the method", " GET / HTTP/1.1\r\nHost: a\r\n\r\n")
add("a line without a method", "/ HTTP/1.1\r\nHost: a\r\n\r\n")
add("a line without a target", "GET HTTP/1.1\r\nHost: a\r\n\r\n")
add("a colon in the method", "GET: / HTTP/1.1\r\nHost: a\r\n\r\n")
add("a slash in the method", "GE/T / HTTP/1.1\r\nHost: a\r\n\r\n")
add("a quote in the method", "\"GET\" / HTTP/1.1\r\nHost: a\r\n\r\n")
add("a byte past ASCII in the method", "G\195\137T / HTTP/1.1\r\nHost: a\r\n\r\n")
add("a method of 65 bytes", ("M"):rep(65) .. " / HTTP/1.1\r\nHost: a\r\n\r\n")
add("a method of 64 bytes", ("M"):rep(64) .. " / HTTP/1.1\r\nHost: a\r\n\r\n", passes(("M"):rep(64) .. " / HTTP/1.1|Host: a||"))
add("a method in lower case is another method", "get / HTTP/1.1\r\nHost: a\r\n\r\n", passes("get / HTTP/1.1|Host: a||"))
add("a method of every token byte", "!#$%&'*+-.^_`|~ / HTTP/1.1\r\nHost: a\r\n\r\n", passes("!#$%&'*+-.^_`|~ / HTTP/1.1|Host: a||"))
add("a bare LF behind the line", "GET / HTTP/1.1\nHost: a\r\n\r\n")
add("bare LFs all over", "GET / HTTP/1.1\nHost: a\n\n")
add("a bare CR behind the line", "GET / HTTP/1.1\rHost: a\r\n\r\n")
add("CR CR LF behind the line", "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n")
add("one empty line before it", "\r\n" .. get("/"), passes(PLAIN))
add("two empty lines before it", "\r\n\r\n" .. get("/"))
add("a bare LF before it", "\n" .. get("/"))
add("a bare CR before it", "\r" .. get("/"))
add("a NUL before it", "\0" .. get("/"))
add("a byte order mark before it", "\239\187\191" .. get("/"))

-- Versions
for _, version in ipairs { "http/1.1", "Http/1.1", "HTTP/1,1", "HTTP/1", "HTTP/1.", "HTTP/.1", "HTTP/1.1.1", "HTTP/01.1",
    "HTTP/1.01", "HTTP/1.10", "HTTP/11.1", "HTTP/+1.1", "HTTP/1.+1", "HTTP/1.x", "HTTP /1.1", "HTTP/ 1.1", "HTTPS/1.1", "ICY/1.1",
    "HTTP\\1.1", "HTTP/1.1\0" } do
    add("version " .. version:gsub("%z", "NUL"), "GET / " .. version .. "\r\nHost: a\r\n\r\n")
end
for _, version in ipairs { "HTTP/0.9", "HTTP/2.0", "HTTP/3.0", "HTTP/9.9", "HTTP/0.0" } do
    add("version " .. version, "GET / " .. version .. "\r\nHost: a\r\n\r\n", "505")
end
add("version HTTP/1.2 leaves as 1.1", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", passes(PLAIN))
add("a request of HTTP/0.9", "GET /\r\n")
add("a request of HTTP/0.9 with fields", "GET /\r\nHost: a\r\n\r\n")
add("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505")

-- Targets
for name, target in pairs { ["a fragment"] = "/#a", ["a backslash"] = "/a\\b", ["a NUL"] = "/a\0b", ["DEL"] = "/a\127",
    ["a byte past ASCII"] = "/\233", ["no slash"] = "a", ["an empty scheme"] = "://a/", ["another scheme"] = "ftp://a/",
    ["a scheme with one slash"] = "http:/a/", ["a scheme without authority"] = "http:///a", ["a scheme and a port alone"] = "http://:80/",
    ["user information"] = "http://u@a/", ["user and password"] = "http://u:p@a/", ["an empty user"] = "http://@a/",
    ["two @"] = "http://a@b@c/", ["a port that is no number"] = "http://a:x/", ["a port past 65535"] = "http://a:65536/",
    ["a port with a sign"] = "http://a:+80/", ["two ports"] = "http://a:80:81/", ["a blank in the authority"] = "http://a b/",
    ["a backslash in the authority"] = "http://a\\@b/", ["an escape in the authority"] = "http://a%2eb/", ["an open bracket"] = "http://[::1/",
    ["a bracket without an address"] = "http://[]/", ["a zone"] = "http://[fe80::1%25eth0]/", ["bytes behind the bracket"] = "http://[::1]x/",
    ["a fragment behind the authority"] = "http://a#b/", ["an asterisk for GET"] = "*", ["an asterisk and more"] = "*/a",
    ["authority form for GET"] = "a:80", ["a mail address"] = "mailto:a@b", ["a broken escape"] = "/%", ["half an escape"] = "/%4",
    ["an escape that is not hex"] = "/%g0", ["an escape of 16 bits"] = "/%u002f", ["an escaped NUL"] = "/a%00", ["an escaped backslash"] = "/%5c",
    ["dot segments behind an escaped slash"] = "/a%2f..%2fb", ["escaped dots behind an escaped slash"] = "/a%2f%2e%2e%2fb",
    ["a dot segment before an escaped slash"] = "/..%2fa", ["a single dot behind an escaped slash"] = "/a%2f./b", } do
    add("a target with " .. name, "GET " .. target .. " HTTP/1.1\r\nHost: a\r\n\r\n")
end
for target, normal in pairs { ["/a/../b"] = "/b", ["/../../a"] = "/a", ["/a/.."] = "/", ["/a/."] = "/a/", ["/a/b/../../.."] = "/",
    ["/%2e%2e/a"] = "/a", ["/a/%2E/b"] = "/a/b", ["/a/.%2e/b"] = "/b", ["//a///b//"] = "/a/b/", ["/%61%7e"] = "/a~", ["/%2f"] = "/%2F",
    ["/%c3%A9"] = "/%C3%A9", ["/a%2fb"] = "/a%2Fb", ["/..."] = "/...", ["/a..b"] = "/a..b", ["/%252e%252e/"] = "/%252e%252e/",
    ["/%25%32%65"] = "/%252e",
    ["/a;b=c/../d"] = "/d", ["/?/../a"] = "/?/../a", ["/?a#"] = false, ["/?%zz"] = "/?%zz", ["/a?"] = "/a?", ["/?a?b"] = "/?a?b",
    ["/%0d%0aA:b"] = "/%0D%0AA:b", ["/%20"] = "/%20", ["/%3F"] = "/%3F", ["/%23"] = "/%23", } do
    add("the target " .. target, get(target), normal and passes(got(normal)) or "400")
end
add("a hidden path that is answered here is not reached by another spelling: dots", get("/x/../private"), { "403 " })
add("a hidden path that is answered here is not reached by another spelling: escapes", get("/%70rivat%65/a"), { "403 " })
add("a hidden path that is answered here is not reached by another spelling: slashes", get("//private//a"), { "403 " })
add("a hidden path that is answered here is not reached by another spelling: absolute form",
    "GET http://a/./private HTTP/1.1\r\nHost: a\r\n\r\n", { "403 " })
add("a hidden path that is answered here is not reached by another spelling: an escaped slash", get("/private%2fa"), passes(got("/private%2Fa")))
add("a target of uri_bytes", get("/" .. ("a"):rep(4095)), passes(got("/" .. ("a"):rep(4095))))
add("a target past uri_bytes", get("/" .. ("a"):rep(4096)), "414")
add("absolute form over Host", "GET http://b:81/x?y HTTP/1.1\r\nHost: a\r\n\r\n", passes("GET /x?y HTTP/1.1|Host: b:81||"))
add("absolute form in capitals", "GET HTTP://B/ HTTP/1.1\r\nHost: a\r\n\r\n", passes("GET / HTTP/1.1|Host: B||"))
add("absolute form without path, with a query", "GET http://b?x HTTP/1.1\r\nHost: a\r\n\r\n", passes("GET /?x HTTP/1.1|Host: b||"))
add("absolute form without Host", "GET http://b/ HTTP/1.1\r\n\r\n")
add("absolute form and two Hosts", "GET http://b/ HTTP/1.1\r\nHost: b\r\nHost: b\r\n\r\n")
add("absolute form and a Host that is none", "GET http://b/ HTTP/1.1\r\nHost: b/c\r\n\r\n")
add("OPTIONS in absolute form without path", "OPTIONS http://b HTTP/1.1\r\nHost: a\r\n\r\n", { "200 " })
add("OPTIONS with an asterisk", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", { "200 " })
add("CONNECT", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", "405")
add("CONNECT with a path", "CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n")
add("CONNECT without port", "CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n")
add("TRACE", "TRACE /t HTTP/1.1\r\nHost: a\r\n\r\n", passes("TRACE /t HTTP/1.1|Host: a||"))
add("TRACE with content", "TRACE /t HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
add("TRACE with chunked content", "TRACE /t HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
add("TRACE that may go no further", "TRACE /t HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n", { "405 " })

-- Host
for name, value in pairs { ["an empty"] = "", ["a blank in"] = "a b", ["a list for"] = "a, b", ["a path in"] = "a/b", ["a query in"] = "a?b",
    ["a fragment in"] = "a#b", ["a user in"] = "u@a", ["a scheme in"] = "http://a", ["a backslash in"] = "a\\b",
    ["a port of letters in"] = "a:http",
    ["a negative port in"] = "a:-1", ["a port past 65535 in"] = "a:65536", ["a long port in"] = "a:000080", ["two ports in"] = "a:1:2",
    ["a blank port in"] = "a: 80",
    ["only a port in"] = ":80", ["an open bracket in"] = "[::1", ["no address in the brackets of"] = "[a]",
    ["an address without brackets in"] = "::1",
    ["an escape in"] = "a%00", ["a byte past ASCII in"] = "\233", ["a quoted"] = "\"a\"", ["angle brackets in"] = "<a>", } do
    add(name .. " Host", "GET / HTTP/1.1\r\nHost: " .. value .. "\r\n\r\n")
end
add("no Host", "GET / HTTP/1.1\r\n\r\n")
add("two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
add("two equal Hosts", "GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n")
add("a Host and an empty one", "GET / HTTP/1.1\r\nHost: a\r\nHost:\r\n\r\n")
add("two Hosts in 1.0", "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n")
add("a folded Host", "GET / HTTP/1.1\r\nHost:\r\n a\r\n\r\n")
add("a Host with a blank before the colon", "GET / HTTP/1.1\r\nHost : a\r\n\r\n")
add("a Host with an empty port", "GET / HTTP/1.1\r\nHost: a:\r\n\r\n", passes(PLAIN))
add("a Host behind blanks", "GET / HTTP/1.1\r\nHost: \t a \t\r\n\r\n", passes(PLAIN))
add("a Host of IPv6", "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", passes("GET / HTTP/1.1|Host: [::1]:80||"))
add("Host last leaves first", "GET / HTTP/1.1\r\nA: b\r\nhOSt: a\r\n\r\n", passes("GET / HTTP/1.1|Host: a|A: b||"))
add("X-Forwarded-Host of a stranger", GET .. "X-Forwarded-Host: evil\r\nX-Host: b\r\n\r\n", passes("GET / HTTP/1.1|Host: a|X-Host: b||"))

-- Field lines
for at, what in pairs { [0] = "NUL", "0x01", "0x02", [8] = "backspace", [10] = "LF", [11] = "vertical tab", [12] = "form feed", [13] = "CR",
    [27] = "escape", [31] = "0x1f", [127] = "DEL" } do
    local byte = string.char(at)
    add("a value with " .. what, GET .. "A: b" .. byte .. "c\r\n\r\n")
    add("a value that begins with " .. what, GET .. "A: " .. byte .. "b\r\n\r\n")
    add("a value that ends with " .. what, GET .. "A: b" .. byte .. "\r\n\r\n")
    add("a name with " .. what, GET .. "A" .. byte .. "B: c\r\n\r\n")
end
for byte in (" \t\"(),/;<=>?@[\\]{}\128\255"):gmatch(".") do
    add(("a name with byte %02x"):format(byte:byte()), GET .. "A" .. byte .. "B: c\r\n\r\n")
end
add("a blank before the colon", GET .. "A : b\r\n\r\n")
add("a tab before the colon", GET .. "A\t: b\r\n\r\n")
add("a blank before the name", GET .. " A: b\r\n\r\n")
add("a blank before the first name", "GET / HTTP/1.1\r\n Host: a\r\n\r\n")
add("a folded line", GET .. "A: b\r\n c\r\n\r\n")
add("a line folded by a tab", GET .. "A: b\r\n\tc\r\n\r\n")
add("a line folded by nothing", GET .. "A: b\r\n \r\n\r\n")
add("no name", GET .. ": b\r\n\r\n")
add("no colon", GET .. "A\r\n\r\n")
add("a lone CR as the last line", GET .. "\r\r\n")
add("a lone LF as the last line", GET .. "A: b\r\n\n")
add("LF CR as the last line", GET .. "A: b\r\n\n\r")
add("an underscore in a name", GET .. "X_A: b\r\nContent_Length: 9\r\nTransfer_Encoding: chunked\r\n\r\n", passes(PLAIN))
add("an empty value", GET .. "A:\r\n\r\n", passes("GET / HTTP/1.1|Host: a|A: ||"))
add("obs-text in a value", GET .. "A: \128\255\r\n\r\n", passes("GET / HTTP/1.1|Host: a|A: \128\255||"))
add("blanks around a value", GET .. "A:\t b  c\t \r\n\r\n", passes("GET / HTTP/1.1|Host: a|A: b  c||"))
add("as many fields as limits.headers", GET .. ("A: b\r\n"):rep(49) .. "\r\n", passes("GET / HTTP/1.1|Host: a|" .. ("A: b|"):rep(49) .. "|"))
add("one field more than limits.headers", GET .. ("A: b\r\n"):rep(50) .. "\r\n", "431")
add("a section of header_bytes", GET .. "A: " .. ("x"):rep(16384 - #GET - 7) .. "\r\n\r\n",
    passes("GET / HTTP/1.1|Host: a|A: " .. ("x"):rep(16384 - #GET - 7) .. "||"))
add("a section of one byte past header_bytes", GET .. "A: " .. ("x"):rep(16384 - #GET - 6) .. "\r\n\r\n", "431")
add("a line without end", GET .. "A: " .. ("x"):rep(20000), "431")
add("a hundred and one Connection options", GET .. "Connection: " .. ("a, "):rep(101) .. "\r\n\r\n", "431")

return { requests = requests, add = add, passes = passes, closes = closes, broken = broken, GET = GET, POST = POST, CHUNKED = CHUNKED,
    PLAIN = PLAIN, SMUGGLED = SMUGGLED, chunked = chunked, length = length, get = get, got = got }
