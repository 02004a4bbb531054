# cmake/dependencies.sh: sourced by examples/quickstart.sh and spec/run.sh. debian/control is the one list of what is needed.
#
#   install_dependencies build   what the programs need
#   install_dependencies test    and what the tests need

say() { printf '==> %s\n' "$*"; }

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo "$@"
    else
        printf 'error: this needs root, and there is no sudo: %s\n' "$*" >&2
        return 1
    fi
}

# apt starts every server it installs, Prometheus among the test tools: a policy says no while it runs.
with_no_servers() {
    local policy=/usr/sbin/policy-rc.d status=0
    if [ -e "$policy" ]; then
        "$@"
        return
    fi
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
    "$@" || status=$?
    as_root rm -f "$policy"
    return "$status"
}

install_debian() { # build|test
    local profile=()
    [ "$1" = test ] || profile=(-P nocheck)
    if command -v dpkg-checkbuilddeps >/dev/null 2>&1 && dpkg-checkbuilddeps "${profile[@]}" debian/control >/dev/null 2>&1; then
        return 0
    fi
    say "installing what debian/control lists (a minute or two on a new machine)"
    as_root apt-get update -qq || return 1
    with_no_servers as_root env DEBIAN_FRONTEND=noninteractive apt-get build-dep -y -qq --no-install-recommends \
        -o Dpkg::Use-Pty=0 "${profile[@]}" ./ >/tmp/fluxgate-apt.$$ 2>&1 || {
        tail -n 25 /tmp/fluxgate-apt.$$ >&2
        printf 'error: apt-get could not install the packages of debian/control\n' >&2
        return 1
    }
    rm -f /tmp/fluxgate-apt.$$
}

# Another distribution: names what is missing, goes on when nothing is.
check_other() { # build|test
    local missing=() name
    for name in cmake ninja cc pkg-config protoc-c python3 curl; do
        command -v "$name" >/dev/null 2>&1 || missing+=("program $name")
    done
    for name in luajit libevent libnghttp2 openssl libcurl libprotobuf-c yaml-0.1 jansson sqlite3 libxxhash \
        zlib libzstd liburing; do
        pkg-config --exists "$name" 2>/dev/null || missing+=("library $name (with its headers)")
    done
    [ -e /usr/include/mimalloc.h ] || [ -e /usr/local/include/mimalloc.h ] || missing+=("library mimalloc")
    if [ "$1" = test ]; then
        for name in luajit busted luacheck clang valgrind promtool prometheus nghttp openssl wrk zstd; do
            command -v "$name" >/dev/null 2>&1 || missing+=("program $name")
        done
        pkg-config --exists cmocka 2>/dev/null || missing+=("library cmocka")
        luajit -e 'require "posix" require "socket" require "cjson"' >/dev/null 2>&1 ||
            missing+=("Lua modules posix, socket, cjson for LuaJIT")
        /usr/bin/python3 -c 'import grpc, google.protobuf' >/dev/null 2>&1 || missing+=("Python modules grpc, protobuf")
    fi
    [ ${#missing[@]} = 0 ] && return 0
    printf 'error: this is not Debian, and these are missing; install them with your package manager:\n' >&2
    printf '  %s\n' "${missing[@]}" >&2
    return 1
}

install_dependencies() {
    if command -v apt-get >/dev/null 2>&1 && [ -e /etc/debian_version ]; then
        install_debian "$1"
    else
        check_other "$1"
    fi
}

# Configures and builds one preset; quiet unless it fails.
build_preset() { # preset [targets...]
    local preset=$1 log
    shift
    log=$(mktemp)
    say "building ($preset)"
    if ! { cmake --preset "$preset" && cmake --build --preset "$preset" ${1:+--target "$@"}; } >"$log" 2>&1; then
        tail -n 60 "$log" >&2
        rm -f "$log"
        printf 'error: the %s build failed\n' "$preset" >&2
        return 1
    fi
    rm -f "$log"
}
