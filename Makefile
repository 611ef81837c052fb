# `make demo` and `make test` work on a fresh machine: they make .venv and install the project into it first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup demo yaml docs-pictures lint format test test-nightly test-slurm hooks clean
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup: $(VENV)/.installed ## a virtual environment in .venv with everything tests need

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --progress-bar on --editable '.[test]'
	touch $@

demo: setup ## train on made images for some minutes; k-NN accuracy before and after
	$(BIN)/python -m dinov3.train --config-file configs/train/demo_cpu.yaml --output-dir runs/demo

yaml: setup ## write the two YAMLs that are made from the schema anew
	$(BIN)/python -m dinov3.config.about.default_yaml configs

docs-pictures: setup ## draw the rooms of docs/architecture.md anew
	$(BIN)/python docs/rooms.py

lint: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# One process a core, and one thread in each: two threads in each of two processes on two cores wait for one another.
test: lint ## everything fast
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile

test-nightly: setup ## everything slow
	$(BIN)/python -m pytest -m nightly --timeout 3600

test-slurm: setup ## a real SLURM of two nodes on this machine (root, Debian's slurm-wlm)
	$(BIN)/python -m pytest tests/slurm -m nightly --timeout 3600

hooks: setup ## lint before every commit
	git config core.hooksPath .githooks

clean: ## remove what setup and tests have made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
