"""Curves of a training: which lines are drawn, from what, and that nothing of matplotlib's global state is touched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fastnn import plots
from fastnn.errors import InputError, PackageError

pytest.importorskip("matplotlib")

HISTORY = {"loss": [2.0, 1.0, 0.5], "accuracy": [0.3, 0.6, 0.7], "val_loss": [2.5, 1.5, 1.25], "val_accuracy": [0.2, 0.5, 0.6]}


@pytest.mark.parametrize(("draw", "column"), [(plots.cost_curves, "loss"), (plots.accuracy_curves, "accuracy")])
def test_training_is_solid_and_validation_dashed(draw: object, column: str) -> None:
    assert callable(draw)
    axes = draw(HISTORY)
    solid, dashed = axes.get_lines()
    for line, name, values, style in (
        (solid, "training", HISTORY[column], "-"),
        (dashed, "validation", HISTORY[f"val_{column}"], "--"),
    ):
        assert line.get_label() == name
        assert list(line.get_xdata()) == [1, 2, 3]
        assert list(line.get_ydata()) == values
        assert line.get_linestyle() == style
    assert solid.get_color() != dashed.get_color()
    assert axes.get_xlabel() == "epoch"
    assert axes.get_ylabel() in ("cost", "accuracy")
    assert {text.get_text() for text in axes.get_legend().get_texts()} == {"training", "validation"}


def test_without_validation_there_is_one_line() -> None:
    assert len(plots.cost_curves({"loss": [1.0]}).get_lines()) == 1


def test_axes_of_the_users_own_are_used() -> None:
    from matplotlib.figure import Figure

    mine = Figure().subplots()
    assert plots.cost_curves(HISTORY, mine) is mine
    assert plots.cost_curves(HISTORY).figure is not mine.figure


def test_what_is_not_there_is_an_error() -> None:
    with pytest.raises(InputError, match="the history has no 'accuracy'; it has loss"):
        plots.accuracy_curves({"loss": [1.0]})
    with pytest.raises(InputError, match="no 'loss'; it has nothing"):
        plots.cost_curves({})


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<"), (".pdf", b"%PDF")])
@pytest.mark.parametrize("columns", [HISTORY, {"loss": [1.0, 0.5]}])
def test_files(columns: dict[str, list[float]], suffix: str, start: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"curves{suffix}"
    plots.save(columns, path)
    assert path.read_bytes().startswith(start)
    if suffix == ".svg":
        assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert list(tmp_path.iterdir()) == [path]


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a name that ends in \.png"):
        plots.save(HISTORY, tmp_path / "curves.gif")


def test_matplotlib_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PackageError, match="pip install matplotlib"):
        plots.cost_curves(HISTORY)


@pytest.mark.slow
def test_no_window_and_no_global_state() -> None:
    code = """
import sys
from fastnn import plots
assert "matplotlib" not in sys.modules
plots.cost_curves({"loss": [1.0]}).figure.savefig(sys.argv[1])
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, "/dev/null"], check=True)
