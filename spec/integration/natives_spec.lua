-- What scripts share: dictionaries and metrics, over workers, reloads and the death of a worker.
local support = require "spec.support"

local PLUGIN = [[
local Counting = {}
Counting.__index = Counting

function Counting.new()
    return setmetatable({
        dict = gateway.dict("shared"),
        picks = gateway.metric("counter", "picks_total", "Picks.", { "method" }),
        seen = gateway.metric("gauge", "picks_seen", "The shared count as it was last read."),
        taken = gateway.metric("counter", "tokens_total", "Tokens taken."),
        counts = gateway.histogram("picks_before", "How many picks came before.", { "method" }, { 99, 999, 1e6 }),
    }, Counting)
end

function Counting:pick(request, backends)
    local count = self.dict:incr("picks", 1, 0)
    self.seen:set(self.dict:get("picks"))
    self.counts:observe(count - 1, request.method)
    if self.dict:take("bucket", 0.001, 100) then self.taken:add(1) end
    self.picks:add(1, request.method)
    return backends[count % #backends + 1]
end

return Counting
]]

describe("what scripts share", function()
    local backend
    before_each(function() backend = support.backend { id = "a" } end)
    after_each(support.finish)

    local function config()
        return ([[
listeners: [ { address: "127.0.0.1:0" } ]
admin: { address: "127.0.0.1:0" }
routes: [ { match: { path_prefix: / }, service: web } ]
services:
  web: { endpoints: [ "%s" ], strategy: "%s" }
]]):format(backend.address, support.file("counting.lua", PLUGIN))
    end

    it("is exact over 2 workers, kept over reloads, and shown in /metrics", function()
        local gateway = support.gateway { config = config(), workers = 2 }
        local result = support.load { url = gateway:url(), requests = 2000, concurrency = 8, close = true }
        assert.equal(2000, result.ok)
        assert.equal(2000, gateway:metric("picks_total", { method = "GET" }))
        assert.equal(100, gateway:metric("tokens_total"))
        local text = gateway:metrics()
        local first = assert(text:find("# TYPE picks_before histogram\n", 1, true))
        assert.equal(table.concat({
            'picks_before_bucket{method="GET",le="99"} 100', 'picks_before_bucket{method="GET",le="999"} 1000',
            'picks_before_bucket{method="GET",le="1000000"} 2000', 'picks_before_bucket{method="GET",le="+Inf"} 2000',
            'picks_before_sum{method="GET"} 1999000', 'picks_before_count{method="GET"} 2000', "",
        }, "\n"), text:match("\n(picks_before_bucket.-\n)#", first))
        assert.is_true((gateway:reload()))
        result = support.load { url = gateway:url(), requests = 500, concurrency = 4, close = true }
        assert.equal(500, result.ok)
        assert.equal(2500, gateway:metric("picks_total", { method = "GET" }))
        assert.equal(2500, gateway:metric("picks_before_count", { method = "GET" }))
        assert.equal(100, gateway:metric("tokens_total"))
        support.curl(gateway:url())
        assert.equal(2501, gateway:metric("picks_seen"))
        assert.equal(0, gateway:metric("fluxgate_script_errors_total"))
    end)

    it("goes on where it was when workers are killed under load", function()
        local gateway = support.gateway { config = config(), workers = 2 }
        local load = support.load_start { url = gateway:url(), duration = 60, concurrency = 8, close = true }
        for kill = 1, 6 do
            local before = gateway:metric("picks_total") or 0
            support.wait_until("picks go on", function() return (gateway:metric("picks_total") or 0) > before + 50 end)
            gateway:kill(gateway:worker_pids()[kill % 2 + 1], "KILL")
            support.wait_until("a successor runs", function()
                return gateway:metric("fluxgate_worker_restarts_total") == kill
            end)
        end
        local result = load:finish()
        local picks = gateway:metric("picks_total")
        assert.is_true(picks >= result.ok and picks <= result.requests + 6 * 8, picks .. " picks, " .. result.ok .. " answers")
        assert.equal(0, gateway:metric("fluxgate_script_errors_total"))
        support.curl(gateway:url())
        assert.is_true(math.abs(gateway:metric("picks_seen") - gateway:metric("picks_total")) <= 6)
    end)

    it("refuses a metric under a name of the gateway's when the script loads", function()
        local gateway = support.gateway { config = config(), workers = 1 }
        support.file("counting.lua", (PLUGIN:gsub("picks_total", "fluxgate_retries_total")))
        local ok, line = gateway:reload()
        assert.is_false(ok)
        assert.truthy(line:find("counting.lua:7", 1, true) and line:find("fluxgate's own", 1, true), line)
        assert.equal(200, (support.curl(gateway:url())))
    end)

    it("are as large and as many as limits say, and the key to raise is named", function()
        local text = config() .. "limits: { shared_dict_bytes: 1M, shared_dicts: 1 }\n"
        local gateway = support.gateway { config = text, workers = 1 }
        assert.equal(200, (support.curl(gateway:url())))
        local full = PLUGIN:gsub("function Counting:pick[^\n]+\n", [[%0
    for i = 1, 100 do
        local ok, why = self.dict:set("large" .. i, ("x"):rep(65536))
        if not ok then request:set_cookie("why", why) break end
    end
]])
        support.file("counting.lua", full)
        assert.is_true((gateway:reload()))
        local _, headers = support.curl(gateway:url())
        assert.truthy(headers["set-cookie"]:find("why=full", 1, true), headers["set-cookie"])
        local event = support.wait_until("the log says so", function()
            return gateway:events("a shared dictionary is full: raise limits.shared_dict_bytes")[1]
        end)
        assert.equal("web", event.service)
        assert.is_true(gateway:metric("fluxgate_dict_full_total") >= 1)
        support.file("counting.lua", (PLUGIN:gsub('dict = gateway.dict%("shared"%),', '%0 more = gateway.dict("more"),')))
        local ok, line = gateway:reload()
        assert.is_false(ok)
        assert.truthy(line:find("counting.lua:6: ", 1, true), line)
        assert.truthy(line:find("no room for another dictionary: raise limits.shared_dicts", 1, true), line)
        local _, _, printed = support.curl(gateway:admin_url("/api/v1/config"))
        assert.truthy(printed:find("shared_dict_bytes: 1048576\n", 1, true), printed)
        assert.truthy(printed:find("shared_dicts: 1\n", 1, true), printed)
    end)
end)
