"""Both ends of one large transfer: a backend, and on order a client, which wait, dawdle and then hurry in turn, while
the memory of the gateway's worker between them is watched. Started by support.helper; orders: start, result."""
import json
import os
import re
import socket
import sys
import threading
import time

BLOCK = os.urandom(1 << 20)
LOOP = BLOCK + BLOCK
PART = 65536
DAWDLE = 100  # reads with a pause before each


class Meter:
    """How far a sender got; when it stands still, the one who does not read has stopped the whole line."""

    def __init__(self):
        self.sent = 0

    def wait_for_standstill(self, sample):
        last, since, until = -1, time.monotonic(), time.monotonic() + 10
        while time.monotonic() < until:
            if self.sent != last:
                last, since = self.sent, time.monotonic()
            elif last > 0 and time.monotonic() - since > 0.3:
                return last
            sample()
            time.sleep(0.02)
        raise RuntimeError("the sender was never held up")


def body(total):
    at = 0
    while at < total:
        n = min(PART, total - at)
        yield LOOP[at % len(BLOCK):at % len(BLOCK) + n]
        at += n


def send_body(sock, framing, total, meter, stop=None):
    for part in body(total):
        if stop is not None and meter.sent >= stop:
            return
        if framing == "chunked":
            part = b"%x\r\n%s\r\n" % (len(part), part)
        sock.sendall(part)
        meter.sent += PART
    if framing == "chunked":
        sock.sendall(b"0\r\n\r\n")


def read_head(file):
    lines = []
    while True:
        line = file.readline()
        if line in (b"\r\n", b""):
            return b"".join(lines)
        lines.append(line)


def parts(file, framing, total):
    """The data of a body as it comes, at most PART bytes at once."""
    left = total
    while framing != "chunked":
        want = PART if framing == "close" else min(PART, left)
        data = file.read1(want) if want else b""
        if not data:
            return
        left -= len(data)
        yield data
    while True:
        size = int(file.readline() or b"-1", 16)
        if size < 0:
            raise RuntimeError("cut inside a chunked body")
        while size > 0:
            data = file.read1(min(PART, size))
            if not data:
                raise RuntimeError("cut inside a chunk")
            size -= len(data)
            yield data
        file.readline()
        if not data_follows(file):
            return


def data_follows(file):
    """Leaves the file before the next chunk's size, or behind the last chunk."""
    if file.peek(1)[:1] != b"0":
        return True
    file.readline()
    file.readline()
    return False


def take(file, framing, total, sample, slow=True):
    """Reads a body, first slowly, then as fast as it comes: bytes, and whether each was what was sent."""
    got, intact = 0, True
    for number, data in enumerate(parts(file, framing, total)):
        at = got % len(BLOCK)
        intact = intact and data == LOOP[at:at + len(data)]
        got += len(data)
        if slow and number < DAWDLE:
            time.sleep(0.002)
        if number % 64 == 0:
            sample()
    return got, intact


def framing_line(framing, total):
    return {"length": b"Content-Length: %d\r\n" % total, "chunked": b"Transfer-Encoding: chunked\r\n", "close": b""}[framing]


class Run:
    def __init__(self, order, backend):
        self.order, self.backend = order, backend
        self.done, self.error, self.base, self.most = None, None, None, 0
        self.meter = Meter()
        self.framing, self.total = order.get("framing", "length"), order["bytes"]
        self.thread = threading.Thread(target=self.main, daemon=True)

    def sample(self):
        with open(f"/proc/{self.order['pid']}/smaps_rollup", encoding="ascii") as file:
            dirty = int(re.search(r"Private_Dirty:\s+(\d+)", file.read()).group(1)) * 1024
        if self.base is None:
            self.base = dirty
        self.most = max(self.most, dirty - self.base)

    def main(self):
        try:
            self.sample()
            with socket.create_connection(("127.0.0.1", self.order["port"]), 20) as sock:
                self.done = getattr(self, self.order["what"])(sock)
        except Exception as error:  # told to the spec, which has the logs
            self.error = repr(error)

    def download(self, sock):
        sock.sendall(b"GET /download HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        stalled = self.meter.wait_for_standstill(self.sample)
        file = sock.makefile("rb", PART)
        head = read_head(file)
        framing = "chunked" if b"chunked" in head.lower() else self.framing
        got, intact = take(file, framing, self.total, self.sample)
        return {"bytes": got, "intact": intact, "stalled": stalled, "rest": len(file.read())}

    def upload(self, sock):
        sock.sendall(b"POST /upload HTTP/1.1\r\nHost: a\r\nConnection: close\r\n%s\r\n" % framing_line(self.framing, self.total))
        send_body(sock, self.framing, self.total, self.meter)
        file = sock.makefile("rb")
        read_head(file)
        return json.loads(file.read())

    def tunnel(self, sock):
        sock.sendall(b"GET /tunnel HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
        file = sock.makefile("rb", PART)
        head = read_head(file)
        if b" 101 " not in head:
            raise RuntimeError(f"no tunnel: {head!r}")

        def send():
            send_body(sock, "close", self.total, self.meter)
            sock.shutdown(socket.SHUT_WR)

        threading.Thread(target=send, daemon=True).start()
        stalled = self.meter.wait_for_standstill(self.sample)
        got, intact = take(file, "close", self.total, self.sample)
        return {"bytes": got, "intact": intact, "stalled": stalled}


class Backend:
    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.run = None

    def serve(self):
        while True:
            sock, _ = self.listener.accept()
            sock.settimeout(20)
            threading.Thread(target=self.on_connection, args=(sock,), daemon=True).start()

    def on_connection(self, sock):
        with sock:
            file = sock.makefile("rb", PART)
            line = read_head(file).split(b"\r\n")[0]
            try:
                if b"/download" in line:
                    self.on_download(sock)
                elif b"/upload" in line:
                    self.on_upload(sock, file)
                elif b"/tunnel" in line:
                    self.on_tunnel(sock, file)
            except OSError:
                pass  # the gateway went: the client's side tells

    def on_download(self, sock):
        run = self.run
        sock.sendall(b"HTTP/1.1 200 OK\r\n%sConnection: close\r\n\r\n" % framing_line(run.framing, run.total))
        send_body(sock, run.framing, run.total, run.meter, run.order.get("cut"))

    def on_upload(self, sock, file):
        run = self.run
        stalled = run.meter.wait_for_standstill(run.sample)
        got, intact = take(file, run.framing, run.total, run.sample)
        answer = json.dumps({"bytes": got, "intact": intact, "stalled": stalled}).encode()
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer))

    def on_tunnel(self, sock, file):
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
        while data := file.read1(PART):
            sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)


def obey(backend, order):
    if order["op"] == "start":
        backend.run = Run(order, backend)
        backend.run.thread.start()
        return {}
    run = backend.run
    if run.thread.is_alive():
        return {"running": True}
    return {"failed": run.error} if run.error else {**run.done, "grown": run.most}


def main():
    backend = Backend()
    threading.Thread(target=backend.serve, daemon=True).start()
    control = socket.create_server(("127.0.0.1", 0))
    print(json.dumps({"port": backend.port, "control": control.getsockname()[1]}), flush=True)
    while True:
        sock, _ = control.accept()
        with sock, sock.makefile("rwb") as file:
            file.write(json.dumps(obey(backend, json.loads(file.readline()))).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
