-- bench/wrk.lua: what wrk sends (BENCH_UPLOAD: bytes of a POST body) and its figures as one line for
-- bench/bench.py. No request() here: wrk then formats the request once and sends the same bytes every time.
-- luacheck: globals wrk done
local upload = tonumber(os.getenv("BENCH_UPLOAD") or 0)
if upload > 0 then
    wrk.method, wrk.body = "POST", string.rep("x", upload)
end

function done(summary, latency)
    local e = summary.errors
    io.write(("BENCH %d %d %d %d %d %d %d %d\n"):format(summary.requests, summary.duration,
        e.connect + e.read + e.write, e.timeout, e.status,
        latency:percentile(50), latency:percentile(99), latency.max))
end
