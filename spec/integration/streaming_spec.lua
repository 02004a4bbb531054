-- Large bodies through a worker whose memory is watched: neither a slow client nor a slow backend makes it hold more
-- than 256 KiB, by length, chunked, to the close, and in tunnels. FLUXGATE_STREAM_BYTES sets the size (1 GiB).
local support = require "spec.support"

local LARGE = tonumber(os.getenv("FLUXGATE_STREAM_BYTES")) or 2 ^ 30
local SMALLER = math.floor(LARGE / 8)
local HELD_MAX = 256 * 1024

local function start(workers_config)
    local streamer = support.helper("streamer.py", "streamer", {})
    local gateway = support.gateway { workers = 1, config = ([[
listeners: [ { address: "127.0.0.1:0" } ]
admin: { address: "127.0.0.1:0" }
routes: [ { match: { path_prefix: / }, service: web } ]
services: { web: { endpoints: [ "127.0.0.1:%d" ], strategy: round_robin } }
limits: { body_bytes: 0 }
log: { level: info, format: logfmt, access: "-" }
%s]]):format(streamer.port, workers_config or "") }
    return streamer, gateway
end

local function run(what, framing, bytes, more)
    local streamer, gateway = start()
    local order = { op = "start", what = what, framing = framing, bytes = bytes, port = gateway:port(),
        pid = gateway:worker_pids()[1] }
    for key, value in pairs(more or {}) do order[key] = value end
    streamer:order(order)
    local result = support.wait_until("the transfer has ended", function()
        local answer = streamer:order { op = "result" }
        return not answer.running and answer, answer
    end, 60 * math.max(1, LARGE / 2 ^ 30))
    assert.is_nil(result.failed)
    return result, gateway
end

local function assert_streamed(what, framing, bytes)
    local result, gateway = run(what, framing, bytes)
    assert.same({ bytes, true }, { result.bytes, result.intact })
    assert.is_true(result.stalled < bytes, "back-pressure reached the sender")
    assert.is_true(result.grown < HELD_MAX, "the worker grew by " .. result.grown .. " bytes")
    return gateway
end

describe("a large body", function()
    after_each(support.finish)

    it("to a slow client holds less than 256 KiB in the worker, by length", function()
        local gateway = assert_streamed("download", "length", LARGE)
        local line = support.wait_until("it is logged", function()
            return gateway:log():match("[^\n]*/download[^\n]*"), gateway:log_tail(5)
        end)
        local out = tonumber(line:match("bytes_out=(%d+)"))
        assert.is_true(out > LARGE and out < LARGE + 1024, line)
    end)

    it("to a slow client holds less than 256 KiB in the worker, chunked", function()
        assert_streamed("download", "chunked", SMALLER)
    end)

    it("to a slow client holds less than 256 KiB in the worker, to the close", function()
        assert_streamed("download", "close", SMALLER)
    end)

    it("to a slow backend holds less than 256 KiB in the worker, by length", function()
        assert_streamed("upload", "length", LARGE)
    end)

    it("to a slow backend holds less than 256 KiB in the worker, chunked", function()
        assert_streamed("upload", "chunked", SMALLER)
    end)

    it("through a tunnel comes back whole after a half-close, in less than 256 KiB", function()
        assert_streamed("tunnel", "close", SMALLER)
    end)

    it("that the backend cuts stays visibly cut", function()
        local result, gateway = run("download", "length", SMALLER, { cut = SMALLER / 2 })
        assert.is_true(result.intact)
        assert.is_true(result.bytes < SMALLER and result.bytes > 0)
        support.wait_until("it is logged as cut", function()
            return gateway:log():match("reset_after_headers"), gateway:log_tail(5)
        end)
    end)
end)
