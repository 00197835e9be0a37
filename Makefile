# Every target that needs the environment makes it first; that takes no time when it is there.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest
# what they share has no main
BENCHES := $(sort $(patsubst bench/%.py,%,$(shell grep -l '^if __name__' bench/*.py)))

.PHONY: help setup train study dashboard test test-all test-long test-unit soak test-breaks lint audit bench clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: ## Make .venv with the locked packages and Auricle in it
	@deploy/setup.sh

train: setup ## Train the tiny model on the demo set, on an embedded cluster on this machine
	@$(PYTHON) -m cluster.launch --config tiny --fresh

study: setup ## Compare supervised fine-tuning and GRPO on the demo, 3 seeds; ARGS=--full takes the demo's length
	@$(PYTHON) -m cluster.study --config configs/study.yaml $(ARGS)

dashboard: setup ## Start Prometheus on runs/ and print the address of its page; ARGS=--help
	@$(PYTHON) -m deploy.dashboard $(ARGS)

# pytest rewrites the asserts of a file once and keeps them; containers often forbid Python to keep anything
test test-all test-long test-unit: export PYTHONDONTWRITEBYTECODE :=

test: setup ## Run the unit and integration tests and the short faults
	@$(PYTEST) -n auto tests/unit
	@$(PYTEST) -m "not slow" tests/integration tests/faults

test-all: setup ## Run the slow tests too
	@$(PYTEST) -n auto tests/unit
	@$(PYTEST) -m "not long" tests/integration tests/faults

test-long: setup ## Run what test-all leaves out: further forms of what the soak or another test shows
	@$(PYTEST) -m long tests/integration tests/faults

test-unit: setup ## Run the unit tests that are light, side by side
	@$(PYTEST) -n auto -m "not heavy" --hypothesis-profile light tests/unit

soak: setup ## Let something happen to a run about every 50 seconds for half an hour; ARGS=--help
	@$(PYTHON) -m tests.faults.soak $(ARGS)

test-breaks: setup ## Break the code on purpose and see that the tests notice
	@$(PYTHON) -m tests.breaks

lint: setup ## Check format, rules, types and the order of the rooms
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-logo

audit: setup ## Ask a database of known vulnerabilities about every locked package
	@for lock in cpu gpu dev; do echo "== $$lock"; .venv/bin/uv tool run pip-audit==2.10.1 --strict --disable-pip --no-deps \
		--progress-spinner off --requirement deploy/locks/$$lock.txt; done

bench: setup ## Run every benchmark and write bench/baselines
	@echo "benchmarks: $(or $(BENCHES),none)"
	@mkdir -p bench/baselines
	@for name in $(BENCHES); do echo "== $$name"; $(PYTHON) -m bench.$$name --json bench/baselines/$$name.json; done
	@echo "== step, clips of 10 s"; $(PYTHON) -m bench.step --clip-seconds 10 --json bench/baselines/step_10s.json

clean: ## Remove the environment, build products and tool caches; runs/ stays
	@rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
