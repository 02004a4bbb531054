-- Every Lua snippet of docs/lua.md is a file; the specs among them are run as the page says.
local function snippets(path)
    local files, name, lines = {}, nil, nil
    for line in io.lines(path) do
        if name and line == "```" then
            files[#files + 1] = { name = name, source = table.concat(lines, "\n") .. "\n" }
            name = nil
        elseif name then
            lines[#lines + 1] = line
        elseif line:match("^```lua") then
            name, lines = line:match("file=(%S+)") or error(path .. ": a snippet without file="), {}
        end
    end
    return files
end

describe("docs/lua.md", function()
    local dir = os.tmpname()
    local here = io.popen("pwd"):read("*l")
    local files = snippets("docs/lua.md")

    setup(function()
        os.remove(dir)
        os.execute("mkdir " .. dir)
        for _, file in ipairs(files) do
            local out = assert(io.open(dir .. "/" .. file.name, "w"))
            out:write(file.source)
            out:close()
        end
    end)

    teardown(function()
        for _, file in ipairs(files) do os.remove(dir .. "/" .. file.name) end
        os.remove(dir)
    end)

    it("has snippets", function() assert.is_true(#files >= 4) end)

    for _, file in ipairs(files) do
        if file.name:find("_spec%.lua$") then
            it("passes its own " .. file.name, function()
                local command = ("cd %s && luajit /usr/bin/busted --output=plainTerminal --lpath='%s/lua/?.lua' %s 2>&1")
                local run = io.popen(command:format(dir, here, file.name))
                local output = run:read("*a")
                run:close()
                assert.is_truthy(output:find(" 0 failures / 0 errors", 1, true), output)
                assert.is_falsy(output:find("^0 successes"), output)
            end)
        else
            it("has a " .. file.name .. " that loads", function() assert.is_truthy(loadfile(dir .. "/" .. file.name)) end)
        end
    end
end)

describe("docs/lua-reference.md", function()
    it("is what the annotations say", function()
        local run = io.popen("luajit docs/reference.lua --check 2>&1; echo $?")
        local output = run:read("*a")
        run:close()
        assert.equal("0\n", output)
    end)

    it("has a heading for each class and function of the annotations", function()
        local page = assert(io.open("docs/lua-reference.md")):read("*a")
        for _, path in ipairs { "lua/meta/fluxgate.lua", "lua/meta/testkit.lua" } do
            for line in io.lines(path) do
                local class = line:match("^%-%-%-@class ([%w_]+)")
                if class then assert.truthy(page:find("\n## " .. class .. "\n", 1, true), class) end
                local owner, call = line:match("^function (%w+)([.:][%w_]+%(.-%))")
                if owner then assert.truthy(page:find("\n### `" .. owner:lower() .. call .. "`", 1, true), line) end
            end
        end
    end)
end)
