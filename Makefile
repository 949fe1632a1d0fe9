# `make demo` and `make test` each do all set-up first; nothing else is needed on a fresh machine.
# TORCH_INDEX=https://download.pytorch.org/whl/cpu picks torch's CPU build where pip would take the CUDA one.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := rbserve train exporters profilers tests
export RBSERVE_HOME ?= $(CURDIR)
# pip is told not to compile all of torch; what is used is compiled when it is first imported, and must be kept.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo reference test test-slow check lint types wheel-test bench fast serving gate gate-curve big partitions clean

help:
	@echo "make demo       nine recommenders trained, exported, profiled, plotted; one scored over HTTP"
	@echo "make test       the test suite"
	@echo "make check      lint, types, architecture, the built wheel away from its source, the gate of the hot paths"
	@echo "make test-slow  the tests that take minutes"
	@echo "make reference  groups A to H on ml-100k and MicroLens (RAW=folder), the report in reports/reference; a day"
	@echo "make big        preparing 30 million generated interactions, beside pandas"
	@echo "make bench      pytest-benchmark timings of the hot paths"
	@echo "make fast       a language model's slates beside the paper's way; MODEL=zeroshot-smollm2-135m DATASET=ml-100k"
	@echo "make serving    what the server promises: overhead, twice the load it can take, restarts, reloads, memory"
	@echo "make gate       the hot paths held against themselves, or BASE_PYTHON=... against another checkout's"
	@echo "make gate-curve how often rbserve check is wrong, by 740 live trials; hours, stop and resume"

setup: $(VENV)/.done

$(VENV)/.done: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rbserve needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --no-compile $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt -e '.[dev]'
	$(BIN)/python -c 'from rbserve.data.assets import fetch; fetch("ml-100k"); fetch("minilm-l6")'
	@touch $@

# A batch in proportion to the data (the paper's 5,000 is for 90,000 rows) trains in a fifth of the time.
# 5 processes of 140 runs are what p99 needs; 0.3 seconds a process cut slate 100 short, whose p99 then is absent.
demo: setup
	$(BIN)/python -m rbserve train --models A --batch 500 --patience 2
	$(BIN)/python -m rbserve profile --models A --runs 140 --seconds 0.3
	$(BIN)/python -m rbserve report --name demo
	$(BIN)/python tests/demo_request.py gdcn onnx-int8

# Groups A to H on ml-100k and MicroLens: what trains here, 10 processes as for anything published. A day; stop it and
# start it as you like. RAW is the folder of MicroLens' official files; once they are prepared it may be left out.
# Not among them: sasrec-24l (18 GiB beside its weights) and sid-sasrec-12l (an epoch of MicroLens takes a core 84 minutes).
REFERENCE := A,B,C,sasrec-3l,sasrec-6l,sasrec-12l,sid-sasrec-3l,sid-sasrec-3l-cbs,sid-sasrec-6l,sid-sasrec-6l-cbs
REFERENCE := $(REFERENCE),p5-minilm-l6,zeroshot-smollm2-135m,text-minilm-l6,sid-minilm-l6
reference: setup
	$(if $(RAW),$(BIN)/python -m rbserve prepare microlens --raw $(RAW))
	$(BIN)/python -m rbserve bench --models $(REFERENCE) --datasets ml-100k,microlens --options docs/reference.toml \
	  --processes 10 --runs 100 --out reference --report reference

# Files of tests side by side, a core and a thread each; then those that measure, one by one: only their files are read.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow and not alone' -n auto --maxprocesses 4 --dist loadfile
	$(BIN)/python -m pytest -m 'not slow and alone' $$(grep -rl --include='test_*.py' 'mark\.alone' tests)

test-slow: setup
	$(BIN)/python -m pytest -m slow

check: setup lint types
	$(BIN)/python -m pytest -q tests/test_architecture.py
	$(MAKE) wheel-test
	$(MAKE) gate

lint: setup
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

types: setup
	$(BIN)/mypy -p rbserve

wheel-test: setup
	$(BIN)/python tests/wheel_test.py

bench: setup
	$(BIN)/python -m pytest tests/benchmarks --benchmark-enable --benchmark-only

# A quarter of an hour. MODEL is any row that reads prompts and scores candidates.
MODEL ?= zeroshot-smollm2-135m
DATASET ?= ml-100k
fast: setup
	$(BIN)/python tests/benchmarks/fast_paths.py --model $(MODEL) --dataset $(DATASET)

# Half an hour, both cores: one serves, the other asks. BESIDE=fastapi=PYTHON,litserve=PYTHON compares with those.
BESIDE ?=
serving: setup
	$(BIN)/python tests/benchmarks/serving.py --beside "$(BESIDE)"

# Seconds. A regression fails, a machine too noisy to tell does not. BASE_PYTHON is another checkout's interpreter.
gate: setup
	$(BIN)/python tests/self_gate.py $(BASE_PYTHON)

# Continues where it was stopped. SCALE=0.04 makes a 25th of the trials.
# JOBS=2 makes two at a time, each on a core of its own.
SCALE ?= 1
JOBS ?= 1
gate-curve: setup
	$(BIN)/python tests/benchmarks/gate_curve.py run --scale $(SCALE) --jobs $(JOBS)

# Half an hour, 12 GB of disk: 30 million generated interactions of a million items in two layouts, through
# `prepare` (limit 2 GB) and through pandas, which reads the whole file (stopped at 18 GB).
BIG := $(CURDIR)/build/big
LARGE := $(BIN)/python tests/benchmarks/big_raw.py
big: setup
	for layout in hm goodreads; do \
	  test -f $(BIG)/$$layout/expected.json || $(LARGE) generate $$layout $(BIG)/$$layout || exit 1; \
	  $(LARGE) measure --watch $(BIG)/home -- env RBSERVE_HOME=$(BIG)/home $(BIN)/python -m rbserve prepare \
	    $$layout --raw $(BIG)/$$layout --max-rows 0 || exit 1; \
	  $(LARGE) measure --limit-gb 18 -- $(LARGE) pandas $$layout $(BIG)/$$layout; \
	done

# Hours and 40 GB of disk: 100 million generated interactions, prepared by one process of 2 GB and by a Ray cluster of
# four workers of 2 GB each on this machine. ROWS=10000000 makes a tenth.
ROWS ?= 100000000
PARTS ?= 16
partitions: setup
	test -f $(BIG)/hm-$(ROWS)/expected.json || $(LARGE) generate hm $(BIG)/hm-$(ROWS) --rows $(ROWS) \
	  --users $$(( $(ROWS) / 20 )) --items 100000
	$(BIN)/python tests/benchmarks/partitions.py $(BIG)/hm-$(ROWS) $(BIG)/home --workers 4 --partitions $(PARTS)

clean:
	rm -rf $(VENV) build dist *.egg-info
