#!/usr/bin/env bash
# examples/quickstart.sh: from a fresh checkout to real traffic: installs what is missing, builds, starts registry, gateway
# and three backends that join through flux, sends requests through each shipped strategy and shows where they went.
#
#   examples/quickstart.sh          runs on until Ctrl-C
#   examples/quickstart.sh --once   shows the same, then exits 0, or 1 with what failed
set -u
cd "$(dirname "$0")/.." || exit 1
. cmake/dependencies.sh

once=0
case ${1:-} in
--once) once=1 ;;
'') ;;
--help | -h)
    sed -n '2,6s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
*)
    printf "quickstart: no such option '%s'; try --once or --help\n" "$1" >&2
    exit 64
    ;;
esac

work=$(mktemp -d)
gateway=
backends=()

cleanup() {
    trap - EXIT INT TERM
    [ ${#backends[@]} = 0 ] || kill -TERM "${backends[@]}" 2>/dev/null
    [ ${#backends[@]} = 0 ] || wait "${backends[@]}" 2>/dev/null
    [ -z "$gateway" ] || kill -TERM "$gateway" 2>/dev/null
    [ -z "$gateway" ] || wait "$gateway" 2>/dev/null
    rm -rf "$work"
}
trap cleanup EXIT
trap 'printf "\n"; say "stopping"; exit 0' INT TERM

fail() {
    printf 'quickstart: %s\n' "$1" >&2
    [ ! -s "$work/gateway.log" ] || { printf '%s\n' '--- the gateway said:' >&2; tail -n 20 "$work/gateway.log" >&2; }
    for log in "$work"/backend-*.log; do
        [ ! -s "$log" ] || { printf '%s\n' "--- $(basename "$log" .log) said:" >&2; tail -n 5 "$log" >&2; }
    done
    exit 1
}

install_dependencies build || exit 1
build_preset release fluxgate flux || exit 1

# A port that nobody holds: the usual one, else the next free one.
free_port() {
    python3 - "$@" <<'PY'
import socket, sys
port, taken = int(sys.argv[1]), {int(p) for p in sys.argv[2:]}
while True:
    with socket.socket() as s:
        try:
            if port in taken:
                raise OSError
            s.bind(("127.0.0.1", port))
            print(port)
            break
        except OSError:
            port += 1
PY
}

GATEWAY_PORT=$(free_port 8080)
REGISTRY_PORT=$(free_port 8081 "$GATEWAY_PORT")
REGISTRY_GRPC_PORT=$(free_port 9091)
ADMIN_PORT=$(free_port 9901)
STICKY_SECRET=$(python3 -c 'import secrets; print(secrets.token_hex(16))')
export GATEWAY_PORT REGISTRY_PORT REGISTRY_GRPC_PORT ADMIN_PORT STICKY_SECRET
url=http://127.0.0.1:$GATEWAY_PORT

until_true() { # what command...
    local what=$1 tries=0
    shift
    while ! "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 150 ] || fail "$what did not happen within 15 s"
        [ -z "$gateway" ] || kill -0 "$gateway" 2>/dev/null || fail "the gateway ended"
        sleep 0.1
    done
}

say "starting the gateway with its registry (log: it is shown if something fails)"
build/release/fluxgate run -c examples/quickstart.yaml >"$work/gateway.log" 2>&1 &
gateway=$!
until_true "the gateway's start" curl -fsS "http://127.0.0.1:$ADMIN_PORT/ready"

say "starting three backends under flux run"
port=9101
for name in red green blue; do
    port=$(free_port "$port")
    zone=here
    [ "$name" != blue ] || zone=there
    BACKEND_NAME=$name build/release/flux run --service demo --id "demo-$name" --zone "$zone" --host 127.0.0.1 \
        --port "$port" --registry "http://127.0.0.1:$REGISTRY_PORT" -- python3 examples/backend.py \
        >"$work/backend-$name.log" 2>&1 &
    backends+=($!)
    port=$((port + 1))
done

registered() {
    [ "$(curl -fsS "http://127.0.0.1:$REGISTRY_PORT/api/v1/services/demo/healthy" | grep -o '"id"' | wc -l)" = 3 ]
}
three_serve() { # route
    local i
    for i in 1 2 3 4 5 6 7 8 9 10 11 12; do curl -fsS "$url/$1"; done | grep -o -E '\b(red|green|blue)\b' | sort -u | wc -l | grep -qx 3
}
all_healthy() {
    [ "$(curl -fsS "http://127.0.0.1:$ADMIN_PORT/metrics" | grep -c '^loadbalancer_backend_status{.* 1$')" -ge 33 ]
}
until_true "the registration of three backends" registered
until_true "the backends' first health checks" all_healthy
until_true "traffic to all three backends" three_serve round_robin

requests() { # count route [curl options...]: one keep-alive connection
    local count=$1 route=$2
    shift 2
    curl -fsS "$@" "$url/$route?[1-$count]" || fail "a request to /$route failed"
}

declare -A got
row() { # strategy what-was-sent: counts the answers in its file, prints them, keeps them in got[NAME]
    local strategy=$1 line name
    printf -v line '  %-18s' "$strategy"
    for name in red green blue; do
        got[$name]=$(grep -o -w "$name" "$work/$strategy" | wc -l)
        line+=$(printf '%6d' "${got[$name]}")
    done
    printf '%s   %s\n' "$line" "$2"
}

is() { # what-should-be-true expression
    (($2)) || fail "$1, but red, green and blue had ${got[red]}, ${got[green]} and ${got[blue]} requests"
}

printf '\n  %-18s%6s%6s%6s\n' strategy red green blue
requests 300 round_robin >"$work/round_robin" || exit 1
row round_robin "300 requests, one after the other"
is "round_robin takes equal turns" "got[red] == 100 && got[green] == 100 && got[blue] == 100"
for strategy in least_connections power_of_two peak_ewma; do
    for i in 1 2 3 4; do
        # four clients at once, so that there is load to compare
        requests 75 "$strategy" >"$work/$strategy.$i" &
        clients[i]=$!
    done
    wait "${clients[@]}" || fail "a client of /$strategy failed"
    cat "$work/$strategy".? >"$work/$strategy"
    row "$strategy" "300 requests of four clients at once"
    is "$strategy uses all three" "got[red] > 0 && got[green] > 0 && got[blue] > 0"
done
requests 300 weighted_random >"$work/weighted_random" || exit 1
row weighted_random "300 requests, one after the other"
is "weighted_random uses all three" "got[red] > 0 && got[green] > 0 && got[blue] > 0"
requests 150 sticky_sessions -c "$work/jar" -b "$work/jar" >"$work/sticky_sessions" || exit 1
row sticky_sessions "150 requests of one browser, which keeps its cookie"
is "a session stays where it is" "got[red] == 150 || got[green] == 150 || got[blue] == 150"
for strategy in consistent_hash maglev; do
    for user in ann bob cid; do
        requests 50 "$strategy" -H "X-User: $user" >"$work/$strategy.$user" || exit 1
        [ "$(grep -o -w -E 'red|green|blue' "$work/$strategy.$user" | sort -u | wc -l)" = 1 ] ||
            fail "$strategy sent one user to several backends"
    done
    cat "$work/$strategy".??? >"$work/$strategy"
    row "$strategy" "50 requests each of three users, by a header"
done
requests 150 zone_aware >"$work/zone_aware" || exit 1
row zone_aware "150 requests; blue is in another zone"
is "zone_aware stays in its zone" "got[red] == 75 && got[green] == 75"
requests 150 priority_failover >"$work/priority_failover" || exit 1
row priority_failover "150 requests; blue is the spare"
is "priority_failover spares the spare" "got[red] == 75 && got[green] == 75"
requests 150 fill_first >"$work/fill_first" || exit 1
row fill_first "150 requests, never more than one under way"
is "fill_first fills one before the next" "got[blue] == 150"

cat <<TEXT

  try   curl -i $url/                     (again and again)
  see   http://127.0.0.1:$ADMIN_PORT/             the endpoints, as a page
        http://127.0.0.1:$ADMIN_PORT/metrics      for Prometheus
        http://127.0.0.1:$REGISTRY_PORT/api/v1/services   who is registered
  edit  strategies/round_robin.lua, then  kill -HUP $gateway  (the supervisor): no request is lost
  write  your own: build/release/fluxgate new strategy mine
  stop  a backend: kill -9 its python3; it leaves the rotation within two seconds

TEXT
if [ "$once" = 1 ]; then
    say "done"
    exit 0
fi
say "running until Ctrl-C"
wait "$gateway"
fail "the gateway ended"
