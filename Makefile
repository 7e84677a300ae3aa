# One command each; `make help` lists them. All of them work in .venv, which the first one makes.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements-cpu.lock
PYTEST_ARGS ?=
BENCH_ARGS ?=
UV_ARGS ?=

export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: help setup demo test lint format bench lock clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "make %-8s %s\n", $$1, $$2}'

# Everything but Horovod. The stamp is newer than the lock exactly when there is nothing to install.
$(VENV)/.locked: $(LOCK) pyproject.toml scripts/make_venv.sh
	@scripts/make_venv.sh $(VENV) $(LOCK)

$(VENV)/.horovod: $(VENV)/.locked scripts/install_horovod.sh
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/install_horovod.sh cpu
	@touch $@

# What makes training and decoding faster and needs a C++ compiler; everything works without.
$(VENV)/.native: $(VENV)/.locked facetrain/compiled.py facetrain/layers/prelu.cc facetrain/layers/native.py facetrain/data/jpeg.cc facetrain/data/jpeg.py
	@$(BIN)/facetrain doctor --build-ops >/dev/null || echo "setup: goes on without operations in C++" >&2
	@touch $@

setup: $(VENV)/.locked $(VENV)/.horovod $(VENV)/.native ## make .venv: locked packages, this project, Horovod

demo: $(VENV)/.locked $(VENV)/.native ## train, judge and export a model on generated faces
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/demo.sh

test: setup ## run the tests (PYTEST_ARGS="tests/config -x" for some)
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal $(PYTEST_ARGS)

lint: $(VENV)/.locked ## check style
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo "not formatted: run 'make format'" >&2; exit 1; }

format: $(VENV)/.locked ## put style right where a machine can
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format --quiet .

bench: $(VENV)/.locked ## measure speed and memory
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script" $(BENCH_ARGS) || exit 1; done

lock: ## bring requirements-cpu.lock up to requirements.in (UV_ARGS=--upgrade for newer versions; needs uv)
	@uv="$$(PATH="$(CURDIR)/$(BIN):$$PATH" command -v uv)" || { echo "'make lock' needs uv: pip install uv" >&2; exit 1; }; \
	"$$uv" pip compile --quiet --universal --python-version 3.9 --index-strategy unsafe-best-match \
	    --no-emit-index-url --custom-compile-command "make lock" $(UV_ARGS) requirements.in -o $(LOCK)

clean: ## remove what tools left behind, not .venv and not runs/
	@rm -rf build dist .pytest_cache .ruff_cache .hypothesis *.egg-info
	@find . -name __pycache__ -not -path './$(VENV)/*' -type d -prune -exec rm -rf {} +
