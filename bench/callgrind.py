"""bench/callgrind.sh's driver: a short run's counts taken from a long run's leave the instructions of the requests
between them, without start, warm-up and stop."""
import argparse
import collections
import glob
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import types

import measure
import peers

HERE = os.path.dirname(os.path.abspath(__file__))
BASELINE = os.path.join(HERE, "callgrind.baseline")
CONNECTIONS = 16
SHORT, LONG = 3200, 9600  # past LuaJIT's warm-up; the difference is what counts
SCENARIOS = {"small": "/64", "16k": "/16k"}
TOLERANCE = 1.05
LIMIT = 300  # seconds for a run under callgrind


def ask(port, path, count):
    """`count` requests over CONNECTIONS keep-alive connections, all sent before the first answer is read."""
    request = (f"GET {path} HTTP/1.1\r\nHost: bench.example\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\n"
               "Accept-Encoding: gzip, br\r\nCookie: session=0123456789abcdef; theme=dark\r\n\r\n").encode()
    clients = [socket.create_connection(("127.0.0.1", port), 60) for _ in range(CONNECTIONS)]
    for _ in range(count // CONNECTIONS):
        for client in clients:
            client.sendall(request)
        for client in clients:
            read_answer(client)
    for client in clients:
        client.close()


def read_answer(client):
    got = b""
    while b"\r\n\r\n" not in got:
        part = client.recv(65536)
        if not part:
            raise RuntimeError("the gateway closed the connection")
        got += part
    head, _, body = got.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"unexpected answer: {head[:60]}")
    left = int(re.search(rb"(?i)content-length: *(\d+)", head).group(1)) - len(body)
    while left > 0:
        left -= len(client.recv(65536))


def count(o, path, requests, backends, folder):
    """{(function, object): instructions} of the worker over a whole run."""
    run = types.SimpleNamespace(fluxgate=o.fluxgate)
    peer = peers.Peer("fluxgate", run, folder, backends)
    command = ["valgrind", "--tool=callgrind", "--trace-children=yes", f"--callgrind-out-file={folder}/out.%p",
               *peer.command]
    env = {"FLUXGATE_WATCHDOG": "0"}
    process = peers.spawn(command, sorted(os.sched_getaffinity(0))[0], f"{folder}/log", env)
    worker, until = None, time.monotonic() + 60
    try:
        while not peers.answers(peer.port):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"no start under callgrind: {open(folder + '/log', encoding='utf-8').read()[-800:]}")
            time.sleep(0.1)
        worker = next(p for p in measure.tree(process.pid) if measure.comm(p).startswith("fg-worker"))
        ask(peer.port, path, requests)
        process.terminate()
        process.wait(LIMIT)
    finally:
        peers.stop(process)
    return annotated(f"{folder}/out.{worker}")


def annotated(path):
    """The self cost of each function. What was inlined from another file stands without an object: it goes to the
    object that has the function; code without a name is what LuaJIT compiled."""
    if not os.path.exists(path):
        raise RuntimeError(f"callgrind wrote none of {glob.glob(os.path.dirname(path) + '/out.*')} for the worker")
    text = subprocess.run(["callgrind_annotate", "--threshold=100", "--show-percs=no", "--auto=no", path],
                          capture_output=True, text=True, timeout=120, check=True).stdout
    rows = []
    for line in text.splitlines():
        match = re.match(r"\s*([\d,]+)\s+(\S.*?)(?: \[(.*)\])?$", line)
        if match and ":" in match.group(2):
            name = match.group(2).rsplit(":", 1)[1].strip()
            where = os.path.basename(match.group(3)) if match.group(3) else None
            rows.append((name, where, int(match.group(1).replace(",", ""))))
    home = {name: where for name, where, _ in rows if where}
    found = collections.Counter()
    for name, where, cost in rows:
        where = where or home.get(name, "fluxgate")
        found[("compiled", "Lua") if where == "???" else (name, where)] += cost
    return found


def per_request(o, path, backends):
    costs = []
    for requests in (SHORT, LONG):
        folder = tempfile.mkdtemp(prefix="fluxgate-callgrind-")
        try:
            costs.append(count(o, path, requests, backends, folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    long, short = costs[1], costs[0]
    return {key: (long[key] - short[key]) / (LONG - SHORT) for key in long if abs(long[key] - short[key]) > LONG - SHORT}


def read_baseline():
    if not os.path.exists(BASELINE):
        return {}
    with open(BASELINE, encoding="ascii") as file:
        rows = (line.split() for line in file if line.strip() and not line.startswith("#"))
        return {name: int(value) for name, value in rows}


def report(name, cost, top):
    total = sum(cost.values())
    objects = collections.Counter()
    for (_, where), value in cost.items():
        objects[where] += value
    print(f"{name}: {total:.0f} instructions a request")
    for where, value in objects.most_common():
        if value >= 1:
            print(f"  {value:8.0f}  {where}")
    for (function, where), value in collections.Counter(cost).most_common(top):
        print(f"    {value:8.0f}  {function}  [{where}]")
    return total


def main():
    parser = argparse.ArgumentParser(prog="bench/callgrind.sh")
    parser.add_argument("--update", action="store_true", help="write the baseline")
    parser.add_argument("--top", type=int, default=0, help="show this many functions")
    parser.add_argument("--only", choices=SCENARIOS, help="one scenario")
    parser.add_argument("--fluxgate", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--backend", required=True, help=argparse.SUPPRESS)
    o = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="fluxgate-callgrind-")
    backends, baseline, totals, worse = peers.free_ports(3), read_baseline(), {}, []
    backend = peers.spawn([o.backend, *map(str, backends)], sorted(os.sched_getaffinity(0))[-1], f"{folder}/backend")
    try:
        for name, path in SCENARIOS.items():
            if o.only in (None, name):
                totals[name] = report(name, per_request(o, path, backends), o.top)
                known = baseline.get(name)
                if known:
                    print(f"  {totals[name] / known - 1:+8.1%}  beside the baseline of {known}")
                    worse += [name] if totals[name] > known * TOLERANCE else []
    finally:
        peers.stop(backend)
        shutil.rmtree(folder, ignore_errors=True)
    if o.update:
        with open(BASELINE, "w", encoding="ascii") as file:
            file.write("# instructions of a worker for one request (gcc 12, -O2): bench/callgrind.sh --update\n")
            file.writelines(f"{name} {value:.0f}\n" for name, value in {**baseline, **totals}.items())
    elif worse:
        sys.exit(f"more than {TOLERANCE - 1:.0%} above the baseline: {', '.join(worse)}")


if __name__ == "__main__":
    main()
