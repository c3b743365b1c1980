# Every target sets up .venv by itself: all extras but gpu, versions from constraints.txt. Only Python 3.11 or 3.12 and
# make are needed. torch comes first and alone, because its builds differ per machine.
TORCH ?= torch==2.13.0
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
STAMP := .venv/.installed
export PATH := $(CURDIR)/.venv/bin:$(PATH)
.DEFAULT_GOAL := help
.PHONY: help setup run test coverage check bench experiment docs lock images test-containers
# Images carry the git revision, tag and label alike; uncommitted changes are said, never hidden.
export MMENC_REVISION = $(shell git describe --always --abbrev=40 --dirty --exclude '*' 2>/dev/null)

help:
	@echo "make run     the pipeline of params.yaml, from raw text to a released model and a report"
	@echo "make test    all tests"
	@echo "make coverage  all tests again, slower, and which lines of src/ they run; the aim is 90 %"
	@echo "make check   lint, format, types"
	@echo "make bench   ours against transformers, MosaicML streaming and HF datasets on this CPU, after make run"
	@echo "make images  container image mmenc-cpu:REVISION; GPU=1: mmenc-gpu as well. Variables: images/README.md"
	@echo "make test-containers   the image and the pipeline in it, with a Docker engine of its own where none runs"
	@echo "make docs    the documentation as a site that needs no network: site/index.html"
	@echo "make lock    images/requirements*.txt anew, after a change of pyproject.toml or constraints.txt"

setup: $(STAMP)
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "mmenc needs Python 3.11 or 3.12; none was found (set PYTHON=/path/to/python)" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[kfp,data,eval,onnx,mteb,dev]'
	@touch $(STAMP)

run: $(STAMP)
	@mmenc prepare
	@dvc repro
	@mmenc show

test: $(STAMP)
	python -m pytest

# Apart from `make test`: tracing makes it about half as long again. Processes that the tests start are counted too.
coverage: $(STAMP)
	coverage erase
	-coverage run -m pytest
	coverage combine --quiet
	coverage report --skip-covered --sort=cover

# The loader's peers lie apart (benchmarks/peers.txt says why): nothing that mmenc runs with changes its version.
PEERS := .venv/peers/.installed
$(PEERS): benchmarks/peers.txt | $(STAMP)
	-python -m pip install --quiet --disable-pip-version-check --no-deps --target .venv/peers --upgrade -r $< && touch $@

bench: $(STAMP) $(PEERS)
	python -m benchmarks.cpu
	python -m benchmarks.loader

# The experiment of docs/annealing.md, from raw text to tables and figure; start it again to go on. About two hours on two cores.
experiment: $(STAMP)
	python -m experiments.annealing --corpus "$(CORPUS)" --out "$(OUT)" --evaluation-texts "$(EVAL)"
	python -m experiments.probe "$(OUT)" --data "$(EVAL)"
	python -m experiments.figures "$(OUT)" --json "$(OUT)/annealing.json" --svg "$(OUT)/annealing.svg"
	python -m experiments.figures "$(OUT)" --scripts
	for m in sib200.accuracy tatoeba.plain tatoeba.centred; do python -m experiments.figures "$(OUT)" --folder probe --metric $$m; done
	for m in 0.05 0.3; do python -m experiments.figures "$(OUT)" --folder evaluate-$$m; done

check: $(STAMP)
	ruff check .
	ruff format --check .
	mypy
	hadolint images/*.Dockerfile
	shellcheck images/*.sh .ci/*
	actionlint
	zizmor --offline --quiet --strict-collection .github
	check-jsonschema --quiet --builtin-schema vendor.gitlab-ci .gitlab-ci.yml

docs: $(STAMP)
	zensical build --strict --clean
	@echo "open site/index.html"

lock: $(STAMP)
	images/lock.sh

images:
	images/engine.sh run images/build.sh cpu $(if $(GPU),gpu)

test-containers: $(STAMP)
	images/engine.sh run sh -c 'images/build.sh cpu test && python -m pytest tests/containers'
