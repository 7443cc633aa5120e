# Everything that is done with this repository. Needs make, a POSIX shell and Python >= 3.10 with venv; nothing else.

PYTHON ?= python3
# Extra arguments for pytest, e.g. make test PYTEST="-k journal"; PARALLEL=2 runs two tests at a time.
PYTEST ?=
PARALLEL ?= 0
# What also runs on the oldest and on the newest Python of this machine.
ON_EVERY_PYTHON ?= tests/unit tests/integration/test_http.py tests/integration/test_http_control.py \
    tests/integration/test_original_contract.py

ENV = $(PYTHON) .ci/env.py
DEV = .envs/dev/bin
RUN_PYTEST = -m pytest -n $(PARALLEL) $(PYTEST)
SOURCES = agent orchestrator tests .ci

.DEFAULT_GOAL := help
.PHONY: help demo test lint types format lock prove bench envs clean python dev

help: ## this list
	@echo "make TARGET [PYTHON=python3.12]"
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' Makefile

demo: python ## mix colours on an emulated OT-2, then survive a crash: no robot, no Docker, no root
	@$(ENV) make agent client opentrons-8.2.0
	@.envs/client/bin/python orchestrator/examples/demo.py \
	    --agent-python .envs/agent/bin/python --worker-python .envs/opentrons-8.2.0/bin/python

test: python ## all tests, then those of agent and client again on the oldest and the newest Python here
	@$(ENV) make dev agent client
	@others=$$($(ENV) others); $(ENV) make --if-possible opentrons-8.2.0 opentrons-9.0.0 prefect $$others
	$(DEV)/python $(RUN_PYTEST)
	@set -e; for name in $$($(ENV) others); do \
	    echo ".envs/$$name/bin/python $(RUN_PYTEST) $(ON_EVERY_PYTHON)"; \
	    .envs/$$name/bin/python $(RUN_PYTEST) $(ON_EVERY_PYTHON); \
	done

lint: dev ## ruff: rules and format
	$(DEV)/ruff check $(SOURCES)
	$(DEV)/ruff format --check $(SOURCES)

types: dev ## mypy --strict, as Python 3.10 sees the code
	$(DEV)/mypy

format: dev ## let ruff put the code in order
	$(DEV)/ruff check --fix $(SOURCES)
	$(DEV)/ruff format $(SOURCES)

lock: python ## newest versions into every locked set; prove the agent's for armv7l on Python 3.10 and 3.12
	@$(ENV) make lock
	@.envs/lock/bin/python .ci/lock.py

prove: python ## only the proof for armv7l, for the set as it is
	@$(ENV) make lock
	@.envs/lock/bin/python .ci/lock.py --prove

bench: dev ## measure: ratios against a floor taken in the same run, as a table
	@$(DEV)/python tests/bench

envs: python ## every environment that this machine can hold, into .envs/
	@$(ENV) make dev agent client
	@$(ENV) make --if-possible opentrons-8.2.0 opentrons-9.0.0 prefect $$($(ENV) others)
	@$(ENV) list

clean: ## forget environments and caches
	rm -rf .envs .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis agent/dist orchestrator/dist
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

dev: python
	@$(ENV) make dev

python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	    echo "$(PYTHON) is $$($(PYTHON) --version 2>&1 || echo missing); Python 3.10 or newer is needed." \
	         "Next step: install one (apt install python3 python3-venv), or name one: make PYTHON=python3.12" >&2; \
	    exit 1; }
