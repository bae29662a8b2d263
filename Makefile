# `make demo` and `make test` are all the set-up there is; both create .venv themselves, and only the first time.
# Without root, without a compiler, without any network but the package index.

VENV ?= .venv
BIN := $(VENV)/bin
# Options for the programs below, e.g. make demo DEMO="--seed 3 --json out/demo.json"; make test TEST="tests/dht -x"
DEMO ?=
TEST ?=
BENCH ?= tree round idle simulator

.DEFAULT_GOAL := help
.PHONY: help demo test check format lint types contracts soak bench constraints clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

# A stamp newer than what it was made from means that pip has nothing to do and is not asked.
$(VENV)/run.stamp: pyproject.toml constraints.txt deploy/venv.sh
	@deploy/venv.sh "$(VENV)" torch
	@touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt deploy/venv.sh
	@deploy/venv.sh "$(VENV)" torch,mqtt,dev
	@touch $@ $(VENV)/run.stamp

demo: $(VENV)/run.stamp ## sixteen nodes train together while some are killed
	@$(BIN)/mycelia demo $(DEMO)

test: $(VENV)/dev.stamp ## all tests
	@$(BIN)/python -m pytest $(TEST)

check: lint types contracts soak test ## what has to pass before a commit: format, lint, types, contracts, simulations, tests

lint: $(VENV)/dev.stamp
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: $(VENV)/dev.stamp
	@$(BIN)/mypy

contracts: $(VENV)/dev.stamp
	@$(BIN)/lint-imports

soak: $(VENV)/dev.stamp ## ten random storms under virtual time
	@$(BIN)/python -m simulations soak --seeds 10

format: $(VENV)/dev.stamp ## let ruff format and fix what it can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(VENV)/dev.stamp ## the benchmarks; each fails when it misses its budget
	@mkdir -p out
	@for name in $(BENCH); do $(BIN)/python -m benchmarks.$$name --json out/bench-$$name.json || status=1; done; exit $${status:-0}

constraints: ## resolve the ranges of pyproject.toml anew
	@deploy/constraints.sh

clean: ## remove the environment and everything that was built
	rm -rf $(VENV) build dist out *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
