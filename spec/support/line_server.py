#!/usr/bin/env python3
"""A server of lines, for probes over a socket: what it answers to a line stands in "answers" (null: nothing, ever;
false: it closes); "greeting" is said first. Prints {"port":…, "control":…}; control: "set" changes them, "get" answers the
lines that came."""
import json
import socketserver
import sys
import threading

state = {"answers": {}, "greeting": "", "lines": []}
state.update(json.loads(sys.argv[1]) if len(sys.argv) > 1 else {})


class Lines(socketserver.StreamRequestHandler):
    def handle(self):
        try:
            self.wfile.write(state["greeting"].encode("latin-1"))
            for line in self.rfile:
                text = line.decode("latin-1").rstrip("\r\n")
                state["lines"].append(text)
                answer = state["answers"].get(text)
                if answer is False:
                    return
                if answer is not None:
                    self.wfile.write(answer.encode("latin-1"))
        except OSError:
            pass


class Control(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            order = json.loads(line)
            if order.pop("op", "get") == "set":
                state.update(order)
            self.wfile.write(json.dumps({"lines": state["lines"]}).encode() + b"\n")


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


server, control = Server(("127.0.0.1", 0), Lines), Server(("127.0.0.1", 0), Control)
threading.Thread(target=control.serve_forever, daemon=True).start()
print(json.dumps({"port": server.server_address[1], "control": control.server_address[1]}), flush=True)
server.serve_forever()
