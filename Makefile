# make demo       the whole path on a built-in scene; ends with a report page
# make test       lint, types, import order and the tests (the slow ones aside)
# make test-slow  the tests that take minutes
# make lint       ruff, pyright, import-linter
#
# Each target makes .venv by itself and installs again only when pyproject.toml or constraints.txt changed.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-slow lint format clean clean-kernels

demo: .venv/installed-export
	$(BIN)/lumigraph demo --out demo --overwrite

test: lint
	$(BIN)/python -m pytest

test-slow: .venv/installed-dev
	$(BIN)/python -m pytest -m slow --timeout 1800

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/bin/python:
	$(PYTHON) -m venv .venv

# One rule for every extra: `installed-dev` stands for `pip install -e .[dev]`.
.venv/installed-%: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -c constraints.txt -e ".[$*]"
	touch $@

# numba does not notice changes to what a kernel of another file calls.
clean-kernels:
	find src -name '*.nb[ci]' -delete

clean: clean-kernels
	rm -rf .venv demo build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis
