#!/usr/bin/env bash
# On a machine with a GPU and PyTorch, but no network: installs what `python -m bench.pack` carried there, runs the
# tests marked gpu and the GPU benchmark. Records and logs go to a folder; what follows it goes to bench.gpu.
#   bash bench/gpu.sh OUT [--size 125M ...]
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
out=${1:?say where the records go: bash bench/gpu.sh OUT}
shift
PYTHON=${PYTHON:-python3}
mkdir -p "$out"

# Into a folder of their own: the machine's PyTorch, and whatever else it has, stays as it is.
rm -rf .pack/site
"$PYTHON" -m pip install --quiet --no-index --no-deps --find-links .pack --target .pack/site .pack/*.whl || exit 1
export PYTHONPATH=src:.:.pack/site${PYTHONPATH:+:$PYTHONPATH} HF_HUB_OFFLINE=1

# shellcheck disable=SC2046  # the files that have one: others import what is not carried
"$PYTHON" -m pytest -q -m gpu -p no:cacheprovider $(grep -rl "^@pytest.mark.gpu" tests) 2>&1 | tee "$out/tests.log"
tests=${PIPESTATUS[0]}
"$PYTHON" -m bench.gpu --out "$out" "$@" 2>&1 | tee "$out/bench.log"
bench=${PIPESTATUS[0]}
exit $((tests != 0 || bench != 0))
