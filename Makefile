# `make figures` and `make test` do all of their own set-up: they need Python >= 3.11 with venv and pip, and a network
# for the first installation.

PYTHON ?= python3
VENV ?= .venv
OUT ?= figures/output

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
LOWEST ?= .venv-lowest
LOWEST_TESTS := $(addprefix tests/,test_examples.py test_files.py scaling/test_rescaling.py $(addprefix cli/test_,reading.py handing_on.py help.py) entropy law $(addprefix measuring/test_,record.py undisturbed.py) models plot)

.PHONY: help install figures tables test test-lowest lint docs dist format clean

help:
	@echo 'make figures   regenerate every figure from the embedded pipeline into $(OUT) (OUT=... for elsewhere)'
	@echo 'make tables    judge the pictures: the tables of the paper, Markdown and CSV in $(OUT)'
	@echo 'make test      ruff, mypy, the documentation and the tests'
	@echo 'make lint      ruff and mypy only'
	@echo 'make docs      the documentation as a site in build/site; a warning is an error'
	@echo 'make dist      wheel and sdist in dist/, checked'
	@echo 'make test-lowest  a part of the tests with the oldest versions we support, in .venv-lowest (3 GB to fetch)'
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
	$(BIN)/python figures/regenerate.py --out $(OUT)

tables: $(INSTALLED)
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[quality]'
	$(BIN)/python figures/tables.py --out $(OUT)
	$(BIN)/python figures/defects_checked.py --out $(OUT)

test: lint docs
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist worksteal

test-lowest:
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --disable-pip-version-check --constraint tests/lowest.txt --editable . pytest hypothesis
	$(LOWEST)/bin/python -m pytest --override-ini filterwarnings=default $(LOWEST_TESTS)

lint: $(INSTALLED)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet --site-dir build/site

dist: $(INSTALLED)
	$(BIN)/python -m pip install --disable-pip-version-check build twine
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

format: $(INSTALLED)
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

clean:
	rm -rf $(VENV) $(LOWEST) .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
