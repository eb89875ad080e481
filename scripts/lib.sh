# Shared by the scripts beside it: `source` it first.
# shellcheck shell=bash

set -euo pipefail

# shellcheck disable=SC2034 # used by the scripts that source this
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${OUTBOX_CACHE:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/outbox}
# shellcheck disable=SC2034
venv=$cache/venv kafka_jars=$cache/kafka-4.1.1
# shellcheck disable=SC2034
bench_venv=$cache/bench-venv debezium_jars=$cache/debezium-3.6.1
# shellcheck disable=SC2034
jdbc_version=42.7.7 node_postgres_version=8.16.3
# shellcheck disable=SC2034
jdbc_jar=$cache/postgresql-$jdbc_version.jar

say() { printf '%s\n' "$*" >&2; }
die() {
    say "${0##*/}: $*"
    exit 1
}

# retry TIMES COMMAND...: a mirror that hiccups or a package lock held by somebody else passes in a while.
retry() {
    local times=$1 try
    shift
    for ((try = 1; ; try++)); do
        "$@" && return 0
        ((try < times)) || return 1
        say "  failed, again in $((try * 5)) s: $*"
        sleep $((try * 5))
    done
}

# wait_until SECONDS COMMAND...: until the command succeeds; fails when the time is over.
wait_until() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || return 1
        sleep 0.1
    done
}

# Somebody listens on 127.0.0.1:PORT.
port_in_use() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# A port nobody listens on, below the range that outgoing connections take theirs from.
free_port() {
    local port
    for _ in {1..100}; do
        port=$((20000 + RANDOM % 12000))
        port_in_use "$port" || {
            echo "$port"
            return
        }
    done
    die 'no free port found'
}

# PostgreSQL refuses to run as root: its programs then run as the user postgres.
as_postgres() {
    if [[ $EUID -eq 0 ]]; then
        (cd / && exec setpriv --reuid=postgres --regid=postgres --init-groups -- "$@")
    else
        "$@"
    fi
}

# Debian keeps the server's programs out of PATH.
pg_bin() {
    local config=${PG_CONFIG:-pg_config}
    if command -v "$config" >/dev/null; then
        "$config" --bindir
    elif [[ -x /usr/lib/postgresql/15/bin/postgres ]]; then
        echo /usr/lib/postgresql/15/bin
    else
        die 'PostgreSQL is not installed: scripts/setup demo'
    fi
}

as_root() {
    if [[ $EUID -eq 0 ]]; then "$@"; else sudo "$@"; fi
}

# quietly LOG COMMAND...: its output matters only when it fails.
quietly() {
    local log=$1
    shift
    "$@" >"$log" 2>&1 && return
    tail -n 30 "$log" >&2
    die "failed: $* (whole output: $log)"
}

# What clang-format, and what shfmt and shellcheck, look at.
cxx_files() {
    local folder
    for folder in src test/unit test/fuzz tools bench/load; do
        if [[ -d $root/$folder ]]; then find "$root/$folder" -name '*.cc' -o -name '*.[ch]pp' -o -name '*.[ch]'; fi
    done
}
shell_files() {
    local file line
    while read -r file; do
        read -r line <"$file" || true
        if [[ $line =~ ^'#!'.*sh$ || $file == *.sh ]]; then echo "$file"; fi
    done < <(find "$root"/{scripts,demo,docker,bench,.ci} -type f)
}
