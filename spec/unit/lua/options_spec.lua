local options = require "fluxgate.options"

describe("duration", function()
    for text, seconds in pairs { ["5s"] = 5, ["500ms"] = 0.5, ["1m30s"] = 90, ["1.5h"] = 5400, ["250us"] = 0.00025, ["0"] = 0 } do
        it("reads " .. text, function() assert.is_true(math.abs(options.duration(text) - seconds) < 1e-9) end)
    end
    it("takes a number as seconds", function() assert.equal(2.5, options.duration(2.5)) end)
    for _, text in ipairs { "5", "s", "5x", "-5s", "5s ", "", "5 s", "1s2" } do
        it("refuses '" .. text .. "'", function() assert.is_nil((options.duration(text))) end)
    end
    it("refuses what is neither text nor number", function() assert.is_nil((options.duration(true))) end)
    it("refuses a negative number and one that is none", function()
        assert.is_nil((options.duration(-1)))
        assert.is_nil((options.duration(0 / 0)))
    end)
end)

describe("options", function()
    local schema = {
        rate = { type = "integer", default = 5, min = 1, max = 10 }, name = { type = "string" },
        wait = { type = "duration" }, on = { type = "boolean", default = true }, list = { type = "list" },
    }

    local function message(given)
        local ok, text = pcall(options.check, "services.a.options", given, schema)
        return not ok and text or nil
    end

    it("fill in what was not given", function()
        assert.same({ rate = 5, on = true, wait = 1 }, options.check("p", { wait = "1s" }, schema))
    end)

    it("take a duration's default as text, too", function()
        local given = options.check("p", {}, { wait = { type = "duration", default = "1m30s" } })
        assert.equal(90, given.wait)
        local ok, wrong = pcall(options.check, "p", {}, { wait = { type = "duration", default = "soon" } })
        assert.is_false(ok)
        assert.is_truthy(wrong:find("the default of wait: expected a duration", 1, true), wrong)
    end)

    it("keep a false that was given", function() assert.is_false(options.check("p", { on = false }, schema).on) end)

    for text, given in pairs {
        ["services.a.options.rat: no such option; did you mean 'rate'?"] = { rat = 1 },
        ["services.a.options.xyzzy: no such option"] = { xyzzy = 1 },
        ["services.a.options.rate: expected a whole number"] = { rate = 1.5 },
        ["services.a.options.rate: expected at least 1"] = { rate = 0 },
        ["services.a.options.rate: expected at most 10"] = { rate = 11 },
        ["services.a.options.name: expected a string"] = { name = 7 },
        ["services.a.options.on: expected true or false"] = { on = "yes" },
        ["services.a.options.list: expected a list"] = { list = { a = 1 } },
        ["services.a.options.wait: expected a duration like \"5s\", got a boolean"] = { wait = true },
    } do
        it("say: " .. text, function() assert.equal(text, message(given)) end)
    end
end)
