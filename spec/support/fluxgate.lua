-- support.gateway and support.registry: the real program with a configuration of the spec's own.
local process = require "spec.support.process"

return function(support)
    local made = {}

    -- Ports as the program logged them: the newest of each kind, since a reload may open others.
    local function port_of(child, what, index)
        local ports = {}
        for _, event in ipairs(child:events("listening")) do
            if event.what == what then ports[#ports + 1] = tonumber(event.address:match(":(%d+)$")) end
        end
        local port = ports[index or #ports]
        if not port then error("no " .. what .. " is listening\n" .. child:log_tail(20), 3) end
        return port
    end

    local function last_pid(child, event)
        local events = child:events(event)
        return #events > 0 and tonumber(events[#events].pid) or nil
    end

    local function url(port, path) return ("http://127.0.0.1:%d%s"):format(port, path) end

    local KEPT = "the present generation goes on" -- what the supervisor says after the last complaint

    local methods = setmetatable({}, { __index = process.Process })

    -- The n-th listener, the first one by default.
    function methods:port(index) return port_of(self, "listener", index or 1) end
    function methods:admin_port() return port_of(self, "admin") end
    function methods:registry_http_port() return port_of(self, "registry-http") end
    function methods:registry_grpc_port() return port_of(self, "registry-grpc") end
    function methods:url(path) return url(self:port(), path or "/") end
    function methods:admin_url(path) return url(self:admin_port(), path or "/") end
    function methods:registry_url(path) return url(self:registry_http_port(), path or "") end
    function methods:control_pid() return last_pid(self, "control started") end
    function methods:registry_pid() return last_pid(self, "registry started") end

    -- Pids by worker, the newest of each: [1] is worker 0.
    function methods:worker_pids()
        local pids = {}
        for _, event in ipairs(self:events("worker started")) do
            pids[tonumber(event.worker) + 1] = tonumber(event.pid)
        end
        return pids
    end

    -- Rewrites the file where `yaml` is given, sends SIGHUP and waits for the verdict: true or false, its log
    -- line.
    function methods:reload(yaml, limit_s)
        local done, failed, kept = #self:events("reloaded"), #self:events("reload failed"), #self:events(KEPT)
        if yaml then process.write_file(self.config, yaml) end
        self:signal("HUP")
        local ok, events, first = false, nil, nil
        support.wait_until("the reload has a verdict", function()
            local good, bad = self:events("reloaded"), self:events("reload failed")
            if #good > done then
                ok, events, first = true, good, done + 1
            elseif #bad > failed and (self.command == "registry" or #self:events(KEPT) > kept) then
                ok, events, first = false, bad, failed + 1
            end
            return events
        end, limit_s)
        local lines = {}
        for i = first, #events do lines[#lines + 1] = events[i].line end
        return ok, table.concat(lines, "\n"), events[#events]
    end

    -- /metrics of the admin address as text.
    function methods:metrics()
        local status, _, body = support.curl(self:admin_url("/metrics"))
        if status ~= 200 then error("/metrics answered " .. tostring(status), 2) end
        return body
    end

    -- The value of one series, or the sum of all that carry these labels; nil where there is none.
    function methods:metric(name, labels) return made.metric(self:metrics(), name, labels) end

    function made.metric(text, name, labels)
        local sum
        for line in text:gmatch("[^\n]+") do
            local series, set, value = line:match("^([%a_:][%w_:]*)(%b{}) (%S+)")
            if not series then
                series, value = line:match("^([%a_:][%w_:]*) (%S+)")
                set = ""
            end
            local fits = series == name
            for label, wanted in pairs(labels or {}) do
                fits = fits and set:find(label .. '="' .. wanted .. '"', 1, true) ~= nil
            end
            if fits then sum = (sum or 0) + tonumber(value) end
        end
        return sum
    end

    -- Requests that endpoints count as under way, over all workers.
    function methods:active() return self:metric("loadbalancer_backend_active_connections") or 0 end

    -- Open descriptors of every worker together: the same before and after a load, or something leaks.
    function methods:worker_fds()
        local count = 0
        for _, pid in pairs(self:worker_pids()) do
            for name in require("posix.dirent").files("/proc/" .. pid .. "/fd") do
                if name:find("^%d") then count = count + 1 end
            end
        end
        return count
    end

    -- Waits until nothing is under way: no `active` of any endpoint stayed up.
    function methods:expect_idle(limit_s)
        support.wait_until("every endpoint's active count is 0 again", function()
            local active = self:active()
            return active == 0, active
        end, limit_s)
    end

    local function start(command, options)
        local name = options.name or (command == "run" and "gateway" or "registry")
        local path = options.file or support.file(name .. "-" .. #process.live .. ".yaml", options.config)
        local argv = { support.fluxgate, command, "-c", path }
        for _, arg in ipairs(options.args or {}) do argv[#argv + 1] = arg end
        local child = support.run { name = name, argv = argv, env = options.env, cwd = options.cwd }
        child.config, child.command = path, command
        setmetatable(child, { __index = methods })
        if options.wait == false then return child end
        support.wait_until(name .. " is ready", function()
            if not child:is_running() then
                local text = "%s ended (%s %s) before it was ready:\n%s"
                error(text:format(name, child.how, child.status, child:log_tail(40)), 0)
            end
            return child:log():find('event="ready"', 1, true)
        end, options.limit)
        return child
    end

    -- { config = yaml, workers = n, env = {…}, wait = true, name, args, cwd }. `workers` adds that key where
    -- the YAML has none. The YAML's listeners use port 0; the bound ports are read back from the log.
    function made.gateway(options)
        local config = options.config
        if config and options.workers and not ("\n" .. config):find("\nworkers:") then
            options.config = config .. "\nworkers: " .. options.workers .. "\n"
        end
        return start("run", options)
    end

    function made.registry(options)
        options.config = options.config or [[
registry:
  embedded: true
  listen: { http: "127.0.0.1:0", grpc: "127.0.0.1:0" }
  store: memory
]]
        return start("registry", options)
    end

    return made
end
