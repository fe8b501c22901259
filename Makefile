# Everything a user or CI types. `make demo` and `make test` install what they need first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# One Ray, one MLflow, quietly and without the network.
export RAY_USAGE_STATS_ENABLED := 0
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: env demo test test-slow reliability check format clean

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

demo: env
	$(BIN)/tintlab demo

test: env
	$(BIN)/python -m pytest -m "not slow" tests

test-slow: env
	$(BIN)/python -m pytest -m slow tests

# The page is written even if a test fails: a figure that falls short belongs on it.
reliability: env
	mkdir -p build && rm -f build/figures.jsonl
	RELIABILITY_FIGURES=$(CURDIR)/build/figures.jsonl $(BIN)/python -m pytest -s -m slow tests; \
	result=$$?; $(BIN)/python docs/generate_reliability.py build/figures.jsonl > build/reliability.md \
	&& mv build/reliability.md docs/reliability.md && exit $$result

check: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy platform pipelines search_spaces
	$(BIN)/lint-imports

format: env
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) workspace build dist .ruff_cache .mypy_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
