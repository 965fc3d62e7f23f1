# One entry point for people and for machines. Every target first installs what it needs from
# Debian and says so (scripts/setup); nothing is installed when nothing is missing.

AGENTWALL := target/release/agentwall
.DEFAULT_GOAL := help

.PHONY: help run build agents test vmtest bench fmt lint audit clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

run: ## build everything and show the wall at work, from a bare Debian machine with Rust
	@scripts/setup run
	@$(MAKE) --no-print-directory build
	@scripts/demo

build: ## the release binary, target/release/agentwall
	cargo build --release --locked -p agentwall

agents: ## install the real agents of the end-to-end tests into .cache/agents
	@scripts/setup agents
	@scripts/agents

test: ## the whole test suite; PART=name runs one part of it
	@scripts/setup test
	@scripts/test $(PART)

vmtest: ## the kernel wall in a virtual machine with Debian's kernel; ARGS= as of tests/vm/run
	@scripts/setup test
	@$(MAKE) --no-print-directory build
	@tests/vm/run $(ARGS)

bench: ## measure against native and bubblewrap, into bench/results.json
	@scripts/setup bench
	@$(MAKE) --no-print-directory build
	@bench/run $(ARGS)

fmt: ## format the source
	cargo fmt --all

lint: ## formatting and clippy, warnings denied
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

audit: ## licences, bans, sources and security advisories of the dependencies (needs the internet)
	@scripts/deny check

clean: ## remove everything that was built; installed agents stay in .cache
	cargo clean
	rm -rf target bench/results.json.tmp
