"""How results show themselves in a notebook, which asks them for HTML."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

COLORS = {"loss": "#0072B2", "val_loss": "#D55E00"}
"""Of the curves that are drawn: those of `fastnn.plots`."""
WIDTH, HEIGHT, MARGIN = 420, 160, 48
"""Of a picture of curves, in pixels, and what is left of it for numbers."""


class Printed:
    """What shows itself as it is printed."""

    def _repr_html_(self) -> str:
        return preformatted(str(self))


def preformatted(text: str) -> str:
    """Text as it is, in letters of one width."""
    return f'<pre style="line-height: 1.25">{html.escape(text)}</pre>'


def history(columns: Mapping[str, Sequence[float]], remark: str) -> str:
    """The curves of the losses, and what the last epoch was like."""
    epochs = max((len(values) for values in columns.values()), default=0)
    if not epochs:
        return preformatted("no epoch yet")
    names = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    last = "".join(f"<td>{values[-1]:.4g}</td>" for values in columns.values())
    table = f"<table><tr><th>epoch</th>{names}</tr><tr><td>{epochs}</td>{last}</tr></table>"
    return f"{curves({name: columns[name] for name in COLORS if name in columns})}{table}<small>{html.escape(remark)}</small>"


def curves(columns: Mapping[str, Sequence[float]]) -> str:
    """Curves over epochs as SVG, NaN left out; nothing where there are no two numbers."""
    values = [value for column in columns.values() for value in column if math.isfinite(value)]
    epochs = max((len(column) for column in columns.values()), default=0)
    if epochs < 2 or not values:
        return ""
    least, most = min(values), max(values)
    span = (most - least) or 1.0
    right, bottom = WIDTH - 8, HEIGHT - 20
    parts = [
        f'<path d="M{MARGIN} 8V{bottom}H{right}" fill="none" stroke="#888"/>',
        f'<text x="{MARGIN - 6}" y="14" text-anchor="end">{most:.3g}</text>',
        f'<text x="{MARGIN - 6}" y="{bottom}" text-anchor="end">{least:.3g}</text>',
        f'<text x="{MARGIN}" y="{HEIGHT - 6}">1</text>',
        f'<text x="{right}" y="{HEIGHT - 6}" text-anchor="end">epoch {epochs}</text>',
    ]
    for place, (name, column) in enumerate(columns.items()):
        points = " ".join(
            f"{MARGIN + (right - MARGIN) * epoch / (epochs - 1):.1f},{bottom - (bottom - 8) * (value - least) / span:.1f}"
            for epoch, value in enumerate(column)
            if math.isfinite(value)
        )
        color = COLORS.get(name, "#000000")
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.6"/>')
        parts.append(f'<text x="{right}" y="{20 + 14 * place}" text-anchor="end" fill="{color}">{html.escape(name)}</text>')
    size = f'width="{WIDTH}" height="{HEIGHT}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">{"".join(parts)}</svg>'
