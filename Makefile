# Two commands for a fresh machine with Python 3.11+ and PyPI:  make demo  and  make test
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(shell cat setup.cfg pyproject.toml demo_data/setup.cfg | cksum | cut -d' ' -f1)
DEMO_EXTRAS := .[train,cpu,demo,openvino]
TEST_EXTRAS := .[train,cpu,demo,rtx,cluster,dev]
PYTHON_EXTRAS := .[train,cpu,demo,dev]
FOR_DEMO := $(VENV)/.demo-$(SETUP)
FOR_TEST := $(VENV)/.test-$(SETUP)
FOR_BROWSER := tests/web/node_modules/.package-lock.json
FOR_NODE := examples/node/node_modules/.package-lock.json
# Servers and clients that are not ours, each in an environment of its own; engines run our code in theirs. What is
# large, or takes minutes to install, is only there for the long tests.
PEERS := infinity triton clients
ENGINES := ray spark
PEER_infinity := infinity-emb[server,torch]==0.0.78 transformers<5 pillow aiohttp torchvision
PEER_triton := nvidia-pytriton==0.7.0 numpy<2 pillow
PEER_clients := tritonclient[http]>=2.66,<2.70 openai>=2,<3 voyageai>=0.3,<1 cohere>=5.20,<6 pillow
# Their workers import this checkout; what they pin stays out of our environment. Spark needs a Java as well.
PEER_ray := -e .[ray,train,cpu]
PEER_spark := -e .[cpu] pyspark>=4,<5 pandas>=2.2,<3 pyarrow>=20,<27
installed = $(foreach peer,$(1),.venv-$(peer)/.installed-$(shell echo '$(PEER_$(peer))' | cksum | cut -d' ' -f1))
# The documentation's site, built without torch.
FOR_DOCS := .venv-docs/.installed-$(SETUP)
FOR_PEERS := $(call installed,$(PEERS))
FOR_ENGINES := $(call installed,$(ENGINES))

# Many containers set it, and then every process compiles torch, timm and open_clip anew: 17 seconds instead of 8.
# Without it the first process keeps what it compiles, which takes some 10 seconds; all that is installed takes a minute or more.
unexport PYTHONDONTWRITEBYTECODE

# uv installs in half a minute what takes pip several: it is used if there is one, else pip brings it into the
# environment, else pip does the work itself.
# The extra demo asks for vl2v-deploy-demo, which is on no index: it is in demo_data.
EDITABLE = -e ./demo_data -e
WITH_UV = pip install --quiet --python $(BIN)/python $(EDITABLE)
INSTALL = if command -v uv >/dev/null; then uv $(WITH_UV) "$(1)"; \
	elif $(BIN)/python -m pip install --quiet uv; then $(BIN)/uv $(WITH_UV) "$(1)"; \
	else $(BIN)/python -m pip install --quiet --no-compile $(EDITABLE) "$(1)"; fi
INSTALL_PEER = uv=$$(command -v uv || command -v $(BIN)/uv || true); \
	if [ -n "$$uv" ]; then $$uv venv --quiet --clear --python $(PYTHON) $(1) && \
	$$uv pip install --quiet --python $(1)/bin/python $(2); \
	else $(PYTHON) -m venv --clear $(1) && $(1)/bin/python -m pip install --quiet $(2); fi

.PHONY: demo test test-long test-python docs lint clean

demo: $(FOR_DEMO)
	$(BIN)/vl2v-deploy distill recipes/quickstart.yaml --overwrite
	$(BIN)/vl2v-deploy export runs/quickstart --precision fp32,int8
	$(BIN)/vl2v-deploy predict bundles/quickstart bundles/quickstart/golden/00.webp
	$(BIN)/vl2v-deploy benchmark bundles/quickstart --teacher --usd-per-hour 1.0 --usd-per-1k-queries 0.1 \
		--scenario benchmarks/scenarios/cpu_quick.yaml

# Two tests at once, each computing with one thread: with more, small models wait for each other's threads.
JOBS ?= 2
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist worksteal
test: lint $(FOR_BROWSER) $(FOR_NODE) $(FOR_PEERS) $(FOR_DOCS)
	$(PYTEST)

# What only a run of minutes can show.
test-long: $(FOR_TEST) $(FOR_BROWSER) $(FOR_NODE) $(FOR_PEERS) $(FOR_ENGINES)
	$(PYTEST) -m long

# Another Python than that of .venv, in an environment of its own:  make test-python PYTHON=python3.13
PYTHON_TESTS ?= tests/client tests/recipe tests/data
test-python: OTHER = .venv-$(notdir $(PYTHON))
test-python:
	@echo "Installing what the tests need into $(OTHER)"
	@$(call INSTALL_PEER,$(OTHER),$(EDITABLE) '$(PYTHON_EXTRAS)')
	OMP_NUM_THREADS=1 $(OTHER)/bin/pytest -n $(JOBS) --dist worksteal $(PYTHON_TESTS)

docs: $(FOR_DOCS)
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict
	@echo "The site is in site/: $(PYTHON) -m http.server -d site"

lint: $(FOR_TEST)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11 ..." if sys.version_info < (3, 11) else 0)'
	@if command -v uv >/dev/null; then uv venv --quiet --clear --python $(PYTHON) $(VENV); \
	else $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	echo "This Python cannot make environments: install its venv package (Debian: apt install python3-venv) or uv." >&2; \
	exit 1; }; fi

$(FOR_DEMO): | $(BIN)/python
	@echo "Installing what the demo needs into $(VENV)"
	@$(call INSTALL,$(DEMO_EXTRAS))
	@touch $@

$(FOR_TEST): | $(BIN)/python
	@echo "Installing what the tests need into $(VENV)"
	@$(call INSTALL,$(TEST_EXTRAS))
	@touch $@

# Without npm, or without its registry, the tests in a browser and of Node.js are skipped and say so.
$(FOR_BROWSER) $(FOR_NODE): %/node_modules/.package-lock.json: %/package-lock.json
	@if command -v npm >/dev/null; then echo "Installing what the tests in $* need"; \
	npm ci --prefix $* --ignore-scripts --no-audit --no-fund --silent \
	|| echo "npm could not: tests that need it will be skipped" >&2; fi

$(FOR_DOCS):
	@echo "Installing what the documentation's site needs into $(@D)"
	@$(call INSTALL_PEER,$(@D),-e '.[docs]')
	@touch $@

# What cannot be installed, on this machine or this Python, only means that the tests that need it are skipped.
$(FOR_PEERS) $(FOR_ENGINES): PEER = $(@D:.venv-%=%)
$(FOR_PEERS) $(FOR_ENGINES): | $(FOR_TEST)
	@echo "Installing what the tests with $(@D) need"
	@$(call INSTALL_PEER,$(@D),$(patsubst %,'%',$(PEER_$(PEER)))) && touch $@ \
	|| { rm -rf $(@D); echo "$(@D) could not be: tests that need it will be skipped" >&2; }

clean:
	rm -rf $(VENV) .venv-python* $(addprefix .venv-,$(PEERS) $(ENGINES) docs) tests/web/node_modules examples/node/node_modules $(foreach of,. demo_data,$(of)/build $(of)/dist $(of)/*.egg-info) .mypy_cache .ruff_cache .pytest_cache
