# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test test-all check install arm64 clean

install: $(VENV)/.installed

# torch goes first and alone: with any other version, or resolved beside other packages, pip may bring gigabytes of CUDA.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet torch==2.13.0 -c constraints.txt
	$(PIP) install --quiet -e '.[dev]' -c constraints.txt
	touch $@

demo: install
	$(BIN)/edgekit demo $(foreach folder,$(DATA),--data $(folder))

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	$(BIN)/python -m pytest -m 'not slow'

test-all: check
	$(BIN)/python -m pytest

# The runtime as a Raspberry Pi 4 and 5 in an emulated Debian (docs/arm64.md); needs root, debootstrap and qemu-user-static.
arm64: install
	PYTHONPATH=tests $(BIN)/python -m arm64 $(ARM64)

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
