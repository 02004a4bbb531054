local kit = require "fluxgate.testkit"
local rounds = require "fluxgate.rounds"

local function round(weights)
    local rows = {}
    for i, weight in ipairs(weights) do rows[i] = { weight = weight } end
    return rounds.order(kit.backends(rows))
end

describe("a round", function()
    it("is empty without endpoints", function() assert.same({}, round {}) end)
    it("takes equal endpoints once each, in their order", function() assert.same({ 1, 2, 3 }, round { 7, 7, 7 }) end)
    it("is no longer than the weights ask", function() assert.equal(4, #round { 300, 100 }) end)
    it("spreads the turns of the heavy one", function() assert.same({ 1, 1, 2, 1 }, round { 3, 1 }) end)

    it("leaves no endpoint out, however light", function()
        local seen = {}
        for _, i in ipairs(round { 65535, 1, 65535, 1 }) do seen[i] = true end
        assert.same({ true, true, true, true }, seen)
    end)

    it("stays bounded for weights without a common divisor", function() assert.is_true(#round { 65535, 65534, 65533 } <= 4100) end)

    -- Evenly spread: in any window of a round the count of an endpoint is its share of the window, off by less than 2.
    it("has no runs: every window holds each endpoint's share", function()
        local weights, total = { 5, 3, 2, 1 }, 11
        local order = round(weights)
        for from = 1, total do
            local counts = { 0, 0, 0, 0 }
            for length = 1, total do
                local i = order[(from + length - 2) % total + 1]
                counts[i] = counts[i] + 1
                for k, weight in ipairs(weights) do
                    assert.is_true(math.abs(counts[k] - length * weight / total) < 2)
                end
            end
        end
    end)
end)
