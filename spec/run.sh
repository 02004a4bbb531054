#!/usr/bin/env bash
# spec/run.sh: installs what is missing, builds, runs every test. The last line is "N passed, N failed", counted from the
# runners' own summaries; the exit code is 1 where one failed.
#
#   spec/run.sh                 everything
#   spec/run.sh unit            C and Lua units alone
#   spec/run.sh integration     the real binaries alone
#   PRESET=asan spec/run.sh     the same on the sanitizers' build
set -u
cd "$(dirname "$0")/.." || exit 1
. cmake/dependencies.sh

what=${1:-all}
preset=${PRESET:-release}
passed=0
failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

case $what in
all | unit | integration) ;;
*)
    printf 'usage: spec/run.sh [all|unit|integration]\n' >&2
    exit 64
    ;;
esac

install_dependencies test || exit 1
build_preset "$preset" || exit 1
build=build/$preset
export FLUXGATE_BIN=$PWD/$build/fluxgate FLUX_BIN=$PWD/$build/flux FLUXGATE_BUILD=$PWD/$build
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=1:abort_on_error=0} UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}

# One cmocka program. A crash before its summary is one failure.
run_cmocka() {
    local program=$1 good bad status=0
    CMOCKA_MESSAGE_OUTPUT=stdout timeout 300 "$program" >"$log" 2>&1 || status=$?
    good=$(sed -n 's/^\[  PASSED  \] \([0-9]*\) test(s).*/\1/p' "$log" | tail -n 1)
    bad=$(sed -n 's/^ *\([0-9]*\) FAILED TEST(S).*/\1/p' "$log" | tail -n 1)
    good=${good:-0}
    bad=${bad:-0}
    if [ "$status" != 0 ] && [ "$bad" = 0 ]; then bad=1; fi
    # a program that ran nothing proves nothing, unless it says that it cannot run here
    if [ "$good" = 0 ] && [ "$bad" = 0 ] && ! grep -q '^\[  SKIPPED \]' "$log"; then bad=1; fi
    passed=$((passed + good))
    failed=$((failed + bad))
    if [ "$bad" != 0 ]; then
        printf '%s\n' "--- $program failed (exit $status)"
        grep -v -E '^\[ +(RUN|OK) +\]' "$log" | tail -n 40
    fi
}

# One busted run over a file or folder.
run_busted() {
    local status=0 counts good bad errors
    timeout 1500 luajit /usr/bin/busted --output=plainTerminal --lpath='./?.lua;./?/init.lua;./lua/?.lua;./lua/?/init.lua' \
        --pattern=_spec "$@" >"$log" 2>&1 || status=$?
    counts=$(sed -n 's/^\([0-9]*\) success[a-z]* \/ \([0-9]*\) failure[a-z]* \/ \([0-9]*\) error[a-z]* .*/\1 \2 \3/p' "$log" | tail -n 1)
    read -r good bad errors <<<"${counts:-0 0 0}"
    bad=$((bad + errors))
    if [ "$status" != 0 ] && [ "$bad" = 0 ]; then bad=1; fi
    if [ "$good" = 0 ] && [ "$bad" = 0 ]; then bad=1; fi
    passed=$((passed + good))
    failed=$((failed + bad))
    if [ "$bad" != 0 ]; then
        printf '%s\n' "--- busted $* failed (exit $status)"
        tail -n 120 "$log"
    fi
}

if [ "$what" != integration ]; then
    say "C units (cmocka)"
    for program in "$build"/test_*; do
        [ -x "$program" ] && [ -f "$program" ] && run_cmocka "$program"
    done
    say "Lua units (busted)"
    run_busted spec/unit
    run_busted examples
    say "luacheck"
    if luacheck -q --formatter plain lua strategies examples docs spec >"$log" 2>&1; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        cat "$log"
    fi
fi

if [ "$what" != unit ]; then
    for spec in spec/integration/*_spec.lua; do
        say "$spec"
        run_busted "$spec"
    done
fi

printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
