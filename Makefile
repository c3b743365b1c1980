# Every target sets up .venv by itself: all extras but gpu, versions from constraints.txt. Only Python 3.11 or 3.12 and
# make are needed. torch comes first and alone, because its builds differ per machine.
TORCH ?= torch==2.13.0
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
STAMP := .venv/.installed
export PATH := $(CURDIR)/.venv/bin:$(PATH)
.DEFAULT_GOAL := help
.PHONY: help setup run test check bench lock images test-containers
# Images carry the git revision, tag and label alike; uncommitted changes are said, never hidden.
export MMENC_REVISION = $(shell git describe --always --abbrev=40 --dirty --exclude '*' 2>/dev/null)

help:
	@echo "make run     the pipeline of params.yaml, from raw text to a released model and a report"
	@echo "make test    all tests"
	@echo "make check   lint, format, types"
	@echo "make bench   ours against transformers on this CPU, after make run"
	@echo "make images  container image mmenc-cpu:REVISION; GPU=1: mmenc-gpu as well. Variables: images/README.md"
	@echo "make test-containers   the image and the pipeline in it, with a Docker engine of its own where none runs"
	@echo "make lock    images/requirements*.txt anew, after a change of pyproject.toml or constraints.txt"

setup: $(STAMP)
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "mmenc needs Python 3.11 or 3.12; none was found (set PYTHON=/path/to/python)" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[kfp,data,eval,dev]'
	@touch $(STAMP)

run: $(STAMP)
	@mmenc prepare
	@dvc repro
	@mmenc show

test: $(STAMP)
	python -m pytest

bench: $(STAMP)
	python -m benchmarks.cpu

check: $(STAMP)
	ruff check .
	ruff format --check .
	mypy
	hadolint images/*.Dockerfile
	shellcheck images/*.sh

lock: $(STAMP)
	images/lock.sh

images:
	images/engine.sh run images/build.sh cpu $(if $(GPU),gpu)

test-containers: $(STAMP)
	images/engine.sh run sh -c 'images/build.sh cpu test && python -m pytest tests/containers'
