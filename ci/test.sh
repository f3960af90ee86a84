#!/usr/bin/env bash
# Builds the wheel, installs it into a fresh virtual environment, and checks it: ruff, mypy, the rule of direction, and every test,
# on the installed wheel and not on the checkout. Needs Python >= 3.11 with venv and a package index; leaves nothing behind but,
# where it may and there is none, the system's Chromium.
#
#   PYTHON   the Python to use                                   (python3)
#   ORACLES  what the tests compare with, for pip                (torch==2.13.0 jax optax nvidia-cublas)
#   TESTS    more arguments for pytest, e.g. "-k softmax"        ()
#   WORKERS  processes that test at the same time, a file each   (2)
#   PYTHON311  Python 3.11, for the oldest versions that are admitted (python3.11)
set -euo pipefail

python=${PYTHON:-python3}
read -r -a oracles <<<"${ORACLES:-torch==2.13.0 jax optax nvidia-cublas}"
read -r -a tests <<<"${TESTS:-}"
checkout=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT

# A folder of data beside the checkout, if there is one; tests that need it skip otherwise.
if [[ -z ${FASTNN_DATA:-} && -d $checkout/../shared/data ]]; then
    FASTNN_DATA=$(cd -- "$checkout/../shared/data" && pwd)
fi
[[ -z ${FASTNN_DATA:-} ]] || export FASTNN_DATA
# Kernels are compiled afresh, so that a run never depends on an earlier one.
export FASTNN_CACHE_DIR=$work/cache
export PIP_DISABLE_PIP_VERSION_CHECK=1
unset PYTHONPATH

heading() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }

heading "install"
"$python" -m venv "$work/venv"
python=$work/venv/bin/python
# The wheel is built from a copy: the checkout stays as it is.
mkdir "$work/source" "$work/wheels"
tar -C "$checkout" --exclude=./.git --exclude='__pycache__' --exclude='.*_cache' -cf - . | tar -C "$work/source" -xf -
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$work/wheels" "$work/source"
wheels=("$work"/wheels/fastnn_xp-*.whl)
"$python" -m pip install --quiet "${wheels[0]}[dev]" "${oracles[@]}"

heading "compilers"
# The oldest and the newest NVRTC of CUDA 12 and 13, each in a folder of its own: a GPU's owner has one of them.
compilers=(12.0 "nvidia-cuda-nvrtc-cu12==12.0.*" 12 "nvidia-cuda-nvrtc-cu12" 13.0 "nvidia-cuda-nvrtc==13.0.*" 13 "nvidia-cuda-nvrtc==13.*")
for ((index = 0; index < ${#compilers[@]}; index += 2)); do
    "$python" -m pip install --quiet --no-deps --target "$work/compilers/${compilers[index]}" "${compilers[index + 1]}"
done
export FASTNN_NVRTC=$work/compilers

heading "browser"
# For the test of the benchmark's page, which skips visibly without one.
if ! { command -v chromium && command -v chromedriver; } && command -v apt-get >/dev/null && ((EUID == 0)); then
    { apt-get -qq update && apt-get -qq install --yes --no-install-recommends chromium chromium-driver >/dev/null; } 2>&1 |
        tail -n 3 || echo "no browser could be installed"
fi

heading "versions"
"$python" --version
"$python" -m pip list --format=freeze | grep -iE '^(fastnn|numpy|numba|llvmlite|scikit-learn|safetensors|torch|jax|pytest|hypothesis|ruff|mypy)' || true
grep -m1 'model name' /proc/cpuinfo || true
nproc || true

# Every check runs, whatever the one before it found, and the tests come last: their summary closes the output.
failed=()
cd "$work/source"
heading "ruff check"
"$python" -P -m ruff check . || failed+=("ruff check")
heading "ruff format"
"$python" -P -m ruff format --check . || failed+=("ruff format")
heading "mypy"
"$python" -P -m mypy || failed+=("mypy")
heading "structure"
"${python%/*}/lint-imports" --no-cache || failed+=("structure")

# Only the tests, the benchmarks and the settings are laid out here, so that `import fastnn` can find nothing but the installed wheel.
mkdir "$work/run"
cp -R "$checkout"/{ci,tests,bench,docs,pyproject.toml,README.md} "$work/run/"
cd "$work/run"
heading "oldest versions"
if oldest=$(command -v "${PYTHON311:-python3.11}") && "$oldest" --version; then
    PYTHON311=$oldest timeout --signal=INT 420 bash "$checkout/ci/oldest.sh" "${wheels[0]}" "$work/run" || failed+=("oldest versions")
else
    echo "there is no Python 3.11 here, on which they are tried"
fi
heading "shorter vectors"
# Products, sums and convolutions as processors without AVX-512 compute them, and without AVX2.
shorter() {
    NUMBA_CPU_NAME=$1 NUMBA_CPU_FEATURES=$2 timeout --signal=INT 240 "$python" -P -m pytest -p no:cacheprovider -q -k float32 \
        tests/kernels/test_leaves.py tests/kernels/test_dense.py::test_{sequential_fused_multiply_add,bits_depend_on_no_block} \
        tests/kernels/test_convolution.py::test_{every_shape,an_output_has_the_same_bits_beside_any_others}
}
shorter haswell "+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+fma,+bmi,+bmi2" &
other=$!
shorter x86-64 "+sse,+sse2" || failed+=("shorter vectors")
wait "$other" || failed+=("shorter vectors")

heading "tests"
"$python" -P - "$work/venv" <<'CHECK'
import pathlib, sys
import fastnn, fastnn_kernels
for package in (fastnn, fastnn_kernels):
    print(package.__file__)
    assert pathlib.Path(package.__file__).is_relative_to(pathlib.Path(sys.argv[1]).resolve()), "not the installed wheel"
CHECK
"$python" -P -m pytest -m '' -n "${WORKERS:-2}" --dist loadfile -p no:cacheprovider --durations=10 ${tests[@]+"${tests[@]}"} || failed+=("pytest")

if ((${#failed[@]})); then
    printf 'failed: %s\n' "${failed[*]}" >&2
    exit 1
fi
