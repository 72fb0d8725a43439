# PeftJob's commands. Each installs what it needs into ignored folders of this tree (.venv, .cluster).
# `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
PY := .venv/bin/python
CLUSTER := PYTHONPATH=tests/cluster $(PYTHON) -m peftjob_cluster
REPORTS := .cache/reports
PYTEST := $(PY) -m pytest -q -p no:cacheprovider
PACKAGES := -p peftjob_api -p peftjob_operator -p peftjob_bottleneck -p peftjob_trainer -p peftjob_cluster -p peftjob_testkit -p samples -p faults
SOURCES := crds operator trainer tests
comma := ,
export PYTHONDONTWRITEBYTECODE := 1

.PHONY: help
help:  ## list the commands
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-22s %s\n", $$1, $$2}'

# --- Python environment -------------------------------------------------------------------------------------------
.venv/.stamp: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("PeftJob needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv --clear .venv
	.venv/bin/pip install --quiet --disable-pip-version-check 'uv==$(shell sed -n 's/^uv==//p' tests/tools.txt)'
	.venv/bin/uv pip install --quiet --python $(PY) -c constraints.txt -e '.[operator,trainer,dev]'
	touch $@

.PHONY: setup
setup: .venv/.stamp  ## create .venv with everything that PeftJob and its tests import

.PHONY: constraints
constraints: setup  ## pin every dependency anew
	.venv/bin/uv pip compile --python-version 3.11 --all-extras --upgrade --no-annotate --no-header -o constraints.txt pyproject.toml

.PHONY: generate
generate: setup  ## write the CRD and docs/api.md from the API's models
	$(PY) -m peftjob_api.crdgen

# --- checks -------------------------------------------------------------------------------------------------------
.PHONY: lint
lint: setup  ## style, types, layers, generated files
	$(PY) -m ruff format --check $(SOURCES)
	$(PY) -m ruff check $(SOURCES)
	$(PY) -m mypy $(PACKAGES)
	PYTHONPATH=crds:operator:trainer .venv/bin/lint-imports
	$(PY) -m peftjob_api.crdgen --check
	$(PY) tests/layout.py

.PHONY: test-unit
test-unit: setup tools-api  ## unit tests, under a minute
	mkdir -p $(REPORTS)
	$(PYTEST) tests/unit --junitxml=$(REPORTS)/unit.xml

.PHONY: test-numerics
test-numerics: setup  ## our loop against one rank, two ranks and HF Trainer
	mkdir -p $(REPORTS)
	$(PYTEST) tests/numerics --junitxml=$(REPORTS)/numerics.xml

.PHONY: test-pairs
test-pairs: setup  ## every method with every task that it goes with, on two ranks over a partitioned base
	mkdir -p $(REPORTS)
	PEFTJOB_ALL_PAIRS=1 $(PYTEST) tests/numerics/test_pairs.py tests/numerics/test_resume.py --timeout=5400 --junitxml=$(REPORTS)/pairs.xml

.PHONY: test-integration
test-integration: setup tools-api  ## against a real API server and a real S3 server
	mkdir -p $(REPORTS)
	$(PYTEST) tests/integration --junitxml=$(REPORTS)/integration.xml

.PHONY: test-e2e
test-e2e: setup cluster-up  ## on the real two-node cluster, through Helm and kubectl
	mkdir -p $(REPORTS)
	$(CLUSTER) exec-ns -- $(CURDIR)/$(PY) -m pytest -q -p no:cacheprovider tests/e2e --junitxml=$(REPORTS)/e2e.xml

PLANS ?= 200
.PHONY: test-faults
test-faults: setup $(if $(CLUSTER_PLANS)$(CLUSTER_TIMES),cluster-up,tools-api)  ## seeded plans of faults (PLANS=200 SEED=1 TIMES=3 CLUSTER_PLANS=5 CLUSTER_TIMES=3; root)
	PYTHONPATH=$(CURDIR)/tests:$(CURDIR)/tests/cluster $(PY) -m faults --plans $(PLANS) $(if $(SEED),--seed $(SEED)) \
	  $(if $(TIMES),--times $(TIMES)) $(if $(CLUSTER_PLANS),--cluster-plans $(CLUSTER_PLANS)) \
	  $(if $(CLUSTER_TIMES),--cluster-times $(CLUSTER_TIMES)) --logs $(REPORTS)/faults

MINUTES ?= 120
.PHONY: soak
soak: setup tools-api  ## small jobs with faults for MINUTES=120; memory of operator and trainer, and what is left (root)
	PYTHONPATH=$(CURDIR)/tests:$(CURDIR)/tests/cluster $(PY) -m faults.soak --minutes $(MINUTES)

.PHONY: test-operator-faults
test-operator-faults: setup tools-api  ## every call of the operator's lives meets every fault, on a real API server; API server away for minutes
	mkdir -p $(REPORTS)
	PEFTJOB_ALL_FAULTS=1 $(PYTEST) tests/integration/controller/test_each_call.py tests/integration/controller/test_set_back.py -s --junitxml=$(REPORTS)/operator-faults.xml

.PHONY: test
test:  ## everything: lint, unit, numerics, integration, e2e
	bash tests/all.sh $(REPORTS)

# --- the embedded cluster -----------------------------------------------------------------------------------------
.PHONY: tools-api
tools-api:  ## build etcd, the API server and friends (no root)
	$(CLUSTER) tools --only apiserver

.PHONY: tools
tools:  ## all programs of the two-node cluster, and Debian's packages for it (root)
	$(CLUSTER) tools

.PHONY: images
images: tools  ## the images of operator and trainer, and the test cluster's own
	$(CLUSTER) images

.PHONY: cluster-up
cluster-up: images  ## a real two-node Kubernetes on this machine (root, Debian)
	$(CLUSTER) up

.PHONY: demo
demo: setup  ## from kubectl apply to an adapter in S3 (KUBECONTEXT=… for a cluster of yours)
	$(PY) tests/demo/demo.py $(if $(KUBECONTEXT),--context $(KUBECONTEXT)) $(if $(IMAGES),--images $(IMAGES)) $(if $(TAG),--tag $(TAG))

.PHONY: demo-down
demo-down:  ## take the embedded cluster away and check that nothing of it is left
	$(CLUSTER) down
	$(CLUSTER) check-clean

.PHONY: sample-bases
sample-bases: setup  ## pretrain the samples' small bases, once
	PYTHONPATH=tests $(PY) -m samples.bases

.PHONY: samples
samples: setup  ## run the samples on the two-node cluster, against their bases and baselines (ONLY=style,banking; root)
	PYTHONPATH=tests $(PY) -m samples.on_cluster $(if $(FOUR),--four-fields) $(subst $(comma), ,$(ONLY))

.PHONY: samples-local
samples-local: setup  ## train the samples on this machine, as `make samples` does on the cluster
	PYTHONPATH=tests $(PY) -m samples.run $(subst $(comma), ,$(ONLY))

.PHONY: samples-four
samples-four: setup  ## samples with base, data, task and output only against the tuned ones, 3 seeds, on this machine
	PYTHONPATH=tests $(PY) -m samples.four_fields $(subst $(comma), ,$(ONLY))

.PHONY: samples-few
samples-few: setup  ## 64 labelled examples: a job of defaults against full fine-tuning, text and image (ONLY=image)
	PYTHONPATH=tests $(PY) -m samples.few_labels $(subst $(comma), ,$(ONLY))

DEVICE ?= cpu
.PHONY: bench
bench: setup $(if $(filter cuda,$(DEVICE)),,tools-api)  ## loading, traffic, saving and steps against HF Trainer, DeepSpeed and peft (DEVICE=cuda; root)
	$(PY) tests/bench/bench.py --device $(DEVICE) $(if $(MODELS),--models $(MODELS)) $(if $(ONLY),--only $(ONLY)) $(if $(JSON),--json $(JSON)) $(if $(QUICK),--quick)

.PHONY: bench-control-plane
bench-control-plane: setup tools-api  ## API writes and latencies per job, from the audit log
	$(PY) tests/bench/control_plane.py

.PHONY: bench-plan
bench-plan: setup  ## predicted against measured memory of each rank, by model and shard group
	$(PY) tests/bench/plan.py

.PHONY: bench-load
bench-load: setup  ## time, bytes and memory of loading a sharded base, against the library's path
	$(PY) tests/bench/load.py
