"""Curves of a training, drawn from its history. matplotlib is imported when something is drawn; it needs no display."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastnn.errors import InputError
from fastnn.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Columns = Mapping[str, Sequence[float]]

TRAINING, VALIDATION = "#0072B2", "#D55E00"
"""Blue and vermilion, which everybody tells apart: Okabe & Ito 2008, Color Universal Design."""
SUFFIXES = (".png", ".svg", ".pdf")
DOTS = 20
"""Epochs up to which each has a dot; more would hide the line."""


def cost_curves(history: Columns, ax: Axes | None = None) -> Axes:
    """The mean loss of each epoch: of training solid, of validation dashed. Returns the axes.

    `history`: what `fit` returned, or its columns. `ax`: axes to draw into; without them, those of a new figure that no window
    shows: `axes.figure.savefig(path)`. Training's loss is the mean over the steps of an epoch, each before its update; that of
    validation is measured after the epoch. Raises InputError for a history without a loss, and where matplotlib is missing.
    """
    return _curves(history, "loss", "cost", ax)


def accuracy_curves(history: Columns, ax: Axes | None = None) -> Axes:
    """The accuracy of each epoch, as `cost_curves`. Raises InputError for the history of a task that has none."""
    return _curves(history, "accuracy", "accuracy", ax)


def save(history: Columns, path: Path) -> None:
    """Both curves side by side into a file, whole or not at all; the cost alone where there is no accuracy.

    Raises InputError as `check` does, and FileError.
    """
    check(path)
    from matplotlib.figure import Figure

    with_accuracy = "accuracy" in history or "val_accuracy" in history
    figure = Figure(figsize=(9.0 if with_accuracy else 4.8, 3.4), layout="constrained")
    axes = figure.subplots(1, 1 + with_accuracy, squeeze=False)[0]
    cost_curves(history, axes[0])
    if with_accuracy:
        accuracy_curves(history, axes[1])
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:].lower(), dpi=150)
    write_whole(path, content.getvalue())


def check(path: Path) -> None:
    """Raise InputError for a file that is no picture by its name, and where matplotlib is missing."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: expected a name that ends in {', '.join(SUFFIXES)}")
    _require()


def _require() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise InputError("plots need matplotlib: pip install matplotlib") from error


def _curves(history: Columns, column: str, label: str, ax: Axes | None) -> Axes:
    _require()
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    kinds = (("training", column, TRAINING, "-"), ("validation", f"val_{column}", VALIDATION, "--"))
    shown = [(name, history[key], color, dashes) for name, key, color, dashes in kinds if key in history]
    if not shown:
        raise InputError(f"the history has no {column!r}; it has {', '.join(history) or 'nothing'}")
    axes = Figure(figsize=(4.8, 3.4), layout="constrained").subplots() if ax is None else ax
    for name, values, color, dashes in shown:
        marker = "o" if len(values) <= DOTS else None
        axes.plot(range(1, len(values) + 1), values, dashes, color=color, label=name, marker=marker, markersize=3)
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(frameon=False)
    return axes
