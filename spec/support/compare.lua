-- By hand: the requests of spec/integration/differential_spec.lua through nginx and HAProxy, and where they differ.
--     luajit spec/support/compare.lua            each line: laxer or STRICTER than we are, the claim, what its backend read
package.path = "./?.lua;./?/init.lua;" .. package.path
local support = require "spec.support"
local differential = require "spec.support.differential"
local requests = require "spec.support.differential_bodies"

local NGINX = [[
daemon off; master_process off; pid %s/nginx.pid; error_log /dev/null; events { }
http {
    access_log off; large_client_header_buffers 4 16k; client_max_body_size 1m; client_body_temp_path %s;
    proxy_temp_path %s; fastcgi_temp_path %s; uwsgi_temp_path %s; scgi_temp_path %s;
    upstream web { server %s; keepalive 4; }
    server {
        listen 127.0.0.1:%d;
        location / { proxy_pass http://web; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host;
            proxy_request_buffering off; }
    }
}
]]
local HAPROXY = [[
defaults
    mode http
    timeout connect 2s
    timeout client 5s
    timeout server 5s
frontend in
    bind 127.0.0.1:%d
    default_backend web
backend web
    server b %s
]]

local function start(name)
    local backend, port, dir = support.backend { id = name }, support.free_port(), support.dir()
    local argv
    if name == "nginx" then
        local text = NGINX:format(dir, dir, dir, dir, dir, dir, backend.address, port)
        argv = { "nginx", "-p", dir, "-c", support.file("nginx.conf", text) }
    else
        argv = { "haproxy", "-db", "-f", support.file("haproxy.cfg", HAPROXY:format(port, backend.address)) }
    end
    local child = support.run { name = name, argv = argv }
    function child:on_finish() -- its end needs no ceremony
        self:kill(self.pid, "KILL")
        self:wait(5)
    end
    support.wait_until(name .. " answers", function()
        local tcp = require("socket").connect("127.0.0.1", port)
        return tcp and tcp:close()
    end)
    return { name = name, backend = backend, port = port }
end

local function show(text) return (("%q"):format(text):gsub("\\\n", "\\n"):gsub("\r", "\\r"):sub(1, 160)) end

for _, name in ipairs { "nginx", "haproxy" } do
    local peer = start(name)
    for _, case in ipairs(requests) do
        local want = case[3]
        local statuses = type(want) == "string" and want or want[1]
        local bytes = support.raw(peer.port, case[2] .. differential.PROBE, { timeout = 1 })
        local synced = support.raw(peer.port, "GET /sync HTTP/1.1\r\nHost: sync\r\nConnection: close\r\n\r\n")
        local read = table.concat(peer.backend:news())
        local got = bytes:gsub("HTTP/1%.1 (%d%d%d)", "\1%1\1"):gsub("[^\1]*\1(%d%d%d)\1", "%1 "):gsub("[^%d ].*$", "")
        if got:sub(1, 3) ~= statuses:sub(1, 3) then
            local what = got:sub(1, 1) == "2" and "laxer" or statuses:sub(1, 1) == "2" and "STRICTER" or "status"
            print(("%-8s %-8s %-45s %s where we say %s; read %s"):format(name, what, case[1], got, statuses, show(read)))
        end
        assert(synced:find(" 200 ", 1, true), name .. " died")
    end
end
support.finish()
