# make demo       the whole path on a built-in scene; ends with a report page
# make test       lint, types, import order and the tests (the slow ones aside)
# make test-slow  the tests that take minutes
# make lint       ruff, pyright, import-linter; the types of the web player
# make player     the web player, from web/ into the Python package; needs node
# make wheel      the package with the player in it, into dist/
#
# Each target makes .venv by itself and installs again only when pyproject.toml or constraints.txt changed.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# A process for each core, of one thread each: small tests gain nothing from threads. A file's tests stay together, for
# they share what its fixtures have made.
PYTEST := OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

PLAYER := src/lumigraph/viewers/static/index.html

# What failed half way is made anew the next time, not taken for made.
.DELETE_ON_ERROR:

.PHONY: demo test test-slow lint format player wheel clean clean-kernels

demo: .venv/installed-export $(PLAYER)
	$(BIN)/lumigraph demo --out demo --overwrite

test: lint $(PLAYER)
	cd web && npm run --silent test
	$(PYTEST)

test-slow: .venv/installed-dev $(PLAYER)
	$(PYTEST) -m slow --timeout 1800

lint: .venv/installed-dev web/node_modules/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright
	cd web && npm run --silent check

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/bin/python:
	$(PYTHON) -m venv .venv

# One rule for every extra: `installed-dev` stands for `pip install -e .[dev]`.
.venv/installed-%: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -c constraints.txt -e ".[$*]"
	touch $@

player: $(PLAYER)

wheel: .venv/bin/python $(PLAYER)
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

$(PLAYER): web/node_modules/installed web/index.html web/vite.config.ts web/third-party-licences.txt $(wildcard web/src/*)
	cd web && npm run --silent build -- --logLevel warn

web/node_modules/installed: web/package.json web/package-lock.json
	cd web && npm ci --silent
	touch $@

# numba does not notice changes to constants that a kernel takes from another file.
clean-kernels:
	find src -name '*.nb[ci]' -delete

clean: clean-kernels
	rm -rf web/node_modules src/lumigraph/viewers/static
	rm -rf .venv demo build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis
