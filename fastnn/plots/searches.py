"""Ways through a landscape: what optimizers do on a function of two variables, and what a search has found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn.errors import InputError
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
    found = {name: np.asarray(points, np.float64) for name, points in paths.items()}
    for name, points in found.items():
        if points.ndim != 2 or points.shape[1] != 2 or not len(points) or not np.isfinite(points).all():
            raise InputError(f"the path {name!r}: expected finite points (n, 2), n >= 1, got shape {points.shape}")
    if not found:
        raise InputError("optimizer_paths: expected at least one path")
    everything = np.concatenate(list(found.values()))
    low, high = everything.min(axis=0), everything.max(axis=0)
    reach = np.maximum(0.15 * (high - low), 0.25 * (high - low).max())
    reach = np.where(reach > 0, reach, 1.0)
    x, y = (np.linspace(low[i] - reach[i], high[i] + reach[i], 120) for i in range(2))
    values = np.asarray(function(*np.meshgrid(x, y)), np.float64)
    if values.shape != (120, 120):
        raise InputError(f"function: expected values of the shape of its arguments, (120, 120), got {values.shape}")
    axes = look.axes_for(ax)
    axes.contour(x, y, values, LINES, cmap="Greys", linewidths=0.7, alpha=0.8)
    for index, (name, points) in enumerate(found.items()):
        axes.plot(*points.T, color=look.color(index), label=name, linewidth=1.5)
        axes.plot(*points[-1:].T, "o", color=look.color(index), markersize=5)
    axes.plot(*everything[:1].T, "x", color="black", markersize=6)
    return look.frame(axes, "x", "y")


def search_results(results: Any, *, ax: Sequence[Axes] | None = None) -> list[Axes]:
    """What each trial of a search came to over each hyper-parameter: a panel a parameter, a dot a trial.

    `results`: with `names` of P parameters; `parameters`, (n, P) or n rows of their values; `values` (n,), what the trials came
    to, NaN for one that failed; and `scales`, "log" or "linear" for each. Choices that are no numbers are set apart along the
    axis. `ax`: P axes. Returns them. Raises InputError for other shapes and where no trial has a value.
    """
    names, values = list(results.names), np.asarray(results.values, np.float64)
    columns = list(zip(*results.parameters, strict=True))
    if values.ndim != 1 or len(columns) != len(names) or len(results.scales) != len(names) or len(columns[0]) != len(values):
        raise InputError(
            f"expected {len(names)} parameters and scales, and a value a trial, got {len(columns)} parameters, "
            f"{len(results.scales)} scales and {values.shape} values of {len(results.parameters)} trials"
        )
    seen = np.isfinite(values)
    if not seen.any():
        raise InputError("search_results: no trial has a value")
    panels = look.panels(len(names)) if ax is None else list(ax)
    if len(panels) != len(names):
        raise InputError(f"ax: expected {len(names)} axes, one a parameter, got {len(panels)}")
    for axes, name, column, scale in zip(panels, names, columns, results.scales, strict=True):
        shown = [entry for entry, keep in zip(column, seen, strict=True) if keep]
        if any(isinstance(entry, str | bool) or entry is None for entry in shown):
            shown = [str(entry) for entry in shown]
        axes.scatter(shown, values[seen], s=16, color=look.TRAINING, alpha=0.8)
        if scale == "log":
            axes.set_xscale("log")
        look.frame(axes, str(name), "value")
    return panels
