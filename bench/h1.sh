#!/usr/bin/env bash
# bench/h1.sh: time and instructions of one HTTP/1 message through core/http, out of the release build. Instructions are
# compared with bench/h1.baseline, so that a regression shows on a noisy machine: past 5 % more it exits 1. The rest that
# differs between processors is libc's memcpy and memchr. `bench/h1.sh --update` writes the baseline.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${BUILD:-build/release}
program=$(mktemp)
trap 'rm -f "$program" "$program".out' EXIT
${CC:-cc} -std=gnu11 -O2 -I. bench/h1.c "$build"/libroom_http.a "$build"/libroom_base.a -lxxhash -o "$program"

instructions() {
    valgrind --tool=callgrind --callgrind-out-file="$program".out "$program" "$1" "$2" 2>&1 | awk '/Collected/ { print $4 }'
}

status=0
new=
for name in request-small request-browser response chunked; do
    "$program" "$name" 1000000
    many=$(instructions "$name" 2000)
    few=$(instructions "$name" 1000)
    each=$(((many - few) / 1000))
    base=$(awk -v name="$name" '$1 == name { print $2 }' bench/h1.baseline 2>/dev/null || true)
    printf '%-16s %8d instructions a message (baseline %s)\n' "$name" "$each" "${base:-none}"
    new+="$name $each"$'\n'
    if [ -n "$base" ] && [ "$each" -gt $((base + base / 20)) ]; then
        printf '%-16s more than 5 %% above its baseline\n' "$name"
        status=1
    fi
done
if [ "${1:-}" = --update ]; then
    printf '%s' "$new" >bench/h1.baseline
    status=0
fi
exit $status
