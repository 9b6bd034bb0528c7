# make run       a homeserver from this checkout; needs Python 3.11 and nothing else
# make test      everything that must be green: check, all tests, real clients, both databases
# make test-deep the same with further seeds, room versions and databases; takes an hour
# make unit      the fast tests
# make check     format, lint, types, import law
# make bench     figures, with the load generator that HSLOAD names

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
# Its versions are pinned in constraints.txt, so pip has nothing to say unless it fails.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input -c constraints.txt
# `twistd homeserver`: an editable install leaves out what belongs into Twisted's own folder.
LINK_PLUGIN = ln -sf '$(CURDIR)/homeserver/twistd_plugin/homeserver_dropin.py' $(VENV)/lib/python*/site-packages/twisted/plugins/
DEPENDS := setup.cfg setup.py pyproject.toml constraints.txt
JS := tests/clients/js
export PYTHON

.PHONY: help run test test-deep synapse unit check format bench clean constraints
help:
	@sed -n 's/^# //p' Makefile | head -n 6

run: $(VENV)/installed-run
	@exec $(BIN)/sennit run

$(VENV)/installed-run: $(DEPENDS)
	@tools/make_venv.sh $(VENV)
	@echo "Installing what Sennit needs into $(VENV) …"
	@$(PIP_INSTALL) -e .
	@$(LINK_PLUGIN)
	@touch $@

$(VENV)/installed-test: $(DEPENDS)
	@tools/make_venv.sh $(VENV) --install
	@echo "Installing what the tests need into $(VENV) …"
	@$(PIP_INSTALL) -e '.[test,dev]'
	@$(LINK_PLUGIN)
	@touch $@ $(VENV)/installed-run

# Real clients: matrix-js-sdk wants a newer node than Debian 12 has, so that one comes from npm too.
ifneq ($(wildcard $(JS)/package-lock.json),)
JS_INSTALLED := $(JS)/node_modules/.installed
endif
$(JS)/node_modules/.installed: $(JS)/package.json $(JS)/package-lock.json
	@tools/need.sh 'command -v npm' npm
	@cd $(JS) && npm ci --silent --no-audit --no-fund
	@# Debian's npm does not link the commands of optional packages.
	@cd $(JS)/node_modules && ln -sf ../$$(echo node-linux-*)/bin/node .bin/node && .bin/node --version >/dev/null
	@touch $@

# The outside judge of tests/oracle, and the other server of tests/interop, in an environment of its own.
synapse:
	@tools/make_synapse_venv.sh .venv-synapse

test: check $(JS_INSTALLED) synapse
	@tools/need.sh 'command -v mariadbd && command -v mariadb-install-db' mariadb-server-core mariadb-client-core
	SENNIT_TESTS_NEED_ALL=1 $(BIN)/python -m pytest -q -n auto --dist loadgroup

test-deep: export SENNIT_TESTS_DEEP := 1
test-deep: test

unit: $(VENV)/installed-test
	$(BIN)/python -m pytest -q -n auto --dist loadgroup -m 'not slow and not clients'

check: $(VENV)/installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache > $(VENV)/lint-imports.log || { cat $(VENV)/lint-imports.log; exit 1; }

format: $(VENV)/installed-test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/installed-run
	@tools/bench.sh

# New pins: whatever is newest now, from an environment that holds nothing else.
constraints:
	@rm -rf $(VENV)-constraints && tools/make_venv.sh $(VENV)-constraints
	@$(VENV)-constraints/bin/python -m pip install --quiet --disable-pip-version-check -e '.[test,dev]'
	@{ grep '^#' constraints.txt; $(VENV)-constraints/bin/python -m pip freeze --exclude-editable; } > $(VENV)-constraints/new
	@mv $(VENV)-constraints/new constraints.txt && rm -rf $(VENV)-constraints

clean:
	rm -rf $(VENV) $(VENV)-constraints .venv-synapse build dist *.egg-info $(JS)/node_modules
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
