"""How all pictures look: colors, size, and the frame of axes."""

from __future__ import annotations

import functools
import io
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn import arrays
from fastnn.errors import InputTypeError, PackageError
from fastnn.network.summary import shorten
from fastnn.plots import fonts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
"""Okabe & Ito 2008, Color Universal Design; the faint yellow last. Whoever needs more begins again."""
TRAINING, VALIDATION = COLORS[:2]
SIZE = (4.8, 3.4)
"""Width and height of a figure with one panel, in inches."""
GROWTH = 3.0
"""How many times its usual size a figure is at most."""
POINTS_PER_INCH = 150
SHADES = "cividis"
"""A scale from dark blue to yellow whose lightness rises evenly, whatever colors the eye tells apart."""
MARKERS = "os^DvPX*"
"""Dots of things that are more than the colors: those of the second eight are squares."""
NAMED = 8
"""Things up to which a legend lies within the axes, and layers up to which each is named."""
ROWS = 16
"""Of a legend beside the axes; what is more begins another column."""
LETTERS = 28
"""Up to which a name is written out."""


def require() -> None:
    """Raise PackageError where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise PackageError.of("matplotlib", "a plot", error) from error


def panels(count: int = 1) -> list[Axes]:
    """The axes of a new figure, side by side, which no window shows."""
    require()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(SIZE[0] if count == 1 else 0.9 * SIZE[0] * count, SIZE[1]), layout="constrained")
    return list(figure.subplots(1, count, squeeze=False, subplot_kw={"axes_class": _shown_axes()})[0])


@functools.cache
def _shown_axes() -> type[Axes]:
    """Axes that show their figure in a notebook, where no window does."""
    from matplotlib.axes import Axes

    class ShownAxes(Axes):
        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            self.figure.canvas.figure.savefig(file, format="png", dpi=POINTS_PER_INCH)
            return file.getvalue()

    return ShownAxes


def axes_for(ax: Axes | None) -> Axes:
    """The axes that were given, or those of a new figure; InputTypeError for what are none."""
    if ax is None:
        return panels()[0]
    require()
    from matplotlib.axes import Axes

    if not isinstance(ax, Axes):
        raise InputTypeError(f"ax: expected axes such as figure.subplots() makes, got {type(ax).__name__}")
    return ax


def numbers(name: str, values: Any) -> np.ndarray:
    """`values` in float64 on the host; InputTypeError for what are no numbers."""
    try:
        return np.asarray(arrays.to_host(values), np.float64)
    except (TypeError, ValueError) as error:
        raise InputTypeError(f"{name}: expected numbers, got {type(values).__name__}: {error}") from error


def require_parts(value: Any, expected: str, *names: str) -> None:
    """Raise InputTypeError for what does not have these attributes."""
    if not all(hasattr(value, name) for name in names):
        raise InputTypeError(f"expected {expected}, with {', '.join(names)}, got {type(value).__name__}")


def enlarge(axes: Axes, times: float) -> None:
    """Make the figure so many times as large as usual, from 1 to `GROWTH`."""
    times = min(max(1.0, times), GROWTH)
    axes.figure.canvas.figure.set_size_inches(times * SIZE[0], times * SIZE[1])


def color(index: int) -> str:
    return COLORS[index % len(COLORS)]


def marker(index: int) -> str:
    return MARKERS[index // len(COLORS) % len(MARKERS)]


def shades(count: int) -> Any:
    """Colors of layers, the first ones dark: (count, 4)."""
    from matplotlib import colormaps

    return colormaps[SHADES](np.linspace(0.0, 0.9, count))


def layer_name(name: object, index: int, count: int) -> str | None:
    """What stands in the legend for one of `count` layers: of many, the first and the last alone have a name."""
    return str(name) if count <= NAMED or index in (0, count - 1) else None


def frame(axes: Axes, x: str, y: str, legend: bool = True) -> Axes:
    """Name the axes, draw a faint grid behind everything and, where several things are named, a legend."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    if legend:
        explain(axes)
    fonts.cover(axes)
    return axes


def explain(axes: Axes, title: str | None = None) -> None:
    """Draw a legend of what has a name, if anything has: beside the axes where it would hide too much of them."""
    drawn, names = axes.get_legend_handles_labels()
    if not names:
        return
    beside: dict[str, Any] = {}
    if len(names) > NAMED:
        beside = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "ncols": math.ceil(len(names) / ROWS)}
        beside |= {"columnspacing": 0.8, "handletextpad": 0.2}
    written = [shorten(name, LETTERS) for name in names]
    axes.legend(
        drawn, written, fontsize="small", title=title, title_fontsize="small", framealpha=0.8, edgecolor="none", **beside
    )
    fonts.cover(axes)
