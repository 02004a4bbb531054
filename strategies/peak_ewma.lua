-- strategies/peak_ewma.lua: of two endpoints drawn at random, the one where the request will be done sooner:
-- its latency times the requests that it would then hold. Finagle's P2C + Peak EWMA (com.twitter.finagle.
-- loadbalancer.PeakEwma; twitter.github.io/finagle/guide/Clients.html): a latency rises to a slower answer at
-- once, and forgets it in 10 s, in each worker; the average over all workers holds where it is higher. With
-- three differences:
--   · whoever failed last (no answer, or a 5xx) loses against whoever did not, so that an endpoint which
--     fails within 1 ms attracts nobody;
--   · an endpoint of which nothing is known counts as quick as the other one: a newcomer is not flooded;
--   · now and then the loser wins, so that each keeps 1.5 % of the traffic (20 endpoints or more: a fifth of
--     its fair share) as its probe, and is found again when it is well.
-- Options: none.
local draws = require "fluxgate.draws"
local random, now = gateway.random, gateway.now
local exp, max, min = math.exp, math.max, math.min

-- A loser is drawn in 2 of n picks, so it keeps 2/n of what losers win.
local PROBE_SHARE, LOSERS_MAX = 0.015, 0.1
local FORGET = 10 -- seconds in which a peak falls to 1/e, as latency_ewma does

---@class PeakEwma : Strategy
local PeakEwma = { name = "peak_ewma", api = 1 }
PeakEwma.__index = PeakEwma

function PeakEwma.new(options, service)
    gateway.options(service, options, {})
    return setmetatable({ draws = draws.new(), erred = {}, peaks = {}, stamps = {} }, PeakEwma)
end

function PeakEwma:on_change(backends)
    local erred, peaks, stamps = {}, {}, {} -- id → whether its last answer was a 5xx; its peak, and of when
    for i = 1, #backends do
        local id = backends[i].id
        erred[id], peaks[id], stamps[id] = self.erred[id] or false, self.peaks[id] or 0, self.stamps[id] or 0
    end
    self.erred, self.peaks, self.stamps = erred, peaks, stamps
    self.draws:prepare(backends)
end

-- Hot. `failures` tells of requests without an answer, over all workers; only 5xx are noted here.
function PeakEwma:on_result(request, backend, result)
    local id, latency, time = backend.id, result.latency, now()
    local peak = self.peaks[id]
    if not peak then return end
    self.erred[id] = result.status >= 500
    local weight = exp((self.stamps[id] - time) / FORGET)
    peak = peak * weight
    if latency < peak then latency = peak + latency * (1 - weight) end
    self.peaks[id], self.stamps[id] = latency, time
end

-- A peak forgets on without answers, too: hence no quick failure makes it fall sooner than time does.
local function latency_of(self, backend, time)
    local id = backend.id
    local peak = self.peaks[id]
    if not peak or peak == 0 then return backend.latency_ewma end
    return max(backend.latency_ewma, peak * exp((self.stamps[id] - time) / FORGET))
end

local function is_bad(self, backend)
    return backend.failures > 0 or self.erred[backend.id] == true
end

-- Weights count for the requests it holds; its latency is as it is. Hence equal endpoints at rest cost the
-- same whatever their weights, and the draw, which is by weight, decides.
local function is_cheaper(self, a, b)
    local mean_weight, time = self.draws.mean_weight, now()
    local a_latency, b_latency = latency_of(self, a, time), latency_of(self, b, time)
    if a_latency <= 0 or b_latency <= 0 then a_latency, b_latency = 1, 1 end
    return a_latency * (a.active * mean_weight / a.effective_weight + 1)
        < b_latency * (b.active * mean_weight / b.effective_weight + 1)
end

-- The next one from `at` on that did not fail; the one at `at` where all did.
local function next_good(self, backends, at)
    local count = #backends
    local k = at
    for _ = 2, count do
        k = k < count and k + 1 or 1
        if not is_bad(self, backends[k]) then return backends[k] end
    end
    return backends[at]
end

-- Hot.
function PeakEwma:pick(request, backends)
    local count = #backends
    if count < 2 then return backends[1] end
    local i, j = self.draws:index(backends), random(count - 1)
    if j >= i then j = j + 1 end
    local winner, loser = backends[i], backends[j]
    local is_winner_bad, is_loser_bad = is_bad(self, winner), is_bad(self, loser)
    local swap = is_winner_bad and not is_loser_bad
    if is_winner_bad == is_loser_bad then swap = is_cheaper(self, loser, winner) end
    if swap then winner, loser = loser, winner end
    if random() < min(LOSERS_MAX, count * PROBE_SHARE / 2) then return loser end
    if is_winner_bad and is_loser_bad then return next_good(self, backends, i) end
    return winner
end

return PeakEwma
