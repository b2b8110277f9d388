# Everything that a person or CI does here. `make quickstart` and `make test` install what they need into .venv,
# `make test-xla` into .venv-xla.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test test-slow test-xla faults faults-long fault-matrix audit lint format clean

quickstart: .venv/installed
	$(BIN)/sweep run search_spaces/quickstart.yaml
	$(BIN)/sweep pareto quickstart
	$(BIN)/sweep rules quickstart
	@echo
	@echo "Table:    results/quickstart/trials/ (Parquet)"
	@echo "Figures:  results/quickstart/report/"
	@echo "MLflow:   $(BIN)/mlflow ui   then open http://127.0.0.1:5000"

test: lint
	$(BIN)/python -m pytest --durations=30 -m "not slow"

test-slow: .venv/installed
	$(BIN)/python -m pytest --durations=30 -m slow

# Known vulnerabilities of the pinned versions. Its own environment: what checks the packages is not one of them.
audit:
	$(PYTHON) -m venv .venv-audit
	-.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	.venv-audit/bin/python tests/audit.py

# XLA compiles for whatever device there is; here for the CPU.
test-xla: .venv-xla/installed
	PJRT_DEVICE=CPU .venv-xla/bin/python -m pytest tests/xla

# Kills at system calls and at random moments, disks that fail, clocks that jump; part of the tests above. The long one
# takes every system call and 200 kills on Ray, which is hours; -s shows the seed.
faults: .venv/installed
	$(BIN)/python -m pytest tests/faults

faults-long: .venv/installed
	SWEEP_FAULTS=long SWEEP_KILLS=200 $(BIN)/python -m pytest -s tests/faults

# Every file that a sweep keeps, damaged in every way, and what becomes of it; takes some ten minutes.
fault-matrix: .venv/installed
	PYTHONPATH=.:tests/faults $(BIN)/python tests/faults/matrix.py

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

.venv-xla/installed: constraints-xla.txt
	$(PYTHON) -m venv .venv-xla
	.venv-xla/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -r constraints-xla.txt
	touch $@

clean:
	rm -rf .venv .venv-xla .venv-audit build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
