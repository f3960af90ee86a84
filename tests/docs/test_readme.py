"""What the README shows runs as it stands, in order, in one folder: Python, and what the shell needs no network for."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastnn import engines
from fastnn.errors import DeviceError

README = Path(__file__).parents[2] / "README.md"
SHELL = f"""set -e
pip() {{ :; }}
pytest() {{ :; }}
fastnn() {{ case "$*" in SKIPPED) echo "not run: fastnn $*" ;; *) {shlex.quote(sys.executable)} -m fastnn "$@" ;; esac; }}
"""
"""Nothing is installed or tested again; SKIPPED are commands that the machine cannot run, or that take minutes."""


def blocks() -> list[tuple[str, str]]:
    """Each example with its language, in order."""
    return re.findall(r"^```(python|sh)\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def as_script(skipped: str) -> str:
    """A program that runs all examples: those in Python share their names, those of the shell are run where they stand."""
    shell = SHELL.replace("SKIPPED", skipped)
    lines = ["import subprocess"]
    for language, text in blocks():
        command = f'subprocess.run(["bash", "-c", {shell + text!r}], check=True)'
        lines.append(text if language == "python" else command)
    return "\n".join(lines)


def has_gpu() -> bool:
    try:
        engines.choose("cuda", "float32")
    except DeviceError:
        return False
    return True


@pytest.mark.slow
def test_every_example_runs_in_order(tmp_path: Path) -> None:
    for package in ("matplotlib", "optuna", "pyarrow"):
        pytest.importorskip(package)
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    skipped = "bench*" if has_gpu() else 'bench*|*"--device cuda"*'
    (tmp_path / "readme.py").write_text(as_script(skipped), encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-u", "readme.py"], cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "warning" not in run.stderr.lower(), run.stderr
    (accuracy,) = re.findall(r"^\d\.\d+ (\d\.\d+)$", run.stdout, re.MULTILINE)
    assert float(accuracy) > 0.97
    assert "gradients agree" in run.stdout
    assert "data      houses: 288 training, 32 validation examples" in run.stdout
    assert re.search(r"^written +prices.csv: 80 rows$", run.stdout, re.MULTILINE)
    (score,) = re.findall(r"^R\^2 +(\d\.\d+)$", run.stdout, re.MULTILINE)
    assert float(score) > 0.85
    assert {path.name for path in tmp_path.iterdir()} >= {
        "curves.png", "digits-run", "digits.safetensors", "flow.png", "flowers.csv", "houses.csv", "houses.safetensors",
        "new.csv", "prices.csv", "run", "search.db",
    }  # fmt: skip


def test_all_examples_are_seen() -> None:
    texts = blocks()
    assert len([text for language, text in texts if language == "python"]) >= 4
    assert README.read_text(encoding="utf-8").count("```") == 2 * len(texts)
    commands = [line for language, text in texts if language == "sh" for line in text.splitlines()]
    assert {line.split()[0] for line in commands} == {"fastnn", "pip"}
    compile(as_script("bench*"), "readme.py", "exec")
