#!/usr/bin/env python3
"""Fails where an include points upwards in the tree, or lua.h is included outside core/script."""
import os
import re
import sys

# What each room may include beside itself; base is open to all.
BELOW = {
    "core/base": [],
    "core/config": ["core/base"],
    "core/shm": ["core/base"],
    "core/net": ["core/base", "core/config"],
    "core/http": ["core/base"],
    "core/metrics": ["core/base", "core/shm", "core/http"],
    "core/serve": ["core/base", "core/http", "core/net"],
    "core/script": ["core/base", "core/config", "core/shm", "core/net", "core/http", "core/metrics"],
}
LOWER = list(BELOW)
BELOW["core/proxy"] = LOWER
BELOW["core/discovery"] = LOWER
BELOW["core/health"] = LOWER
BELOW["core/admin"] = LOWER + ["core/discovery", "core/health"]
BELOW["registry"] = ["core/base", "core/config", "core/net", "core/http", "core/serve"]
BELOW["flux"] = ["core/base", "core/config", "core/net", "core/http", "core/serve"]
BELOW["core/main"] = list(BELOW)


def room_of(path):
    parts = path.split("/")
    return "/".join(parts[:2]) if parts[0] == "core" else parts[0]


def main(root):
    bad = 0
    for top in ("core", "registry", "flux"):
        for folder, _, files in os.walk(os.path.join(root, top)):
            for name in files:
                if not name.endswith((".c", ".h")):
                    continue
                path = os.path.relpath(os.path.join(folder, name), root)
                room = room_of(path)
                for number, line in enumerate(open(os.path.join(root, path), encoding="utf-8"), 1):
                    found = re.match(r'\s*#\s*include\s+([<"])([^>"]+)', line)
                    if not found:
                        continue
                    kind, target = found.groups()
                    if re.search(r"(^|/)(lua|lauxlib|lualib|luajit)\.h$", target) and room != "core/script":
                        print(f"{path}:{number}: only core/script may include {target}")
                        bad += 1
                    if kind == '"' and target.startswith(("core/", "registry/", "flux/")):
                        other = room_of(target)
                        if other != room and other not in BELOW[room]:
                            print(f"{path}:{number}: {room} may not include {other}: includes point downwards")
                            bad += 1
    return 1 if bad else 0


sys.exit(main(sys.argv[1]))
