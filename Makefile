# `make demo` and `make test` do all their own set-up: environment, install, native build.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
NATIVE := setup.py CMakeLists.txt pyproject.toml $(wildcard csrc/* csrc/*/*)

.PHONY: demo test lint bench clean

demo: $(READY)  ## the main job: report in runs/demo/report.html; FULL=1 for the thorough run
	$(BIN)/fastheads augment --output_dir runs/demo$(if $(FULL),-full --full,)

test: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'csrc/*.cpp' 'csrc/*.h' 'csrc/*.cu' 'csrc/*.cuh')

bench: $(READY)
	$(BIN)/fastheads bench topk_confusion
	$(BIN)/fastheads bench clustering
	$(BIN)/fastheads bench augment

# torch comes first: the extension is built against the version that it will run with.
$(READY): $(NATIVE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet torch torchvision 'setuptools>=77' 'cmake>=3.24' ninja 'pybind11>=3'
	$(BIN)/pip install --quiet --no-build-isolation --editable '.[pipelines,dev]'
	touch $@

clean:
	rm -rf build $(VENV) fastheads/*.so *.egg-info
