#!/usr/bin/env bash
# Everything that only a machine with an NVIDIA GPU can tell, in the order of what it tells: whether the GPU opens, compiles, copies
# and computes; what a step and a call of `fit` take; the strongest peer; the tests; memory; MNIST; JAX with what time is left.
#
#   ci/gpu.sh [--minutes N] [--sanitize] OUT
#
# OUT gets three files, written anew after each stage, so that a run that is cut off has told what it could: summary.txt, which
# begins with the three worst things; the record <gpu>-<date>.json; and logs.tgz, what the stages left. No stage keeps another from
# running, and each has its limit. Ends within 280 seconds or N minutes, with 0 if everything passed and 1 otherwise.
# --sanitize adds racecheck, with more time for it.
# Installs nothing, sends nothing anywhere, and uses the checkout as it lies here; what PYTHONPATH names already stays on it.
#
#   PYTHON       the Python to use                                            (python3)
#   FASTNN_DATA  a folder with mnist/; without it data/ or ../shared/data is tried
#   WORKERS      processes of a suite of tests, where pytest-xdist is there   (6)
#
# For a look at a part, as after a change; the record says which part it was, by the names of these variables:
#
#   STAGES    of contact cells peers tests memory rest                        (all)
#   CELLS     networks of the benchmark and mini-batches: "wide:128 mnist:64" (nine, see docs/gpu.md)
#   KERNELS   a regular expression for names of kernels: of the sections compile and kernels, and under compute-sanitizer (all)
#   PRODUCTS  one for names of products of cuBLASLt: "^130x77x65 NN .* tf32"  (all)
#   TESTS     an expression for pytest's -k: "streaming or dense"             (all)
#   REPEATS   calls that are timed in a cell, and trainings that must be equal (5)
set -uo pipefail

usage() {
    echo "usage: ci/gpu.sh [--minutes N] [--sanitize] OUT" >&2
    exit 2
}
python=${PYTHON:-python3}
whole=280 sanitize=0
while [[ ${1:-} == --* ]]; do
    case $1 in
    --minutes)
        [[ ${2:-} =~ ^[1-9][0-9]{0,2}$ ]] || usage
        whole=$((60 * $2))
        shift 2
        ;;
    --sanitize)
        sanitize=1
        shift
        ;;
    *) usage ;;
    esac
done
(($# == 1)) || usage
stages=${STAGES:-contact cells peers tests memory rest}
for name in $stages; do
    if [[ ! $name =~ ^(contact|cells|peers|tests|memory|rest)$ ]]; then
        echo "STAGES: expected some of contact cells peers tests memory rest, got $name" >&2
        exit 2
    fi
done
mkdir -p -- "$1" || exit 2
results=$(cd -- "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
out=$work/out # of the stages
mkdir -- "$out"
checkout=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cd -- "$checkout" || exit 2

export PYTHONPATH=$checkout:$checkout/kernels${PYTHONPATH:+:$PYTHONPATH}
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export PIP_DISABLE_PIP_VERSION_CHECK=1 HYPOTHESIS_STORAGE_DIRECTORY=$work/hypothesis
export XLA_PYTHON_CLIENT_PREALLOCATE=false # else JAX takes three quarters of the GPU's memory
for folder in "$checkout/data" "$checkout/../shared/data"; do
    if [[ -z ${FASTNN_DATA:-} && -d $folder/mnist ]]; then
        export FASTNN_DATA=$folder
    fi
done

: >"$out/steps.tsv"
ends=$((whole - 10)) # of the stages together: a summary and an archive are still to be written then

note() { printf '%4d s  %s\n' "$SECONDS" "$*" | tee -a "$out/run.log"; }

# What the stages have left so far, in files that are whole at any time.
save() {
    timeout 60 "$python" ci/gpu_record.py write "$out" "$results" "$SECONDS" "$1" >"$out/record.log" 2>&1
    code=$?
    tar -C "$out" -czf "$results/logs.tgz.new" . && mv -f -- "$results/logs.tgz.new" "$results/logs.tgz"
}

# job NAME SECONDS COMMAND...: run it beside other jobs, for so long at most (more where there are more minutes), and as long as
# there is time at all. A step whose exit code is -1 had none.
children=()
job() {
    local name=$1 limit=$(($2 * whole / 280))
    shift 2
    ((ends - SECONDS < limit)) && limit=$((ends - SECONDS))
    if ((limit < 4)); then
        printf '%s\t-1\t0\n' "$name" >>"$out/steps.tsv"
        note "$name: no time is left"
        return
    fi
    (
        began=$SECONDS
        # An interrupt, so that pytest writes what it has; a shell lets its jobs ignore interrupts, which timeout undoes.
        timeout --signal=INT --kill-after=8 "$limit" "$@" >"$out/$name.log" 2>&1 </dev/null &
        trap 'kill "$!" 2>/dev/null' TERM
        wait "$!"
        code=$?
        printf '%s\t%d\t%d\n' "$name" "$code" $((SECONDS - began)) >>"$out/steps.tsv"
        note "$name: exit $code after $((SECONDS - began)) s: $(tail -n 1 -- "$out/$name.log" | cut -c 1-140)"
    ) &
    children+=("$!")
}

wanted() { [[ " $stages " == *" $1 "* ]]; }

# stage NAME: whether it is wanted; then all jobs that were begun have ended, and what they left is saved.
stage() {
    wanted "$1" || return
    wait
    children=()
    save running
    note "== $1"
}

cut_off() {
    trap '' INT TERM HUP
    ((${#children[@]})) && kill "${children[@]}" 2>/dev/null
    wait
    save interrupted
    exit 130
}
trap cut_off INT TERM HUP

probe() { job "$1" "$2" "$python" ci/gpu_probe.py "$1" "$out/$1.jsonl"; }
peer() { job "peer-$1" "$2" "$python" ci/gpu_probe.py peer "$out/peer-$1.jsonl" "$1"; }
has() { "$python" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$1') is None)"; }
# Warnings of other libraries are no failures here.
pytest=("$python" -m pytest -p no:cacheprovider -o junit_family=xunit1 -W default -q -rfEs)
# tests NAME SECONDS -k ARGUMENT...: those of TESTS, if it is given.
tests() {
    local name=$1 limit=$2 which=$3
    shift 3
    job "$name" "$limit" "${pytest[@]}" --junitxml="$out/$name.xml" -k "$which${TESTS:+ and ($TESTS)}" "$@"
}
watch() {
    job "$1" "$2" compute-sanitizer --error-exitcode 9 --report-api-errors no --print-limit 20 --tool "$1" \
        "$python" ci/sanitize.py --seconds "$3"
}

if ! command -v "$python" >/dev/null; then
    echo "there is no $python here; name one with PYTHON=" | tee -- "$results/summary.txt"
    exit 1
fi
has pytest_benchmark && pytest+=("--benchmark-storage=file://$work/benchmarks")
absent=$("$python" ci/gpu_record.py missing | tr '\n' ' ')
note "not installed: ${absent:-nothing}"
usable=$(timeout 60 "$python" ci/gpu_record.py usable 2>&1)
code=$?
note "${usable##*$'\n'}"
if ((code == 3)); then # no GPU at all; whatever else is wrong, the stages may tell more of it
    cp -- "$out/run.log" "$results/summary.txt"
    exit 1
fi
has_mnist=0
if [[ -d ${FASTNN_DATA:-}/mnist ]]; then
    has_mnist=1
else
    note "no MNIST: name a folder with mnist/ by FASTNN_DATA"
fi
timeout 20 nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader >"$out/nvidia-smi.csv" 2>/dev/null
# shellcheck disable=SC2016
job versions 30 bash -c 'for each in nvidia-smi "$0 --version" "$0 -m pip list" "nvcc --version" "compute-sanitizer --version" nproc; do
    timeout 10 $each; done; true' "$python"

if wanted contact; then
    note "== contact"
    for section in open compile copies products kernels bits; do
        probe "$section" 70
    done
fi
if stage cells; then
    probe cells 55
fi
if stage peers; then
    peer torch-graph 35
    wait
    peer fastnn 20
fi
if stage tests; then
    workers=()
    has xdist && workers=(-n "${WORKERS:-6}")
    mapfile -t files < <(grep -rl --include='test_*.py' check_kernel tests)
    tests gpu-tests 80 "not mnist" ${workers[@]+"${workers[@]}"} -m "gpu and not alone" tests/gpu/test_gpu.py
    tests kernel-tests 80 "test" ${workers[@]+"${workers[@]}"} -m "" --maxfail=40 "${files[@]}"
    if command -v compute-sanitizer >/dev/null; then
        watch memcheck 80 $((40 * whole / 280))
    else
        note "no compute-sanitizer here"
    fi
fi
if stage memory; then
    tests memory 40 "test" -m "gpu and alone" tests/gpu/test_gpu.py
    wait
    ((has_mnist)) && tests mnist 40 "mnist and not float64" -m gpu tests/gpu/test_gpu.py
fi
if stage rest; then
    peer jax-while "$whole"
    if ((sanitize)) && command -v compute-sanitizer >/dev/null; then
        wait
        ends=$((SECONDS + 150 > ends ? SECONDS + 150 : ends)) # asked for, so it gets its time
        watch racecheck 150 100
    fi
fi
wait
save finished
note "== finished"
echo
cat -- "$results/summary.txt"
exit "$code"
