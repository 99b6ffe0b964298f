# `make help` lists the targets. Everything lives in .venv, .venv-canary and data/; nothing else is changed.
PYTHON ?= python3
BIN := .venv/bin
DATA := data
MINUTES ?= 5
JOBS ?= 2 # test processes, one thread each: more threads than cores would slow all of them down
CANARY_TESTS ?= tests/architecture tests/config tests/network
DEBIAN_DATA := usr/share/datasets/fashion-mnist
# Without the option, root is warned that the user _apt cannot write here.
APT := apt-get -qq -o APT::Sandbox::User=root

.DEFAULT_GOAL := help
.PHONY: help docs docs-serve setup data browser run test test-slow test-faults test-hosts test-gpu gpu-report fuzz check audit canary bench bench-compare experiments experiments-smoke

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/.installed ## create the environment in .venv with the versions in constraints.txt (about 2 minutes, 6 GB)

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/pip install --quiet -c constraints.txt --no-deps torch-lucent facenet-pytorch # they ask for older packages
	@touch $@

data: setup ## download Fashion-MNIST to data/ (30 MB), or extract it from a Debian package
	@echo "Fashion-MNIST: searching, else downloading 30 MB"
	@$(BIN)/python -m inception_zoo.data.fashion_mnist $(DATA) 2>/dev/null || $(MAKE) --no-print-directory data-from-debian || \
		$(BIN)/python -m inception_zoo.data.fashion_mnist $(DATA) # says why, and what to do

data-from-debian:
	@echo "download failed; falling back to Debian's package dataset-fashion-mnist"
	@mkdir -p $(DATA)/.debian
	@cd $(DATA)/.debian && ($(APT) download dataset-fashion-mnist || ($(APT) update && $(APT) download dataset-fashion-mnist))
	@dpkg -x $(DATA)/.debian/dataset-fashion-mnist*.deb $(DATA)/.debian && mv $(DATA)/.debian/$(DEBIAN_DATA)/*.gz $(DATA)/
	@rm -r $(DATA)/.debian
	@$(BIN)/python -m inception_zoo.data.fashion_mnist $(DATA)

browser: setup ## find or install Chromium for the tests of the report
	@command -v chromium google-chrome >/dev/null || $(BIN)/playwright install chromium 2>/dev/null || $(MAKE) --no-print-directory browser-from-debian

browser-from-debian:
	@echo "falling back to Debian's package chromium"
	@apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium >/dev/null || (echo "Chromium is missing; install it and run again"; exit 1)

run: setup data ## run the main job: train GoogLeNet on Fashion-MNIST (minutes on 2 CPU cores)
	$(BIN)/python run.py experiment=quickstart

test: setup data browser ## run the test suite without the slow tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not hosts and not gpu" -n $(JOBS) --dist worksteal

test-slow: setup data ## run the slow tests: real training, minutes each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n $(JOBS) --dist worksteal

test-faults: setup ## run fault injection: kills, full disks, corrupt files (15 minutes; FAULTS="--seed 2 --write")
	OMP_NUM_THREADS=1 $(BIN)/python tests/tools/faults.py $(FAULTS)

test-gpu: setup ## run the tests of CUDA devices; without one they are skipped
	$(BIN)/python -m pytest -m gpu tests/gpu

gpu-report: setup data ## test, measure and train on a GPU (12 minutes), and write experiments/gpu/README.md
	$(BIN)/python experiments/gpu_report.py experiments/gpu

test-hosts: setup ## run jobs on several hosts, made of network namespaces (needs root; 15 minutes), and write the table of docs/cluster.md
	@rm -f .venv/hosts.jsonl
	HOSTS_TABLE=$(CURDIR)/.venv/hosts.jsonl $(BIN)/python -m pytest -m hosts tests/hosts -n $(JOBS) --dist loadfile
	@test -s .venv/hosts.jsonl || (echo "no host could be made; run it as root on Linux"; exit 1)
	$(BIN)/python tests/tools/cluster_table.py .venv/hosts.jsonl

docs: setup ## the documentation site in site/; a broken link or reference is an error
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict

docs-serve: setup ## the documentation site on localhost, rebuilt when a file changes
	$(BIN)/mkdocs serve

fuzz: setup ## run random tests: rows, configs, command lines, corrupt files (MINUTES=5)
	OMP_NUM_THREADS=1 $(BIN)/python tests/tools/fuzz.py --minutes $(MINUTES)

check: setup audit docs ## check format, lint, types, import layers, declared dependencies and known vulnerabilities
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/deptry .

audit: setup ## list known vulnerabilities of installed packages; only warn if the service cannot be reached
	@! $(BIN)/pip check | grep -v -e '^torch-lucent ' -e '^facenet-pytorch ' -e '^No broken' # the packages without their dependencies, see `setup`
	@rm -f .venv/audit.json
	@$(BIN)/pip-audit --local --progress-spinner off -f json -o .venv/audit.json 2>.venv/audit.log || true
	@$(BIN)/python -c "$$JUDGE"

define JUDGE
import json, pathlib, sys
file = pathlib.Path(".venv/audit.json")
if not file.exists() or not file.stat().st_size:
    sys.exit(print("warning: no audit:", pathlib.Path(".venv/audit.log").read_text().strip().splitlines()[-1][:150]))
packages = json.loads(file.read_text())["dependencies"]
known = [package for package in packages if "vulns" in package]
print(f"{'' if known else 'warning: '}{len(known)} of {len(packages)} packages are known to the vulnerability service")
bad = [f"{each['name']} {each['version']}: {one['id']}, fixed in {one['fix_versions']}" for each in known for one in each["vulns"]]
sys.exit("\n".join(bad) or 0)
endef
export JUDGE

canary: data ## run quick tests with the newest versions that pyproject.toml allows, in .venv-canary (7 GB)
	$(PYTHON) -m venv .venv-canary
	.venv-canary/bin/pip install --quiet --upgrade --upgrade-strategy eager -e '.[dev]'
	@.venv-canary/bin/python -c "$$VERSIONS"
	OMP_NUM_THREADS=1 .venv-canary/bin/python -m pytest -m "not slow" -n $(JOBS) --dist worksteal $(CANARY_TESTS)

define VERSIONS
import importlib.metadata, pathlib, re
key = lambda name: re.sub("[-_.]+", "-", name).lower()
lines = pathlib.Path("constraints.txt").read_text().splitlines()
pinned = {key(name): pin for name, _, pin in (line.partition("==") for line in lines if not line.startswith("#"))}
found = {key(each.name): each.version for each in importlib.metadata.distributions()}
for name in sorted(pinned.keys() | found.keys() - {"inception-zoo", "pip", "setuptools"}):
    if pinned.get(name) != found.get(name):
        print(f"{name}: {pinned.get(name, 'not pinned')} in constraints.txt, {found.get(name, 'not installed')} here")
endef
export VERSIONS

bench: setup data ## compare speed and memory with other implementations and targets (45 minutes; SECTIONS="training memory")
	@mkdir -p experiments/benchmarks
	$(BIN)/inception-zoo bench $(SECTIONS) --json experiments/benchmarks/results.json
	$(BIN)/python experiments/benchmark_page.py experiments/benchmarks

bench-compare: setup data ## compare our ratios to other implementations with the published ones of this kind of machine (15 minutes)
	$(BIN)/inception-zoo bench training profile --rounds 9 --compare experiments/benchmarks

experiments: setup data ## run the studies of the papers' claims and write their pages (hours; the same command resumes)
	$(BIN)/python run.py -m experiment=pretrain seed=0,1,2,3,4,5 # for the studies of fine-tuning
	@for each in $$($(BIN)/python experiments/claims.py names); do \
		$(BIN)/python run.py -m sweep=$$each || [ $$? -eq 1 ] || exit 1; done # 1: a run diverged, which is a result
	$(BIN)/python experiments/resnet.py cost_rate
	$(BIN)/python experiments/claims.py collect cost_rate
	$(BIN)/python experiments/resnet.py cost
	$(BIN)/python experiments/claims.py collect
	$(BIN)/python experiments/claims.py write
	$(BIN)/python experiments/channels.py write

experiments-smoke: setup data ## run the studies with two batches a run (minutes); no page is written
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n $(JOBS) --dist worksteal tests/experiments
