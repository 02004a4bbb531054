-- What the papers say of the algorithms, by simulations of our own: other code than theirs decides what should come out.
-- Seeds are fixed, so nothing flickers; beside a bound stands how seldom a right algorithm passes it by chance.
local kit = require "fluxgate.testkit"
local rounds = require "fluxgate.rounds"

local function fleet_of(count, weights, prefix)
    local rows = {}
    for i = 1, count do rows[i] = { id = (prefix or "b") .. ("%04d"):format(i), weight = weights and weights[i] or 1 } end
    return kit.backends(rows)
end

local function user(name) return kit.request { headers = { ["X-User"] = name } } end
local BY_USER = { key = "header:X-User" }

-- The value that Pearson's statistic passes once in 10^7, by Wilson and Hilferty (PNAS 17(12), 1931).
local function chi_square_bound(freedom)
    return freedom * (1 - 2 / (9 * freedom) + 5.2 * math.sqrt(2 / (9 * freedom))) ^ 3
end

local function chi_square(counts, expected)
    local sum = 0
    for key, mean in pairs(expected) do sum = sum + ((counts[key] or 0) - mean) ^ 2 / mean end
    return sum
end

describe("weighted_random", function()
    it("draws by weight, and each draw whatever the one before was", function()
        local weights, picks = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 }, 200000
        local single, double = {}, {}
        for i = 1, 10 do
            single[i] = picks * weights[i] / 55
            for j = 1, 10 do double[i * 100 + j] = (picks - 1) * weights[i] * weights[j] / 55 ^ 2 end
        end
        for seed = 1, 3 do
            kit.seed(seed)
            local strategy, fleet, request = kit.strategy("weighted_random"), fleet_of(10, weights), kit.request()
            local counts, pairs_of, last = {}, {}, nil
            for _ = 1, picks do
                local i = tonumber(strategy:pick(request, fleet).id:sub(2))
                counts[i] = (counts[i] or 0) + 1
                if last then pairs_of[last * 100 + i] = (pairs_of[last * 100 + i] or 0) + 1 end
                last = i
            end
            assert.is_true(chi_square(counts, single) < chi_square_bound(9))
            assert.is_true(chi_square(pairs_of, double) < chi_square_bound(99))
        end
    end)
end)

-- nginx's smooth weighted round robin (ngx_http_upstream_round_robin.c, commit 52327e0): one round as indexes.
local function nginx_round(weights)
    local current, order, total = {}, {}, 0
    for i, weight in ipairs(weights) do current[i], total = 0, total + weight end
    for turn = 1, total do
        local best
        for i, weight in ipairs(weights) do
            current[i] = current[i] + weight
            if not best or current[i] > current[best] then best = i end
        end
        current[best] = current[best] - total
        order[turn] = best
    end
    return order
end

-- The longest run of one endpoint, and the longest wait for a turn in fair distances; over the round's end.
local function smoothness(order, weights)
    local size, run, longest, wait, last = #order, 0, 0, 0, {}
    for k = 1, 2 * size do
        local i = order[(k - 1) % size + 1]
        run = k > 1 and i == order[(k - 2) % size + 1] and run + 1 or 1
        longest = math.max(longest, run)
        if last[i] then wait = math.max(wait, (k - last[i]) * weights[i] / size) end
        last[i] = k
    end
    return longest, wait
end

describe("round_robin", function()
    it("is exact over a round and as smooth as nginx", function()
        local ours, theirs = { run = 0, wait = 0 }, { run = 0, wait = 0 }
        kit.seed(1)
        local random = kit.gateway.random
        for _ = 1, 300 do
            local weights, rows = {}, {}
            for i = 1, 1 + random(7) do
                weights[i] = random(12)
                rows[i] = { id = "b" .. i, weight = weights[i] }
            end
            local expected, strategy, fleet, order, counts = nginx_round(weights), kit.strategy("round_robin"), kit.backends(rows), {}, {}
            for k = 1, #expected do
                order[k] = tonumber(strategy:pick(kit.request(), fleet).id:sub(2))
                counts[order[k]] = (counts[order[k]] or 0) + 1
            end
            assert.same(weights, counts)
            local run, wait = smoothness(order, weights)
            assert.is_true(wait < 2.5, "a turn was waited for " .. wait .. " times as long as is fair")
            ours.run, ours.wait = ours.run + run, ours.wait + wait
            run, wait = smoothness(expected, weights)
            theirs.run, theirs.wait = theirs.run + run, theirs.wait + wait
            kit.seed(#expected + ours.run)
        end
        assert.is_true(ours.run <= theirs.run, ours.run .. " against " .. theirs.run)
        assert.is_true(ours.wait <= theirs.wait * 1.05, ours.wait .. " against " .. theirs.wait)
    end)

    it("does not bring light endpoints of one weight in one heap", function()
        assert.same({ 1, 2, 1, 1, 1, 3, 1 }, rounds.order { { effective_weight = 5 }, { effective_weight = 1 }, { effective_weight = 1 } })
    end)
end)

-- Mitzenmacher 2001, theorem 1: of n balls in n bins the fullest holds ln ln n / ln 2 + O(1), here 2.8 and a bit; one
-- choice gives ln n / ln ln n (1 + o(1)), 5.5 for 1,000 bins (Raab and Steger, RANDOM 1998), and for m >> n balls
-- m/n + sqrt(2 m/n ln n), against m/n + ln ln n / ln 2 + O(1) (Berenbrink et al., STOC 2000).
describe("power_of_two", function()
    local function fullest(name, seed, balls)
        kit.seed(seed)
        local strategy, fleet, request, most = kit.strategy(name), fleet_of(1000), kit.request(), 0
        for _ = 1, balls do kit.begin(strategy:pick(request, fleet)) end
        for i = 1, #fleet do most = math.max(most, fleet[i].active) end
        return most
    end

    it("has a fullest endpoint of 3 or 4 where one choice has 5 and more", function()
        local single = 0
        for seed = 1, 15 do
            local most = fullest("power_of_two", seed, 1000)
            assert.is_true(most >= 2 and most <= 4, seed .. ": " .. most) -- 5: n × (the chance of two 4s) ~ 10^-7
            single = single + fullest("weighted_random", seed, 1000)
        end
        assert.is_true(single / 15 >= 5, single / 15 .. " on average")
    end)

    it("has a gap to the mean that does not grow with the load", function()
        assert.is_true(fullest("power_of_two", 1, 50000) - 50 <= 5)
        assert.is_true(fullest("weighted_random", 1, 50000) - 50 >= 15) -- sqrt(2 × 50 × ln 1000) = 26
    end)
end)

describe("least_connections", function()
    -- Of exact counts nobody is ever further ahead than one request: active + 1 <= ceil(fair share + 1) as it is placed.
    it("places each request where it weighs least, however requests come and go", function()
        for seed = 1, 5 do
            kit.seed(seed)
            local weights, random = { 1, 2, 3, 5, 8 }, kit.gateway.random
            local strategy, fleet, held, request = kit.strategy("least_connections"), fleet_of(5, weights), {}, kit.request()
            for _ = 1, 3000 do
                if #held == 0 or random() < 0.55 then
                    local least = math.huge
                    for i = 1, 5 do least = math.min(least, fleet[i].active / fleet[i].weight) end
                    local backend = strategy:pick(request, fleet)
                    assert.equal(least, backend.active / backend.weight)
                    held[#held + 1] = kit.begin(backend)
                else
                    kit.finish(table.remove(held, random(#held)))
                end
            end
        end
    end)
end)

-- Mirrokni, Thorup and Zadimoghaddam 2018: no endpoint above ceil((1 + epsilon) m share), m with the request placed.
describe("consistent_hash", function()
    it("never loads an endpoint above the bound, however requests come and go", function()
        for seed = 1, 4 do
            kit.seed(seed)
            local random, count, weights, total, full = kit.gateway.random, 12 + 12 * seed, {}, 0, 0
            for i = 1, count do
                weights[i] = 1 + (i * seed) % 3
                total = total + weights[i]
            end
            local factor = 1 + 0.25 * seed
            local strategy = kit.strategy("consistent_hash", { key = "header:X-User", load_factor = factor })
            local fleet, held = fleet_of(count, weights), {}
            for _ = 1, 2500 do
                if #held == 0 or random() < 0.6 then -- keys by Zipf's law: a few are hot
                    local backend = kit.begin(strategy:pick(user("u" .. math.floor(1 / (random() + 1e-3))), fleet))
                    held[#held + 1] = backend
                    local bound = math.ceil(factor * #held * backend.weight / total - 1e-9)
                    assert.is_true(backend.active <= bound, backend.active .. " above " .. bound)
                    if backend.active == bound then full = full + 1 end
                else
                    kit.finish(table.remove(held, random(#held)))
                end
            end
            assert.is_true(full > 50) -- the bound was met, not merely never reached
        end
    end)

    -- Karger et al. 1997: of v points each, a share deviates by 1 / sqrt(v) of itself, and 1/n of the keys move.
    it("has shares that deviate as its points say, and moves exactly the share of who leaves", function()
        for _, points in ipairs { 32, 128 } do
            local squares, rings, count = 0, 12, 20
            for ring = 1, rings do
                local strategy, fleet = kit.strategy("consistent_hash", { points = points }), fleet_of(count, nil, "r" .. ring .. "-")
                local function owners()
                    strategy:pick(kit.request(), fleet)
                    local list = {}
                    for arc, run in ipairs(strategy.ring) do list[arc] = fleet[strategy.owners[run]].id end
                    return list
                end
                local before, held = owners(), {}
                for _, id in ipairs(before) do held[id] = (held[id] or 0) + 1 end
                for i = 1, count do squares = squares + (held[fleet[i].id] * count / #before - 1) ^ 2 end
                local gone = fleet[ring].id
                kit.set(fleet, gone, { state = "unhealthy" })
                local wrong = 0
                for arc, id in ipairs(owners()) do
                    if (before[arc] == gone) == (before[arc] == id) then wrong = wrong + 1 end
                end
                assert.equal(0, wrong)
            end
            -- 240 shares: the deviation's own deviation is 1 / sqrt(2 × 240) of it, five of those are 23 %
            local deviation = math.sqrt(squares / (rings * count))
            assert.is_true(math.abs(deviation * math.sqrt(points) - 1) < 0.23, points .. " points: " .. deviation)
        end
    end)
end)

-- NSDI 2016, pseudocode 1, as it is printed; only the two hashes of a name are ours.
local function maglev_table(ids, size)
    local offset, skip, next_of, entry = {}, {}, {}, {}
    for i, id in ipairs(ids) do
        local a, b = kit.gateway.hex(kit.gateway.sha256(id)):match("^(%x%x%x%x%x%x%x%x)(%x%x%x%x%x%x%x%x)")
        a, b = tonumber(a, 16), tonumber(b, 16)
        offset[i], skip[i], next_of[i] = a % size, b % (size - 1) + 1, 0
    end
    local filled = 0
    while true do
        for i = 1, #ids do
            local c
            repeat
                c = (offset[i] + next_of[i] * skip[i]) % size
                next_of[i] = next_of[i] + 1
            until entry[c] == nil
            entry[c], filled = ids[i], filled + 1
            if filled == size then return entry end
        end
    end
end

describe("maglev", function()
    it("fills the table of the paper, whoever joined and left before", function()
        for _, size in ipairs { 101, 65537 } do
            local fleet, strategy = fleet_of(40), kit.strategy("maglev", { key = "header:X-User", table_size = size })
            kit.set(fleet, "b0007", { state = "unhealthy" })
            strategy:pick(kit.request(), fleet)
            kit.set(fleet, "b0007", { state = "healthy" })
            kit.set(fleet, "b0011", { state = "gone" })
            strategy:pick(kit.request(), fleet)
            local ids = {}
            for i = 1, #fleet do ids[i] = fleet[i].id end
            local want, wrong = maglev_table(ids, size), 0
            for i = 1, size do
                if want[i - 1] ~= fleet[strategy.entries[i]].id then wrong = wrong + 1 end
            end
            assert.equal(0, wrong)
        end
    end)

    -- Figure 11 of the paper: with 65,537 entries some per cent of the others' change hands as one of many leaves.
    it("moves at most 2 % of the others' entries when one leaves", function()
        for _, count in ipairs { 10, 100, 500 } do
            local strategy, fleet, before, moved = kit.strategy("maglev"), fleet_of(count), {}, 0
            strategy:pick(kit.request(), fleet)
            for i, index in ipairs(strategy.entries) do before[i] = fleet[index].id end
            local gone = fleet[count / 2].id
            kit.set(fleet, gone, { state = "unhealthy" })
            strategy:pick(kit.request(), fleet)
            for i, index in ipairs(strategy.entries) do
                if before[i] ~= gone and before[i] ~= fleet[index].id then moved = moved + 1 end
            end
            assert.is_true(moved / 65537 <= 0.02, count .. ": " .. moved)
        end
    end)
end)

-- com.twitter.finagle.loadbalancer.PeakEwma: `if (rtt > cost) cost = rtt else cost = cost * w + rtt * (1 - w)`.
describe("peak_ewma", function()
    local strategy, fleet
    before_each(function()
        kit.seed(1)
        strategy = kit.strategy("peak_ewma")
        fleet = kit.backends { { id = "a", latency_ewma = 0.01 }, { id = "b", latency_ewma = 0.1 } }
        strategy:pick(kit.request(), fleet)
    end)

    local function answer(id, latency, failure)
        strategy:on_result(kit.request(), fleet[id], kit.result { latency = latency, failure = failure })
    end

    local function share_of_a()
        local count = 0
        for _ = 1, 2000 do
            if strategy:pick(kit.request(), fleet).id == "a" then count = count + 1 end
        end
        return count / 2000
    end

    -- A probe share of 1.5 % of 2,000: 30, and never 0 or 90 (Poisson: 10^-13 and 10^-18).
    local function is_probed(share) return share > 0 and share < 0.045 end

    it("rises to a slow answer at once", function()
        assert.is_true(is_probed(1 - share_of_a()))
        answer("a", 1)
        assert.is_true(is_probed(share_of_a()))
    end)

    it("rises from what it was, too", function()
        answer("a", 0.05)
        assert.is_true(is_probed(1 - share_of_a()))
        kit.advance(0.1)
        answer("a", 0.12)
        assert.is_true(is_probed(share_of_a()))
    end)

    it("forgets it as e^-(t / 10 s): 1 s is 0.1 s after 23.03 s", function()
        answer("a", 1)
        kit.advance(22.9)
        assert.is_true(is_probed(share_of_a()))
        kit.advance(0.2)
        assert.is_true(is_probed(1 - share_of_a()))
    end)

    it("falls by quick answers as an average of 10 s does", function()
        answer("a", 1)
        local cost = 1
        for step = 1, 1000 do
            kit.advance(0.1)
            answer("a", 0.01)
            cost = cost * math.exp(-0.01) + 0.01 * (1 - math.exp(-0.01))
            if math.abs(cost - 0.1) > 0.001 and (step % 50 == 0) then
                local share = share_of_a()
                assert.is_true(is_probed(cost > 0.1 and share or 1 - share), step .. ": " .. share)
            end
        end
    end)

    it("takes no failure for a quick answer, but a slow one for a peak", function()
        answer("a", 1)
        kit.advance(10)
        for _ = 1, 100 do
            kit.advance(0.01)
            answer("a", 0.001, "connect_refused")
        end
        assert.is_true(is_probed(share_of_a()))
        fleet = kit.backends { { id = "a", latency_ewma = 0.01 }, { id = "b", latency_ewma = 0.1 } }
        strategy = kit.strategy("peak_ewma")
        strategy:pick(kit.request(), fleet)
        answer("a", 2, "response_timeout")
        assert.is_true(is_probed(share_of_a()))
    end)

    it("keeps a peak when others join and leave, and no peak of who has gone", function()
        answer("a", 1)
        kit.set(fleet, "b", { weight = 2 })
        assert.is_true(is_probed(share_of_a()))
        kit.set(fleet, "a", { state = "unhealthy" })
        strategy:pick(kit.request(), fleet)
        kit.set(fleet, "a", { state = "healthy" })
        assert.is_true(is_probed(1 - share_of_a()))
    end)
end)

-- Envoy's outlier detection: a success rate below mean - factor × deviation (of the population) ejects.
describe("health policy passive", function()
    it("ejects exactly who lies below mean - 1.9 deviations", function()
        kit.seed(1)
        local random, beyond = kit.gateway.random, 0
        for fleet_number = 1, 60 do
            local count, rows, rates, sum = 8 + random(8), {}, {}, 0
            local fleet = fleet_of(count)
            for i = 1, count do
                local requests = 100 + random(400)
                local errors = math.floor(requests * random() * (random(5) == 1 and 0.5 or 0.1))
                rows[fleet[i].id], rates[i] = { requests = requests, errors = errors }, 1 - errors / requests
                sum = sum + rates[i]
            end
            local mean, squares, want = sum / count, 0, {}
            for i = 1, count do squares = squares + (rates[i] - mean) ^ 2 end
            local least = mean - 1.9 * math.sqrt(squares / count)
            for i = 1, count do
                if rates[i] < least then want[#want + 1] = fleet[i].id end
            end
            local done, ejected = kit.observe(kit.policy("passive"), fleet, rows), {}
            for id in pairs(done) do ejected[#ejected + 1] = id end
            table.sort(ejected)
            assert.same(want, ejected, "fleet " .. fleet_number)
            beyond = beyond + #want
        end
        assert.is_true(beyond >= 20)
    end)

    -- Kolmogorov and Smirnov: of 2,000 even draws the largest distance passes 2.8 / sqrt(2000) once in 3 × 10^6.
    it("spreads the length of an ejection evenly over ± 10 %", function()
        kit.seed(1)
        local policy, spans = kit.policy("passive"), {}
        for i = 1, 2000 do
            local fleet = kit.backends { { id = "a" }, { id = "b" } }
            spans[i] = kit.observe(policy, fleet, { a = { failures_in_row = 5 } }).a.seconds
        end
        table.sort(spans)
        assert.is_true(spans[1] >= 9 and spans[2000] <= 11)
        local distance = 0
        for i, span in ipairs(spans) do distance = math.max(distance, math.abs((span - 9) / 2 - (i - 0.5) / 2000)) end
        assert.is_true(distance < 2.8 / math.sqrt(2000), "distance " .. distance)
    end)
end)

-- Envoy's docs, "Priority levels", with its factor of 1.4: the healthy share of each priority → the load of each.
describe("priority_failover with overprovisioning", function()
    local function shares(healthy, picks)
        local rows = {}
        for priority, percent in ipairs(healthy) do
            for i = 1, 100 do
                local state = i <= percent and "healthy" or "unhealthy"
                rows[#rows + 1] = { id = ("p%d-%03d"):format(priority, i), state = state, metadata = { priority = priority - 1 } }
            end
        end
        kit.seed(1)
        local strategy, fleet, counts = kit.strategy("priority_failover", { overprovisioning = 1.4 }), kit.backends(rows), {}
        for priority = 1, #healthy do counts[priority] = 0 end
        for _ = 1, picks do
            local priority = tonumber(strategy:pick(kit.request(), fleet).id:match("^p(%d)"))
            counts[priority] = counts[priority] + 1
        end
        return counts
    end

    for _, row in ipairs {
        { { 100, 100 }, { 100, 0 } }, { { 72, 100 }, { 100, 0 } }, { { 71, 100 }, { 99.4, 0.6 } },
        { { 50, 100 }, { 70, 30 } }, { { 25, 100 }, { 35, 65 } }, { { 0, 100 }, { 0, 100 } },
        { { 25, 25 }, { 50, 50 } }, { { 5, 0 }, { 100, 0 } },
        { { 20, 20, 10 }, { 40, 40, 20 } }, { { 50, 10, 100 }, { 70, 14, 16 } },
    } do
        it("divides as Envoy's table says: " .. table.concat(row[1], ", "), function()
            local picks, expected = 10000, {}
            local counts = shares(row[1], picks)
            for priority, percent in ipairs(row[2]) do
                if percent == 0 then assert.equal(0, counts[priority]) else expected[priority] = picks * percent / 100 end
            end
            assert.is_true(chi_square(counts, expected) < chi_square_bound(#row[2] - 1), table.concat(counts, ", "))
        end)
    end

    it("gives a retry its level's others, else the first level that has anybody", function()
        kit.seed(1)
        local strategy = kit.strategy("priority_failover", { overprovisioning = 1.4 })
        local fleet = kit.backends { { id = "a" }, { id = "b" }, { id = "c", metadata = { priority = 1 } } }
        strategy:pick(kit.request(), fleet)
        for _ = 1, 50 do assert.equal("b", kit.pick(strategy, kit.request { tried = { fleet.a } }, fleet).id) end
        assert.equal("c", kit.pick(strategy, kit.request { tried = { fleet.a, fleet.b } }, fleet).id)
        assert.is_nil(strategy:pick(kit.request(), kit.backends {}))
    end)
end)

-- Envoy's zone aware routing: a zone whose share of the endpoints is u < 1/Z keeps u Z of its requests; the others go
-- to the zones with more, in proportion to u - 1/Z. With a gateway in each zone every endpoint then gets the same.
describe("zone_aware with spill", function()
    local function picks_of(zone, sizes, picks, seed)
        local rows = {}
        for i, size in ipairs(sizes) do
            for k = 1, size do rows[#rows + 1] = { id = i .. "-" .. k, zone = "z" .. i } end
        end
        kit.seed(seed)
        local strategy = kit.strategy("zone_aware", { zone = "z" .. zone, spill = true, strategy = "weighted_random" })
        local fleet, by_zone, by_id = kit.backends(rows), {}, {}
        for _ = 1, picks do
            local backend = strategy:pick(kit.request(), fleet)
            by_zone[backend.zone], by_id[backend.id] = (by_zone[backend.zone] or 0) + 1, (by_id[backend.id] or 0) + 1
        end
        return by_zone, by_id
    end

    it("keeps a small zone's share and sends the rest where there is more", function()
        local sizes = { 2, 10, 3, 9 } -- of 24: even is 6
        assert.is_true(chi_square(picks_of(2, sizes, 10000, 1), { z2 = 10000 }) == 0)
        local by_zone = picks_of(1, sizes, 20000, 2) -- keeps 2/6; 4 and 3 of 7 go to the second and the fourth
        local expected = { z1 = 20000 / 3, z2 = 20000 * 2 / 3 * 4 / 7, z4 = 20000 * 2 / 3 * 3 / 7 }
        assert.is_nil(by_zone.z3)
        assert.is_true(chi_square(by_zone, expected) < chi_square_bound(2))
    end)

    it("lets all endpoints bear alike where each zone has a gateway", function()
        local sizes, sum, expected = { 1, 2, 3, 6 }, {}, {}
        for zone = 1, 4 do
            local _, by_id = picks_of(zone, sizes, 12000, zone)
            for id, count in pairs(by_id) do sum[id] = (sum[id] or 0) + count end
        end
        for id in pairs(sum) do expected[id] = 4000 end
        assert.is_true(chi_square(sum, expected) < chi_square_bound(11)) -- fewer dice than 48,000 draws: less, if anything
    end)

    it("sends nothing away below min_local but to all alike, and nothing without spill", function()
        kit.seed(1)
        local rows = { { id = "a", zone = "z1" }, { id = "b", zone = "z2" }, { id = "c", zone = "z2" }, { id = "d", zone = "z2" } }
        local plain, fleet = kit.strategy("zone_aware", { zone = "z1" }), kit.backends(rows)
        for _ = 1, 100 do assert.equal("a", plain:pick(kit.request(), fleet).id) end
        local spilling = kit.strategy("zone_aware", { zone = "z1", spill = true, min_local = 2 })
        local counts = { a = 0, b = 0, c = 0, d = 0 }
        for _ = 1, 100 do
            local id = kit.begin(spilling:pick(kit.request(), fleet)).id
            counts[id] = counts[id] + 1
        end
        assert.same({ a = 25, b = 25, c = 25, d = 25 }, counts)
    end)
end)

describe("strategies that go by a key", function()
    for _, name in ipairs { "consistent_hash", "maglev" } do
        it("agree in gateways with other pasts: " .. name, function()
            kit.seed(1)
            local random = kit.gateway.random
            local old, new = kit.strategy(name, BY_USER), kit.strategy(name, BY_USER)
            local fleet = fleet_of(24, { 3, 1, 2 })
            for _ = 1, 20 do -- they come and go while the old one watches
                kit.set(fleet, ("b%04d"):format(random(24)), { state = random(3) > 1 and "healthy" or "unhealthy", weight = random(3) })
                old:pick(user("x"), fleet)
            end
            local rows = {}
            for i = 1, #fleet do rows[#fleet + 1 - i] = { id = fleet[i].id, weight = fleet[i].weight } end
            local fresh = kit.backends(rows)
            for i = 1, 500 do
                assert.equal(old:pick(user("u" .. i), fleet).id, new:pick(user("u" .. i), fresh).id)
            end
        end)
    end
end)
