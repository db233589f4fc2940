# Two commands for a fresh machine with Python 3.11+ and PyPI:  make demo  and  make test
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(shell cat setup.cfg pyproject.toml | cksum | cut -d' ' -f1)
DEMO_FLAGS ?= --usd-per-hour 1.0

.PHONY: demo test lint clean

demo: $(STAMP)
	$(BIN)/vl2v-deploy distill recipes/quickstart.yaml --out runs/quickstart --overwrite
	$(BIN)/vl2v-deploy export runs/quickstart --out bundles/quickstart --overwrite
	$(BIN)/vl2v-deploy predict bundles/quickstart bundles/quickstart/golden/00.webp
	$(BIN)/vl2v-deploy benchmark bundles/quickstart --teacher $(DEMO_FLAGS) --out reports/quickstart

test: lint
	$(BIN)/pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# uv installs in half a minute what takes pip several; it is taken if there, else brought by pip into the
# environment itself, and if that fails pip does the work.
$(STAMP): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || uv venv --python $(PYTHON) $(VENV)
	command -v uv >/dev/null || $(BIN)/python -m pip install --quiet uv || true
	if command -v uv >/dev/null; then uv pip install --quiet --python $(BIN)/python -e '.[train,cpu,demo,rtx,dev]'; \
	elif test -x $(BIN)/uv; then $(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[train,cpu,demo,rtx,dev]'; \
	else $(BIN)/python -m pip install -e '.[train,cpu,demo,rtx,dev]'; fi
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
