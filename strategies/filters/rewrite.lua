-- strategies/filters/rewrite.lua: changes path and query, or redirects to where they lead. Rules are tried
-- in order and the first that matches counts. A rule: prefix (whole segments: /a takes /a and /a/b, not
-- /ab) or pattern (a Lua pattern, anchored at both ends by itself; %1-%9 in `to` are its captures), to (a
-- path, which may bear ?query; needed), redirect (301, 302, 303, 307 or 308: the client is sent to `to`,
-- which may then begin with https://HOST too), query (keep, the default, or drop: the client's query when
-- `to` bears none; with both they are joined). The path is the normal form, so no spelling escapes a rule.
-- Options: rules (needed).
---@class Rewrite : Filter
local Rewrite = { name = "rewrite", api = 1 }
Rewrite.__index = Rewrite

local REDIRECTS = { [301] = true, [302] = true, [303] = true, [307] = true, [308] = true }
local KEYS = { prefix = true, pattern = true, to = true, redirect = true, query = true }

local function captures_of(pattern)
    local _, count = pattern:gsub("%%.", ""):gsub("%[.-%]", ""):gsub("%(", "")
    return count
end

local function check_rule(rule)
    if type(rule) ~= "table" then return "expected a mapping" end
    for key in pairs(rule) do
        if not KEYS[key] then return "no such key: " .. tostring(key) end
    end
    if (rule.prefix == nil) == (rule.pattern == nil) then return "expected prefix or pattern" end
    if type(rule.to) ~= "string" then return "expected `to`, a path" end
    local is_url = rule.redirect and (rule.to .. "/"):find("^https?://[%w%.%-:%[%]]+/")
    if rule.to:sub(1, 1) ~= "/" and not is_url then return "to: expected a path that begins with /" end
    if rule.to:sub(1, 2) == "//" then return "to: // would lead to another host" end
    if rule.to:find("[%c ]") then return "to: a blank or a control byte" end
    if rule.redirect and not REDIRECTS[rule.redirect] then
        return "redirect: expected 301, 302, 303, 307 or 308"
    end
    if rule.query and rule.query ~= "keep" and rule.query ~= "drop" then
        return "query: expected keep or drop"
    end
    if rule.prefix then
        local is_path = type(rule.prefix) == "string" and rule.prefix:sub(1, 1) == "/"
        return not is_path and "prefix: expected a path" or nil
    end
    if type(rule.pattern) ~= "string" or not pcall(string.find, "", rule.pattern) then
        return "pattern: no Lua pattern"
    end
    for digit in rule.to:gsub("%%%%", ""):gmatch("%%(.)") do
        local number = tonumber(digit)
        if not number or number > math.max(1, captures_of(rule.pattern)) then
            return "to: %" .. digit .. " is no capture of the pattern"
        end
    end
    return nil
end

local function check_rules(list)
    for i, rule in ipairs(list) do
        local wrong = check_rule(rule)
        if wrong then return nil, "rule " .. i .. ": " .. wrong end
    end
    if #list == 0 then return nil, "expected at least one rule" end
    return list
end

local SCHEMA = { rules = { type = "list", required = true, check = check_rules } }

function Rewrite.new(options, route)
    local rules = {}
    for i, rule in ipairs(gateway.options(route, options, SCHEMA).rules) do
        rules[i] = {
            prefix = rule.prefix and rule.prefix:gsub("/$", ""), to = rule.to, redirect = rule.redirect,
            pattern = rule.pattern and "^" .. rule.pattern:gsub("^%^", ""):gsub("([^%%])%$$", "%1") .. "$",
            drop = rule.query == "drop",
        }
    end
    return setmetatable({ rules = rules }, Rewrite)
end

-- Where the rule leads, or nil where it does not match.
local function target(rule, path)
    if rule.pattern then
        local to, count = path:gsub(rule.pattern, rule.to, 1)
        return count > 0 and to or nil
    end
    local n = #rule.prefix
    if path:sub(1, n) ~= rule.prefix or (#path > n and path:sub(n + 1, n + 1) ~= "/") then return nil end
    local to, query = rule.to:match("^([^?]*)(.*)$")
    local rest = path:sub(n + 1)
    if to:sub(-1) == "/" and rest:sub(1, 1) == "/" then rest = rest:sub(2) end
    return to .. rest .. query
end

function Rewrite:on_request(request)
    for _, rule in ipairs(self.rules) do
        local to = target(rule, request.path)
        if to then
            local path, query = to:match("^([^?]*)%??(.*)$")
            local own = rule.drop and "" or request.query
            if own ~= "" then query = query == "" and own or query .. "&" .. own end
            if not rule.redirect then
                request:set_path(path)
                return request:set_query(query)
            end
            path = path:gsub("^//+", "/") -- a capture that begins with / would name a host
            local location = query == "" and path or path .. "?" .. query
            return request:answer(rule.redirect, "", { Location = location })
        end
    end
end

return Rewrite
