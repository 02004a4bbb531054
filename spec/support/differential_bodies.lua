-- More rows for differential_requests.lua: framing, bodies, connections, and several requests in one go.
local kit = require "spec.support.differential_requests"
local add, passes, closes, broken = kit.add, kit.passes, kit.closes, kit.broken
local GET, POST, CHUNKED, PLAIN, SMUGGLED = kit.GET, kit.POST, kit.CHUNKED, kit.PLAIN, kit.SMUGGLED
local chunked, length, get, got = kit.chunked, kit.length, kit.get, kit.got

-- Content-Length
for _, value in ipairs { "", "+5", "-5", "-0", "0x5", "5.0", "5e0", "5,", ",5", "5, 5", "5, 6", "5;a", "\"5\"", "5 5", "5\t5", "\0015",
    "5\v", "five",
    "18446744073709551616", "18446744073709551621", "99999999999999999999", "\194\1785" } do
    add("Content-Length: " .. value:gsub("[%c\128-\255]", "?"), POST .. "Content-Length: " .. value .. "\r\n\r\nhello" .. SMUGGLED)
end
add("Content-Length twice", POST .. "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello")
add("Content-Length twice, equal", POST .. "Content-Length: 5\r\ncontent-length: 5\r\n\r\nhello")
add("Content-Length folded", POST .. "Content-Length:\r\n 5\r\n\r\nhello")
add("Content-Length with a blank before the colon", POST .. "Content-Length : 5\r\n\r\nhello")
add("Content-Length with leading zeros", POST .. "Content-Length: 000000000000000000000005\r\n\r\nhello", passes(length("hello")))
add("Content-Length: 0", POST .. "Content-Length: 0\r\n\r\n", passes(length("")))
add("Content-Length past body_bytes", POST .. "Content-Length: 1048577\r\n\r\n", "413")
add("no Content-Length on POST", POST .. "\r\n", passes(length("")))
add("a body that holds a request", POST .. "Content-Length: " .. #SMUGGLED .. "\r\n\r\n" .. SMUGGLED, passes(length(SMUGGLED)))
add("CL.0: a body behind GET without length is a request", GET .. "\r\n" .. SMUGGLED, passes(PLAIN, got("/smuggled")))
add("0.CL: GET with a length swallows what follows", GET .. "Content-Length: " .. #SMUGGLED .. "\r\n\r\n" .. SMUGGLED,
    passes("GET / HTTP/1.1|Host: a|Content-Length: " .. #SMUGGLED .. "||" .. SMUGGLED))
add("DELETE with a body", "DELETE / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", passes("DELETE / HTTP/1.1|Host: a|Content-Length: 2||hi"))
add("HEAD with a body", "HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", passes("HEAD / HTTP/1.1|Host: a|Content-Length: 2||hi"))

-- Transfer-Encoding
local TE = "Transfer-Encoding: chunked\r\n"
add("CL.TE", POST .. "Content-Length: 6\r\n" .. TE .. "\r\n0\r\n\r\nG")
add("TE.CL", POST .. TE .. "Content-Length: 4\r\n\r\n5c\r\nGPOST\r\n0\r\n\r\n")
add("CL.TE with a length of 0", POST .. "Content-Length: 0\r\n" .. TE .. "\r\n0\r\n\r\n")
add("CL.TE whose length is garbage", POST .. "Content-Length: x\r\n" .. TE .. "\r\n0\r\n\r\n")
add("CL.TE in 1.0", "POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\n" .. TE .. "\r\n0\r\n\r\n")
for _, value in ipairs { "", "identity", "gzip", "gzip, chunked", "chunked, gzip", "chunked, identity", "identity, chunked",
    "chunked, chunked", ",chunked",
    "chunked,", "xchunked", "chunkedx", "chunke", "chunk", "\"chunked\"", "'chunked'", "chunked;a", "chunked; q=1", "chunked chunked",
    "chunked\v", "\vchunked",
    "\fchunked", "chunked\127", "chun\0ked", "chunked\r", "\rchunked", "\194\160chunked", "x", "cow", "chunked\\", "(chunked)", "compress",
    "0", "chunked \1" } do
    add("TE.TE: " .. value:gsub("[%c\128-\255]", "?"), POST .. "Transfer-Encoding: " .. value .. "\r\n\r\n0\r\n\r\n" .. SMUGGLED)
end
for _, name in ipairs { "Transfer-Encoding ", "Transfer-Encoding\t", " Transfer-Encoding", "Transfer-Encoding\v", "Transfer-Encoding\0",
    "Transfer-Encoding\160",
    "Transfer\\Encoding", "Transfer Encoding", "Transfer-Encoding\r", "\rTransfer-Encoding", "\"Transfer-Encoding\"" } do
    add("TE.TE: the name " .. name:gsub("[%c\128-\255]", "?"), POST .. "Content-Length: 5\r\n" .. name .. ": chunked\r\n\r\n0\r\n\r\n")
end
add("TE twice", POST .. TE .. TE .. "\r\n0\r\n\r\n")
add("TE twice, the first of another coding", POST .. "Transfer-Encoding: gzip\r\n" .. TE .. "\r\n0\r\n\r\n")
add("TE twice, the second empty", POST .. TE .. "Transfer-Encoding:\r\n\r\n0\r\n\r\n")
add("TE folded", POST .. "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n")
add("TE behind a folded line", POST .. "A: b\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
add("TE behind a bare LF", POST .. "A: b\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
add("TE behind a bare CR", POST .. "A: b\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
add("TE in 1.0", "POST / HTTP/1.0\r\nHost: a\r\n" .. TE .. "\r\n0\r\n\r\n")
add("TE in any case", POST .. "tRANSFER-eNCODING: \tcHUNKED \r\n\r\n5\r\nhello\r\n0\r\n\r\n", passes(chunked("hello")))
add("TE with an underscore and a length", POST .. "Content-Length: 5\r\nTransfer_Encoding: chunked\r\n\r\nhello", passes(length("hello")))
add("TE nominated by Connection", POST .. "Connection: transfer-encoding\r\n" .. TE .. "\r\n5\r\nhello\r\n0\r\n\r\n", passes(chunked("hello")))
add("Content-Length nominated by Connection", POST .. "Connection: content-length\r\nContent-Length: 5\r\n\r\nhello", passes(length("hello")))
add("GET with chunks", GET .. TE .. "\r\n2\r\nhi\r\n0\r\n\r\n", passes("GET / HTTP/1.1|Host: a|Transfer-Encoding: chunked||{hi}"))

-- Chunks
for _, size in ipairs { "", " ", " 5", "5 ", "5\t", "\t5", "+5", "-5", "0x5", "x5", "5x", "5h", "g", "5.", "5,", "5_", "\"5\"", "5\v",
    "5\0", "\0", "5\r", "5 5",
    "10000000000000005", "00000000000000005", "ffffffffffffffff0", "FFFFFFFFFFFFFFFFF", "ffffffffffffffff", "8000000000000000",
    "5;\n", "5;a\n", "5;a\0", "5;a\r", "5;a=\"b",
    "5;a=b c", "5;;", "5;=",
    "5;a=", "5;a=\"\1\"", "5 a", "5;a\rX", "5;a=(b)", "5;" .. ("a"):rep(300) } do
    add("chunk size " .. size:sub(1, 24):gsub("[%c\128-\255]", "?"), CHUNKED .. size .. "\r\nhello\r\n0\r\n\r\n" .. SMUGGLED, broken())
end
add("the longest chunk", CHUNKED .. "7fffffffffffffff\r\nhello\r\n0\r\n\r\n" .. SMUGGLED, broken("413"))
add("a bare LF behind the size", CHUNKED .. "5\nhello\r\n0\r\n\r\n", broken())
add("a bare CR behind the size", CHUNKED .. "5\rhello\r\n0\r\n\r\n", broken())
add("LF CR behind the size", CHUNKED .. "5\n\rhello\r\n0\r\n\r\n", broken())
add("CR CR LF behind the size", CHUNKED .. "5\r\r\nhello\r\n0\r\n\r\n", broken())
add("no CRLF behind the data", CHUNKED .. "5\r\nhello0\r\n\r\n", broken())
add("a bare LF behind the data", CHUNKED .. "5\r\nhello\n0\r\n\r\n", broken())
add("a bare CR behind the data", CHUNKED .. "5\r\nhello\r0\r\n\r\n", broken())
add("two bytes behind the data that are no CRLF", CHUNKED .. "5\r\nhelloXX0\r\n\r\n" .. SMUGGLED, broken())
add("a chunk shorter than its size", CHUNKED .. "6\r\nhello\r\n0\r\n\r\n", broken())
add("a chunk longer than its size", CHUNKED .. "4\r\nhello\r\n0\r\n\r\n", broken())
add("a last chunk with a bare LF", CHUNKED .. "0\n\r\n" .. SMUGGLED, broken())
add("a last chunk with bare LFs", CHUNKED .. "0\n\n" .. SMUGGLED, broken())
add("a last line with a bare LF", CHUNKED .. "0\r\n\n" .. SMUGGLED, broken())
add("a request instead of the last line", CHUNKED .. "0\r\n" .. SMUGGLED, broken())
add("a trailer without colon", CHUNKED .. "0\r\nA\r\n\r\n", broken())
add("a trailer with a blank before the colon", CHUNKED .. "0\r\nA : b\r\n\r\n", broken())
add("a folded trailer", CHUNKED .. "0\r\nA: b\r\n c\r\n\r\n", broken())
add("a trailer with a NUL", CHUNKED .. "0\r\nA: b\0\r\n\r\n", broken())
add("a trailer with a bare CR", CHUNKED .. "0\r\nA: b\rc\r\n\r\n", broken())
add("a trailer with a bare LF", CHUNKED .. "0\r\nA: b\n\r\n", broken())
add("trailers past 8 KiB", CHUNKED .. "0\r\nA: " .. ("x"):rep(9000) .. "\r\n\r\n", broken("431"))
add("chunked past body_bytes", CHUNKED .. "100001\r\nhello", broken("413"))
add("chunks in one form", CHUNKED .. "0000005\r\nhello\r\n00\r\n\r\n", passes(chunked("hello")))
add("a size in capitals", CHUNKED .. "0A\r\n0123456789\r\n0\r\n\r\n", passes(chunked("0123456789")))
add("extensions", CHUNKED .. "2;a\r\nhe\r\n3 ; b = \"\\\"\r\"\r\nllo\r\n0\r\n\r\n", broken())
add("sound extensions", CHUNKED .. "2;a\r\nhe\r\n3 ; b = \"\\\";c\"\t;d=e\r\nllo\r\n0;f\r\n\r\n", passes(chunked("hello")))
add("a size line of 255 bytes", CHUNKED .. "5;" .. ("a"):rep(252) .. "\r\nhello\r\n0\r\n\r\n", passes(chunked("hello")))
add("an empty body", CHUNKED .. "0\r\n\r\n", passes(chunked("")))
add("a request behind the last chunk", CHUNKED .. "0\r\n\r\n" .. SMUGGLED, passes(chunked(""), got("/smuggled")))
add("data that looks like the end", CHUNKED .. "7\r\n0\r\n\r\nGE\r\n0\r\n\r\n", passes(chunked("0\r\n\r\nGE")))
add("trailers that may travel, without those that may not", CHUNKED .. "2\r\nhi\r\n0\r\nX-A: 1\r\nHost: b\r\nContent-Length: 5\r\n"
    .. "Transfer-Encoding: chunked\r\nConnection: x-a\r\nCookie: c\r\nAuthorization: d\r\nX-Forwarded-For: 6.6.6.6\r\nX_B: 2\r\n"
    .. "TE: e\r\nUpgrade: f\r\n"
    .. "Trailer: g\r\nExpect: h\r\nRange: i\r\nSet-Cookie: j\r\nX-Real-IP: 7.7.7.7\r\nForwarded: k\r\n\r\n", passes(chunked("hi") .. "X-A: 1|"))

-- Connection and its kin
add("Connection nominates what is not to travel", GET .. "Connection: X-A, x-b\r\nX-A: 1\r\nX-B: 2\r\nx-a: 3\r\nX-C: 4\r\n\r\n",
    passes("GET / HTTP/1.1|Host: a|X-C: 4||"))
add("Connection nominates Host", GET .. "Connection: host\r\n\r\n", passes(PLAIN))
add("Connection nominates Cookie and Authorization", GET .. "Connection: cookie, authorization\r\nCookie: a=b\r\nAuthorization: c\r\n\r\n",
    passes(PLAIN))
add("Connection nominates X-Forwarded-For",
    GET .. "Connection: x-forwarded-for, x-request-id, traceparent\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n", passes(PLAIN))
add("Connection: close", GET .. "Connection: close\r\n\r\n" .. SMUGGLED, closes(PLAIN))
add("Connection: close and keep-alive", GET .. "Connection: keep-alive, close\r\n\r\n" .. SMUGGLED, closes(PLAIN))
add("Connection twice", GET .. "Connection: keep-alive\r\nConnection: close\r\n\r\n" .. SMUGGLED, closes(PLAIN))
add("1.0 without keep-alive", "GET / HTTP/1.0\r\nHost: a\r\n\r\n" .. SMUGGLED, closes(PLAIN))
add("1.0 with keep-alive", "GET / HTTP/1.0\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\n", passes(PLAIN))
add("hop-by-hop fields", GET .. "TE: trailers\r\nTrailer: A\r\nKeep-Alive: 1\r\nProxy-Connection: x\r\nProxy-Authorization: y\r\n"
    .. "Proxy-Authenticate: w\r\nUpgrade: z\r\n\r\n",
    passes(PLAIN))
add("h2c", GET .. "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n", passes(PLAIN))
add("HTTP2-Settings that Connection does not name", GET .. "Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n", passes(PLAIN))
add("h2c in capitals and with a version", GET .. "Connection: upgrade\r\nUpgrade: H2C, h2c/1, H2\r\n\r\n", passes(PLAIN))
add("an upgrade to HTTP", GET .. "Connection: upgrade\r\nUpgrade: HTTP/2.0, http/1.1, HTTP\r\n\r\n", passes(PLAIN))
add("Upgrade to websocket leaves without h2c and without what is no protocol",
    GET .. "Connection: upgrade\r\nUpgrade: h2c, websocket, a b, h2c/2\r\n\r\n",
    passes("GET / HTTP/1.1|Host: a|Connection: upgrade|Upgrade: websocket||"))
add("Upgrade in two fields", GET .. "Connection: upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket, x/1\r\n\r\n",
    passes("GET / HTTP/1.1|Host: a|Connection: upgrade|Upgrade: websocket, x/1||"))
add("Upgrade without Connection", GET .. "Upgrade: websocket\r\n\r\n", passes(PLAIN))
add("Upgrade in 1.0", "GET / HTTP/1.0\r\nHost: a\r\nConnection: upgrade, keep-alive\r\nUpgrade: websocket\r\n\r\n", passes(PLAIN))
add("Upgrade with a length", POST .. "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\nhello")
add("Upgrade with chunks", POST .. "Connection: upgrade\r\nUpgrade: websocket\r\n" .. TE .. "\r\n0\r\n\r\n")
add("an unknown expectation", POST .. "Expect: x\r\nContent-Length: 5\r\n\r\nhello", "417")
add("an empty expectation", POST .. "Expect:\r\nContent-Length: 5\r\n\r\nhello", "417")
add("two expectations", POST .. "Expect: 100-continue, x\r\nContent-Length: 5\r\n\r\nhello", "417")
add("Expect without a body", GET .. "Expect: 100-continue\r\n\r\n", passes(PLAIN))
add("Expect in 1.0", "POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    passes(length("hello")))
add("Expect with a body", POST .. "Expect: 100-Continue\r\nContent-Length: 5\r\n\r\nhello",
    { "100 200 ", "POST / HTTP/1.1|Host: a|Expect: 100-Continue|Content-Length: 5||hello" })

-- Several at once
add("three in order", get("/1") .. get("/2") .. get("/3"), passes(got("/1"), got("/2"), got("/3")))
add("bodies of each kind in order", POST .. "Content-Length: 5\r\n\r\nhello" .. CHUNKED .. "2\r\nhi\r\n0\r\n\r\n" .. get("/3"),
    passes(length("hello"), chunked("hi"), got("/3")))
add("an empty line between two", get("/1") .. "\r\n" .. get("/2"), passes(got("/1"), got("/2")))
add("a broken one in the middle ends it", get("/1") .. "GET /2 HTTP/1.1\r\n\r\n" .. get("/3"), { "200 400 ", closes = true, got("/1") })
add("a body with a wrong length", POST .. "Content-Length: 4\r\n\r\nhello" .. get("/2"), passes(length("hell"), "oGET /2 HTTP/1.1|Host: a||"))
add("one that is answered here, then another", get("/private") .. get("/2"), { "403 200 ", got("/2") })
add("one too long in the middle", get("/1") .. get("/" .. ("a"):rep(5000)) .. get("/3"), { "200 414 ", closes = true, got("/1") })
add("broken chunks in the middle", get("/1") .. CHUNKED .. "x\r\n" .. get("/3"), { "200 400 ", broken = true, got("/1") })

return kit.requests
