"""A record as a page: plots that can be zoomed, and every number in tables that can be sorted, in one file.

The page asks the network for nothing, and its content security policy lets it ask for nothing. What a record says is foreign:
it is escaped wherever it stands, and only the two scripts that are written into the page here may run. plotly is imported when
a page is made.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import json
import math
import re
from collections import Counter
from html import escape
from typing import Any

from fastnn.benchmarks import curves
from fastnn.benchmarks.crossover import crossover_lines
from fastnn.benchmarks.record import OURS, STATUS_TEXTS, Limit, Measured, Record, Result, geometric_mean
from fastnn.benchmarks.table import verdict
from fastnn.errors import PackageError

SYMBOLS = {
    "fastnn": ("circle", "●"), "torch": ("square", "■"), "jax": ("triangle-up", "▲"), "sklearn": ("diamond", "◆"),
    "torch-compile": ("triangle-down", "▼"), "torch-reduce": ("triangle-left", "◀"),
    "torch-autotune": ("triangle-right", "▶"), "torch-graph": ("pentagon", "⬟"), "jax-while": ("hexagon", "⬢"),
}  # fmt: skip
"""Of every contestant: what Plotly calls its mark, and the mark itself."""
OTHER_SYMBOL = ("x", "✖")
DASHES = ("solid", "dot", "dashdot")
EMPTY = '<td class="number" data-sort=""></td>'


def render(record: Record) -> str:
    """The page of a record, whatever is in it. Raises PackageError where plotly is missing."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise PackageError.of("plotly", "a page", error) from error
    panels = curves.panels(record)
    plotly, script = get_plotlyjs(), _resource("page.js")
    environment = record.environment
    parts = {
        "policy": _policy(plotly, script),
        "style": _resource("page.css"),
        "processor": escape(environment.processor),
        "verdict": _verdict(record),
        "machine": escape(curves.machine_line(environment)),
        "settings": escape(curves.settings_line(record)),
        "created": escape(record.created),
        "keys": _keys(record, panels),
        "plots": "".join(_plot(panel) for panel in panels) or "<p>Nothing was measured.</p>",
        "absences": _absences(record),
        "summary": _summary(record),
        "crossovers": _list(crossover_lines(record)),
        "results": _results(record),
        "how": _how(record),
        "contestants": _contestants(record),
        "environment": _environment(record),
        "limits": _limits(record),
        "figures": _json([_figure(panel, record, curves.shown_devices(panels)) for panel in panels]),
        "plotly": plotly,
        "script": script,
    }
    # In one pass, so that nothing of a record is taken for a place to fill.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], _resource("page.html"))


def _resource(name: str) -> str:
    return importlib.resources.files("fastnn.benchmarks").joinpath(name).read_text(encoding="utf-8")


def _policy(*scripts: str) -> str:
    """Only these scripts, only styles of the page, only pictures that it makes, nothing from elsewhere."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _json(value: Any) -> str:
    """For a script element: no character that could end it."""
    text = json.dumps(value)
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def _figure(panel: curves.Panel, record: Record, devices: list[str]) -> dict[str, Any]:
    """A Plotly figure as plain data. Plotly reads markup in names and labels: they are escaped too."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for limit in panel.limits:
        line: tuple[tuple[float, float], ...] = limit.points
        if len(line) == 1:
            # Through a single point it goes across.
            line = tuple((size * aside, rate) for size, rate in line for aside in (1 / 1.5, 1.5))
        name = escape(f"limit of the {curves.device_label(limit.device)}")
        figure.add_scatter(
            x=[size for size, _ in line], y=[rate for _, rate in line], name=name, mode="lines+text",
            line={"dash": "dash", "width": 1.2}, textposition="top left", textfont={"size": 11},
            text=[""] * (len(line) - 1) + [name if len(devices) > 1 else "limit"],
            hovertemplate="%{fullData.name}<br>mini-batch %{x}: %{y:.4s} examples/s<extra></extra>",
            meta={"limit": True, "contestant": None},
        )  # fmt: skip
    for curve in panel.curves:
        _add_curve(figure, curve, record, devices)
    sizes = panel.batch_sizes
    low, high = math.log10(sizes[0] / 1.6), math.log10(sizes[-1] * 1.6)
    axis = {"showline": True, "automargin": True, "zeroline": False}
    figure.update_layout(
        template="none", showlegend=False, margin={"l": 10, "r": 10, "t": 10, "b": 10}, paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)", font={"size": 12, "family": "system-ui, sans-serif"}, hovermode="closest",
        xaxis=axis | {
            "type": "log", "title": {"text": "mini-batch size (examples)"}, "range": [low, high], "tickmode": "array",
            "tickvals": _apart(sizes), "ticktext": [str(size) for size in _apart(sizes)], "tickangle": 0,
        },
        yaxis=axis | _between(panel) | {"type": "log", "title": {"text": "throughput (examples/s)"}, "tickformat": "~s"},
    )  # fmt: skip
    data: dict[str, Any] = json.loads(figure.to_json())
    return data


def _between(panel: curves.Panel) -> dict[str, Any]:
    """Numbers at the powers of ten; at 1, 2 and 5 where few powers are in sight, and as Plotly likes where none is."""
    rates = [rate for limit in panel.limits for _, rate in limit.points]
    rates += [rate for curve in panel.curves for point in curve.points for rate in (point.slowest, point.fastest)]
    decades = math.log10(max(rates) / min(rates))
    return {"dtick": 1} if decades > 2.5 else {"dtick": "D2"} if decades > 0.7 else {"nticks": 8}


def _apart(sizes: list[int]) -> list[int]:
    """Those whose numbers do not touch on an axis: at least three times the one before."""
    shown: list[int] = []
    for size in sizes:
        if not shown or size >= 3 * shown[-1]:
            shown.append(size)
    return shown


def _add_curve(figure: Any, curve: curves.Curve, record: Record, devices: list[str]) -> None:
    points, ours, color = curve.points, curve.contestant == OURS, curves.color(curve.contestant)
    label = record.contestants[curve.contestant].label
    rates = [point.rate for point in points]
    figure.add_scatter(
        x=[point.batch_size for point in points], y=rates, mode="lines+markers",
        name=escape(label + (f", {curves.device_label(curve.device)}" if len(devices) > 1 else "")),
        line={"color": color, "width": 3 if ours else 1.5, "dash": DASHES[devices.index(curve.device) % len(DASHES)]},
        marker={
            "symbol": SYMBOLS.get(curve.contestant, OTHER_SYMBOL)[0], "size": 9 if ours else 7, "opacity": 1,
            "line": {"color": color, "width": 1.5},
        },
        error_y={
            "type": "data", "symmetric": False, "width": 0, "thickness": 1.2,
            "array": [point.fastest - point.rate for point in points],
            "arrayminus": [point.rate - point.slowest for point in points],
        },
        customdata=[
            [point.slowest, point.fastest, "<br>noisy" if point.noisy else ""] for point in points
        ],
        hovertemplate="<b>%{fullData.name}</b><br>mini-batch %{x}: %{y:.4s} examples/s<br>"
        "turns from %{customdata[0]:.4s} to %{customdata[1]:.4s}%{customdata[2]}<extra></extra>",
        meta={"limit": False, "contestant": curve.contestant, "noisy": [point.noisy for point in points]},
    )  # fmt: skip


def _plot(panel: curves.Panel) -> str:
    title = escape(panel.title)
    label = f"{title}: throughput by mini-batch size; the numbers are in the tables below"
    return f'<figure><figcaption>{title}</figcaption><div class="plot" role="img" aria-label="{label}"></div></figure>'


def _keys(record: Record, panels: list[curves.Panel]) -> str:
    """The legend of all plots: a switch for every contestant, then what lines and marks mean."""
    entries = []
    for name in curves.shown_contestants(panels, record):
        mark = f'<span style="color:{curves.color(name)}">{SYMBOLS.get(name, OTHER_SYMBOL)[1]}</span>'
        entries.append(
            f'<button type="button" aria-pressed="true" data-contestant="{escape(name)}"{_class("ours", name == OURS)}>'
            f"{mark} {escape(record.contestants[name].label)}</button>"
        )
    devices = curves.shown_devices(panels)
    if len(devices) > 1:
        for device, dash in zip(devices, DASHES, strict=False):
            entries.append(f'<span><span class="sample {dash}"></span>{escape(curves.device_label(device))}</span>')
    if any(panel.limits for panel in panels):
        entries.append('<span><span class="sample dash"></span>limit of the machine</span>')
    if any(point.noisy for panel in panels for curve in panel.curves for point in curve.points):
        entries.append(f"<span>hollow: noisy, {curves.noise_text()}</span>")
    return "".join(entries)


def _absences(record: Record) -> str:
    lines = curves.absences(record)
    return f"<h3>Not in the plots</h3>{_list(lines)}" if lines else ""


def _list(lines: list[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _class(name: str, wanted: bool = True) -> str:
    return f' class="{name}"' if wanted else ""


def _verdict(record: Record) -> str:
    """In how many cells fastnn is faster and in how many slower than the best peer, or level with it."""
    ratios = [measured.ratio for measured in record.done if math.isfinite(measured.ratio)]
    if not ratios:
        return "fastnn was compared with nobody."
    counts = Counter(verdict(ratio) for ratio in ratios)
    level = f", level in <strong>{counts['level']}</strong>," * (counts["level"] > 0)
    return (
        f"Against the fastest peer of each cell, fastnn is faster in <strong>{counts['faster']}</strong> of {len(ratios)} cells"
        f"{level} and slower in <strong>{counts['slower']}</strong>; the geometric mean of the ratios is "
        f"<strong>{_ratio(geometric_mean(ratios))}</strong>."
    )


def _summary(record: Record) -> str:
    """A row a cell: who won, ours, the best peer."""
    rows = []
    several = len(curves.precisions_of(record)) > 1
    for measured in record.done:
        cell, best = measured.cell, measured.best_peer
        device = curves.device_label(cell.device) + (f" in {cell.precision}" if several else "")
        rows.append(
            [
                _text(curves.network_label(cell.network)),
                _number(cell.batch_size, str(cell.batch_size)),
                _text(device),
                _ratio_column(measured.ratio),
                _rate_column(measured, OURS),
                EMPTY if best is None else _rate_column(measured, best),
                _text("" if best is None else record.contestants[best].label, "none was measured"),
                _share_column(record, measured, OURS),
                _text(_remark(measured), reason=OURS not in measured.measured),
            ]
        )
    headers = ["network", "-mini-batch", "device", "-ratio fastnn / best peer", "-fastnn (examples/s)",
               "-best peer (examples/s)", "best peer", "-fastnn of the limit", "remarks"]  # fmt: skip
    return _table("fastnn against the best peer, by cell", headers, rows)


def _remark(measured: Measured) -> str:
    """Why there is nothing of ours to compare, or that the comparison is noisy."""
    ours = measured.results.get(OURS)
    if ours is not None and ours.status != "measured":
        return f"fastnn: {curves.absence(ours)}"
    return "noisy" if measured.noisy else ""


def _results(record: Record) -> str:
    """A row for every contestant in every cell, measured or not."""
    rows = []
    for measured in record.done:
        for name, result in measured.results.items():
            cell, ran = measured.cell, result.status == "measured"
            first, peak = result.first_seconds, result.peak_bytes
            rows.append(
                [
                    _text(curves.network_label(cell.network)),
                    _number(cell.batch_size, str(cell.batch_size)),
                    _text(curves.device_label(cell.device)),
                    _text(cell.precision),
                    _number(measured.threads, str(measured.threads)),
                    _text(record.contestants[name].label, mine=name == OURS),
                    _rate_column(measured, name),
                    _spread_column(result),
                    _share_column(record, measured, name),
                    EMPTY if name == OURS else _ratio_column(_ratio_to(measured, name)),
                    EMPTY if first is None else _number(first, f"{first:.3g}"),
                    EMPTY if peak is None else _number(peak, f"{peak / 2**20:,.0f}"),
                    _text("measured" if ran else curves.absence(result), reason=not ran),
                ]
            )
    headers = ["network", "-mini-batch", "device", "precision", "-threads", "contestant", "-examples/s", "-spread",
               "-of the limit", "-ratio fastnn / this", "-first epoch (s)", "-peak memory (MiB)", "state"]  # fmt: skip
    return _table("Every cell and contestant", headers, rows)


def _ratio_to(measured: Measured, name: str) -> float:
    """Our throughput to that of one peer; NaN where one of them is missing."""
    if not {OURS, name} <= measured.measured.keys():
        return math.nan
    return measured.examples_per_second(OURS) / measured.examples_per_second(name)


def _rate_column(measured: Measured, name: str) -> str:
    """Where there is no rate, what kept it from being measured."""
    if name not in measured.measured:
        kept = STATUS_TEXTS[measured.results[name].status] if name in measured.results else ""
        return f'<td class="number faint" data-sort="">{kept}</td>'
    rate = measured.examples_per_second(name)
    return _number(rate, _rate(rate))


def _share_column(record: Record, measured: Measured, name: str) -> str:
    share = record.roofline_share(measured, name)
    return _number(share, f"{share:.1%}" if share > 0.01 else f"{100 * share:.2g}%")


def _spread_column(result: Result) -> str:
    """Marked by a word too, not by its color alone."""
    return _number(result.spread, f"{result.spread:.0%}{' noisy' if result.noisy else ''}", "noisy" if result.noisy else "")


def _ratio_column(ratio: float) -> str:
    """Marked by a sign too, not by its color alone."""
    word = verdict(ratio)
    sign, style = {"slower": ("▼", "lost"), "level": ("=", ""), "faster": ("▲", "won")}[word]
    text = f'<span aria-hidden="true">{sign}</span> {_ratio(ratio)}<span class="hidden"> {word}</span>'
    return _number(ratio, text, style if math.isfinite(ratio) else "")


def _ratio(ratio: float) -> str:
    """Three digits that count, so that what is slower is never shown as 1.00."""
    return f"{ratio:.{3 if ratio < 1 else 2 if ratio < 10 else 1 if ratio < 100 else 0}f}"


def _rate(rate: float) -> str:
    """Four digits that count, in groups of three."""
    return f"{float(f'{rate:.4g}'):,.0f}" if rate >= 1000 else f"{rate:.4g}"


def _number(value: float, markup: str, kind: str = "") -> str:
    """A column that is sorted by its value; empty for NaN. `markup` is ours, not a record's."""
    if not math.isfinite(value):
        return EMPTY
    return f'<td class="number{" " + kind if kind else ""}" data-sort="{value!r}">{markup}</td>'


def _text(text: str, otherwise: str = "", *, reason: bool = False, mine: bool = False) -> str:
    """A column that is sorted by its words; `otherwise` is shown where there are none, and sorted last."""
    kind = _class("reason", reason) or _class("mine", mine)
    return f'<td{kind} data-sort="{escape(text)}">{escape(text or otherwise)}</td>'


def _table(label: str, headers: list[str], rows: list[list[str]]) -> str:
    """A table to be sorted; a header that begins with `-` is of numbers."""
    if not rows:
        return "<p>No cell was run.</p>"
    head = "".join(
        f'<th scope="col" aria-sort="none"{_class("number", header[0] == "-")}>'
        f'<button type="button">{header.removeprefix("-")}</button></th>'
        for header in headers
    )
    body = "".join(f"<tr>{''.join(row)}</tr>\n" for row in rows)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{label}"><table class="sortable">'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def _how(record: Record) -> str:
    settings = record.settings
    processes = f"{settings.processes} processes, its peers in up to {settings.peer_processes}"
    return (
        "Every contestant runs in a process of its own, on the same cores with the same number of threads, and from the same "
        "weights and mini-batches its first losses must be those of fastnn, or it is not timed. "
        f"Then all take turns of about {settings.seconds:g} s, one each in every one of {settings.rounds} rounds, with another "
        f"one first each round, until the rounds are over or the {settings.budget:g} s of the cell are spent; fastnn takes "
        f"them in up to {processes}. "
        "Throughput is the examples of an epoch over the median of its seconds, spread is slowest less fastest turn over the "
        f"median (noisy: {curves.noise_text()}), and the limit is what the calls of a training step would reach at the "
        "machine's measured rates of arithmetic and of copying."
    )


def _contestants(record: Record) -> str:
    return _list([f"{who.label}: {who.notes}" if who.notes else who.label for who in record.contestants.values()])


def _environment(record: Record) -> str:
    environment, settings = record.environment, record.settings
    lines = {
        "processor": environment.processor,
        "vector instructions": environment.features or "none that is known",
        "cores": str(environment.cores),
        "threads": f"{settings.threads} for every contestant, pinned to as many cores",
        "memory": curves.gibibytes(environment.memory) if environment.memory else "unknown",
        "GPU": curves.gpu_text(environment),
        "system": f"{environment.system}, Python {environment.python}",
        "versions": ", ".join(f"{name} {version}" for name, version in environment.versions.items()),
        "commit": environment.commit or "unknown",
        "measured": record.created,
        "settings": f"{settings.rounds} rounds, {settings.seconds:g} s a turn, {settings.budget:g} s a cell, "
        f"up to {settings.processes} processes of fastnn and {settings.peer_processes} of a peer",
        "cells": f"{len(record.done)} of {len(settings.cells)} run",
        "not run yet": ", ".join(map(str, record.left)) or "none",
    }
    return f"<dl>{''.join(f'<dt>{what}</dt><dd>{escape(text)}</dd>' for what, text in lines.items())}</dl>"


def _limits(record: Record) -> str:
    """The best rates that were ever measured on this machine, of which shares are, and those of this run."""
    if not record.limits:
        return "<p>They were not measured.</p>"
    headers = ["device", "precision", "-threads", "rates", "-arithmetic (GFLOP/s)", "-copying (GB/s), smallest to largest"]
    rows = [row for limit in record.limits for row in _limit_rows(limit)]
    note = "<p>A step is held against the best that this machine has shown, in this run or before.</p>"
    return note + _table("Limits of the machine", headers, rows)


def _limit_rows(limit: Limit) -> list[list[str]]:
    rows = []
    for what, rates in (("best", limit.best), ("this run", limit.now)):
        copies = [rate / 1e9 for _, rate in rates.copies]
        rows.append(
            [
                _text(curves.device_label(limit.device)),
                _text(limit.precision),
                _number(rates.threads, str(rates.threads)),
                _text(what),
                _number(rates.operations, f"{rates.operations / 1e9:,.1f}"),
                _number(max(copies), ", ".join(f"{copy:,.1f}" for copy in copies)),
            ]
        )
    return rows
