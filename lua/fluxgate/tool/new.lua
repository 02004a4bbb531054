-- fluxgate/tool/new.lua: `fluxgate new KIND NAME`: writes a plug-in, a spec of it that passes, and what an
-- editor needs, from the files in templates/; prints what to do next. Arguments: the share directory, kind,
-- name, directory. Never writes over a file.
local share, kind, name, dir = ...

local KINDS = { strategy = true, policy = true, filter = true }

local function fail(text, code)
    io.stderr:write("fluxgate new: ", text, "\n")
    return code or 64
end

local function read(path)
    local file, message = io.open(path, "rb")
    if not file then return nil, message end
    local text = file:read("*a")
    file:close()
    return text
end

local function exists(path)
    local file = io.open(path, "rb")
    if file then file:close() end
    return file ~= nil
end

local function write(path, text)
    local file, message = io.open(path, "wb")
    if not file then return nil, message end
    local ok, wrong = file:write(text)
    if ok then ok, wrong = file:close() else file:close() end
    return ok, wrong
end

if not kind or not name then
    return fail("which kind, and what name? 'fluxgate new strategy my_strategy' (or policy, filter)")
end
if not KINDS[kind] then
    return fail(("there is no kind '%s'; it is strategy, policy or filter"):format(kind))
end
if not name:find("^%l[%l%d_]*$") or #name > 64 then
    return fail(("'%s' is no name for a plug-in: small letters, digits and _, a letter first"):format(name))
end

local class = name:gsub("_*(%l)([%l%d]*)", function(first, rest) return first:upper() .. rest end)
    :gsub("_", "")

-- @name@, @Class@ and @path@ (as the YAML names the file) are filled in.
local function filled(template)
    local text, message = read(("%s/lua/fluxgate/tool/templates/%s.in"):format(share, template))
    if not text then return nil, message end
    local values = { name = name, Class = class, path = "./" .. name .. ".lua" }
    return (text:gsub("@(%a+)@", values))
end

local prefix = dir == "." and "" or dir:gsub("/*$", "") .. "/"
local plugin, spec, rc = prefix .. name .. ".lua", prefix .. name .. "_spec.lua", prefix .. ".luarc.json"
for _, path in ipairs { plugin, spec } do
    if exists(path) then return fail(path .. " is there already; nothing was written", 1) end
end

local function put(path, template)
    local text, message = filled(template)
    if not text then return nil, message end
    return write(path, text)
end

for _, step in ipairs { { plugin, kind .. ".lua" }, { spec, kind .. "_spec.lua" } } do
    local ok, message = put(step[1], step[2])
    if not ok then return fail(message, 1) end
    print("wrote " .. step[1])
end
if exists(rc) then
    print("kept  " .. rc .. " (the types are in " .. share .. "/lua/meta)")
else
    local ok, message = write(rc, ([[
{
    "runtime.version": "LuaJIT",
    "workspace.library": ["%s/lua/meta"],
    "diagnostics.globals": ["describe", "it", "before_each", "after_each", "assert"]
}
]]):format(share))
    if not ok then return fail(message, 1) end
    print("wrote " .. rc)
end

local yaml, message = filled(kind .. ".yaml")
if not yaml then return fail(message, 1) end
print(("\nTest it:\n\n    fluxgate test %s\n\nThen add it to your fluxgate.yaml, where ./ is the directory of"
    .. " that file, and reload:\n"):format(spec))
io.write((yaml:gsub("[^\n]+", "    %0")))
return 0
