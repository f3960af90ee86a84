"""Pictures as files, whole or not at all."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fastnn.errors import InputError, InputTypeError
from fastnn.plots import fonts, look
from fastnn.plots.curves import Columns, accuracy_curves, cost_curves
from fastnn.storage.atomic import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")


def save(drawn: Axes | Figure | Columns, path: str | os.PathLike[str]) -> None:
    """Write a picture into a file, whole or not at all; its name ends in .png, .svg or .pdf.

    `drawn`: axes, of which the whole figure is written, a figure, or the history of a training: its cost and, where it has
    one, its accuracy beside it. Raises InputError as `check` does, InputTypeError for anything else, and FileError.
    """
    path = Path(path)
    check(path)
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    if isinstance(drawn, Mapping):
        both = "accuracy" in drawn or "val_accuracy" in drawn
        cost, *beside = look.panels(1 + both)
        cost_curves(drawn, cost)
        for axes in beside:
            accuracy_curves(drawn, axes)
        drawn = cost
    if not isinstance(drawn, Axes | Figure):
        raise InputTypeError(f"save: expected axes, a figure or a history, got {type(drawn).__name__}")
    content = io.BytesIO()
    figure = drawn.figure.canvas.figure  # the whole one, also of axes in a part of it
    fonts.cover(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # which is said already, with what to do about it
        figure.savefig(content, format=path.suffix[1:].lower(), dpi=look.POINTS_PER_INCH)
    write_whole(path, content.getvalue())


def check(path: Path) -> None:
    """Raise InputError for a file that is no picture by its name, and where matplotlib is missing."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: expected a name that ends in {', '.join(SUFFIXES)}")
    look.require()
