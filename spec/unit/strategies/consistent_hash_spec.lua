local kit = require "fluxgate.testkit"

local KEYS = 4000

local function fleet_of(count)
    local rows = {}
    for i = 1, count do rows[i] = { id = ("b%03d"):format(i) } end
    return kit.backends(rows)
end

local function request(i) return kit.request { headers = { ["X-User"] = "user-" .. i } } end

-- key → id of its endpoint, and id → number of keys
local function placement(strategy, fleet)
    local placed, counts = {}, {}
    for i = 1, KEYS do
        placed[i] = strategy:pick(request(i), fleet).id
        counts[placed[i]] = (counts[placed[i]] or 0) + 1
    end
    return placed, counts
end

describe("consistent_hash", function()
    local by_user = { key = "header:X-User" }
    before_each(function() kit.seed(1) end)

    it("answers nil when no endpoint is eligible", function()
        assert.is_nil(kit.strategy("consistent_hash"):pick(kit.request(), kit.backends {}))
    end)

    it("sends equal keys to one endpoint, in every gateway and whatever the order of joining", function()
        local rows = { { id = "a" }, { id = "b" }, { id = "c" } }
        local here = placement(kit.strategy("consistent_hash", by_user), kit.backends(rows))
        rows[1], rows[3] = rows[3], rows[1]
        local there = kit.strategy("consistent_hash", by_user)
        local fleet = kit.backends(rows)
        kit.set(fleet, "b", { state = "unhealthy" })
        there:pick(request(1), fleet)
        kit.set(fleet, "b", { state = "healthy" })
        assert.same(here, (placement(there, fleet)))
    end)

    -- With v points each a share's standard deviation is 1 / sqrt(v) of it: 9 % of 400 keys for 128, and 5 % of sampling.
    it("spreads keys evenly", function()
        local _, counts = placement(kit.strategy("consistent_hash", by_user), fleet_of(10))
        for id, count in pairs(counts) do assert.is_true(math.abs(count - 400) < 140, id .. ": " .. count) end
    end)

    it("gives weight 3 about three times the keys of weight 1", function()
        local fleet = kit.backends { { id = "a", weight = 3 }, { id = "b" } }
        local _, counts = placement(kit.strategy("consistent_hash", by_user), fleet)
        assert.is_true(math.abs(counts.a - 3000) < 300, counts.a .. " of about 3000")
    end)

    it("moves only the keys of an endpoint that leaves, and moves them back when it returns", function()
        local strategy, fleet = kit.strategy("consistent_hash", by_user), fleet_of(10)
        local before = placement(strategy, fleet)
        kit.set(fleet, "b004", { state = "unhealthy" })
        local without = placement(strategy, fleet)
        for i = 1, KEYS do
            if before[i] == "b004" then assert.not_equal("b004", without[i])
            else assert.equal(before[i], without[i]) end
        end
        kit.set(fleet, "b004", { state = "healthy" })
        assert.same(before, (placement(strategy, fleet)))
    end)

    it("moves keys to an endpoint that joins alone, about its fair share", function()
        local before = placement(kit.strategy("consistent_hash", by_user), fleet_of(10))
        local after = placement(kit.strategy("consistent_hash", by_user), fleet_of(11))
        local moved = 0
        for i = 1, KEYS do
            if before[i] ~= after[i] then
                moved = moved + 1
                assert.equal("b011", after[i])
            end
        end
        assert.is_true(moved > 0 and moved < 2 * KEYS / 11, moved .. " keys moved")
    end)

    -- Mirrokni, Thorup, Zadimoghaddam 2018: nobody holds more than ceil(c × mean).
    it("keeps every endpoint within load_factor of the mean even where all requests have one key", function()
        for _, factor in ipairs { 1, 1.25, 2 } do
            local strategy = kit.strategy("consistent_hash", { key = "header:X-User", load_factor = factor })
            local fleet = fleet_of(10)
            for i = 1, 1000 do
                local backend = kit.begin(strategy:pick(request(7), fleet))
                assert.is_true(backend.active <= math.ceil(factor * i / 10), factor .. ": " .. backend.active .. " of " .. i)
            end
        end
    end)

    it("bounds the load by weight", function()
        local strategy, fleet = kit.strategy("consistent_hash", by_user), kit.backends { { id = "a", weight = 3 }, { id = "b" } }
        for i = 1, 400 do kit.begin(strategy:pick(request(i % 3), fleet)) end
        assert.is_true(fleet.a.active <= 375 and fleet.b.active <= 125)
    end)

    it("returns to the key's own endpoint when that has room again", function()
        local strategy, fleet = kit.strategy("consistent_hash", by_user), fleet_of(10)
        local home, busy = strategy:pick(request(7), fleet), 0
        for _ = 1, 50 do
            if kit.begin(strategy:pick(request(7), fleet)) ~= home then busy = busy + 1 end
        end
        assert.is_true(busy > 0)
        for i = 1, #fleet do
            while fleet[i].active > 0 do kit.finish(fleet[i]) end
        end
        assert.equal(home, strategy:pick(request(7), fleet))
    end)

    it("keeps every request with its key where load_factor is 0", function()
        local strategy, fleet = kit.strategy("consistent_hash", { key = "header:X-User", load_factor = 0 }), fleet_of(10)
        local home = strategy:pick(request(7), fleet)
        for _ = 1, 100 do assert.equal(home, kit.begin(strategy:pick(request(7), fleet))) end
    end)

    it("hashes a cookie, the path and the client's address", function()
        local fleet = fleet_of(10)
        for key, field in pairs { ["cookie:sid"] = "cookies", path = "path", client_ip = "client_ip" } do
            local strategy, seen = kit.strategy("consistent_hash", { key = key }), {}
            for i = 1, 50 do
                local value = field == "cookies" and { sid = "s" .. i } or "/" .. i
                local backend = strategy:pick(kit.request { [field] = value }, fleet)
                assert.equal(backend, strategy:pick(kit.request { [field] = value }, fleet))
                seen[backend.id] = true
            end
            assert.is_truthy(next(seen, next(seen)), key)
        end
    end)

    it("spreads requests without the key by its fallback", function()
        local strategy, fleet, counts = kit.strategy("consistent_hash", by_user), fleet_of(3), {}
        for _ = 1, 300 do
            local id = strategy:pick(kit.request(), fleet).id
            counts[id] = (counts[id] or 0) + 1
        end
        assert.same({ b001 = 100, b002 = 100, b003 = 100 }, counts)
    end)

    -- But for the few keys of which the next point lies in the same arc of the ring.
    it("sends a retry where the key would go if its endpoint were gone", function()
        local strategy, fleet, same = kit.strategy("consistent_hash", by_user), fleet_of(10), 0
        for i = 1, 50 do
            local home = strategy:pick(request(i), fleet)
            local retry = kit.request { headers = { ["X-User"] = "user-" .. i }, tried = { home } }
            local second = kit.pick(strategy, retry, fleet)
            assert.not_equal(home, second)
            kit.set(fleet, home.id, { state = "unhealthy" })
            if second == strategy:pick(request(i), fleet) then same = same + 1 end
            kit.set(fleet, home.id, { state = "healthy" })
        end
        assert.is_true(same >= 45, same .. " of 50")
    end)

    for message, options in pairs {
        ["services.test.options.key: expected client_ip, path, host, query, method, header:NAME, cookie:NAME or query:NAME"] =
            { key = "header:" },
        ["services.test.options.load_factor: expected 1 or more, or 0 for no bound"] = { load_factor = 0.9 },
        ["services.test.options.points: expected at least 1"] = { points = 0 },
    } do
        it("refuses options with: " .. message, function()
            local ok, got = pcall(kit.strategy, "consistent_hash", options)
            assert.same({ false, message }, { ok, got })
        end)
    end
end)
