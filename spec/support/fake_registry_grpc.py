#!/usr/bin/env python3
"""A gRPC registry of the old contract on grpcio, for clients under test: Debian's python3-grpcio (/usr/bin/python3).

Prints {"port":…, "control":…}. Options and control are those of fake_registry.py: "forget", "set" with "fail" (a gRPC
code by its name), "refuse" (success=false), "hang", "v2" (else UNIMPLEMENTED).
"""
import json
import socketserver
import sys
import threading
from concurrent import futures

import grpc

state = {"instances": {}, "calls": [], "fail": None, "refuse": False, "hang": False, "v2": False, "not_found": False}
lock = threading.Lock()
KEYS = {1: "id", 2: "serviceName", 3: "host", 4: "port", 5: "url", 6: "healthPath", 7: "weight", 8: "zone", 9: "version",
        10: "metadata"}


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at


def decode(data):
    fields, at = {}, 0
    while at < len(data):
        key, at = varint(data, at)
        value, at = varint(data, at)
        if key & 7 == 2:
            value, at = data[at:at + value], at + value
        fields[key >> 3] = value
    return fields


def encode_varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode(fields):
    out = b""
    for number, value in fields:
        if isinstance(value, str):
            value = value.encode()
        if isinstance(value, bytes):
            out += encode_varint(number << 3 | 2) + encode_varint(len(value)) + value
        elif value:
            out += encode_varint(number << 3) + encode_varint(int(value))
    return out


def text(value):
    return value.decode() if isinstance(value, bytes) else value


def instance_of(message):
    return {KEYS[number]: text(value) for number, value in decode(message).items() if number in KEYS}


def handle(method, request, context):
    with lock:
        metadata = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        state["calls"].append({"method": "POST", "path": method, "metadata": metadata,
                               "remaining": context.time_remaining()})
        if state["fail"]:
            context.abort(getattr(grpc.StatusCode, state["fail"]), "asked to fail")
    if state["hang"]:
        threading.Event().wait(30)
    fields = decode(request)
    name = method.rsplit("/", 1)[1]
    if method.startswith("/serviceregistry.v2.") and not state["v2"]:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such service")
    with lock:
        if name in ("RegisterService", "RegisterInstance"):
            instance = instance_of(fields[1])
            if not state["refuse"]:
                state["instances"][instance["id"]] = instance
            if name == "RegisterInstance":
                return encode([(1, fields[1]), (2, 30000)])
            return encode([(1, not state["refuse"]), (2, "asked to refuse" if state["refuse"] else "registered")])
        if name == "GetHealthyServices":
            return b"".join(encode([(1, encode([(n, i.get(KEYS[n], "")) for n in range(1, 7)]))])
                            for i in state["instances"].values())
        known = text(fields.get(1, b"")) in state["instances"]
        if name == "DeregisterService":
            state["instances"].pop(text(fields.get(1, b"")), None)
            return encode([(1, 1), (2, "deregistered")])
        if not known and state["not_found"]:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such instance")
        return encode([(1, known), (2, "" if known else "unknown")])


class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda request, context: handle(details.method, request, context))


class Control(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            order = json.loads(line)
            op = order.pop("op", "get")
            with lock:
                if op == "forget":
                    state["instances"].clear()
                elif op == "set":
                    state.update(order)
                answer = {"instances": list(state["instances"].values()), "calls": state["calls"]}
            self.wfile.write(json.dumps(answer).encode() + b"\n")


class ControlServer(socketserver.ThreadingTCPServer):
    daemon_threads = True


options = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
state.update({key: value for key, value in options.items() if key in state})
server = grpc.server(futures.ThreadPoolExecutor(max_workers=8), handlers=[Handler()])
port = server.add_insecure_port(f"127.0.0.1:{options.get('port', 0)}")
server.start()
control = ControlServer(("127.0.0.1", 0), Control)
threading.Thread(target=control.serve_forever, daemon=True).start()
print(json.dumps({"port": port, "control": control.server_address[1]}), flush=True)
server.wait_for_termination()
