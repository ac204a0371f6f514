# make help says what there is. The first use makes .venv and installs what the locks name, by hash.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# COMPILED=1 runs everything with the forwarding path compiled, as the image has it; that takes a C compiler.
COMPILED ?=
MADE := build/compiled
RUN := $(if $(COMPILED),env PYTHONPATH="$(CURDIR)/$(MADE):$(CURDIR)" PYTHONSAFEPATH=1 PYTEST_ADDOPTS="-o pythonpath=" )$(BIN)/python
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -qq
COMPILE := build/lock/bin/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links
IMAGE ?= token-sidecar
TESTS ?=
# Two more than there are processors: many tests wait for a clock.
JOBS ?= $(shell echo $$(($$(nproc) + 2)))
.DEFAULT_GOAL := help
.PHONY: help demo test slow canary check format bench fuzz soak lock replicas image clean ready
export COMPILED

help:  ## Say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ready  ## Show the sidecar at work (DEMO=--once ends by itself)
	@$(RUN) -m sidecar demo $(DEMO)

test: ready  ## Run the tests (TESTS=tests/unit for a part, JOBS=0 one after the other, COMPILED=1 as in the image)
	@$(RUN) -m pytest -q -n $(JOBS) --dist worksteal $(TESTS)

slow: ready  ## Run the tests that take long
	@$(RUN) -m pytest -q -m slow $(TESTS)

canary: ready  ## Search all that the product shows in any test for every secret of all of them
	@rm -rf build/canary
	@$(RUN) -m pytest -q -n $(JOBS) --dist worksteal -p tests.support.canary --canary build/canary $(TESTS)

check: $(READY)  ## Lint, formatting, types
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo 'not formatted: make format' >&2; exit 1; }
	@$(BIN)/mypy

format: $(READY)  ## Format the code
	@$(BIN)/ruff format --quiet .

bench: ready  ## Measure against other proxies (ARGS=--quick to try it)
	@python=$$($(BIN)/python -m benchmarks.interpreter) && PATH="$${python%/*}:$$PATH" $$python -m benchmarks.run $(ARGS)

fuzz: ready  ## Mutated messages, a million in process, 100 000 over sockets; fleets (COUNT=, SOCKETS=, EPISODES=, SEED=)
	@$(RUN) -m fuzz wire --count $(or $(COUNT),1000000) --seed $(or $(SEED),1)
	@$(RUN) -m fuzz admin --count $(or $(COUNT),200000) --seed $(or $(SEED),1)
	@$(RUN) -m fuzz provider --count $(or $(COUNT),200000) --seed $(or $(SEED),1)
	@$(RUN) -m fuzz fleet --count $(or $(EPISODES),400) --seed $(or $(SEED),1)
	@$(RUN) -m fuzz.sockets --count $(or $(SOCKETS),100000) --seed $(or $(SEED),1)

soak: ready  ## Run fleets of sidecars through what may go wrong, in full: hours (SOAK="logout --store redis" for one)
	@set -e; if [ -n "$(SOAK)" ]; then $(RUN) -m soak.$(SOAK); exit; fi; \
	for store in sqlite redis; do for program in expiries holders kills logout users window starts; do \
	$(RUN) -m soak.$$program --store $$store; done; done; \
	for program in herd floods streams oidc_provider slopes; do $(RUN) -m soak.$$program; done

lock: build/lock/bin/pip-compile  ## Write the lock files anew
	@echo 'resolving; this takes some minutes'
	@export CUSTOM_COMPILE_COMMAND='make lock'; \
	$(COMPILE) --upgrade --extra dev --build-deps-for editable -o requirements-dev.lock pyproject.toml && \
	$(COMPILE) --upgrade -c requirements-dev.lock -o requirements.lock pyproject.toml && \
	HATCH_BUILD_HOOKS_ENABLE=1 $(COMPILE) --upgrade -c requirements-dev.lock --only-build-deps --build-deps-for wheel -o requirements-build.lock pyproject.toml

replicas: image  ## Show that two sidecars share sessions in Redis and outlive restarts, with Compose
	@$(PYTHON) deploy/compose/replicas.py

image:  ## Build the container image (BUILD="--secret id=ca,src=FILE" behind an own CA)
	@DOCKER_BUILDKIT=1 docker build $(BUILD) -t $(IMAGE) .

clean:  ## Remove everything that was made
	@rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Where PYTHONDONTWRITEBYTECODE is set, every sidecar that is started would compile itself anew: a quarter of a second.
ready: $(READY)
	@$(BIN)/python -m compileall -q sidecar soak fuzz tests/support
	@$(if $(COMPILED),$(BIN)/python -m benchmarks.compiled $(MADE) && $(BIN)/python -m compileall -q $(MADE)/sidecar)

$(READY): requirements-dev.lock pyproject.toml
	@echo 'installing into $(VENV); this happens once'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

build/lock/bin/pip-compile:
	@$(PYTHON) -m venv build/lock
	@build/lock/bin/python -m pip --disable-pip-version-check -qq install pip-tools
