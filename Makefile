# mirror42: `make demo` shows all of it on this machine, `make test` checks it. Both set the machine up first.

CARGO_BIN = $(or $(CARGO_HOME),$(HOME)/.cargo)/bin
export PATH := $(CARGO_BIN):$(PATH)
PREFIX ?= /usr/local
SHARE = $(PREFIX)/share
RELEASE = $(or $(CARGO_TARGET_DIR),target)/release

.PHONY: help demo test build install bench bench-load chaos chaos-fetch mutants setup clean

help:
	@echo 'make demo      the whole mirror on this machine: simulated API, own Postgres (about a minute)'
	@echo 'make test      format, lints and all tests'
	@echo 'make build     release binaries in $(RELEASE)/'
	@echo 'make install   the binaries into $(PREFIX)/bin, man pages and completions into $(PREFIX)/share (PREFIX=...)'
	@echo 'make bench     how long the quick demo and the extraction take, after make bench-load'
	@echo 'make bench-load  how long a load takes, beside psql with ready files (8 minutes)'
	@echo 'make chaos     fetches, loads and whole runs killed and cut off 200 times each and more, pipelines edited at random, after make chaos-fetch'
	@echo 'make chaos-fetch  whole runs against a server that misbehaves at random (half an hour)'
	@echo 'make mutants   loaders with one thing broken, each of which a test must find (half an hour)'
	@echo 'make setup     Rust, a C compiler and a Postgres server, where they are missing'
	@echo 'make clean     remove what was built; exports, logs and data stay'

demo: build
	$(RELEASE)/mirror42 demo

# Most tests wait for processes half of their time: twice as many as there are cores.
test:
	@scripts/setup.sh test
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-$$((2 * $$(getconf _NPROCESSORS_ONLN)))} cargo test --locked

build: setup
	cargo build --locked --release

install:
	@test -x $(RELEASE)/mirror42 || { echo 'run `make build` first, as the user who builds' >&2; exit 1; }
	@install -d '$(DESTDIR)$(PREFIX)/bin'
	@for binary in src/bin/*.rs; do \
	    install -m 755 "$(RELEASE)/$$(basename "$$binary" .rs)" '$(DESTDIR)$(PREFIX)/bin/' || exit 1; \
	done
	@$(RELEASE)/mirror42 man '$(DESTDIR)$(SHARE)/man/man1'
	@install -d '$(DESTDIR)$(SHARE)/bash-completion/completions' '$(DESTDIR)$(SHARE)/zsh/site-functions' \
	    '$(DESTDIR)$(SHARE)/fish/vendor_completions.d'
	@for name in $$(basename -s .rs src/bin/*.rs); do \
	    completions() { $(RELEASE)/mirror42 completions "$$1" "$$name" > "$(DESTDIR)$(SHARE)/$$2"; }; \
	    completions bash "bash-completion/completions/$$name" && \
	    completions zsh "zsh/site-functions/_$$name" && \
	    completions fish "fish/vendor_completions.d/$$name.fish" || exit 1; \
	done
	@echo 'installed: programs in $(DESTDIR)$(PREFIX)/bin, man pages and completions in $(DESTDIR)$(SHARE)'

bench: bench-load
	@scripts/bench.sh $(RELEASE)
	cargo test --locked --release --test it -- --ignored --exact --nocapture fetch::measurement_of_10000_pages

bench-load: build
	@scripts/bench-load.sh $(RELEASE)

chaos: chaos-fetch
	cargo test --locked --test it -- --ignored --exact --nocapture \
	    resume::campaign_of_200_kills load_kills::campaign_of_200_kills_and_200_cuts \
	    load_kills::campaign_of_100_full_disks run_kills::campaign_of_300_kills staleness_walk::campaign_of_60_walks

chaos-fetch:
	@scripts/setup.sh test
	@scripts/chaos-fetch.sh

mutants:
	@scripts/setup.sh test
	@scripts/mutants.sh

setup:
	@scripts/setup.sh

clean:
	cargo clean
