-- docs/reference.lua: writes docs/lua-reference.md from the annotations in lua/meta/, which are the truth
-- about the API. `luajit docs/reference.lua` from the root of the tree writes it; with --check it
-- says whether the page is up to date, by its exit code.
local SOURCES, PAGE = { "lua/meta/fluxgate.lua", "lua/meta/testkit.lua" }, "docs/lua-reference.md"

local function read(path)
    local file = assert(io.open(path, "rb"))
    local text = file:read("*a")
    file:close()
    return text
end

-- "name? type text" of @param and @return: a type may hold blanks only inside brackets or behind ",", ":"
-- and "|".
local function split_type(text)
    local depth, at = 0, 1
    while at <= #text do
        local byte = text:sub(at, at)
        if byte:find("[(<{%[]") then depth = depth + 1 end
        if byte:find("[)>}%]]") then depth = depth - 1 end
        local goes_on = text:sub(1, at - 1):find("[,:|]$") or text:sub(at + 1):find("^|")
        if byte == " " and depth == 0 and not goes_on then break end
        at = at + 1
    end
    return text:sub(1, at - 1), (text:sub(at + 1):gsub("^#?%s*", ""))
end

local function parse(source)
    local classes, order, block = {}, {}, nil
    local class
    local function fresh() block = { text = {}, params = {}, returns = {} } end
    local function class_of(name)
        if not classes[name] then
            classes[name] = { name = name, text = {}, fields = {}, functions = {} }
            order[#order + 1] = classes[name]
        end
        return classes[name]
    end
    fresh()
    for line in source:gmatch("([^\n]*)\n") do
        local tag, rest = line:match("^%-%-%-@(%w+) ?(.*)$")
        local owner, colon, name, arguments = line:match("^function (%w+)([.:])([%w_]+)%((.-)%)")
        if tag == "class" then
            class = class_of(rest:match("^[%w_]+"))
            class.parent, class.text = rest:match(":%s*([%w_]+)"), block.text
            fresh()
        elseif tag == "alias" then
            local alias, meaning = rest:match("^(%S+) (.+)$")
            local made = class_of(alias)
            made.alias, made.text = meaning, block.text
            fresh()
        elseif tag == "field" then
            local field, described = rest:match("^(%S+) (.*)$")
            local kind, text = split_type(described)
            class.fields[#class.fields + 1] = { name = field, kind = kind, text = text }
        elseif tag == "param" then
            local param, described = rest:match("^(%S+) (.*)$")
            local kind, text = split_type(described)
            block.params[#block.params + 1] = { name = param, kind = kind, text = text }
        elseif tag == "return" then
            local kind, text = split_type(rest)
            block.returns[#block.returns + 1] = { kind = kind, text = text }
        elseif owner then
            block.name, block.call = name, owner:lower() .. colon .. name .. "(" .. arguments .. ")"
            local list = class_of(owner).functions
            list[#list + 1] = block
            fresh()
        elseif not tag and line:find("^%-%-%-") then
            block.text[#block.text + 1] = line:sub(4)
        elseif line == "" then
            fresh()
        end
    end
    return order
end

local function cell(text) return (text:gsub("|", "\\|")) end

local function print_function(out, one)
    out("### `", one.call, "`\n\n")
    if #one.text > 0 then out(table.concat(one.text, "\n"), "\n\n") end
    for _, param in ipairs(one.params) do
        out("- `", param.name, "`: `", param.kind, "`", param.text ~= "" and ", " .. param.text or "", "\n")
    end
    for _, result in ipairs(one.returns) do
        local text = result.text ~= "" and " " .. result.text or ""
        out("- returns `", result.kind, "`", text, "\n")
    end
    if #one.params + #one.returns > 0 then out("\n") end
end

local function print_class(out, class)
    out("## ", class.name, "\n\n")
    if #class.text > 0 then out(table.concat(class.text, "\n"), "\n\n") end
    if class.alias then out("`", class.alias, "`\n\n") end
    if class.parent then out("Has all of ", class.parent, ".\n\n") end
    if #class.fields > 0 then
        out("| field | type | |\n| --- | --- | --- |\n")
        for _, field in ipairs(class.fields) do
            out("| `", field.name, "` | `", cell(field.kind), "` | ", cell(field.text), " |\n")
        end
        out("\n")
    end
    for _, one in ipairs(class.functions) do print_function(out, one) end
end

local function page()
    local parts = {}
    local function out(...)
        for i = 1, select("#", ...) do parts[#parts + 1] = (select(i, ...)) end
    end
    out("# The Lua API\n\nMade from the annotations in lua/meta/ by `luajit docs/reference.lua`; not to be ",
        "edited.\n[lua.md](lua.md) tells how to use it. A `?` marks what ",
        "may be nil or left out.\n\n")
    local source = ""
    for _, path in ipairs(SOURCES) do source = source .. read(path) .. "\n" end
    local classes = parse(source)
    for _, class in ipairs(classes) do
        out("- [", class.name, "](#", class.name:lower(), ")\n")
    end
    out("\n")
    for _, class in ipairs(classes) do print_class(out, class) end
    return (table.concat(parts):gsub("\n+$", "\n"))
end

local text = page()
if arg[1] == "--check" then
    local file = io.open(PAGE, "rb")
    local is_same = file ~= nil and file:read("*a") == text
    if file then file:close() end
    if not is_same then
        io.stderr:write(PAGE, " is not what lua/meta/ says: run 'luajit docs/reference.lua'\n")
        os.exit(1)
    end
    os.exit(0)
end
local file = assert(io.open(PAGE, "wb"))
file:write(text)
file:close()
