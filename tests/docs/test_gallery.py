"""The gallery: every example runs, asserts its own figures, draws pictures that show something, and is in the course."""

from __future__ import annotations

import ast
import operator
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastnn

pytest.importorskip("matplotlib")

GALLERY = Path(__file__).parents[2] / "docs" / "gallery"
SCRIPTS = sorted(GALLERY.glob("*.py"))
COURSE = GALLERY.parent / "course.md"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_an_example_begins_with_its_title_and_ends_with_what_must_hold(script: Path) -> None:
    tree = ast.parse(script.read_text())
    title, line, blank, *_ = (ast.get_docstring(tree) or "").split("\n")
    assert title
    assert line == "=" * len(title)
    assert not blank
    assert any(isinstance(node, ast.Assert) for node in ast.walk(tree))


def test_the_course_links_every_script_and_only_what_there_is() -> None:
    linked = [COURSE.parent / target for target in re.findall(r"\]\(([^)#]+)\)", COURSE.read_text())]
    assert all(target.is_file() for target in linked), [str(target) for target in linked if not target.is_file()]
    assert set(SCRIPTS) <= set(linked), "scripts that the course does not name"


def test_the_course_names_what_there_is() -> None:
    """Every row of a table has a public name, and each of them is found from `fastnn`."""
    rows = [line.split(" | ") for line in COURSE.read_text().splitlines() if line.startswith("| ") and "---" not in line]
    for concept, names, *_ in rows:
        assert names == "In fastnn" or "`" in names, concept
        for name in re.findall(r"`(fastnn\.[\w.]+)`", names):
            operator.attrgetter(name.removeprefix("fastnn."))(fastnn)


def run(script: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    roots = [str(GALLERY.parents[1]), str(GALLERY.parents[1] / "kernels"), os.environ.get("PYTHONPATH", "")]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, roots)), **environment}
    command = [sys.executable, "-W", "error", script, *map(str, arguments)]
    return subprocess.run(
        command, env={name: value for name, value in variables.items() if value}, capture_output=True, text=True, timeout=300
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_an_example_runs_and_draws(script: Path, tmp_path: Path) -> None:
    from matplotlib.image import imread

    done = run(script, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout
    pictures = sorted(tmp_path.iterdir())
    assert pictures
    for picture in pictures:
        assert picture.name.startswith(script.stem)
        assert picture.suffix == ".png"
        pixels = imread(picture)
        assert min(pixels.shape[:2]) > 100
        assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 10


@pytest.mark.slow
def test_all_networks_of_chapter_6_run(tmp_path: Path) -> None:
    """For an epoch each, on the digits; five of them vote."""
    done = run(GALLERY / "convolution.py", tmp_path, "long", 1, FASTNN_DATA="")
    assert done.returncode == 0, done.stdout + done.stderr
    names = [line.split("  ")[0].strip() for line in done.stdout.splitlines()]
    chapter = ["one convolution", "two convolutions", "ReLU", "shifted images", "two hidden layers", *["dropout"] * 5]
    assert names == [*chapter, "five that vote"]
    assert len(list(tmp_path.iterdir())) == 6
