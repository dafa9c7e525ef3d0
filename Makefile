# `make figures` and `make test` do all of their own set-up: they need Python >= 3.11 with venv and pip, and a network
# for the first installation.

PYTHON ?= python3
VENV ?= .venv
OUT ?= figures/output

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help install figures tables test lint format clean

help:
	@echo 'make figures   regenerate every figure from the embedded pipeline into $(OUT) (OUT=... for elsewhere)'
	@echo 'make tables    judge the pictures: the tables of the paper, Markdown and CSV in $(OUT); about half an hour'
	@echo 'make test      ruff, mypy and the tests'
	@echo 'make lint      ruff and mypy only'
	@echo 'make format    let ruff format the code and sort its imports'
	@echo 'make install   only the environment in $(VENV) (PYTHON=... picks the Python)'
	@echo 'make clean     remove the environment and all caches'

install: $(INSTALLED)

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed; make PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[test]'
	@touch $@

figures: $(INSTALLED)
	$(BIN)/python -m entropylab figures --out $(OUT)

tables: $(INSTALLED)
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[quality]'
	$(BIN)/python figures/tables.py --out $(OUT)

test: lint
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist worksteal

lint: $(INSTALLED)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

format: $(INSTALLED)
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

clean:
	rm -rf $(VENV) .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
