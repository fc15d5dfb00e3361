# `make repro` and `make test` need git, make and Python 3.11, 3.12 or 3.13; all else is installed into .venv.
PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DVC_NO_ANALYTICS := 1

.PHONY: help env repro test test-all docs links lint format lock clean

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

env: $(VENV)/.installed ## build the environment in .venv from requirements.lock

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "Python 3.11, 3.12 or 3.13 is needed: make PYTHON=/path/to/python3.12"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/pip install --quiet --require-hashes -r requirements.lock
	$(VENV)/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

repro: env ## run the pipeline: images, features, heads, report
	@start=$$(date +%s); dvc repro && echo && cryobase heads best && \
		echo "took $$(($$(date +%s) - start)) seconds"

# Two processes, a file at a time, in the order that tests/conftest.py gives: the long ones first.
PYTEST := pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder --max-worker-restart=0

test: env ## run the tests, two files at a time: each process may take 3 GB
	$(PYTEST)

test-all: env ## run the tests with the long loops whole
	CRYOBASE_TEST_ALL=1 $(PYTEST)

docs: env ## build the pages in build/docs, with warnings as errors; runs the notebooks
	sphinx-build --quiet --fail-on-warning --keep-going --builder html docs build/docs

links: env ## check the links of the pages to elsewhere
	sphinx-build --quiet --builder linkcheck docs build/links-checked

lint: env ## check style, spelling and types
	ruff check .
	ruff format --check .
	codespell --toml pyproject.toml $$(git ls-files '*.py' '*.md' '*.yaml')
	mkdir -p build/links/cryobase
	ln -sfn ../../../store ../../../stages ../../../pipeline ../../../pipeline/api/__init__.py build/links/cryobase
	mypy

format: env ## rewrite the code in the agreed style
	ruff check --fix .
	ruff format .

lock: env ## resolve requirements.lock anew
	UV_CUSTOM_COMPILE_COMMAND="make lock" uv pip compile --quiet --upgrade --universal \
		--python-version 3.11 --generate-hashes --extra sample --extra openvino --extra onnx \
		--extra heif --extra keras-hub --extra parquet --extra docs --extra dev --output-file requirements.lock pyproject.toml

clean: ## remove the environment and caches, never data, features or models
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build *.egg-info
