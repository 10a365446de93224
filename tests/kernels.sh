#!/usr/bin/env bash
# The numeric part of the suite under other kernels: what is right must not rest on the order in
# which one vendor's products add up. `make test-kernels`; with KERNELS=short what .ci/run does.
#
#   MKL_CBWR             which of MKL's kernels multiply and decompose float32 and float64. On other
#                        makers' processors every value but COMPATIBLE is one and the same branch,
#                        and none at all is a third.
#   ATEN_CPU_CAPABILITY  torch's own loops: sums, softmax, norms, random normal numbers.
#   ONEDNN_MAX_CPU_ISA   oneDNN's products, which are those of bfloat16.
#   OMP_NUM_THREADS      how many threads share a sum.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
part="tests/lowrank tests/properties tests/rules tests/contracts tests/training tests/models
  tests/adapters tests/merging tests/evaluation tests/benchmarks tests/screens
  tests/seam/test_screens.py"
short=${KERNELS:-}
if [ "$short" = short ]; then
  # Tests that hold a bound, rather than move values or refuse input.
  part="tests/lowrank tests/rules tests/screens tests/properties/test_lowrank_properties.py
    tests/properties/test_truncate_properties.py tests/training/test_precision.py
    tests/training/test_loss.py tests/models/test_lora.py tests/models/test_packing.py"
fi
failed=()

under() { # threads, then settings
  local threads=$1 workers=2
  shift
  [ "$threads" = 1 ] || workers=0 # Two processes of two threads would fight over two cores.
  echo "== ${*:-the kernels that this processor gets}; threads: $threads"
  # shellcheck disable=SC2086  # Folders are words.
  env OMP_NUM_THREADS="$threads" OMP_WAIT_POLICY=PASSIVE "$@" \
    "$python" -m pytest -q -n "$workers" -m "not soak" -p no:cacheprovider $part ||
    failed+=("${*:-own}, $threads")
}

under 1 MKL_CBWR=COMPATIBLE
under 1 ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41
if [ "$short" != short ]; then
  under 1 MKL_CBWR=AVX2
  under 1
  under 2
fi
[ ${#failed[@]} -eq 0 ] || { printf 'failed under: %s\n' "${failed[@]}" >&2; exit 1; }
