# Two commands in a fresh clone: `make demo` and `make test`. Each sets up what it needs, and is quick the second time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Memory and speed do not depend on how many threads a library fancies.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test thorough quick lint clean setup wheel deb images docs

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt scripts/setup.sh
	PYTHON="$(PYTHON)" scripts/setup.sh $(VENV)
	touch $@

demo: setup  ## the main job: eight unequal devices learn the digits over MQTT; results in runs/demo/
	$(BIN)/lamina emulate

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A process for each core, four at most, as each loads torch. WORKERS=0: all in one, as a debugger wants it.
WORKERS ?= logical
SPREAD := -n $(WORKERS) --maxprocesses 4 --dist worksteal

test: lint  ## everything but what takes minutes, with the coverage of the pure rooms
	$(BIN)/coverage erase
	$(BIN)/pytest $(SPREAD) --cov --cov-report= -m "not exhaustive and not faults and not browser and not nightly" $(PYTEST_FLAGS)
	$(BIN)/coverage report

thorough: setup  ## what needs a real broker or browser, and what repeats the same for every network: minutes each
	$(BIN)/pytest $(SPREAD) -m "(broker or browser or exhaustive or faults) and not nightly" $(PYTEST_FLAGS)

quick: setup  ## the tests that take no more than a few seconds each
	$(BIN)/pytest $(SPREAD) -m "not slow and not exhaustive and not faults and not nightly" $(PYTEST_FLAGS)

wheel: setup  ## the wheel and the installer for boards in dist/, and the line that carries them to one
	scripts/wheel.sh dist

deb: setup  ## the agent as a Debian package in dist/; ARCH=arm64 PYTHON=3.13 make deb for another board
	scripts/deb.sh dist

# Both processors at once need docker's buildx; PLATFORMS=linux/arm64 make images takes one.
PLATFORMS ?= linux/amd64,linux/arm64
images:  ## the container images of agent and coordinator
	docker buildx build --platform $(PLATFORMS) --target edge --tag lamina-edge .
	docker buildx build --platform $(PLATFORMS) --target coordinator --tag lamina-coordinator .

docs: setup  ## the site, in build/site
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) runs build dist .coverage .mypy_cache .ruff_cache .pytest_cache
