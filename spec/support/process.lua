-- Child processes for integration specs: each in a process group of its own, its output in one log file,
-- killed with the suite, and never waited for without a limit.
local ffi = require "ffi"
local fcntl = require "posix.fcntl"
local posix_signal = require "posix.signal"
local socket = require "socket"
local stdlib = require "posix.stdlib"
local unistd = require "posix.unistd"
local wait = require "posix.sys.wait"

ffi.cdef [[ int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d); ]]
local PR_SET_PDEATHSIG = 1

local process = { live = {} }

local names = {}
for name, number in pairs(posix_signal) do
    if name:match("^SIG%u+%d?$") then names[name:sub(4)] = number end
end

function process.signal_number(signal)
    if type(signal) == "number" then return signal end
    local number = names[signal:gsub("^SIG", "")]
    if not number then error("no such signal: " .. tostring(signal), 3) end
    return number
end

function process.read_file(path)
    local file = io.open(path, "rb")
    if not file then return "" end
    local text = file:read("*a")
    file:close()
    return text
end

function process.write_file(path, text)
    local file = assert(io.open(path, "wb"))
    assert(file:write(text))
    assert(file:close())
end

-- One line of logfmt as a table; quotes are taken off, \xNN is left as it is.
function process.fields(line)
    local fields, at = {}, 1
    while true do
        local first, last, name = line:find("([%w_%.]+)=", at)
        if not first then return fields end
        local value
        if line:sub(last + 1, last + 1) == '"' then
            value, at = line:match('^"([^"]*)"()', last + 1)
            if not value then return fields end
        else
            value, at = line:match("^(%S*)()", last + 1)
        end
        fields[name] = value
    end
end

-- Calls fn until it returns something true, more slowly as time goes by. Returns that value, or nil and the
-- last one.
function process.poll(limit_s, fn)
    local deadline, pause = socket.gettime() + limit_s, 0.001
    while true do
        local value, detail = fn()
        if value then return value, detail end
        if socket.gettime() > deadline then return nil, detail == nil and value or detail end
        socket.sleep(pause)
        pause = math.min(pause * 1.3, 0.025)
    end
end

---@class Process
local Process = {}
Process.__index = Process
process.Process = Process

local function exec(spec, log_path)
    ffi.C.prctl(PR_SET_PDEATHSIG, process.signal_number("KILL"), 0, 0, 0)
    unistd.setpid("p", 0, 0)
    if spec.cwd then unistd.chdir(spec.cwd) end
    for name, value in pairs(spec.env or {}) do stdlib.setenv(name, value and tostring(value) or nil) end
    local log = fcntl.open(log_path, fcntl.O_WRONLY + fcntl.O_CREAT + fcntl.O_APPEND, 420)
    local null = fcntl.open("/dev/null", fcntl.O_RDONLY)
    unistd.dup2(null, 0)
    unistd.dup2(log, 1)
    unistd.dup2(log, 2)
    -- Descriptors of the suite (sockets of specs) must not live on in a child.
    for fd = 3, 255 do unistd.close(fd) end
    local rest = {}
    for i = 2, #spec.argv do rest[i - 1] = tostring(spec.argv[i]) end
    local _, why = unistd.execp(spec.argv[1], rest)
    unistd.write(2, "exec of " .. spec.argv[1] .. ": " .. tostring(why) .. "\n")
    unistd._exit(127)
end

-- spec: name, argv, dir (for the log), env (false unsets), cwd.
function process.start(spec)
    local self = setmetatable({
        name = spec.name, argv = spec.argv, log_path = spec.dir .. "/" .. spec.name .. ".log", expected = {},
    }, Process)
    io.stdout:flush()
    local pid = assert(unistd.fork())
    if pid == 0 then exec(spec, self.log_path) end
    self.pid = pid
    process.live[#process.live + 1] = self
    return self
end

function Process:log() return process.read_file(self.log_path) end

function Process:log_tail(lines)
    local all = {}
    for line in self:log():gmatch("[^\n]+") do all[#all + 1] = line end
    return table.concat(all, "\n", math.max(1, #all - (lines or 25) + 1))
end

-- Every event of that name so far, as tables of fields, oldest first.
function Process:events(event)
    local found = {}
    for line in self:log():gmatch("[^\n]+") do
        if line:find('event="' .. event .. '"', 1, true) then
            local fields = process.fields(line)
            fields.line = line
            found[#found + 1] = fields
        end
    end
    return found
end

-- Reaps without waiting. True while the process lives.
function Process:is_running()
    if self.status then return false end
    local pid, how, status = wait.wait(self.pid, wait.WNOHANG)
    if pid == self.pid and how ~= "running" then self.how, self.status = how, status end
    if pid == nil then self.how, self.status = "lost", -1 end
    return self.status == nil
end

function Process:signal(signal) return posix_signal.kill(self.pid, process.signal_number(signal)) end

-- Ends any process of this one's tree by a signal, which the guard of finish() then does not count against
-- it.
function Process:kill(pid, signal)
    self.expected[pid or self.pid] = true
    return posix_signal.kill(pid or self.pid, process.signal_number(signal or "KILL"))
end

-- Waits for the end: exit code, or 128 + the signal. nil where it lives on.
function Process:wait(limit_s)
    if not process.poll(limit_s or 30, function() return not self:is_running() end) then return nil end
    return self.how == "killed" and 128 + self.status or self.status
end

function Process:stop(limit_s)
    if self:is_running() then
        -- One that a spec has stopped could not end. In this order: a SIGCONT after SIGTERM may meet LeakSanitizer, which
        -- stops the threads at exit, and leave it waiting for ever.
        self:signal("CONT")
        self:signal("TERM")
    end
    local code = self:wait(limit_s or 60)
    if code == nil then
        self.stuck = true
        self:kill(self.pid, "KILL")
        self:wait(5)
    end
    return code
end

-- Pids of its group that still live; zombies, which wait for a distant parent, do not count.
function Process:survivors()
    local found = {}
    local ps = io.popen("ps -e -o pid=,pgid=,stat=")
    for line in ps:lines() do
        local pid, group, state = line:match("^%s*(%d+)%s+(%d+)%s+(%S)")
        if tonumber(group) == self.pid and state ~= "Z" and tonumber(pid) ~= self.pid then
            found[#found + 1] = tonumber(pid)
        end
    end
    ps:close()
    return found
end

local SANITIZERS = {
    "ERROR: AddressSanitizer", "ERROR: LeakSanitizer", "runtime error:", "WARNING: ThreadSanitizer",
    "Assertion `",
}

-- What is wrong with an ended process, as sentences: the guard that each spec ends with.
function Process:complaints()
    local bad = {}
    local function say(...) bad[#bad + 1] = self.name .. ": " .. string.format(...) end
    if self.stuck then say("did not end within its limit after SIGTERM") end
    if self.how == "killed" and not self.expected[self.pid] then say("died of signal %d", self.status) end
    local log = self:log()
    for _, mark in ipairs(SANITIZERS) do
        local at = log:find(mark, 1, true)
        if at then say("%s", log:sub(at, at + 1500)) end
    end
    for line in log:gmatch("[^\n]*by=\"signal %d[^\n]*") do
        local fields = process.fields(line)
        local pid, number = tonumber(fields.pid), tonumber(fields.by:match("%d+"))
        -- "child ended" by SIGKILL is the end of a drain's limit; all else is a crash.
        if not self.expected[pid] and (fields.event ~= "child ended" or number ~= posix_signal.SIGKILL) then
            say("a child died of a signal: %s", line)
        end
    end
    local left
    process.poll(2, function()
        left = self:survivors()
        return #left == 0
    end)
    for _, pid in ipairs(left) do
        local cmd = process.read_file("/proc/" .. pid .. "/cmdline"):gsub("%z", " ")
        say("child %d survived: %s", pid, cmd)
        posix_signal.kill(pid, posix_signal.SIGKILL)
    end
    return bad
end

return process
