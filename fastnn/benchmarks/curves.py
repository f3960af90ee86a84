"""What a picture of a record shows, whatever draws it: curves, limits, who is absent, and where it was measured."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from fastnn.benchmarks.grid import METHODS, NETWORKS, Cell
from fastnn.benchmarks.record import NOISY, OURS, STATUS_TEXTS, Environment, Record, Result

DEVICE_LABELS = {"cpu": "CPU", "cuda": "GPU"}

COLORS = {
    "fastnn": "#d55e00", "torch": "#0072b2", "jax": "#009e73", "sklearn": "#cc79a7", "torch-compile": "#56b4e9",
    "torch-reduce": "#4b3aa0", "torch-autotune": "#b8860b", "torch-graph": "#882255", "jax-while": "#7f8f1f",
    "onnxruntime": "#e69f00", "torch-nhwc": "#1b2a6b", "compile-nhwc": "#8c564b",
}  # fmt: skip
"""Of every contestant, always the same: Okabe and Ito's colors for the CPU's, which are told apart by the color-blind."""
OTHER_COLOR = "#777777"


@dataclass(frozen=True)
class Point:
    """Examples a second at one mini-batch size: the median of the turns, the slowest and the fastest of them."""

    batch_size: int
    rate: float
    slowest: float
    fastest: float
    noisy: bool


@dataclass(frozen=True)
class Curve:
    """One contestant on one device, by mini-batch size."""

    contestant: str
    device: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class LimitCurve:
    """(mini-batch size, examples a second) at the machine's limit."""

    device: str
    points: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Panel:
    """The curves of one network in one precision. Ours come last, so that they lie on top."""

    network: str
    precision: str
    title: str
    curves: tuple[Curve, ...]
    limits: tuple[LimitCurve, ...]

    @property
    def batch_sizes(self) -> list[int]:
        return sorted({point.batch_size for curve in self.curves for point in curve.points})


def network_label(network: str) -> str:
    """`mnist  784-128-10`; a record may name a network that this version does not have: then its name alone."""
    return f"{network}  {NETWORKS[network].label}" if network in NETWORKS else network


def network_in_row(network: str) -> str:
    """The same in a table; of a network with convolutions, which are long, the name alone."""
    return network if network in NETWORKS and NETWORKS[network].image_layers else network_label(network)


def method_label(method: str) -> str:
    """`model(x)`; nothing for training."""
    return METHODS.get(method, method)


def headline(record: Record) -> str:
    """What the throughput is of."""
    return headline_of(cell.method for cell in record.settings.cells)


def headline_of(methods: Iterable[str]) -> str:
    """The same where these methods were called."""
    kinds = {"Training" if method == "fit" else "Inference" for method in methods}
    return "Training and inference throughput" if len(kinds) > 1 else f"{min(kinds, default='Training')} throughput"


def color(contestant: str) -> str:
    return COLORS.get(contestant, OTHER_COLOR)


def device_label(device: str) -> str:
    return DEVICE_LABELS.get(device, device)


def panels(record: Record) -> list[Panel]:
    """One for each network and precision with something measured, in the order of the record."""
    points: dict[tuple[str, str, str], dict[tuple[str, str], list[Point]]] = {}
    limits: dict[tuple[str, str, str], dict[str, list[tuple[int, float]]]] = {}
    for measured in sorted(record.done, key=lambda measured: measured.cell.batch_size):
        cell, limit = measured.cell, record.limit_examples_per_second(measured)
        place = (cell.network, cell.precision, cell.method)
        for name, result in measured.measured.items():
            points.setdefault(place, {}).setdefault((name, cell.device), []).append(_point(cell, result))
        if measured.measured and math.isfinite(limit):
            limits.setdefault(place, {}).setdefault(cell.device, []).append((cell.batch_size, limit))
    order = list(dict.fromkeys(measured.cell.network for measured in record.done))
    precisions = precisions_of(record)
    panels = []
    for place in sorted(points, key=lambda place: (order.index(place[0]), precisions.index(place[1]), place[2])):
        network, precision, method = place
        keys = sorted(points[place], key=lambda key: key[0] == OURS)
        panels.append(
            Panel(
                network, precision,
                network_label(network) + (f"  in {precision}" if len(precisions) > 1 else "")
                + ("" if method == "fit" else f"  {method_label(method)}"),
                tuple(Curve(*key, tuple(points[place][key])) for key in keys),
                tuple(LimitCurve(device, tuple(rates)) for device, rates in limits.get(place, {}).items()),
            )
        )  # fmt: skip
    return panels


def _point(cell: Cell, result: Result) -> Point:
    median, slowest, fastest = (cell.rows / seconds for seconds in (result.median, max(result.seconds), min(result.seconds)))
    return Point(cell.batch_size, median, slowest, fastest, result.noisy)


def shown_contestants(panels: list[Panel], record: Record) -> list[str]:
    """Those with a curve, in the order of the record."""
    names = {curve.contestant for panel in panels for curve in panel.curves}
    return [name for name in record.contestants if name in names]


def shown_devices(panels: list[Panel]) -> list[str]:
    """Those with a curve, the CPU first."""
    return sorted({curve.device for panel in panels for curve in panel.curves}, key=lambda device: (device != "cpu", device))


def precisions_of(record: Record) -> list[str]:
    return list(dict.fromkeys(measured.cell.precision for measured in record.done))


def absences(record: Record) -> list[str]:
    """Who has no point where, and why: a line for each reason. Cells that were not run yet come last."""
    cells: dict[tuple[str, str], list[Cell]] = {}
    for measured in record.done:
        for name, result in measured.results.items():
            if result.status != "measured":
                cells.setdefault((record.contestants[name].label, absence(result)), []).append(measured.cell)
    labels: dict[tuple[str, tuple[Cell, ...]], list[str]] = {}
    for (label, reason), where in cells.items():
        labels.setdefault((reason, tuple(where)), []).append(label)
    lines = [f"{', '.join(who)} ({_where(where, record)}): {reason}" for (reason, where), who in labels.items()]
    if record.left:
        lines.append(f"not run yet: {len(record.left)} of {len(record.settings.cells)} cells")
    return lines


def absence(result: Result) -> str:
    """Why a contestant was not measured: the kind of reason, and what is known beyond it."""
    kind, reason = STATUS_TEXTS[result.status], " ".join(result.reason.split())
    if kind in reason:
        return reason
    return f"{kind}: {reason}" if reason else kind


def _where(cells: tuple[Cell, ...], record: Record) -> str:
    """The cells in words: `deep`, `wide at 1, 8`, `everything on the GPU in tf32`."""
    done = [measured.cell for measured in record.done]
    devices = {cell.device for cell in done}
    parts = []
    methods = {cell.method for cell in done}
    for kind in dict.fromkeys((cell.device, cell.precision, cell.method) for cell in cells):
        device, precision, method = kind
        on = f" on the {device_label(device)}" if len(devices) > 1 else ""
        on += f" in {precision}" if len(precisions_of(record)) > 1 else ""
        on += f" through {method_label(method) or method}" if len(methods) > 1 else ""
        mine = [cell for cell in cells if (cell.device, cell.precision, cell.method) == kind]
        possible = [cell for cell in done if (cell.device, cell.precision, cell.method) == kind]
        networks = []
        for network in dict.fromkeys(cell.network for cell in mine):
            sizes = [cell.batch_size for cell in mine if cell.network == network]
            whole = len(sizes) == sum(cell.network == network for cell in possible)
            networks.append(network if whole else f"{network} at {', '.join(map(str, sizes))}")
        parts.append(("everything" if len(mine) == len(possible) else ", ".join(networks)) + on)
    return "; ".join(parts)


def machine_line(environment: Environment) -> str:
    """Processor, memory and GPU."""
    features = f" ({environment.features})" if environment.features else ""
    memory = f", {gibibytes(environment.memory)} of memory" if environment.memory else ""
    return f"{environment.processor}{features}, {count(environment.cores, 'core', 'cores')}{memory}; {gpu_text(environment)}"


def gpu_text(environment: Environment) -> str:
    gpu = environment.gpu
    return "no GPU here" if gpu is None else f"{gpu.name}, {gibibytes(gpu.memory)}, CUDA driver {gpu.driver}"


def versions_line(environment: Environment) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in environment.versions.items())
    commit = "" if environment.commit is None else f"; commit {environment.commit}"
    return f"{versions}; Python {environment.python}, {environment.system}{commit}"


def settings_line(record: Record) -> str:
    """Threads and precisions, and how often was measured."""
    precisions = ", ".join(precisions_of(record))
    threads = count(record.settings.threads, "thread", "threads")
    turns = f"median of up to {count(record.settings.rounds, 'turn', 'turns')} of about {record.settings.seconds:g} s"
    return f"{threads} for everyone; {precisions + '; ' if precisions else ''}{turns}"


def noise_text() -> str:
    return f"turns differ by more than {NOISY:.0%}"


def count(number: int, one: str, more: str) -> str:
    """`1 core`, `2 cores`."""
    return f"{number} {one if number == 1 else more}"


def gibibytes(count: int) -> str:
    return f"{count / 2**30:.3g} GiB"
