#!/usr/bin/env python3
"""The old registry's REST contract (and, with "v2", POST /api/v2/instances), able to forget, fail, hang and count.

Prints {"port":…, "control":…}. Control, one JSON object a line: {"op": "get"} → instances and calls; "forget" (all ids, or
"id"); "set" with "fail" (a status for every call), "hang" (true: calls are never answered), "v2" (false: 404).
"""
import json
import socketserver
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

state = {"instances": {}, "calls": [], "fail": 0, "hang": False, "v2": False, "token": None}
lock = threading.Lock()
released = threading.Event()
BASE = "/api/v1/services"


class Registry(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status, value=None):
        body = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        if body:
            self.send_header("Content-Type", "application/json")
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def register(self, body):
        try:
            instance = json.loads(body)
        except ValueError:
            return self.answer(400)
        if not all(instance.get(key) for key in ("id", "serviceName", "url", "healthPath")):
            return self.answer(400)
        state["instances"][instance["id"]] = instance
        return self.answer(201, instance)

    def handle_call(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.split("?")[0]
        with lock:
            state["calls"].append({"method": self.command, "path": self.path, "body": body.decode("utf-8", "replace"),
                                   "authorization": self.headers.get("Authorization"),
                                   "content_type": self.headers.get("Content-Type")})
            hang, fail = state["hang"], state["fail"]
        if hang:
            released.wait()
            return None
        if fail:
            return self.answer(fail)
        if state["token"] and self.headers.get("Authorization") != "Bearer " + state["token"]:
            return self.answer(401)
        with lock:
            instances = state["instances"]
            last = unquote(path.rsplit("/", 1)[1])
            if self.command == "POST" and path == BASE + "/register":
                return self.register(body)
            if self.command == "POST" and path == "/api/v2/instances" and state["v2"]:
                return self.register(body)
            if self.command == "POST" and path.startswith(BASE + "/heartbeat/"):
                return self.answer(200 if last in instances else 404)
            if self.command == "DELETE" and path.startswith(BASE + "/deregister/"):
                instances.pop(last, None)
                return self.answer(204)
            if self.command == "GET" and path == BASE:
                return self.answer(200, list(instances.values()))
            if self.command == "GET" and path.endswith("/healthy") and path.startswith(BASE + "/"):
                name = unquote(path[len(BASE) + 1:-len("/healthy")])
                return self.answer(200, [i for i in instances.values() if i["serviceName"] == name])
        return self.answer(404)

    do_GET = do_POST = do_DELETE = handle_call


class Control(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            order = json.loads(line)
            op = order.pop("op", "get")
            with lock:
                if op == "forget":
                    if "id" in order:
                        state["instances"].pop(order["id"], None)
                    else:
                        state["instances"].clear()
                elif op == "set":
                    state.update(order)
                    if order.get("hang") is False:
                        released.set()
                        released.clear()
                answer = {"instances": list(state["instances"].values()), "calls": state["calls"]}
                self.wfile.write(json.dumps(answer).encode() + b"\n")
                if op == "reset":
                    state["calls"] = []


class ControlServer(socketserver.ThreadingTCPServer):
    daemon_threads = True


ThreadingHTTPServer.daemon_threads = True
port = json.loads(sys.argv[1]).get("port", 0) if len(sys.argv) > 1 else 0
if len(sys.argv) > 1:
    state.update({key: value for key, value in json.loads(sys.argv[1]).items() if key in state})
server = ThreadingHTTPServer(("127.0.0.1", port), Registry)
control = ControlServer(("127.0.0.1", 0), Control)
threading.Thread(target=control.serve_forever, daemon=True).start()
print(json.dumps({"port": server.server_address[1], "control": control.server_address[1]}), flush=True)
server.serve_forever()
