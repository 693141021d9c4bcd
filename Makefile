# Needs Python 3.11 or newer and make. Everything else goes into a virtual environment, .venv.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --disable-pip-version-check

# Of the parts that other versions of torch and Python might break.
CORE_TESTS := tests/double_backward/test_equal_to_torch.py tests/test_gal.py tests/test_forward.py tests/test_ensemble.py \
	tests/test_any_member.py tests/test_strangers_models.py tests/attacks/test_attacks.py tests/training/test_step.py

.DEFAULT_GOAL := help
.PHONY: help demo test test-lowest lint docs dist bench format clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/installed  ## install, then train, attack and compare on real digits (a minute)
	$(BIN)/divtrain run digits

# Tests of one file run in one process: they use an ensemble that is trained once.
test: $(VENV)/installed-test  ## install, then run every test on up to four cores
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

# Torch's builds of that time bring CUDA: over 5 GB.
test-lowest:  ## install the lowest versions pyproject.toml allows into .venv-lowest, run the core tests
	$(PYTHON) -m venv .venv-lowest
	$(PYTHON) -c 'import tomllib; [print(d.replace(">=", "==")) for d in tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]]' > .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install --disable-pip-version-check --constraint .venv-lowest/lowest.txt --editable . pytest hypothesis beartype
	.venv-lowest/bin/python -m pytest -W ignore::FutureWarning $(CORE_TESTS)

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
	rm -rf $(VENV) .venv-lowest site dist .pytest_cache .ruff_cache .hypothesis

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
	$(PIP) --build-constraint build-constraints.txt --editable '.[test,oracles,ray,lightning,timm,onnx,tensorboard,wandb,autoattack]'
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
