"""A record as a page: plots that can be zoomed, and every number in tables that can be sorted, in one file.

The markup is in the Jinja template `record.html`; here are the words and numbers for it.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from html import escape
from typing import Any

from fastnn.benchmarks import curves, markup
from fastnn.benchmarks.crossover import crossover_lines
from fastnn.benchmarks.grid import CALLS, NEIGHBOR, Cell
from fastnn.benchmarks.markup import EMPTY, Column, Table, number, rate_text, ratio_column, ratio_text, text
from fastnn.benchmarks.record import OURS, STATUS_TEXTS, Limit, Measured, Record, Result, geometric_mean
from fastnn.benchmarks.table import kind_label, microseconds, verdict

SYMBOLS = {
    "fastnn": ("circle", "●"), "torch": ("square", "■"), "jax": ("triangle-up", "▲"), "sklearn": ("diamond", "◆"),
    "torch-compile": ("triangle-down", "▼"), "torch-reduce": ("triangle-left", "◀"),
    "torch-autotune": ("triangle-right", "▶"), "torch-graph": ("pentagon", "⬟"), "jax-while": ("hexagon", "⬢"),
    "onnxruntime": ("star", "★"), "torch-nhwc": ("cross", "✚"), "compile-nhwc": ("diamond-tall", "♦"),
}  # fmt: skip
"""Of every contestant: what Plotly calls its mark, and the mark itself."""
OTHER_SYMBOL = ("x", "✖")
DASHES = ("solid", "dot", "dashdot")


def render(record: Record) -> str:
    """The page of a record, whatever is in it. Raises PackageError where plotly or Jinja is missing."""
    markup.packages()
    panels = curves.panels(record)
    return markup.render(
        "record.html",
        subject=record.environment.processor,
        headline=curves.headline(record),
        verdict=_verdict(record),
        machine=curves.machine_line(record.environment),
        settings=curves.settings_line(record),
        created=record.created,
        contestant_keys=_contestant_keys(record, panels),
        line_keys=_line_keys(panels),
        titles=[panel.title for panel in panels],
        absences=curves.absences(record),
        summary=_summary(record),
        crossovers=crossover_lines(record),
        results=_results(record),
        timings=_timings(record) if record.settings.timings else None,
        how=_how(record),
        contestants=[f"{who.label}: {who.notes}" if who.notes else who.label for who in record.contestants.values()],
        environment=_environment(record),
        limits=_limits(record),
        figures=[_figure(panel, record, curves.shown_devices(panels)) for panel in panels],
    )


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
    rates = [rate for limit in panel.limits for _, rate in limit.points]
    rates += [rate for curve in panel.curves for point in curve.points for rate in (point.slowest, point.fastest)]
    return markup.plain(figure, panel.batch_sizes, rates)


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


def _contestant_keys(record: Record, panels: list[curves.Panel]) -> list[dict[str, Any]]:
    """The legend of all plots begins with a switch for every contestant."""
    return [
        {
            "name": name,
            "label": record.contestants[name].label,
            "color": curves.color(name),
            "mark": SYMBOLS.get(name, OTHER_SYMBOL)[1],
            "ours": name == OURS,
        }
        for name in curves.shown_contestants(panels, record)
    ]


def _line_keys(panels: list[curves.Panel]) -> list[tuple[str, str]]:
    """Then it says what lines and marks mean: the dashes of a line, "" for none, and words."""
    devices = curves.shown_devices(panels)
    keys = []
    if len(devices) > 1:
        keys += [(dash, curves.device_label(device)) for device, dash in zip(devices, DASHES, strict=False)]
    if any(panel.limits for panel in panels):
        keys.append(("dash", "limit of the machine"))
    if any(point.noisy for panel in panels for curve in panel.curves for point in curve.points):
        keys.append(("", f"hollow: noisy, {curves.noise_text()}"))
    return keys


def _verdict(record: Record) -> dict[str, Any] | None:
    """In how many cells fastnn is faster than the best peer, level with it and slower; None where there is no peer."""
    ratios = [measured.ratio for measured in record.done if math.isfinite(measured.ratio)]
    if not ratios:
        return None
    counts = Counter(verdict(ratio) for ratio in ratios)
    words = {word: counts[word] for word in ("faster", "level", "slower")}
    return {**words, "cells": len(ratios), "mean": ratio_text(geometric_mean(ratios))}


def _summary(record: Record) -> Table:
    """A row a cell: who won, ours, the best peer."""
    rows = []
    several = len(curves.precisions_of(record)) > 1
    for measured in record.done:
        cell, best = measured.cell, measured.best_peer
        device = _device_text(cell) + (f" in {cell.precision}" if several else "")
        rows.append(
            [
                text(curves.network_in_row(cell.network)),
                number(cell.batch_size, str(cell.batch_size)),
                text(device),
                ratio_column(measured.ratio),
                _rate_column(measured, OURS),
                EMPTY if best is None else _rate_column(measured, best),
                text("" if best is None else record.contestants[best].label, "none was measured"),
                _share_column(record, measured, OURS),
                text(_remark(measured), reason=OURS not in measured.measured),
            ]
        )
    headers = ["network", "-mini-batch", "device", "-ratio fastnn / best peer", "-fastnn (examples/s)",
               "-best peer (examples/s)", "best peer", "-fastnn of the limit", "remarks"]  # fmt: skip
    return Table("fastnn against the best peer, by cell", headers, rows)


def _device_text(cell: Cell) -> str:
    """`CPU`, or `CPU, model(x)`."""
    return ", ".join(filter(None, (curves.device_label(cell.device), curves.method_label(cell.method))))


def _remark(measured: Measured) -> str:
    """Why there is nothing of ours to compare, or that the comparison is noisy."""
    ours = measured.results.get(OURS)
    if ours is not None and ours.status != "measured":
        return f"fastnn: {curves.absence(ours)}"
    return "noisy" if measured.noisy else ""


def _results(record: Record) -> Table:
    """A row for every contestant in every cell, measured or not."""
    rows = []
    for measured in record.done:
        for name, result in measured.results.items():
            cell, ran = measured.cell, result.status == "measured"
            first, peak = result.first_seconds, result.peak_bytes
            rows.append(
                [
                    text(curves.network_in_row(cell.network)),
                    number(cell.batch_size, str(cell.batch_size)),
                    text(_device_text(cell)),
                    text(cell.precision),
                    number(measured.threads, str(measured.threads)),
                    text(record.contestants[name].label, mine=name == OURS),
                    _rate_column(measured, name),
                    _spread_column(result),
                    _share_column(record, measured, name),
                    EMPTY if name == OURS else ratio_column(_ratio_to(measured, name)),
                    EMPTY if first is None else number(first, f"{first:.3g}"),
                    EMPTY if peak is None else number(peak, f"{peak / 2**20:,.0f}"),
                    text("measured" if ran else curves.absence(result), reason=not ran),
                ]
            )
    headers = ["network", "-mini-batch", "device", "precision", "-threads", "contestant", "-examples/s", "-spread",
               "-of the limit", "-ratio fastnn / this", "-first epoch (s)", "-peak memory (MiB)", "state"]  # fmt: skip
    return Table("Every cell and contestant", headers, rows)


def _timings(record: Record) -> Table:
    """What else was timed, a row for every contestant that was measured in a cell, a column for every kind."""
    rows = [
        [
            text(curves.network_in_row(measured.cell.network)),
            number(measured.cell.batch_size, str(measured.cell.batch_size)),
            text(_device_text(measured.cell)),
            text(record.contestants[name].label, mine=name == OURS),
            *(_timing_column(measured, name, kind) for kind in ("", *record.settings.timings)),
        ]
        for measured in record.done
        for name in measured.measured
    ]
    kinds = ["epoch", *map(kind_label, record.settings.timings)]
    headers = ["network", "-mini-batch", "device", "contestant", *(f"-{kind} (µs a step)" for kind in kinds)]
    return Table("Microseconds of a step in every kind of calls", headers, rows)


def _timing_column(measured: Measured, name: str, kind: str) -> Column:
    """Microseconds of a step, of a peer with the sign of our ratio to it; or what kept them from being measured."""
    result = measured.results[name]
    timing = result.timings.get(kind) if kind else result
    seconds = measured.step_seconds(name, kind)
    if timing is None or math.isnan(seconds):
        return Column("" if timing is None else timing.reason, kind="reason")
    ours = measured.step_seconds(OURS, kind) if OURS in measured.measured else math.nan
    compared = EMPTY if name == OURS else ratio_column(seconds / ours)
    content = microseconds(seconds) + (" noisy" if timing.noisy else "")
    return replace(compared, text=content, sort=repr(seconds))


def _ratio_to(measured: Measured, name: str) -> float:
    """Our throughput to that of one peer; NaN where one of them is missing."""
    if not {OURS, name} <= measured.measured.keys():
        return math.nan
    return measured.examples_per_second(OURS) / measured.examples_per_second(name)


def _rate_column(measured: Measured, name: str) -> Column:
    """Where there is no rate, what kept it from being measured."""
    if name not in measured.measured:
        kept = STATUS_TEXTS[measured.results[name].status] if name in measured.results else ""
        return Column(kept, kind="number faint")
    rate = measured.examples_per_second(name)
    return number(rate, rate_text(rate))


def _share_column(record: Record, measured: Measured, name: str) -> Column:
    share = record.roofline_share(measured, name)
    return number(share, f"{share:.1%}" if share > 0.01 else f"{100 * share:.2g}%")


def _spread_column(result: Result) -> Column:
    """Marked by a word too, not by its color alone."""
    return number(result.spread, f"{result.spread:.0%}{' noisy' if result.noisy else ''}", "noisy" if result.noisy else "")


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
        "machine's measured rates of arithmetic and of copying." + _how_else(record)
    )


def _how_else(record: Record) -> str:
    """What the record's other timings are."""
    words = ""
    if any(cell.inference for cell in record.settings.cells):
        words += (
            " In inference a turn is of calls for the same rows, NumPy arrays in and out, and outputs are compared instead of "
            "losses."
        )
    if NEIGHBOR in record.settings.timings:
        words += (
            " Beside a neighbor, each had a turn of the same epochs right after its turn alone, while another process kept one "
            "of the cores busy."
        )
    if not CALLS.keys() & {*record.settings.timings}:
        return words
    return words + (
        " Short calls are of fit for 1, 4 and 16 steps, and of partial_fit and a training_step for one, each on rows of arrays "
        "of the host and with its loss read back; a peer without such calls does the same loop, PyTorch eagerly and JAX in one "
        "jitted function. They had their turns in the same rounds and processes, and their time is divided by their steps."
    )


def _environment(record: Record) -> dict[str, str]:
    environment, settings = record.environment, record.settings
    return {
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


def _limits(record: Record) -> Table | None:
    """The best rates that were ever measured on this machine, of which shares are, and those of this run."""
    headers = ["device", "precision", "-threads", "rates", "-arithmetic (GFLOP/s)", "-copying (GB/s), smallest to largest"]
    rows = [row for limit in record.limits for row in _limit_rows(limit)]
    return Table("Limits of the machine", headers, rows) if rows else None


def _limit_rows(limit: Limit) -> list[list[Column]]:
    rows = []
    for what, rates in (("best", limit.best), ("this run", limit.now)):
        copies = [rate / 1e9 for _, rate in rates.copies]
        rows.append(
            [
                text(curves.device_label(limit.device)),
                text(limit.precision),
                number(rates.threads, str(rates.threads)),
                text(what),
                number(rates.operations, f"{rates.operations / 1e9:,.1f}"),
                number(max(copies), ", ".join(f"{copy:,.1f}" for copy in copies)),
            ]
        )
    return rows
