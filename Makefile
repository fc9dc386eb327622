# One line per job; `make` alone lists them. Every job makes the environment it needs.

.DEFAULT_GOAL := help
SHELL := /bin/bash
BIN := .venv/bin
PIP := -m pip --disable-pip-version-check --no-input
TOLLBOARD_CHAOS_KILLS ?= 500
PYTEST_FLAGS ?=

# The first Python that is new enough; `make PYTHON=/path/to/python test` chooses another.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

# The rooms that promise 95 % of their branches.
COVERED := $(wildcard src/tollboard/runtime src/tollboard/store)

.PHONY: help demo test test-installation mutants format lint types imports check background bench chaos storm isolation lock clean

help: ## list the jobs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 26

demo: .venv/.core ## show the main job in a temporary directory, with core dependencies only
	$(BIN)/tollboard demo

test: .venv/.all ## run every test but the soak ones, then hold the coverage of runtime/ and store/
	@$(MAKE) --no-print-directory .conformance/.made || echo "Going on without the MCP conformance suite." >&2
	$(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report= $(PYTEST_FLAGS)
	@$(foreach room,$(COVERED),echo "Coverage of $(room)"; \
		$(BIN)/coverage report --include='$(room)/*' --fail-under=95 || exit 1;)

test-installation: .venv/.all ## install into empty environments, beside versions newer than the locks
	$(BIN)/python -m pytest tests/installation -m installation $(PYTEST_FLAGS)

mutants: .venv/.all ## try a sample of mutants of runtime, pool, subagents and the store's journal; MUTANTS="--per-room 100"
	$(BIN)/python tests/mutation/sample.py $(MUTANTS)

format: .venv/.all ## format the code and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: .venv/.all ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.all ## check types, strictly
	$(BIN)/mypy

imports: .venv/.all ## check that imports point downwards only
	$(BIN)/lint-imports

check: lint types imports ## lint, types and imports

bench: .venv-bench/.all ## measure ourselves beside the peers and write benchmarks/RESULTS.md
	.venv-bench/bin/python benchmarks/run.py

background: .venv/.all ## the real Claude Code with work in the background, 20 rounds (TOLLBOARD_BACKGROUND_ROUNDS)
	TOLLBOARD_BACKGROUND_ROUNDS=$${TOLLBOARD_BACKGROUND_ROUNDS:-20} $(BIN)/python -m pytest tests/acceptance/test_background.py -s $(PYTEST_FLAGS)

isolation: .venv/.all ## show over 10,000 tasks that those of a pool do not know each other
	TOLLBOARD_POOL_TASKS=$${TOLLBOARD_POOL_TASKS:-10000} $(BIN)/pytest tests/acceptance/test_pool_isolation.py -q -s

chaos: .venv/.all ## kill the daemon 500 times (TOLLBOARD_CHAOS_KILLS) and look for losses
	$(BIN)/python -m pytest tests/acceptance -m chaos -s \
		--chaos-kills=$(TOLLBOARD_CHAOS_KILLS) $(PYTEST_FLAGS)

storm: .venv/.all ## interrupt 500 and kill 100 times over trees of sub-agents, and compare with the stand-in's bill
	TOLLBOARD_STORM_INTERRUPTS=$${TOLLBOARD_STORM_INTERRUPTS:-500} TOLLBOARD_STORM_KILLS=$${TOLLBOARD_STORM_KILLS:-100} \
		$(BIN)/python -m pytest tests/acceptance/test_tree_storm.py -m chaos -s --chaos-kills=700 $(PYTEST_FLAGS)

LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command "make lock" $(LOCK_FLAGS)

# The peers get our versions of what they share with us, unless they cannot live with one: so they are only preferred.
lock: .venv/.core ## write the locks anew; LOCK_FLAGS=--upgrade takes newer versions
	$(LOCK) pyproject.toml --all-extras --group dev --group build --output-file requirements.lock
	$(LOCK) pyproject.toml --constraints requirements.lock --output-file requirements-core.lock
	$(LOCK) --group build --constraints requirements.lock --output-file requirements-build.lock
	cp requirements.lock requirements-bench.lock
	$(LOCK) pyproject.toml --extra models --extra mcp --group bench --output-file requirements-bench.lock

clean: ## remove environments, caches and build output
	rm -rf .venv .venv-bench .conformance build dist .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache \
		.hypothesis .import_linter_cache mutants
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# --- environments -----------------------------------------------------------------------------------------------

define make-venv
	@test -n "$(PYTHON)" || { echo "Tollboard needs Python 3.11 or newer, but python3 is:" \
		"$$(python3 -V 2>&1 || true)." "Install one (apt-get install python3.11 python3.11-venv) or name it:" \
		"make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Tollboard needs Python 3.11 or newer, but $(PYTHON) is: $$("$(PYTHON)" -V 2>&1)." >&2; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { echo "$(PYTHON) cannot make environments." \
		"On Debian or Ubuntu run: apt-get install" \
		"$$("$(PYTHON)" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')" >&2; exit 1; }
	"$(PYTHON)" -m venv --clear $(@D)
	@touch $@
endef

# $(1) is the environment, $(2) its lock. Nothing is resolved: what is published after a lock was written cannot change
# or break an installation, neither through a dependency's range nor through the build backend (both happened). pip, which
# every new environment has, brings uv; uv installs exactly the locks, checks their hashes and shows how far it is.
define install
	@echo "Installing into $(1) from $(2)" >&2
	$(1)/bin/python $(PIP) install --quiet --no-deps --require-hashes -r requirements-build.lock
	$(1)/bin/uv pip sync --python $(1)/bin/python --require-hashes requirements-build.lock $(2)
	$(1)/bin/uv pip install --quiet --python $(1)/bin/python --no-deps --no-build-isolation --offline -e .
endef

# uv does not read pip's settings: a mirror or a certificate that pip was given in the environment holds for it too.
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
ifdef PIP_CERT
export SSL_CERT_FILE ?= $(PIP_CERT)
endif

.venv/.made .venv-bench/.made:
	$(make-venv)

.venv/.core: .venv/.made requirements-build.lock requirements-core.lock pyproject.toml
	$(call install,.venv,requirements-core.lock)
	@touch $@

.venv/.all: .venv/.made requirements-build.lock requirements.lock pyproject.toml
	$(call install,.venv,requirements.lock)
	@touch .venv/.core $@

.venv-bench/.all: .venv-bench/.made requirements-build.lock requirements-bench.lock pyproject.toml
	$(call install,.venv-bench,requirements-bench.lock)
	@touch $@

# The official MCP conformance suite, from npm. Without it its tests are skipped, and fail in CI.
CONFORMANCE := $(addprefix tests/conformance/,install.py package.json package-lock.json requirements.txt)

.conformance/.made: $(CONFORMANCE) | .venv/.made
	$(BIN)/python tests/conformance/install.py
	@touch $@
