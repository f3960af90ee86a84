"""What a model has learned: where it parts classes, what it confuses, how its weights spread."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn import arrays
from fastnn.configurations import as_count
from fastnn.data import targets
from fastnn.errors import InputError, NotReadyError
from fastnn.network.summary import shorten
from fastnn.plots import fonts, look

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fastnn.network.layout import Network
    from fastnn.sequential import Sequential

MARGIN = 0.08
"""How far a picture of points reaches beyond them, as a share of their extent."""
ROOM = 10
"""Classes of a table above which its figure grows with them; of more than twice as many, no 0 is written."""
LEAST, USUAL = 4.0, 8.0
"""Points of the smallest letters that can be read, and of those of a table that has room for them."""
LETTER = 0.6
"""Width of a digit, as a share of its size."""


def decision_boundary(model: Sequential, X: Any, y: Any, *, resolution: int = 200, ax: Axes | None = None) -> Axes:
    """The plane as a classifier of two features sees it, with the examples X (n, 2), y (n,) on it.

    Of two classes, filled contours of the probability of the second, and the boundary, where it is 1/2, as a line. Of more,
    each point has the color of its most probable class, and lines part them; beyond eight classes the colors begin again,
    with other marks. `resolution`: points a side at which the model is asked. Raises InputError for other shapes and unknown
    labels, and for a model that was trained for something else, NotReadyError for one that was not trained, InputTypeError for
    what is none.
    """
    x, classes, labels = _points(model, X, y)
    resolution = as_count("resolution", resolution, 2)
    low, high = x.min(axis=0), x.max(axis=0)
    reach = MARGIN * np.where(high > low, high - low, 1.0)
    first, second = (np.linspace(low[i] - reach[i], high[i] + reach[i], resolution) for i in range(2))
    grid = np.stack([a.ravel() for a in np.meshgrid(first, second)], axis=1)
    shares = (
        arrays.to_host(model.predict_proba(grid.astype(model.dtype))).reshape(resolution, resolution, -1).astype(np.float64)
    )
    axes = look.axes_for(ax)
    from matplotlib.colors import LinearSegmentedColormap

    if shares.shape[2] == 2:
        between = LinearSegmentedColormap.from_list("classes", [look.color(0), "white", look.color(1)])
        levels = np.linspace(0.0, 1.0, 11)
        axes.contourf(first, second, shares[:, :, 1], levels, cmap=between, alpha=0.45, vmin=0.0, vmax=1.0)
        _lines(axes, first, second, shares[:, :, 1], 0.5)
    else:
        best = targets.indices(arrays.to_host(model.predict(grid.astype(model.dtype))), model.classes_).reshape(
            shares.shape[:2]
        )
        tints = [look.color(index) for index in range(shares.shape[2])]
        edges = np.arange(shares.shape[2] + 1) - 0.5
        axes.contourf(first, second, best, edges, colors=tints, alpha=0.35)
        for index in range(shares.shape[2]):
            others = np.delete(shares, index, axis=2).max(axis=2)
            _lines(axes, first, second, shares[:, :, index] - others, 0.0)
    for index, name in enumerate(classes):
        mine = x[labels == index]
        dots = {"s": 12.0, "color": look.color(index), "edgecolors": "white", "linewidths": 0.4, "zorder": 3}
        axes.scatter(mine[:, 0], mine[:, 1], label=str(name), marker=look.marker(index), **dots)  # type: ignore[arg-type]
    names = model.feature_names or ("x1", "x2")
    look.frame(axes, names[0], names[1], legend=False)
    look.explain(axes, "class")
    return axes


def confusion_matrix(y: Any, predictions: Any, *, classes: Any = None, ax: Axes | None = None) -> Axes:
    """How many examples of each class (rows) were taken for which (columns), as a table of shades and numbers.

    `y`, `predictions`: labels (n,), such as those of `model.predict`. `classes`: the labels in the order of the rows; those
    that occur, sorted, where it is missing. The shade is the share of the row. The figure of a table of many classes is larger;
    numbers that could not be read are left out, and a scale of the shades stands in for them. Raises InputError for other
    shapes and unknown labels, InputTypeError for labels of several types.
    """
    y, predictions = targets.plain(y, "y"), targets.plain(predictions, "predictions")
    if y.ndim != 1 or y.shape != predictions.shape or not len(y):
        raise InputError(f"expected labels y (n,) and predictions (n,), n >= 1, got {y.shape} and {predictions.shape}")
    known = np.unique(np.concatenate([y, predictions])) if classes is None else targets.read_classes(classes, "classes")
    count = len(known)
    cells = targets.indices(y, known) * count + targets.indices(predictions, known, "predictions")
    table = np.bincount(cells, minlength=count * count).reshape(count, count)
    axes = look.axes_for(ax)
    figure = axes.figure.canvas.figure
    if ax is None:
        look.enlarge(axes, count / ROOM)
    cell = 72 * min(axes.bbox.width, axes.bbox.height) / figure.dpi / count  # in points
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    shades = axes.imshow(shares, cmap=look.SHADES, vmin=0.0, vmax=1.0)
    size = min(USUAL, 0.9 * cell / (LETTER * len(str(table.max()))))
    for row, column in np.ndindex(table.shape) if size >= LEAST else ():
        if not table[row, column] and count > 2 * ROOM:
            continue
        shade = "black" if shares[row, column] > 0.5 else "white"
        axes.text(column, row, str(table[row, column]), ha="center", va="center", color=shade, fontsize=size)
    if size < LEAST:
        axes.figure.colorbar(shades, ax=axes, label="share of the true class")
    names = [shorten(str(name), look.LETTERS) for name in known]
    letters = min(USUAL, max(LEAST, 0.9 * cell))
    shown = slice(None, None, math.ceil(letters / cell))
    upright = LETTER * letters * max(map(len, names)) > cell
    axes.set_xticks(range(count)[shown], names[shown], rotation="vertical" if upright else "horizontal", fontsize=letters)
    axes.set_yticks(range(count)[shown], names[shown], fontsize=letters)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    fonts.cover(axes)
    return axes


def weight_histograms(model: Sequential, *, bins: int = 50, ax: Axes | None = None) -> Axes:
    """How the weights of each layer spread: a line a layer, as densities over bins that all share.

    Of more than eight layers the first are dark, and the first and the last are named. Raises NotReadyError for a model without
    parameters, InputError for one that has no weights, InputTypeError for what is none.
    """
    network, bins = network_of(model), as_count("bins", bins)
    named = model.weights
    places = [place for place in network.parameters if getattr(place.declaration, "regularized", False) and place.size]
    weights = {place.name: named[place.name].ravel() for place in places}
    if not weights:
        raise InputError("weight_histograms: the model has no weights")
    edges = np.histogram_bin_edges(np.concatenate(list(weights.values())).astype(np.float64), bins)
    axes = look.axes_for(ax)
    count = len(weights)
    colors = look.COLORS if count <= look.NAMED else look.shades(count)
    for index, (name, values) in enumerate(weights.items()):
        density = np.histogram(values, edges, density=True)[0]
        axes.stairs(density, edges, color=colors[index], label=look.layer_name(name, index, count), linewidth=1.2)
    return look.frame(axes, "weight", "density")


def network_of(model: Any) -> Network:
    """The network of a model that has parameters; InputTypeError for what is no model."""
    from fastnn.sequential import as_model

    return as_model(model).network


def require_classifier(model: Sequential, what: str) -> None:
    """NotReadyError for a model that was not trained, InputError for one that was trained for anything but classes."""
    if model.task is None:
        raise NotReadyError(f"{what} needs a model that was trained to classify; call fit first")
    if model.task.kind not in ("classes", "binary"):
        raise InputError(f"{what} needs a model that tells classes apart, and this one was trained for {model.task.kind}")


def _points(model: Any, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The examples as float64 (n, 2), the model's classes, and the index among them of each example."""
    features = network_of(model).features
    x, y = arrays.to_host(X), targets.plain(y, "y")
    if features != (2,) or x.ndim != 2 or x.shape[1] != 2:
        shown = x.shape if features == (2,) else ("n", *features)
        raise InputError(f"a plane has two features: expected X (n, 2) and a model of such inputs, got {shown}")
    if not len(x) or y.shape not in ((len(x),), (len(x), 1)):
        raise InputError(f"expected X (n, 2) and y (n,), n >= 1, got {x.shape} and {y.shape}")
    require_classifier(model, "a decision boundary")
    x = look.numbers("X", x)
    if not np.isfinite(x).all():
        row = int(np.argwhere(~np.isfinite(x))[0, 0])
        raise InputError(f"X: {np.count_nonzero(~np.isfinite(x))} values are NaN or infinite, the first in row {row}")
    classes = model.classes_
    return x, classes, targets.indices(y.reshape(-1), classes)


def _lines(axes: Axes, first: np.ndarray, second: np.ndarray, values: np.ndarray, level: float) -> None:
    """The line where `values` are `level`, if they are anywhere."""
    if values.min() < level < values.max():
        axes.contour(first, second, values, [level], colors="black", linewidths=1.2)
