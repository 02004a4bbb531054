-- The access log of the real binary: reopened while requests come, and what becomes of lines that find no room.
local support = require "spec.support"

local function start(backend, path)
    return support.gateway { config = ([[
listeners: [ { address: "127.0.0.1:0" } ]
admin: { address: "127.0.0.1:0" }
workers: 2
log: { access: %s, access_format: "$status $query $user_agent." }
routes: [ { match: { path_prefix: / }, service: web } ]
services: { web: { endpoints: [ "%s" ] } }
]]):format(path, backend.address), env = { FLUXGATE_WATCHDOG = "0" } } -- which would replace a control that is stopped
end

-- The numbers from..to as the query of pipelined requests, `padding` bytes behind each; all are answered.
local function ask(connection, from, to, padding)
    local requests, agent = {}, ("x"):rep(padding or 1)
    for i = from, to do
        requests[#requests + 1] = ("GET /?%d%s HTTP/1.1\r\nHost: x\r\nUser-Agent: %s\r\n\r\n"):format(i, agent, agent)
    end
    assert(connection:send(table.concat(requests)))
    for _ = from, to do
        local reply, why = connection:reply()
        assert(reply, why)
        assert.equal(200, reply.status)
    end
end

-- number → how often it was logged, and how many lines there are; every line is whole.
local function read(...)
    local times, count = {}, 0
    for _, path in ipairs { ... } do
        local text = support.read_file(path)
        assert.is_true(text == "" or text:sub(-1) == "\n", path .. " ends in the middle of a line")
        for line in text:gmatch("[^\n]+") do
            local number = tonumber(line:match("^200 (%d+)x+ x+%.$"))
            assert.is_truthy(number, line)
            times[number] = (times[number] or 0) + 1
            count = count + 1
        end
    end
    return times, count
end

local function wait_lines(wanted, ...)
    local paths = { ... }
    support.wait_until(wanted .. " lines are there", function()
        local lines = 0
        for _, path in ipairs(paths) do lines = lines + select(2, support.read_file(path):gsub("\n", "")) end
        return lines >= wanted, lines
    end)
end

local function dropped(gateway) return gateway:metric("fluxgate_access_log_dropped_total") end

describe("the access log", function()
    local backend
    before_each(function() backend = support.backend { id = "a" } end)
    after_each(support.finish)

    it("goes on in a new file at SIGUSR1: of the lines around it none is lost and none is there twice", function()
        local path = support.dir() .. "/access.log"
        local gateway = start(backend, path)
        local connections = { support.open(gateway:port()), support.open(gateway:port()), support.open(gateway:port()) }
        local sent, paths = 0, {}
        local function more(count)
            ask(connections[sent % 3 + 1], sent + 1, sent + count)
            sent = sent + count
        end
        for round = 1, 4 do
            more(50)
            paths[round] = path .. "." .. round
            assert(os.rename(path, paths[round]))
            more(50) -- by now the open file has another name
            gateway:signal("USR1")
            support.wait_until("the log is reopened", function()
                more(10)
                return #gateway:events("logs reopened") == round
            end)
            local moved = support.read_file(paths[round])
            more(50)
            wait_lines(1, path)
            assert.equal(moved, support.read_file(paths[round]))
        end
        paths[#paths + 1] = path
        wait_lines(sent, unpack(paths))
        local times, count = read(unpack(paths))
        assert.equal(sent, count)
        for i = 1, sent do assert.equal(1, times[i], i) end
        assert.equal(0, dropped(gateway))
    end)

    it("stays in the old file where the new one cannot be opened", function()
        local folder = support.dir() .. "/logs"
        assert(os.execute("mkdir " .. folder))
        local gateway = start(backend, folder .. "/access.log")
        local connection = support.open(gateway:port())
        ask(connection, 1, 10)
        assert(os.rename(folder, folder .. ".old"))
        gateway:signal("USR1")
        support.wait_until("it says so", function() return #gateway:events("the access log cannot be opened") == 1 end)
        ask(connection, 11, 20)
        wait_lines(20, folder .. ".old/access.log")
        assert.equal(0, dropped(gateway))
        assert(os.rename(folder .. ".old", folder))
        gateway:signal("USR1")
        support.wait_until("it is reopened", function() return #gateway:events("logs reopened") >= 1 end)
    end)

    it("drops and counts what finds the ring full while control stands still, and requests go on", function()
        local path = support.dir() .. "/access.log"
        local gateway = start(backend, path)
        local connection, last = support.open(gateway:port(), { timeout = 30 }), 1200
        ask(connection, 1, 1)
        wait_lines(1, path)
        local control = gateway:control_pid()
        gateway:kill(control, "STOP")
        for i = 2, last, 11 do ask(connection, i, i + 10, 1000) end -- lines of 2.4 MB; a worker's ring holds one
        gateway:kill(control, "CONT")
        support.wait_until("each line is there or counted", function()
            local _, lines = support.read_file(path):gsub("\n", "")
            local lost = dropped(gateway)
            return lines + lost == last, { lines, lost }
        end)
        local times, count = read(path)
        local lost = dropped(gateway)
        assert.is_true(lost > 0 and count > 200, lost .. " lost, " .. count .. " there")
        for number, often in pairs(times) do assert.equal(1, often, number) end
        ask(connection, last + 1, last + 10)
        wait_lines(count + 10, path)
        assert.equal(lost, dropped(gateway))
        assert.equal(control, gateway:control_pid())
    end)

    it("counts each line that the disk did not take", function()
        local gateway = start(backend, "/dev/full")
        ask(support.open(gateway:port()), 1, 200)
        support.wait_until("200 are counted", function()
            local lost = dropped(gateway)
            return lost == 200, lost
        end)
    end)
end)
