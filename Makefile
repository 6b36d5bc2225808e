# Everything here works on a fresh machine with Python >= 3.11, make and pip: `.venv` is made when missing.
PYTHON ?= python3
BIN := .venv/bin
export OMP_WAIT_POLICY ?= PASSIVE
export TOKENIZERS_PARALLELISM ?= true

.PHONY: demo test test-slow lint bench docs clean

demo: .venv/installed
	$(BIN)/ontogeny lifecycle=demo

test: .venv/installed
	$(BIN)/python -m pytest -m "not slow and not benchmark" --cov --cov-report=term --cov-fail-under=90

test-slow: .venv/installed
	$(BIN)/python -m pytest -m slow

bench: .venv/installed
	$(BIN)/python -m pytest -m benchmark -s tests/benchmarks

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/installed
	$(BIN)/python docs/generate.py

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -e ".[dev]" -c constraints.txt
	touch $@

clean:
	rm -rf .venv dist
