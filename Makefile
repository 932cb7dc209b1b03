# Each target sets up what it needs; nothing has to be there but Python >= 3.11 and make.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
STAMP := .venv/.stamp

.PHONY: demo test check bench docs clean

demo: $(STAMP)-demo
	$(BIN)/python examples/brain/demo.py

test: $(STAMP)-test
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 3 --dist worksteal $(PYTEST_ARGS)

check: $(STAMP)-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry src

bench: $(STAMP)-test $(STAMP)-peers
	$(BIN)/python -m benchmarks --peers .venv-peers/bin/python $(BENCH_ARGS)

docs: $(STAMP)-docs
	$(BIN)/sphinx-build -W -n -q docs docs/_build/html

clean:
	rm -rf .venv .venv-peers docs/_build docs/how-to/_pictures demo demo-em demo-organelles demo-remote bellis_logs .bellis

$(BIN)/python:
	$(PYTHON) -m venv .venv
	$(PIP) "pip>=25.1"

$(STAMP)-demo: pyproject.toml | $(BIN)/python
	$(PIP) --editable ".[examples]"
	$(PIP) --no-deps nilearn
	touch $@

$(STAMP)-test: $(STAMP)-demo
	$(PIP) --group test
	touch $@

$(STAMP)-check: $(STAMP)-test
	$(PIP) --group check
	touch $@

$(STAMP)-docs: $(STAMP)-test
	$(PIP) --group docs
	touch $@

$(STAMP)-peers: $(STAMP)-demo
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet "pip>=25.1"
	.venv-peers/bin/python -m pip install --quiet --group peers
	touch $@
