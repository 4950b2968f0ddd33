#!/bin/sh
# Runs the Autobahn suite against the gateway's WebSocket framing (the example ws_echo).
#
#   tests/autobahn/run.sh short    a selection of some seconds, see short.txt
#   tests/autobahn/run.sh all      every case
#
# WS_ECHO_BIN names a server that is built already; without it a release build is made.
# The report is written to target/autobahn (or below CARGO_TARGET_DIR), index.html first.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
venv=$root/.venv/autobahn

if ! "$venv/bin/python" -c 'import kosoku' 2>/dev/null; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r "$here/requirements.txt"
fi

if [ -z "${WS_ECHO_BIN:-}" ]; then
    (cd "$root" && cargo build --release -j2 -p fanfare-gateway --example ws_echo)
    WS_ECHO_BIN=$target/release/examples/ws_echo
fi

exec "$venv/bin/python" "$here/run.py" --server "$WS_ECHO_BIN" --report "$target/autobahn" "${1:-short}"
