# make demo   simulate sky and dome flats of LSSTCam, fit and compare them, correct the dome, show truth beside estimate
# make test   lint and tests
# make lint   ruff, the rules of imports, types
# make calibration   hours: errors against truth on 200 focal planes, 200 comparisons, NUTS on 200 small ones; slow tests
# make fuzz   damaged inputs and killed runs, counted by what became of them
# make bench  half an hour: times of every stage, of samplers, and of LSST's fitter (CP_PIPE=, IP_ISR=: checkouts)
# make docs   documentation with the notebooks run anew, in docs/_build/html
# make clean  remove the environment and the demo's output
# Each sets itself up in .venv, with uv where it runs, else with pip.

PYTHON ?= $(shell command -v python3.12 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready

DOCS_READY := .venv/.docs
# a shim of another Python's uv is found and fails: it counts only where it runs
UV := $(shell uv --version >/dev/null 2>&1 && echo yes)

.PHONY: demo test lint calibration fuzz bench docs clean

demo: $(READY)
	$(BIN)/bayesflat demo -o demo --overwrite -j 2

test: lint
	OPENBLAS_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

# what an interrupted run has found is kept in docs/*.jsonl; the next one goes on from there
calibration: $(READY)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/calibration.py -o docs/images -j 2
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/nodes.py -j 2
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/compare.py -o docs/images -j 2
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/verdicts.py -n 20 -o docs/images -j 2
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/terms.py -n 6 -o docs/images -j 2
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/sbc.py -n 200 -o docs/images -j 2
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/importance.py
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/fields.py
	$(BIN)/pytest -n 2 --dist loadfile -m slow

fuzz: $(READY)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/reliability.py

bench: $(READY)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/bench.py $(if $(CP_PIPE),--cp-pipe $(CP_PIPE)) $(if $(IP_ISR),--ip-isr $(IP_ISR))

docs: $(DOCS_READY)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m sphinx -E -W --keep-going -j 2 -b html docs docs/_build/html

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

$(READY): pyproject.toml
	@if [ -n "$(UV)" ]; then \
	    uv venv --quiet --allow-existing .venv && uv pip install --quiet --python $(BIN)/python -e '.[test]'; \
	else \
	    $(PYTHON) -c 'import sys; sys.version_info >= (3, 12) or sys.exit("bayesflat needs Python 3.12 or later, this is " + sys.version.split()[0])' \
	    && $(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet -e '.[test]'; \
	fi
	@touch $(READY)

$(DOCS_READY): $(READY)
	@if [ -n "$(UV)" ]; then \
	    uv pip install --quiet --python $(BIN)/python -e '.[docs,test]'; \
	else \
	    $(BIN)/python -m pip install --quiet -e '.[docs,test]'; \
	fi
	@touch $(DOCS_READY)

clean:
	rm -rf .venv demo docs/_build docs/generated docs/notebooks
