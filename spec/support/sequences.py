#!/usr/bin/env python3
"""Sequences of requests on connections that are used again, and a backend that records them.

Prints {"port", "control"}. An order {"op": "run", "gateway": PORT, "seed": N, "connections": N} sends requests of
every kind, one behind the other and pipelined, in pieces, some broken off, over several connections at once, to paths
below /plain and those of ROUTES (whose filters are the caller's configuration) and answers {"problems": [text...],
"answered": N, "sent": N, "tunnels": N}. A problem is a request of which the backend saw other bytes than were sent, an
answer that belongs to another request, or a byte that nobody can account for. Some requests ask for an upgrade: the
backend switches where the path ends in "switch" and else answers as if nothing were asked; each side of a tunnel then
sends its bytes, ends them or breaks off as the request's name says, and knows the other's to the byte."""

import hashlib
import json
import random
import socket
import struct
import threading
import zlib

ROUTES = ("read", "part", "wait", "replace", "stage", "both", "pack")
KINDS = ("length", "chunked", "close", "empty", "none", "unmodified", "early", "interim", "reset", "error", "big", "odd", "needed", "switch")
PROTOCOL = b"sequences/1"
THREADS = 6


class Broken(Exception):
    pass


class Reader:
    """Bytes of a socket, by line and by count; EOFError at the end."""

    def __init__(self, sock):
        self.sock, self.bytes = sock, b""

    def more(self):
        got = self.sock.recv(65536)
        if not got:
            raise EOFError
        self.bytes += got

    def take(self, count):
        while len(self.bytes) < count:
            self.more()
        taken, self.bytes = self.bytes[:count], self.bytes[count:]
        return taken

    def line(self):
        while b"\r\n" not in self.bytes:
            self.more()
        line, self.bytes = self.bytes.split(b"\r\n", 1)
        if b"\n" in line or b"\r" in line or b"\0" in line:
            raise Broken("a line holds %r" % line)
        return line

    def rest(self):
        try:
            while True:
                self.more()
        except EOFError:
            taken, self.bytes = self.bytes, b""
            return taken


def read_head(reader):
    first, fields = reader.line(), {}
    while True:
        line = reader.line()
        if not line:
            return first, fields
        name, colon, value = line.partition(b":")
        name = name.lower()
        if not colon or not name or name != name.strip():
            raise Broken("a field %r" % line)
        if name in fields and name in (b"host", b"content-length", b"transfer-encoding", b"x-id", b"x-echo"):
            raise Broken("twice %r" % name)
        fields[name] = value.strip()


def read_chunks(reader):
    body = b""
    while True:
        size = int(reader.line(), 16)
        if size == 0:
            break
        body += reader.take(size)
        if reader.take(2) != b"\r\n":
            raise Broken("no CRLF behind a chunk")
    trailers = []
    while True:
        line = reader.line()
        if not line:
            return body, trailers
        trailers.append(line)


def read_body(reader, fields):
    if b"transfer-encoding" in fields:
        if b"content-length" in fields or fields[b"transfer-encoding"] != b"chunked":
            raise Broken("framing %r" % fields)
        return read_chunks(reader)
    return reader.take(int(fields.get(b"content-length", b"0"))), []


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def chunked(random_, body):
    out, at = b"", 0
    while at < len(body):
        size = random_.choice((1, 2, 7, 100, 5000, len(body)))
        piece = body[at : at + size]
        at += len(piece)
        extension = random_.choice((b"", b"", b";a=b", b' ; q="x;y"'))
        out += b"%x%s\r\n%s\r\n" % (len(piece), extension, piece)
    return out + b"0\r\n"


def text(ident, size):
    """Of one size and one name; no two of them share a line."""
    line = b"%s/" % ident
    return (line * (size // len(line) + 1))[:size]


# ---- tunnels


class Tunnel:
    """What is said in the tunnel of one request, known to both sides by its name."""

    ENDS = ("together", "together", "client", "backend", "client resets", "backend resets")

    def __init__(self, ident):
        random_ = random.Random(b"tunnel" + ident)
        self.end = random_.choice(self.ENDS)
        sizes = (0, 1, 300, 9000, 70000, 300000)
        self.up = text(b"up" + ident, random_.choice(sizes))
        self.down = text(b"down" + ident, random_.choice(sizes))
        if random_.random() < 0.5:  # this much behind the head, before anybody has said yes
            self.early = random_.choice((1, len(self.up) // 2, len(self.up)))
        else:
            self.early = 0
        self.is_ended_early = self.early >= len(self.up) > 0 and self.end in ("together", "client") and random_.random() < 0.5
        self.cut = random_.random()  # where a reset comes


def end_sending(sock):
    sock.shutdown(socket.SHUT_WR)


def talk(sock, reader, ours, theirs, first, end, cut, may_break=lambda: False):
    """One side of a tunnel. `first`: this side ends before it has heard the other; None: both at once. `end`: who
    resets, "us", "them" or None. `may_break`: whether the other may have left for a reason of its own."""
    failed = []

    def say():
        try:
            if end == "us":
                sock.sendall(ours[: int(len(ours) * cut)])
            else:
                sock.sendall(ours)
                end_sending(sock)
        except OSError as why:
            failed.append(why)

    if first is None and end is None:
        sayer = threading.Thread(target=say, daemon=True)
        sayer.start()
        got = hear(reader)
        sayer.join(30)
    elif end == "us":
        say()
        reset(sock)
        return
    elif end == "them" or not first:
        got = hear(reader)
        if end is None:
            say()
    else:
        say()
        got = hear(reader)
    if end == "them" or may_break():
        if not theirs.startswith(got):
            raise Broken("the tunnel's %d bytes are none of its own: %r" % (len(got), got[:80]))
    elif got != theirs or failed:
        at = next((i for i, (a, b) in enumerate(zip(got, theirs)) if a != b), min(len(got), len(theirs)))
        raise Broken("the tunnel holds %d bytes for %d, other ones from %d on: %r %s" % (
            len(got), len(theirs), at, got[at : at + 80], failed))


def hear(reader):
    """All that comes, up to its end or a reset."""
    try:
        while True:
            reader.more()
    except (EOFError, ConnectionError):
        taken, reader.bytes = reader.bytes, b""
        return taken


# ---- backend


class Backend:
    def __init__(self):
        self.lock, self.seen, self.problems = threading.Lock(), {}, []
        self.resets, self.known, self.broken, self.tunnels = set(), {}, set(), 0
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            sock, _ = self.listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def problem(self, what):
        with self.lock:
            self.problems.append("backend: " + what)

    def serve(self, sock):
        reader = Reader(sock)
        try:
            while self.exchange(sock, reader):
                pass
        except (EOFError, OSError):
            pass
        except (Broken, ValueError) as why:
            self.problem("%s before %r" % (why, reader.bytes[:200]))
        sock.close()

    def exchange(self, sock, reader):
        first, fields = read_head(reader)
        method, target, version = first.split(b" ")
        ident = fields.get(b"x-id", b"")
        kind = target.rsplit(b"/", 1)[1].decode() if b"/" in target else ""
        if not ident or version != b"HTTP/1.1" or kind not in KINDS:
            raise Broken("a request %r %r" % (first, fields))
        if kind == "early":
            self.reply(sock, method, ident, kind, b"")
        with self.lock:
            self.seen.setdefault(ident, [])
        if fields.get(b"expect"):
            sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body, trailers = read_body(reader, fields)
        with self.lock:
            self.seen.setdefault(ident, []).append((method, target, body, trailers, fields))
            first_time = ident not in self.resets
            self.resets.add(ident)
        if kind == "reset" and first_time:
            reset(sock)
            return False
        if kind == "switch" and fields.get(b"upgrade") == PROTOCOL:
            self.switch(sock, reader, ident)
            return False
        if kind != "early":
            self.reply(sock, method, ident, kind, body)
        return kind not in ("close", "early")

    def switch(self, sock, reader, ident):
        tunnel = Tunnel(ident)
        interim = b"HTTP/1.1 103 e\r\nLink: </a>\r\n\r\n" if tunnel.cut < 0.1 else b""
        head = b"HTTP/1.1 101 s\r\nConnection: upgrade\r\nUpgrade: %s\r\nX-Echo: %s\r\n\r\n" % (PROTOCOL, ident)
        sock.sendall(interim + head)
        with self.lock:
            self.tunnels += 1
        first = {"together": None, "client": False, "backend": True}.get(tunnel.end)
        end = {"client resets": "them", "backend resets": "us"}.get(tunnel.end)
        try:
            talk(sock, reader, tunnel.down, tunnel.up, first, end, tunnel.cut, lambda: ident in self.broken)
        except Broken as why:
            raise Broken("%s, %s, %s" % (ident, tunnel.end, why)) from None

    def reply(self, sock, method, ident, kind, body):
        random_ = random.Random(ident)
        echo = b"X-Echo: %s\r\nX-Sum: %s\r\nContent-Type: text/plain\r\n" % (ident, hashlib.md5(body).hexdigest().encode())
        size = {"empty": 0, "big": 90000, "odd": random_.randrange(24300, 25100)}.get(kind, random_.randrange(1, 3000))
        answer, status = text(ident, size), {"none": b"204 n", "unmodified": b"304 n", "error": b"500 n", "needed": b"426 n"}.get(kind, b"200 n")
        head = b"HTTP/1.1 " + status + b"\r\n" + echo
        if kind == "needed":
            head += b"Connection: upgrade\r\nUpgrade: h2c, %s\r\n" % PROTOCOL
        if kind == "interim":
            head = b"HTTP/1.1 103 e\r\nLink: </a>\r\n\r\nHTTP/1.1 102 p\r\n\r\n" + head
        if kind in ("none", "unmodified"):
            out = head + b"\r\n"
        elif kind == "close":
            out = head + b"Connection: close\r\n\r\n" + (b"" if method == b"HEAD" else answer)
        elif kind == "chunked":
            coded = b"" if method == b"HEAD" else chunked(random_, answer) + b"Server: s\r\n\r\n"
            out = head + b"Transfer-Encoding: chunked\r\n\r\n" + coded
        else:
            out = head + b"Content-Length: %d\r\n\r\n" % size + (b"" if method == b"HEAD" else answer)
        at = random_.randrange(len(out)) if random_.random() < 0.3 else len(out)
        sock.sendall(out[:at])
        sock.sendall(out[at:])


# ---- clients


# What a client offers to switch to.
OFFERS = (PROTOCOL, PROTOCOL, PROTOCOL, b"h2c", b"h2c, " + PROTOCOL, PROTOCOL + b", HTTP/2.0", b"bad protocol, " + PROTOCOL)


class Request:
    def __init__(self, random_, ident):
        self.ident = ident
        self.route = random_.choice(("plain",) * 4 + ROUTES)
        self.kind = random_.choice(KINDS + ("switch", "switch"))
        self.method = random_.choice((b"GET", b"GET", b"HEAD", b"POST", b"PUT", b"PUT"))
        self.framing = "none" if self.method in (b"GET", b"HEAD") else random_.choice(("length", "chunked", "chunked"))
        size = random_.choice((0, 1, 10, 500, 3000, 20000, 24300, 40000, 120000)) if self.framing != "none" else 0
        self.body = text(b"b" + ident, size)
        self.trailers = [b"User-Agent: t" + ident] if self.framing == "chunked" and random_.random() < 0.3 else []
        self.expects = self.framing != "none" and size > 0 and random_.random() < 0.1
        self.is_old = random_.random() < 0.05 and self.framing != "chunked"
        self.target = b"/%s/%s/%s" % (self.route.encode(), ident, self.kind.encode())
        head = b"%s %s HTTP/1.%d\r\nHost: a\r\nX-Id: %s\r\n" % (self.method, self.target, not self.is_old, ident)
        if random_.random() < 0.1:
            head += b"X-Long: " + b"l" * random_.randrange(6000) + b"\r\n"
        if self.expects and not self.is_old:
            head += b"Expect: 100-continue\r\n"
        self.offers = random_.choice(OFFERS) if random_.random() < 0.15 or self.kind == "switch" else None
        if self.offers:
            settings = b"HTTP2-Settings: AAMAAABk\r\n" if b"h2c" in self.offers else b""
            nominated = b"Upgrade, HTTP2-Settings" if settings else random_.choice((b"upgrade", b"keep-alive, Upgrade"))
            if self.is_old:
                nominated += b", keep-alive"
            head += b"Connection: %s\r\nUpgrade: %s\r\n%s" % (nominated, self.offers, settings)
        elif self.is_old:
            head += b"Connection: keep-alive\r\n"
        self.asks = not self.is_old and self.offers is not None and PROTOCOL in self.offers
        has_body = self.framing == "chunked" or size > 0
        self.is_refused = self.asks and has_body
        # A body that a filter put there takes the upgrade with it.
        self.has_tunnel = self.asks and not has_body and self.kind == "switch" and self.route not in ("replace", "both")
        self.tunnel = Tunnel(ident)
        if self.framing == "length":
            self.bytes = head + b"Content-Length: %d\r\n\r\n" % size + self.body
        elif self.framing == "chunked":
            tail = b"".join(line + b"\r\n" for line in self.trailers) + b"\r\n"
            self.bytes = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(random_, self.body) + tail
        else:
            self.bytes = head + b"\r\n"
        if self.has_tunnel:
            self.bytes += self.tunnel.up[: self.tunnel.early]

    def is_last(self):
        """Whether no request can come behind it on its connection."""
        return self.has_tunnel

    def sent_on(self):
        """The body that the backend is to see."""
        return b"[%s]" % self.ident if self.route in ("replace", "both") else self.body


class Client:
    def __init__(self, backend, gateway, seed, connections):
        self.backend, self.gateway, self.seed, self.connections = backend, gateway, seed, connections
        self.random, self.problems, self.requests, self.answered = random.Random(seed), [], {}, 0

    def run(self):
        for number in range(self.connections):
            try:
                self.connection(number)
            except (OSError, EOFError):
                pass
            except (Broken, ValueError) as why:
                self.problems.append("seed %s connection %d: %s" % (self.seed, number, why))

    def connection(self, number):
        random_ = self.random
        count = random_.choice((1, 2, 3, 5, 8))
        requests = [Request(random_, b"%s-%d-%d" % (str(self.seed).encode(), number, i)) for i in range(count)]
        last = next((i for i, request in enumerate(requests) if request.is_last()), count)
        requests = requests[: last + 1]
        for request in requests:
            self.requests[request.ident] = request
        with socket.create_connection(("127.0.0.1", self.gateway), timeout=20) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            reader = Reader(sock)
            if random_.random() < 0.4:
                self.pipeline(sock, reader, requests)
            else:
                self.one_by_one(sock, reader, requests)

    def send(self, sock, data):
        cuts = sorted(self.random.randrange(len(data) + 1) for _ in range(self.random.choice((0, 0, 1, 2, 6))))
        for begin, end in zip([0] + cuts, cuts + [len(data)]):
            sock.sendall(data[begin:end])

    def break_off(self, sock, data, requests):
        """Somewhere amid a request."""
        self.backend.broken.update(request.ident for request in requests)
        sock.sendall(data[: self.random.randrange(1, len(data))])
        if self.random.random() < 0.5:
            reset(sock)
        raise EOFError

    def pipeline(self, sock, reader, requests):
        data = b"".join(request.bytes for request in requests)
        is_broken = self.random.random() < 0.15

        def write():
            try:
                if is_broken:
                    self.break_off(sock, data, requests)
                self.send(sock, data)
                self.send_end(sock, requests[-1])
            except (OSError, EOFError):
                pass

        if is_broken:
            write()
            return
        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        for request in requests:
            if not self.reply(reader, request):
                return
            if request.has_tunnel:
                writer.join(20)
                self.use_tunnel(sock, reader, request)
        writer.join(20)

    def one_by_one(self, sock, reader, requests):
        for request in requests:
            if self.random.random() < 0.08:
                self.break_off(sock, request.bytes, [request])
            writer = threading.Thread(target=self.write, args=(sock, request), daemon=True)
            writer.start()
            if not self.reply(reader, request):
                return
            writer.join(20)
            if request.has_tunnel:
                self.use_tunnel(sock, reader, request)

    def write(self, sock, request):
        try:
            self.send(sock, request.bytes)
            self.send_end(sock, request)
        except OSError:
            pass

    @staticmethod
    def send_end(sock, request):
        if request.has_tunnel and request.tunnel.is_ended_early:
            end_sending(sock)

    def use_tunnel(self, sock, reader, request):
        tunnel = request.tunnel
        first = {"together": None, "client": True, "backend": False}.get(tunnel.end)
        end = {"client resets": "us", "backend resets": "them"}.get(tunnel.end)
        try:
            if tunnel.is_ended_early:
                if hear(reader) != tunnel.down:
                    raise Broken("another answer in the tunnel")
            else:
                talk(sock, reader, tunnel.up[tunnel.early :], tunnel.down, first, end, tunnel.cut)
        except Broken as why:
            raise Broken("%s of %r, %s early, %s" % (why, request.target, tunnel.early, tunnel.end)) from None

    def reply(self, reader, request):
        """Reads one answer. False: the connection is over."""
        while True:
            line, fields = read_head(reader)
            version, status = line.split(b" ")[:2]
            if version != b"HTTP/1.1":
                raise Broken("an answer %r to %r" % (line, request.target))
            if status == b"101":
                self.judge_switch(request, fields)
                return True
            if not status.startswith(b"1"):
                break
            if fields.get(b"content-length") or fields.get(b"x-echo"):
                raise Broken("an interim answer with %r" % fields)
        is_bare = request.method == b"HEAD" or status in (b"204", b"304")
        is_closed = False
        if is_bare:
            body = b""
        elif b"content-length" in fields or b"transfer-encoding" in fields:
            body = read_body(reader, fields)[0]
        else:
            body, is_closed = reader.rest(), True
        self.judge(request, status, fields, body)
        return not is_closed and fields.get(b"connection") != b"close"

    def judge_switch(self, request, fields):
        if not request.has_tunnel or fields.get(b"upgrade") != PROTOCOL or fields.get(b"x-echo") != request.ident:
            raise Broken("a switch %r for %r" % (fields, request.target))
        self.answered += 1

    def judge(self, request, status, fields, body):
        echo, what = fields.get(b"x-echo"), "%r %s to %r" % (status, fields, request.target)
        if echo is None:
            is_right = status == b"400" if request.is_refused else status in (b"502", b"503", b"504") or (
                status == b"400" and request.is_old)
            if not is_right:
                raise Broken("an answer of the gateway's own: " + what)
            return
        if request.is_refused or request.has_tunnel and status != b"503":
            raise Broken("no switch and no refusal: " + what)
        if fields.get(b"upgrade", PROTOCOL if status == b"426" else None) != (PROTOCOL if status == b"426" else None):
            raise Broken("it speaks of an upgrade: " + what)
        self.answered += 1
        random_ = random.Random(request.ident)
        if echo != request.ident:
            raise Broken("another's answer %s: %s" % (echo, what))
        if request.kind != "early" and fields[b"x-sum"] != hashlib.md5(request.sent_on()).hexdigest().encode():
            raise Broken("another body came to the backend: " + what)
        size = {"empty": 0, "big": 90000, "odd": random_.randrange(24300, 25100)}.get(request.kind, random_.randrange(1, 3000))
        wanted = text(request.ident, size)
        if request.method == b"HEAD" or status in (b"204", b"304"):
            wanted = b""
        elif request.route in ("stage", "both"):
            wanted = wanted.upper() + b"!"
        elif fields.get(b"content-encoding") == b"gzip" and request.route == "pack":
            body = zlib.decompress(body, 31)
        if body != wanted:
            raise Broken("a body of %d bytes for %d, %r...: %s" % (len(body), len(wanted), body[:80], what))


def judge_upgrade(request, body, fields):
    """What the backend may hear of an upgrade: nothing of HTTP, nothing beside a body, nothing that nobody asked for."""
    wanted = PROTOCOL if request.asks and not body else None
    problems = []
    if request.is_refused:
        problems.append("backend: an upgrade with a body: %r" % request.target)
    if fields.get(b"upgrade") != wanted or (b"upgrade" in fields.get(b"connection", b"").lower()) != (wanted is not None):
        problems.append("backend: offered %r for %r: %r" % (fields.get(b"upgrade"), request.offers, request.target))
    if b"http2-settings" in fields:
        problems.append("backend: HTTP2-Settings: %r" % request.target)
    return problems


def compare(backend, clients):
    problems = []
    known = backend.known  # what was broken off in an earlier run may come late
    for client in clients:
        known.update(client.requests)
    with backend.lock:
        seen, backend.seen = backend.seen, {}
        problems += backend.problems
        backend.problems = []
    for ident, times in seen.items():
        request = known.get(ident)
        if request is None:
            problems.append("backend: a request that nobody sent: %r %r" % (ident, times))
            continue
        for method, target, body, trailers, fields in times:
            wanted = [] if request.route in ("replace", "both") else request.trailers
            got = (method, target, body, [t.split(b": ")[1] for t in trailers], fields.get(b"x-long"))
            sent = (request.method, request.target, request.sent_on(), [t.split(b": ")[1] for t in wanted])
            if got[:3] != sent[:3] or (request.route == "plain" and got[3] != sent[3]):
                problems.append("backend: %r of %d bytes for %r of %d" % (got[:2], len(body), sent[:2], len(sent[2])))
            problems += judge_upgrade(request, body, fields)
    return problems


def run(backend, order):
    clients = [Client(backend, order["gateway"], order["seed"] * 100 + i, order["connections"]) for i in range(THREADS)]
    threads = [threading.Thread(target=client.run, daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    problems = [problem for client in clients for problem in client.problems] + compare(backend, clients)
    return {
        "problems": problems[:20],
        "answered": sum(client.answered for client in clients),
        "sent": sum(len(client.requests) for client in clients),
        "tunnels": backend.tunnels,
    }


def main():
    backend = Backend()
    control = socket.create_server(("127.0.0.1", 0))
    print(json.dumps({"port": backend.port, "control": control.getsockname()[1]}), flush=True)
    while True:
        sock, _ = control.accept()
        with sock, sock.makefile("rw") as lines:
            lines.write(json.dumps(run(backend, json.loads(lines.readline()))) + "\n")


if __name__ == "__main__":
    main()
