#!/usr/bin/env python3
"""Load for specs: GETs (or POSTs) over kept connections, every outcome counted. Prints one JSON object at its end.

It ends after --requests, after --duration seconds or at SIGTERM, whichever is first; requests under way then finish.
A failure is anything but a whole response: what the client would have seen as an error, with the time and the reason.
"""
import argparse
import asyncio
import json
import signal
import time
from urllib.parse import urlsplit


class Load:
    def __init__(self, args):
        self.args, self.url = args, urlsplit(args.url)
        self.left = args.requests if args.requests else float("inf")
        self.deadline = time.monotonic() + args.duration if args.duration else float("inf")
        self.stopping = self.told = False
        self.begun = time.time()
        self.result = {"requests": 0, "ok": 0, "statuses": {}, "bodies": {}, "failures": {}, "failed": [], "bad": [],
                       "connections": 0, "replayed": 0}
        self.times = []
        self.sent = 0
        path = (self.url.path or "/") + (f"?{self.url.query}" if self.url.query else "")
        head = [f"{args.method} {path} HTTP/1.1", f"Host: {args.host or self.url.netloc}"]
        head += args.header or []
        body = b"b" * args.body_bytes
        if body or args.method == "POST":
            head.append(f"Content-Length: {len(body)}")
        self.request = "\r\n".join(head + ["", ""]).encode("latin-1") + body

    def more(self):
        if self.stopping or self.left <= 0 or time.monotonic() >= self.deadline:
            return False
        self.left -= 1
        return True

    def fail(self, why):
        self.result["failures"][why] = self.result["failures"].get(why, 0) + 1
        if len(self.result["failed"]) < 50:
            self.result["failed"].append([round(time.time() - self.begun, 4), why])

    async def one(self, link):
        """One request on link = [reader, writer] or []; the link is emptied when the connection is over."""
        fresh = not link
        if fresh:
            try:
                link[:] = await asyncio.open_connection(self.url.hostname, self.url.port)
                self.result["connections"] += 1
            except OSError as error:
                return f"connect: {type(error).__name__}"
        reader, writer = link
        got = b""
        try:
            writer.write(self.request)
            await writer.drain()
            got = await reader.readuntil(b"\r\n\r\n")
            head = got.decode("latin-1").split("\r\n")
            status = int(head[0].split(" ")[1])
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
            if headers.get("transfer-encoding"):
                body = b""
                while size := int((await reader.readline()).split(b";")[0], 16):
                    body += (await reader.readexactly(size + 2))[:-2]
                while await reader.readline() != b"\r\n":
                    pass
            elif "content-length" in headers:
                body = await reader.readexactly(int(headers["content-length"]))
            elif status in (204, 304):
                body = b""
            else:
                body = await reader.read(-1)
                headers["connection"] = "close"
        except (asyncio.IncompleteReadError, ConnectionError, ValueError) as error:
            self.drop(link)
            partial = got or getattr(error, "partial", b"")
            # RFC 9112 §9.3.1: a kept connection may be closed at any time, so a client replays an idempotent request
            # of which no answer came back on a reused one.
            if not fresh and not partial and self.args.replay and self.args.method == "GET":
                self.result["replayed"] += 1
                return await self.one(link)
            return f"{'cut short' if partial else 'no response'}: {type(error).__name__}"
        if self.args.close or headers.get("connection", "").lower() == "close":
            self.drop(link)
        self.count(status, body)
        return None

    def count(self, status, body):
        result = self.result
        result["statuses"][str(status)] = result["statuses"].get(str(status), 0) + 1
        text = body[:80].decode("latin-1").strip()
        result["bodies"][text] = result["bodies"].get(text, 0) + 1
        result["ok"] += 200 <= status < 400
        if status >= 400 and len(result["bad"]) < 50:
            result["bad"].append([round(time.time() - self.begun, 4), status, text])

    @staticmethod
    def drop(link):
        if link:
            link[1].close()
        link.clear()

    async def client(self):
        link = []
        while self.more():
            self.result["requests"] += 1
            started = time.perf_counter()
            try:
                why = await asyncio.wait_for(self.one(link), self.args.timeout)
            except asyncio.TimeoutError:
                self.drop(link)
                why = "timeout"
            if why:
                self.fail(why)
                await asyncio.sleep(0.002)  # a refused port must not turn into a busy loop
            else:
                self.times.append(time.perf_counter() - started)
            if not self.told:
                self.told = True
                print("begun", flush=True)
            if self.args.rate:
                self.sent += 1
                await asyncio.sleep(max(0, self.begun + self.sent / self.args.rate - time.time()))
        self.drop(link)

    async def run(self):
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, lambda: setattr(self, "stopping", True))
        await asyncio.gather(*(self.client() for _ in range(self.args.concurrency)))
        times = sorted(self.times)
        for name, part in (("p50", 0.5), ("p99", 0.99), ("max", 1)):
            self.result[name + "_ms"] = round(1000 * times[min(len(times) - 1, int(part * len(times)))], 3) if times else 0
        self.result["seconds"] = round(time.time() - self.begun, 3)
        print(json.dumps(self.result), flush=True)


parser = argparse.ArgumentParser()
parser.add_argument("url")
parser.add_argument("--requests", type=int, default=0)
parser.add_argument("--duration", type=float, default=0)
parser.add_argument("--concurrency", type=int, default=4)
parser.add_argument("--timeout", type=float, default=15)
parser.add_argument("--rate", type=float, default=0, help="requests a second over all connections")
parser.add_argument("--method", default="GET")
parser.add_argument("--host")
parser.add_argument("--header", action="append")
parser.add_argument("--body-bytes", type=int, default=0)
parser.add_argument("--close", action="store_true", help="a new connection for each request")
parser.add_argument("--replay", action="store_true", help="replay a GET whose reused connection was closed")
asyncio.run(Load(parser.parse_args()).run())
