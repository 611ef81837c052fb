# `make demo` and `make test` work on a fresh machine: they make .venv and install the project into it first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup demo test test-nightly test-slurm lint format clean
setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@

demo: setup
	$(BIN)/python -m dinov3.train --config-file configs/train/demo_cpu.yaml --output-dir runs/demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint
	$(BIN)/python -m pytest

test-nightly: setup
	$(BIN)/python -m pytest -m nightly --timeout 3600

test-slurm: setup # a SLURM of two nodes in namespaces; says what is missing (root, Debian's packages) where it cannot
	$(BIN)/python -m pytest tests/slurm -m nightly -rs

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
