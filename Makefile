# `make help` lists the targets. They install their requirements into .venv or build them into the cache ($KIGI_CACHE,
# or ~/.cache/kigi). Outside these two directories they only install missing Debian packages.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := operator node-cache-daemon localcluster scenario demo soak tools tests benchmarks
CLUSTER ?= local
EXERCISE ?= tiny
KUBEVIRT ?= 1.7
MINUTES ?= 60
SEED ?= 1
# All tests of a file run in one process, because they share servers.
# Files in their order, as those with the longest tests come first.
# Integration tests wait for servers a third of their time, so that one process more than cores is busy.
SPREAD := --dist loadfile --no-loadscope-reorder
PARALLEL ?= -n auto --maxprocesses 4 $(SPREAD)
WAITING ?= -n $(shell expr $$(nproc) + 1) --maxprocesses 5 $(SPREAD)
LOCK = $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help test demo try check lint format type contracts metrics schemas packages unit integration crds proto docs site pictures lock e2e soak model campaign-faults campaign-images campaign-objects campaign-peers campaign-power campaign-stolen campaign-leadership campaign-tenants campaign-layers campaign-guests campaign-upgrade bench race up down clean chart release test-release image-lock

help:  ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

test: check unit integration  ## Format, lint, types, contracts, and all tests except the slow tiers

demo: $(VENV)/ready packages  ## Run ten VMs through three states on a real cluster; EXERCISE=real or both, CLUSTER=kind with Docker
	$(BIN)/python -m demo --cluster $(CLUSTER) --exercise $(EXERCISE)

try: $(VENV)/ready packages  ## Start the local cluster with Kigi and the tiny exercise, for docs/tutorial.md; `make down` removes it
	$(BIN)/python -m demo --prepare

check: lint type contracts metrics schemas  ## All checks that only read the source

lint: $(VENV)/ready  ## Check format and lint, without changes
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

format: $(VENV)/ready  ## Format, and apply the linter's fixes
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

type: $(VENV)/ready  ## Check types strictly; those of the command line on macOS and Windows too
	$(BIN)/mypy
	$(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin operator/kigi/cli
	$(BIN)/mypy --platform win32 --cache-dir .mypy_cache/win32 operator/kigi/cli

contracts: $(VENV)/ready  ## Check the direction of imports
	$(BIN)/lint-imports

metrics: $(VENV)/ready  ## Compare sizes of modules and functions with the project's targets
	$(BIN)/python -m tools.code_metrics

schemas: $(VENV)/ready  ## Compare the kinds' schemas with the rules for every schema, and with the last release
	$(BIN)/python -m tools.crdlint
	$(BIN)/python -m tools.crdcompare

packages: $(VENV)/ready  ## Install the Debian packages that tests, demo and benchmarks use
	$(BIN)/python -m localcluster.system qemu-utils qemu-system-common qemu-system-x86 curl e2fsprogs xfsprogs iproute2 strace \
		tinyproxy-bin microsocks

unit: $(VENV)/ready packages  ## Run unit and property tests; seconds to minutes
	$(BIN)/python -m tools.twice $(PARALLEL) tests/property tests/unit

integration: $(VENV)/ready packages  ## Run integration tests with a real API server, etcd, S3 and qemu-img
	$(BIN)/python -m localcluster build etcd kube-apiserver versitygw csi-sanity plugin-check gitops-check kustomize helm crane
	$(BIN)/python -m tools.twice $(WAITING) tests/integration

e2e: $(VENV)/ready packages  ## Run tests with real VMs in the local cluster; an hour; KUBEVIRT=1.9 for another release
	$(BIN)/python -m localcluster up --kubevirt $(KUBEVIRT)
	$(BIN)/python -m localcluster build plugin-check multus helm kustomize kube-proxy coredns
	$(BIN)/pytest -m e2e tests/e2e

soak: $(VENV)/ready packages  ## Observe ten undisturbed VMs for an hour: only heartbeats may change; MINUTES=30, KUBEVIRT=1.9
	$(BIN)/python -m localcluster up --kubevirt $(KUBEVIRT)
	$(BIN)/python -m soak --minutes $(MINUTES)

model: $(VENV)/ready packages  ## Compare the store with its model in 100,000 steps and more
	KIGI_MODEL_EXAMPLES=5000 KIGI_MODEL_STEPS=100000 $(BIN)/pytest -s -p no:timeout tests/property/test_store.py

bench: $(VENV)/ready packages  ## Run every benchmark, with its comparison in the same run
	for each in create fill memory peers plan reset startup; do PYTHONPATH=. $(BIN)/python benchmarks/$$each.py || exit 1; done

campaign-faults: $(VENV)/ready packages  ## Make each file-system call of the daemon fail with each error, 3,000 cases; SEED=2
	$(BIN)/python -m tests.campaigns.faults --seed $(SEED) --cases 3000

campaign-images: $(VENV)/ready packages  ## Publish, capture, flatten and import 10,000,000 mutated images; 6,000 of them as files under strace; SEED=2
	$(BIN)/python -m tests.campaigns.images --seed $(SEED) --count 10000000 --files 6000

campaign-objects: $(VENV)/ready packages  ## Let one tenant create 5,000 hostile objects, 100 MB, while another one works; SEED=2
	$(BIN)/python -m localcluster build etcd kube-apiserver
	$(BIN)/python -m tests.campaigns.objects --seed $(SEED) --count 5000 --megabytes 100

campaign-peers: $(VENV)/ready packages  ## Let a third of 30 nodes be hostile in 70 ways, and 10,000 strangers connect; SEED=2
	$(BIN)/python -m tests.campaigns.peers --seed $(SEED)

campaign-power: $(VENV)/ready packages  ## Start a daemon on 10,000 states that power cuts leave on ext4 and XFS, and once with 1,000 layers; needs root; SEED=2
	$(BIN)/python -m tests.campaigns.power --seed $(SEED) --states 10000

campaign-stolen: $(VENV)/ready packages  ## Let a stolen node's credentials try 8,000 calls of Kubernetes and S3, against a list; SEED=2
	$(BIN)/python -m localcluster build etcd kube-apiserver versitygw
	$(BIN)/python -m tests.campaigns.stolen --seed $(SEED)

campaign-leadership: $(VENV)/ready  ## Disturb two operators in 2,000 schedules of virtual time: leases, clocks, backups; SEED=2
	$(BIN)/python -m tests.campaigns.leadership --seed $(SEED)

campaign-tenants: $(VENV)/ready packages  ## Let a tenant with the role edit attack another one in 1,500 ways; SEED=2, ON=cluster: the running local cluster
	$(BIN)/python -m localcluster build etcd kube-apiserver kube-controller-manager
	$(BIN)/python -m tests.campaigns.tenants --seed $(SEED) $(if $(filter cluster,$(ON)),--cluster)

campaign-layers: $(VENV)/ready packages  ## Let pods, the capture publisher and root of a node write to layers, 628 attempts; SEED=2
	$(BIN)/python -m tests.campaigns.layers --seed $(SEED)

campaign-upgrade: $(VENV)/ready packages  ## Upgrade clusters from the previous version and go back, under load; needs root and the git history; SEED=2
	$(BIN)/python -m localcluster build etcd kube-apiserver kube-controller-manager kubectl versitygw
	$(BIN)/python -m tests.campaigns.upgrade --seed $(SEED) --rounds 12

campaign-guests: $(VENV)/ready  ## Let a guest fill the disk of the running local cluster again and again for 30 minutes
	$(BIN)/python -m tests.campaigns.guests --cluster --minutes 30

race: $(VENV)/ready packages  ## Compare ten VMs' disks with containerDisk and copies, on a fresh local cluster; needs 40 GB of disk
	$(BIN)/python -m localcluster down
	PYTHONPATH=. $(BIN)/python benchmarks/race.py

up down: $(VENV)/ready  ## Start or stop the local cluster
	$(BIN)/python -m localcluster $@

crds: $(VENV)/ready  ## Generate crds/ from the models
	$(BIN)/python -m tools.crdgen crds

proto: $(VENV)/ready  ## Generate the daemon's gRPC messages from node-cache-daemon/kigi_cache/rpc/*.proto
	cd node-cache-daemon && ../$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. kigi_cache/rpc/*.proto

chart: $(VENV)/ready  ## Make the Helm chart of manifests/, in dist/
	$(BIN)/python -m tools.chart dist

docs: $(VENV)/ready  ## Generate the reference pages of docs/reference/ from models, settings and metrics
	$(BIN)/python -m tools.docgen

site: $(VENV)/ready  ## Build the documentation site in .out/site; needs npm for the diagrams' script, which it fetches once
	$(BIN)/python -m tools.site .out/site

pictures: $(VENV)/ready packages  ## Draw the pages' pictures of commands again, into docs/images
	$(BIN)/python -m localcluster build etcd kube-apiserver versitygw
	KIGI_PICTURES=docs/images $(BIN)/pytest tests/integration/operator/test_tutorials.py

lock: $(VENV)/ready  ## Update the lock files of Python packages from pyproject.toml
	$(LOCK) --python-version 3.11 --extra all pyproject.toml image/build.in -o requirements.lock
	$(LOCK) --python-version 3.11 --extra dev -c requirements.lock pyproject.toml image/build.in -o requirements-dev.lock
	$(LOCK) --python-version 3.13 --extra operator --extra publish -c requirements.lock pyproject.toml -o image/operator.lock
	$(LOCK) --python-version 3.13 -c requirements.lock image/build.in -o image/build.lock
	$(LOCK) --python-version 3.13 --extra daemon -c requirements.lock pyproject.toml -o image/daemon.lock
	$(BIN)/python -m tools.release.extra hook | $(LOCK) --python-version 3.13 -c requirements.lock - -o image/hook.lock

image-lock: $(VENV)/ready  ## Update image/debian.lock: the Debian packages of the images
	$(BIN)/python -m tools.release.debian

release: $(VENV)/ready packages  ## Build images, wheel, install.yaml, chart, SBOM, checksums and notes into dist/; IMAGES=registry.example/kigi
	$(BIN)/python -m tools.release dist $(if $(IMAGES),--images $(IMAGES))

test-release: $(VENV)/ready packages  ## Build a release twice, compare both, and start the programs of its images; needs root; KIGI_DIST=dist for one that exists
	$(BIN)/python -m localcluster.system qemu-user-static
	$(BIN)/python -m localcluster build crane
	$(BIN)/pytest -m release tests/release

clean:  ## Remove the virtual environment and the files of test runs
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .out

$(VENV)/ready: requirements-dev.lock pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Kigi needs Python 3.11 or later: make PYTHON=..."'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes -r requirements-dev.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@
