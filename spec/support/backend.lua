-- support.backend { id, default = rule, rules = { ["/path"] = rule }, script = { rule… }, health = 200,
-- accept, keepalive, port }: a recording backend (spec/support/backend.py, where Rule says all that a rule
-- may hold). It answers "ID\n".
return function(support)
    local function unhex(text)
        return (text:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end))
    end

    return function(options)
        options = options or {}
        local name = "backend-" .. (options.id or "backend")
        local backend = support.helper("backend.py", name, options)
        backend.id = options.id or "backend"
        backend.address = "127.0.0.1:" .. backend.port

        -- Changes default, rules (merged by path), script, health (a status, "hang", "close"), accept
        -- ("close", "reset", "hang"; false: normal), keepalive.
        function backend:set(order)
            order.op = "set"
            return self:order(order)
        end

        -- Counters alone: requests_seen, connections_seen, active, peak, open, health_checks.
        function backend:counts() return self:order { op = "count" } end

        -- Requests other than health probes, in order: method, target, headers (list of { name, value }),
        -- head, body, body_bytes, body_sha256, whole, trailers, connection; header(name) gives the values
        -- joined.
        function backend:requests()
            local requests = self:order({ op = "get" }).requests
            for _, request in ipairs(requests) do
                function request.header(wanted)
                    local values = {}
                    for _, pair in ipairs(request.headers) do
                        if pair[1]:lower() == wanted:lower() then values[#values + 1] = pair[2] end
                    end
                    return #values > 0 and table.concat(values, ", ") or nil
                end
            end
            return requests
        end

        -- Every connection ever accepted: n, received (its bytes), bytes, requests, open, ended.
        function backend:connections()
            local connections = self:order({ op = "get" }).connections
            for _, connection in ipairs(connections) do connection.received = unhex(connection.received) end
            return connections
        end

        -- The bytes that came since the last call, a connection each, the oldest connection first.
        function backend:news()
            local pieces = self:order({ op = "news" }).news
            for i, piece in ipairs(pieces) do pieces[i] = unhex(piece[2]) end
            return pieces
        end

        -- Lets go of every `hold` and `no_read`.
        function backend:release() return self:order { op = "release" } end
        function backend:reset() return self:order { op = "reset" } end     -- forgets what it recorded
        function backend:close_idle(reset) return self:order { op = "close_idle", reset = reset } end
        function backend:close_all(reset) return self:order { op = "close_all", reset = reset } end
        function backend:push(bytes) return self:order { op = "push", bytes = bytes } end
        function backend:unlisten() return self:order { op = "unlisten" } end
        function backend:listen() return self:order { op = "listen" } end

        return backend
    end
end
