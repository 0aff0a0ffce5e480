# Everything sets itself up in .venv, from Python alone. PYTHON names another interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
AXE := $(VENV)/axe/node_modules/axe-core/axe.min.js
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup demo test test-all test-browser test-oldest audit lint bench bench-gpu clean
.DEFAULT_GOAL := help

help:
	@echo "make demo      one bundled subject, the whole job, on this machine"
	@echo "make test      the tests (minutes)        make test-all   the slow ones too"
	@echo "make test-browser   the page of rpo app in a real Chromium"
	@echo "make lint      ruff and mypy              make bench      speed on this machine"

# torch first and by its exact version, so that pip does not fetch another build for a dependency
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

setup: $(READY)

demo: setup
	$(BIN)/rpo demo

# A process a core, with one thread each: tiny models gain nothing from more
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m "not slow and not browser" \
		--cov=rpo --cov-report=term --cov-fail-under=85

test-all: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m "not browser"

# The page in Debian's chromium. axe-core judges its accessibility where npm can fetch it.
test-browser: setup
	-test -e $(AXE) || npm install --silent --no-save --prefix $(VENV)/axe axe-core@4
	OMP_NUM_THREADS=1 RPO_AXE=$(AXE) $(BIN)/python -m pytest -m browser tests/browser

# What rests on other packages, with the oldest of them that pyproject.toml claims
OLDEST := .venv-oldest
RESTS_ON_OTHERS := adapters backbone backbones cli corpus encoders export job loading models \
	sampling subject training

$(OLDEST)/.ready: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet torch==2.13.0
	$(OLDEST)/bin/pip install --quiet --constraint constraints-oldest.txt \
		--editable '.[tensorboard]' pytest pytest-cov pytest-xdist
	@touch $@

test-oldest: $(OLDEST)/.ready
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -n auto --dist loadfile -m "not slow" \
		$(RESTS_ON_OTHERS:%=tests/test_%.py)

# Known holes in the pinned versions; needs the network
audit:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install --quiet pip-audit
	.venv-audit/bin/pip-audit --no-deps --requirement constraints.txt

bench: setup
	$(BIN)/python -m benchmarks.speed

bench-gpu: setup
	$(BIN)/python -m benchmarks.gpu --naive

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(OLDEST) .venv-audit build src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage
