-- What the kit makes of a policy that talks over its probe's socket: as core/health/probe_talk.c does.
local kit = require "fluxgate.testkit"

local function talking(run)
    return { probe = function() return run end, judge = function() return nil end }
end

local function echo(text) return text end

describe("kit.talk", function()
    local backend
    before_each(function()
        kit.seed(1)
        backend = kit.backends({ {} })[1]
    end)

    it("gives lines without their ends, bytes as asked for, and what is there", function()
        local result = kit.talk(talking(function(socket)
            socket:send("one\r\ntwo\nthree")
            return table.concat({ socket:receive("line"), socket:receive("line"), socket:receive(2), socket:receive() }, " ")
        end), backend, echo)
        assert.same({ true, "one two th ree" }, { result.ok, result.value })
    end)

    it("begins with the greeting", function()
        local result = kit.talk(talking(function(socket) return socket:receive("line") end), backend,
            function(text) return text == nil and "220 hello\r\n" or nil end)
        assert.equal("220 hello", result.value)
    end)

    it("tells a close from a silence", function()
        local function ask(socket)
            socket:send("x")
            local got, why, rest = socket:receive("line")
            return got, why and why .. ": " .. rest
        end
        local function half(text) if text then return "ha" end end
        assert.equal("response_timeout", kit.talk(talking(ask), backend, half).failure)
        assert.equal("closed: ", kit.talk(talking(ask), backend, function() return false end).detail)
        assert.equal("closed", kit.talk(talking(function(socket)
            socket:close()
            return socket:send("x")
        end), backend, echo).detail)
    end)

    it("raises what the function raises", function()
        assert.has_error(function() kit.talk(talking(function() error("boom", 0) end), backend, echo) end, "boom")
    end)

    it("lets nobody use the socket later", function()
        local kept
        kit.talk(talking(function(socket) kept = socket return true end), backend, echo)
        local ok, message = pcall(function() kept:send("x") end)
        assert.is_false(ok)
        assert.is_truthy(message:find("the socket of a probe is for its own function", 1, true), message)
    end)
end)
