# Every target sets up what it needs, from nothing: Python >= 3.11, make and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-whole test-kernels lint check soak docs clean help

help:
	@echo "make demo   set up and run the demonstration (a minute on two cores, no network after set-up)"
	@echo "make test   set up and run the tests"
	@echo "make test-whole  the guide as it stands, networks, browsers, kills, full disks, benchmarks"
	@echo "make test-kernels  the numeric tests under other kernels and threads (KERNELS=short: two)"
	@echo "make lint   ruff and mypy --strict, no tests"
	@echo "make check  ruff, mypy --strict and all tests but the long ones"
	@echo "make soak   the long tests"
	@echo "make docs   the user's guide and the reference, in docs/_build/html"
	@echo "make clean  remove what make made"

demo: $(VENV)/.run
	$(BIN)/flexlora demo

# Two workers of one thread each: torch's own threads would fight over the cores.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m "not soak and not whole"

# Seconds each, most of them for processes that begin; with them `make test` took a half longer.
test-whole: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m "whole and not soak"

# `make test` has the kernels that this processor gets; these stand in for other processors.
test-kernels: $(VENV)/.dev
	PYTHON=$(BIN)/python tests/kernels.sh

soak: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m soak

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/mypy.ini

# Warnings are errors; nothing is fetched.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -q -E -W --keep-going -b html -d docs/_build/cache docs docs/_build/html
	@echo "open docs/_build/html/index.html"

check: lint test test-whole

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "flexlora needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.run: $(VENV)/.made pyproject.toml constraints.txt
	@echo "installing into $(VENV) (1.2 GB with the CPU build of torch, more with CUDA)"
	$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP) -e '.[dev]'
	@touch $@

$(VENV)/.docs: $(VENV)/.run
	$(PIP) -e '.[docs]'
	@touch $@

clean:
	rm -rf $(VENV) docs/_build
