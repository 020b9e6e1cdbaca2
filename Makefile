# `make help` lists every routine task of the project.
.DEFAULT_GOAL := help
.PHONY: help setup demo models load quick test slow test-all docs release shuffle lint format type unit handlers e2e chaos fuzz bench-handlers bench-request-path bench-engines bench-archives bench-spinning bench-batch bench-client bench-scale-down bench-restart chaos-client chaos-swap coverage lock wheel clean

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.stamp
# `make setup TORCH_BACKEND=cpu` installs the CPU wheels of torch, if your package index has them.
TORCH_BACKEND ?=
# If it is set, as in many container images, every process has to compile torch again: 1.6 s.
unexport PYTHONDONTWRITEBYTECODE

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## create .venv with all dependencies (needs Python 3.11+, but neither root nor Java)

$(STAMP): requirements.txt pyproject.toml scripts/check_python.py
	@$(PYTHON) scripts/check_python.py
	@rm -f $(STAMP)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python $(if $(TORCH_BACKEND),--torch-backend=$(TORCH_BACKEND)) -r requirements.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $(STAMP)

demo: $(STAMP)  ## train, pack, serve, call and replace a model; classify photographs, and PHOTO=file
	@$(BIN)/python scripts/demo.py $(PHOTO)

models: $(STAMP)  ## train every model of the zoo on data that needs no download
	@$(BIN)/python scripts/models.py

load: $(STAMP)  ## run a short load test of the demo's model; report in demo/load/
	@$(BIN)/python scripts/load.py

# One thread per process: processes with several threads each would wait for each other. Three
# processes keep two cores busy, because many tests wait for a server. The longest files come first.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder $(if $(CI),--durations=25)
TESTS  := tests

quick: lint type  ## run lint, type checks and the unit tests that need no process, training or waiting
	@$(PYTEST) -m "not slow and not heavy" --hypothesis-profile=quick tests/unit

test: lint type docs  ## run lint, type checks, all tests but the slow ones, and build the site
	@$(PYTEST) -m "not slow" $(TESTS)

slow: $(STAMP)  ## run the slow tests: the wheel, the whole zoo, long chaos
	@$(PYTEST) -m slow $(TESTS)

test-all: test slow  ## run all tests

docs: $(STAMP)  ## build the documentation site, in site/; warnings are errors
	@NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --quiet

release: $(STAMP)  ## build wheel and sdist in dist/, check them, and try the wheel in an empty environment
	@rm -rf dist
	@$(BIN)/uv build --quiet --out-dir dist
	@$(BIN)/twine check --strict dist/*
	@$(BIN)/python -m pytest -q tests/e2e/test_wheel.py

# The tests must not depend on the path of the temporary folder, the terminal's width or their order.
LONG := $(shell printf 'long%.0s' $$(seq 28))
shuffle: $(STAMP)  ## run the tests in random order, with a long temporary path, in 60 columns
	@mkdir -p /tmp/$(LONG)
	@COLUMNS=60 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile -p randomly --basetemp=/tmp/$(LONG)/t
	@rm -rf /tmp/$(LONG)

lint: $(STAMP)  ## check rules and format (ruff) and imports between packages (import-linter)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

format: $(STAMP)  ## fix and format the code with ruff
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

type: $(STAMP)  ## check types with mypy; the product in strict mode
	@$(BIN)/mypy

unit handlers e2e chaos: $(STAMP)
	@$(BIN)/python -m pytest -q tests/$@

fuzz: $(STAMP)  ## send 10,000 hostile bodies to a running server
	@FUZZ=10000 $(BIN)/python -m pytest -q -s tests/e2e/test_any_body.py -k fuzz

bench-handlers: $(STAMP)  ## compare handlers with plain loops and TorchServe's own; rows in benchmarks/results
	@$(BIN)/python -m benchmarks.handlers
	@$(BIN)/python benchmarks/text_generation.py

bench-request-path: $(STAMP)  ## measure the CPU time of a request by part, before and after; rows in benchmarks/results
	@$(BIN)/python -m benchmarks.request_path

bench-engines: $(STAMP)  ## compare engines and precisions, in process and over HTTP; rows in benchmarks/results
	@$(BIN)/python -m benchmarks.engines
	@$(BIN)/python -m benchmarks.engines_http
	@$(BIN)/python -W ignore -m benchmarks.shared_weights

bench-client: $(STAMP)  ## compare the client with requests, httpx and wrk; rows in benchmarks/results
	@$(BIN)/python -m benchmarks.client_overhead

bench-scale-down: $(STAMP)  ## count the requests lost when workers are removed; rows in benchmarks/results
	@$(BIN)/python -m benchmarks.scale_down

chaos-client: $(STAMP)  ## test the client with killed workers and servers, renewed keys and drains; rows in benchmarks/results
	@$(BIN)/python -m benchmarks.client_chaos

chaos-swap: $(STAMP)  ## swap versions while workers and servers are killed, for 10 minutes; rows in benchmarks/results
	@$(BIN)/python -m benchmarks.chaos_swap

bench-restart: $(STAMP)  ## time the restart of two models after kill -9; rows in benchmarks/results
	@$(BIN)/python -m benchmarks.restart

# What an import costs is not measured: coverage itself would be imported.
coverage: $(STAMP)  ## measure the line and branch coverage of `make test`, which must not fall
	@$(BIN)/coverage erase
	@OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -q -n 3 --dist loadfile -m "not slow" --ignore=tests/unit/test_import_cost.py
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report
	@$(BIN)/coverage report --include='vestal/client/*' --fail-under=95

bench-batch: $(STAMP)  ## compare vestal batch with a plain loop; rows in benchmarks/results
	@$(BIN)/python -m benchmarks.batch

bench-spinning: $(STAMP)  ## measure the cost of threads that spin while they wait; rows in benchmarks/results
	@$(BIN)/python -m benchmarks.spinning

bench-archives: $(STAMP)  ## time pack, check and run of resnet18; rows in benchmarks/results
	@$(BIN)/python -m benchmarks.archives

lock: $(STAMP)  ## update the pinned versions in requirements.txt
	@$(BIN)/uv pip compile pyproject.toml --quiet --all-extras --universal --python-version 3.11 --upgrade \
		--no-header --no-annotate --no-emit-index-url | $(BIN)/python scripts/lock.py > requirements.new
	@mv requirements.new requirements.txt

wheel: $(STAMP)  ## build the package that users install, in dist/
	@$(BIN)/uv build --quiet --wheel --out-dir dist

clean:  ## remove everything that can be rebuilt, but not runs, archives or data
	rm -rf $(VENV) build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis
