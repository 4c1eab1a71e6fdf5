# Two commands are enough: `make serve` and `make test`. `make` alone lists all.
.DEFAULT_GOAL := help
.PHONY: help setup serve site check test lint notebooks mutants bench pins lowest clean

PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 2
# The versions that are known to work; an empty file gives the newest of everything
CONSTRAINTS ?= constraints.txt
export PYTHONUTF8 := 1

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# What readers need, and on top of it what the tests need; each is redone when its files change
.venv/site: pyproject.toml $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e .
	touch $@

.venv/dev: .venv/site
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e ".[dev]"
	touch $@

setup: .venv/dev ## Create .venv and install everything, the tests' needs included

serve: .venv/site ## Serve the site at http://127.0.0.1:8000, rebuilt as you edit
	$(BIN)/mkdocs serve

site: .venv/site ## Build the site into site/
	$(BIN)/mkdocs build --strict

check: .venv/site ## Check that every formula has its code and its proof; runs no test
	$(BIN)/python -m formulary_site check

lint: .venv/dev ## Check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

test: lint ## Run all that CI runs: style, proofs, check, build, snippets, browser
	$(BIN)/pytest tests/formulary --evidence --numprocesses $(JOBS)
	$(BIN)/python -m formulary_site check
	$(BIN)/pytest tests --ignore tests/formulary --numprocesses $(JOBS) --dist loadgroup

notebooks: .venv/dev ## Run the notebooks whose code has changed, and store their outputs
	$(BIN)/python -m formulary_site notebooks

mutants: .venv/dev ## Change each counterpart and report which changes no test notices
	$(BIN)/python -m formulary_site mutants

bench: .venv/dev ## Measure speed and weight, as ratios side by side
	$(BIN)/python tests/benchmarks/run.py

pins: ## Renew constraints.txt with the newest versions of everything
	rm -rf .cache/pins
	$(PYTHON) -m venv .cache/pins
	.cache/pins/bin/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	.cache/pins/bin/python -m pip freeze --exclude-editable > .cache/pins/all
	grep '^#' constraints.txt > .cache/pins/new
	sed 's/+.*//' .cache/pins/all >> .cache/pins/new # the build's name (+cpu) is the machine's
	mv .cache/pins/new constraints.txt

lowest: ## Print the lowest versions that pyproject.toml allows, as constraints
	@sed -nE 's/^  "([A-Za-z0-9_.-]+)>=([0-9.]+)[",].*/\1==\2/p' pyproject.toml

clean: ## Delete all that was generated, the environment included
	rm -rf .venv .cache site .pytest_cache .mypy_cache .ruff_cache .hypothesis
