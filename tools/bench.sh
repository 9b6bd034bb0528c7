#!/usr/bin/env bash
# Figures of a fresh server under load, one JSON object a line.
#
#   HSLOAD=/path/to/hsload tools/bench.sh [SCENARIO...]
#
# HSLOAD            the load generator
# BENCH_DATABASE    sqlite (default), mariadb (a private server), or an SQLAlchemy URL of an empty database
# BENCH_SECONDS     length of the timed scenarios (default 15)
# BENCH_PORT        port on loopback (default: a free one)
# BENCH_TLS         1: over TLS, with a certificate of its own making
# BENCH_USERS       users of fanout, fanout-ws and sockets
# BENCH_RATE        messages a second of fanout-ws and sockets
#
# The CPU time of a database server is not in `cpu_ms_per_op`: that is the homeserver's alone.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "bench: $*" >&2; }
: "${HSLOAD:?names the load generator: make bench HSLOAD=/path/to/hsload}"
[ -x "$HSLOAD" ] || { say "$HSLOAD cannot be run"; exit 1; }

python=.venv/bin/python
seconds=${BENCH_SECONDS:-15}
database=${BENCH_DATABASE:-sqlite}
scenarios=("$@")
[ $# -gt 0 ] || scenarios=(send oneroom fanout isync poll messages joins)

work=$(mktemp -d)
server=
clean_up() {
    if [ -n "$server" ] && kill "$server" 2>/dev/null; then
        wait "$server" || true
    fi
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

label=$database
case $database in
    sqlite) url=sqlite:///$work/homeserver.db ;;
    # It ends by itself when this script does.
    mariadb) url=$($python -m tests.support.databases start "$work/mariadb" $$) ;;
    *) url=$database label=${database%%:*} ;;
esac
port=${BENCH_PORT:-$($python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')}

scheme=http tls_lines= insecure=()
if [ "${BENCH_TLS:-}" = 1 ]; then
    scheme=https insecure=(-insecure)
    paths=$($python -c 'import sys; from pathlib import Path; from tests.support.certificates import Authority
certificate, key = Authority(Path(sys.argv[1])).certificate("127.0.0.1")
print(f"tls_certificate_path = \"{certificate}\"\ntls_key_path = \"{key}\"")' "$work/tls")
    tls_lines=$paths
fi

cat >"$work/sennit.toml" <<TOML
[server]
name = "bench.localhost"
data_dir = "$work/data"

[[listeners]]
port = $port
$tls_lines

[stream]
sessions_per_address = 100000
max_sessions = 100000

[database]
url = "$url"

[registration]
shared_secret = "bench"
bcrypt_rounds = 4

# The played server of the federation scenarios has a certificate of its own making, on loopback.
[federation]
verify_certificates = false
ip_range_denylist = []
trusted_key_servers = []

[log]
level = "warning"
file = "$work/log"
TOML
# Every rate limit that there is, raised out of the way.
$python - >>"$work/sennit.toml" <<'PYTHON'
from homeserver.config import FederationLimit, Limits, RateLimit

print("\n[limits]")
for name, field in Limits.model_fields.items():
    if field.annotation in (RateLimit, RateLimit | None):
        print(f"{name} = {{ per_second = 1e6, burst_count = 1000000 }}")
print("\n[limits.federation]\nsleep_limit = 1000000\nreject_limit = 1000000\nconcurrent = 1000")
PYTHON

# Started without a wrapper: the process id must be that of the server itself.
$python -m homeserver run --config "$work/sennit.toml" >"$work/out" 2>&1 &
server=$!
answers=0
for _ in $(seq 100); do
    $python - "$port" <<'PYTHON' 2>/dev/null && answers=1 && break
import socket, sys
socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=5)
PYTHON
    kill -0 "$server" 2>/dev/null || break
    sleep 0.1
done
if [ "$answers" = 0 ]; then
    tail -n 30 "$work/out" "$work/log" >&2 || true
    say "the server did not start"
    exit 1
fi

rss_kib=$(awk '/^VmRSS/ { print $2 }' "/proc/$server/status")
echo "{\"scenario\":\"start\",\"label\":\"$label\",\"rss_mib\":$((rss_kib / 1024))}"

load=("$HSLOAD" -url "$scheme://127.0.0.1:$port" "${insecure[@]}" -secret bench -pid "$server" -label "$label")
for scenario in "${scenarios[@]}"; do
    case $scenario in
        send | oneroom) flags=(-users 20 -seconds "$seconds") ;;
        fanout) flags=(-users "${BENCH_USERS:-100}" -rate 1 -seconds "$seconds") ;;
        fanout-ws) flags=(-users "${BENCH_USERS:-200}" -rate "${BENCH_RATE:-5}" -seconds "$seconds" -ws) ;;
        sockets) flags=(-users "${BENCH_USERS:-10000}" -rate "${BENCH_RATE:-300}" -seconds "$seconds") ;;
        isync) flags=(-rooms 50 -events 10 -runs 5) ;;
        poll) flags=(-users 20 -seconds "$seconds") ;;
        messages) flags=(-events 400 -runs 5) ;;
        joins) flags=(-users "${BENCH_JOINS:-60}") ;;
        fedin) flags=(-events "${BENCH_EVENTS:-1000}") ;;
        fedout) flags=(-users 20 -events "${BENCH_EVENTS:-1000}") ;;
        fedjoin) flags=(-users "${BENCH_JOINS:-2000}") ;;
        *) flags=() ;;
    esac
    "${load[@]}" "${flags[@]}" "${scenario%-ws}" || say "$scenario failed"
done
if [ -s "$work/log" ]; then
    say "the server's log:"
    tail -n 20 "$work/log" >&2
fi
