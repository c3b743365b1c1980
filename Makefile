# Every target sets up .venv by itself: all extras but gpu, versions from constraints.txt. Only Python 3.11 or 3.12 and
# make are needed. torch comes first and alone, because its builds differ per machine.
TORCH ?= torch==2.13.0
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
STAMP := .venv/.installed
export PATH := $(CURDIR)/.venv/bin:$(PATH)
.DEFAULT_GOAL := help
.PHONY: help setup run test check

help:
	@echo "make run     the pipeline of params.yaml, from raw text to a released model and a report"
	@echo "make test    all tests"
	@echo "make check   lint, format, types"

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

check: $(STAMP)
	ruff check .
	ruff format --check .
	mypy
