#!/usr/bin/env bash
# bench/pick.sh: nanoseconds of a pick(), C call to C return, for each shipped strategy over 3 to 10,000 endpoints. The
# budget is 250 ns for round_robin and least_connections over 10.
#
#     bench/pick.sh [STRATEGY...]
#
# BUILD=FOLDER links the rooms built there instead of building build/release.
set -euo pipefail
cd "$(dirname "$0")/.."

out=build/bench
mkdir -p "$out"
if [ -z "${BUILD:-}" ]; then
    . cmake/dependencies.sh
    build_preset release fluxgate
    BUILD=build/release
fi
libraries=()
for room in script http net metrics shm config base; do
    [ -e "$BUILD/libroom_$room.a" ] && libraries+=("$BUILD/libroom_$room.a")
done
# shellcheck disable=SC2046 # the flags are words
${CC:-cc} -std=gnu11 -O2 -g -Wall -Wextra -D_GNU_SOURCE -I. -I"$BUILD/generated" -rdynamic -o "$out/pick" bench/pick.c \
    -Wl,--start-group "${libraries[@]}" -Wl,--end-group \
    $(pkg-config --cflags --libs luajit openssl jansson libevent libxxhash yaml-0.1 libnghttp2) -lmimalloc -ldl -lm
FLUXGATE_SHARE=${FLUXGATE_SHARE:-$PWD} exec "$out/pick" "$@"
