# `make demo` and `make test` need Python 3.11+, make and the package registry; they make their own environment.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

KERAS ?= .keras/bin/python

.PHONY: demo test check format bench bench-inputs boxed clean

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

# The study's recipe in Keras gets an environment of its own in .keras, unless KERAS names a python that has one.
bench: bench-inputs $(VENV)/.ready $(if $(filter .keras/%,$(KERAS)),.keras/.ready)
	$(BIN)/python benchmarks/speed.py "$(ARCHIVE)" --weights "$(WEIGHTS)" --keras "$(KERAS)" --out runs/speed $(OPTIONS)

bench-inputs:
	@test -n "$(ARCHIVE)" -a -n "$(WEIGHTS)" || { echo "make bench needs the archive of the real study and VGG16's\
	 weights: make bench ARCHIVE=archive.zip WEIGHTS=vgg16_notop.safetensors [KERAS=python] [OPTIONS='--minutes 30']" \
	 >&2; exit 1; }

# The model in the box again: docs/boxed-model.md says on what, and how long it takes.
boxed: $(VENV)/.ready-dev
	@test -n "$(ARCHIVES)" || { echo "make boxed needs archives of several people: make boxed ARCHIVES='one.zip other.zip'\
	 [OPTIONS='--hand-model hand_landmarker.task']" >&2; exit 1; }
	$(BIN)/fingerspell render runs/hands --train 300 --test 0 --size 256
	$(BIN)/fingerspell strangers $(ARCHIVES) runs/hands --recipe reader --final --out runs/reader $(OPTIONS)
	mkdir -p src/fingerspell/boxed
	cp runs/reader/model/* src/fingerspell/boxed/

clean:
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage

.keras/.ready: benchmarks/reference_keras.txt
	$(PYTHON) -m venv .keras
	.keras/bin/pip install --quiet --requirement $<
	touch $@

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade 'pip>=25.1'  # the first that knows dependency groups
	$(BIN)/pip install --quiet --editable '.[train]'
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(BIN)/pip install --quiet --group dev
	touch $@
