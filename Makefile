# Each command makes .venv and installs into it first, if need be; `make help` lists them.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
BENCH_INSTALLED := $(VENV)/.installed-bench
PIP := $(RUN) -m pip --disable-pip-version-check install --quiet -c constraints.txt

# Two test processes of one thread each: more threads than cores would slow both. Tests that share what is dear to make
# are a group, which one process runs.
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadgroup --no-loadscope-reorder --durations 40 --durations-min 5

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint bench docs clean

help:  ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

# A virtual environment without a working pip is what an interrupted creation leaves: it is made anew.
$(INSTALLED): pyproject.toml constraints.txt
	@echo "installing into $(VENV)"
	@$(RUN) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(PIP) -e ".[test]"
	@touch $@

demo: $(INSTALLED)  ## make clips, train on them, generate, extend, score: half an hour on two cores
	$(RUN) -m vidiff demo

test: $(INSTALLED)  ## the fast tests, in about half an hour
	$(PYTEST) -m "not slow"

test-all: $(INSTALLED)  ## every test
	$(PYTEST)

lint: $(INSTALLED)  ## style, types, and the direction of imports
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	OMP_NUM_THREADS=1 $(RUN) -m pytest tests/test_structure.py

# --no-deps: the peers ask for torchvision, transformers, accelerate and more, which their networks do not use.
$(BENCH_INSTALLED): $(INSTALLED)
	@$(PIP) -e ".[bench]"
	@$(PIP) --no-deps video-diffusion-pytorch==0.7.0 imagen-pytorch==2.1.0
	@touch $@

bench: $(BENCH_INSTALLED)  ## time a training step against three other video U-Nets
	$(RUN) tools/benchmark.py train

docs: $(INSTALLED)  ## build the documentation site into site/
	$(RUN) -m mkdocs build --strict

clean:  ## remove .venv and caches; data and runs stay
	rm -rf $(VENV) dist site .mypy_cache .pytest_cache .ruff_cache
	find vidiff tools tests -name __pycache__ -type d -prune -exec rm -rf {} +
