-- examples/filters/replace_text.lua: replaces a text in answers of type text/*, chunk by chunk as they
-- stream, also where the text is cut in two by them. Options: from (needed), to (needed).
local ReplaceText = { name = "replace_text", api = 1 }
ReplaceText.__index = ReplaceText

local function some_text(text)
    if text ~= "" then return text end
    return nil, "expected a text"
end

local SCHEMA = {
    from = { type = "string", required = true, check = some_text },
    to = { type = "string", required = true },
}

function ReplaceText.new(options, owner)
    return setmetatable(gateway.options(owner, options, SCHEMA), ReplaceText)
end

-- A body that the endpoint compresses could not be read.
function ReplaceText:on_request(request) request:remove_header("Accept-Encoding") end

-- How many bytes at the end of `text` may be the beginning of `from`.
local function begun(text, from)
    for n = math.min(#from - 1, #text), 1, -1 do
        if text:sub(-n) == from:sub(1, n) then return n end
    end
    return 0
end

function ReplaceText:on_response(request, response)
    local is_text = (response:header("Content-Type") or ""):find("^text/")
    if not is_text or response:header("Content-Encoding") then return end
    local from, to, held = self.from, self.to, ""
    response:on_body(function(chunk, is_last)
        local text, out, at = held .. chunk, {}, 1
        local first, last = text:find(from, at, true)
        while first do
            out[#out + 1], out[#out + 2] = text:sub(at, first - 1), to
            at = last + 1
            first, last = text:find(from, at, true)
        end
        local rest = text:sub(at)
        local keep = is_last and 0 or begun(rest, from)
        held = rest:sub(#rest - keep + 1)
        out[#out + 1] = rest:sub(1, #rest - keep)
        return table.concat(out)
    end)
end

return ReplaceText
