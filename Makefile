# `make` alone lists the targets. Each sets up what it needs, the first time and when the lock changes.
# Another Python: `make test PYTHON=python3.13` (its environment is then .venv-3.13).

.DEFAULT_GOAL := help
.PHONY: demo test unit soak check bench bench-rpc bench-quick scoreboard conformance fuzz mutation docs lock clean distclean help
.DELETE_ON_ERROR:

# More than cores: much of what takes long waits for something.
WORKERS ?= 3
TESTS ?= tests
# Each run has another order, but for the gate's: it has to answer the same twice.
ORDER := $(if $(CI),--randomly-seed=1)

ifeq ($(strip $(PYTHON)),)
VENV := .venv
else
interpreter := $(shell tools/find-python $(PYTHON))
ifeq ($(interpreter),)
$(error PYTHON=$(PYTHON) cannot be used)
endif
VENV := .venv-$(shell $(interpreter) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
endif
PY := $(VENV)/bin/python
COVERAGE := build/coverage/$(VENV)

# Tests start hundreds of processes: each would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

# An environment that was copied along with its folder still points to the old one: set it up anew.
ifneq ($(shell cat $(VENV)/.installed-in 2>/dev/null),$(CURDIR))
$(shell rm -f $(VENV)/.installed-*)
endif

demo: $(VENV)/.installed-base ## a tool call that survives a dropped stream and kill -9, with the counts
	@$(PY) -m tailrace demo

test: $(VENV)/.installed-test node ## the whole suite, with coverage (100 % of wire and core)
	@rm -rf $(COVERAGE) && mkdir -p $(COVERAGE)
	COVERAGE_FILE=$(COVERAGE)/data $(PY) -m pytest $(TESTS) $(ORDER) -n $(WORKERS) --dist loadfile --no-loadscope-reorder --cov --cov-report=
ifeq ($(TESTS),tests)
	@COVERAGE_FILE=$(COVERAGE)/data $(PY) -m coverage report --fail-under=100 \
		--include='src/tailrace/wire/*,src/tailrace/core/*' >$(COVERAGE)/report.txt \
		|| { cat $(COVERAGE)/report.txt; echo "error: wire and core must be covered, lines and branches" >&2; exit 1; }
endif

unit: $(VENV)/.installed-test ## the quick tests only: no server processes, no coverage
	$(PY) -m pytest $(TESTS) $(ORDER) -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not e2e and not slow"

# More of it: make soak SOAK='kills --rounds 50 --keep', or SOAK=--help.
soak: $(VENV)/.installed-test ## the long proofs, with counts: cut streams, kill -9, storms of sessions (minutes)
	$(PY) -m tests.soak $(SOAK)

check: $(VENV)/.installed-dev ## lint, format, types, import contracts, lock
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(PY) -m pyright --pythonpath $(PY)
	$(VENV)/bin/lint-imports --no-cache
	$(PY) -m uv lock --check --quiet

# DOCS=1 writes docs/performance.md as well. More of it: $(PY) -m bench.run --help.
bench: $(VENV)/.installed-test ## measured beside its peers, and over Valkey: three rounds, about 30 minutes on an idle machine
	$(PY) -m bench.run $(if $(DOCS),--docs)

bench-rpc: $(VENV)/.installed-base ## Connect and gRPC beside their peers, about 10 minutes
	$(PY) -m bench.rpc --rounds 3 $(if $(DOCS),--docs)

bench-quick: $(VENV)/.installed-test ## the same in about three minutes, for a look
	$(PY) -m bench.run --quick

scoreboard: $(VENV)/.installed-base ## `tailrace check` on ours and on the peers, into docs/scoreboard.md: about 25 minutes
	$(PY) -m bench.scoreboard

conformance: $(VENV)/.installed-test ## the official suites of MCP and of Connect, server and client, with their scores
	$(PY) -m tests.conformance

SECONDS ?= 60
fuzz: $(VENV)/.installed-test ## bytes at random against parsers, listener and endpoint: SECONDS=60 for each target
	$(PY) -m tests.fuzz --seconds $(SECONDS)

# More of it: make mutation MUTATION='--jobs 2 tailrace.core.log*'.
mutation: $(VENV)/.installed-test ## small faults in core, each planted alone: 80 % must be noticed (ten minutes and more)
	$(PY) -m tests.mutation $(MUTATION)

docs: $(VENV)/.installed-dev ## the documentation, into site/
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet
	@echo "built site/index.html"

# Exported for pip, so that both install the same. `base`: what users get, `test`: for the tests, `dev`: all.
EXPORT := --quiet --frozen --no-emit-project --no-annotate --no-default-groups --group build
lock: $(VENV)/.installed-dev ## lock anew after a change of pyproject.toml
	$(PY) -m uv lock
	$(PY) -m uv export $(EXPORT) --output-file requirements/base.txt
	$(PY) -m uv export $(EXPORT) --group test --output-file requirements/test.txt
	$(PY) -m uv export $(EXPORT) --group test --group dev --group docs --output-file requirements/dev.txt

clean: ## remove what was built; the environments stay
	rm -rf build dist site htmlcov .coverage .coverage.* .pytest_cache .ruff_cache .hypothesis .import_linter_cache

distclean: clean ## remove the environments as well
	rm -rf .venv .venv-* bench/.venvs bench/.bin tests/e2e/.cache tests/*/node/node_modules

help:
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- set-up ---------------------------------------------------------------------------------------

$(VENV)/.installed-%: pyproject.toml uv.lock requirements/%.txt tools/install
	@python=$$(tools/find-python $(PYTHON)) && tools/install "$$python" $(VENV) $*
	@echo "$(CURDIR)" >$(VENV)/.installed-in
	@touch $@

# The TypeScript clients of tests/e2e and the conformance suite. Where npm cannot get them, the tests that need them
# say so and skip (in CI: fail).
.PHONY: node
node: $(patsubst %/package-lock.json,%/node_modules/.package-lock.json,$(wildcard tests/*/node/package-lock.json))

tests/%/node/node_modules/.package-lock.json: tests/%/node/package-lock.json | $(VENV)/.installed-test
	-$(VENV)/bin/npm ci --prefix $(<D) --no-audit --no-fund --loglevel error && touch $@
