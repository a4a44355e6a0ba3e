# Two commands matter: `make demo` and `make test`. Each sets up what it needs in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

.PHONY: demo test check faults docs gallery oracle browser bench clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/biasgym run --bias reckless-drivers --preset quick

test: $(STAMP)
	$(BIN)/python -m pytest

check: $(STAMP)
	$(BIN)/ruff check src tests
	$(BIN)/ruff format --check src tests
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_docs.py

# What `make test` tries a handful of, in full: sixty kills over all stages, disks that fill up, flipped bits, kills in sweeps, and
# twelve thousand and more altered inputs to every parser; says how many. About half an hour.
faults: $(STAMP)
	BIASGYM_FAULTS=1 $(BIN)/python -m pytest tests/test_kill.py tests/test_faults.py tests/test_fuzz.py tests/test_run.py::test_killed_at_any_moment_it_ends_in_the_same_record

# The site lands in site/ and opens from disk. The reference is written from docstrings and the command line.
docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Pictures and figures of real runs, from their records: `make gallery RUNS=FOLDER` (a run, several, or a store of runs).
RUNS ?= runs
gallery: $(STAMP)
	$(BIN)/python docs/gallery.py $(RUNS)

# Comparisons with other implementations. A venv of its own, so that `make test` never depends on what is in it.
ORACLE := .venv-oracle
$(ORACLE)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(ORACLE)
	$(ORACLE)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(ORACLE)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,interop,lens,serving,ray,quantized,web,browser,docs,evaluate,inspect]'
	touch $@

oracle: $(ORACLE)/.ready
	$(ORACLE)/bin/python -m pytest -o addopts="-q --strict-markers" tests/interop

# The report and the web app in a real browser: Debian's package `chromium`, or another that CHROMIUM names. Pictures stay in artefacts/.
AXE := $(ORACLE)/axe/package/axe.min.js
$(AXE): $(ORACLE)/.ready
	mkdir -p $(ORACLE)/axe
	cd $(ORACLE)/axe && npm pack --silent axe-core@4 && tar xzf axe-core-*.tgz

browser: $(AXE)
	AXE=$(AXE) BIASGYM_PICTURES=artefacts $(ORACLE)/bin/python -m pytest -o addopts="-q --strict-markers" tests/browser

# Speed beside other implementations, in turns on this machine; a venv of its own. `make bench ROWS=startup` for one file.
BENCH := .venv-bench
ROWS ?=
$(BENCH)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[evaluate,lens,web,query,ray]'
	touch $@

bench: $(BENCH)/.ready
	$(BENCH)/bin/python -m benchmarks $(ROWS)

clean:
	rm -rf site docs/reference artefacts $(VENV) $(ORACLE) $(BENCH) build dist .pytest_cache .mypy_cache .ruff_cache
