#!/usr/bin/env bash
# Everything that only a machine with an NVIDIA GPU can check: tests on the device, memory and races under compute-sanitizer,
# MNIST in every precision, a few timed cells against other libraries, and what explains them.
#
#   ci/gpu.sh [--quick] OUT
#
# OUT gets three files: the record <gpu>-<date>.json; summary.txt, what is printed here, which ends with the record's table; and
# logs.tgz, what the steps left (<step>.log and results), packed anew after each of them, so that a run that is cut off has told
# what it could. No step keeps another from running. Ends within 8 minutes, with --quick within 3, with 0 if everything passed
# and 1 otherwise.
# Installs nothing and uses the checkout as it lies here; what PYTHONPATH names already stays on it.
#
#   PYTHON       the Python to use                                            (python3)
#   FASTNN_DATA  a folder with mnist/; without it data/ or ../shared/data is tried
set -uo pipefail

python=${PYTHON:-python3}
quick=()
if [[ ${1:-} == --quick ]]; then
    quick=(--quick)
    shift
fi
if (($# != 1)); then
    echo "usage: ci/gpu.sh [--quick] OUT" >&2
    exit 2
fi
if ! mkdir -p -- "$1"; then
    exit 2
fi
results=$(cd -- "$1" && pwd)
out=$(mktemp -d) # of the steps
exec > >(tee -- "$results/summary.txt") 2>&1
printing=$!
trap 'exec >&- 2>&-; wait "$printing"; rm -rf -- "$out"' EXIT
checkout=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cd -- "$checkout" || exit 2

export PYTHONPATH=$checkout:$checkout/kernels${PYTHONPATH:+:$PYTHONPATH}
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export XLA_PYTHON_CLIENT_PREALLOCATE=false # else JAX takes three quarters of the GPU's memory
for folder in "$checkout/data" "$checkout/../shared/data"; do
    if [[ -z ${FASTNN_DATA:-} && -d $folder/mnist ]]; then
        FASTNN_DATA=$folder
    fi
done
[[ -z ${FASTNN_DATA:-} ]] || export FASTNN_DATA

# Seconds for all steps together; the record needs a few more.
((${#quick[@]})) && whole=165 || whole=455
: >"$out/steps.tsv"

# What the steps have left so far, in one file that is whole at any time.
pack() { tar -C "$out" -czf "$results/logs.tgz.new" . && mv -f -- "$results/logs.tgz.new" "$results/logs.tgz"; }

# step NAME SECONDS COMMAND...: run it for so long at most, and as long as there is time at all.
step() {
    local name=$1 limit=$2 code=124 began=$SECONDS
    shift 2
    ((whole - SECONDS < limit)) && limit=$((whole - SECONDS))
    if ((limit < 3)); then
        echo "there was no time left" >"$out/$name.log"
    else
        # An interrupt, so that pytest and the benchmark write what they have.
        timeout --signal=INT --kill-after=10 "$limit" "$@" >"$out/$name.log" 2>&1 </dev/null
        code=$?
    fi
    printf '%s\t%d\t%d\n' "$name" "$code" $((SECONDS - began)) >>"$out/steps.tsv"
    pack
    printf '== %-10s exit %-4d %4d s   (%d s in all)\n' "$name" "$code" $((SECONDS - began)) "$SECONDS"
    ((code == 0)) || tail -n 12 -- "$out/$name.log"
    return 0
}

has() { "$python" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$1') is None)"; }

if ! command -v "$python" >/dev/null; then
    echo "there is no $python here; name one with PYTHON="
    exit 1
fi
absent=$("$python" ci/gpu_record.py missing | tr '\n' ' ')
echo "not installed: ${absent:-nothing}"
if ! found=$("$python" ci/gpu_record.py usable 2>&1); then
    printf '%s\n' "${found##*$'\n'}"
    exit 1
fi
echo "on ${found##*$'\n'}"
[[ -n ${FASTNN_DATA:-} ]] || echo "no MNIST: name a folder with mnist/ by FASTNN_DATA"

{
    timeout 20 nvidia-smi
    "$python" --version
    timeout 60 "$python" -m pip list
    nvcc --version
    compute-sanitizer --version
    nproc
} >"$out/versions.log" 2>&1
timeout 20 nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader >"$out/nvidia-smi.csv" 2>/dev/null

# Warnings of other libraries are no failures here.
pytest=("$python" -m pytest -p no:cacheprovider -o junit_family=xunit1 -W default -m "" -q -rfEs --durations=15)
step tests $((${#quick[@]} ? 75 : 150)) "${pytest[@]}" --junitxml="$out/tests.xml" -m gpu -k "not mnist" tests/gpu/test_gpu.py
if [[ -n ${FASTNN_DATA:-} ]]; then
    ((${#quick[@]})) && which="mnist and float32" || which=mnist
    step mnist $((${#quick[@]} ? 30 : 90)) "${pytest[@]}" --junitxml="$out/mnist.xml" -m gpu -k "$which" tests/gpu/test_gpu.py
fi

if "$python" ci/gpu_record.py plan "$out/bench.json" ${quick[@]+"${quick[@]}"} >"$out/plan.log" 2>&1; then
    step bench $((${#quick[@]} ? 60 : 180)) "$python" -m fastnn bench --resume "$out/bench.json"
else
    cp -- "$out/plan.log" "$out/bench.log"
    printf 'bench\t1\t0\n' >>"$out/steps.tsv"
    echo "== no benchmark: $(tail -n 1 -- "$out/plan.log")"
fi

networks=("--hidden 128 --batch-size 128" "--hidden 512,512 --batch-norm --dropout 0.2 --batch-size 2048"
    "--hidden 1024,1024,1024,1024 --batch-size 8192")
((${#quick[@]})) && networks=("${networks[0]}")
for index in "${!networks[@]}"; do
    read -r -a options <<<"${networks[index]}"
    step "explain$index" 30 "$python" -m fastnn explain --inputs 784 --outputs 10 --device cuda "${options[@]}"
done

if ! ((${#quick[@]})); then
    mapfile -t files < <(grep -rl --include='test_*.py' check_kernel tests)
    workers=()
    has xdist && workers=(-n 8)
    step kernels 150 "${pytest[@]}" --junitxml="$out/kernels.xml" ${workers[@]+"${workers[@]}"} "${files[@]}"
fi

if command -v compute-sanitizer >/dev/null; then
    watch=(compute-sanitizer --error-exitcode 9 --report-api-errors no --print-limit 20)
    share=$((${#quick[@]} ? 20 : 35))
    step memcheck $((share + 40)) "${watch[@]}" --tool memcheck "$python" ci/sanitize.py --seconds "$share"
    ((${#quick[@]})) || step racecheck $((share + 40)) "${watch[@]}" --tool racecheck "$python" ci/sanitize.py --seconds "$share"
else
    echo "== no compute-sanitizer here"
fi

echo
"$python" ci/gpu_record.py write "$out" "$results"
code=$?
pack
exit $code
