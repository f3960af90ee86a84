"""A record as text: a row a cell, and what stands below the table. Fits into 80 columns, but for networks with long names."""

from __future__ import annotations

import math
from collections.abc import Iterator

from fastnn.benchmarks.crossover import crossovers
from fastnn.benchmarks.curves import absences
from fastnn.benchmarks.grid import CALLS, KINDS, NEIGHBOR, Cell, known_network
from fastnn.benchmarks.record import NOISY, OURS, STATUS_TEXTS, Measured, Record, geometric_mean


def header(record: Record) -> str:
    names, places = _widths(record)
    return (
        f"{'network':<{names}} {'batch':>5} {'device':<{places}} {'fastnn':>7}  {'best peer':<14} {'':>7}  {'ratio':>6} "
        f"{'of limit':>8}"
    )


def _widths(record: Record) -> tuple[int, int]:
    """Letters for the name of a network and for its place; what names do not need is for the place."""
    cells = record.settings.cells
    names = max([7, *(len(cell.network) for cell in cells)])
    return names, max([6, 16 - names, *(len(place(cell)) for cell in cells)])


def row(record: Record, measured: Measured) -> str:
    """A cell: our examples a second, those of the best peer, our ratio to it, our share of the machine's limit."""
    cell, ours = measured.cell, measured.results.get(OURS)
    names, places = _widths(record)
    where = f"{cell.network:<{names}} {cell.batch_size:>5} {place(cell):<{places}} "
    if ours is None:
        return where + "was not asked to take part"
    if ours.status != "measured":
        text = ours.reason if ours.status == "no_device" else f"fastnn {STATUS_TEXTS[ours.status]}: {ours.reason}"
        return where + text
    return where + _figures(record, measured)


def neighbor_row(record: Record, measured: Measured) -> str:
    """The same cell beside a busy neighbor, to be shown below it; empty where that was not asked for."""
    timing = measured.measured[OURS].timings.get(NEIGHBOR) if OURS in measured.measured else None
    if timing is None:
        return ""
    where = f"{'  beside a neighbor':<{sum(_widths(record)) + 7}} "
    return where + (f"failed: {timing.reason}" if timing.reason else _figures(record, measured, NEIGHBOR))


def _figures(record: Record, measured: Measured, kind: str = "") -> str:
    peer, ratio = measured.best_peer_in(kind), measured.ratio_in(kind)
    theirs, times = f"{'none measured':<14} {'':>7} ", f"{'':>6}"
    if peer is not None:
        theirs = f"{peer:<14} {quantity(measured.examples_per_second(peer, kind)):>7}{mark(measured, peer, kind)}"
        times = f"{ratio:>5.2f}x"
    share = record.roofline_share(measured, OURS, kind)
    limit = f"{share:>8.0%}" if not math.isnan(share) else f"{'unknown':>8}"
    ours = f"{quantity(measured.examples_per_second(OURS, kind)):>7}{mark(measured, OURS, kind)}"
    return f"{ours} {theirs} {times} {limit}" + ("  SLOWER" if verdict(ratio) == "slower" else "")


def calls_table(record: Record) -> Iterator[str]:
    """Short calls, a row a cell: our microseconds a step, and our speed as a multiple of the best peer's; `-`: not measured."""
    kinds = [kind for kind in record.settings.timings if kind in CALLS]
    if not kinds or not record.done:
        return
    names, places = _widths(record)
    yield "short calls: microseconds a step of fastnn, and its ratio to the best peer"
    yield f"{'network':<{names}} {'batch':>5} {'device':<{places}}" + "".join(f"{kind_label(kind):>14}" for kind in kinds)
    for measured in record.done:
        cell, text = measured.cell, ""
        for kind in kinds:
            seconds = measured.step_seconds(OURS, kind) if OURS in measured.measured else math.nan
            ratio = measured.ratio_in(kind)
            text += f"{'-' if math.isnan(seconds) else microseconds(seconds):>7} "
            text += f"{'' if math.isnan(ratio) else f'{ratio:.2f}x':>6}"
        yield f"{cell.network:<{names}} {cell.batch_size:>5} {place(cell):<{places}}{text}"


def kind_label(kind: str) -> str:
    """`fit 4` of `fit-4`."""
    return "beside a neighbor" if kind == NEIGHBOR else kind.replace("-", " ")


def microseconds(seconds: float) -> str:
    """Three digits that count."""
    return f"{float(f'{1e6 * seconds:.3g}'):,.10g}"


def verdict(ratio: float) -> str:
    """Whether fastnn is "faster" or "slower" than the best peer, or "level": a ratio that is shown as 1.00, such as 0.998."""
    shown = float(f"{ratio:.2f}")
    return "level" if shown == 1 else "slower" if shown < 1 else "faster"


def place(cell: Cell) -> str:
    """`cpu`, `cuda/bf16`, or in inference `cpu model` and `cpu proba`."""
    device = cell.device if cell.precision == "float32" else f"{cell.device}/{cell.precision}"
    return f"{device} {cell.method.removeprefix('predict_')}" if cell.inference else device


def mark(measured: Measured, name: str, kind: str = "") -> str:
    """`~` behind what is noisy."""
    result = measured.results[name]
    return "~" if (result.timings[kind] if kind else result).noisy else " "


def quantity(number: float) -> str:
    """Three digits with the unit of thousands, millions or billions."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if float(f"{number:.3g}") >= size:
            return f"{_three_digits(number / size)} {unit}"
    return _three_digits(number)


def _three_digits(number: float) -> str:
    number = float(f"{number:.3g}")
    return f"{number:.{max(0, 2 - math.floor(math.log10(number)))}f}" if number > 0 else "0"


def footer(record: Record) -> Iterator[str]:
    """The lines below the table: what its marks mean, losing cells, means, who could not run what, the limits."""
    ratios = {m.cell: m.ratio for m in record.done if not math.isnan(m.ratio)}
    if any(measured.noisy for measured in record.done):
        yield f"~ spread of the turns above {NOISY:.0%}: the machine was busy, and the figure is uncertain"
    losing = losing_cells(record)
    if ratios:
        yield f"slower than the best peer in {len(losing)} of {len(ratios)} cells" + (":" if losing else "")
        for measured in losing:
            yield f"  {measured.cell}: {measured.ratio:.2f}x the speed of {measured.best_peer}"
        kinds: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for cell, ratio in ratios.items():
            kinds[_kind(cell)].append(ratio)
        text = ", ".join(f"{kind} {geometric_mean(found):.2f}x" for kind, found in kinds.items() if found)
        yield f"geometric mean of the ratios: {text}"
    for kind in record.settings.timings:
        found = [measured.ratio_in(kind) for measured in record.done]
        found = [ratio for ratio in found if not math.isnan(ratio)]
        slower = sum(verdict(ratio) == "slower" for ratio in found)
        if found:
            yield f"{kind_label(kind)}: slower than the best peer in {slower} of {len(found)} cells"
    yield from absences(record)
    yield from map(str, crossovers(record))
    for limit in record.limits:
        rates = limit.best
        copies = f"{max(rate for _, rate in rates.copies) / 1e9:.0f} to {rates.copies[-1][1] / 1e9:.0f} GB/s"
        yield (
            f"limit of {limit.device}, {limit.precision}, {rates.threads} thread{'s' * (rates.threads > 1)}: "
            f"{rates.operations / 1e9:.0f} GFLOP/s, copying {copies}"
        )


def _kind(cell: Cell) -> str:
    """One of `KINDS`; a network of another version is taken for a large one."""
    network = known_network(cell.network)
    return "large networks" if network is None else network.kind


def losing_cells(record: Record) -> list[Measured]:
    """The cells in which a peer is faster, the worst first."""
    losing = [measured for measured in record.done if verdict(measured.ratio) == "slower"]
    return sorted(losing, key=lambda measured: measured.ratio)
