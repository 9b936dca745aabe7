# `make run` and `make test` are all that a new machine needs. Everything is built in one profile
# (release), tests included, so that RocksDB compiles once. CARGO_TARGET_DIR is honoured.

NODES ?= 3
DATA ?= ./palisade-data
# Of `make soak`.
SECONDS ?= 600
SEED ?=
CUTS ?= 2000
SIMULATIONS ?= 200

# rustup installs cargo there, and a shell that was open before does not know yet.
export PATH := $(PATH):$(HOME)/.cargo/bin

# Where cargo puts what it builds; asked only when a recipe needs it.
target_dir = $(shell cargo metadata --format-version 1 --no-deps --locked \
    | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')

.PHONY: help
help:
	@echo 'make run     build, and start a cluster of $(NODES) nodes on this machine, in $(DATA)'
	@echo 'make test    build, and run every test'
	@echo 'make check   formatting, lints, licences: what changes nothing and must be clean'
	@echo 'make soak    faults for $(SECONDS) s, $(CUTS) power cuts of a log, $(SIMULATIONS) simulations; SEED=N repeats'
	@echo 'make bench-snapshot  what a 1 GiB snapshot costs: memory, throughput, and the time of others'
	@echo 'make jepsen  the long matrix of the harness: hours of real clusters under real faults'
	@echo 'make fix     repair what formatter and linter can'
	@echo 'make set-up  install what building needs (done by run, test and check)'

.PHONY: set-up
set-up:
	@scripts/set-up

.PHONY: run
run: set-up
	cargo build --release --workspace --locked
	exec '$(target_dir)/release/palisaded' dev --nodes $(NODES) --data '$(DATA)'

# Built first: the tests start the binaries, and load tests/power-cut's shim, which `cargo test` of
# one package does not build for another.
.PHONY: test
test: set-up
	cargo build --release --workspace --all-targets --locked
	cargo test --release --workspace --locked --no-fail-fast
	cargo run --release --package raft-core --example counter --locked

# Quickest to fail first.
.PHONY: check
check: set-up
	cargo fmt --all --check
	@cargo deny --version >/dev/null 2>&1 || \
	    { echo 'cargo-deny is missing: cargo install cargo-deny --locked' >&2; exit 1; }
	cargo deny --locked check --hide-inclusion-graph bans licenses sources
	cargo clippy --release --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --release --workspace --lib --no-deps --locked --quiet

.PHONY: soak
soak: set-up
	cargo build --release --workspace --all-targets --locked
	PALISADE_SIMULATION_SEEDS=$(SIMULATIONS) $(if $(SEED),PALISADE_SIMULATION_SEED=$(SEED)) \
	    cargo test --release --locked --workspace --lib simulation::through -- --nocapture
	PALISADE_CUTS=$(CUTS) $(if $(SEED),PALISADE_TEST_SEED=$(SEED)) \
	    cargo test --release --locked --workspace --lib power_cuts -- --nocapture
	'$(target_dir)/release/soak' --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

.PHONY: bench-snapshot
bench-snapshot: set-up
	cargo bench --profile release --locked --workspace --bench freeze
	cargo bench --profile release --locked --workspace --bench snapshot

# Hours: every workload under every group of faults, and everything together. Prints a table.
.PHONY: jepsen
jepsen: set-up
	cargo build --release --workspace --all-targets --locked
	JEPSEN_BIN='$(target_dir)/release' scripts/jepsen

.PHONY: fix
fix: set-up
	cargo clippy --release --workspace --all-targets --fix --allow-dirty --allow-staged
	cargo fmt --all
