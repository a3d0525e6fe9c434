# Preheat. `make help` lists what there is.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROVIDER ?= auto
export PATH := $(CURDIR)/$(BIN):$(PATH)

PYTEST := $(BIN)/python -m pytest
RESULTS := build/test
WORKERS ?= 2
SIDE_BY_SIDE = -n $(WORKERS) --dist loadfile

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  \033[1m%-20s\033[0m %s\n", $$1, $$2}'

# --- try it

.PHONY: demo
demo: venv ## a real Kubernetes, a real Triton, a real model: watch it warm up, load and answer
	$(BIN)/python -m e2e.demo up --provider $(PROVIDER)

.PHONY: demo-down
demo-down: venv ## take the demo away; nothing is left behind
	$(BIN)/python -m e2e.demo down --provider $(PROVIDER)

.PHONY: cluster
cluster: venv ## only the cluster, for development
	$(BIN)/python -m e2e.cluster --provider $(PROVIDER) up

.PHONY: cluster-down
cluster-down: venv ## take the cluster away
	$(BIN)/python -m e2e.cluster --provider $(PROVIDER) down

.PHONY: images
images: venv ## build the container images (Docker or buildah) and print where they are
	$(BIN)/python -m e2e.images build

# --- develop

.PHONY: venv
venv: $(VENV)/.complete ## the Python environment, from the lock file

$(VENV)/.complete: requirements/dev.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Preheat needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: generate
generate: venv ## write crds/ and the chart's copy from the API types
	$(BIN)/python -m preheat.api.crd crds charts/preheat/files/crds

.PHONY: golden
golden: venv ## rewrite the golden files; look at the diff before you commit it
	PREHEAT_GOLDEN=write $(PYTEST) tests/golden -q

.PHONY: lock
lock: venv ## write the lock files again
	sh requirements/compile.sh

.PHONY: format
format: venv ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: build
build: venv ## build the Python distribution into dist/
	$(BIN)/python -m build --no-isolation --outdir dist

# --- check

.PHONY: test
test: forget-results lint test-unit test-integration test-isolation test-runtime test-e2e test-faults test-rbac ## everything: what CI runs
	@echo; $(BIN)/python tests/summary.py $(RESULTS)

.PHONY: forget-results
forget-results:
	@rm -rf $(RESULTS) build/calls

.PHONY: lint
lint: venv ## formatting, lint, types, layers, generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy e2e
	$(BIN)/lint-imports
	@test ! -e operator/__init__.py || { echo "operator/__init__.py shadows Python's own module: remove it"; exit 1; }
	@$(BIN)/python -m preheat.api.crd build/generated && diff -r -x README.md build/generated crds && diff -r -x README.md crds charts/preheat/files/crds \
	  || { echo "crds/ are not what the API types say: run make generate"; exit 1; }

.PHONY: test-unit
test-unit: venv ## pure code, golden files, the loop on virtual time: seconds
	$(PYTEST) $(SIDE_BY_SIDE) --junitxml=$(RESULTS)/unit.xml --doctest-modules operator/preheat tests/unit tests/golden tests/loop

# It says how long one object waits for another: nothing else may use the machine.
ALONE := tests/integration/test_isolation.py

.PHONY: test-integration
test-integration: venv ## a real kube-apiserver: schema, ownership, drift, deletion
	$(PYTEST) $(SIDE_BY_SIDE) --junitxml=$(RESULTS)/integration.xml tests/integration --ignore $(ALONE)

.PHONY: test-isolation
test-isolation: venv ## the same: no object delays another
	$(PYTEST) --junitxml=$(RESULTS)/isolation.xml $(ALONE)

.PHONY: test-bad-input
test-bad-input: venv ## every bad object of tests/bad with the answer that its user reads, as a table
	$(BIN)/python -m tests.bad

.PHONY: fuzz
fuzz: venv ## N (2000) poisonous objects from SEED (1): none delays another, each says why
	PREHEAT_FUZZ=$(or $(N),2000) PREHEAT_FUZZ_SEED=$(or $(SEED),1) $(PYTEST) -s $(ALONE)

.PHONY: test-runtime
test-runtime: venv ## agent, warmer and engine as real processes, against a real Triton
	$(PYTEST) --junitxml=$(RESULTS)/runtime.xml tests/runtime

.PHONY: test-e2e
test-e2e: venv ## real clusters of their own, one for each of WORKERS (2): weights, scheduling, serving, healing
	$(PYTEST) $(SIDE_BY_SIDE) --no-loadscope-reorder --junitxml=$(RESULTS)/e2e.xml e2e/tests --provider $(PROVIDER)

.PHONY: test-faults
test-faults: venv ## the fast part of the fault campaign: every kind of fault, every workload, and planted bugs
	$(PYTEST) --junitxml=$(RESULTS)/faults.xml tests/faults

.PHONY: faults
faults: venv ## the whole fault campaign; a part of it: WORKLOAD= FAULT= CASE= SEED= LANES=
	@$(BIN)/python -m e2e.faults $(if $(WORKLOAD),--workload "$(WORKLOAD)") $(if $(FAULT),--fault "$(FAULT)") \
	  $(if $(CASE),--case "$(CASE)") $(if $(SEED),--seed $(SEED)) $(if $(LANES),--lanes $(LANES))

.PHONY: e2e-rollout
e2e-rollout: venv ## good and bad revisions on a real cluster, under traffic, some through a real gateway; a part of it: CASE= SEED= PROVIDER=
	$(BIN)/python -m e2e.rollout --provider $(PROVIDER) $(if $(CASE),--case "$(CASE)") $(if $(SEED),--seed $(SEED))

.PHONY: e2e-external
e2e-external: venv ## a real HorizontalPodAutoscaler and a real KEDA scale models on a real cluster; a part of it: CASE= PROVIDER=
	$(BIN)/python -m e2e.external --provider $(PROVIDER) $(if $(CASE),--case "$(CASE)")

.PHONY: test-rbac
test-rbac: venv ## the operator's ClusterRole against the calls that the tests before it recorded
	$(PYTEST) --junitxml=$(RESULTS)/rbac.xml tests/rbac

# --- measure

N ?= 500 1000
IDLE_SECONDS ?= 60

.PHONY: bench-control-plane
bench-control-plane: venv ## what the operator costs the API server, with N="500 1000" LLMDeployments at once
	$(BIN)/python -m e2e.bench.control_plane $(N) --idle-seconds $(IDLE_SECONDS)

SCALE ?= 1

.PHONY: bench-fetch
bench-fetch: venv ## the warmer against other downloaders and the machine's own limits; smaller: SCALE=0.1 ROUNDS=1
	$(BIN)/python -m e2e.bench.fetch --scale $(SCALE) --rounds $(or $(ROUNDS),3)

.PHONY: bench-pages
bench-pages: venv ## how much sooner weights are read from the page cache; SCALE=0.25 ROUNDS=1 for a small run
	$(BIN)/python -m e2e.bench.fetch.pages --scale $(SCALE) $(if $(ROUNDS),--rounds $(ROUNDS))

.PHONY: bench-scaling
bench-scaling: venv ## every autoscaler on the same requests; real ones: TRACES=folder or TRACE=file; a part: CELL= LOAD= SCALER= SEED= QUICK=1
	$(BIN)/python -m e2e.bench.scaling $(if $(TRACES),--traces "$(TRACES)") $(foreach file,$(TRACE),--trace "$(file)") \
	  $(if $(CELL),--cell "$(CELL)") $(if $(LOAD),--load $(LOAD)) $(if $(SCALER),--scaler $(SCALER)) $(if $(SEED),--seed $(SEED)) \
	  $(if $(QUICK),--quick)

.PHONY: bench-decisions
bench-decisions: venv ## what the scaling decisions of 1,000 deployments cost: milliseconds and memory; smaller: N=100
	$(BIN)/python -m e2e.bench.decisions $(if $(filter command line,$(origin N)),--deployments $(N))

.PHONY: chaos-fetch
chaos-fetch: venv ## the warmer against a server that misbehaves; a part of it: CASE= SEED= SCALE= PLANT=
	@$(BIN)/python -m e2e.chaos.fetch --scale $(SCALE) $(if $(CASE),--case "$(CASE)") $(if $(SEED),--seed $(SEED)) \
	  $(if $(PLANT),--plant $(PLANT))

.PHONY: clean
clean: ## remove what was built here (the caches outside the checkout stay)
	rm -rf build dist $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
