-- fluxgate/dialog.lua: a health policy's function that talks to an endpoint over the probe's socket, as a
-- coroutine: C (core/health/probe_talk.c) does what it asks for and comes back. The test kit is another C.
local dialog = {}

local BYTES_MAX = 65536 -- core/script/script.h: DIALOG_BYTES_MAX
local WANTS = { send = 0, receive = 1, done = 2 } -- enum dialog_want
local SOME, LINE, BYTES = 0, 1, 2 -- enum dialog_receive

local dialogs = {} -- by number
local ASK = {} -- what a yield of ours begins with

---@class Socket
local Socket = {}
Socket.__index = Socket
Socket.__metatable = false

local function ask(socket, op, ...)
    local thread = coroutine.running()
    local mine = thread and dialogs[thread]
    if not mine or mine.socket ~= socket then
        error("the socket of a probe is for its own function, while that runs", 3)
    end
    if mine.is_closed then return nil, "closed" end
    return coroutine.yield(ASK, op, ...)
end

function Socket:send(text)
    if type(text) ~= "string" or #text > BYTES_MAX then
        error("socket:send: expected a string of at most " .. BYTES_MAX .. " bytes", 2)
    end
    if text == "" then return true end
    local _, why = ask(self, "send", text)
    if why then return nil, why end
    return true
end

function Socket:receive(what)
    local kind, bytes = SOME, BYTES_MAX
    if what == "line" then
        kind = LINE
    elseif what ~= nil then
        kind, bytes = BYTES, what
        if type(what) ~= "number" or what < 1 or what > BYTES_MAX or what % 1 ~= 0 then
            error("socket:receive: expected nothing, \"line\", or a number of bytes up to " .. BYTES_MAX, 2)
        end
    end
    local got, why = ask(self, "receive", kind, bytes)
    if why then return nil, why, got end
    return got
end

-- Nothing more is sent or received; what was received already is gone with it.
function Socket:close()
    local mine = dialogs[coroutine.running() or false]
    if mine and mine.socket == self then mine.is_closed = true end
end

function dialog.open(id, run)
    local thread, socket = coroutine.create(run), setmetatable({}, Socket)
    local row = { thread = thread, socket = socket, first = socket }
    dialogs[id], dialogs[thread] = row, row
end

function dialog.close(id)
    local row = dialogs[id]
    if not row then return end
    dialogs[id] = nil
    if row.thread then dialogs[row.thread] = nil end
end

-- What run() returned, for judge(); keep() is for the test kit.
function dialog.keep(id, value) dialogs[id] = { value = value } end

function dialog.value(id)
    local row = dialogs[id]
    return row and row.value
end

-- Goes on with a dialog: answers what it wants (enum dialog_want), and then text; or kind and bytes; or
-- whether all is well and why not. Nothing at all for a dialog that is no more. Raises what the script
-- raises.
function dialog.step(id, got, why)
    local row = dialogs[id]
    if not row then return nil end
    local ok, mark, op, a, b
    if row.first then
        ok, mark, op, a, b = coroutine.resume(row.thread, row.first)
        row.first = nil
    else
        ok, mark, op, a, b = coroutine.resume(row.thread, got, why)
    end
    if not ok then error(mark, 0) end
    if coroutine.status(row.thread) ~= "dead" then
        if mark ~= ASK then error("a probe's function may wait for its socket alone, it yielded", 0) end
        return WANTS[op], a, b
    end
    row.value = mark
    if mark then return WANTS.done, true end
    return WANTS.done, false, op == nil and "its probe says no" or tostring(op)
end

return dialog
