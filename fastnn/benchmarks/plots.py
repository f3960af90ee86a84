"""A record as a picture: throughput by mini-batch size, a panel a network, beside the machine's limit.

What the picture cannot show it says: who is absent where, and below it where and how it was measured. matplotlib is imported
when something is drawn; it needs no display.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastnn.benchmarks import curves
from fastnn.benchmarks.record import OURS, Record
from fastnn.errors import FileError, InputError, PackageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

SUFFIXES = (".png", ".svg")
WIDTH = 9.0
"""Inches. Letters of 8 points are 11 pixels high where the picture is shown 900 pixels wide."""
DPI = 200
COLUMNS = 3
PANEL_HEIGHT = 2.25
GAP = 0.72
"""Inches between two rows of panels: for the numbers and the label below one and the title of the next."""
EDGE, LEFT, RIGHT = 0.15, 0.72, 0.15
TITLE, KEY = 0.38, 0.19
"""Inches that the title takes, and each line of the legend below it."""
LINE = 0.155
"""Inches from one line of small text to the next."""
NOTE_LETTERS, MOST_NOTES = 142, 14
LETTER = 0.075
"""Inches: the width of a letter of a panel's title."""
DIGIT = 0.068
"""Inches: the width of a digit below an axis."""
LABEL = 0.16
"""Inches between the names of two points, at least."""

INK, FAINT = "#222222", "#777777"
STYLE = {
    "font.family": "DejaVu Sans", "font.size": 8, "text.color": INK, "axes.edgecolor": "#999999", "axes.labelcolor": INK,
    "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": "#e6e6e6", "grid.linewidth": 0.6, "axes.axisbelow": True, "figure.facecolor": "white",
    "svg.fonttype": "none", "svg.hashsalt": "fastnn",
}  # fmt: skip
MARKERS = {
    "fastnn": "o", "torch": "s", "jax": "^", "sklearn": "D", "torch-compile": "v", "torch-reduce": "<",
    "torch-autotune": ">", "torch-graph": "p", "jax-while": "h", "onnxruntime": "*", "torch-nhwc": "P", "compile-nhwc": "d",
}  # fmt: skip
OTHER_MARKER = "X"
DASHES: tuple[Any, ...] = ("-", ":", "-.")
"""Of the devices, the CPU first; the limits are dashed."""


def draw(record: Record) -> Figure:
    """The picture of a record, whatever is in it. Raises PackageError where matplotlib is missing."""
    with _style():
        from matplotlib.figure import Figure

        panels = curves.panels(record)
        devices, notes, footer = curves.shown_devices(panels), _notes(record), _footer(record)
        columns = 2 if len(panels) == 4 else min(COLUMNS, max(1, len(panels)))
        rows = max(1, math.ceil(len(panels) / columns))
        height = PANEL_HEIGHT if len(panels) > 1 else 1.6 * PANEL_HEIGHT
        keys = [(handles, 5 if longest <= 18 else 3) for handles, longest in _keys(record, panels, devices) if handles]
        width = (WIDTH - LEFT - RIGHT - (columns - 1) * LEFT) / columns
        titles = [_wrap_title(panel.title, width + RIGHT) for panel in panels]
        more = 1.1 * LINE * max((title.count("\n") for title in titles), default=0)
        gap = GAP + more
        top = TITLE + sum(KEY * math.ceil(len(handles) / across) for handles, across in keys) + 0.3 + more
        total = top + rows * height + (rows - 1) * gap + 0.55 + LINE * (len(notes) + len(footer) + bool(notes)) + 0.1
        figure = Figure(figsize=(WIDTH, total))
        figure.text(
            EDGE / WIDTH, 1 - 0.1 / total, f"{curves.headline(record)} by mini-batch size", size=12, weight="bold", va="top"
        )  # fmt: skip
        y = TITLE
        for handles, across in keys:
            legend = figure.legend(
                handles=handles, loc="upper left", bbox_to_anchor=(EDGE / WIDTH, 1 - y / total), ncols=across,
                frameon=False, handlelength=2.4, columnspacing=1.6, borderaxespad=0, borderpad=0,
            )  # fmt: skip
            for label in legend.get_texts():
                label.set_parse_math(False)
            y += KEY * math.ceil(len(handles) / across)
        for index, (panel, title) in enumerate(zip(panels, titles, strict=True)):
            row, column = divmod(index, columns)
            x, y = LEFT + column * (width + LEFT), total - top - height - row * (height + gap)
            axes = figure.add_axes((x / WIDTH, y / total, width / WIDTH, height / total))
            axes.set_title(title, loc="left", size=9, weight="bold", parse_math=False)
            _draw_panel(axes, panel, record, devices, (width, height))
            if index + columns >= len(panels):
                axes.set_xlabel("mini-batch size (examples)")
            if column == 0:
                axes.set_ylabel("throughput (examples/s)")
        if not panels:
            figure.text(0.5, 1 - (top + height / 2) / total, "nothing was measured", ha="center", size=12, color=FAINT)
        lines = [*((text, INK) for text in notes), *([("", INK)] if notes else []), *((text, FAINT) for text in footer)]
        for index, (text, ink) in enumerate(reversed(lines)):
            y = (0.1 + LINE * index) / total
            figure.text(EDGE / WIDTH, y, text, size=7.5, color=ink, va="bottom", parse_math=False)
    return figure


def save(record: Record, paths: Sequence[Path]) -> None:
    """Draw a record into files, PNG or SVG by their names.

    Raises InputError for another kind of file, before anything is drawn, and FileError where one cannot be written.
    """
    for path in paths:
        if path.suffix not in SUFFIXES:
            raise InputError(f"{path}: expected a name that ends in {' or '.join(SUFFIXES)}")
    figure = draw(record)
    for path in paths:
        # The same record makes the same file: no date.
        metadata = {"Date": None} if path.suffix == ".svg" else {}
        with _style():
            try:
                figure.savefig(path, dpi=DPI, metadata=metadata)
            except OSError as error:
                raise FileError(f"{path} could not be written: {error.strerror or error}") from error


@contextmanager
def _style() -> Iterator[None]:
    """Ours, whatever the user's own settings are."""
    try:
        from matplotlib import style
    except ImportError as error:
        raise PackageError.of("matplotlib", "a plot", error) from error
    with style.context(STYLE, after_reset=True):
        yield


def _draw_panel(
    axes: Axes, panel: curves.Panel, record: Record, devices: list[str], inches: tuple[float, float]
) -> None:  # fmt: skip
    from matplotlib.ticker import NullFormatter

    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    sizes = panel.batch_sizes
    axes.set_xlim(sizes[0] / 1.5, sizes[-1] * 1.5)
    for limit in panel.limits:
        _draw_limit(axes, limit, devices)
    for curve in panel.curves:
        _draw_curve(axes, curve, devices)
    shown = _room_for(sizes, inches[0])
    axes.set_xticks(shown, [str(size) for size in shown])
    axes.set_xticks(sizes, minor=True)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(length=2.5)
    _number_rates(axes)
    if len(sizes) == 1:
        _name_points(axes, panel, record, devices, LABEL / inches[1])


def _wrap_title(title: str, width: float) -> str:
    """The lines of a title on so many inches: broken between words, and in the name of a network behind `-` and `,`."""
    lines = [""]
    for part in re.split(r"(?<=[-, ])(?! )", title):
        if lines[-1] and LETTER * len((lines[-1] + part).rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)


def _room_for(sizes: list[int], width: float) -> list[int]:
    """The mini-batch sizes whose numbers do not touch on an axis of so many inches, the largest first."""
    octave = width / math.log2(2.25 * sizes[-1] / sizes[0])
    shown = [sizes[-1]]
    for size in reversed(sizes[:-1]):
        if math.log2(shown[0] / size) * octave >= DIGIT * (len(f"{shown[0]}{size}") / 2 + 0.8):
            shown.insert(0, size)
    return shown


def _number_rates(axes: Axes) -> None:
    """`100 k` rather than a power of ten, and numbers between the powers where few of them are in sight."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    low, high = axes.get_ylim()
    decades = math.log10(high / low)
    between = (1.0,) if decades > 3 else (1.0, 3.0) if decades > 1.5 else (1.0, 2.0, 5.0)
    axes.yaxis.set_major_locator(LogLocator(subs=between if decades > 0.9 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
    axes.yaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.yaxis.set_minor_locator(NullLocator())


def _draw_limit(axes: Axes, limit: curves.LimitCurve, devices: list[str]) -> None:
    """Through a single point the line goes across."""
    sizes, rates = [size for size, _ in limit.points], [rate for _, rate in limit.points]
    if len(sizes) == 1:
        axes.axhline(rates[0], color=FAINT, linewidth=1, linestyle="--", zorder=2)
    else:
        axes.plot(sizes, rates, color=FAINT, linewidth=1, linestyle="--", zorder=2)
    if len(devices) > 1:
        axes.annotate(
            f"limit of the {curves.device_label(limit.device)}", (sizes[-1], rates[-1]), (0, 1.5), size=7, color=FAINT,
            textcoords="offset points", ha="right", va="bottom", parse_math=False,
        )  # fmt: skip


def _draw_curve(axes: Axes, curve: curves.Curve, devices: list[str]) -> None:
    """A line through the medians, bars from the slowest to the fastest turn, and hollow marks for noisy ones."""
    look, points, order = _look(curve.contestant), curve.points, 5 if curve.contestant == OURS else 3
    sizes, rates = [point.batch_size for point in points], [point.rate for point in points]
    dashes = DASHES[devices.index(curve.device) % len(DASHES)]
    axes.plot(sizes, rates, color=look["color"], linewidth=look["linewidth"], linestyle=dashes, zorder=order)
    axes.vlines(
        sizes, [point.slowest for point in points], [point.fastest for point in points],
        color=look["color"], linewidth=look["linewidth"], alpha=0.6, zorder=order,
    )  # fmt: skip
    for noisy in (False, True):
        chosen = [point for point in points if point.noisy == noisy]
        axes.plot(
            [point.batch_size for point in chosen], [point.rate for point in chosen],
            **(look | {"linestyle": "none", "markerfacecolor": "white" if noisy else look["color"], "zorder": order + 1}),
        )  # fmt: skip


def _name_points(axes: Axes, panel: curves.Panel, record: Record, devices: list[str], gap: float) -> None:
    """Who and how fast, beside the points of a single mini-batch size; moved apart by `gap` of the height where they touch."""
    from matplotlib.ticker import EngFormatter

    low, high = (math.log(limit) for limit in axes.get_ylim())
    ascending = sorted(panel.curves, key=lambda curve: curve.points[0].rate)
    heights = [(math.log(curve.points[0].rate) - low) / (high - low) for curve in ascending]
    for index in range(1, len(heights)):
        heights[index] = max(heights[index], heights[index - 1] + gap)
    for index in reversed(range(len(heights) - 1)):
        heights[index] = min(heights[index], heights[index + 1] - gap)
    rate = EngFormatter(sep=" ", places=1)
    for height, curve in zip(heights, ascending, strict=True):
        device = f", {curves.device_label(curve.device)}" if len(devices) > 1 else ""
        axes.annotate(
            f"{record.contestants[curve.contestant].label}{device}  {rate(curve.points[0].rate)}", (0.5, height), (9, 0),
            xycoords="axes fraction", textcoords="offset points", va="center", color=curves.color(curve.contestant),
            weight="bold" if curve.contestant == OURS else "normal", parse_math=False,
        )  # fmt: skip


def _look(contestant: str) -> dict[str, Any]:
    """Ours is drawn strongest."""
    ours = contestant == OURS
    return {
        "color": curves.color(contestant), "marker": MARKERS.get(contestant, OTHER_MARKER),
        "linewidth": 2.2 if ours else 1.1, "markersize": 5.5 if ours else 4,
    }  # fmt: skip


def _keys(record: Record, panels: list[curves.Panel], devices: list[str]) -> list[tuple[list[Line2D], int]]:
    """The legend in two parts, each with the letters of its longest label: the contestants, and what lines and marks mean."""
    from matplotlib.lines import Line2D

    names = curves.shown_contestants(panels, record)
    who = [Line2D([], [], label=record.contestants[name].label, **_look(name)) for name in names]
    what = []
    if len(devices) > 1:
        what += [
            Line2D([], [], color=INK, linewidth=1.1, linestyle=dashes, label=curves.device_label(device))
            for device, dashes in zip(devices, DASHES, strict=False)
        ]
    if any(panel.limits for panel in panels):
        what.append(Line2D([], [], color=FAINT, linewidth=1, linestyle="--", label="limit of the machine"))
    if any(point.noisy for panel in panels for curve in panel.curves for point in curve.points):
        label = f"noisy: {curves.noise_text()}"
        what.append(Line2D([], [], color=INK, marker="o", markerfacecolor="white", markersize=4, linestyle="none", label=label))
    return [(who, max((len(str(line.get_label())) for line in who), default=0)), (what, 0)]


def _notes(record: Record) -> list[str]:
    """Who is absent where, wrapped; where there are too many lines, how many are left for the record to tell."""
    wrapped = [
        textwrap.wrap(text, NOTE_LETTERS, max_lines=2, placeholder=" …", subsequent_indent="    ")
        for text in curves.absences(record)
    ]
    shown: list[str] = []
    for index, lines in enumerate(wrapped):
        if len(shown) + len(lines) > MOST_NOTES:
            return [*shown, f"and {len(wrapped) - index} more reasons, which the record tells"]
        shown += lines
    return shown


def _footer(record: Record) -> list[str]:
    lines = [
        f"{curves.settings_line(record)}; bars from the slowest to the fastest turn",
        curves.machine_line(record.environment),
        f"{curves.versions_line(record.environment)}; {record.created}",
    ]
    return [part for line in lines for part in textwrap.wrap(line, NOTE_LETTERS, subsequent_indent="    ")]
