# Everything that a person or CI does here. `make quickstart` and `make test` install what they need into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test test-slow lint format clean

quickstart: .venv/installed
	$(BIN)/sweep run search_spaces/quickstart.yaml
	$(BIN)/sweep pareto quickstart
	$(BIN)/sweep rules quickstart
	@echo
	@echo "Table:    results/quickstart/trials/ (Parquet)"
	@echo "Figures:  results/quickstart/report/"
	@echo "MLflow:   $(BIN)/mlflow ui   then open http://127.0.0.1:5000"

test: lint
	$(BIN)/python -m pytest -m "not slow"

test-slow: .venv/installed
	$(BIN)/python -m pytest -m slow

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

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
