#!/usr/bin/env bash
# Everything that needs a GPU, in one command of under ten minutes and without a network: build in
# place, CUDA tests, compute-sanitizer, microbenchmarks, benchmarks against peers.
#
#   OUT=folder PYTHON=python3.12 bench/gpu_check.sh [--tests | --benchmarks | --dry-run | --list]
#
# Needs PyTorch with CUDA, nvcc, cmake, ninja, pybind11, pytest, hypothesis and scipy; nvidia-cutlass
# for the grouped kernels of sc_linear; timm and torchvision as peers; torchdata and jsonargparse for
# the tests of the pipelines. What is missing may lie as wheels in WHEELS (default: wheels/).
# Leaves summary.md, the CSVs and a log a step in OUT (default: gpu_check_out). Exits with 1 if any
# step failed.
#
# --tests leaves the benchmarks out, --benchmarks the tests and sanitizers: each has ten minutes then.
# --dry-run goes as far as it can without a GPU, in eight minutes: uses the build that is there, collects
# the CUDA tests, compiles the microbenchmarks, begins each benchmark on the CPU.
# --list prints the benchmarks that it would run.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

python=${PYTHON:-python3}
wheels=${WHEELS:-wheels}
out=$(realpath -m "${OUT:-gpu_check_out}")
build=$PWD/build/gpu_check
deadline=${SECONDS_IN_ALL:-570}
dry=0
only=
failed=0
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
PATH=$(dirname "$(command -v "$python")"):$PATH # cmake and ninja of the same environment

benchmarks() {
  "$python" -m bench --list | awk '$2 ~ /cuda/ { print $1 }'
}

# step NAME SECONDS COMMAND...: runs a command under a time limit, logs it, remembers a failure.
step() {
  local name=$1 limit=$2 begin=$SECONDS result=passed status
  shift 2
  local left=$((deadline - SECONDS))
  if ((left < 5)); then
    failed=1
    printf '| %s | LEFT OUT: no time | 0 |\n' "$name" >>"$out/steps.md"
    return 1
  fi
  echo "== $name"
  timeout --kill-after=10 $((limit < left ? limit : left)) "$@" >"$out/$name.log" 2>&1
  status=$?
  if ((status != 0)); then
    result="FAILED ($status)"
    failed=1
    tail -n 15 "$out/$name.log"
  fi
  printf '| %s | %s | %d |\n' "$name" "$result" $((SECONDS - begin)) >>"$out/steps.md"
  return "$status"
}

# shellcheck disable=SC2329  # called by name below, as are the next three
environment() {
  "$python" - "$dry" <<'PYTHON' && { ((dry)) || { nvidia-smi && nvcc --version; }; }
import importlib.util, sys, torch
print("Python", sys.version.split()[0], "PyTorch", torch.__version__, "CUDA", torch.version.cuda)
needed = ("pybind11", "pytest", "hypothesis", "scipy")
missing = [name for name in needed if importlib.util.find_spec(name) is None]
if missing:
    sys.exit(f"missing Python packages: {', '.join(missing)}; put their wheels into wheels/")
if sys.argv[1] == "0":
    if not torch.cuda.is_available():
        sys.exit("PyTorch finds no GPU")
    print(torch.cuda.get_device_name(), torch.cuda.get_device_capability())
PYTHON
}

# shellcheck disable=SC2329
build() {
  if ((dry)) && "$python" -c 'import fastheads; print("built:", fastheads.__file__)'; then
    return
  fi
  local pybind11 architecture=()
  pybind11=$("$python" -c 'import pybind11; print(pybind11.get_cmake_dir())') || return
  if ! ((dry)); then # for this GPU alone: half the time
    architecture=(-DCMAKE_CUDA_ARCHITECTURES="$("$python" -c 'import torch
major, minor = torch.cuda.get_device_capability()
print(f"{major}{minor}" + "a" * (major >= 9))')")
  fi
  cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -Dpybind11_DIR="$pybind11" \
    -DPython_EXECUTABLE="$("$python" -c 'import sys; print(sys.executable)')" "${architecture[@]}" &&
    cmake --build "$build" --parallel "$(nproc)" &&
    cmake --install "$build" --prefix fastheads &&
    { ((dry)) || "$python" -c 'from fastheads import _C; assert _C.with_cuda, "built without CUDA"'; }
}

# Files with CUDA tests: others may import what is not installed where the GPU is. So may the conftest
# of the pipelines, which would end pytest.
cuda_tests() {
  local left_out=^$
  "$python" -c 'import fastheads.pipelines.augment' 2>/dev/null || left_out=^tests/pipelines/
  grep -rlE 'mark\.(cuda|gpu)|def test.*\bdevice\b' tests --include='test_*.py' |
    grep -v "$left_out" | sort
}

# shellcheck disable=SC2329
collect() {
  "$python" - "$dry" $(cuda_tests) <<'PYTHON'
import sys
import pytest

class Collected:
    def pytest_collection_finish(self, session):
        self.items = session.items

def files_of(items):
    return {item.nodeid.partition("::")[0] for item in items}

dry, files, found = sys.argv[1] == "1", set(sys.argv[2:]), Collected()
command = ["--collect-only", "-qq", "-m", "cuda", "--continue-on-collection-errors"]
status = pytest.main([*command, *(["tests"] if dry else sorted(files))], plugins=[found])
operators = [item for item in found.items if item.nodeid.startswith("tests/ops/")]
small = [item for item in operators if item.get_closest_marker("small")]
print(f"{len(found.items)} tests are cuda, {len(small)} of them small")
tests = files_of(found.items)
if tests != files:
    sys.exit(f"found by grep alone: {sorted(files - tests)}, by pytest alone: {sorted(tests - files)}")
if not small or files_of(small) != files_of(operators):
    sys.exit(f"no small tests in {sorted(files_of(operators) - files_of(small)) or 'tests/ops'}")
sys.exit(status)
PYTHON
}

# shellcheck disable=SC2329
microbenchmark() ( # compiles bench/gpu/NAME.cu, runs it if there is a GPU; it prints a CSV
  set -o pipefail
  local architecture=native
  ((dry)) && architecture=sm_90a
  mkdir -p "$build"
  nvcc -O3 -std=c++17 -arch="$architecture" -o "$build/$1" "bench/gpu/$1.cu" || return
  ((dry)) || "$build/$1" | tee "$out/$1.csv"
)

# sanitizers: small shapes of every kernel, all four tools side by side.
sanitizers() {
  local tool jobs=()
  for tool in memcheck racecheck synccheck initcheck; do
    # Every allocation by itself, so that each overrun is seen.
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 step "sanitizer_$tool" 150 \
      compute-sanitizer --tool "$tool" --error-exitcode 1 \
      "$python" -m pytest -q -p no:cacheprovider tests/ops -m "cuda and small" &
    jobs+=($!)
  done
  for tool in "${jobs[@]}"; do
    wait "$tool" || failed=1
  done
}

bench() { # NAME [MODEL]
  local name=$1 model=${2:-} limit=90 budget=12
  [[ $name =~ ^(sc_linear|squeeze_excite|gated_block)$ ]] && budget=25 # thresholds wait for these
  [[ $name =~ ^(adaptive|model|sc_sigmoid_loss)$ ]] && limit=180 # these compile several times
  local options=(--quick --budget "$budget" --device cuda)
  if ((dry)); then # beside other work, maybe
    limit=180
    options=(--quick --budget 1 --device cpu --threads 1)
  fi
  if [[ $name == model ]]; then
    options+=(--model "$model")
    ((dry)) && options+=(--batch 1 --size 64 --no_compile)
    ((dry)) || options+=(--batch 64)
  fi
  [[ $name == adaptive ]] && ((dry)) && options+=(--side 64 --batches 1 --eager)
  step "bench_$name${model:+_${model#*:}}" "$limit" \
    "$python" -m bench "$name" "${options[@]}" --out "$out/$name.csv"
}

markdown() {
  "$python" - "$out" "$dry" <<'PYTHON'
import csv, pathlib, sys
out, dry = pathlib.Path(sys.argv[1]), sys.argv[2] == "1"
text = "**A dry run: no GPU was used, no time below says anything.**\n\n" if dry else ""
text += (out / "steps.md").read_text()
chosen = ("op", "pass", "shape", "dtype", "provider", "median_us", "q25_us", "q75_us",
          "ratio_to_best_peer")
for path in sorted(out.glob("*.csv")):
    rows = list(csv.DictReader(path.open()))
    if not rows:
        continue
    ours = set(chosen) <= set(rows[0])  # microbenchmarks have columns of their own
    columns = chosen if ours else tuple(rows[0])
    where = f" on {rows[0]['device']}, PyTorch {rows[0]['torch']}" if ours else ""
    text += f"\n{path.stem}{where}\n\n"
    text += "| " + " | ".join((*columns, *["GB/s"] * ours)) + " |\n"
    text += "|---" * (len(columns) + ours) + "|\n"
    for row in rows:
        cells = [str(row[column]) for column in columns]
        if ours:
            cells.append(f"{float(row['bytes'] or 0) / float(row['median_us']) / 1e3:.1f}")
        text += "| " + " | ".join(cells) + " |\n"
(out / "summary.md").write_text(text)
(out / "steps.md").unlink()
print(text)
PYTHON
}

# What a file needs that is not installed must not keep the others from running.
run_tests() {
  local parallel=() files
  step collect 120 bash -c collect
  if ! ((dry)); then
    mapfile -t files < <(cuda_tests)
    "$python" -c 'import xdist' 2>/dev/null && parallel=(-n 4)
    step tests 180 "$python" -m pytest -q -m cuda --continue-on-collection-errors \
      "${parallel[@]}" "${files[@]}"
    sanitizers
  fi
}

run_microbenchmarks() {
  local source name
  for source in bench/gpu/*.cu; do
    name=$(basename "$source" .cu)
    if ((dry)) && ! command -v nvcc >/dev/null; then
      printf '| %s | left out: no nvcc | 0 |\n' "$name" >>"$out/steps.md"
    else
      step "$name" 60 bash -c 'microbenchmark "$0"' "$name"
    fi
  done
}

# First what targets or thresholds wait for: time may run out.
run_benchmarks() {
  local name names first=(sc_linear squeeze_excite gated_block topk_confusion sc_sigmoid_loss)
  mapfile -t names < <(benchmarks)
  ((${#names[@]})) || failed=1
  for name in "${first[@]}"; do
    bench "$name"
  done
  for name in "${names[@]}"; do
    [[ " ${first[*]} model " == *" $name "* ]] || bench "$name"
  done
  if ((dry)); then
    bench model torchvision:mobilenet_v3_small
  else # last: they take longest
    bench model "${MODEL:-timm:seresnet50}"
    bench model timm:resnet50 # what the former costs above it
  fi
}

case ${1:-} in
  "") ;;
  --tests | --benchmarks) only=${1#--} ;;
  --dry-run) dry=1 ;;
  --list) benchmarks; exit ;;
  *) echo "usage: bench/gpu_check.sh [--tests | --benchmarks | --dry-run | --list]" >&2 && exit 2 ;;
esac
mkdir -p "$out"
rm -f "$out"/*.csv "$out"/*.log "$out"/*.md
printf '| step | result | seconds |\n|---|---|---|\n' >"$out/steps.md"
if compgen -G "$wheels/*.whl" >/dev/null; then
  step wheels 120 "$python" -m pip install --no-index --no-deps "$wheels"/*.whl
fi
export -f environment build cuda_tests collect microbenchmark
export python out build dry
if step environment 60 bash -c environment && step build 240 bash -c build; then
  run_microbenchmarks # first: the designs depend on them
  [[ $only == benchmarks ]] || run_tests
  [[ $only == tests ]] || run_benchmarks
fi
markdown
exit "$failed"
