# Safelight from a fresh clone: `make demo`. PYTHON names another interpreter: make demo PYTHON=python3.12
PYTHON ?= python3
# What is installed; on a machine with an NVIDIA GPU: make demo LOCK=infra/install/requirements-gpu.lock
LOCK ?= requirements.lock
ARGS ?=
# Tests run in a process for each core, four at most; those of a file stay together, in the order of tests/conftest.py.
SPREAD = -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
BIN := .venv/bin
STAMP = .venv/.installed-$(notdir $(LOCK))
ROOMS := cnn infra tasks flows

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test long soak check bench lock clean

help: ## List the targets
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1	\2/p' Makefile | expand -t 16

install: $(STAMP) ## Make .venv with the locked dependencies and this project

$(STAMP): $(LOCK) infra/install/bootstrap.lock infra/install/build.lock infra/install/install.sh pyproject.toml
	@infra/install/install.sh "$(PYTHON)" .venv "$(LOCK)"
	@touch $@

demo: install ## Run the whole loop on 1,797 handwritten digits
	$(BIN)/safelight demo $(ARGS)

test: install ## Run the tests, in under ten minutes on two cores (ARGS="-k name" for some)
	$(BIN)/python -m pytest $(SPREAD) -m "not slow and not long and not soak" $(ARGS)

long: install ## Run the tests that take longer: schedules that tick, servers that many use at once
	$(BIN)/python -m pytest $(SPREAD) -m "long and not slow" $(ARGS)

soak: install ## Inject thousands of faults, in about half an hour (SAFELIGHT_TEST_SEED=N for other seeds)
	$(BIN)/python -m pytest -m soak -o timeout=1800 $(ARGS)

check: install ## Lint, formatting, types, the direction of imports, known faults of the dependencies
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy $(ROOMS) tests
	$(BIN)/lint-imports
	infra/install/audit.sh $(BIN)/pip-audit requirements.lock

bench: install ## Measure speed, memory and fidelity beside their references (ARGS=--quick: in four minutes)
	$(BIN)/python tests/bench/bench.py $(ARGS)

# The other locks take their pins from requirements.lock. Pins stay as they are; ARGS=--upgrade renews them all,
# ARGS="--upgrade-package pillow" one.
COMPILE = .venv/bin/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --custom-compile-command "make lock" $(ARGS)

lock: install ## Resolve the dependencies again, into every lock file
	$(BIN)/python -m pip install --quiet --require-hashes -r infra/install/bootstrap.lock
	$(COMPILE) --extra cpu --extra dev --extra servers pyproject.toml -o requirements.lock
	$(COMPILE) --extra cpu --extra servers -c requirements.lock pyproject.toml -o infra/install/requirements-cpu.lock
	$(COMPILE) --extra gpu --extra servers -c requirements.lock pyproject.toml -o infra/install/requirements-gpu.lock
	echo 'setuptools>=77' | $(COMPILE) - -o infra/install/build.lock
	echo 'uv' | $(COMPILE) - -o infra/install/bootstrap.lock
	@echo "safelight: locked; make install installs what changed"

clean: ## Remove .venv, caches and build leftovers; workspaces stay
	rm -rf .venv build dist safelight.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find $(ROOMS) tests -name __pycache__ -type d -prune -exec rm -rf {} +
