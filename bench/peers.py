"""The competitors of bench/run.sh: how each is configured, started on one core, and stopped."""
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time

LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1

DEBIAN = {"nginx": "nginx", "haproxy": "haproxy", "nginx-lua": "nginx libnginx-mod-http-lua", "wrk": "wrk"}
NGINX_MODULES = ("/usr/lib/nginx/modules", "/usr/share/nginx/modules", "/usr/lib64/nginx/modules")

# Peers run as their manuals advise for speed: keep-alive to the backends, one worker, no access log, no small limits.
NGINX = """{modules}
daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/error.log error; {user}
worker_rlimit_nofile {nofile};
events {{ worker_connections {connections}; use epoll; }}
http {{
    access_log {access};
    client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
    keepalive_timeout 600s; keepalive_requests 100000000; tcp_nodelay on;
    {lua}
    upstream backends {{ {upstream} keepalive 1024; keepalive_requests 100000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            {filter}
            proxy_pass http://backends; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;
            proxy_request_buffering off; proxy_max_temp_file_size 0;
        }}
    }}
}}
"""
NGINX_LUA = "lua_package_path '/usr/share/lua/5.1/?.lua;;';"
NGINX_LUA_UPSTREAM = """server 127.0.0.1:1;
        balancer_by_lua_block {{
            local ports = state.ports
            state.turn = state.turn + 1
            local ok, err = state.balancer.set_current_peer("127.0.0.1", ports[state.turn % #ports + 1])
            if not ok then ngx.log(ngx.ERR, err) end
        }}"""
NGINX_LUA_INIT = 'init_by_lua_block {{ state = {{ turn = 0, balancer = require "ngx.balancer", ports = {{ {ports} }} }} }}'

NGINX_LUA_FILTER = """header_filter_by_lua_block {
                local agent = ngx.var.http_user_agent or "-"
                local kind = ngx.header.content_type or "-"
                ngx.header["X-Bench"] = agent == kind and "same" or "other"
            }"""

HAPROXY = """global
    nbthread 1
    maxconn {connections}
    stats socket {dir}/haproxy.sock
defaults
    mode http
    option http-keep-alive
    option forwardfor
    http-reuse always
    timeout connect 2s
    timeout client 600s
    timeout server 600s
    timeout http-keep-alive 600s
    {log}
frontend in
    bind 127.0.0.1:{port} backlog 4096
    default_backend backends
backend backends
    balance roundrobin
{servers}
"""

FLUXGATE = """listeners: [ {{ address: "127.0.0.1:{port}" }} ]
workers: 1
routes: [ {{ match: {{ path_prefix: / }}, service: web{filters} }} ]
services:
  web:
    endpoints: [ {endpoints} ]
    strategy: round_robin
admin: {{ address: "127.0.0.1:{admin}" }}
limits: {{ pool_per_endpoint: 1024 }}
timeouts: {{ keepalive: 600s }}
log: {{ level: warn, access: {dir}/access.log }}
"""


# Plug-ins of the filter scenario: one that does nothing, and one that reads two headers and sets one, as NGINX_LUA_FILTER.
FILTER_EMPTY = """local F = { name = "empty", api = 1 }
F.__index = F
function F.new() return setmetatable({}, F) end
function F:on_request() end
function F:on_response() end
return F
"""
FILTER = """local F = { name = "headers_3", api = 1 }
F.__index = F
function F.new() return setmetatable({}, F) end
function F:on_response(request, response)
    local agent = request:header("user-agent") or "-"
    local kind = response:header("content-type") or "-"
    response:set_header("X-Bench", agent == kind and "same" or "other")
end
return F
"""


def free_ports(count):
    """Ports that nobody held a moment ago; the kernel hands out others first before it gives one of them again."""
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def nginx_module(name):
    for folder in NGINX_MODULES:
        path = os.path.join(folder, name)
        if os.path.exists(path):
            return path
    return None


def missing(kind):
    """What a competitor lacks, as a sentence with its remedy; None where it can run."""
    gone = None
    kind = kind.removesuffix("-filter")
    if kind in ("nginx", "nginx-lua") and not find("nginx"):
        gone = "no nginx"
    elif kind == "nginx-lua" and not (nginx_module("ngx_http_lua_module.so") and nginx_module("ndk_http_module.so")):
        gone = "no Lua module for nginx"
    elif kind in ("haproxy", "wrk") and not find(kind):
        gone = f"no {kind}"
    return f"{kind}: {gone}; install it with: apt-get install {DEBIAN[kind]}" if gone else None


def find(program):
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin:/sbin")


def spawn(command, core, log, env=None):
    """Starts a process group on one core; it gets SIGTERM should this process die first."""

    def before_exec():
        os.setsid()
        os.sched_setaffinity(0, {core})
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    with open(log, "ab") as out:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, preexec_fn=before_exec,
                                env={**os.environ, **(env or {})})


def stop(process):
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(5)
    try:
        os.killpg(process.pid, signal.SIGKILL)  # whoever outlived its master
    except ProcessLookupError:
        pass


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


class Peer:
    """One competitor: `start` until its port answers, `stop`, and `command` for the report."""

    def __init__(self, kind, options, folder, backends):
        self.kind, self.options, self.backends = kind, options, backends
        self.dir = os.path.join(folder, kind)
        self.port, self.admin = free_ports(2)
        self.process = None
        os.makedirs(self.dir, exist_ok=True)
        self.command = getattr(self, "command_" + kind.replace("-", "_"))()

    def command_floor(self):
        return [self.options.floor, str(self.port), *map(str, self.backends)]

    def command_fluxgate(self, source=None):
        ends = ", ".join(f'"127.0.0.1:{p}"' for p in self.backends)
        filters = f", filters: [ {write(f'{self.dir}/filter.lua', source)} ]" if source else ""
        text = FLUXGATE.format(port=self.port, admin=self.admin, endpoints=ends, dir=self.dir, filters=filters)
        return [self.options.fluxgate, "run", "-c", write(f"{self.dir}/fluxgate.yaml", text)]

    def command_fluxgate_empty(self):
        return self.command_fluxgate(FILTER_EMPTY)

    def command_fluxgate_filter(self):
        return self.command_fluxgate(FILTER)

    def nginx(self, lua, upstream, modules, filter_=""):
        access = f"{self.dir}/access.log combined buffer=64k" if self.options.peer_logs else "off"
        text = NGINX.format(port=self.port, dir=self.dir, lua=lua, upstream=upstream, access=access, modules=modules, filter=filter_,
                            nofile=self.options.nofile, connections=min(30000, self.options.nofile - 64),
                            user="user root;" if os.geteuid() == 0 else "")
        return [find("nginx"), "-p", self.dir, "-e", f"{self.dir}/error.log",
                "-c", write(f"{self.dir}/nginx.conf", text)]

    def command_nginx(self):
        return self.nginx("", " ".join(f"server 127.0.0.1:{p};" for p in self.backends), "")

    def command_nginx_lua_filter(self):
        return self.command_nginx_lua(NGINX_LUA_FILTER)

    def command_nginx_lua(self, filter_=""):
        modules = "\n".join(f"load_module {nginx_module(m)};" for m in ("ndk_http_module.so", "ngx_http_lua_module.so"))
        ports = ", ".join(map(str, self.backends))
        return self.nginx(NGINX_LUA + "\n    " + NGINX_LUA_INIT.format(ports=ports),
                          NGINX_LUA_UPSTREAM.format(), modules, filter_)

    def command_haproxy(self):
        servers = "\n".join(f"    server s{i} 127.0.0.1:{p}" for i, p in enumerate(self.backends))
        log = f"option httplog\n    log {self.dir}/log local0" if self.options.peer_logs else ""
        text = HAPROXY.format(connections=(self.options.nofile - 200) // 2, port=self.port, dir=self.dir, servers=servers, log=log)
        return [find("haproxy"), "-db", "-f", write(f"{self.dir}/haproxy.cfg", text)]

    def start(self):
        self.process = spawn(self.command, self.options.gateway_core, f"{self.dir}/output.log")
        until = time.monotonic() + 10
        while time.monotonic() < until:
            if self.process.poll() is not None:
                break
            if answers(self.port):
                return
            time.sleep(0.02)
        raise RuntimeError(f"{self.kind} did not start: {tail(self.dir)}")

    def stop(self):
        if self.process:
            stop(self.process)
            self.process = None


def answers(port):
    """A whole response comes back through this port."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as s:
            s.sendall(b"GET /64 HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
            got = b""
            while True:
                part = s.recv(4096)
                if not part:
                    break
                got += part
            return got.startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def tail(folder):
    lines = []
    for name in ("output.log", "error.log"):
        path = os.path.join(folder, name)
        if os.path.exists(path):
            with open(path, encoding="utf-8", errors="replace") as file:
                lines += file.readlines()[-5:]
    return "".join(lines).strip() or "it said nothing"
