# `make demo` and `make test` need Python 3.11+, make and the package registry; they make their own environment.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test check format clean

demo: $(VENV)/.ready
	$(BIN)/fingerspell demo --overwrite

test: $(VENV)/.ready-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --cov --cov-report=term  # two processes of one thread each

check: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.ready-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade 'pip>=25.1'  # the first that knows dependency groups
	$(BIN)/pip install --quiet --editable '.[train]'
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(BIN)/pip install --quiet --group dev
	touch $@
