-- Probes other than http and tcp, against servers that are real: grpcio's health service, and one that speaks lines.
local cjson = require "cjson"
local support = require "spec.support"

local function config(addresses, health)
    for i, port in ipairs(addresses) do addresses[i] = ('{ id: e%d, address: "127.0.0.1:%d" }'):format(i, port) end
    return ([[
listeners: [ { address: "127.0.0.1:0" } ]
admin: { address: "127.0.0.1:0" }
routes: [ { match: { path_prefix: / }, service: web } ]
services:
  web:
    endpoints: [ %s ]
    health: %s
]]):format(table.concat(addresses, ", "), health)
end

-- State and reason of an endpoint, as /api/health tells.
local function endpoint(gateway, id)
    local _, _, body = support.curl(gateway:admin_url("/api/v1/status"))
    for _, row in ipairs(cjson.decode(body).health.endpoints) do
        if row.id == id then return row.state, row.reason end
    end
end

local function wait_for(gateway, id, state, reason)
    support.wait_until(id .. " is " .. state .. " (" .. reason .. ")", function()
        local now, why = endpoint(gateway, id)
        return now == state and why == reason, tostring(now) .. ": " .. tostring(why)
    end)
end

local function grpc_server(services)
    return support.helper("health_grpc.py", "grpc-health", { services = services }, "/usr/bin/python3")
end

describe("health policy grpc", function()
    after_each(support.finish)

    it("goes by what grpc.health.v1 says of the service", function()
        local server = grpc_server { [""] = 2, ["shop.v1.Basket"] = 1 }
        local gateway = support.gateway { config = config({ server.port },
            "{ policy: grpc, service: shop.v1.Basket, interval: 50ms, rise: 1, fall: 2 }") }
        wait_for(gateway, "e1", "healthy", "1 probe passed")
        local call = server:order({ op = "get" }).calls[1]
        assert.equal("shop.v1.Basket", call.service)
        assert.is_truthy(call.agent:find("^fluxgate%-health/"), call.agent)
        server:order { op = "set", services = { ["shop.v1.Basket"] = 2 } }
        wait_for(gateway, "e1", "unhealthy", "2 probes failed: NOT_SERVING")
        server:order { op = "set", services = { ["shop.v1.Basket"] = 1 } }
        wait_for(gateway, "e1", "healthy", "1 probe passed")
        server:order { op = "set", services = { other = 1 } }
        wait_for(gateway, "e1", "unhealthy", "2 probes failed: the service is not known there (NOT_FOUND)")
        server:order { op = "set", services = { ["shop.v1.Basket"] = "UNAVAILABLE" } }
        wait_for(gateway, "e1", "unhealthy", "2 probes failed: the service is not known there (NOT_FOUND)")
    end)

    it("asks for the server as a whole where no service is named", function()
        local server = grpc_server { [""] = 1 }
        local gateway = support.gateway { config = config({ server.port }, "{ policy: grpc, interval: 50ms }") }
        wait_for(gateway, "e1", "healthy", "1 probe passed")
        assert.equal("", server:order({ op = "get" }).calls[1].service)
    end)

    it("finds a server of HTTP/1 and a silent one unhealthy", function()
        local http, silent = support.backend { id = "b" }, support.helper("line_server.py", "silent", {})
        local gateway = support.gateway { config = config({ http.port, silent.port },
            "{ policy: grpc, interval: 50ms, timeout: 200ms, fall: 1 }") }
        wait_for(gateway, "e2", "unhealthy", "1 probes failed: response timeout")
        support.wait_until("e1 is unhealthy", function()
            local state, reason = endpoint(gateway, "e1")
            return state == "unhealthy", reason
        end)
    end)
end)

describe("a policy with a function for the socket", function()
    after_each(support.finish)

    local count = 0
    local function policy(body)
        count = count + 1
        return support.file("policy" .. count .. ".lua", ([[
            return { new = function(options, service)
                return {
                    probe = function(self, backend)
                        return { kind = "socket", timeout = 0.3, run = function(socket) %s end }
                    end,
                    judge = function(self, backend, result, history)
                        local why = tostring(result.detail or result.failure) .. " / " .. tostring(result.value)
                        if result.ok then return "healthy", why end
                        return "unhealthy", why
                    end,
                }
            end }]]):format(body))
    end

    it("sends and receives lines, bytes and what comes", function()
        local server = support.helper("line_server.py", "lines",
            { greeting = "220 ready\r\n", answers = { PING = "+PONG\r\n", BYTES = "12345", MORE = "abc\ndef" } })
        local gateway = support.gateway { config = config({ server.port }, "{ policy: " .. policy [[
            local greeting = socket:receive("line")
            assert(socket:send("PING\r\n"))
            local pong = socket:receive("line")
            socket:send("BYTES\n")
            local bytes = socket:receive(2) .. "|" .. socket:receive(3)
            socket:send("MORE\n")
            local line = socket:receive("line")
            local rest = ""
            repeat rest = rest .. socket:receive() until rest == "def"
            return table.concat({ greeting, pong, bytes, line, rest }, " ") ]] .. ", interval: 50ms }") }
        wait_for(gateway, "e1", "healthy", "nil / 220 ready +PONG 12|345 abc def")
    end)

    it("says why not, and tells an end from a silence", function()
        local server = support.helper("line_server.py", "lines",
            { answers = { PING = "-LOADING\r\n", CLOSE = false, HALF = "ha" } })
        local function gateway_of(body)
            return support.gateway { config = config({ server.port }, "{ policy: " .. policy(body) .. ", interval: 50ms }") }
        end
        wait_for(gateway_of [[
            socket:send("PING\r\n")
            local answer = socket:receive("line")
            if answer == "+PONG" then return true end
            return nil, "it says " .. answer ]], "e1", "unhealthy", "it says -LOADING / nil")
        wait_for(gateway_of [[
            socket:send("CLOSE\n")
            local got, why, part = socket:receive("line")
            return got, why .. " after '" .. part .. "'" ]], "e1", "unhealthy", "closed after '' / nil")
        wait_for(gateway_of [[
            socket:send("HALF\n")
            return socket:receive("line") ]], "e1", "unhealthy", "response_timeout / nil")
        wait_for(gateway_of [[
            socket:close()
            local ok, why = socket:send("x")
            return ok, why ]], "e1", "unhealthy", "closed / nil")
    end)

    it("leaves the endpoint as it was where the function fails, and goes on", function()
        local server = support.helper("line_server.py", "lines", { answers = { PING = "+PONG\r\n" } })
        local gateway = support.gateway { config = config({ server.port }, "{ policy: " .. policy [[
            socket:send("PING\r\n")
            local pong = socket:receive("line")
            if gateway.counter("probes"):next() >= 2 then local x = nil; x = x .. pong end
            return pong ]] .. ", interval: 20ms }") }
        wait_for(gateway, "e1", "healthy", "nil / +PONG")
        support.wait_until("its errors are counted", function()
            local now = gateway:metric("fluxgate_script_errors_total", {})
            return now >= 3, now
        end)
        assert.equal("healthy", (endpoint(gateway, "e1")))
    end)

    it("leaves the endpoint as it was where the function never returns, wherever it stands", function()
        local server = support.helper("line_server.py", "lines", { answers = { PING = "+PONG\r\n" } })
        local hangs = { -- the loop is compiled, in a coroutine of control's
            "local x = 0 while true do x = x + 1 end",
            "socket:send('PING\\r\\n') local pong, x = socket:receive('line'), 0 while pong do x = x + 1 end",
            "socket:send('PING\\r\\n') coroutine.wrap(function() local x = 0 while true do x = x + 1 end end)()",
            "socket:send('PING\\r\\n') pcall(function() socket:receive('line') local x = 0 while true do x = x + 1 end end)",
        }
        local services = {}
        for i, hang in ipairs(hangs) do
            local path = support.file("talk" .. i .. ".lua", ([[
local P = {}
P.__index = P
function P.new() return setmetatable({}, P) end
function P:probe()
    return function(socket)
        if gateway.counter("begun%d"):next() == 0 then return "first" end
        %s
    end
end
function P:judge(_, result)
    if result.value == "first" then return "unhealthy", "it said so once" end
    return "unhealthy", "judged again"
end
return P
]]):format(i, hang))
            services[i] = ('  s%d: { endpoints: [ { id: t%d, address: "127.0.0.1:%d" } ], health: { policy: "%s", interval: 50ms } }\n')
                :format(i, i, server.port, path)
        end
        local gateway = support.gateway { config = config({ server.port }, "{ policy: " .. policy [[
            socket:send("PING\r\n")
            return socket:receive("line") ]] .. ", interval: 50ms }") .. table.concat(services) }
        support.wait_until("each was abandoned", function()
            local missing = {}
            for i = 1, #hangs do
                if gateway:metric("fluxgate_plugin_errors_total", { service = "s" .. i }) ~= 1 then missing[#missing + 1] = i end
            end
            return #missing == 0, table.concat(missing, " ")
        end, 60)
        assert.equal(#hangs, gateway:metric("fluxgate_script_abandonments_total"))
        for i = 1, #hangs do
            local state, reason = endpoint(gateway, "t" .. i)
            assert.equal("unhealthy: it said so once", state .. ": " .. reason)
            assert.equal(1, gateway:metric("fluxgate_plugin_quarantined", { service = "s" .. i }))
        end
        -- dialogs of other policies that were cut off with the state begin anew
        local before = gateway:metric("fluxgate_probes_total")
        wait_for(gateway, "e1", "healthy", "nil / +PONG")
        support.wait_until("it is probed", function() return gateway:metric("fluxgate_probes_total") >= before + 5 end)
        assert.equal(0, gateway:metric("fluxgate_control_restarts_total"))
    end)
end)

describe("a policy that reads the body of an answer", function()
    after_each(support.finish)

    -- Options of its own and, unnamed, those that the gateway gives every policy.
    local function load_policy()
        return support.file("load.lua", [[
            local cjson = require "cjson"
            local Load = { api = 1 }
            Load.__index = Load
            function Load.new(options, service)
                local schema = { path = { type = "string", default = "/load" }, most = { type = "number", default = 0.9 } }
                return setmetatable(gateway.options(service, options, schema), Load)
            end
            function Load:probe(backend) return { kind = "http", path = self.path, timeout = self.timeout } end
            function Load:judge(backend, result, history)
                local known, said = pcall(cjson.decode, result.body)
                if not known or not result.ok then return "unhealthy", "no JSON" end
                local reason = ("load %.2f of %.2f, fall %d, interval %.2f"):format(said.load, self.most, self.fall, self.interval)
                return said.load <= self.most and "healthy" or "unhealthy", reason
            end
            return Load
        ]])
    end

    it("judges by it, however it is framed, by its own options and the common ones", function()
        local backend = support.backend { id = "b", rules = { ["/load"] = { body = '{"load":0.5}' } } }
        local gateway = support.gateway { config = config({ backend.port },
            "{ policy: " .. load_policy() .. ", most: 0.8, interval: 50ms, damping: false }") }
        wait_for(gateway, "e1", "healthy", "load 0.50 of 0.80, fall 3, interval 0.05")
        backend:set { rules = { ["/load"] = { body = '{"load":0.95}', until_close = true } } }
        wait_for(gateway, "e1", "unhealthy", "load 0.95 of 0.80, fall 3, interval 0.05")
    end)

    it("has a wrong option of it told at its line", function()
        local file = support.file("wrong.yaml", config({ 9 }, "{ policy: " .. load_policy() .. ", mst: 0.8, fall: 2 }"))
        local output, status = support.command(support.fluxgate, "check", "-c", file)
        assert.equal(1, status)
        assert.is_truthy(output:find("wrong.yaml:7:%d+: error: services.web.health.mst: no such option; did you mean 'most'%?"), output)
    end)
end)
