# Run `make help` for what there is.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo
SCALE ?= 1
MINIS ?= runs/mini
GPU_FIGURES ?= runs/gpu.json
FUZZ_SECONDS ?= 600
TORTURE_SECONDS ?= 3600
SOURCES := m2kr baselines leaderboard tests
# Of torch, polars, tokenizers and numba: the processes of the tests take all cores, and threads would be in their way.
# Those that a test asks for sleep while they wait: spinning, as benchmarks need it, they would take others' time.
ONE_THREAD := OMP_NUM_THREADS=1 POLARS_MAX_THREADS=1 RAYON_NUM_THREADS=1 NUMBA_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE

.PHONY: help
help:  ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  Variables: PYTHON (interpreter of the new environment), VENV, DEMO (folder), SCALE (of the demo's world), MINIS (folder of train-mini),"
	@echo "    GPU_FIGURES (file of make gpu), FUZZ_SECONDS (of each half of fuzz), TORTURE_SECONDS"

# pyproject.toml and constraints.txt decide what is installed; a change of either installs again.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	# numba keeps what it compiles of ranx there: once now, or in each of the first processes that need it.
	$(BIN)/python -c 'from m2kr.metrics.kernels import compile_kernels; compile_kernels()'
	@touch $@

.PHONY: setup
setup: $(VENV)/.installed  ## Create the virtual environment in .venv

.PHONY: demo
demo: setup  ## Make a made-up world, build it, evaluate four retrievers, answer with what three of them find, make the site
	$(BIN)/python -m m2kr.synthetic --out $(DEMO)/raw --scale $(SCALE)
	$(BIN)/python -m m2kr.build --raw $(DEMO)/raw --out $(DEMO)/m2kr-data --images $(DEMO)/raw
	$(BIN)/python -m m2kr.evaluate --model bm25 --data $(DEMO)/m2kr-data --ignore-images --out $(DEMO)/results --quiet
	for model in clip-mini dpr-mini preflmr-mini; do \
		$(BIN)/python -m m2kr.evaluate --model $$model --data $(DEMO)/m2kr-data --images $(DEMO)/raw --out $(DEMO)/results --quiet; \
	done
	for passages in --no-retrieval $(addprefix --run-dir=$(DEMO)/results/,bm25 dpr-mini preflmr-mini) --oracle; do \
		$(BIN)/python -m m2kr.answer --reader reader-mini $$passages --data $(DEMO)/m2kr-data --images $(DEMO)/raw \
			--batch-size 32 --out $(DEMO)/results --quiet > /dev/null; \
	done
	$(BIN)/python -m leaderboard --results $(DEMO)/results --out $(DEMO)/site --data $(DEMO)/m2kr-data --images $(DEMO)/raw \
		--quiet
	@echo
	@$(BIN)/python -m m2kr.results $(DEMO)/results
	@echo "The same as pages, with every query: $(DEMO)/site/index.html"

.PHONY: check
check: setup  ## Format, lint and type checks; whether cards and tables are as the code is
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/python -m m2kr.cards --check
	$(BIN)/python -m leaderboard readme --check
	$(BIN)/python -m tests.benchmarks.gpu.report --check

.PHONY: ray
ray: setup  ## Install Ray, and test what computes on two nodes, both on this machine
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[ray]'
	$(ONE_THREAD) $(BIN)/python -m pytest tests/m2kr/evaluate/test_ray.py --numprocesses 2 --dist worksteal

.PHONY: format
format: setup  ## Format the code and mend what ruff can
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

.PHONY: cards
cards: setup  ## Write data_cards/, docs/options.md and the tables in README.md anew
	$(BIN)/python -m m2kr.cards --update

.PHONY: retrievers
retrievers: setup  ## Measure each family of retrievers on a tiny checkpoint, and write docs/retrievers.md anew
	$(BIN)/python -m tests.baselines.families.page

.PHONY: board
board: setup  ## Write the leaderboard's table in README.md anew
	$(BIN)/python -m leaderboard readme

.PHONY: pictures
pictures: setup  ## Take the README's pictures of the demo's site anew (after make demo; needs a Chromium)
	$(BIN)/python -m leaderboard pictures --site $(DEMO)/site --out docs/pictures

.PHONY: test
test: check  ## Set up, check and run all tests, in one process more than there are cores (four at most)
	$(ONE_THREAD) $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

.PHONY: bench
bench: setup  ## Run the benchmarks (minutes); figures are kept in tests/benchmarks/RESULTS.md
	$(BIN)/python -m pytest tests/benchmarks --override-ini addopts= --import-mode=importlib --benchmark-only -s

.PHONY: gpu
gpu:  ## Check and measure everything on this machine's GPU, without network, in eight minutes; again: go on
	PYTHONPATH=. $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m tests.benchmarks.gpu --out $(GPU_FIGURES)

.PHONY: bench-report
bench-report: setup  ## Bring the figures of make gpu into tests/benchmarks/RESULTS.md (and keep GPU_FIGURES beside it)
	$(BIN)/python -m tests.benchmarks.gpu.report $(wildcard $(GPU_FIGURES))

.PHONY: fuzz
fuzz: setup  ## Build damaged raw releases, and run property tests with fresh seeds: FUZZ_SECONDS each
	$(BIN)/python tests/fuzz/fuzz_sources.py --seconds $(FUZZ_SECONDS)
	$(BIN)/python tests/fuzz/explore.py --seconds $(FUZZ_SECONDS)

.PHONY: torture
torture: setup  ## Kill commands, fill their disks, damage what they read: TORTURE_SECONDS; the table goes into docs/reliability.md
	$(BIN)/python -m tests.torture --seconds $(TORTURE_SECONDS) --jobs 2 --report

.PHONY: train-mini
train-mini: setup  ## Train the small models anew and judge them (less than an hour on 2 cores)
	$(BIN)/python -m baselines.minis.recipe --work $(MINIS)

.PHONY: clean
clean:  ## Remove the demo's files and the tools' caches (not the environment)
	rm -rf $(DEMO) .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks
