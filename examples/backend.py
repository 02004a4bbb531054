#!/usr/bin/env python3
"""A backend that knows nothing of the registry: `flux run` speaks for it.

    flux run --service users --port 9001 --host 127.0.0.1 -- python3 examples/backend.py

GET / answers with its name and port, GET /health with 200 (503 once the file named by UNHEALTHY_FILE is there),
GET /slow?ms=500 answers after that time. It ends at SIGTERM when the requests under way are done.
"""
import os
import signal
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

NAME = os.environ.get("BACKEND_NAME") or os.environ.get("SERVICE_NAME", "backend")
PORT = int(os.environ.get("PORT", "9001"))


class Backend(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keep-alive
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body in one write

    def answer(self, status, text):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        url = urlsplit(self.path)
        if url.path == "/health":
            sick = os.path.exists(os.environ.get("UNHEALTHY_FILE", ""))
            return self.answer(503 if sick else 200, "sick\n" if sick else "ok\n")
        if url.path == "/slow":
            time.sleep(int(parse_qs(url.query).get("ms", ["500"])[0]) / 1000)
        return self.answer(200, f"hello from {NAME} on {PORT}\n")

    do_HEAD = do_GET

    def do_POST(self):
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        self.answer(200, f"{NAME} on {PORT} took {length} bytes\n")

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = False  # server_close() waits for the requests under way
    request_queue_size = 128

    def shutdown_idle(self):
        """Ends kept connections that are idle, which would else hold server_close() up."""
        for connection in list(self.open_connections):
            try:
                connection.shutdown(socket.SHUT_RD)
            except OSError:
                pass

    def __init__(self, *args):
        self.open_connections = set()
        super().__init__(*args)

    def process_request(self, request, client_address):
        self.open_connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        self.open_connections.discard(request)
        super().shutdown_request(request)


server = Server(("", PORT), Backend)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
signal.signal(signal.SIGINT, lambda *_: threading.Thread(target=server.shutdown).start())
print(f"{NAME} serves on {PORT}", flush=True)
server.serve_forever(poll_interval=0.1)
server.shutdown_idle()
server.server_close()
