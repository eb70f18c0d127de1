# One command per chore. `make demo` and `make test` work from a fresh clone and when repeated.
# PYTHON names the interpreter, VENV the environment; PIP_CONSTRAINT, if set, pins versions.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup
# What the spelling check reads.
PROSE = docs README.md CONTRIBUTING.md CHANGELOG.md wdpurify integrations benchmarks
# Every page is read anew, since Sphinx repeats no warning of a page that it has kept.
SPHINX = $(BIN)/python -m sphinx --fresh-env --fail-on-warning --keep-going --doctree-dir build/docs/doctrees docs build/docs/html

.PHONY: demo test test-audit test-benchmarks test-slow check docs bench gpu soak mutants clean

demo: $(VENV)/.bench
	$(BIN)/python benchmarks/demo.py

test: $(VENV)/.test
	$(PYTEST) -m "not slow" --ignore tests/audit --ignore tests/benchmarks --ignore wdpurify/audit

test-audit: $(VENV)/.test
	$(PYTEST) -m "not slow" tests/audit wdpurify/audit

test-benchmarks: $(VENV)/.test
	$(PYTEST) -m "not slow" tests/benchmarks

test-slow: $(VENV)/.test
	$(PYTEST) -m slow

check: $(VENV)/.check $(VENV)/.docs $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/codespell $(PROSE)
	$(SPHINX) --quiet
	$(PYTEST) --quiet tests/test_docs.py

docs: $(VENV)/.docs
	$(SPHINX)
	@echo "Open build/docs/html/index.html"

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/overhead.py

gpu: $(VENV)/.test
	$(BIN)/python benchmarks/gpu.py

soak: $(VENV)/.test
	for seed in 0 1 2 3 4 5 6 7 8 9; do \
		HYPOTHESIS_PROFILE=soak OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_rubbish.py --hypothesis-seed=$$seed || exit 1; \
	done
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/soak.py

# Breaks the formulas that pyproject.toml names, one place at a time; `mutmut browse` shows what no test noticed.
mutants: $(VENV)/.mutation
	rm -rf mutants
	CI=true OMP_NUM_THREADS=1 $(BIN)/mutmut run --max-children 2
	$(BIN)/mutmut results

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis mutants

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.bench: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[bench]"
	@touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[bench,test]"
	@touch $@

$(VENV)/.check: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[check]"
	@touch $@

$(VENV)/.mutation: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[bench,test,mutation]"
	@touch $@

$(VENV)/.docs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	@touch $@
