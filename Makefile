# make demo   the whole chain on simulated images, or on SDSS frames (DATA=folder)
# make test   the tests
# make lint   style and types
# make bench  the benchmarks

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
DATA ?=
REPO ?= demo
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)
PYTEST_JOBS ?= $(JOBS)

# Byte code and compiled kernels are cached; without them every process pays for importing and compiling again.
unexport PYTHONDONTWRITEBYTECODE
# One thread per process: the processes are what runs in parallel, and sums stay the same for any number of them.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export MKL_NUM_THREADS := 1

.PHONY: setup demo test lint bench lock clean

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.lock pyproject.toml
	@python=$$(PYTHON="$(PYTHON)" tools/find-python) && echo "Using $$python" && "$$python" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/python -m compileall -q src
	@touch $@

demo: setup
	$(BIN)/secondlight demo $(REPO) $(if $(DATA),--data $(DATA)) -j $(JOBS)

test: setup
	$(BIN)/python -m pytest -n $(PYTEST_JOBS) --dist loadfile --no-loadscope-reorder

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m benchmarks

lock:
	$(BIN)/uv pip compile --python-version 3.12 --universal --generate-hashes --no-emit-index-url \
		--extra test --extra dev --extra bench -q pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) $(REPO)
