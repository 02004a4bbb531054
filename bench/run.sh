#!/usr/bin/env bash
# bench/run.sh: fluxgate (Lua round robin, access log and metrics on) beside nginx, HAProxy, nginx with balancer_by_lua
# and a relay that parses nothing, in one run on two cores. CPU time per request and its ratio to that relay's,
# requests/s, latency, memory.
#
#     bench/run.sh --quick              some three minutes
#     bench/run.sh                      some twelve; --rounds N, --seconds S, --only small64,idle, --peers fluxgate
#
# FLUXGATE_BIN=PATH measures that program instead of building build/release/fluxgate. Nothing outside build/ and a
# temporary folder is written; every server listens on 127.0.0.1 and ends with the run.
set -euo pipefail
cd "$(dirname "$0")/.."

out=build/bench
mkdir -p "$out"
for name in floor backend; do
    [ "$out/$name" -nt "bench/$name.c" ] || ${CC:-cc} -O2 -g -Wall -Wextra -D_GNU_SOURCE -o "$out/$name" "bench/$name.c"
done
if [ -z "${FLUXGATE_BIN:-}" ]; then
    . cmake/dependencies.sh
    build_preset release fluxgate
    FLUXGATE_BIN=build/release/fluxgate
fi
exec python3 bench/bench.py --fluxgate "$(realpath "$FLUXGATE_BIN")" --floor "$out/floor" --backend "$out/backend" "$@"
