local kit = require "fluxgate.testkit"

local PAGE = { body = ("x"):rep(2000), headers = { ["Content-Type"] = "text/html; charset=utf-8", ["Content-Length"] = 2000,
    ETag = '"1"' } }

describe("compress", function()
    before_each(function() kit.seed(1) end)

    local function encoding(accept, options, page)
        local got = kit.run(kit.filter("compress", options), { headers = { ["Accept-Encoding"] = accept } }, page or PAGE)
        return got.compressed and got.compressed.encoding or "plain", got
    end

    it("takes the encoding of the highest q, its own order where they are equal", function()
        for accept, expected in pairs { ["gzip, zstd"] = "zstd", ["gzip;q=1, zstd;q=0.5"] = "gzip", ["*"] = "zstd",
            ["zstd;q=0, *;q=0.1"] = "gzip", ["GZIP"] = "gzip", ["x-gzip"] = "gzip", ["br"] = "plain", [""] = "plain",
            ["*;q=0"] = "plain", ["gzip;q=0.5, identity"] = "plain", ["gzip ; q=0.5"] = "gzip" } do
            assert.equal(expected, (encoding(accept)), accept)
        end
        assert.equal("plain", (encoding(nil)))
    end)

    it("reads no q that is none", function()
        for _, accept in ipairs { "gzip;q=2", "gzip;q=1.5", "gzip;q=0.1234",
            "gzip;q=-1", "gzip;q=x", "gzip;q=1;q=1", ";q=1", ",,,", ("gzip;q=0,"):rep(1000) } do
            assert.equal("plain", (encoding(accept)), accept)
        end
    end)

    it("says what it did: Content-Encoding, Vary, no length, a weak ETag", function()
        local _, got = encoding("gzip")
        assert.same({ "gzip", "Accept-Encoding", 'W/"1"', 6 },
            { got.headers["content-encoding"], got.headers.vary, got.headers.etag, got.compressed.level })
        assert.is_nil(got.headers["content-length"])
        _, got = encoding("br")
        assert.equal("Accept-Encoding", got.headers.vary)
        _, got = encoding("gzip", {}, { body = "x", headers = { ["Content-Type"] = "text/css", Vary = "accept-encoding" } })
        assert.equal("accept-encoding", got.headers.vary)
    end)

    it("leaves alone what is small, of another type, encoded, partial or not to be transformed", function()
        for name, page in pairs {
            small = { body = "x", headers = { ["Content-Type"] = "text/html", ["Content-Length"] = 1 } },
            image = { headers = { ["Content-Type"] = "image/png" } }, untyped = {},
            encoded = { headers = { ["Content-Type"] = "text/html", ["Content-Encoding"] = "br" } },
            partial = { status = 206, headers = { ["Content-Type"] = "text/html" } },
            fixed = { headers = { ["Content-Type"] = "text/html", ["Cache-Control"] = "No-Transform" } },
        } do
            assert.equal("plain", (encoding("gzip", {}, page)), name)
        end
    end)

    it("refuses encodings and types that it does not know", function()
        assert.is_false(pcall(kit.filter, "compress", { encodings = { "br" } }))
        assert.is_false(pcall(kit.filter, "compress", { types = { "html" } }))
    end)
end)
