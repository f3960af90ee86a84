"""Images side by side: those that a model gets wrong, weights and kernels, what a layer makes of an image, and sees of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn import arrays
from fastnn.configurations import as_count
from fastnn.data import targets
from fastnn.errors import InputError, nearest
from fastnn.inspection import receptive_fields
from fastnn.inspection.receptive_fields import Field, front_of, layer_of
from fastnn.layers import Conv2D
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


def filters(model: Sequential, layer: int = 0, channel: int | None = None, count: int = 40, *, ax: Axes | None = None) -> Axes:
    """What the first `count` filters of a `Conv2D` look for: the kernel (KH, KW) of each as an image, or in color (KH, KW, 3).

    `layer`: its number in `model.layers`. `channel`: the one of its inputs that is looked at; without it all of them, where
    there is one, or three, which are then red, green and blue. The middle of the scale is 0, the same for all filters.

        fastnn.plots.save(fastnn.plots.filters(model), "filters.png")

    Raises InputError for another layer, and for channels that cannot be drawn at once, NotReadyError for a model without
    parameters.
    """
    chosen = layer_of(model, layer)
    if not isinstance(chosen, Conv2D):
        convolutions = [index for index, each in enumerate(model.layers) if isinstance(each, Conv2D)]
        raise InputError(f"layer {layer} is a {type(chosen).__name__}; convolutions are {convolutions or 'none of the layers'}")
    kernels = model.weights[f"{layer}.weight"].transpose(3, 0, 1, 2)
    channels = kernels.shape[3]
    if channel is not None:
        if not isinstance(channel, int) or isinstance(channel, bool) or not 0 <= channel < channels:
            raise InputError(f"channel: expected a number from 0 to {channels - 1}, got {channel!r}")
        kernels = kernels[..., channel : channel + 1]
    elif channels not in (1, 3):
        raise InputError(f"layer {layer} looks at {channels} channels, too many for a picture; name one, as in channel=0")
    greatest = float(np.abs(kernels).max()) or 1.0
    shown = kernels[: as_count("count", count)]
    if shown.shape[3] == 3:
        axes = _mosaic(0.5 + 0.5 * shown.astype(np.float64) / greatest, [], ax, "PuOr")
        scale = "gray is 0"
    else:
        axes = _mosaic(shown[..., 0], [], ax, "PuOr", (-greatest, greatest))
        scale = "orange is below 0, violet above"
    axes.set_title(f"{layer} {type(chosen).__name__}: {len(shown)} of {len(kernels)} filters; {scale}", fontsize="small")
    return axes


def feature_maps(model: Sequential, image: Any, layer: int = 0, count: int = 40, *, ax: Axes | None = None) -> Axes:
    """What a layer makes of an image, at inference: its first `count` channels (H, W), dark where they are large.

    `image`: (H, W), (H, W, C), or what else has as many numbers, like those that the model was built for. `layer`: its number
    in `model.layers`; one whose outputs are images. All channels have one scale.

        fastnn.plots.feature_maps(model, X_test[0], layer=1)

    Raises InputError for another layer or image, NotReadyError for a model without parameters.
    """
    network = network_of(model)
    chosen = layer_of(model, layer)
    pixels = arrays.to_host(image)
    if pixels.size != math.prod(network.features):
        raise InputError(f"expected an image {network.features}, got {pixels.shape}")
    maps = arrays.to_host(front_of(model, layer)(pixels.reshape(1, *network.features)))[0]
    if maps.ndim not in (2, 3):
        raise InputError(f"layer {layer}, {type(chosen).__name__}, makes {maps.shape} of an image, and no images")
    maps = maps.reshape(*maps.shape[:2], -1).transpose(2, 0, 1)
    shown = maps[: as_count("count", count)]
    least, most = float(maps.min()), float(maps.max())
    axes = _mosaic(shown, [], ax, "gray_r", (least, most))
    scale = f"{least:.3g} is white, {most:.3g} black"
    axes.set_title(f"{layer} {type(chosen).__name__}: {len(shown)} of {len(maps)} channels; {scale}", fontsize="small")
    return axes


def receptive_field(
    model: Sequential, image: Any, layer: int, unit: tuple[int, int] | None = None, *, ax: Axes | None = None
) -> Axes:
    """An image, and in a frame what a unit of a layer sees of it: the field that `fastnn.receptive_field` finds.

    `image`: (H, W), (H, W, 3), or what else has as many numbers, like those that the model was built for. `layer`: its number
    in `model.layers`; `unit`: (row, column) of its outputs; without it, what all its units see together.

        fastnn.plots.receptive_field(model, X_test[0], layer=1, unit=(3, 4))

    Raises what `fastnn.receptive_field` raises, and InputError for another image.
    """
    field = receptive_fields.receptive_field(model, layer, unit)
    features = model.network.features
    pixels = arrays.to_host(image)
    if pixels.size != math.prod(features):
        raise InputError(f"expected an image {features}, got {pixels.shape}")
    shown = pixels.reshape(1, *_side(features))
    axes = _mosaic(shown, [], ax, "gray_r", fields=[field])
    where = "all units" if unit is None else f"unit ({unit[0]}, {unit[1]})"
    seen = " and ".join(f"{name} {_written(part)}" for name, part in zip(("rows", "columns"), field, strict=True))
    axes.set_title(f"{layer} {type(model.layers[layer]).__name__}, {where}: {seen}", fontsize="small")
    return axes


def most_activating(
    model: Sequential,
    images: Any,
    layer: int,
    channel: int,
    count: int = 9,
    unit: tuple[int, int] | None = None,
    *,
    ax: Axes | None = None,
) -> Axes:
    """The images that a channel of a layer answers most, and beside each, enlarged, what the unit that answers sees of it.

    Arguments, and which images these are, are those of `fastnn.most_activating`; they are (n, H, W), (n, H, W, 3), or rows.
    Over each stands the answer, and a frame is around what is enlarged; where units see the whole image, images stand alone.

        fastnn.plots.save(fastnn.plots.most_activating(model, X_test, layer=1, channel=4), "channel.png")

    Raises what `fastnn.most_activating` raises. Source: Zeiler & Fergus 2014, figure 2.
    """
    found = receptive_fields.most_activating(model, images, layer, channel, count, unit)
    given, features = arrays.to_host(images), model.network.features
    shown = given[found.indices].reshape(len(found.indices), *_side(features))
    whole = (slice(0, features[0]), slice(0, features[1]))
    fields = [] if all(field == whole for field in found.fields) else found.fields
    axes = _mosaic(shown, [f"{value:.3g}" for value in found.values], ax, "gray_r", fields=fields, enlarged=True)
    part = "unit" if found.units is None else "channel"
    at = "" if unit is None else f" at ({unit[0]}, {unit[1]})"
    name = f"{layer} {type(model.layers[layer]).__name__}, {part} {channel}{at}"
    axes.set_title(f"{name}: the largest of {len(given)} images", fontsize="small")
    return axes


def _written(part: slice) -> str:
    return f"{part.start} to {part.stop - 1}" if part.stop > part.start else "none"


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
    images: np.ndarray,
    titles: Sequence[str],
    ax: Axes | None,
    shades: str,
    limits: tuple[float | None, ...] = (None, None),
    fields: Sequence[Field] = (),
    enlarged: bool = False,
) -> Axes:
    """Images (n, H, W) or (n, H, W, 3) in rows, each with its title above it, a frame around its field, and that `enlarged`."""
    axes = look.axes_for(ax)
    axes.set_axis_off()
    if not len(images):
        return axes
    n, height, width = images.shape[:3]
    pairs = enlarged and bool(fields)
    above = max((0.35 + 0.2 * title.count("\n") for title in titles), default=0.1)  # all in images
    high, wide = 1.0 + above, 2.25 if pairs else 1.1
    columns = min(n, math.ceil(math.sqrt(n * 1.4 * height / (wide / 1.1 * width))))
    rows = math.ceil(n / columns)
    if ax is None:
        look.enlarge(axes, columns * wide / 1.1 / COLUMNS)
    if images.ndim == 4 and images.dtype.kind == "f":
        images = np.clip(images, 0.0, 1.0)
    low = images.min() if limits[0] is None else limits[0]
    top = images.max() if limits[1] is None else limits[1]

    def show(image: np.ndarray, left: float, upper: float, across: float, down: float) -> None:
        where = (left, left + across, upper + down, upper)
        axes.imshow(image, cmap=shades, vmin=low, vmax=top, extent=where, interpolation="nearest")

    for index, image in enumerate(images):
        x, y = wide * (index % columns), high * (index // columns)
        show(image, x, y, 1.0, 1.0)
        if fields:
            seen_rows, seen_columns = fields[index]
            tall, broad = (part.stop - part.start for part in fields[index])
            if tall and broad:
                _outline(axes, x + seen_columns.start / width, y + seen_rows.start / height, broad / width, tall / height, True)
                if pairs:
                    times = min(height / tall, width / broad)
                    beside = x + 1.05, y, times * broad / width, times * tall / height
                    show(image[fields[index]], *beside)
                    _outline(axes, *beside)
        if titles:
            axes.text(x + 0.5, y - 0.05, titles[index], ha="center", va="bottom", fontsize="x-small")
    axes.set_xlim(0.0, wide * columns)
    axes.set_ylim(high * rows - above, 0.05 - above if titles else 0.0)
    axes.set_aspect(height / width)
    fonts.cover(axes)
    return axes


def _outline(axes: Axes, x: float, y: float, wide: float, high: float, within: bool = False) -> None:
    """A frame; `within` an image with white beside it, so that it is seen on every color."""
    from matplotlib.patches import Rectangle

    for color, width in (("white", 2.4), (look.COLORS[1], 1.2)) if within else ((look.COLORS[1], 0.8),):
        axes.add_patch(Rectangle((x, y), wide, high, fill=False, edgecolor=color, linewidth=width))
