# Needs make and a Python >= 3.11; everything else goes into .venv. `make help` lists the targets.
MAKEFLAGS += --no-print-directory
SHELL := /bin/sh
.DEFAULT_GOAL := help

# The first Python on PATH that is new enough; name another with `make PYTHON=/path/to/python3.12 ...`.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help
help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: venv
venv: $(READY)  ## make .venv, or bring it up to date (about two minutes the first time)

# Made anew only when what it is made from has changed. Twice quiet: warnings are hidden, errors show.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" && "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo "make: '$(or $(PYTHON),python3)' is no Python >= 3.11: give one with PYTHON=/path/to/it" >&2; exit 1; }
	@test -x $(BIN)/pip || { echo "making .venv (about two minutes)"; "$(PYTHON)" -m venv .venv; }
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

.PHONY: demo
# Noisy digits at a sixteenth of the MACs without training: there the choice of filters matters, and nothing hides it.
demo: $(READY)  ## train, prune, export and compare on noisy digits, then other sizes, into export/demo (two minutes)
	@$(BIN)/causal-prune run --data noisy-digits --keep-macs 0.06 --epochs 0 --evidence full --out export/demo
	@$(BIN)/causal-prune frontier --data noisy-digits --keep 0.5,0.25,0.12,0.06 --max-drop 0.05 --arms causal,magnitude \
		--out export/demo-frontier

.PHONY: lint
lint: $(READY)  ## style, types, import contracts and docstrings
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet || { echo "ruff format would change files: make format" >&2; exit 1; }
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/pydoclint --quiet causal_prune

.PHONY: format
format: $(READY)  ## lay out the code and mend what can be mended without judgement
	@$(BIN)/ruff check --quiet --fix --exit-zero
	@$(BIN)/ruff format

.PHONY: test
# One thread a process: processes side by side are faster than threads on networks as small as the tests'.
test: lint  ## lint, then the quick tests on all cores, four at most
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist worksteal

.PHONY: test-slow
test-slow: $(READY)  ## the slow tests
	@$(BIN)/python -m pytest -q -m slow

.PHONY: architecture
architecture: $(READY)  ## the house: import contract, wings with their faces and rooms, imports between wings
	@$(BIN)/python -m tests.architecture

.PHONY: coverage-table
coverage-table: $(READY)  ## what can be cut: a table over torchvision's networks and the patterns (half an hour)
	@$(BIN)/python -m tests.benchmarks.coverage

.PHONY: engine-table
engine-table: $(READY)  ## speed and memory of observe, score and repair, against their limits (15 minutes)
	@$(BIN)/python -m tests.benchmarks.causal_engine

.PHONY: bench-maps
bench-maps: $(READY)  ## seconds of every attribution map, and the Grad-CAM family against its limit (two minutes)
	@$(BIN)/python -m tests.benchmarks.maps

.PHONY: bench-torch-pruning
bench-torch-pruning: $(READY)  ## ResNet-56 at 2.12x: torch-pruning's pipeline and ours; needs ../shared (ten minutes)
	@$(BIN)/python -m tests.benchmarks.torch_pruning_pipeline

.PHONY: bench-real-size
bench-real-size: $(READY)  ## top-1 of pretrained ImageNet networks with few images; needs ../shared and weights, or skips
	@$(BIN)/python -m tests.benchmarks.real_size

.PHONY: bench-compensation
bench-compensation: $(READY)  ## accuracy per arm and stage at half the MACs; needs ../shared, takes long
	@$(BIN)/python -m tests.benchmarks.compensation

.PHONY: bench-ladder
bench-ladder: $(READY)  ## where the accuracy comes from, ResNet-20 and -56 at .5 and .3; needs ../shared (an hour)
	@$(BIN)/python -m tests.benchmarks.ladder

.PHONY: goldens
goldens: $(READY)  ## write the golden reports anew after an intended change; then read the difference
	@UPDATE_GOLDEN=1 $(BIN)/python -m pytest -q tests/unit/report
	@git --no-pager diff --stat -- tests/unit/report/golden

.PHONY: agreement
agreement: $(READY)  ## how far each importance ranks as ablation does; needs ../shared, takes hours on two cores
	@$(BIN)/python tests/benchmarks/agreement.py

.PHONY: build
build: $(READY)  ## the wheel, into dist/
	@rm -rf build
	@$(BIN)/python -m build --wheel --no-isolation --outdir dist

.PHONY: clean
clean:  ## remove .venv, caches and what was built; export/ stays
	@rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find causal_prune tests examples -name __pycache__ -type d -prune -exec rm -rf {} +
