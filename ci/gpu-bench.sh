#!/usr/bin/env bash
# The whole grid of the benchmark on a GPU, in pieces of at most 4 minutes: call it again until it says that nothing is left.
#
#   ci/gpu-bench.sh [--resume] OUT [OPTION...]
#
# OUT/full.json is the record; it is begun by the first piece, with the options of `fastnn bench` that are given then (without any,
# the full grid in float32), and written whole after every cell, so that a piece that is cut off costs the cell that it was at.
# With --resume it must be there. Ends with 0 when the grid is done, with 3 while cells are left, with 1 where nothing can be
# measured or a piece was over before its first cell.
#
#   PYTHON  the Python to use      (python3)
#   PIECE   seconds of a piece     (220)
#   BUDGET  seconds of a cell      (60)
set -uo pipefail

python=${PYTHON:-python3}
resume=0
if [[ ${1:-} == --resume ]]; then
    resume=1
    shift
fi
if (($# < 1)) || [[ $1 == -* ]]; then
    echo "usage: ci/gpu-bench.sh [--resume] OUT [OPTION...]" >&2
    exit 2
fi
if ! mkdir -p -- "$1"; then
    exit 2
fi
record=$(cd -- "$1" && pwd)/full.json
shift
checkout=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cd -- "$checkout" || exit 2
export PYTHONPATH=$checkout:$checkout/kernels${PYTHONPATH:+:$PYTHONPATH}
export XLA_PYTHON_CLIENT_PREALLOCATE=false # else each JAX takes three quarters of the GPU's memory

# How many cells of the record are done, and how many are left.
count() {
    "$python" -c '
import sys; from pathlib import Path; from fastnn.benchmarks import record; from fastnn.errors import FastnnError
try:
    found = record.read(Path(sys.argv[1]))
except FastnnError as error:
    sys.exit(f"error: {error}")
print(len(found.done), len(found.left))' "$record"
}

before=0
if [[ -f $record ]]; then
    counts=$(count) || exit 1
    before=${counts% *}
    arguments=(--resume "$record")
elif ((resume)); then
    echo "there is no $record to continue with" >&2
    exit 1
else
    arguments=(--device cuda --budget "${BUDGET:-60}" --output "$record")
    if (($#)); then
        arguments+=("$@")
    else
        arguments+=(--full)
    fi
fi

if ! found=$("$python" ci/gpu_record.py usable 2>&1); then
    printf '%s\n' "${found##*$'\n'}" >&2
    exit 1
fi

exec 9>>"${record%.json}.log" # held by all that a piece consists of
if command -v flock >/dev/null && ! flock --timeout 5 9; then # what was killed may take a moment
    echo "another piece is still at work on $record" >&2
    exit 1
fi
# In the foreground: else neither Ctrl-C nor what ends the script would reach it, and it would go on beside the next piece.
timeout --foreground --signal=INT --kill-after=15 "${PIECE:-220}" "$python" -m fastnn bench "${arguments[@]}" 2>&1 </dev/null | tee -a "${record%.json}.log"
code=${PIPESTATUS[0]}
counts=$(count) || exit 1
echo "${counts#* } cells are left"
[[ ${counts#* } == 0 ]] && exit 0
((code == 124 || code == 130 || code == 137)) || exit 1
if ((${counts% *} == before)); then
    echo "none was finished in ${PIECE:-220} s: give a piece more time by PIECE, or a cell of a new record less by BUDGET" >&2
    exit 1
fi
exit 3
