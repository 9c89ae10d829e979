# Two commands for users: `make quickstart` and `make test`. Each makes its virtual environment when it is missing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SEED ?= 0

.PHONY: quickstart reproduce test test-all lint types clean

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --editable '.[dev]'
# pip would compile with one core; files of packages that are written for other versions of Python stay as they are.
	$(BIN)/python -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib || true
	touch $@

quickstart: $(VENV)/installed  ## the whole recipe in miniature, with the table at its end
	$(BIN)/python -m tools.quickstart --seed $(SEED)

reproduce: $(VENV)/installed  ## the same at three seeds by which nothing was chosen, with one table of all
	$(BIN)/python -m tools.quickstart --seed 2 3 4

# A file of tests stays in one process, which keeps what it sets up; tests/conftest.py puts long files first. Models of
# tests are so small that one thread a process is fastest.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: $(VENV)/installed  ## the tests of every guarantee, in minutes
	$(PYTEST) -m "not thorough" tests

test-all: $(VENV)/installed  ## more cases of each, and more examples of property tests
	$(PYTEST) --hypothesis-profile=all tests

lint: $(VENV)/installed  ## format and lint checks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/installed  ## type checks
	$(BIN)/mypy
