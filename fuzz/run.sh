#!/bin/sh
# Runs each fuzz target for a bounded time: fuzz/run.sh [SECONDS per target, 60]
#
# A crash fails the run and leaves its input in fuzz/artifacts. What was learned stays in
# fuzz/corpus for the next run. cargo-fuzz is installed when it is missing; RUSTC_BOOTSTRAP lets
# the stable compiler instrument the code.
set -eu

seconds=${1:-60}
cd "$(dirname "$0")"
export RUSTC_BOOTSTRAP=1

if ! cargo fuzz --version >/dev/null 2>&1; then
    cargo install cargo-fuzz --locked --version 0.13.2
fi

for target in websocket_frames commands nats_intake; do
    mkdir -p "corpus/$target"
    cargo fuzz run --fuzz-dir . "$target" "corpus/$target" "seeds/$target" -- \
        -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0 -print_funcs=0
done
