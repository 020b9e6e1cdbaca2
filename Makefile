# Every habit of the project is a line of `make help`.
.DEFAULT_GOAL := help
.PHONY: help setup demo models load test shuffle lint format type unit handlers e2e chaos fuzz bench-handlers bench-archives bench-spinning bench-batch bench-client chaos-client coverage lock wheel clean

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.stamp
# `make setup TORCH_BACKEND=cpu` takes the CPU wheels of torch, where your index has them.
TORCH_BACKEND ?=
# Where it is set, as in many container images, every process would compile torch anew: 1.6 s.
unexport PYTHONDONTWRITEBYTECODE

help:  ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## .venv with everything in it (Python 3.11+; no root, no Java needed)

$(STAMP): requirements.txt pyproject.toml scripts/check_python.py
	@$(PYTHON) scripts/check_python.py
	@rm -f $(STAMP)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python $(if $(TORCH_BACKEND),--torch-backend=$(TORCH_BACKEND)) -r requirements.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $(STAMP)

demo: $(STAMP)  ## train, pack, serve, call and swap a model, and draw what it says
	@$(BIN)/python scripts/demo.py

models: $(STAMP)  ## train every model of the zoo on data that need no download
	@$(BIN)/python scripts/models.py

load: $(STAMP)  ## the demo's model under a short load test; report in demo/load/
	@$(BIN)/python scripts/load.py

# One thread each: two processes of two threads on two cores wait for each other.
test: lint type  ## everything that must be green
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

# What the gate must not depend on: the temp folder's path, the terminal's width, the order of tests.
LONG := $(shell printf 'long%.0s' $$(seq 28))
shuffle: $(STAMP)  ## the tests in random order, with a temp path of 120 letters, in 60 columns
	@mkdir -p /tmp/$(LONG)
	@COLUMNS=60 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile -p randomly --basetemp=/tmp/$(LONG)/t
	@rm -rf /tmp/$(LONG)

lint: $(STAMP)  ## ruff: rules and format; import-linter: which package may import which
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

format: $(STAMP)  ## let ruff mend what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

type: $(STAMP)  ## mypy, strict
	@$(BIN)/mypy vestal handlers models

unit handlers e2e chaos: $(STAMP)
	@$(BIN)/python -m pytest -q tests/$@

fuzz: $(STAMP)  ## 10,000 hostile bodies against a live server
	@FUZZ=10000 $(BIN)/python -m pytest -q -s tests/e2e/test_any_body.py -k fuzz

bench-handlers: $(STAMP)  ## handlers beside bare loops and stock ones; rows in benchmarks/results
	@$(BIN)/python -m benchmarks.handlers
	@$(BIN)/python benchmarks/text_generation.py

bench-client: $(STAMP)  ## the client beside bare requests, httpx and wrk; rows in benchmarks/results
	@$(BIN)/python -m benchmarks.client_overhead

chaos-client: $(STAMP)  ## killed workers and servers, renewed keys, drains; rows in benchmarks/results
	@$(BIN)/python -m benchmarks.client_chaos

coverage: $(STAMP)  ## how much of the client its unit tests reach, branches too
	@$(BIN)/coverage run -m pytest -q tests/unit/test_client*.py tests/unit/test_fake_server.py
	@$(BIN)/coverage report

bench-batch: $(STAMP)  ## vestal batch beside a bare loop; rows in benchmarks/results
	@$(BIN)/python -m benchmarks.batch

bench-spinning: $(STAMP)  ## threads that spin while they wait; rows in benchmarks/results
	@$(BIN)/python -m benchmarks.spinning

bench-archives: $(STAMP)  ## pack, check and run of resnet18, from start to answer; rows in benchmarks/results
	@$(BIN)/python -m benchmarks.archives

lock: $(STAMP)  ## pin every dependency anew in requirements.txt
	@$(BIN)/uv pip compile pyproject.toml --quiet --all-extras --universal --python-version 3.11 --upgrade \
		--no-header --no-annotate --no-emit-index-url | $(BIN)/python scripts/lock.py > requirements.new
	@mv requirements.new requirements.txt

wheel: $(STAMP)  ## the package as users install it, in dist/
	@$(BIN)/uv build --quiet --wheel --out-dir dist

clean:  ## remove what can be made again (not your runs, archives or data)
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
