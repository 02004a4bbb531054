#!/usr/bin/env python3
"""A grpc.health.v1 server on grpcio, for health policies under test: Debian's python3-grpcio (/usr/bin/python3).

(Not grpc_health.py: grpcio imports a module of that name.) Prints {"port":…, "control":…}. Options and control ("set"): "services": name → serving status (1 SERVING, 2 NOT_SERVING,
or the name of a gRPC code to fail with); a name that is not there is NOT_FOUND. "get" answers the calls so far.
"""
import json
import socketserver
import sys
import threading
from concurrent import futures

import grpc

state = {"services": {"": 1}, "calls": []}
lock = threading.Lock()


def check(request, context):
    """HealthCheckRequest { string service = 1; } → HealthCheckResponse { ServingStatus status = 1; }"""
    name = request[2:].decode() if request else ""
    assert not request or (request[0] == 0x0A and request[1] == len(request) - 2)
    metadata = dict(context.invocation_metadata())
    with lock:
        state["calls"].append({"service": name, "agent": metadata.get("user-agent")})
        status = state["services"].get(name, "NOT_FOUND")
    if isinstance(status, str):
        context.abort(getattr(grpc.StatusCode, status), "asked to fail")
    return bytes([0x08, status]) if status else b""


class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method != "/grpc.health.v1.Health/Check":
            return None
        return grpc.unary_unary_rpc_method_handler(check)


class Control(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            order = json.loads(line)
            with lock:
                if order.pop("op", "get") == "set":
                    state.update(order)
                self.wfile.write(json.dumps({"calls": state["calls"]}).encode() + b"\n")


class ControlServer(socketserver.ThreadingTCPServer):
    daemon_threads = True


options = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
state.update(options)
server = grpc.server(futures.ThreadPoolExecutor(max_workers=4), handlers=[Handler()])
port = server.add_insecure_port("127.0.0.1:0")
server.start()
control = ControlServer(("127.0.0.1", 0), Control)
threading.Thread(target=control.serve_forever, daemon=True).start()
print(json.dumps({"port": port, "control": control.server_address[1]}), flush=True)
server.wait_for_termination()
