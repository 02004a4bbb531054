#!/usr/bin/env bash
# bench/callgrind.sh: instructions that a worker runs for one keep-alive request, counted under callgrind. Time varies
# with the machine's other work; this hardly does, so that a regression shows on any machine.
#
#     bench/callgrind.sh                compares with bench/callgrind.baseline: exit 1 past +5 %
#     bench/callgrind.sh --top 40       and the functions that the instructions went to
#     bench/callgrind.sh --update       writes the baseline
#
# FLUXGATE_BIN=PATH measures that program (built with -O2) instead of building build/release/fluxgate.
set -euo pipefail
cd "$(dirname "$0")/.."

out=build/bench
mkdir -p "$out"
if ! command -v valgrind >/dev/null; then
    echo "no valgrind; install it with: apt-get install valgrind" >&2
    exit 1
fi
[ "$out/backend" -nt bench/backend.c ] ||
    ${CC:-cc} -O2 -g -Wall -Wextra -D_GNU_SOURCE -o "$out/backend" bench/backend.c
if [ -z "${FLUXGATE_BIN:-}" ]; then
    . cmake/dependencies.sh
    build_preset release fluxgate
    FLUXGATE_BIN=build/release/fluxgate
fi
exec python3 bench/callgrind.py --fluxgate "$(realpath "$FLUXGATE_BIN")" --backend "$out/backend" "$@"
