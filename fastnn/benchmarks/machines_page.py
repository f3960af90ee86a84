"""Machines side by side as a page: a curve for each, a column for each, and what differs between them.

The markup is in the Jinja template `machines.html`; here are the words and numbers for it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from html import escape
from typing import Any

from fastnn.benchmarks import curves, machines, markup
from fastnn.benchmarks.machines import Machine, Place
from fastnn.benchmarks.markup import EMPTY, Column, Table, number, rate_text, ratio_column, ratio_text, text
from fastnn.errors import InputError

STYLES = (
    ("#d55e00", "circle", "●"), ("#0072b2", "square", "■"), ("#009e73", "triangle-up", "▲"), ("#cc79a7", "diamond", "◆"),
    ("#56b4e9", "triangle-down", "▼"), ("#4b3aa0", "pentagon", "⬟"), ("#b8860b", "hexagon", "⬢"), ("#7f8f1f", "x", "✖"),
)  # fmt: skip
"""Of the machines in their order: a color, what Plotly calls the mark, and the mark; then from the beginning."""


def render(several: Sequence[Machine]) -> str:
    """The page of some machines. Raises InputError without any, and PackageError where plotly or Jinja is missing."""
    if not several:
        raise InputError("the records hold no cell in which fastnn was measured")
    markup.packages()
    places = machines.places(several)
    panels = [
        (key, list(group)) for key, group in itertools.groupby(places, key=lambda it: (it.network, it.precision, it.method))
    ]
    styles = list(itertools.islice(itertools.cycle(STYLES), len(several)))
    several_precisions = len({place.precision for place in places}) > 1
    return markup.render(
        "machines.html",
        headline=curves.headline_of(place.method for place in places),
        subject=", ".join(machine.label for machine in several),
        keys=[
            {"name": machine.label, "label": machine.label, "color": color, "mark": mark}
            for machine, (color, _, mark) in zip(several, styles, strict=True)
        ],
        titles=[
            curves.network_label(network)
            + (f"  in {precision}" if several_precisions else "")
            + ("" if method == "fit" else f"  {curves.method_label(method)}")
            for (network, precision, method), _ in panels
        ],
        has_peers=any(machine.ratios for machine in several),
        overview=_overview(several),
        cells=_cells(several, places),
        different=_different(several),
        same=machines.same(several),
        figures=[_figure(several, styles, group) for _, group in panels],
    )


def _figure(several: Sequence[Machine], styles: Sequence[tuple[str, str, str]], places: list[Place]) -> dict[str, Any]:
    """A line for each machine, and a dotted one for the best peers on it. Plotly reads markup in names: they are escaped."""
    import plotly.graph_objects as go

    figure, shown = go.Figure(), []
    for machine, (color, symbol, _) in zip(several, styles, strict=True):
        found = [(place.batch_size, machine.rates[place]) for place in places if place in machine.rates]
        ours = [(size, rates.ours, "", rates.noisy) for size, rates in found]
        peers = [(size, rates.peer, f"{rates.peer_label} on ", rates.noisy) for size, rates in found if rates.peer is not None]
        for points, dash, width in ((peers, "dot", 1.2), (ours, "solid", 2.5)):
            if points:
                figure.add_scatter(
                    x=[size for size, *_ in points], y=[rate for _, rate, *_ in points], name=escape(machine.label),
                    mode="lines+markers", line={"color": color, "width": width, "dash": dash},
                    marker={"symbol": symbol, "size": 8 if dash == "solid" else 5, "line": {"color": color, "width": 1.5}},
                    customdata=[escape(who) for *_, who, _ in points],
                    hovertemplate="<b>%{customdata}%{fullData.name}</b><br>mini-batch %{x}: %{y:.4s} examples/s<extra></extra>",
                    meta={"limit": False, "contestant": machine.label, "noisy": [noisy for *_, noisy in points]},
                )  # fmt: skip
                shown += [rate for _, rate, *_ in points]
    return markup.plain(figure, sorted({place.batch_size for place in places}), shown)


def _overview(several: Sequence[Machine]) -> Table:
    """A row a machine."""
    rows = []
    for machine in several:
        counts = machine.verdicts
        rows.append(
            [
                text(machine.label),
                number(len(machine.rates), str(len(machine.rates))),
                *(number(counts[word], str(counts[word])) for word in ("faster", "level", "slower")),
                EMPTY if math.isnan(machine.mean) else number(machine.mean, ratio_text(machine.mean)),
            ]
        )
    headers = ["machine", "-cells", "-faster than the best peer", "-level", "-slower", "-geometric mean of the ratios"]
    return Table("fastnn against the best peer, by machine", headers, rows)


def _cells(several: Sequence[Machine], places: Sequence[Place]) -> Table:
    """A row a cell; of each machine our examples a second, and our ratio to its best peer."""
    rows = []
    for place in places:
        row = [
            text(curves.network_in_row(place.network)),
            number(place.batch_size, str(place.batch_size)),
            text(", ".join(filter(None, (place.precision, curves.method_label(place.method))))),
        ]
        for machine in several:
            rates = machine.rates.get(place)
            row += [EMPTY, EMPTY] if rates is None else [_rate(rates.ours, rates.noisy), ratio_column(rates.ratio)]
        rows.append(row)
    headers = ["network", "-mini-batch", "precision"]
    for machine in several:
        headers += [f"-{machine.label} (examples/s)", "-to its best peer"]
    return Table("Every cell, by machine", headers, rows)


def _rate(rate: float, noisy: bool) -> Column:
    return number(rate, rate_text(rate) + " noisy" * noisy, "noisy" * noisy)


def _different(several: Sequence[Machine]) -> Table | None:
    """A row for what is not the same everywhere, a column a machine."""
    rows = [
        [text(what), *(text(said, "not said") for said in texts)] for what, texts in machines.differing(several).items()
    ]  # fmt: skip
    return Table("What differs", ["what", *(machine.label for machine in several)], rows) if rows else None
