#!/usr/bin/env bash
# Installs valgrind from Debian, if it is missing, for `make instructions`.
set -euo pipefail

command -v valgrind >/dev/null && exit 0
sudo=()
[ "$(id -u)" -eq 0 ] || sudo=(sudo)
echo "installing valgrind" >&2
"${sudo[@]}" apt-get update -qq
# The C library's symbols (libc6-dbg), which Debian recommends with it, are not needed: nothing of it is looked up by name.
DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends valgrind >&2
