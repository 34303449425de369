# SPDX-License-Identifier: MIT
# make test   environment if needed, build, all tests
# make demo   environment if needed, build, a real run from points to latency table
# make lint   what CI checks of style and types
# make cpp    C++ unit tests, plain and under AddressSanitizer and UBSan

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?= -n auto
# The environment serves this machine: where nothing could run the CUDA part, it is not built.
GPU := $(wildcard /dev/nvidia0 /dev/nvhost-gpu /dev/nvgpu /dev/dxg)
export TSL_CUDA ?= $(if $(GPU),AUTO,OFF)
BIN := $(VENV)/bin
SOURCES := $(shell find csrc -type f) CMakeLists.txt pyproject.toml constraints.txt
CXX_FILES := $(shell find csrc tests/csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

.PHONY: test demo lint cpp clean

$(VENV)/.built: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

test: $(VENV)/.built
	$(BIN)/python -m pytest $(PYTEST_ARGS)

demo: $(VENV)/.built
	$(BIN)/python -m examples.demo

lint: $(VENV)/.built
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

cpp: $(VENV)/.built
	PATH="$(CURDIR)/$(BIN):$$PATH" bash .ci/cpp plain
	PATH="$(CURDIR)/$(BIN):$$PATH" bash .ci/cpp sanitized

clean:
	rm -rf build $(VENV) .pytest_cache .mypy_cache .ruff_cache
