#!/usr/bin/env python3
"""A recording backend for specs: raw sockets, every byte kept, every misbehaviour on request.

Prints one JSON line {"port":…, "control":…} once both ports are bound. The control port takes one JSON object a line and
answers one. What a rule may hold stands at Rule below; spec/support/backend.lua is the Lua side.
"""
import asyncio
import hashlib
import json
import os
import random
import socket
import struct
import sys

KEEP_BYTES = 1 << 20  # of each connection and of each body; past it only counts and the hash go on


class Rule(dict):
    """What one request gets. All keys are optional:
    status, reason, headers [[name, value]…], body, body_bytes (that many 'x'), reply ("echo": the request's body,
    "request": its head and body as JSON), delay (s, before the head), hold (until `release`), interim [status…],
    chunked, chunks [text…], trailers [[name, value]…], gap (s between chunks or pieces), piece (bytes a write),
    until_close (no framing), close ("before_head", "mid_head", "before_body", "mid_body", "after"), reset (close by RST),
    raw (these bytes instead of a response), early (answer before the body is read), no_read (never read the body),
    upgrade ("echo": 101, then every byte comes back), greeting (bytes sent together with the 101)."""

    def __getattr__(self, name):
        return self.get(name)


class Closed(Exception):
    pass


class Backend:
    def __init__(self, options):
        self.id = options.get("id", "backend")
        self.rules = {path: Rule(rule) for path, rule in options.get("rules", {}).items()}
        self.default = Rule(options.get("default", {}))
        self.script = [Rule(rule) for rule in options.get("script", [])]
        self.health = options.get("health", 200)
        self.accept = options.get("accept")
        self.keepalive = options.get("keepalive", 0)
        self.trap = options.get("trap", False)  # the first connection is closed once its second request lies in the kernel
        self.hasty = options.get("hasty")  # [s, s]: a connection between two requests is closed after some time from there
        self.connections, self.requests, self.live = [], [], {}
        self.held = asyncio.Event()
        self.active = self.peak = self.health_checks = self.accepted = 0
        self.server = None
        self.port = options.get("port", 0)

    def next_number(self):
        self.accepted += 1
        return self.accepted

    async def listen(self):
        sock = socket.socket(proto=socket.IPPROTO_TCP)  # asyncio sets TCP_NODELAY only where the proto says so
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", self.port))
        self.port = sock.getsockname()[1]
        self.server = await asyncio.start_server(self.serve, sock=sock, backlog=1024)

    async def serve(self, reader, writer):
        conn = Connection(self, reader, writer)
        self.connections.append(conn.record)
        self.live[conn.record["n"]] = conn
        try:
            await conn.run()
        except (Closed, ConnectionError, asyncio.IncompleteReadError) as error:
            conn.record["ended"] = conn.record["ended"] or type(error).__name__
        finally:
            self.live.pop(conn.record["n"], None)
            conn.record["open"] = False
            writer.close()

    def rule_for(self, path):
        if path in self.rules:
            return self.rules[path]
        if path == "/health":
            self.health_checks += 1
            if self.health == "hang":
                return Rule(hold=True)
            if self.health == "close":
                return Rule(close="before_head")
            return Rule(status=self.health)
        if self.script:
            return self.script.pop(0)
        return self.default

    async def command(self, order):
        op = order.get("op")
        if op == "set":
            for name in ("id", "health", "accept", "keepalive"):
                if name in order:
                    setattr(self, name, order[name] or None)
            if "default" in order:
                self.default = Rule(order["default"])
            if "script" in order:
                self.script = [Rule(rule) for rule in order["script"]]
            for path, rule in order.get("rules", {}).items():
                self.rules[path] = Rule(rule)
        elif op == "release":
            self.held.set()
            self.held = asyncio.Event()
        elif op == "reset":
            self.requests, self.health_checks, self.peak = [], 0, 0
            self.connections = [c for c in self.connections if c["open"]]
        elif op == "close_idle":
            for conn in list(self.live.values()):
                if not conn.busy:
                    conn.end(order.get("reset", False), "closed on command")
        elif op == "close_all":
            for conn in list(self.live.values()):
                conn.end(order.get("reset", False), "closed on command")
        elif op == "unlisten":
            self.server.close()
        elif op == "listen":
            await self.listen()
        elif op == "push":
            for conn in list(self.live.values()):
                conn.writer.write(order["bytes"].encode("latin-1"))
        elif op == "news":
            news = []
            for record in self.connections:
                if fresh := record["received"][record.setdefault("told", 0):]:
                    news.append([record["n"], fresh.hex()])
                record["told"] = len(record["received"])
            self.connections = [c for c in self.connections if c["open"]]
            self.requests = []
            return {"news": news}
        elif op not in ("get", "count"):
            return {"error": f"no such op: {op}"}
        answer = {"requests_seen": len(self.requests), "connections_seen": len(self.connections), "active": self.active,
                  "peak": self.peak, "open": len(self.live), "health_checks": self.health_checks, "port": self.port}
        if op == "get":
            answer["requests"] = self.requests
            answer["connections"] = [dict(c, received=c["received"].hex()) for c in self.connections]
        return answer

    async def control(self, reader, writer):
        while line := await reader.readline():
            try:
                answer = await self.command(json.loads(line))
            except Exception as error:  # a spec must see what was wrong, not a silent close
                answer = {"error": repr(error)}
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()


class Connection:
    def __init__(self, backend, reader, writer):
        self.backend, self.reader, self.writer = backend, reader, writer
        self.buffer, self.eof, self.busy = b"", False, False
        host, port = writer.get_extra_info("peername")[:2]
        self.record = {"n": backend.next_number(), "peer": f"{host}:{port}", "received": bytearray(), "bytes": 0,
                       "requests": 0, "open": True, "ended": None}

    def end(self, reset, why):
        self.record["ended"] = why
        if reset:
            sock = self.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.writer.transport.abort()
        else:
            self.writer.close()

    async def fill(self):
        data = await self.reader.read(65536)
        if not data:
            self.eof = True
            return False
        self.record["bytes"] += len(data)
        room = KEEP_BYTES - len(self.record["received"])
        if room > 0:
            self.record["received"] += data[:room]
        self.buffer += data
        return True

    async def line(self):
        while b"\r\n" not in self.buffer:
            if not await self.fill():
                raise Closed
        line, self.buffer = self.buffer.split(b"\r\n", 1)
        return line

    async def take(self, count, sink):
        while count:
            if not self.buffer and not await self.fill():
                raise Closed
            piece, self.buffer = self.buffer[:count], self.buffer[count:]
            sink(piece)
            count -= len(piece)

    async def read_head(self):
        while b"\r\n\r\n" not in self.buffer:
            if not await self.fill():
                if self.buffer:
                    raise Closed
                return None
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        lines = head.decode("latin-1").split("\r\n")
        parts = lines[0].split(" ")
        headers = [[name, value.strip()] for name, _, value in (text.partition(":") for text in lines[1:])]
        return {"id": self.backend.id, "connection": self.record["n"], "method": parts[0], "target": " ".join(parts[1:-1]),
                "version": parts[-1], "headers": headers, "head": head.decode("latin-1"), "body": "", "body_bytes": 0,
                "body_sha256": "", "whole": False, "trailers": []}

    async def read_body(self, request):
        lower = {name.lower(): value for name, value in request["headers"]}
        digest, kept = hashlib.sha256(), bytearray()

        def sink(piece):
            digest.update(piece)
            request["body_bytes"] += len(piece)
            if len(kept) < KEEP_BYTES:
                kept.extend(piece)

        try:
            if "chunked" in lower.get("transfer-encoding", "").lower():
                while size := int((await self.line()).split(b";")[0], 16):
                    await self.take(size, sink)
                    await self.line()
                while trailer := await self.line():
                    name, _, value = trailer.decode("latin-1").partition(":")
                    request["trailers"].append([name, value.strip()])
            elif "content-length" in lower:
                await self.take(int(lower["content-length"]), sink)
            request["whole"] = True
        finally:
            request["body"], request["body_sha256"] = kept.decode("latin-1"), digest.hexdigest()

    def close_hastily(self):
        # What asyncio has read for us is a request that nobody may send again: then the connection is not idle.
        if not self.busy and not self.buffer and not self.reader._buffer:
            self.end(random.random() < 0.5, "closed hastily")

    async def close_unread(self):
        """Closes once a request is here that nobody has read: it is lost with a RST."""
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()
        self.writer.transport.pause_reading()
        watched = os.dup(self.writer.get_extra_info("socket").fileno())
        loop.add_reader(watched, arrived.set)
        await arrived.wait()
        loop.remove_reader(watched)
        os.close(watched)
        self.end(False, "closed unread")

    async def next_head(self):
        """The next request, if it comes before we lose patience; bytes in the kernel by then are lost with a RST."""
        if self.backend.trap and self.record["n"] == 1 and self.record["requests"]:
            await self.close_unread()
            raise Closed
        if not self.backend.hasty or not self.record["requests"]:
            return await self.read_head()
        timer = asyncio.get_running_loop().call_later(random.uniform(*self.backend.hasty), self.close_hastily)
        try:
            return await self.read_head()
        finally:
            timer.cancel()

    async def run(self):
        backend = self.backend
        if backend.accept == "close" or backend.accept == "reset":
            return self.end(backend.accept == "reset", "closed at accept")
        if backend.accept == "hang":
            while await self.fill():
                pass
            return None
        while True:
            request = await self.next_head()
            if request is None:
                self.record["ended"] = self.record["ended"] or "closed by peer"
                return None
            path = request["target"].split("?")[0]
            health = path == "/health" and path not in backend.rules
            rule = backend.rule_for(path)
            if not health:
                backend.requests.append(request)
            self.record["requests"] += 1
            self.busy = True
            backend.active += not health
            backend.peak = max(backend.peak, backend.active)
            try:
                await self.answer(request, rule)
            finally:
                backend.active -= not health
                self.busy = False
            if self.writer.is_closing():
                return None
            if backend.keepalive and self.record["requests"] >= backend.keepalive:
                return self.end(False, "keep-alive limit")

    async def answer(self, request, rule):
        held = self.backend.held
        lower = {name.lower(): value for name, value in request["headers"]}
        if "100-continue" in lower.get("expect", "").lower() and not rule.early and not rule.no_read:
            self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not rule.early and not rule.no_read:
            await self.read_body(request)
        if rule.delay:
            await asyncio.sleep(rule.delay)
        if rule.hold:
            watch = asyncio.ensure_future(self.fill())  # a peer that leaves ends the wait
            wake = asyncio.ensure_future(held.wait())
            await asyncio.wait({watch, wake}, return_when=asyncio.FIRST_COMPLETED)
            wake.cancel()
            if not watch.done():
                watch.cancel()
                await asyncio.gather(watch, return_exceptions=True)
            elif not held.is_set():
                request["gone"] = True
                raise Closed
        if rule.close == "before_head":
            return self.end(rule.reset, "rule: before_head")
        if rule.raw is not None:
            self.writer.write(rule.raw.encode("latin-1"))
        elif rule.upgrade == "echo" and "upgrade" in lower:
            return await self.tunnel(rule, lower)
        else:
            await self.respond(request, rule)
        await self.writer.drain()
        if rule.early:
            await self.read_body(request)
        if rule.no_read:
            await held.wait()
        if rule.close or rule.until_close or lower.get("connection", "").lower() == "close":
            self.end(rule.reset, f"rule: {rule.close or 'close'}")
        return None

    async def respond(self, request, rule):
        body = (rule.body if rule.body is not None else self.backend.id + "\n").encode("latin-1")
        if rule.body_bytes is not None:
            body = b"x" * rule.body_bytes
        if rule.reply == "echo":
            body = request["body"].encode("latin-1")
        elif rule.reply == "request":
            body = json.dumps(request).encode()
        status = rule.status or 200
        for code in rule.interim or []:
            self.writer.write(f"HTTP/1.1 {code} Interim\r\nX-Interim: {code}\r\n\r\n".encode())
        chunks = [text.encode("latin-1") for text in rule.chunks] if rule.chunks else None
        chunked = rule.chunked or chunks is not None or rule.trailers is not None
        head = [f"HTTP/1.1 {status} {rule.reason or 'Status'}", f"X-Backend: {self.backend.id}"]
        head += [f"{name}: {value}" for name, value in rule.headers or []]
        if chunked:
            head.append("Transfer-Encoding: chunked")
        elif not rule.until_close and status != 204 and status != 304:
            head.append(f"Content-Length: {len(body)}")
        head = ("\r\n".join(head) + "\r\n\r\n").encode("latin-1")
        if rule.close == "mid_head":
            self.writer.write(head[:len(head) // 2])
            return
        self.writer.write(head)
        if request["method"] == "HEAD" or status in (204, 304) or rule.close == "before_body":
            return
        if rule.close == "mid_body":
            self.writer.write((b"%x\r\n" % len(body) if chunked else b"") + body[:max(1, len(body) // 2)])
            return
        if chunked:
            pieces = [b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks or [body] if chunk]
            trailers = "".join(f"{name}: {value}\r\n" for name, value in rule.trailers or [])
            pieces.append(b"0\r\n" + trailers.encode("latin-1") + b"\r\n")
        else:
            step = rule.piece or 65536
            pieces = [body[at:at + step] for at in range(0, len(body), step)]
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            if rule.gap:
                await asyncio.sleep(rule.gap)

    async def tunnel(self, rule, lower):
        self.writer.write(f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {lower['upgrade']}\r\n\r\n"
                          .encode("latin-1") + (rule.greeting or "").encode("latin-1"))
        while self.buffer or await self.fill():
            self.writer.write(self.buffer)
            self.buffer = b""
            await self.writer.drain()
        self.end(False, "tunnel ended")


async def main():
    backend = Backend(json.loads(sys.argv[1]) if len(sys.argv) > 1 else {})
    await backend.listen()
    control = await asyncio.start_server(backend.control, "127.0.0.1", 0)
    print(json.dumps({"port": backend.port, "control": control.sockets[0].getsockname()[1]}), flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
