local kit = require "fluxgate.testkit"

local function filter(...) return kit.filter("rewrite", { rules = { ... } }) end

describe("rewrite", function()
    before_each(function() kit.seed(1) end)

    it("replaces a prefix of whole segments and keeps the query", function()
        local made = filter { prefix = "/old", to = "/new" }
        local got = kit.run(made, { path = "/old/x", query = "a=1" })
        assert.same({ "/new/x", "a=1" }, { got.forwarded.path, got.forwarded.query })
        assert.equal("/new", kit.run(made, { path = "/old" }).forwarded.path)
        assert.equal("/older", kit.run(made, { path = "/older" }).forwarded.path)
    end)

    it("moves captures of a pattern into path and query, first rule first", function()
        local made = filter({ pattern = "/u/(%d+)/(%a+)", to = "/%2?id=%1" }, { pattern = "/u/.*", to = "/none", query = "drop" })
        local got = kit.run(made, { path = "/u/7/posts", query = "p=2" })
        assert.same({ "/posts", "id=7&p=2" }, { got.forwarded.path, got.forwarded.query })
        got = kit.run(made, { path = "/u/x", query = "p=2" })
        assert.same({ "/none", "" }, { got.forwarded.path, got.forwarded.query })
        assert.equal("/x/u/7/posts", kit.run(made, { path = "/x/u/7/posts" }).forwarded.path)
    end)

    it("redirects, and no path of a client chooses the host", function()
        local made = filter({ pattern = "/go(.*)", to = "/%1", redirect = 308 }, { prefix = "/", to = "https://b.example", redirect = 301 })
        local got = kit.run(made, { path = "/go/evil.net/x" })
        assert.same({ 308, "/evil.net/x" }, { got.status, got.headers.location })
        got = kit.run(made, { path = "/a", query = "b=1" })
        assert.same({ 301, "https://b.example/a?b=1" }, { got.status, got.headers.location })
        assert.is_nil(got.forwarded)
    end)

    it("refuses rules that cannot work", function()
        for _, rule in ipairs { { to = "/a" }, { prefix = "/a", pattern = "/b", to = "/c" }, { prefix = "/a", to = "b" },
            { prefix = "/a", to = "//evil.net" }, { pattern = "(", to = "/" }, { pattern = "/(a)", to = "/%2" },
            { prefix = "/a", to = "/b", redirect = 200 }, { prefix = "/a", to = "https://b", to_path = 1 },
            { pattern = "(.*)", to = "https://b%1", redirect = 301 } } do
            assert.is_false(pcall(filter, rule))
        end
    end)
end)
