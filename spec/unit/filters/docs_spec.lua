-- docs/filters.md has a section for each shipped filter, which names each of its options.
describe("docs/filters.md", function()
    local sections, current = {}, nil
    for line in io.lines("docs/filters.md") do
        current = line:match("^## (%S+)$") or current
        if current then sections[current] = (sections[current] or "") .. line .. "\n" end
    end

    local list = io.popen("ls strategies/filters")
    for file in list:lines() do
        local name = file:match("^(.+)%.lua$")
        it("names every option of " .. name, function()
            assert.is_not_nil(sections[name])
            local count, inside = 0, false
            for line in io.lines("strategies/filters/" .. file) do
                inside = inside or line:find("^local SCHEMA = {") ~= nil
                for option in (inside and line or ""):gsub("^local SCHEMA = ", ""):gmatch("([%l_]+) = { ?%l") do
                    count = count + 1
                    assert.is_truthy(sections[name]:find("`" .. option .. "`", 1, true), option)
                end
                if inside and line:find("}$") and not line:find("^ ") then break end
            end
            assert.is_true(count > 0)
        end)
    end
    list:close()
end)
