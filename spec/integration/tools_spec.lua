-- `fluxgate new` and `fluxgate test`: from nothing to a plug-in whose spec passes and which a gateway loads.
local stdlib = require "posix.stdlib"
local support = require "spec.support"

local binary = assert(stdlib.realpath(support.fluxgate))

local function inside(dir, ...)
    local words = {}
    for _, word in ipairs { binary, ... } do words[#words + 1] = support.quote(word) end
    return support.shell(("cd %s && exec timeout 20 %s < /dev/null"):format(dir, table.concat(words, " ")))
end

local CONFIG = {
    strategy = [[
listeners: [ { address: "127.0.0.1:0" } ]
routes: [ { match: { path_prefix: / }, service: web } ]
]],
    filter = [[
listeners: [ { address: "127.0.0.1:0" } ]
services: { web: { endpoints: [ "127.0.0.1:9001" ] } }
]],
}
CONFIG.policy = CONFIG.strategy

describe("fluxgate new", function()
    after_each(support.finish)

    for _, kind in ipairs { "strategy", "policy", "filter" } do
        it("writes a " .. kind .. " whose spec passes, and YAML that a gateway takes", function()
            local text, code = inside(support.dir(), "new", kind, "my_own")
            assert.equal(0, code, text)
            local tested, failed = inside(support.dir(), "test", "my_own_spec.lua")
            assert.equal(0, failed, tested)
            assert.truthy(tested:find("[2-9] successes / 0 failures / 0 errors"), tested)
            local yaml = {}
            for line in text:match("and reload:\n\n(.*)$"):gmatch("[^\n]+") do yaml[#yaml + 1] = line:sub(5) end
            local file = support.file("fluxgate.yaml", CONFIG[kind] .. table.concat(yaml, "\n") .. "\n")
            local checked, refused = support.command(binary, "check", "-c", file)
            assert.equal(0, refused, checked)
            assert.truthy(support.read_file(support.dir() .. "/.luarc.json"):find("lua/meta\"", 1, true))
        end)
    end

    it("has a spec that fails when the plug-in is broken", function()
        for _, kind in ipairs { "strategy", "policy", "filter" } do
            local _, code = inside(support.dir(), "new", kind, "a_" .. kind)
            assert.equal(0, code)
            local path = ("%s/a_%s.lua"):format(support.dir(), kind)
            local source = support.read_file(path)
            local broken, times = source:gsub("return best %-%-", "return backends[1] --")
                :gsub("self%.fall then", "self.fall + 9 then"):gsub("return request:answer", "return print")
            assert.equal(1, times + select(2, source:gsub("return best %-%-", ""))
                + select(2, source:gsub("self%.fall then", "")))
            support.write_file(path, broken)
            local text, failed = inside(support.dir(), "test", ("a_%s_spec.lua"):format(kind))
            assert.equal(1, failed, text)
        end
    end)

    it("never writes over a file", function()
        local path = support.file("mine.lua", "-- mine\n")
        local text, code = inside(support.dir(), "new", "strategy", "mine")
        assert.equal(1, code, text)
        assert.truthy(text:find("mine.lua is there already", 1, true), text)
        assert.equal("-- mine\n", support.read_file(path))
        local _, missing = support.shell("test -e " .. support.dir() .. "/mine_spec.lua")
        assert.equal(1, missing)
    end)

    it("says which kinds and which names there are", function()
        for said, words in pairs {
            ["strategy, policy or filter"] = { "stratgy", "x" }, ["small letters"] = { "strategy", "../x" },
            ["what name"] = { "strategy" },
        } do
            local text, code = inside(support.dir(), "new", unpack(words))
            assert.equal(64, code, text)
            assert.truthy(text:find(said, 1, true), text)
        end
    end)
end)

describe("fluxgate test", function()
    after_each(support.finish)

    it("exits 1 where a spec fails, and names file and line", function()
        support.file("bad_spec.lua", 'it("holds", function()\n    assert.equal(1, 2)\nend)\n')
        local text, code = inside(support.dir(), "test")
        assert.equal(1, code, text)
        assert.truthy(text:find("bad_spec.lua:2", 1, true), text)
    end)

    it("exits 1 where there is no spec, and where a file is missing", function()
        local text, code = inside(support.dir(), "test")
        assert.equal(1, code, text)
        assert.truthy(text:find("no spec ran", 1, true), text)
        text, code = inside(support.dir(), "test", "none_spec.lua")
        assert.equal(1, code, text)
    end)

    it("runs only what --filter names, and hands busted its own options", function()
        support.file("two_spec.lua", 'it("one", function() end)\nit("two", function() error("no") end)\n')
        local text, code = inside(support.dir(), "test", "--filter", "one", "two_spec.lua", "--", "--output=TAP")
        assert.equal(0, code, text)
        assert.truthy(text:find("ok 1", 1, true), text)
    end)

    it("finds modules beside the spec, and the kit of this very gateway", function()
        support.file("helper.lua", "return { answer = 42 }\n")
        support.file("it_spec.lua", 'it("requires", function()\n    assert.equal(42, require("helper").answer)\n'
            .. '    assert.is_function(require("fluxgate.testkit").backends)\nend)\n')
        local text, code = inside(support.dir(), "test", "it_spec.lua")
        assert.equal(0, code, text)
    end)

    it("runs again with --watch when a Lua file changes", function()
        local spec = support.file("it_spec.lua", 'it("holds", function() assert.equal(1, require("value")) end)\n')
        support.file("value.lua", "return 1\n")
        local child = support.run { argv = { binary, "test", "--watch", spec }, cwd = support.dir() }
        support.wait_until("the first run passes", function()
            return child:log():find("1 success.*watching"), child:log_tail(9)
        end)
        support.file("value.lua", "return 2\n")
        support.wait_until("the second one fails", function()
            return child:log():find("watching.*1 failure.*watching"), child:log_tail(9)
        end)
        child:kill(child.pid, "INT")
        child:wait(10)
    end)
end)
