# Every target builds what it needs; only Python 3.11 and make have to be installed.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# Real pretrained weights for the tests that compare with them, if there are any.
export TLJAX_CHECKPOINTS ?= $(wildcard ../shared/checkpoints)

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format lock parity bench soak fuzz clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

$(VENV)/.run: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "installing tljax and its dependencies into $(VENV) (a minute or two, once)"
	$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.test: $(VENV)/.run
	$(PIP_INSTALL) -e '.[test]'
	@touch $@

install: $(VENV)/.run  ## create the virtual environment

demo: $(VENV)/.run  ## the four scenarios on embedded data, offline, on a CPU
	$(BIN)/tljax demo --workdir runs/demo

# One process more than the two cores: some tests wait for processes that they start.
test: $(VENV)/.test  ## the test suite
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.test  ## formatter, linter and type checker; changes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.test  ## format, and fix what the linter can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(VENV)/.test  ## pin the newest compatible versions in constraints.txt
	$(BIN)/python -m pip install --quiet uv
	@echo "# Versions that tljax is tested with, for every extra; made by \`make lock\`." > constraints.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest \
	  --all-extras --no-emit-index-url --no-header --no-annotate pyproject.toml >> constraints.txt

parity: $(VENV)/.test  ## compare every family with its original (installs PyTorch, timm, transformers and Keras)
	$(PIP_INSTALL) -e '.[parity]'
	$(BIN)/python -m tests.parity.make_references
	$(BIN)/python -m tests.parity.round_trip

bench: $(VENV)/.test  ## speed compared with timm, Keras and a minimal JAX step (installs what `make parity` does; takes hours)
	$(PIP_INSTALL) -e '.[parity]'
	$(BIN)/python -m benchmarks

# Test files that `make test` runs with few XLA optimizations (see tests/conftest.py).
LAWS := plan_laws resume stages mesh step feature_cache training average sweep
soak: $(VENV)/.test  ## kill runs in every phase, and test the laws with fully optimized programs (an hour)
	$(BIN)/python -m tests.soak
	XLA_FLAGS= $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "soak or not soak" $(LAWS:%=tests/test_%.py)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m soak $(LAWS:%=--ignore=tests/test_%.py)

fuzz: $(VENV)/.test  ## feed the readers of images, weights and JSON 100,000 damaged files each
	$(PIP_INSTALL) -e '.[fuzz]'
	for target in image .safetensors .npz .h5 preprocessing index names metrics config table choices; do $(BIN)/python -m tests.fuzz $$target || exit 1; done

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build *.egg-info
