-- SIGHUP: a new bundle is checked, sealed and swapped in place; an error changes nothing.
local support = require "spec.support"

local function config(list, strategy, more)
    local addresses = {}
    for i, backend in ipairs(list) do addresses[i] = '"' .. backend.address .. '"' end
    return ([[
listeners: [ { address: "127.0.0.1:0" } ]
admin: { address: "127.0.0.1:0" }
workers: 2
routes: [ { match: { path_prefix: / }, service: web } ]
services:
  web:
    endpoints: [ %s ]
    strategy: %s
%s]]):format(table.concat(addresses, ", "), strategy or "round_robin", more or "")
end

local first = [[
local First = { name = "first", api = 1 }
First.__index = First
function First.new() return setmetatable({}, First) end
function First:pick(_, backends) return backends[%s] end
return First
]]

describe("a reload", function()
    local list
    before_each(function() list = { support.backend { id = "a" }, support.backend { id = "b" } } end)
    after_each(support.finish)

    local function three(gateway)
        local seen = {}
        for i = 1, 3 do seen[i] = select(3, support.curl(gateway:url())) end
        return seen
    end

    it("puts an edited strategy in force and keeps the worker processes", function()
        local path = support.file("mine.lua", first:format("1"))
        local gateway = support.gateway { config = config(list, path) }
        local one = three(gateway)
        local pids = gateway:worker_pids()
        support.file("mine.lua", first:format("2"))
        assert.is_true((gateway:reload()))
        local two = three(gateway)
        assert.same({ one[1], one[1], one[1] }, one)
        assert.same({ two[1], two[1], two[1] }, two)
        assert.are_not.equal(one[1], two[1])
        assert.same(pids, gateway:worker_pids())
    end)

    it("refuses a script with a syntax error by its file and line, and traffic goes on", function()
        local path = support.file("mine.lua", first:format("1"))
        local gateway = support.gateway { config = config(list, path) }
        local load = support.load_start { url = gateway:url(), duration = 20, concurrency = 4, rate = 200 }
        support.file("mine.lua", first:format("1") .. "\nthis is no Lua\n")
        local ok, line = gateway:reload()
        assert.is_false(ok)
        assert.truthy(line:find("mine.lua:7", 1, true), line)
        local result = load:finish()
        assert.equal(0, result.failure_count)
        assert.equal(result.requests, result.ok)
        assert.equal(1, gateway:metric("fluxgate_reload_failures_total"))
    end)

    it("refuses a script whose load never ends", function()
        local path = support.file("mine.lua", first:format("1"))
        local gateway = support.gateway { config = config(list, path) }
        support.file("mine.lua", "while true do end\n")
        local ok = gateway:reload(nil, 40)
        assert.is_false(ok)
        assert.equal(200, (support.curl(gateway:url())))
    end)

    it("names every error of a broken file with its line and keeps serving", function()
        local gateway = support.gateway { config = config(list) }
        local ok, line = gateway:reload(config(list, "round_robbin"))
        assert.is_false(ok)
        assert.truthy(line:find("round_robin", 1, true), line)
        assert.equal(200, (support.curl(gateway:url())))
    end)

    it("loses no request and no connection over twenty reloads under load", function()
        local gateway = support.gateway { config = config(list) }
        local load = support.load_start { url = gateway:url(), duration = 120, concurrency = 8, rate = 400 }
        for i = 1, 20 do
            assert.is_true((gateway:reload(config(list, i % 2 == 0 and "round_robin" or "least_connections"))))
        end
        local result = load:finish()
        assert.equal(0, result.failure_count)
        assert.equal(result.requests, result.ok)
        assert.equal(8, result.connections)
    end)

    it("opens a new listener and closes one that is gone, and a request under way on it ends well", function()
        list[1]:set { default = { hold = true } }
        list[2]:set { default = { hold = true } }
        local gateway = support.gateway { config = config(list) }
        local old = gateway:port(1)
        local client = support.open(old)
        client:send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        support.wait_until("a backend has it", function() return list[1]:counts().active + list[2]:counts().active == 1 end)
        local port = support.free_port()
        assert.is_true((gateway:reload((config(list):gsub("127%.0%.0%.1:0\" } %]\nadmin", "127.0.0.1:" .. port .. "\" } ]\nadmin")))))
        list[1]:set { default = {} }
        list[2]:set { default = {} }
        support.wait_until("the new one answers", function() return support.curl("http://127.0.0.1:" .. port .. "/") == 200 end)
        support.wait_until("the old one is closed", function()
            local ok, other = pcall(support.open, old)
            if ok then other:close() end
            return not ok
        end)
        list[1]:release()
        list[2]:release()
        assert.equal(200, client:reply().status)
    end)

    it("takes the series of a removed endpoint out of the metrics", function()
        local gateway = support.gateway { config = config(list) }
        support.load { url = gateway:url(), requests = 20, concurrency = 2 }
        local labels = { backend_id = list[2].address }
        assert.equal(10, gateway:metric("loadbalancer_total_requests", labels))
        assert.is_true((gateway:reload(config({ list[1] }))))
        support.wait_until("its series are gone", function()
            local text = gateway:metrics()
            return not text:find(list[2].address, 1, true), text
        end)
        assert.equal(10, gateway:metric("loadbalancer_total_requests", { backend_id = list[1].address }))
    end)

    it("keeps an upgraded tunnel alive", function()
        list[1]:set { default = { upgrade = "echo" } }
        list[2]:set { default = { upgrade = "echo" } }
        local gateway = support.gateway { config = config(list) }
        local client = support.open(gateway:port())
        client:send("GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            .. "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n")
        assert.truthy(client:read_until("\r\n\r\n"))
        assert.is_true((gateway:reload(config(list, "least_connections"))))
        client:send("still here")
        assert.equal("still here", client:read_bytes(10))
        client:close() -- else the drain waits for it
    end)

    it("changes the number of workers in place", function()
        local gateway = support.gateway { config = config(list) }
        local load = support.load_start { url = gateway:url(), duration = 60, concurrency = 6, rate = 300, close = true }
        assert.is_true((gateway:reload((config(list):gsub("workers: 2", "workers: 3")))))
        assert.equal(3, #gateway:worker_pids())
        assert.is_true((gateway:reload((config(list):gsub("workers: 2", "workers: 1")))))
        local result = load:finish()
        assert.equal(0, result.failure_count)
    end)

    it("gives a unix listener to further workers, and its file goes when the gateway stops", function()
        local path = support.dir() .. "/gateway.sock"
        local yaml = (config(list):gsub("127%.0%.0%.1:0\" } %]\nadmin", "unix:" .. path .. "\" } ]\nadmin"))
        local gateway = support.gateway { config = yaml }
        assert.is_true((gateway:reload((yaml:gsub("workers: 2", "workers: 4")))))
        for _ = 1, 8 do assert.equal(200, (support.curl("--unix-socket", path, "http://x/"))) end
        assert.equal(0, gateway:stop())
        assert.is_nil(io.open(path))
        assert.is_nil((require("posix.sys.stat").lstat(path)))
    end)

    it("answers `fluxgate reload` with the outcome", function()
        local gateway = support.gateway { config = config(list) }
        local admin = "127.0.0.1:" .. gateway:admin_port()
        local text, code = support.command(support.fluxgate, "reload", "--admin", admin)
        assert.equal(0, code, text)
        assert.truthy(text:find("generation 2", 1, true), text)
        support.file(gateway.config:match("[^/]+$"), config(list, "nonsense"))
        text, code = support.command(support.fluxgate, "reload", "--admin", admin)
        assert.equal(1, code, text)
        assert.truthy(text:find("nonsense", 1, true), text)
    end)
end)
