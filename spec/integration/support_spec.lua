-- The harness itself: what every other integration spec leans on.
local support = require "spec.support"

describe("the harness", function()
    after_each(support.finish)

    it("records what a backend got byte for byte", function()
        local a = support.backend { id = "a", rules = { ["/chunks"] = { chunks = { "x", "yz" }, trailers = { { "X-T", "1" } } } } }
        local status, headers, body = support.curl(("http://127.0.0.1:%d/x?y"):format(a.port), "-H", "X-A: it's")
        assert.same({ 200, "a\n", "a" }, { status, body, headers["x-backend"] })
        local request = a:requests()[1]
        assert.same({ "GET", "/x?y", "it's" }, { request.method, request.target, request.header("x-a") })
        local connection = support.open(a.port)
        local reply = connection:request("GET /chunks")
        assert.same({ "xyz", "1" }, { reply.body, reply.trailers["x-t"] })
        assert.equal("a\n", connection:request("GET /").body)
        connection:close()
        local raw, how = support.raw(a.port, "GET / HTTP/1.1\r\nConnection: close\r\n\r\n", { split = 3 })
        assert.equal("closed", how)
        assert.truthy(raw:find("\r\n\r\na\n$"))
        assert.equal("GET / HTTP/1.1\r\nConnection: close\r\n\r\n", a:connections()[3].received)
    end)

    it("has backends that misbehave on request", function()
        local a = support.backend { id = "a", script = {
            { close = "before_head" }, { close = "mid_body", body = "0123456789", reset = true }, { raw = "garbage" },
            { status = 204 },
        } }
        local url = "http://127.0.0.1:" .. a.port
        for _ = 1, 3 do assert.is_nil((support.curl(url))) end
        assert.equal(204, (support.curl(url)))
        a:set { health = 503 }
        assert.equal(503, (support.curl(url .. "/health")))
        a:set { default = { hold = true } }
        local connection = support.open(a.port)
        connection:send("GET /held HTTP/1.1\r\n\r\n")
        support.wait_until("the request is held", function() return a:counts().active == 1 end)
        a:release()
        assert.equal(200, connection:reply().status)
        connection:close()
        a:set { default = { upgrade = "echo", greeting = "hi" } }
        connection = support.open(a.port)
        connection:send("GET /ws HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nfirst")
        assert.equal(101, connection:reply().status)
        assert.equal("hifirst", connection:read_bytes(7))
        connection:abort()
    end)

    it("counts what a load's clients saw", function()
        local a = support.backend { id = "a" }
        local url = "http://127.0.0.1:" .. a.port .. "/"
        local result = support.load { url = url, requests = 200, concurrency = 8 }
        assert.same({ ["200"] = 200 }, result.statuses)
        assert.same({ a = 200 }, result.bodies)
        assert.same({ 0, 8 }, { result.failure_count, result.connections })
        local load = support.load_start { url = url, concurrency = 2 }
        support.wait_until("the load runs", function() return a:counts().requests_seen > 300 end)
        a:set { default = { hold = true } }
        support.wait_until("both clients wait", function() return a:counts().active == 2 end)
        a:kill()
        assert.is_true(load:finish().failure_count >= 2)
    end)

    it("says what a claim's last value was when it does not come true", function()
        local ok, why = pcall(support.wait_until, "pigs fly", function() return false, "on the ground" end, 0.05)
        assert.is_false(ok)
        assert.truthy(why:find("not within 0.05 s: pigs fly\nlast value: on the ground", 1, true))
    end)

    it("fails a spec whose process died of a signal and left a child", function()
        local parent = support.run { argv = { "sh", "-c", "sleep 100 & sleep 100" } }
        support.wait_until("both run", function() return #parent:survivors() == 2 end)
        parent:signal("KILL")
        local ok, why = pcall(support.finish)
        assert.is_false(ok)
        assert.truthy(why:find("died of signal 9", 1, true))
        assert.truthy(why:find("survived: sleep 100", 1, true))
    end)

    it("fails a spec in whose log a sanitizer spoke, and one whose process ignores SIGTERM", function()
        local sick = support.run { argv = { "sh", "-c", "echo 'x.c:1:2: runtime error: index 9 out of bounds'" } }
        assert.equal(0, sick:wait())
        local ok, why = pcall(support.finish)
        assert.is_false(ok)
        assert.truthy(why:find("runtime error: index 9", 1, true))
        local stubborn = support.run { argv = { "sh", "-c", "trap '' TERM; echo up; while :; do read x; done" } }
        support.wait_until("it runs", function() return stubborn:log() == "up\n" end)
        function stubborn:on_finish() self:stop(0.2) end
        ok, why = pcall(support.finish)
        assert.is_false(ok)
        assert.truthy(why:find("did not end within its limit", 1, true))
    end)
end)
