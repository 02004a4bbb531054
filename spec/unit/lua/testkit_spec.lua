local kit = require "fluxgate.testkit"
local lua_file = require "spec.support.lua_file"

-- A strategy whose pick() has this body.
local function strategy(body)
    return lua_file("local S = {} S.__index = S function S.new(o, s) return setmetatable({ service = s }, S) end "
        .. "function S:pick(request, backends) " .. body .. " end return S", kit.strategy)
end

describe("the test kit", function()
    local fleet
    before_each(function()
        kit.seed(1)
        fleet = kit.backends { { id = "b" }, { id = "a" }, { id = "c", state = "draining" }, { id = "d", weight = 0 } }
    end)

    it("offers what the gateway would offer, sorted by id", function()
        assert.same({ "a", "b" }, { fleet[1].id, fleet[2].id })
        assert.equal(2, #fleet)
        assert.equal("draining", fleet.c.state)
    end)

    it("offers a lower tier only when the better is empty", function()
        local tiers = kit.backends { { id = "a" }, { id = "b", state = "unproven" }, { id = "c", state = "ejected" } }
        assert.equal("a", tiers[1].id)
        kit.set(tiers, "a", { state = "unhealthy" })
        assert.equal("b", tiers[1].id)
        kit.set(tiers, "b", { state = "gone" })
        assert.equal("c", tiers[1].id)
        assert.equal(1, #tiers)
    end)

    it("raises on writes and on names that do not exist, as the gateway does", function()
        assert.has_error(function() fleet[1].weight = 2 end)
        assert.has_error(function() return fleet[1].wieght end)
        local request = kit.request()
        assert.has_error(function() request.path = "/" end)
        assert.has_error(function() return request.metod end)
        assert.has_error(function() request:set_cookie("a", "b\r\nX: y") end)
    end)

    for body, what in pairs {
        ["return 1"] = "a number", ["return {}"] = "a foreign table",
        ["return self.service:endpoints()[3]"] = "a draining endpoint that was not bound",
    } do
        it("refuses a pick that answers " .. what, function()
            assert.has_error(function() kit.pick(strategy(body), kit.request(), fleet) end)
        end)
    end

    it("accepts an endpoint that the pick bound", function()
        assert.equal(fleet.c, kit.pick(strategy("return request:bound('c')"), kit.request(), fleet))
    end)

    it("shows a pick only what the request has not tried", function()
        local picked = kit.pick(strategy("return backends[1]"), kit.request { tried = { fleet.a } }, fleet)
        assert.equal(fleet.b, picked)
    end)

    it("gives the same dice for the same seed and others for another", function()
        local roll = strategy("local t = {} for i = 1, 8 do t[i] = gateway.random(100) end return table.concat(t, ' ')")
        local function series(seed)
            kit.seed(seed)
            return roll:pick(kit.request(), fleet)
        end
        assert.equal(series(1), series(1))
        assert.not_equal(series(1), series(2))
    end)

    it("stands in the zone that it was told, until it starts afresh", function()
        local function zone()
            local ok, wrong = pcall(kit.strategy, "zone_aware", {})
            return ok, wrong
        end
        assert.is_false((zone()))
        kit.zone("east")
        assert.is_true((zone()))
        assert.equal("e", kit.strategy("zone_aware"):pick(kit.request(), kit.backends { { id = "e", zone = "east" }, { id = "w" } }).id)
        kit.seed(1)
        assert.is_false((zone()))
    end)

    it("moves its clock only when told to", function()
        local clock = strategy("return gateway.now()")
        local start = clock:pick(kit.request(), fleet)
        assert.equal(start, clock:pick(kit.request(), fleet))
        kit.advance("1m30s")
        assert.equal(start + 90, clock:pick(kit.request(), fleet))
    end)

    it("keeps the lines that a script logs", function()
        strategy("gateway.log('warn', 'low') gateway.log('plain') print(1, nil)"):pick(kit.request(), fleet)
        assert.same({ { level = "warn", message = "low" }, { level = "info", message = "plain" },
            { level = "info", message = "1\tnil" } }, kit.logs)
    end)

    it("runs a script in the gateway's sandbox", function()
        assert.is_true(strategy("return io == nil and os.execute == nil and debug == nil and string.dump == nil")
            :pick(kit.request(), fleet))
    end)

    it("lets a script make counters, but not use up those of all", function()
        local counting = strategy("return gateway.counter('c' .. (request.path == '/' and 1 or gateway.random(1e9))):next()")
        assert.equal(0, counting:pick(kit.request(), fleet))
        for _ = 1, 63 do counting:pick(kit.request { path = "/new" }, fleet) end
        assert.equal(1, counting:pick(kit.request(), fleet))
        local ok, message = pcall(counting.pick, counting, kit.request { path = "/new" }, fleet)
        assert.is_truthy(not ok and message:find("%.lua:1: gateway%.counter: more than 64 names"), message)
    end)
end)

describe("a policy in the test kit", function()
    local function policy(body, given)
        return lua_file("local P = {} P.__index = P function P:probe() return self.answer end "
            .. "function P:judge() end " .. body .. " return P", kit.policy, given)
    end

    local SCHEMA = 'function P.new(o, s) return setmetatable(gateway.options(s, o, { path = { type = "string" } }), P) end'

    it("gets the common options with their defaults, and need not name them", function()
        local made = policy(SCHEMA, { interval = "1s", path = "/up" })
        assert.same({ interval = 1, fast_interval = 1, timeout = 2, rise = 2, fall = 3, jitter = 0.1, path = "/up" },
            { interval = made.interval, fast_interval = made.fast_interval, timeout = made.timeout, rise = made.rise,
                fall = made.fall, jitter = made.jitter, path = made.path })
    end)

    it("refuses what is neither common nor its own", function()
        local ok, wrong = pcall(policy, SCHEMA, { pth = "/up", rise = 0 })
        assert.is_false(ok)
        assert.equal("services.test.health.pth: no such option; did you mean 'path'?\n"
            .. "services.test.health.rise: expected at least 1", wrong)
    end)

    it("gives the reason of each verdict beside the state", function()
        local states, reasons = kit.judge(kit.policy("tcp", { fall = 1 }), kit.backends({ {} })[1],
            { { ok = false, failure = "connect_refused" }, { ok = false, failure = "connect_refused" } })
        assert.same({ { "unhealthy", "unhealthy" }, { "1 probes failed: connect refused", false } }, { states, reasons })
    end)

    it("awaits an answer's body, but where the policy needs none", function()
        local function asks(text)
            return kit.probe(policy("function P.new() return setmetatable({ answer = { kind = 'http'" .. text .. " } }, P) end"), nil).body
        end
        assert.same({ "", "ok" }, { asks "", asks ", body = 'ok'" })
        assert.is_nil(asks ", body = false")
        assert.is_nil(kit.probe(kit.policy("http"), kit.backends({ {} })[1]).body)
    end)
end)

describe("a mistake of a spec", function()
    local fleet, filter
    before_each(function()
        kit.seed(1)
        fleet = kit.backends { { id = "a" } }
        filter = { on_request = function() end }
    end)

    for what, case in pairs {
        ["a misspelt field of a request"] = { function() kit.request { header = {} } end, "kit.request: there is no field 'header'" },
        ["a misspelt field of a result"] = { function() kit.result { statu = 1 } end, "kit.result: there is no field 'statu'" },
        ["an endpoint that is no table"] = { function() kit.backends { "a" } end, "kit.backends: expected tables, got a string" },
        ["a state that is none"] = { function() kit.set(fleet, "a", { state = "down" }) end, "kit.set: there is no state 'down'" },
        ["a fleet of nobody"] = { function() kit.set({}, "a", {}) end, "kit.set: expected what kit.backends made" },
        ["swapped arguments of pick"] = { function() kit.pick({}, fleet, kit.request()) end, "kit.pick: expected a strategy, what" },
        ["a request that leaves twice"] = { function() kit.finish(fleet.a) end, "kit.finish: no request is on a" },
        ["a filter that is a name"] = { function() kit.run("./x.lua", {}) end, "kit.run: expected what kit.filter made" },
        ["a misspelt field of an answer"] = { function() kit.run(filter, {}, { statu = 1 }) end, "kit.run: endpoint: there is no field 'statu'" },
        ["a failure that is none"] = { function() kit.run(filter, {}, { failure = "bad_luck" }) end, "kit.run: there is no failure 'bad_luck'" },
        ["an answer of fetch that is missing"] = { function() kit.on_fetch("x") end, "kit.on_fetch: expected an answer" },
        ["one result instead of a list"] = { function() kit.judge({}, fleet.a, { ok = true }) end, "kit.judge: expected a list of results" },
        ["a first state that is none"] = { function() kit.judge({}, fleet.a, {}, "well") end, "kit.judge: there is no state 'well'" },
        ["a window of nobody"] = { function() kit.observe({}, fleet, { b = {} }) end, "kit.observe: no backend 'b'" },
    } do
        it("is told: " .. what, function()
            local ok, wrong = pcall(case[1])
            assert.is_false(ok)
            assert.is_truthy(wrong:find(case[2], 1, true), wrong)
        end)
    end
end)

describe("what the gateway refuses", function()
    before_each(function() kit.seed(1) end)

    for body, text in pairs {
        ["request:set_cookie('a', 'b', { path = '/\\r\\n' })"] = "the path must begin with '/'",
        ["request:set_cookie('a', 'b', { domain = 'x; y' })"] = "the domain is no host name",
        ["request:set_cookie('a', 'b', { maxage = 1 })"] = "there is no option 'maxage'",
        ["request:header()"] = "request:header: the name must be a string, got nil; is there a '.' where a ':' belongs?",
        ["request:cookie(7)"] = "request:cookie: the name must be a string, got number",
        ["request:set_header('a', 'b')"] = "only filters may do that: this request is in pick()",
        ["gateway.every(1, print)"] = "gateway.every may be called in new() only",
        ["local x = request.service"] = "request.service: only filters have it",
    } do
        it("the kit refuses in pick(): " .. body, function()
            local fleet = kit.backends { {} }
            local ok, wrong = pcall(kit.pick, strategy(body .. " return backends[1]"), kit.request(), fleet)
            assert.is_false(ok)
            assert.is_truthy(wrong:find(text, 1, true), wrong)
        end)
    end

    it("is refused of an answer, too", function()
        local function run(on_response)
            return kit.run({ on_response = function(_, _, response) on_response(response) end }, {}, { body = "x" })
        end
        local got = run(function(response) response.status = 404 end)
        assert.is_truthy(got.errors[1]:find("response.status cannot be written: it is a view", 1, true), got.errors[1])
        got = run(function(response) response:on_body(function() return 7 end) end)
        assert.is_truthy(got.errors[1]:find("the function returned a number, expected a string", 1, true), got.errors[1])
    end)
end)

describe("an endpoint that gives no answer", function()
    it("fails as the gateway fails, and on_response sees that", function()
        local heard = {}
        local filter = {
            on_response = function(_, _, response)
                heard.seen, heard.backend = response.reason, response.backend
                response:set_header("X-Why", response.reason)
            end,
            on_log = function(_, _, response) heard.status, heard.reason = response.status, response.reason end,
        }
        local got = kit.run(filter, {}, { failure = "response_timeout" })
        assert.same({ status = 504, reason = "response_timeout", seen = "response_timeout" }, heard)
        assert.same({ 504, "response_timeout", "/", "response_timeout" },
            { got.status, got.reason, got.forwarded.path, got.headers["x-why"] })
    end)

    it("may be answered for by a page of one's own, and keeps its reason", function()
        local page = { on_response = function(_, _, response)
            if response.reason then response:answer(503, "soon", { ["X-Page"] = "1" }) end
        end }
        local got = kit.run(page, {}, { failure = "connect_refused" })
        assert.same({ 503, "soon", "1", "connect_refused" }, { got.status, got.body, got.headers["x-page"], got.reason })
        assert.same({ 200, "ok" }, { kit.run(page, {}).status, kit.run(page, {}).body })
    end)

    it("has the statuses of core/http/reason.h", function()
        local source, want = assert(io.open("core/http/reason.h")):read("*a"), {}
        for word, status in source:gmatch('X%([%u_]+, "([%l_]+)", (%d+),') do want[word] = tonumber(status) end
        for word, status in pairs(require("fluxgate.chain").FAILURES) do assert.equal(want[word], status, word) end
    end)
end)

describe("a strategy made of another for some of the endpoints", function()
    before_each(function() kit.seed(1) end)

    local function composed(prepares)
        return lua_file(([[
            local S = {} S.__index = S
            function S.new(options, service)
                return setmetatable({ ring = gateway.strategy("consistent_hash", { key = "header:X-User" }), group = {} }, S)
            end
            function S:on_change(backends)
                self.group = {}
                for _, b in ipairs(backends) do
                    if b.metadata.version == "v2" then self.group[#self.group + 1] = b end
                end
                if %s then self.ring:on_change(self.group) end
            end
            function S:pick(request, backends) return self.ring:pick(request, self.group) end
            return S]]):format(tostring(prepares)), kit.strategy)
    end

    local function fleet()
        local rows = {}
        for i = 1, 8 do rows[i] = { id = "b" .. i, metadata = { version = i > 4 and "v2" or "v1" } } end
        return kit.backends(rows)
    end

    for _, prepares in ipairs { false, true } do
        it("stays in its group and with its key, prepared for it: " .. tostring(prepares), function()
            local made, backends, seen = composed(prepares), fleet(), {}
            for i = 1, 200 do
                local request = kit.request { headers = { ["X-User"] = "u" .. i } }
                local id = kit.pick(made, request, backends).id
                assert.equal(id, kit.pick(made, request, backends).id)
                seen[id] = true
            end
            assert.same({ b5 = true, b6 = true, b7 = true, b8 = true }, seen)
        end)
    end

    it("bounds the load of a group that it was prepared for", function()
        local made, backends = composed(true), fleet()
        for _ = 1, 100 do kit.begin(kit.pick(made, kit.request { headers = { ["X-User"] = "hot" } }, backends)) end
        for i = 5, 8 do assert.is_true(backends["b" .. i].active <= 32) end -- ceil(1.25 × 101 / 4)
    end)
end)
