"""What a model has learnt: where it parts classes, what it confuses, how its weights spread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn import arrays, labels
from fastnn.configurations import as_count
from fastnn.errors import InputError, KindError, NotReadyError
from fastnn.plots import look

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fastnn.model import Sequential
    from fastnn.steps import Network

MARGIN = 0.08
"""How far a picture of points reaches beyond them, as a share of their extent."""


def decision_boundary(model: Sequential, X: Any, y: Any, *, resolution: int = 200, ax: Axes | None = None) -> Axes:
    """The plane as a classifier of two features sees it, with the examples X (n, 2), y (n,) on it.

    Of two classes, filled contours of the probability of the second, and the boundary, where it is 1/2, as a line. Of more,
    each point has the colour of its most probable class, and lines part them. `resolution`: points a side at which the model
    is asked. Raises InputError for other shapes and unknown labels, NotReadyError for a model that was not trained to classify.
    """
    x, classes, found = _points(model, X, y)
    resolution = as_count("resolution", resolution, 2)
    low, high = x.min(axis=0), x.max(axis=0)
    reach = MARGIN * np.where(high > low, high - low, 1.0)
    first, second = (np.linspace(low[i] - reach[i], high[i] + reach[i], resolution) for i in range(2))
    grid = np.stack([a.ravel() for a in np.meshgrid(first, second)], axis=1)
    shares = arrays.to_host(model.predict_proba(grid.astype(model.dtype)))
    if shares.shape[1] == 1:
        shares = np.concatenate([1.0 - shares, shares], axis=1)
    shares = shares.reshape(resolution, resolution, -1).astype(np.float64)
    axes = look.axes_for(ax)
    from matplotlib.colors import LinearSegmentedColormap

    if shares.shape[2] == 2:
        between = LinearSegmentedColormap.from_list("classes", [look.color(0), "white", look.color(1)])
        levels = np.linspace(0.0, 1.0, 11)
        axes.contourf(first, second, shares[:, :, 1], levels, cmap=between, alpha=0.45, vmin=0.0, vmax=1.0)
        _lines(axes, first, second, shares[:, :, 1], 0.5)
    else:
        best = shares.argmax(axis=2)
        tints = [look.color(index) for index in range(shares.shape[2])]
        edges = np.arange(shares.shape[2] + 1) - 0.5
        axes.contourf(first, second, best, edges, colors=tints, alpha=0.35)
        for index in range(shares.shape[2]):
            others = np.delete(shares, index, axis=2).max(axis=2)
            _lines(axes, first, second, shares[:, :, index] - others, 0.0)
    for index, name in enumerate(classes):
        mine = x[found == index]
        dots = {"s": 12.0, "color": look.color(index), "edgecolors": "white", "linewidths": 0.4, "zorder": 3}
        axes.scatter(mine[:, 0], mine[:, 1], label=str(name), **dots)  # type: ignore[arg-type]
    names = model.feature_names or ("x1", "x2")
    look.frame(axes, names[0], names[1], legend=False)
    look.explain(axes, "class")
    return axes


def confusion_matrix(y: Any, predictions: Any, *, classes: Any = None, ax: Axes | None = None) -> Axes:
    """How many examples of each class (rows) were taken for which (columns), as a table of shades and numbers.

    `y`, `predictions`: labels (n,), such as those of `model.predict`. `classes`: the labels in the order of the rows; those
    that occur, sorted, where it is missing. The shade is the share of the row. Raises InputError for other shapes and unknown
    labels.
    """
    y, predictions = arrays.to_host(y), arrays.to_host(predictions)
    if y.ndim != 1 or y.shape != predictions.shape or not len(y):
        raise InputError(f"expected labels y (n,) and predictions (n,), n >= 1, got {y.shape} and {predictions.shape}")
    known = np.unique(np.concatenate([y, predictions])) if classes is None else np.asarray(classes)
    count = len(known)
    cells = labels.indices(y, known) * count + labels.indices(predictions, known, "predictions")
    table = np.bincount(cells, minlength=count * count).reshape(count, count)
    axes = look.axes_for(ax)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap=look.SHADES, vmin=0.0, vmax=1.0)
    for row, column in np.ndindex(table.shape):
        shade = "black" if shares[row, column] > 0.5 else "white"
        size = "small" if count <= 12 else "xx-small"
        axes.text(column, row, str(table[row, column]), ha="center", va="center", color=shade, fontsize=size)
    axes.set_xticks(range(count), [str(name) for name in known])
    axes.set_yticks(range(count), [str(name) for name in known])
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return axes


def weight_histograms(model: Sequential, *, bins: int = 50, ax: Axes | None = None) -> Axes:
    """How the weights of each layer spread: a line a layer, as densities over bins that all share.

    Raises NotReadyError for a model without parameters, InputError for one that has no weights, KindError for what is none.
    """
    network, bins = network_of(model), as_count("bins", bins)
    named = model.weights
    places = [place for place in network.parameters if getattr(place.declaration, "regularized", False) and place.size]
    weights = {place.name: named[place.name].ravel() for place in places}
    if not weights:
        raise InputError("weight_histograms: the model has no weights")
    edges = np.histogram_bin_edges(np.concatenate(list(weights.values())).astype(np.float64), bins)
    axes = look.axes_for(ax)
    for index, (name, values) in enumerate(weights.items()):
        density = np.histogram(values, edges, density=True)[0]
        axes.stairs(density, edges, color=look.color(index), label=name, linewidth=1.2)
    return look.frame(axes, "weight", "density")


def network_of(model: Any) -> Network:
    """The network of a model that has parameters; KindError for what is no model."""
    from fastnn.model import Sequential

    if not isinstance(model, Sequential):
        raise KindError(f"expected a Sequential, got {type(model).__name__}")
    return model.network


def _points(model: Any, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The examples as float64 (n, 2), the model's classes, and the index among them of each example."""
    features = network_of(model).features
    x, y = arrays.to_host(X), arrays.to_host(y)
    if features != (2,) or x.ndim != 2 or x.shape[1] != 2:
        shown = x.shape if features == (2,) else ("n", *features)
        raise InputError(f"a plane has two features: expected X (n, 2) and a model of such inputs, got {shown}")
    if not len(x) or y.shape not in ((len(x),), (len(x), 1)):
        raise InputError(f"expected X (n, 2) and y (n,), n >= 1, got {x.shape} and {y.shape}")
    if model.task is None or model.task.kind not in ("classes", "binary"):
        raise NotReadyError("a decision boundary needs a model that was trained to classify; call fit first")
    classes = np.arange(2) if model.task.classes is None else model.classes_
    return x.astype(np.float64), classes, labels.indices(y.reshape(-1), classes)


def _lines(axes: Axes, first: np.ndarray, second: np.ndarray, values: np.ndarray, level: float) -> None:
    """The line where `values` are `level`, if they are anywhere."""
    if values.min() < level < values.max():
        axes.contour(first, second, values, [level], colors="black", linewidths=1.2)
