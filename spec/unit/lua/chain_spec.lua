local kit = require "fluxgate.testkit"
local lua_file = require "spec.support.lua_file"

-- A filter whose file holds `body`, the functions of the table F.
local function filter(body)
    return lua_file("local F = { api = 1 } F.__index = F function F.new() return setmetatable({}, F) end "
        .. body .. " return F", kit.filter)
end

describe("kit.run", function()
    before_each(function() kit.seed(1) end)

    it("runs on_request in order, and on_response in reverse", function()
        local order
        local function named(n)
            return filter(([[
                function F:on_request(r) r:set_header("x-order", (r:header "x-order" or "") .. "%s") end
                function F:on_response(r, a) a:add_header("x-order", "%s") end]]):format(n, n))
        end
        local got = kit.run({ named "a", named "b" }, {}, function(sent)
            order = sent.headers["x-order"]
            return { body = "hi" }
        end)
        assert.equal("b, a", got.headers["x-order"])
        assert.equal("ab", order)
    end)

    it("says of a HEAD what it would say of a GET whose body changes", function()
        local stage = filter "function F:on_response(r, a) a:on_body(function() end) end"
        local zip = filter "function F:on_response(r, a) a:set_header('x-done', tostring(a:compress('gzip'))) end"
        for _, one in ipairs { stage, zip } do
            local got = kit.run(one, { method = "HEAD" }, { headers = { ["Content-Length"] = "4", ETag = '"1"' } })
            assert.same({ nil, 'W/"1"' }, { got.headers["content-length"], got.headers.etag })
            assert.is_nil(got.compressed)
            assert.is_truthy(got.headers["x-done"] ~= "true")
        end
    end)

    it("ends a filter that yields to nobody, or sleeps until never", function()
        for _, body in ipairs { "coroutine.yield()", "gateway.sleep(0 / 0)", "r:body(-1)", "r:answer(200, {})" } do
            local got = kit.run(filter("function F:on_request(r) " .. body .. " end"), {})
            assert.same({ 500, "filter_error" }, { got.status, got.reason }, body)
            assert.is_nil(got.forwarded)
        end
    end)

    it("takes what on_request returns for a mistake, and for no answer", function()
        for _, value in ipairs { "false", "true", "403", "403, { message = 'no' }", "nil, 'denied'", "r" } do
            local got = kit.run(filter("function F:on_request(r) gateway.sleep(1) return " .. value .. " end"), {})
            assert.same({ 500, "filter_error" }, { got.status, got.reason }, value)
            assert.is_nil(got.forwarded)
            assert.matches("call request:answer", got.errors[1], 1, true)
        end
        assert.equal(200, kit.run(filter "function F:on_request(r) return nil end", {}).status)
        assert.equal(403, kit.run(filter "function F:on_request(r) return r:answer(403) end", {}).status)
    end)

    it("ends the chain at an answer and shows it to those before alone", function()
        local first = filter "function F:on_response(r, a) a:set_header('x-first', '1') end"
        local denies = filter [[function F:on_request(r) r:answer(403, "no") end
            function F:on_response(r, a) a:set_header('x-own', '1') end]]
        local never = filter "function F:on_request(r) error('ran') end"
        local got = kit.run({ first, denies, never }, {})
        assert.same({ 403, "no", "filter_denied", "1" }, { got.status, got.body, got.reason, got.headers["x-first"] })
        assert.is_nil(got.headers["x-own"])
        assert.is_nil(got.forwarded)
    end)

    it("fails closed on an error, and goes on where it may be skipped", function()
        local broken = filter "function F:on_request() error('x') end"
        local got = kit.run(broken, {})
        assert.same({ 500, "filter_error" }, { got.status, got.reason })
        assert.is_nil(got.forwarded)
        got = kit.run({ { broken, on_error = "skip" } }, {})
        assert.equal(200, got.status)
        assert.equal(1, #got.errors)
    end)

    it("goes on without a filter that failed and may be skipped, its answer included", function()
        local broken = filter [[function F:on_request(r) r:answer(200, "half") error("x") end
            function F:on_response(r, a) a:set_header("x-ran", "1") end]]
        local got = kit.run({ { broken, on_error = "skip" } }, {})
        assert.equal("ok", got.body)
        assert.is_nil(got.headers["x-ran"])
    end)

    it("changes no request that has left, and sets no cookie before pick", function()
        for _, call in ipairs { "r:set_path('/x')", "r:set_query('')", "r:set_body('')", "r:answer(200)" } do
            assert.equal(500, kit.run(filter("function F:on_response(r) " .. call .. " end"), {}).status, call)
        end
        assert.equal(500, kit.run(filter "function F:on_request(r) r:set_cookie('a', 'b') end", {}).status)
    end)

    it("runs on_log of every filter of the list", function()
        local got = kit.run({ filter "function F:on_request(r) r:answer(200, '') end",
            filter "function F:on_log() error('logged') end" }, {})
        assert.is_truthy(got.errors[1]:find("logged", 1, true))
    end)

    it("takes once for a timer", function()
        local function every(options)
            return pcall(filter, "function F.new() gateway.every(1, print, " .. options .. ") return setmetatable({}, F) end"
                .. " function F:on_request() end")
        end
        assert.is_true(every "{ once = 'gateway' }")
        assert.is_false(every "{ once = 'x' }")
    end)

    it("waits on the kit's clock, and no longer than timeouts.filter", function()
        local before = kit.now()
        assert.equal(200, kit.run(filter "function F:on_request() gateway.sleep(3) end", {}).status)
        assert.equal(before + 3, kit.now())
        assert.equal(503, kit.run(filter "function F:on_request() gateway.sleep(60) end", {}).status)
    end)

    it("gives fetch its answer, its failure or its time-out", function()
        kit.on_fetch("/slow", { delay = 9 })
        kit.on_fetch("/fine", { status = 204, headers = { ["X-A"] = "1" } })
        local asks = filter [[function F:on_request(r)
            local got, wrong = gateway.fetch("http://h" .. r.path, { timeout = 2 })
            r:set_header("x-got", got and got.status .. got.headers["x-a"] or wrong)
        end]]
        local function ask(path) return kit.run(asks, { path = path }).forwarded.headers["x-got"] end
        assert.equal("2041", ask "/fine")
        assert.equal("response_timeout: no answer within 2 s", ask "/slow")
        assert.is_truthy(ask("/none"):find("^connect_refused"))
    end)

    it("refuses framing fields, line ends and bad paths as the gateway does", function()
        for _, call in ipairs { "r:set_header('Content-Length', '1')", "r:set_header('a', 'x\\r\\ny')", "r:add_header('a b', '')",
            "r:set_path('x')", "r:set_path('/%00')", "r:set_method('CONNECT')", "r:answer(99)", "r:set_query('a b')" } do
            assert.equal(500, kit.run(filter("function F:on_request(r) " .. call .. " end"), {}).status, call)
        end
        local got = kit.run(filter "function F:on_request(r) r:set_path('/a/../b//%7ec') end", {})
        assert.equal("/b/~c", got.forwarded.path)
    end)

    it("passes the body through on_body and takes what spoke of the old one away", function()
        local upper = filter "function F:on_response(r, a) a:on_body(function(c) return c:upper() end) end"
        local got = kit.run(upper, {}, { chunks = { "ab", "c" }, headers = { ["Content-Length"] = 3, ETag = '"1"' } })
        assert.same({ "ABC", 'W/"1"' }, { got.body, got.headers.etag })
        assert.is_nil(got.headers["content-length"])
    end)

    it("runs timers as the clock passes them and skips a run while one waits", function()
        local made = filter [[local n = 0
            function F.new() gateway.every(10, function() n = n + 1 gateway.sleep(15) end) return setmetatable({}, F) end
            function F:on_request(r) r:answer(200, tostring(n)) end]]
        kit.advance(35)
        assert.equal("2", kit.run(made, {}).body)
    end)

    it("shows on_log no header, and may not wait there", function()
        local got = kit.run(filter "function F:on_log(r) r.header('x') end", {})
        assert.is_truthy(got.errors[1]:find("over", 1, true))
        got = kit.run(filter "function F:on_log() gateway.sleep(1) end", {})
        assert.is_truthy(got.errors[1]:find("may wait only", 1, true))
    end)

    it("counts what on_response answers as denied, too", function()
        local got = kit.run(filter "function F:on_response(r, a) a:answer(410, 'gone') end", {})
        assert.same({ 410, "gone", "filter_denied" }, { got.status, got.body, got.reason })
        got = kit.run(filter "function F:on_response(r, a) a:answer(200, 'fine') end", {})
        assert.is_nil(got.reason)
    end)

    it("tells of a stage that fails over an answer of ours, and cuts an endpoint's", function()
        local fails = "function F:on_response(r, a) a:on_body(function() error('no') end) end"
        local got = kit.run({ filter(fails), filter "function F:on_request(r) r:answer(200, 'mine') end" }, {})
        assert.same({ 500, "filter_error", nil }, { got.status, got.reason, got.cut })
        got = kit.run(filter(fails), {})
        assert.same({ 200, "filter_error", true }, { got.status, got.reason, got.cut })
    end)

    it("makes no filter of a table without a callback", function()
        local ok, message = pcall(filter, "")
        assert.is_false(ok)
        assert.is_truthy(message:find("a filter needs one of the functions on_request, on_response, on_log", 1, true))
    end)
end)
