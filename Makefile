# Two commands are enough on a fresh machine with Python >= 3.11: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

setup: .venv/.done  ## make .venv with diffdx and all its extras

.venv/.done: pyproject.toml constraints/cpu.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints/cpu.txt -e '.[test,lint,docs]'
	touch $@

demo: setup  ## the whole path on built-in phantoms, under 5 minutes
	$(BIN)/diffdx demo --out out/demo --overwrite

# One thread a process: OpenMP in two processes on two cores costs a factor of ten.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4

test: setup  ## the tests, under 5 minutes
	$(PYTEST) -m 'not slow'

test-all: setup  ## all tests
	$(PYTEST)

lint: setup  ## style and import direction
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: setup  ## static types
	$(BIN)/mypy

docs: setup  ## the documentation site, into site/
	$(BIN)/mkdocs build --quiet --strict

bench: setup  ## speed and memory, into benchmarks/results/
	$(BIN)/python benchmarks/presets.py
	$(BIN)/python benchmarks/roofline.py
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/processes.py

clean:  ## remove what these commands made
	rm -rf .venv out runs site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

.PHONY: help setup demo test test-all lint types docs bench clean
