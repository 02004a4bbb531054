-- spec/support/lua_file.lua: what use(FILE, …) makes of a file of Lua with this text, which is gone afterwards.
local process = require "spec.support.process"

return function(text, use, ...)
    local name = os.tmpname() -- makes the file, too
    local file = name .. ".lua"
    assert(os.rename(name, file))
    process.write_file(file, text)
    local ok, made = pcall(use, file, ...)
    os.remove(file)
    if not ok then error(made, 0) end
    return made
end
