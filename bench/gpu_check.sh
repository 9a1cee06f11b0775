#!/usr/bin/env bash
# Everything that needs a GPU, in one command of under ten minutes and without a network: build in
# place, CUDA tests, compute-sanitizer, benchmarks against peers.
#
#   OUT=folder PYTHON=python3.12 bench/gpu_check.sh
#
# Needs PyTorch with CUDA, nvcc, cmake, ninja, pybind11, pytest, hypothesis and scipy; what is missing
# may lie as wheels in WHEELS (default: wheels/). Leaves summary.md, the CSVs and a log a step in OUT
# (default: gpu_check_out). Exits with 1 if any step failed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

python=${PYTHON:-python3}
out=$(realpath -m "${OUT:-gpu_check_out}")
wheels=${WHEELS:-wheels}
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
mkdir -p "$out"
benches=(topk_confusion)
failed=0
printf '| step | result | seconds |\n|---|---|---|\n' >"$out/steps.md"

# step NAME SECONDS COMMAND...: runs a command under a time limit, logs it, remembers a failure.
step() {
  local name=$1 limit=$2 begin=$SECONDS result=passed
  shift 2
  echo "== $name"
  timeout --kill-after=10 "$limit" "$@" >"$out/$name.log" 2>&1
  local status=$?
  if ((status != 0)); then
    result="FAILED ($status)"
    failed=1
    tail -n 15 "$out/$name.log"
  fi
  printf '| %s | %s | %d |\n' "$name" "$result" $((SECONDS - begin)) >>"$out/steps.md"
  return "$status"
}

# shellcheck disable=SC2329  # called by name below
environment() {
  "$python" - <<'PYTHON' && nvidia-smi && nvcc --version
import importlib.util, sys, torch
print("Python", sys.version.split()[0], "PyTorch", torch.__version__, "CUDA", torch.version.cuda)
needed = ("pybind11", "pytest", "hypothesis", "scipy")
missing = [name for name in needed if importlib.util.find_spec(name) is None]
if missing:
    sys.exit(f"missing Python packages: {', '.join(missing)}; put their wheels into wheels/")
if not torch.cuda.is_available():
    sys.exit("PyTorch finds no GPU")
print(torch.cuda.get_device_name(), torch.cuda.get_device_capability())
PYTHON
}

# shellcheck disable=SC2329
build() {
  local pybind11
  pybind11=$("$python" -c 'import pybind11; print(pybind11.get_cmake_dir())') || return
  cmake -S . -B build/gpu_check -G Ninja -DCMAKE_BUILD_TYPE=Release -Dpybind11_DIR="$pybind11" \
    -DPython_EXECUTABLE="$("$python" -c 'import sys; print(sys.executable)')" &&
    cmake --build build/gpu_check --parallel 4 &&
    cmake --install build/gpu_check --prefix fastheads &&
    "$python" -c 'from fastheads import _C; assert _C.with_cuda, "built without CUDA"'
}

markdown() {
  "$python" - "$out" <<'PYTHON'
import csv, pathlib, sys
out = pathlib.Path(sys.argv[1])
text = (out / "steps.md").read_text()
columns = ("op", "shape", "dtype", "provider", "median_us", "q25_us", "q75_us", "ratio_to_best_peer")
for path in sorted(out.glob("*.csv")):
    rows = list(csv.DictReader(path.open()))
    text += f"\n{path.stem} on {rows[0]['device']}, PyTorch {rows[0]['torch']}\n\n"
    text += "| " + " | ".join(columns) + " | GB/s |\n" + "|---" * (len(columns) + 1) + "|\n"
    for row in rows:
        rate = float(row["bytes"]) / float(row["median_us"]) / 1e3
        text += "| " + " | ".join(row[column] for column in columns) + f" | {rate:.1f} |\n"
(out / "summary.md").write_text(text)
(out / "steps.md").unlink()
print(text)
PYTHON
}

if compgen -G "$wheels/*.whl" >/dev/null; then
  step wheels 120 "$python" -m pip install --no-index --no-deps "$wheels"/*.whl
fi
export -f environment build
export python out
if step environment 60 bash -c environment && step build 240 bash -c build; then
  step tests 150 "$python" -m pytest -q -m cuda tests

  # Small shapes of every kernel; every allocation by itself, so that each overrun is seen.
  small="cuda and (by_hand or eq_ or strided or rejects or (equal and (normal or few or 61-20)))"
  for tool in memcheck racecheck synccheck initcheck; do
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 step "sanitizer_$tool" 120 \
      compute-sanitizer --tool "$tool" --error-exitcode 1 \
      "$python" -m pytest -q -p no:cacheprovider tests/ops -m cuda -k "$small"
  done

  for name in "${benches[@]}"; do
    rm -f "$out/$name.csv"
    step "bench_$name" 180 "$python" -m "bench.bench_$name" --quick --device cuda \
      --out "$out/$name.csv"
  done
fi
markdown
exit "$failed"
