"""Images side by side: those that a model gets wrong, and weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn import arrays
from fastnn.configurations import as_count
from fastnn.data import targets
from fastnn.errors import InputError, nearest
from fastnn.network.summary import shorten
from fastnn.plots import fonts, look
from fastnn.plots.models import network_of, require_classifier

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fastnn.sequential import Sequential

COLUMNS = 5
"""Images side by side above which a figure grows with them."""
LETTERS = 11
"""Up to which the name of a class is written over an image; two of more than half as many stand one above the other."""


def misclassified(model: Sequential, images: Any, y: Any, count: int = 15, *, ax: Axes | None = None) -> Axes:
    """The images that a classifier is most sure of and wrong about, each with its "true > predicted" label.

    `images`: (n, H, W), (n, H, W, 3), or rows (n, H H) of square ones, like those that the model was trained on. `y`: their
    labels (n,). Up to `count` are drawn, the surest first. Raises InputError for other shapes and a model that was trained for
    something else, NotReadyError for one that was not trained.
    """
    features = network_of(model).features
    require_classifier(model, "misclassified")
    images, y = arrays.to_host(images), targets.plain(y, "y")
    if images.ndim < 2 or math.prod(images.shape[1:]) != math.prod(features) or y.shape != (len(images),):
        raise InputError(f"expected images (n, {', '.join(map(str, features))}) and y (n,), got {images.shape} and {y.shape}")
    count = as_count("count", count)
    shown = images.reshape(len(images), *_side(images.shape[1:]))
    rows = images.reshape(-1, *features)
    shares = arrays.to_host(model.predict_proba(rows))
    predicted, true = (targets.indices(labels, model.classes_) for labels in (arrays.to_host(model.predict(rows)), y))
    wrong = np.flatnonzero(predicted != true)
    chosen = wrong[np.argsort(-shares[wrong, predicted[wrong]], kind="stable")][:count]
    classes = model.classes_
    names = [shorten(str(name), LETTERS) for name in classes]
    parted = "\n> " if max(map(len, names)) > LETTERS // 2 else " > "
    titles = [names[true[i]] + parted + names[predicted[i]] for i in chosen]
    axes = _mosaic(shown[chosen], titles, ax, "gray_r")
    axes.set_title(f"{len(wrong)} of {len(images)} wrong; true > predicted", fontsize="small")
    return axes


def weights_as_images(
    model: Sequential, name: str = "0.weight", shape: tuple[int, ...] | None = None, count: int = 15, *, ax: Axes | None = None
) -> Axes:
    """What the first `count` units of a layer look for: the weights (I,) of each as an image of `shape`.

    `shape`: (H, W) with H W = I; square where it is missing. The middle of the scale is 0, the same for all units. Raises
    InputError for weights that there are not or that make no such image, NotReadyError for a model without parameters.
    """
    network_of(model)
    named = model.weights
    if name not in named or named[name].ndim != 2:
        raise InputError(f"no weights (I, O) are called {name!r}{nearest(name, [n for n in named if named[n].ndim == 2])}")
    units = named[name].T[: as_count("count", count)]
    side = _side(units.shape[1:]) if shape is None else shape
    if not isinstance(side, tuple | list) or len(side) != 2 or math.prod(side) != units.shape[1]:
        raise InputError(f"shape: expected (H, W) with H W = {units.shape[1]}, got {side!r}")
    greatest = float(np.quantile(np.abs(units), 0.999)) or 1.0  # a few large weights would make the rest pale
    axes = _mosaic(units.reshape(-1, *side), [], ax, "PuOr", (-greatest, greatest))
    axes.set_title(f"{name} of {len(units)} of {named[name].shape[1]} units; orange is below 0, violet above", fontsize="small")
    return axes


def _side(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an image: its own, or that of a square one that comes as a row."""
    if len(shape) == 1:
        side = math.isqrt(shape[0])
        if side * side != shape[0]:
            raise InputError(f"images of {shape[0]} values are not square; reshape them to (n, H, W)")
        return side, side
    if len(shape) == 3 and shape[2] == 1:
        return shape[:2]
    if len(shape) == 2 or (len(shape) == 3 and shape[2] == 3):
        return shape
    raise InputError(f"expected images (H, W) or (H, W, 3), got {shape}")


def _mosaic(
    images: np.ndarray, titles: Sequence[str], ax: Axes | None, shades: str, limits: tuple[float | None, ...] = (None, None)
) -> Axes:
    """Images (n, H, W) or (n, H, W, 3) in rows, each with its title above it."""
    axes = look.axes_for(ax)
    axes.set_axis_off()
    if not len(images):
        return axes
    n, height, width = images.shape[:3]
    columns = min(n, math.ceil(math.sqrt(n * 1.4 * height / width)))
    rows = math.ceil(n / columns)
    above = max((0.35 + 0.2 * title.count("\n") for title in titles), default=0.1)  # all in images
    high, wide = 1.0 + above, 1.1
    if ax is None:
        look.enlarge(axes, columns / COLUMNS)
    if images.ndim == 4 and images.dtype.kind == "f":
        images = np.clip(images, 0.0, 1.0)
    low = images.min() if limits[0] is None else limits[0]
    top = images.max() if limits[1] is None else limits[1]
    for index, image in enumerate(images):
        x, y = wide * (index % columns), high * (index // columns)
        axes.imshow(image, cmap=shades, vmin=low, vmax=top, extent=(x, x + 1.0, y + 1.0, y), interpolation="nearest")
        if titles:
            axes.text(x + 0.5, y - 0.05, titles[index], ha="center", va="bottom", fontsize="x-small")
    axes.set_xlim(0.0, wide * columns)
    axes.set_ylim(high * rows - above, 0.05 - above if titles else 0.0)
    axes.set_aspect(height / width)
    fonts.cover(axes)
    return axes
