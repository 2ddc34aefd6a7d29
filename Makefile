# Everything runs in .venv, which every target sets up by itself; all that has to be there is Python 3.11 or newer.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
WHEEL_VENV := .venv-wheel
ELSEWHERE := build/elsewhere
# What a wheel could lack: commands, pages, migrations, documents, what other libraries find by entry points.
OF_THE_WHEEL := $(addprefix tests/,cli docs examples libraries ledger/test_opening.py ledger/test_schema.py)
JOBS ?= 2
# Each job is one process of the tests: more threads than that would only stand in each other's way.
test proofs wheel-test: export OMP_NUM_THREADS = 1

INSTALLED := $(VENV)/installed

# timm requires torchvision, which loads only beside the build of torch that it was made for; the tests do without it
# (tests/zoo/timm_alone.py). What else timm requires, transformers brings.
TIMM := --no-deps timm

# The package as it is once installed, in links: static tools can't follow the editable install into its four rooms.
LINKS := build/links

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install run test proofs bench zoo lint types layers links wheel-test clean

help: ## Say what there is.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(INSTALLED) ## Set up .venv, when anything has changed.

run: $(INSTALLED) ## The main job: grow networks on handwritten digits, then prove from the log what happened.
	$(VENV)/bin/python examples/digits.py

test: $(INSTALLED) ## All tests, the slow proofs excepted.
	$(VENV)/bin/pytest -n $(JOBS) -m "not slow"

proofs: $(INSTALLED) ## The slow proofs: surgery on a zoo of real architectures, whole runs, every adversary.
	$(VENV)/bin/pytest -n $(JOBS) -m slow

bench: $(INSTALLED) ## What surgery, captures and replays cost; WRITE=--write keeps it in docs/.
	$(VENV)/bin/python -m benchmarks $(WRITE)

zoo: $(INSTALLED) ## Every surgery on all models of the zoo, some minutes; written to docs/zoo.md.
	cd tests && $(CURDIR)/$(VENV)/bin/python -m zoo --write

lint: $(INSTALLED) ## Style.
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check

types: $(INSTALLED) links ## Types, strictly.
	cd $(LINKS) && $(CURDIR)/$(VENV)/bin/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache -p esper_es

layers: $(INSTALLED) links ## Which room may import from which.
	cd $(LINKS) && $(CURDIR)/$(VENV)/bin/lint-imports --config $(CURDIR)/pyproject.toml --no-cache

links:
	@rm -rf $(LINKS)
	@mkdir -p $(LINKS)/esper_es
	@ln -s $(CURDIR)/esper_es/* $(addprefix $(CURDIR)/,domain projections migrations) $(LINKS)/esper_es/

wheel-test: $(INSTALLED) ## Build the wheel, install it in a venv of its own, and test it far from the source tree.
	rm -rf dist
	$(VENV)/bin/pyproject-build --outdir dist
	test -x $(WHEEL_VENV)/bin/python || $(PYTHON) -m venv $(WHEEL_VENV)
	$(WHEEL_VENV)/bin/pip install -q -c constraints.txt "$$(echo dist/*.whl)[test]"
	$(WHEEL_VENV)/bin/pip install -q -c constraints.txt $(TIMM)
	$(WHEEL_VENV)/bin/pip install -q --no-deps --force-reinstall dist/*.whl
	rm -rf $(ELSEWHERE)
	mkdir -p $(ELSEWHERE)
	cp -r tests examples docs migrations alembic.ini README.md pyproject.toml $(ELSEWHERE)/
	cd $(ELSEWHERE) && $(CURDIR)/$(WHEEL_VENV)/bin/pytest -n $(JOBS) -m "not slow" $(OF_THE_WHEEL)

clean: ## Remove all that these targets made, the results in runs/ excepted.
	rm -rf $(VENV) $(WHEEL_VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@test -n '$(PYTHON)' || { echo 'no Python found: install Python 3.11 or newer, or say make PYTHON=...'; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo '$(PYTHON) is older than Python 3.11'; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(VENV)/bin/pip install -c constraints.txt -e '.[dev]'
	$(VENV)/bin/pip install -c constraints.txt $(TIMM)
	@touch $@
