# Everything a newcomer or CI runs. Needs only make and Python 3.11 or newer; the rest is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: serve test crash bench-ledger lint types check lock docs clean

serve: $(VENV)/.installed  ## start the gateway on 127.0.0.1:8080
	@$(BIN)/mcp-gateway serve

test: $(VENV)/.installed-dev  ## run all tests
	@$(BIN)/python -m pytest --numprocesses auto

crash: $(VENV)/.installed-dev  ## kill -9 the server under load, twenty times, and audit the books
	@$(BIN)/python -m pytest -m slow tests/crash

bench-ledger: $(VENV)/.installed-dev  ## settled requests a second, and the wait for a commit beside a bare fsync
	@$(BIN)/python benchmarks/ledger.py

lint: $(VENV)/.installed-dev
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	@$(BIN)/mypy

check: test lint types  ## what CI runs

docs: $(VENV)/.installed-dev  ## write the files that are generated from the settings tree
	@$(BIN)/python -m mcp_gateway.core.config_reference

lock: $(VENV)/.installed-dev  ## pin every dependency with its hashes, naming no index
	@$(BIN)/python -m pip install --quiet uv
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		pyproject.toml -o requirements.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--extra test --extra check pyproject.toml -o requirements-dev.txt

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python requirements.txt pyproject.toml
	@echo "installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@

clean:
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build *.egg-info
