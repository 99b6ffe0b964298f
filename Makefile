# `make help` lists the targets. Everything lives in .venv and data/; nothing else is touched.
PYTHON ?= python3
BIN := .venv/bin
DATA := data
MINUTES ?= 5
JOBS ?= 2 # tests at a time, a thread each: two that take all cores would wait for each other
DEBIAN_DATA := usr/share/datasets/fashion-mnist

.DEFAULT_GOAL := help
.PHONY: help setup data browser run test test-slow test-faults fuzz check audit bench

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/.installed ## environment in .venv, with the versions of constraints.txt (about 2 minutes, 6 GB)

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

data: setup ## real Fashion-MNIST in data/ (30 MB): downloaded, or from Debian's package
	@$(BIN)/python -m inception_zoo.data.fashion_mnist $(DATA) || $(MAKE) --no-print-directory data-from-debian

data-from-debian:
	@echo "no matter: trying Debian's package dataset-fashion-mnist instead"
	@mkdir -p $(DATA)/.debian
	@cd $(DATA)/.debian && (apt-get -qq download dataset-fashion-mnist || (apt-get -qq update && apt-get -qq download dataset-fashion-mnist))
	@dpkg -x $(DATA)/.debian/dataset-fashion-mnist*.deb $(DATA)/.debian && mv $(DATA)/.debian/$(DEBIAN_DATA)/*.gz $(DATA)/
	@rm -r $(DATA)/.debian
	@$(BIN)/python -m inception_zoo.data.fashion_mnist $(DATA)

browser: setup ## Chromium, which tests look at the report in: what is there, Playwright's, or Debian's
	@command -v chromium google-chrome >/dev/null || $(BIN)/playwright install chromium 2>/dev/null || $(MAKE) --no-print-directory browser-from-debian

browser-from-debian:
	@echo "trying Debian's package chromium instead"
	@apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium >/dev/null || (echo "no Chromium: install it"; exit 1)

run: setup data ## the main job: GoogLeNet learns Fashion-MNIST (minutes on 2 CPU cores)
	$(BIN)/python run.py experiment=quickstart

test: setup data browser ## the test suite, without the slow cases
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist worksteal

test-slow: setup data ## the slow cases: real training, minutes each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n $(JOBS) --dist worksteal

test-faults: setup ## runs are killed, starved and lied to, and must end as if nothing had been (15 minutes; FAULTS="--seed 2 --write")
	OMP_NUM_THREADS=1 $(BIN)/python tests/tools/faults.py $(FAULTS)

fuzz: setup ## random rows, configs, command lines and damaged files, for MINUTES=5
	OMP_NUM_THREADS=1 $(BIN)/python tests/tools/fuzz.py --minutes $(MINUTES)

check: setup audit ## format, lint, types, known vulnerabilities
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

audit: setup ## known vulnerabilities of what is installed, as far as the service that knows them can be reached
	@$(BIN)/pip check
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
print(f"{'' if known else 'warning: '}{len(known)} of {len(packages)} packages are known to the service that was asked")
bad = [f"{each['name']} {each['version']}: {one['id']}, fixed in {one['fix_versions']}" for each in known for one in each["vulns"]]
sys.exit("\n".join(bad) or 0)
endef
export JUDGE

bench: setup data ## speed and memory beside the peers, the targets (45 minutes; SECTIONS="training memory")
	@mkdir -p experiments/benchmarks
	$(BIN)/inception-zoo bench $(SECTIONS) --json experiments/benchmarks/results.json --page
