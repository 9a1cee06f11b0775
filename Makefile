# `make demo` and `make test` do all their own set-up: environment, install, native build.
PYTHON ?= python3
VENV := .venv
TORCH ?= torch torchvision
BIN := $(VENV)/bin
WORKERS ?= 2
READY := $(VENV)/.ready
NATIVE := setup.py CMakeLists.txt pyproject.toml $(wildcard csrc/* csrc/*/*)

.PHONY: demo test emulated lint bench clean

demo: $(READY)  ## the main job: report in runs/demo/report.html; FULL=1 for the thorough run
	$(BIN)/fastheads augment --output_dir runs/demo$(if $(FULL),-full --full,)

# Workers share the cores: threads of one that wait must not keep them from the other.
test: $(READY)
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

emulated: $(READY)  ## tests of the CUDA operators without a GPU; QUICK=1: a few of each
	OMP_WAIT_POLICY=passive $(BIN)/python tests/emulator/run.py -q -n $(WORKERS) --dist loadfile \
	  --no-loadscope-reorder $(if $(QUICK),-m 'cuda and small',)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'csrc/*.cpp' 'csrc/*.h' 'csrc/*.cu' 'csrc/*.cuh' 'bench/gpu/*.cu*' 'tests/emulator/*.[ch]*')

bench: $(READY)  ## all against their peers: results.csv and roofline.png in runs/bench; QUICK=1 in minutes
	$(BIN)/fastheads bench all --model timm:seresnet50 --out runs/bench/results.csv \
	  --figure runs/bench/roofline.png $(if $(QUICK),--quick --budget 10 --no_compile)

# torch comes first: the extension is built against the version that it will run with.
$(READY): $(NATIVE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet $(TORCH) 'setuptools>=77' 'cmake>=3.24' ninja 'pybind11>=3'
	-$(BIN)/pip install --quiet --no-deps 'nvidia-cutlass~=4.2.0'  # headers alone; can be done without
	$(BIN)/pip install --quiet --no-build-isolation --editable '.[pipelines,bench,dev]'
	touch $@

clean:
	rm -rf build $(VENV) fastheads/*.so *.egg-info
