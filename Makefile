# Two commands do everything on a fresh machine: `make pretrain` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup pretrain test test-system test-faults test-all test-gpu check format clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v < (3, 11) and f"resonance needs Python 3.11 or newer, found {v[0]}.{v[1]} ($(PYTHON)); set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	@# torch first and exactly: a looser range would let pip choose another build.
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)

pretrain: setup
	$(BIN)/python -m pretrain.quickstart

PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
# a file's tests share runs; files with long tests come first
WORKERS := --numprocesses logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test: setup
	$(PYTEST) -m "not slow and not system" $(WORKERS)

# one at a time: they own the machine's cluster, containers and namespaces
test-system: setup
	$(PYTEST) -m "system and not slow"

# three hours on 2 cores, as root; continues where it stopped
test-faults: setup
	nice $(BIN)/python -m tests.faults --folder build/faults --hours 3

test-all: setup
	$(PYTEST)

# ten minutes on a machine with one GPU; status 77 on one without (make itself then ends with 2)
test-gpu: setup
	$(BIN)/python -m tests.gpu

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --quiet tests/unit/test_repository.py

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) runs build *.egg-info

# hours in all (docs/results.md has each one's time); BENCHMARKS="mixer data" runs only these
.PHONY: benchmarks
benchmarks: setup
	$(BIN)/python -m benchmarks.reporting.run_all $(BENCHMARKS)
