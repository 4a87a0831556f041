# A machine with Python 3.11 or newer and make can run and test the service; `make` lists what there is.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
BROWSER := .venv/browser-installed

.DEFAULT_GOAL := help
.PHONY: help run test test-full faults bench bench-growth bench-llm screenshots programs lint audit fuzz lock docs clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' Makefile

run: $(INSTALLED) ## serve on http://localhost:8080 (PORT=9000 make run: another port) with a PostgreSQL of its own
	@APP_ENV=development exec $(BIN)/flask run

test: $(INSTALLED) ## all tests that need nothing but Python
	$(BIN)/pytest -m 'not full and not faults'

test-full: programs $(BROWSER) test ## all tests, also those that need programs from Debian (chromium, nginx, ...)
	PATH="$$PATH:/usr/sbin" $(BIN)/pytest -m full

faults: $(INSTALLED) ## break PostgreSQL, Valkey, mail and workers under load, and measure (5 minutes on a quiet machine)
	$(BIN)/pytest -m faults --numprocesses=0

bench: $(INSTALLED) ## measure the service against its own limit (5 minutes on a quiet machine; needs wrk)
	$(BIN)/python -m bench

bench-growth: $(INSTALLED) ## measure with 1,000,000 users and 10,000,000 sessions (8 minutes on a quiet machine; needs 7 GB)
	$(BIN)/python -m bench.growth

bench-llm: $(INSTALLED) ## measure the model proxy (4 minutes on a quiet machine)
	$(BIN)/python -m bench.llm

screenshots: $(BROWSER) ## the pictures in docs/images, from a real browser (needs chromium)
	$(BIN)/python -m scripts.screenshots

PROGRAMS := chromium curl git nginx pgbouncer wrk

programs:
	@PATH="$$PATH:/usr/sbin"; for program in $(PROGRAMS); do \
		command -v $$program > /dev/null || missing="$$missing $$program"; done; \
	test -z "$$missing" || { echo "make test-full needs:$$missing (Debian: apt-get install $(PROGRAMS))" >&2; exit 1; }

lint: $(INSTALLED) ## ruff, mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

audit: $(INSTALLED) ## look for unsafe code, known vulnerabilities, missing hashes, locking migrations, committed secrets
	@$(BIN)/python -m scripts.audit

SEED ?= $(shell date +%s)
EXAMPLES ?= 5000

fuzz: $(INSTALLED) ## any input for each parser (5 minutes; EXAMPLES=50000 make fuzz: longer; SEED= of an earlier run: again)
	FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/pytest tests/test_fuzz_*.py --hypothesis-seed=$(SEED)

lock: $(INSTALLED) ## pin the newest versions of requirements*.in (add ONLY=name to renew one package)
	$(BIN)/uv pip compile $(LOCK) requirements.in -o requirements.txt
	$(BIN)/uv pip compile $(LOCK) requirements-dev.in -o requirements-dev.txt
	$(BIN)/uv pip compile $(LOCK) requirements-browser.in -o requirements-browser.txt

LOCK = --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
       $(if $(ONLY),--upgrade-package $(ONLY),--upgrade)

docs: $(INSTALLED) ## render .env.example and the README's table from config.py
	$(BIN)/python -m scripts.config_docs

clean: ## remove the environment and the development database
	rm -rf .venv .lumen

$(INSTALLED): requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed (PYTHON=python3.12 make ...)")'
	@echo "Installing the packages into .venv, which takes about a minute ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes \
		-r requirements.txt -r requirements-dev.txt
	@touch $@

$(BROWSER): $(INSTALLED) requirements-browser.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-browser.txt
	@touch $@
