# Each command makes .venv and installs into it first, if need be; `make help` lists them.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
BENCH_INSTALLED := $(VENV)/.installed-bench
PIP := $(RUN) -m pip --disable-pip-version-check install --quiet -c constraints.txt

# Two test processes of one thread each: more threads than cores would slow both. Tests that share what is dear to make
# are a group, which one process runs.
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadgroup

STARTED := $(shell date +%s)

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
	$(RUN) tools/make_shapes.py --out data/shapes
	$(RUN) -m vidiff.train configs/shapes.yaml
	$(RUN) tools/generate.py --run runs/shapes --count 12 --out runs/shapes/demo/generated.mp4
	$(RUN) tools/extend.py data/shapes/test/red_disc/0000.mp4 --run runs/shapes --label red_disc \
		--given 8 --frames 40 --out runs/shapes/demo/extended.mp4
	$(RUN) tools/evaluate.py --run runs/shapes --oracle shapes --json runs/shapes/scores.json
	@echo
	@echo "generated clips, a label each    runs/shapes/demo/generated.mp4"
	@echo "a real clip, extended            runs/shapes/demo/extended.mp4"
	@echo "report, to open in a browser     runs/shapes/report.html"
	@echo "scores                           runs/shapes/scores.json"
	@echo "took $$((($$(date +%s) - $(STARTED)) / 60)) min $$((($$(date +%s) - $(STARTED)) % 60)) s"

test: $(INSTALLED)  ## the fast tests, in under 15 minutes
	$(PYTEST) -m "not slow"

test-all: $(INSTALLED)  ## every test
	$(PYTEST)

lint: $(INSTALLED)  ## style, types, and the direction of imports
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	OMP_NUM_THREADS=1 $(RUN) -m pytest tests/test_structure.py

# --no-deps: the peer asks for torchvision and transformers, which its network does not use.
$(BENCH_INSTALLED): $(INSTALLED)
	@$(PIP) -e ".[bench]"
	@$(PIP) --no-deps video-diffusion-pytorch==0.7.0
	@touch $@

bench: $(BENCH_INSTALLED)  ## time a training step against video-diffusion-pytorch
	$(RUN) tools/benchmark.py train

docs: $(INSTALLED)  ## build the documentation site into site/
	$(RUN) -m mkdocs build --strict

clean:  ## remove .venv and caches; data and runs stay
	rm -rf $(VENV) dist site .mypy_cache .pytest_cache .ruff_cache
	find vidiff tools tests -name __pycache__ -type d -prune -exec rm -rf {} +
