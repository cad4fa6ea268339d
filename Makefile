# A fresh machine needs Python 3.11, pip and make; every goal sets up what it needs.
#   make test TORCH=2.12.0 VENV=.venv-2.12      another PyTorch, in a place of its own

PYTHON ?= python3
VENV   ?= .venv
TORCH  ?= $(shell sed -n 's/^torch==\([0-9.]*\).*/\1/p' constraints.txt)
JOBS   ?= 2
PYTEST_FLAGS ?=

PY    := $(VENV)/bin/python
READY := $(VENV)/.ready-torch-$(TORCH)

LOWER_VENV  := .venv-lower
LOWER_TORCH := $(shell sed -n 's/^ *"torch>=\([0-9.]*\)".*/\1.0/p' pyproject.toml)
LOWER_READY := $(LOWER_VENV)/.ready-torch-$(LOWER_TORCH)

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-lower lint format types docs bench pack pins clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: $(READY) ## create .venv and install everything into it, once

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "forwardgrad needs Python 3.11 or newer; found $$($(PYTHON) --version); say make PYTHON=python3.12"; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "Setting up $(VENV) with PyTorch $(TORCH), once: a few hundred MB to download, some GB where pip finds only a CUDA build."
	@sed 's/^torch==[0-9.]*/torch==$(TORCH)/' constraints.txt > $(VENV)/constraints.txt
	@$(PY) -m pip install --quiet --upgrade --constraint $(VENV)/constraints.txt pip
	@$(PY) -m pip install --quiet --constraint $(VENV)/constraints.txt torch==$(TORCH)
	@$(PY) -m pip install --quiet --constraint $(VENV)/constraints.txt --editable '.[train,hf,text,images,solvers,fetch,tensorboard,federated]' --group dev
	@touch $@

demo: $(READY) ## train the digits with and without backprop, compare, and show the ledger of claims
	@$(VENV)/bin/forwardgrad demo
	@$(VENV)/bin/forwardgrad claims

test: lint types ## lint, types, import rules, and every test but the slow ones, the docs build among them
	@$(PY) -m pytest -n $(JOBS) -m "not slow" $(PYTEST_FLAGS)

test-slow: $(READY) ## the tests marked slow: minutes each
	@$(PY) -m pytest -n $(JOBS) -m slow $(PYTEST_FLAGS)

# The oldest supported PyTorch. Where the registry has it only as a CUDA build, .ci/cuda_stubs.py stands in
# for the gigabytes of CUDA libraries; so no other package may pull them in, hence --no-deps and the full list.
test-lower: $(LOWER_READY) ## the tests on the oldest PyTorch supported
	@$(LOWER_VENV)/bin/python -m pytest -n $(JOBS) -m "not slow" $(PYTEST_FLAGS)

$(LOWER_READY): pyproject.toml constraints.txt .ci/cuda_stubs.py
	@test -x $(LOWER_VENV)/bin/python || $(PYTHON) -m venv $(LOWER_VENV)
	@echo "Setting up $(LOWER_VENV) with PyTorch $(LOWER_TORCH), once: some 550 MB to download."
	@sed -e '/^torch==/d' constraints.txt > $(LOWER_VENV)/constraints.txt
	@$(LOWER_VENV)/bin/python -m pip install --quiet --no-deps --requirement $(LOWER_VENV)/constraints.txt torch==$(LOWER_TORCH)
	@$(LOWER_VENV)/bin/python .ci/cuda_stubs.py
	@$(LOWER_VENV)/bin/python -m pip install --quiet --no-deps --editable .
	@touch $@

lint: $(READY) ## ruff, and the direction of imports
	@$(PY) -m ruff check
	@$(PY) -m ruff format --check
	@$(VENV)/bin/lint-imports --no-logo

format: $(READY) ## let ruff rewrite what it can
	@$(PY) -m ruff check --fix
	@$(PY) -m ruff format

types: $(READY) ## mypy
	@$(PY) -m mypy

docs: $(READY) ## the site, in docs/_build/html
	@$(PY) -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: $(READY) ## time, memory and test functions beside stock PyTorch, recorded; half an hour
	@$(PY) -m pip install --quiet --constraint $(VENV)/constraints.txt --group rivals
	@$(PY) -m bench
	@$(PY) -m bench memory
	@$(PY) -m bench attention
	@$(PY) -m bench step
	@$(PY) -m bench functions
	@$(PY) -m bench loop
	@$(PY) -m bench precision
	@$(PY) -m bench profile

pack: $(READY) ## wheels for the benchmark on a GPU machine without network, in .pack
	@$(PY) -m bench.pack

pins: ## write constraints.txt from what .venv holds
	@$(PY) .ci/pins.py

clean: ## remove everything that was made
	rm -rf $(VENV) $(LOWER_VENV) .pack docs/_build docs/gallery docs/generated docs/methods/generated docs/tasks/generated dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests bench docs -name __pycache__ -type d -prune -exec rm -rf {} +
