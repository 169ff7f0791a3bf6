#!/usr/bin/env bash
# All checks and measurements on one GPU, in under 15 minutes: benchmarks/gpu.sh [--out FILE] [--only NAME ...]
# With --cpu every path on tiny shapes in under 2 minutes. PYTHON chooses the interpreter; parley need not be installed.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD/typings${PYTHONPATH:+:$PYTHONPATH}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 TRITON_PRINT_AUTOTUNING=0
exec "${PYTHON:-python3}" benchmarks/gpu.py "$@"
