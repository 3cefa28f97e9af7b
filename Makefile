# make demo: see Adam at the edge.   make test: check that it is so here.   make help: the rest.

PYTHON ?= python3
PYTEST ?=

# What runs (.venv) and what develops (.venv-dev) are apart, so that a demo installs no tools.
RUN := .venv
DEV := .venv-dev
PINNED := -c requirements/constraints.txt
PIP := -m pip --disable-pip-version-check --no-input install --quiet --no-compile

.DEFAULT_GOAL := help
.PHONY: help python demo test lint format types contracts newest docs wheel-check plan-check clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

python:
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "make: no '$(PYTHON)' here; name a Python 3.11, 3.12 or 3.13, as in: make PYTHON=python3.12"; \
	  exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
	  echo "make: aeoskit needs Python 3.11, 3.12 or 3.13, and '$(PYTHON)' is $$("$(PYTHON)" -V 2>&1);" \
	       "name another, as in: make PYTHON=python3.12"; \
	  exit 2; }

# A stamp is written last: an installation that broke off is begun again.
$(RUN)/.installed: pyproject.toml requirements/constraints.txt | python
	@echo "installing aeoskit into $(RUN) (once; some minutes on a slow line)"
	@rm -rf $(RUN) && "$(PYTHON)" -m venv $(RUN)
	@$(RUN)/bin/python $(PIP) $(PINNED) --editable '.[experiments]'
	@touch $@

$(DEV)/.installed: pyproject.toml requirements/constraints.txt | python
	@echo "installing aeoskit and its tools into $(DEV) (once; some minutes on a slow line)"
	@rm -rf $(DEV) && "$(PYTHON)" -m venv $(DEV)
	@$(DEV)/bin/python $(PIP) $(PINNED) --editable '.[dev]'
	@touch $@

demo: $(RUN)/.installed ## trains, tracks and draws: Adam at its own threshold, three learning rates
	@$(RUN)/bin/aeoskit run adam-edge

test: $(DEV)/.installed ## every test and every example in the docs; PYTEST="-k linalg" picks
	$(DEV)/bin/python -m pytest -n auto --maxprocesses 8 --dist loadfile $(PYTEST)

lint: $(DEV)/.installed ## ruff, lint and format
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .

format: $(DEV)/.installed ## fixes what ruff can fix
	$(DEV)/bin/ruff check --fix .
	$(DEV)/bin/ruff format .

types: $(DEV)/.installed ## pyright
	$(DEV)/bin/pyright --pythonpath $(DEV)/bin/python

contracts: $(DEV)/.installed ## who may import whom
	$(DEV)/bin/lint-imports --no-logo

newest: | python ## a fast part of the suite on the newest Python here with the newest versions
	.ci/newest "$(PYTHON)"

docs: $(DEV)/.installed ## the site, into site/
	NO_MKDOCS_2_WARNING=1 $(DEV)/bin/mkdocs build --strict --quiet

wheel-check: $(DEV)/.installed ## the built wheel in a clean environment outside the checkout
	.ci/wheel-check $(DEV)/bin/python

plan-check: | python ## the TPU compiler, in an environment of its own: plans for pods, and what they must show
	.ci/plan-check "$(PYTHON)" $(PLANS)

clean: ## removes environments and everything built; runs/ stays
	rm -rf $(RUN) $(DEV) .venv-newest .venv-plan dist build site .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find aeoskit experiments cli tests -name __pycache__ -type d -prune -exec rm -rf {} +
