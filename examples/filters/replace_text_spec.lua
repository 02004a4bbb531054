local kit = require "fluxgate.testkit"

describe("replace_text", function()
    local filter
    before_each(function()
        kit.seed(1)
        filter = kit.filter("examples/filters/replace_text.lua", { from = "http://old", to = "https://new" })
    end)

    local function through(chunks, headers)
        headers = headers or { ["Content-Type"] = "text/html", ["Content-Length"] = "1" }
        return kit.run(filter, { headers = { ["Accept-Encoding"] = "gzip" } }, { headers = headers, chunks = chunks })
    end

    it("replaces wherever two chunks meet", function()
        local text = "a http://old b hthttp://oldhttp://old http:/"
        for i = 0, #text do
            local got = through { text:sub(1, i), text:sub(i + 1) }
            assert.equal("a https://new b hthttps://newhttps://new http:/", got.body)
            assert.is_nil(got.headers["content-length"])
        end
    end)

    it("replaces what comes byte by byte", function()
        local chunks = {}
        for c in ("xhttp://oldy"):gmatch(".") do chunks[#chunks + 1] = c end
        assert.equal("xhttps://newy", through(chunks).body)
    end)

    it("leaves other types, and what is compressed, as they are", function()
        for _, headers in ipairs { { ["Content-Type"] = "application/json" }, { ["Content-Type"] = "text/css", ["Content-Encoding"] = "br" } } do
            assert.equal("http://old", through({ "http://old" }, headers).body)
        end
    end)

    it("asks the endpoint for the plain form", function()
        assert.is_nil(through({ "" }).forwarded.headers["accept-encoding"])
    end)
end)
