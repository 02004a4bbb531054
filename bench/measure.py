"""What a process tree used, read from /proc."""
import os

TICK = os.sysconf("SC_CLK_TCK")


def tree(root):
    """The process and all that descend from it."""
    children = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            stat = stat_of(int(name))
            if stat:
                children.setdefault(stat[0], []).append(int(name))
    found, queue = [], [root]
    while queue:
        pid = queue.pop()
        found.append(pid)
        queue += children.get(pid, [])
    return found


def stat_of(pid):
    """(parent, user seconds, system seconds) or None for one that is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[1]), int(fields[11]) / TICK, int(fields[12]) / TICK


def run_time(pid):
    """Seconds on a CPU, to the nanosecond (schedstat, all threads); None where the kernel keeps none."""
    total = 0
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/schedstat", encoding="ascii") as file:
                total += int(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return total / 1e9


def comm(pid):
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def cpu(pids):
    """{pid: (user, system, exact)} in seconds. `exact` is the sum where schedstat has it: stat counts in ticks."""
    found = {}
    for pid in pids:
        stat = stat_of(pid)
        if stat:
            exact = run_time(pid)
            found[pid] = (stat[1], stat[2], exact if exact is not None else stat[1] + stat[2])
    return found


def spent(before, after):
    """(user, system) seconds between two readings of cpu(): the exact sum, split as the ticks say."""
    user = system = exact = 0.0
    for pid, now in after.items():
        then = before.get(pid, (0.0, 0.0, 0.0))
        user += now[0] - then[0]
        system += now[1] - then[1]
        exact += now[2] - then[2]
    ticks = user + system
    share = user / ticks if ticks > 0 else 0.5
    return exact * share, exact * (1 - share)


def memory(pids):
    """(RSS, PSS) bytes of a tree; pages that several share count once in PSS."""
    rss = pss = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
                for line in file:
                    if line.startswith("Rss:"):
                        rss += int(line.split()[1]) * 1024
                    elif line.startswith("Pss:"):
                        pss += int(line.split()[1]) * 1024
        except OSError:
            pass
    return rss, pss
