local base64 = require "fluxgate.base64"
local sha256 = require "fluxgate.sha256"

local function hex(bytes)
    return (bytes:gsub(".", function(c) return ("%02x"):format(c:byte()) end))
end

describe("base64url", function()
    -- RFC 4648 §10, without padding
    for bytes, text in pairs { [""] = "", f = "Zg", fo = "Zm8", foo = "Zm9v", foob = "Zm9vYg", foobar = "Zm9vYmFy", ["\255\254"] = "__4" } do
        it("knows '" .. text .. "'", function()
            assert.equal(text, base64.encode(bytes))
            assert.equal(bytes, base64.decode(text))
        end)
    end
    for _, text in ipairs { "A", "Zg==", "Z+", "Zh", "Zm9v\n" } do
        it("refuses " .. ("%q"):format(text), function() assert.is_nil((base64.decode(text))) end)
    end
end)

describe("sha256", function()
    it("agrees with FIPS 180-4", function()
        assert.equal("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", hex(sha256.digest("")))
        assert.equal("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", hex(sha256.digest("abc")))
        assert.equal("cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0", hex(sha256.digest(("a"):rep(1000000))))
    end)
    it("agrees with RFC 4231 as an HMAC", function()
        assert.equal("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            hex(sha256.hmac("Jefe", "what do ya want for nothing?")))
        assert.equal("60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            hex(sha256.hmac(("\170"):rep(131), "Test Using Larger Than Block-Size Key - Hash Key First")))
    end)
end)

describe("gateway.url_encode and its kin", function()
    local kit = require "fluxgate.testkit"
    local gateway = kit.gateway

    it("escape all bytes but unreserved ones, and read them back", function()
        local all = {}
        for i = 0, 255 do all[#all + 1] = string.char(i) end
        local text = gateway.url_encode(table.concat(all))
        assert.is_nil(text:find("[^%w%-._~%%]"))
        assert.equal(table.concat(all), gateway.url_decode(text))
        assert.equal("a%20b%2Fc%3F%26%3D%0D%0A~", gateway.url_encode("a b/c?&=\r\n~"))
    end)

    it("leave what is no escape, and a plus, as they are", function()
        assert.equal("100% +%zz%", gateway.url_decode("100%25 +%zz%"))
    end)

    it("read a query: the first value of each name, and all in order", function()
        local first, all = gateway.query_decode("a=1&b=x+y%26&a=2&flag&=v&&c=d=e")
        assert.same({ a = "1", b = "x y&", flag = "", [""] = "v", c = "d=e" }, first)
        assert.same({ { "a", "1" }, { "b", "x y&" }, { "a", "2" }, { "flag", "" }, { "", "v" }, { "c", "d=e" } }, all)
    end)

    it("write a query that reads back to the same", function()
        local text = gateway.query_encode { b = { "2", 3 }, a = "x&y=z", ["n m"] = true }
        assert.equal("a=x%26y%3Dz&b=2&b=3&n%20m=true", text)
        assert.same({ a = "x&y=z", b = "2", ["n m"] = "true" }, (gateway.query_decode(text)))
    end)

    it("say what is wrong at the caller's line", function()
        local _, wrong = pcall(function() gateway.query_encode { a = print } end)
        assert.is_truthy(wrong:find("codec_spec.lua:%d+: gateway.query_encode: expected names with strings, at a"), wrong)
        assert.has_error(function() gateway.query_decode(nil) end)
        assert.has_error(function() gateway.url_encode(7) end)
    end)
end)
