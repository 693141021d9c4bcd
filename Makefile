# Needs Python 3.11 or newer and make. Everything else goes into a virtual environment, .venv.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test lint docs dist bench format clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/installed  ## install, then train, attack and compare on real digits (2 minutes)
	$(BIN)/divtrain run digits

# Tests of one file run in one process: they use an ensemble that is trained once.
test: $(VENV)/installed-test  ## install, then run every test on up to four cores
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

lint: $(VENV)/installed-lint  ## style (ruff) and types (pyright)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(VENV)/installed-docs  ## build the docs site into site/, strict, without network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

dist: $(VENV)/installed-dist  ## build and check the package, into dist/
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

bench: $(VENV)/installed  ## measure step time, memory, crafting and growth; writes results/speed (an hour)
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/step.py --what time --models conv3 --dtypes bf16 --layouts channels-last --members 3 8 --suffix=-members
	$(BIN)/python benchmarks/crafting.py
	$(BIN)/python benchmarks/growth.py

format: $(VENV)/installed-lint  ## let ruff mend the style
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean:  ## remove the virtual environment and caches, keep runs/
	rm -rf $(VENV) site dist .pytest_cache .ruff_cache .hypothesis

$(VENV)/pip:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "divtrain needs Python 3.11 or newer; try make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --quiet --upgrade "pip>=25.3"
	@touch $@

$(VENV)/installed: $(VENV)/pip pyproject.toml
	@echo "Installing divtrain; PyTorch is large, this can take some minutes."
	$(PIP) --quiet --editable .
	@touch $@

# adv-lib, an oracle, builds a dependency that needs an old setuptools.
$(VENV)/installed-test: $(VENV)/pip pyproject.toml build-constraints.txt
	$(PIP) --build-constraint build-constraints.txt --editable '.[test,oracles,ray]'
	@touch $@

$(VENV)/installed-lint: $(VENV)/installed-test
	$(PIP) --editable '.[test,lint]'
	@touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(PIP) --quiet --editable '.[docs]'
	@touch $@

$(VENV)/installed-dist: $(VENV)/installed
	$(PIP) --quiet --editable '.[dist]'
	@touch $@
