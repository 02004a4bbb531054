-- fluxgate/tool/test.lua: `fluxgate test`: runs busted over a user's specs, with the test kit on the path.
-- Arguments: the share directory, then busted's own: files and folders among them. Ends the process with 0
-- where every spec passed, 1 where one failed or none was found.
local share = ...
local given = { select(2, ...) }

local found, runner = pcall(require, "busted.runner")
if not found then
    io.stderr:write("fluxgate test: there is no busted for LuaJIT here. ",
        "On Debian: apt-get install lua-busted\n")
    return 1
end

-- busted ends with success where it found no spec at all, and where a file was missing. A subscriber's second
-- value lets the others hear of the event too.
local function watch(busted)
    local ran, wrong = 0, 0
    busted.subscribe({ "test", "end" }, function() ran = ran + 1 return nil, true end)
    busted.subscribe({ "failure" }, function() wrong = wrong + 1 return nil, true end)
    busted.subscribe({ "error" }, function() wrong = wrong + 1 return nil, true end)
    busted.subscribe({ "exit" }, function()
        if ran == 0 then
            io.stderr:write("fluxgate test: no spec ran. Specs are in files that end in _spec.lua; 'fluxgate "
                .. "new strategy NAME' writes one.\n")
        end
        if ran == 0 or wrong > 0 then
            io.stdout:flush()
            os.exit(1)
        end
        return nil, true
    end)
end

local core = require "busted.core"
package.loaded["busted.core"] = function(...)
    local busted = core(...)
    watch(busted)
    return busted
end

local words = { [0] = "fluxgate test", "--pattern=_spec%.lua$" }
for _, word in ipairs(given) do words[#words + 1] = word end
_G.arg = words
local path = { "./?.lua", "./?/init.lua", share .. "/lua/?.lua" }
package.path = table.concat(path, ";") .. ";" .. package.path
runner { standalone = false }
return 0
