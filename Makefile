# make demo: set up and run the main job.  make test: the whole suite.  make help: everything else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0
STAMP := $(VENV)/.installed
JOBS ?= 2
EXAMPLES ?= 5000
LOCK := requirements-dev.lock
SYSTEMS ?= classical,nano,nano:expert-bypassed,nano:no-skip,nano:codec-only

.PHONY: help setup lock demo test test-slow test-services fuzz check format docs golden benchmark pairs grades speed clean

help:
	@grep -E '^[a-z-]+:.*## ' Makefile | awk -F ':.*## ' '{printf "%-16s%s\n", $$1, $$2}'

$(STAMP): pyproject.toml $(LOCK)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --requirement $(LOCK)
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $(STAMP)

setup: $(STAMP) ## create the virtual environment and install everything, in the versions of requirements-dev.lock

lock: $(STAMP) ## renew requirements-dev.lock: the newest versions that pyproject.toml allows
	echo "$(TORCH)" > $(VENV)/torch.txt
	$(BIN)/pip-compile --quiet --upgrade --extra dev --extra ray --strip-extras --no-header --no-emit-index-url \
		--no-emit-find-links --no-emit-trusted-host --unsafe-package medq-uni --constraint $(VENV)/torch.txt \
		--output-file $(LOCK) pyproject.toml
	sed -i -e 's/^\(torch==[0-9.]*\)+.*/\1/' -e '/torch.txt$$/d' -e '/^# The following packages/,$$d' $(LOCK)
	sed -i -e :a -e '/^\n*$$/{$$d;N;ba' -e '}' $(LOCK)

demo: $(STAMP) ## run the main job on real DICOM files and phantoms, offline
	$(BIN)/medq demo -o demo

test: $(STAMP) ## run the tests, JOBS of them at a time (2)
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile -m "not slow and not services"

test-slow: $(STAMP) ## run the tests that take long
	$(BIN)/python -m pytest -m slow

test-services: $(STAMP) ## start a real Ray cluster, PostgreSQL and Chromium, and run the tests that use them
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m tests.services.run

fuzz: $(STAMP) ## damage files at random, EXAMPLES of them per reader (5000), and read them
	MEDQ_FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest --timeout 0 tests/fuzz

check: $(STAMP) ## lint, format, spelling and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy

format: $(STAMP) ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP) ## check that links resolve and that pages are what the commands print
	$(BIN)/python -m pytest tests/test_docs.py tests/test_readme.py tests/test_results.py

golden: $(STAMP) ## renew the golden losses; review the difference before committing it
	$(BIN)/python -m tests.golden.renew

SMALL := --benchmark benchmark $(if $(DATA),--source $(DATA))

benchmark: $(STAMP) ## score nano and the filters on the small benchmark, renew docs/results.md; DATA=folder adds real volumes
	$(BIN)/medq evaluate $(SMALL) --systems $(SYSTEMS) --safety --workers 2 -o runs/evaluation || test $$? -eq 3
	$(BIN)/medq judge $(SMALL) -o runs/judge || test $$? -eq 3
	$(if $(DATA),$(BIN)/medq evaluate --benchmark benchmark/worklist/department.json --source $(DATA) --systems classical,nano,nano:forced --workers 2 -o runs/worklist || test $$? -eq 3)
	$(BIN)/python -m experiments.results --take runs/evaluation runs/judge $(if $(DATA),runs/worklist)

pairs: $(STAMP) ## print how fast training pairs are made, with one worker and two
	$(BIN)/python -m experiments.pairs

grades: $(STAMP) ## print what the grades mean and renew their pictures; DATA=folder adds real volumes
	$(BIN)/python -m experiments.grades --pictures docs/grades $(if $(DATA),--data $(DATA))

speed: $(STAMP) ## print time and memory of the main job
	$(BIN)/python -m experiments.speed

clean: ## remove the virtual environment and the demo's results
	rm -rf $(VENV) demo
