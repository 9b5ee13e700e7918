# `make help` lists the targets. They install their requirements into .venv or build them into the cache ($KIGI_CACHE,
# or ~/.cache/kigi). Outside these two directories they only install missing Debian packages.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := operator node-cache-daemon localcluster scenario demo soak tools tests benchmarks
CLUSTER ?= local
KUBEVIRT ?= 1.7
MINUTES ?= 60
# All tests of a file run in one process, because they share servers.
PARALLEL ?= -n auto --maxprocesses 4 --dist loadfile
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help test demo try check lint format type contracts metrics packages unit integration crds proto docs lock e2e soak model bench race up down clean

help:  ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

test: check unit integration  ## Format, lint, types, contracts, and all tests except the e2e tier

demo: $(VENV)/ready packages  ## Run ten VMs through three states on a real cluster; CLUSTER=kind with Docker
	$(BIN)/python -m demo --cluster $(CLUSTER)

try: $(VENV)/ready packages  ## Start the local cluster with Kigi and the tiny exercise, for docs/tutorial.md; `make down` removes it
	$(BIN)/python -m demo --prepare

check: lint type contracts metrics  ## All checks that only read the source

lint: $(VENV)/ready  ## Check format and lint, without changes
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

format: $(VENV)/ready  ## Format, and apply the linter's fixes
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

type: $(VENV)/ready  ## Check types strictly
	$(BIN)/mypy

contracts: $(VENV)/ready  ## Check the direction of imports
	$(BIN)/lint-imports

metrics: $(VENV)/ready  ## Compare sizes of modules and functions with the project's targets
	$(BIN)/python -m tools.code_metrics

packages: $(VENV)/ready  ## Install the Debian packages that tests, demo and benchmarks use
	$(BIN)/python -m localcluster.system qemu-utils qemu-system-common qemu-system-x86 curl e2fsprogs iproute2

unit: $(VENV)/ready packages  ## Run unit and property tests; seconds to minutes
	$(BIN)/pytest $(PARALLEL) tests/unit tests/property

integration: $(VENV)/ready packages  ## Run integration tests with a real API server, etcd, S3 and qemu-img
	$(BIN)/python -m localcluster build etcd kube-apiserver versitygw csi-sanity plugin-check
	$(BIN)/pytest $(PARALLEL) tests/integration

e2e: $(VENV)/ready packages  ## Run tests with real VMs in the local cluster; an hour; KUBEVIRT=1.9 for another release
	$(BIN)/python -m localcluster up --kubevirt $(KUBEVIRT)
	$(BIN)/python -m localcluster build plugin-check multus
	$(BIN)/pytest -m e2e tests/e2e

soak: $(VENV)/ready packages  ## Observe ten undisturbed VMs for an hour: only heartbeats may change; MINUTES=30, KUBEVIRT=1.9
	$(BIN)/python -m localcluster up --kubevirt $(KUBEVIRT)
	$(BIN)/python -m soak --minutes $(MINUTES)

model: $(VENV)/ready packages  ## Compare the store with its model in 100,000 steps and more
	KIGI_MODEL_EXAMPLES=5000 KIGI_MODEL_STEPS=100000 $(BIN)/pytest -s -p no:timeout tests/property/test_store.py

bench: $(VENV)/ready packages  ## Run every benchmark, with its comparison in the same run
	for each in create fill memory peers plan reset startup; do PYTHONPATH=. $(BIN)/python benchmarks/$$each.py || exit 1; done

race: $(VENV)/ready packages  ## Compare ten VMs' disks with containerDisk and copies, on a fresh local cluster; needs 40 GB of disk
	$(BIN)/python -m localcluster down
	PYTHONPATH=. $(BIN)/python benchmarks/race.py

up down: $(VENV)/ready  ## Start or stop the local cluster
	$(BIN)/python -m localcluster $@

crds: $(VENV)/ready  ## Generate crds/ from the models
	$(BIN)/python -m tools.crdgen crds

proto: $(VENV)/ready  ## Generate the daemon's gRPC messages from node-cache-daemon/kigi_cache/rpc/*.proto
	cd node-cache-daemon && ../$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. kigi_cache/rpc/*.proto

docs: $(VENV)/ready  ## Generate the reference pages of docs/reference/ from models, settings and metrics
	$(BIN)/python -m tools.docgen

lock:  ## Update requirements.lock and requirements-dev.lock from pyproject.toml; needs uv
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		pyproject.toml image/build.in -o requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--extra dev -c requirements.lock pyproject.toml image/build.in -o requirements-dev.lock

clean:  ## Remove the virtual environment and the files of test runs
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .out

$(VENV)/ready: requirements-dev.lock pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Kigi needs Python 3.11 or later: make PYTHON=..."'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes -r requirements-dev.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@
