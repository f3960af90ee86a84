"""What results look like in a notebook: HTML, curves and pictures."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import notebooks
from fastnn.training.history import History

rng = np.random.default_rng(0)
X, Y = rng.standard_normal((60, 4)).astype(np.float32), rng.integers(0, 3, 60)


def trained() -> tuple[fastnn.Sequential, Any]:
    model = fastnn.Sequential([fastnn.Dense(5, activation="relu"), fastnn.Dense(3)], seed=0)
    return model, model.fit(X, Y, epochs=4, batch_size=20, validation_data=(X, Y), verbose=0)


def test_text_is_escaped() -> None:
    assert notebooks.preformatted("<b> & c") == '<pre style="line-height: 1.25">&lt;b&gt; &amp; c</pre>'


def test_a_model_shows_its_layers_and_then_its_summary() -> None:
    model = fastnn.Sequential([fastnn.Dense(3)], seed=0)
    assert "Sequential([Dense(3" in model._repr_html_()
    model.build(4)
    assert model._repr_html_() == model.summary()._repr_html_() == notebooks.preformatted(str(model.summary()))


def test_a_history_shows_its_curves() -> None:
    _, history = trained()
    shown = history._repr_html_()
    picture = ElementTree.fromstring(shown[: shown.index("</svg>") + 6])
    lines = picture.findall("{http://www.w3.org/2000/svg}polyline")
    assert [len(str(line.get("points")).split()) for line in lines] == [4, 4]
    heights = [float(point.split(",")[1]) for line in lines for point in str(line.get("points")).split()]
    assert min(heights) == 8
    assert max(heights) == notebooks.HEIGHT - 20, "the least loss lies on the axis"
    assert f"<td>4</td><td>{history['loss'][-1]:.4g}</td>" in shown
    assert "cpu" in shown


@pytest.mark.parametrize("values", [[], [1.0], [math.nan, math.nan], [2.0, 2.0, 2.0], [math.nan, 1.0, 3.0]])
def test_histories_without_a_curve(values: list[float]) -> None:
    shown = History(loss=values)._repr_html_()
    assert ("<svg" in shown) == (len([value for value in values if value == value]) > 1)
    assert "nan" not in shown.split("</svg>")[0] or "<svg" not in shown


def test_what_is_printed_is_shown() -> None:
    model, _ = trained()
    results = [
        model.summary(), model.program(20), fastnn.diagnose(0.1, 0.2), fastnn.check_gradients(model, X[:5], Y[:5]),
        fastnn.datasets.compare(X, X), fastnn.find_learning_rate(model, X, Y, steps=20, batch_size=20),
    ]  # fmt: skip
    for result in results:
        assert result._repr_html_() == notebooks.preformatted(str(result)), type(result).__name__


def test_axes_show_their_figure() -> None:
    pytest.importorskip("matplotlib")
    _, history = trained()
    axes = fastnn.plots.cost_curves(history)
    assert axes._repr_png_().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_notebook_is_executed() -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    pytest.importorskip("matplotlib")
    cells = [
        "import fastnn\ndata = fastnn.datasets.load('digits')\n"
        "model = fastnn.Sequential([fastnn.Dense(16, activation='relu'), fastnn.Dense(10)], seed=0)",
        "history = model.fit(data.X_train, data.y_train, epochs=5, verbose=0)\nhistory",
        "model",
        "fastnn.plots.cost_curves(history)",
        "fastnn.diagnose_model(model, (data.X_train, data.y_train), (data.X_test, data.y_test))",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    done = nbclient.NotebookClient(book, timeout=120, kernel_name="python3").execute()
    shown = [{kind for output in cell.outputs for kind in output.get("data", {})} for cell in done.cells]
    assert ["text/html" in kinds for kinds in shown] == [False, True, True, False, True]
    assert "image/png" in shown[3]
