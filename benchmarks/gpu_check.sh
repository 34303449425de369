#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# One command for a machine with a GPU, without network: builds for its card, tests, measures.
#
#   bash benchmarks/gpu_check.sh OUT [PART]
#
#   build+test   what needs a GPU among the tests, and a small case under compute-sanitizer
#   layers       kernel maps and single layers against the plain path and the processor
#   network      MinkUNet: inference and training step
#   peers        the other libraries that are installed
#
# Without PART all of them, one after the other. Each part builds first, which takes long only once,
# and ends within 10 minutes. Results (JSON), tables.md, summary.txt and log/ appear in OUT. The
# exit status is 0 if nothing failed; what does not depend on a failure still runs.
#
# Environment: PYTHON, an interpreter with torch for CUDA (else python3 and .venv are tried);
# TSL_CUDA_ARCHS, architectures to build for; TSL_COMMIT, what a copy without its history was made
# of; TSL_DATA, the folder with the real scans.
set -uo pipefail

usage() { sed -n '3,20s/^# \{0,1\}//p' "$0"; }

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
  usage >&2
  exit 2
fi
case "${2-all}" in
  all) parts="build+test layers network peers" ;;
  build+test | layers | network | peers) parts="$2" ;;
  *)
    echo "gpu_check.sh: PART must be build+test, layers, network or peers, got '$2'." >&2
    exit 2
    ;;
esac
mkdir -p "$1/log" || exit 2
out="$(cd "$1" && pwd)"
cd "$(dirname "$0")/.." || exit 2
root="$PWD"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export PATH="$PATH:/usr/local/cuda/bin"  # where a Jetson leaves nvcc
# What torch asks for before its matrix products may be called deterministic.
export CUBLAS_WORKSPACE_CONFIG="${CUBLAS_WORKSPACE_CONFIG-:4096:8}"

readonly LEFT_OUT=77 PART_SECONDS=570
deadline=$((SECONDS + PART_SECONDS))
summary=()
failed=0

# within LIMIT COMMAND...: for at most so many seconds, and no longer than the part has left.
within() {
  local limit=$1 left=$((deadline - SECONDS))
  shift
  [ "$left" -lt "$limit" ] && limit=$left
  [ "$limit" -lt 1 ] && limit=1
  timeout --kill-after=10 "$limit" "$@"
}

# step NAME COMMAND...: runs it, keeps what it prints in OUT/log/NAME.log, and says how it went.
step() {
  local name=$1 begin=$SECONDS status word
  shift
  printf '\n== %s ==\n' "$name"
  "$@" 2>&1 | tee "$out/log/$name.log"
  status=${PIPESTATUS[0]}
  case $status in
    0) word="ok" ;;
    "$LEFT_OUT") word="left out" ;;
    124 | 137) word="FAILED: out of time" ;;
    *) word="FAILED: status $status" ;;
  esac
  [[ $word == FAILED* ]] && failed=1
  summary+=("$(printf '%-12s %5d s  %s' "$name" $((SECONDS - begin)) "$word")")
  return "$status"
}

has_cuda_torch() {
  "$1" -c 'import sys, torch; sys.exit(torch.version.cuda is None)' > /dev/null 2>&1
}

find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3 "$root/.venv/bin/python"; do
    if has_cuda_torch "$candidate"; then
      echo "$candidate"
      return 0
    fi
  done
  return 1
}

# The architectures of the cards here, as CMake writes them: 90, or 86;89.
find_archs() {
  local found
  found="$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2> /dev/null)"
  if ! grep -qE '^[0-9]+\.[0-9]+' <<< "$found"; then  # a Jetson's nvidia-smi does not say
    found="$("$python" -c '
import torch
for i in range(torch.cuda.device_count()):
    print("%d.%d" % torch.cuda.get_device_capability(i))' 2> /dev/null)"
  fi
  grep -oE '^[0-9]+\.[0-9]+' <<< "$found" | tr -d . | sort -un | paste -sd ';' -
}

machine() {
  if ! python="$(find_python)"; then
    echo "gpu_check.sh: Python must have torch for CUDA, got none that does. Set PYTHON."
    return 1
  fi
  echo "python: $python"
  "$python" -c 'import sys, torch; print(sys.version); print("torch", torch.__version__)'
  archs="${TSL_CUDA_ARCHS:-$(find_archs)}"
  echo "architectures: ${archs:-none}"
  nvidia-smi || echo "nvidia-smi is not there"
  nvcc --version || echo "nvcc is not there"
  if [ -z "$archs" ]; then
    echo "gpu_check.sh: the machine must have a GPU, got none. Run it where there is one."
    return 1
  fi
}

build() {
  local generator=()
  command -v ninja > /dev/null && generator=(-G Ninja)
  within 500 cmake -S . -B build/gpu "${generator[@]}" -DCMAKE_BUILD_TYPE=Release \
    -DTSL_CUDA=ON -DTSL_CUDA_ARCHS="$archs" \
    -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" \
    -DPython_EXECUTABLE="$(command -v "$python")" || return
  within 500 cmake --build build/gpu --parallel "$(nproc)" || return
  rm -f torchsparse_lite/_C*.so
  cp build/gpu/_C*.so torchsparse_lite/ || return
  within 60 "$python" - "$root" << 'PY'
import pathlib, sys
from torchsparse_lite._native import C, has_cuda

built = pathlib.Path(sys.argv[1], "torchsparse_lite")
found = pathlib.Path(C.__file__)
if found.parent.resolve() != built.resolve() or not has_cuda():
    sys.exit(f"the module in {built} must be the one in use, got {found}: uninstall the other")
print(f"built: {found}")
PY
}

# operators: the tests of what CUDA code there is; tests: all others that can run on a GPU.
run_pytest() { within 420 "$python" -m pytest -q -m cuda -p no:cacheprovider "$@"; }

operators() { run_pytest tests/test_cuda_*.py; }

tests() {
  local workers=()
  "$python" -c 'import xdist' 2> /dev/null && workers=(-n 4)
  run_pytest "${workers[@]}" --ignore-glob='*/test_cuda_*' tests
}

# sanitize TOOL: the small case under compute-sanitizer, where that works at all.
sanitize() {
  if ! command -v compute-sanitizer > /dev/null; then
    echo "compute-sanitizer is not installed"
    return "$LEFT_OUT"
  fi
  if ! within 90 compute-sanitizer --tool memcheck --error-exitcode 1 \
    "$python" -c 'import torch; torch.zeros(1, device="cuda").item()'; then
    echo "compute-sanitizer does not work on this machine"
    return "$LEFT_OUT"
  fi
  # Without its cache torch asks for every tensor anew, so that each has borders of its own.
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 within 240 compute-sanitizer --tool "$1" --error-exitcode 99 \
    "$python" -m benchmarks.gpu_case
}

measure() {
  within "$PART_SECONDS" "$python" -m benchmarks.run "$1" --device cuda --out "$out"
}

run_part() {
  deadline=$((SECONDS + PART_SECONDS))
  step build build || return
  case $1 in
    build+test)
      step operators operators
      step tests tests
      step memcheck sanitize memcheck
      step racecheck sanitize racecheck
      ;;
    layers | peers) step "$1" measure "$1" ;;
    network) step network measure networks ;;
  esac
}

python="" archs=""
# Not in step's pipeline: what it finds is needed here.
if machine > "$out/log/machine.log" 2>&1; then
  cat "$out/log/machine.log"
  for part in $parts; do run_part "$part"; done
  "$python" -m benchmarks.gpu_report "$out"
else
  cat "$out/log/machine.log"
  summary+=("machine: FAILED, see log/machine.log")
  failed=1
fi
printf '\n'
printf '%s\n' "${summary[@]}" | tee "$out/summary.txt"
exit "$failed"
