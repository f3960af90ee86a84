"""How all pictures look: colours, size, and the frame of axes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastnn.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
"""Okabe & Ito 2008, Color Universal Design; the faint yellow last. Whoever needs more begins again."""
TRAINING, VALIDATION = COLORS[:2]
SIZE = (4.8, 3.4)
"""Width and height of a figure with one panel, in inches."""
POINTS_PER_INCH = 150
SHADES = "cividis"
"""A scale from dark blue to yellow whose lightness rises evenly, whatever colours the eye tells apart."""


def require() -> None:
    """Raise InputError where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise InputError("plots need matplotlib: pip install matplotlib") from error


def panels(count: int = 1) -> list[Axes]:
    """The axes of a new figure, side by side, which no window shows."""
    require()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(SIZE[0] if count == 1 else 0.9 * SIZE[0] * count, SIZE[1]), layout="constrained")
    return list(figure.subplots(1, count, squeeze=False)[0])


def axes_for(ax: Axes | None) -> Axes:
    """The axes that were given, or those of a new figure."""
    return panels()[0] if ax is None else ax


def color(index: int) -> str:
    return COLORS[index % len(COLORS)]


def frame(axes: Axes, x: str, y: str, legend: bool = True) -> Axes:
    """Name the axes, draw a faint grid behind everything and, where several things are named, a legend."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    if legend:
        explain(axes)
    return axes


def explain(axes: Axes, title: str | None = None) -> None:
    """Draw a legend of what has a name, if anything has."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small", title=title, title_fontsize="small", framealpha=0.8, edgecolor="none")
