# make demo | test | check | real: everything, the environment included.
# PYTHON=... chooses the interpreter (3.11 or 3.12), VENV=... where the environment is made.

SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help env demo real test slow check audit minimums format results clean

help:
	@echo "make demo    environment, synthetic cohort, training, scoring, runs/demo/report.html"
	@echo "make real    the same path on real smear fields (needs FERTIRAY_DATA and weights)"
	@echo "make test    environment and the whole test suite"
	@echo "make slow    the tests that take minutes"
	@echo "make check   lint and types"
	@echo "make audit   known vulnerabilities of what is installed (asks the internet)"
	@echo "make minimums the suite with the oldest releases that are allowed"
	@echo "make results render the tables of record into README.md"

env: $(STAMP)

$(STAMP): pyproject.toml
	@set -e; python="$(PYTHON)"; \
	for candidate in $$python python3.12 python3.11 python3 python; do \
	  if $$candidate -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; \
	  then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then echo "FertiRay needs Python 3.11 or 3.12: install one, or make PYTHON=/path/to/python3.12"; exit 1; fi; \
	echo "== Environment: $$python in $(VENV) (about 7 GB of packages, a few minutes the first time)"; \
	$$python -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "== Installing FertiRay and what it needs"
	@$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@
	@echo "== Environment ready"

demo: env
	$(BIN)/fertiray demo --out runs/demo

real: env
	$(BIN)/fertiray demo --real --out runs/real

test: env
	$(BIN)/python -m pytest

slow: env
	$(BIN)/python -m pytest -m slow -o faulthandler_timeout=4000

check: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: env
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/python -m pip_audit --skip-editable

# The oldest releases that pyproject.toml allows, in an environment of their own (as large again).
minimums: env
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)-minimums
	$(BIN)/uv pip install --quiet --python $(VENV)-minimums/bin/python --resolution lowest-direct -e '.[dev]'
	$(VENV)-minimums/bin/python -m pytest

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

results: env
	$(BIN)/fertiray results README.md

clean:
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache build dist
