#!/usr/bin/env bash
# Installs what the tests need from Debian, if it is missing: the servers and clients that they start, and Python. It
# starts nothing.
set -euo pipefail

missing=()
command -v nats-server >/dev/null || missing+=(nats-server)
command -v redis-server >/dev/null || missing+=(redis-server)
command -v curl >/dev/null || missing+=(curl) # speaks HTTP/2 by prior knowledge
command -v chromium >/dev/null || missing+=(chromium) # has a real EventSource; about 280 MB, 20 s
python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3 python3-venv) # runs the Autobahn suite
[ ${#missing[@]} -eq 0 ] && exit 0

sudo=()
[ "$(id -u)" -eq 0 ] || sudo=(sudo)
echo "installing ${missing[*]}" >&2
"${sudo[@]}" apt-get update -qq
DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
