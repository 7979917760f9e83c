# make run    sets up .venv, then counts, draws and checks SavedModel/, and scores it where FRENZY_DATA names the data
# make test   the tests, without the slow ones      make test-slow   those      make lint   ruff and mypy
# make results scores every committed SavedModel again (FRENZY_DATA names the data) and renews the table of RESULTS.md
# make docker builds the image `frenzy`
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
PY := $(VENV)/bin/python
RUNS := runs
WORKERS ?= 2# processes that tests are spread over, file by file

.PHONY: venv run test test-slow lint format results docker clean

venv: $(VENV)/.ready

$(VENV)/.ready: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready requirements-dev.txt
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

run: $(VENV)/.ready
	@mkdir -p $(RUNS)
	$(PY) tools/count.py
	@if command -v dot >/dev/null; then set -x; $(PY) tools/visualize.py --output $(RUNS)/graph_visualization.png; \
	else echo "Not drawn: there is no 'dot' (apt-get install graphviz); the committed picture is graph_visualization.png"; fi
	$(PY) tools/check.py
	@if [ -n "$$FRENZY_DATA" ]; then set -x; $(PY) standalone_inference.py; \
	else echo "Accuracy was not measured: set FRENZY_DATA to a folder with CIFAR-100, then: $(PY) standalone_inference.py"; fi

test: $(VENV)/.ready-dev
	$(PY) -m pytest -m "not slow" -n $(WORKERS) --dist loadfile

test-slow: $(VENV)/.ready-dev
	$(PY) -m pytest -m slow -n $(WORKERS) --dist loadfile --durations=20

lint: $(VENV)/.ready-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/.ready-dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

results: $(VENV)/.ready
	$(PY) tools/results.py --write RESULTS.md

docker:
	docker build -t frenzy .

clean:
	rm -rf $(VENV) $(RUNS)
