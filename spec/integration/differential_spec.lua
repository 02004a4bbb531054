-- Hundreds of requests that are malformed or can be read in two ways, sent raw: which status each gets, what exactly
-- reaches the backend, and whether the connection lives on. spec/support/compare.lua asks other proxies the same.
local support = require "spec.support"
local differential = require "spec.support.differential"
local requests = require "spec.support.differential_bodies"
local sweeps = require "spec.support.differential_bytes"

local config = [[
listeners: [ { address: "127.0.0.1:0" } ]
routes:
  - match: { path_prefix: /private }
    respond: { status: 403, body: hidden }
  - match: { path_prefix: / }
    service: web
services: { web: { endpoints: [ "%s" ] } }
limits: { header_bytes: 16k, headers: 50, uri_bytes: 4k, body_bytes: 1m }
timeouts: { response: 5s, client_header: 2s, client_body_gap: 2s }
workers: 1
]]

-- Statuses, the last one 200 where the probe was answered; what the backend read, the probe included.
local function expected(want)
    if type(want) == "string" then return want, {} end
    local statuses, seen = want[1], {}
    for i = 2, #want do seen[i - 1] = want[i] end
    if not want.closes and not want.broken then
        statuses = statuses .. "200 "
        seen[#seen + 1] = "GET /probe HTTP/1.1|Host: probe||"
    end
    return (statuses:gsub(" $", "")), seen
end

describe("a request that can be read in two ways", function()
    local gateway, backend

    lazy_setup(function()
        backend = support.backend { id = "b" }
        gateway = support.gateway { config = config:format(backend.address) }
    end)
    lazy_teardown(support.finish)

    -- What came in one read and what came in many gives one result; where a body is broken behind its head, how much of it
    -- has left by then differs, and so does whether the answer can still be told.
    local function judge(case, split)
        local got = differential.send(gateway:port(), backend, case[2], split)
        local statuses, seen = expected(case[3])
        assert.equal("closed", got.how)
        assert.same(seen, got.seen)
        assert.equal(statuses, got.statuses)
        if type(case[3]) == "string" then
            assert.equal("close", got.reply:match("\r\nConnection: (%a+)\r\n"))
        end
        assert.is_true(got.cut <= (case[3].broken and 1 or 0), got.cut .. " messages cut off")
    end

    for _, case in ipairs(requests) do
        it(case[1], function() judge(case) end)
        if #case[2] < 1000 then
            it(case[1] .. ", in pieces", function() judge(case, 7) end)
        end
    end

    for _, sweep in ipairs(sweeps) do
        it("has any byte in " .. sweep.claim, function()
            backend:close_idle() -- it keeps so much of each connection and no more
            for at = 0, 255 do
                local byte = string.char(at)
                local bytes = sweep.build(byte)
                local ok, why = pcall(judge, { sweep.claim, bytes, sweep.want(byte, at) or "400" })
                if not ok then error(("%s: byte 0x%02x: %q: %s"):format(sweep.claim, at, bytes, tostring(why)), 0) end
            end
        end)
    end

    it("is one of more than 200", function() assert.is_true(#requests > 200, #requests .. " requests") end)
end)
