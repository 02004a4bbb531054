-- When a request is sent again, when it must not be, and what the client sees of it.
local support = require "spec.support"

local function config(list, more)
    local addresses = {}
    for i, backend in ipairs(list) do addresses[i] = '"' .. backend.address .. '"' end
    return ([[
listeners: [ { address: "127.0.0.1:0" } ]
admin: { address: "127.0.0.1:0" }
workers: 1
routes:
  - match: { path_prefix: /patient }
    service: web
    retry: { status: [ 503 ], per_try: 300ms }
  - match: { path_prefix: /never }
    service: web
    retry: { attempts: 0 }
  - match: { path_prefix: / }
    service: web
services: { web: { endpoints: [ %s ] } }
%s]]):format(table.concat(addresses, ", "), more or "")
end

local function seen(list)
    local sum = 0
    for _, backend in ipairs(list) do sum = sum + backend:counts().requests_seen end
    return sum
end

describe("a retry", function()
    local list, gateway
    local function start(more, rules)
        list = { support.backend { id = "a", default = rules }, support.backend { id = "b" } }
        gateway = support.gateway { config = config(list, more) }
    end
    after_each(support.finish)

    it("takes a request off an endpoint that resets it to another", function()
        start("", { close = "before_head", reset = true })
        for _ = 1, 20 do
            local status, _, body = support.curl(gateway:url("/"))
            assert.same({ 200, "b\n" }, { status, body })
        end
        local retries = gateway:metric("fluxgate_retries_total")
        assert.is_true(retries >= 3, "retries: " .. retries)
    end)

    it("never sends a POST twice that may have been executed", function()
        start("", { close = "before_head", reset = true })
        local failed = 0
        for _ = 1, 20 do
            local status = support.curl("-d", "x", gateway:url("/"))
            if status == 502 then failed = failed + 1 end
        end
        assert.is_true(failed > 0)
        assert.equal(20, seen(list))
        assert.equal(0, gateway:metric("fluxgate_retries_total"))
    end)

    it("sends a POST on of which no byte had left", function()
        start("", {})
        list[1]:order { op = "unlisten" }
        for _ = 1, 10 do
            local status, _, body = support.curl("-d", "x", gateway:url("/"))
            assert.same({ 200, "b\n" }, { status, body })
        end
    end)

    it("does not take a 100 that the client never saw for an answer", function()
        list = { support.backend { id = "a" } } -- it sends a late 100 where it should have said no more, and closes
        gateway = support.gateway { config = config(list) }
        for i = 1, 3 do
            assert.equal(200, (support.curl(gateway:url("/"))))
            list[1]:set { script = { { raw = "HTTP/1.1 100 Continue\r\n\r\n", close = "after" } } }
            local status, _, body = support.curl(gateway:url("/"))
            assert.same({ 200, "a\n" }, { status, body })
            assert.equal(3 * i, list[1]:counts().requests_seen)
        end
        list[1]:set { script = { { raw = "HTTP/1.1 103 Early Hints\r\n\r\n", close = "after" } } }
        assert.equal(502, (support.curl(gateway:url("/"))))
    end)

    it("replays a 503 where the route asks for it, and shows it elsewhere", function()
        start("", { status = 503 })
        for _ = 1, 10 do
            local status, _, body = support.curl(gateway:url("/patient"))
            assert.same({ 200, "b\n" }, { status, body })
        end
        local statuses = {}
        for _ = 1, 10 do statuses[support.curl(gateway:url("/"))] = true end
        assert.same({ [200] = true, [503] = true }, statuses)
        statuses = {}
        for _ = 1, 10 do statuses[support.curl("-d", "x", gateway:url("/patient"))] = true end
        assert.same({ [200] = true, [503] = true }, statuses)
    end)

    it("leaves an endpoint that does not answer within per_try", function()
        start("", { hold = true })
        for _ = 1, 4 do
            local status, _, body = support.curl(gateway:url("/patient"))
            assert.same({ 200, "b\n" }, { status, body })
        end
        list[1]:release()
    end)

    it("is not made where attempts is 0", function()
        start("", { close = "before_head", reset = true })
        local statuses = {}
        for _ = 1, 10 do statuses[support.curl(gateway:url("/never"))] = true end
        assert.same({ [200] = true, [502] = true }, statuses)
        assert.equal(0, gateway:metric("fluxgate_retries_total"))
    end)

    it("stays inside its budget when everything fails", function()
        start("retry: { budget: 0% }\n", { close = "before_head", reset = true })
        list[2]:set { default = { close = "before_head", reset = true } }
        support.load { url = gateway:url("/"), requests = 400, concurrency = 8 }
        -- 10 a second for 10 seconds, and what came with the seconds that the load itself took
        local retries = gateway:metric("fluxgate_retries_total")
        assert.is_true(retries >= 90 and retries <= 220, "retries: " .. retries)
    end)

    it("tells the strategy which attempt it is", function()
        start("", { close = "before_head", reset = true })
        local file = support.file("attempts.lua", [[
local Attempts = {}
Attempts.__index = Attempts
function Attempts.new() return setmetatable({}, Attempts) end
function Attempts:pick(request, backends)
    request:set_cookie("attempt", tostring(request.attempt))
    for i = 1, #backends do
        local is_first = backends[i].id:find(":]] .. list[1].port .. [[$") ~= nil
        if request.attempt == 1 and is_first then return backends[i] end
    end
    return backends[#backends]
end
return Attempts
]])
        local yaml = config(list):gsub("endpoints:", "strategy: " .. file .. ", endpoints:")
        local ok, why = gateway:reload(yaml)
        assert.is_true(ok, why)
        local status, headers = support.curl(gateway:url("/"))
        assert.equal(200, status)
        assert.truthy(headers["set-cookie"]:find("attempt=2", 1, true), headers["set-cookie"])
    end)
end)
