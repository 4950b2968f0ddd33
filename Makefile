# Everything a person runs. Each target does its own set-up.

SHELL := /bin/bash
TARGET := $(or $(CARGO_TARGET_DIR),target)
INSTRUCTIONS := cargo run --quiet --locked --profile instructions -p fanfare-instructions --

.PHONY: run build test lint docs conformance chaos presence fuzz bench bench-quick instructions instructions-accept valgrind servers help

help: ## Show this
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

run: build ## The gateway in development mode, with its broker inside
	@$(TARGET)/debug/fanfare-gateway

build: ## The gateway and the command line, unoptimised
	@cargo build --locked --bins

test: servers ## All tests; installs nats-server and redis-server if they are missing
	cargo test --workspace --locked
	cd bench && python3 -m unittest --quiet
	cargo build --locked -p fanfare-gateway --example ws_echo
	WS_ECHO_BIN=$(TARGET)/debug/examples/ws_echo tests/autobahn/run.sh short

lint: ## Format and lints
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

docs: ## The API documentation, without warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

conformance: ## The whole Autobahn suite against our framing
	tests/autobahn/run.sh all

chaos: servers ## Nodes and brokers that fail for a minute each, and a reconnect storm of 10,000; shorter runs are among the tests
	CHAOS_SECONDS=$(or $(CHAOS_SECONDS),60) STORM_CLIENTS=$(or $(STORM_CLIENTS),10000) \
		cargo test --locked -p fanfare-gateway --test e2e -- --nocapture --test-threads 1 recovery::chaos recovery::storm

presence: servers ## Presence counted for half a minute, 10,000 members, a store that is away for 10 s; shorter runs are among the tests
	PRESENCE_LEASE=10 PRESENCE_SECONDS=30 PRESENCE_MEMBERS=$(or $(PRESENCE_MEMBERS),10000) PRESENCE_AWAY=$(or $(PRESENCE_AWAY),10) \
		cargo test --locked -p fanfare-gateway --test e2e -- --nocapture --test-threads 1 presence::

fuzz: ## A minute for each fuzz target
	fuzz/run.sh 60

bench: servers ## Everything in docs/benchmarks.md side by side: the floor, a node, and the peers that are there (about 40 minutes)
	cargo build --release --locked --bins
	bench/run.py --write $(BENCH)

bench-quick: servers ## Its essential scenarios in about five minutes; prints only
	cargo build --release --locked --bins
	bench/run.py --quick $(BENCH)

instructions: valgrind ## Instructions of hot functions, held against bench/instructions/baseline.json: fails on more than +5 %
	$(INSTRUCTIONS) check $(if $(PROFILES),--profiles $(PROFILES))

instructions-accept: valgrind ## Makes what is counted now that baseline
	$(INSTRUCTIONS) accept $(if $(PROFILES),--profiles $(PROFILES))

valgrind:
	@tests/install-valgrind.sh

servers: ## What the tests need from Debian
	@tests/install-servers.sh
