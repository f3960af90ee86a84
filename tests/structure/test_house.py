"""The rule of direction: which room may use which, as `pyproject.toml` states it; and that breaking it is noticed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("importlinter", reason="import-linter is not installed")

ROOT = Path(__file__).resolve().parents[2]

PLANTED = {
    "an arrow up": ("errors.py", "\n\ndef f() -> None:\n    import fastnn.ops\n"),
    "an arrow up for typing": (
        "program/plan.py",
        "\n\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from fastnn.engines.base import Engine\n",
    ),
    "a circle between the files of a folder": ("layers/base.py", "\n\ndef f() -> None:\n    import fastnn.layers.dense\n"),
    "a module without a floor": ("somewhere.py", '"""Nowhere."""\n'),
}


LINT = """
import sys
sys.path[:0] = sys.argv[1:]
from importlinter.cli import lint_imports
sys.exit(lint_imports(no_cache=True))
"""


def linted(folder: Path) -> subprocess.CompletedProcess[str]:
    """import-linter, with the contracts of `folder`, on the packages that it imports there."""
    paths = [str(folder)] if (folder / "fastnn").is_dir() else [path for path in sys.path if path]
    return subprocess.run(
        [sys.executable, "-P", "-c", LINT, *paths], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )


def test_arrows_go_down() -> None:
    run = linted(ROOT)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "3 kept, 0 broken" in run.stdout


@pytest.mark.slow
@pytest.mark.parametrize("planted", PLANTED)
def test_what_breaks_the_rule_is_noticed(planted: str, tmp_path: Path) -> None:
    import fastnn
    import fastnn_kernels

    for package in (fastnn, fastnn_kernels):
        source = Path(package.__file__).parent
        shutil.copytree(source, tmp_path / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    assert linted(tmp_path).returncode == 0
    name, line = PLANTED[planted]
    path = tmp_path / "fastnn" / name
    path.write_text((path.read_text() if path.exists() else "") + line)
    assert linted(tmp_path).returncode == 1
