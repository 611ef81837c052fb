# `make demo` and `make test` work on a fresh machine: they make .venv and install the project into it first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Empty: compiled files are kept. Where containers forbid it, every process that a test starts compiles the program anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup tests docs dist demo yaml docs-pictures lint format test suite test-nightly test-slurm hooks clean
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup: $(VENV)/.installed ## a virtual environment in .venv with the program

# uv, where it is installed, does the same in less time
UV := $(shell command -v uv)
ifdef UV
# uv reads nothing that pip is told: both are to find the same packages, above all the same torch
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
endif
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
ifdef PIP_EXTRA_INDEX_URL
export UV_INDEX ?= $(PIP_EXTRA_INDEX_URL)
endif
INSTALL = VIRTUAL_ENV=$(VENV) uv pip install --compile-bytecode
MAKE_VENV = uv venv --allow-existing --seed --python $(PYTHON) $(VENV)
else
INSTALL = $(BIN)/pip install --progress-bar on
MAKE_VENV = $(PYTHON) -m venv $(VENV)
endif

$(VENV)/.installed: pyproject.toml
	$(MAKE_VENV)
	$(INSTALL) --editable .
	touch $@

$(VENV)/.tests: $(VENV)/.installed
	$(INSTALL) --editable '.[test,docs,notebooks]'
	touch $@

tests: $(VENV)/.tests ## what the tests need, too

demo: setup ## train on made images for some minutes; k-NN accuracy before and after
	$(BIN)/python -m dinov3.train --config-file configs/train/demo_cpu.yaml --output-dir runs/demo

yaml: setup ## write the two YAMLs that are made from the schema anew
	$(BIN)/python -m dinov3.config.about.default_yaml configs

docs: tests ## the documentation as a site, in site/
	$(BIN)/python docs/make_reference.py
	$(BIN)/mkdocs build --quiet
	@echo site/index.html

dist: setup ## wheel and sdist, in dist/
	$(INSTALL) build
	$(BIN)/python -m build

docs-pictures: setup ## draw the rooms of docs/architecture.md anew
	$(BIN)/python docs/rooms.py

lint: tests ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: tests ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# One process a core, and one thread in each: two threads in each of two processes on two cores wait for one another.
# mypy has use for one core, and takes a minute where it has no cache: the tests begin beside it.
test: tests ## lint, types and everything fast
	@$(MAKE) --no-print-directory --jobs 2 lint suite

suite: tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

$(VENV)/.nightly: $(VENV)/.tests
	$(INSTALL) --editable '.[nightly]'
	touch $@

test-nightly: $(VENV)/.nightly ## everything slow
	$(BIN)/python -m pytest -m nightly --timeout 3600

test-slurm: tests ## a real SLURM of two nodes on this machine (root, Debian's slurm-wlm)
	$(BIN)/python -m pytest tests/slurm -m nightly --timeout 3600

hooks: setup ## lint before every commit
	git config core.hooksPath .githooks

clean: ## remove what setup and tests have made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
