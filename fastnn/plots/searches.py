"""Ways through a landscape: what optimizers do on a function of two variables, and what a search has found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn.errors import InputError
from fastnn.network.summary import shorten
from fastnn.plots import look

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINES = 25
"""Contours of a function."""


def optimizer_paths(
    paths: Mapping[str, Any], function: Callable[[np.ndarray, np.ndarray], Any], *, ax: Axes | None = None
) -> Axes:
    """The ways of optimizers over the contours of the function that they make small.

    `paths`: by name, the points (n, 2) that each came to, n >= 1; a dot marks the last. `function(x, y)`: its values at arrays
    of coordinates, of their shape. Raises InputError for other shapes, for no path, and for points that are not finite.
    """
    paths = {name: look.numbers(f"the path {name!r}", points) for name, points in paths.items()}
    for name, points in paths.items():
        if points.ndim != 2 or points.shape[1] != 2 or not len(points) or not np.isfinite(points).all():
            raise InputError(f"the path {name!r}: expected finite points (n, 2), n >= 1, got shape {points.shape}")
    if not paths:
        raise InputError("optimizer_paths: expected at least one path")
    everything = np.concatenate(list(paths.values()))
    low, high = everything.min(axis=0), everything.max(axis=0)
    reach = np.maximum(0.15 * (high - low), 0.25 * (high - low).max())
    reach = np.where(reach > 0, reach, 1.0)
    x, y = (np.linspace(low[i] - reach[i], high[i] + reach[i], 120) for i in range(2))
    values = np.asarray(function(*np.meshgrid(x, y)), np.float64)
    if values.shape != (120, 120):
        raise InputError(f"function: expected values of the shape of its arguments, (120, 120), got {values.shape}")
    axes = look.axes_for(ax)
    axes.contour(x, y, values, LINES, cmap="Greys", linewidths=0.7, alpha=0.8)
    for index, (name, points) in enumerate(paths.items()):
        axes.plot(*points.T, color=look.color(index), label=name, linewidth=1.5)
        axes.plot(*points[-1:].T, "o", color=look.color(index), markersize=5)
    axes.plot(*everything[:1].T, "x", color="black", markersize=6)
    return look.frame(axes, "x", "y")


def search_results(results: Any, *, ax: Sequence[Axes] | None = None) -> list[Axes]:
    """What each trial of a search came to over each hyper-parameter: a panel a parameter, a dot a trial, the best one set off.

    `results`: with `names` of P parameters, `scales`, the scale of each by its name ("log", "one minus log"; any other is
    straight), `values` (n,), what the trials came to, NaN where that is nothing, `mode`, "min" or "max", which are better, and
    `results[name]`, the values (n,) of a parameter. On the scale "one minus log" the axis shows 1 minus the parameter. Values
    that are no numbers stand side by side. `ax`: P axes. Returns them. Raises InputError for other shapes and where no trial
    has a value.
    """
    look.require_parts(results, "the results of a search", "names", "scales", "values", "mode")
    names, values = list(results.names), look.numbers("values", results.values)
    columns = {name: np.asarray(results[name]) for name in names}
    if not names or any(column.shape != (len(values),) for column in columns.values()):
        shapes = ", ".join(f"{name} {column.shape}" for name, column in columns.items())
        raise InputError(f"expected a value of each parameter for each of {len(values)} trials, got {shapes or 'no parameter'}")
    seen = np.flatnonzero(np.isfinite(values))
    if not len(seen):
        raise InputError("search_results: no trial has a value")
    best = seen[values[seen].argmin() if results.mode == "min" else values[seen].argmax()]
    look.require()
    from matplotlib.ticker import LogFormatter

    panels = look.panels(len(names)) if ax is None else [look.axes_for(each) for each in ax]
    if len(panels) != len(names):
        raise InputError(f"ax: expected {len(names)} axes, one a parameter, got {len(panels)}")
    for axes, (name, column) in zip(panels, columns.items(), strict=True):
        scale, label = results.scales[name], str(name)
        if column.dtype.kind not in "iuf":
            places = {text: place for place, text in enumerate(dict.fromkeys(str(column[index]) for index in seen))}
            column = np.array([places.get(str(entry), -1) for entry in column])
            written = [shorten(text, look.LETTERS // 2) for text in places]
            axes.set_xticks(range(len(written)), written)
            if sum(map(len, written)) > look.LETTERS:
                axes.tick_params("x", labelrotation=90, labelsize="small")
        elif scale == "one minus log":
            column, label = 1.0 - column, f"1 - {name}"
        axes.scatter(column[seen], values[seen], s=16, color=look.TRAINING, alpha=0.8)
        axes.scatter(column[[best]], values[[best]], s=40, color=look.VALIDATION, label=f"best {values[best]:.4g}")
        if scale in ("log", "one minus log"):
            axes.set_xscale("log")
            if column.dtype.kind in "iu":  # 60 units, not 6 x 10^1
                axes.xaxis.set_major_formatter(LogFormatter())
                axes.xaxis.set_minor_formatter(LogFormatter())
        look.frame(axes, label, "value", legend=axes is panels[0])
    return panels
