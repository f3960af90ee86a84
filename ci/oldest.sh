#!/usr/bin/env bash
# Installs a wheel with the oldest versions that pyproject.toml admits, on Python 3.11, and runs tests that touch each of them.
#
#   ci/oldest.sh WHEEL FOLDER
#
# FOLDER holds tests/, bench/, docs/ and pyproject.toml. Takes two to three minutes on two cores, compiling of kernels included.
#
#   PYTHON311   Python 3.11   (python3.11)
set -euo pipefail

if (($# != 2)); then
    echo "usage: ci/oldest.sh WHEEL FOLDER" >&2
    exit 2
fi
python=${PYTHON311:-python3.11}
wheel=$(realpath -- "$1")
cd -- "$2"
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
export FASTNN_CACHE_DIR=$work/cache

"$python" -m venv "$work/venv"
python=$work/venv/bin/python
"$python" - >"$work/oldest.txt" <<'PINS'
import re, tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
extras = project["optional-dependencies"]
for line in (*project["dependencies"], *(line for name in ("test", "bench", "data", "onnx", "plot", "sklearn", "tune") for line in extras[name])):
    if not line.startswith("fastnn-xp"):
        name, bound = re.fullmatch(r"([\w.-]+)>=([\d.]+)", line).groups()
        print(f"{name}=={bound}")
print("pyparsing<3.3")  # later ones warn of names that Matplotlib 3.8 uses
print("pytest-xdist")
PINS
sort -u "$work/oldest.txt"
"$python" -m pip install --quiet "$wheel" -r "$work/oldest.txt"
"$python" -m pip check

# Of each family of the library what meets its dependencies.
subset=(archives averages batches benchmark_pages benchmark_records checkpoints choices cli cli_configuration cli_predict cli_tables conventions
    datasets doctor estimators feeds fonts foreign foreign_memory generated_inputs inputs instances targets laws metrics missing_packages model mixed_precision onnx optimizers
    planar plots plots_drawn process program random reductions results_of_scikit_learn samples split standardizer tables third_engine trajectories tuning tuning_space)
files=()
for name in "${subset[@]}"; do
    mapfile -t -O "${#files[@]}" files < <(find tests -name "test_$name.py")
done
((${#files[@]} == ${#subset[@]})) || { echo "a file of the subset is missing" >&2; exit 1; }
"$python" -P -m pytest -n 2 --dist loadfile -p no:cacheprovider -q --durations=5 "${files[@]}"
