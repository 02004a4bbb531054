"""bench/run.sh's driver: each competitor in turn under the same load, each figure beside the floor of its own round."""
import argparse
import json
import os
import platform
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import measure
import peers

HERE = os.path.dirname(os.path.abspath(__file__))
KINDS = ["floor", "fluxgate", "nginx", "haproxy", "nginx-lua"]

# name: connections, path, bytes uploaded, further headers, in --quick, budget (DESIGN: times the floor's CPU), title
SCENARIOS = {
    "small64": (64, "/64", 0, [], True, 1.10, "64 connections, 64 B responses"),
    "small512": (512, "/64", 0, [], True, 1.12, "512 connections, 64 B responses"),
    "16k64": (64, "/16k", 0, [], True, 1.25, "64 connections, 16 KiB responses"),
    "16k512": (512, "/16k", 0, [], False, None, "512 connections, 16 KiB responses"),
    "1m64": (64, "/1m", 0, [], True, 1.20, "64 connections, 1 MiB responses"),
    "1m512": (512, "/1m", 0, [], False, None, "512 connections, 1 MiB responses"),
    "upload64": (64, "/64", 16384, [], True, None, "64 connections, 16 KiB uploads"),
    "upload512": (512, "/64", 16384, [], False, None, "512 connections, 16 KiB uploads"),
    "close64": (64, "/64", 0, ["Connection: close"], True, None, "64 clients, a connection for each request"),
    "filter64": (64, "/64", 0, ["User-Agent: bench"], True, None,
                 "64 connections, 64 B: a filter that does nothing, and one that reads two headers and sets one"),
}
# Scenarios with competitors of their own: the same program with and without.
KINDS_OF = {"filter64": ["floor", "fluxgate", "fluxgate-empty", "fluxgate-filter", "nginx-lua", "nginx-lua-filter"]}
IDLE = "idle"
COLUMNS = ["scenario", "round", "peer", "requests", "seconds", "cpu_us", "user_us", "system_us", "control_us",
           "ratio", "rps", "p50_us", "p99_us", "busy", "rss_bytes", "pss_bytes", "errors"]


def options():
    parser = argparse.ArgumentParser(prog="bench/run.sh", description="fluxgate beside nginx, HAProxy, nginx with a "
                                     "Lua balancer, and a relay that parses nothing")
    parser.add_argument("--quick", action="store_true", help="fewer scenarios, 3 rounds of 1 s, 2,000 idle connections")
    parser.add_argument("--rounds", type=int, help="rounds of each scenario (5; 3 with --quick)")
    parser.add_argument("--seconds", type=int, help="of load in a round (3; 1 with --quick)")
    parser.add_argument("--only", help=f"scenarios, by comma: {', '.join([*SCENARIOS, IDLE])}")
    parser.add_argument("--peers", help=f"competitors, by comma: {', '.join(KINDS)}; the floor always runs")
    parser.add_argument("--idle", type=int, help="idle connections (10000; 2000 with --quick)")
    parser.add_argument("--cpus", help="cores as GATEWAY,LOAD; else the last two that this process may use")
    parser.add_argument("--peer-logs", action="store_true", help="peers write an access log too, as fluxgate always does")
    parser.add_argument("--out", default=os.path.join(HERE, "..", "build", "bench"), help="folder of results.json, .tsv")
    parser.add_argument("--fluxgate", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--floor", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--backend", required=True, help=argparse.SUPPRESS)
    o = parser.parse_args()
    o.rounds = o.rounds or (3 if o.quick else 5)
    o.seconds = o.seconds or (1 if o.quick else 3)
    o.idle = o.idle or (2000 if o.quick else 10000)
    known = [*SCENARIOS, IDLE]
    if o.only:
        o.scenarios = o.only.split(",")
    else:
        o.scenarios = [n for n in known if n == IDLE or not o.quick or SCENARIOS[n][4]]
    o.kinds = o.peers.split(",") if o.peers else KINDS
    for name in o.scenarios:
        if name not in known:
            parser.error(f"no scenario {name}; there are {', '.join(known)}")
    for kind in o.kinds:
        if kind not in KINDS:
            parser.error(f"no competitor {kind}; there are {', '.join(KINDS)}")
    o.kinds = [k for k in KINDS if k in o.kinds or k == "floor"]
    choose_cores(o, parser)
    return o


def choose_cores(o, parser):
    allowed = sorted(os.sched_getaffinity(0))
    cores = [int(c) for c in o.cpus.split(",")] if o.cpus else allowed[-2:][::-1]
    if len(cores) != 2 or cores[0] == cores[1]:
        parser.error("two cores are needed: one for the gateway, one for load and backends")
    o.gateway_core, o.load_core = cores
    o.nofile = 65536
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (o.nofile, o.nofile))
    except (ValueError, OSError):  # not root: what the hard limit gives
        o.nofile = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (o.nofile, o.nofile))
    room = (o.nofile - 600) // 2  # the floor holds two for each client, and fluxgate keeps as many free
    if o.idle > room:
        print(f"note: open files are limited to {o.nofile}, so {room} idle connections instead of {o.idle}")
        o.idle = room


def kinds(o, scenario):
    """Who takes part: of a scenario's own kinds those whose program was chosen and is there."""
    own = KINDS_OF.get(scenario, o.kinds)
    return [k for k in own if k.removesuffix("-filter").removesuffix("-empty") in o.kinds]


def is_worker(kind, pid, root):
    name = measure.comm(pid)
    return name.startswith("fg-worker") if kind.startswith("fluxgate") else pid != root or kind in ("floor", "haproxy")


def load(o, peer, scenario):
    """One run of wrk against one competitor: its line of figures."""
    connections, path, upload, headers = SCENARIOS[scenario][:4]
    pids = measure.tree(peer.process.pid)
    workers = [p for p in pids if is_worker(peer.kind, p, peer.process.pid)]
    before, started = measure.cpu(pids), time.monotonic()
    command = ["wrk", "-t1", f"-c{connections}", f"-d{o.seconds}s", "--latency", "-s", f"{HERE}/wrk.lua"]
    for header in headers:
        command += ["-H", header]
    sizes = []
    sampler = threading.Timer(o.seconds * 0.7, lambda: sizes.append(measure.memory(pids)))
    sampler.start()
    try:
        done = subprocess.run([*command, f"http://127.0.0.1:{peer.port}{path}"], capture_output=True, text=True,
                              timeout=o.seconds + 20, check=False, env={**os.environ, "BENCH_UPLOAD": str(upload)})
    finally:
        sampler.join()
    time.sleep(0.05)  # the closes are part of the work
    after, wall = measure.cpu(pids), time.monotonic() - started
    line = next((l for l in done.stdout.splitlines() if l.startswith("BENCH ")), None)
    if line is None:
        state = peer.process.poll()
        ended = "runs" if state is None else f"ended with {state}"
        raise RuntimeError(f"wrk: {done.stdout}{done.stderr.strip()}; {peer.kind} {ended}: {peers.tail(peer.dir)}")
    requests, duration, broken, late, status, p50, p99, _ = map(int, line.split()[1:])
    if requests == 0:
        raise RuntimeError(f"{peer.kind} answered nothing in {scenario}: {done.stdout}{peers.tail(peer.dir)}")
    user, system = measure.spent(before, after)
    inner = sum(measure.spent(before, {p: after[p] for p in workers if p in after}))
    micro = 1e6 / requests
    return {"scenario": scenario, "peer": peer.kind, "requests": requests, "seconds": duration / 1e6,
            "cpu_us": (user + system) * micro, "user_us": user * micro, "system_us": system * micro,
            "control_us": max(0.0, user + system - inner) * micro, "rps": requests / (duration / 1e6),
            "p50_us": p50, "p99_us": p99, "busy": (user + system) / wall, "rss_bytes": sizes[0][0],
            "pss_bytes": sizes[0][1], "errors": broken + late + status}


def hold_idle(o, peer):
    """Memory before and after `o.idle` clients each had one answer and stayed."""
    clients = []
    request = b"GET /64 HTTP/1.1\r\nHost: bench\r\n\r\n"
    try:
        for n in range(100 + o.idle):
            if n == 100:  # the first hundred warm it up and go
                for client in clients:
                    client.close()
                clients = []
                time.sleep(0.2)
                before = measure.memory(measure.tree(peer.process.pid))
            client = socket.create_connection(("127.0.0.1", peer.port), 5)
            client.sendall(request)
            if not client.recv(4096).startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"{peer.kind} refused idle client {n}: {peers.tail(peer.dir)}")
            clients.append(client)
        time.sleep(0.5)
        after = measure.memory(measure.tree(peer.process.pid))
    finally:
        for client in clients:
            client.close()
    return {"scenario": IDLE, "peer": peer.kind, "connections": o.idle, "rss_bytes": after[0], "pss_bytes": after[1],
            "bytes_per_connection": (after[1] - before[1]) / o.idle}


def run_scenario(o, scenario, folder, backends):
    """All rounds of one scenario, competitors started for it and stopped after it; its lines of figures."""
    rows, running = [], []
    try:
        for kind in kinds(o, scenario):
            peer = peers.Peer(kind, o, tempfile.mkdtemp(prefix=scenario, dir=folder), backends)
            running.append(peer)
            peer.start()
        if scenario == IDLE:
            return [hold_idle(o, peer) for peer in running]
        for number in range(o.rounds + 1):  # round 0 warms up
            turn = number % len(running)
            now = []
            for peer in running[turn:] + running[:turn]:
                row = load(o, peer, scenario)
                row["round"] = number
                now.append(row)
            floor = next(r["cpu_us"] for r in now if r["peer"] == "floor")
            for row in now:
                row["ratio"] = row["cpu_us"] / floor
            rows += now if number > 0 else []
            progress(f"{scenario}: round {number} of {o.rounds}")
    finally:
        for peer in running:
            peer.stop()
        progress("")
    return rows


def progress(text):
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K" + text)
        sys.stderr.flush()


def medians(rows):
    """{peer: figures}: the median of each column over the rounds, and the spread of the ratio."""
    found = {}
    for peer in dict.fromkeys(r["peer"] for r in rows):
        mine = [r for r in rows if r["peer"] == peer]
        found[peer] = {c: statistics.median(r[c] for r in mine) for c in COLUMNS[3:]}
        found[peer]["errors"] = sum(r["errors"] for r in mine)
        found[peer]["ratio_low"], found[peer]["ratio_high"] = (f(r["ratio"] for r in mine) for f in (min, max))
    return found


def print_scenario(scenario, rows):
    *_, budget, title = SCENARIOS[scenario]
    table = medians(rows)
    print(f"\n{scenario}: {title}" + (f"; fluxgate's budget is {budget:.2f} x the floor" if budget else ""))
    print(f"  {'':17}{'CPU us':>9}{'user':>9}{'system':>9}{'x floor':>9}{'(range)':>13}{'req/s':>9}{'p50 ms':>8}"
          f"{'p99 ms':>8}{'busy':>6}{'RSS MiB':>9}{'PSS MiB':>9}{'errors':>7}")
    for peer in [k for k in KINDS_OF.get(scenario, KINDS) if k in table]:
        m = table[peer]
        spread = f"{m['ratio_low']:.2f}-{m['ratio_high']:.2f}"
        print(f"  {peer:17}{m['cpu_us']:9.2f}{m['user_us']:9.2f}{m['system_us']:9.2f}{m['ratio']:9.2f}{spread:>13}"
              f"{m['rps']:9.0f}{m['p50_us'] / 1e3:8.2f}{m['p99_us'] / 1e3:8.2f}{m['busy'] * 100:5.0f}%"
              f"{m['rss_bytes'] / 2**20:9.1f}{m['pss_bytes'] / 2**20:9.1f}{m['errors']:7.0f}")
        if peer == "fluxgate":
            print(f"  {'':17}{m['control_us']:9.2f} of it in control and supervisor")
    sys.stdout.flush()
    return {peer: {**m, "scenario": scenario, "peer": peer} for peer, m in table.items()}


def print_idle(rows):
    print(f"\nidle: {rows[0]['connections']} keep-alive connections that had one answer each; fluxgate's budget is 1024 B")
    print(f"  {'':11}{'bytes/connection':>17}{'RSS MiB':>9}{'PSS MiB':>9}")
    for r in rows:
        print(f"  {r['peer']:11}{r['bytes_per_connection']:17.0f}{r['rss_bytes'] / 2**20:9.1f}{r['pss_bytes'] / 2**20:9.1f}")
    sys.stdout.flush()
    return {r["peer"]: r for r in rows}


def version(command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except OSError:
        return None
    return (done.stdout + done.stderr).splitlines()[0]


def about(o):
    return {"date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "kernel": platform.release(),
            "cores": {"gateway": o.gateway_core, "load": o.load_core}, "rounds": o.rounds, "seconds": o.seconds,
            "peer_logs": o.peer_logs, "load_average": os.getloadavg()[0],
            "nginx": version([peers.find("nginx") or "nginx", "-v"]),
            "haproxy": version([peers.find("haproxy") or "haproxy", "-v"])}


def save(o, what, rows, summary):
    os.makedirs(o.out, exist_ok=True)
    with open(os.path.join(o.out, "results.json"), "w", encoding="utf-8") as file:
        json.dump({"about": what, "summary": summary, "rows": rows}, file, indent=1)
        file.write("\n")
    with open(os.path.join(o.out, "results.tsv"), "w", encoding="utf-8") as file:
        file.write("\t".join([*COLUMNS, "bytes_per_connection"]) + "\n")
        for row in rows:
            file.write("\t".join(format(row[c], ".6g") if isinstance(row.get(c), float) else str(row.get(c, ""))
                                 for c in [*COLUMNS, "bytes_per_connection"]) + "\n")


def main():
    o = options()
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, lambda *_: sys.exit(1))
    if peers.missing("wrk"):
        sys.exit(peers.missing("wrk"))
    for kind in list(o.kinds):
        lack = peers.missing(kind)
        if lack:
            print(f"without {lack}")
            o.kinds.remove(kind)
    os.sched_setaffinity(0, {o.load_core})
    what = about(o)
    print(f"gateway on core {o.gateway_core}, load and backends on core {o.load_core}; medians of {o.rounds} rounds of "
          f"{o.seconds} s; x floor: CPU beside the floor's in the same round; load average {what['load_average']:.1f}")
    folder, rows, summary, backend = tempfile.mkdtemp(prefix="fluxgate-bench-"), [], {}, None
    os.chmod(folder, 0o755)
    try:
        backends = peers.free_ports(3)
        backend = peers.spawn([o.backend, *map(str, backends)], o.load_core, os.path.join(folder, "backend.log"))
        until = time.monotonic() + 5
        while not all(peers.answers(p) for p in backends) and time.monotonic() < until:
            time.sleep(0.02)
        for scenario in o.scenarios:
            new = run_scenario(o, scenario, folder, backends)
            rows += new
            summary[scenario] = print_idle(new) if scenario == IDLE else print_scenario(scenario, new)
            save(o, what, rows, summary)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        if backend:
            peers.stop(backend)
        shutil.rmtree(folder, ignore_errors=True)
    print(f"\nevery run: {os.path.relpath(o.out)}/results.tsv, results.json")


if __name__ == "__main__":
    main()
