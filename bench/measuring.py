"""What every bench notes beside its times, and what it needs to know of the machine."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import pytest

import fastnn
from fastnn import engines
from fastnn.benchmarks.environment import commit, versions
from fastnn.benchmarks.grid import DEVICES, Cell, cells, check_order, find_network, make_task
from fastnn.benchmarks.peers.ours import Fastnn
from fastnn.benchmarks.runner import disagreement
from fastnn.engines.explain import measure_limits
from fastnn.errors import DeviceError

Work = Sequence[tuple[int, int]]
"""(floating-point operations, bytes) of each kernel call, by the contract."""


def require(device: str) -> None:
    """Skip the bench where there is no such device."""
    try:
        engines.choose(device)
    except DeviceError as error:
        pytest.skip(f"no GPU here: {error}")


class DeviceTime:
    """A timer for benches: seconds of the first GPU between events, each recorded after the work that was given so far."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.last: Any = None

    def __call__(self) -> float:
        runtime = engines.gpu().runtime
        now = runtime.event()
        runtime.record(now, runtime.stream)
        if self.last is not None:  # times since the one before, since an event's single precision is of the whole interval
            self.seconds += runtime.elapsed_seconds(self.last, now)
        self.last = now
        return self.seconds


def work_of_epoch(model: fastnn.Sequential, rows: int, batch_size: int, **settings: Any) -> Work:
    """Of every step of an epoch, the last one smaller where it must be; `settings` are those of `model.program`."""
    whole, rest = divmod(rows, batch_size)
    work = model.program(batch_size, **settings).instance.work() * whole
    return [*work, *model.program(rest, **settings).instance.work()] if rest else work


@functools.cache
def expected_losses(cell: Cell) -> list[float]:
    """Of the first steps without dropout, by the definition, in the precision of the cell."""
    return Fastnn(make_task(cell, 1, checking=True), device="numpy").losses(check_order(cell))


def check_losses(cell: Cell, losses: Sequence[float]) -> None:
    """Compare the losses of the first steps without dropout with the definition's."""
    reason = disagreement(expected_losses(cell), losses, find_network(cell.network).tolerance)
    assert not reason, f"{cell}: {reason}"


def training_cells() -> list[Any]:
    """The grid on every device; those that take long are marked `slow`. The default is 8 to 400 examples on all but wide and
    cifar."""
    found = []
    for cell in cells(devices=DEVICES):
        slow = cell.network in ("wide", "cifar") or not 1 < cell.batch_size < 512
        marks = [pytest.mark.slow] * slow + [pytest.mark.gpu] * (cell.device == "cuda")
        found.append(pytest.param(cell, id=f"{cell.device}-{cell.network}-at-{cell.batch_size}", marks=marks))
    return found


def note(
    benchmark: Any,
    work: Work,
    *,
    threads: int,
    device: str = "cpu",
    precision: str = "float32",
    repeats: int = 1,
    examples: int = 0,
    **more: Any,
) -> None:
    """Fill `benchmark.extra_info` once the bench has run.

    One timed call does `work` `repeats` times and handles `examples` examples (0: the bench has none), on at most `threads`
    threads.
    `roofline_share` is the least time that the work takes at the device's rates, measured once a session for each
    number of threads and precision, divided by the median. It and `examples_per_second` are there where something was
    timed.
    """
    information = benchmark.extra_info
    information.update(
        operations=repeats * sum(operations for operations, _ in work), bytes=repeats * sum(moved for _, moved in work),
        repeats=repeats, device=device, threads=threads, precision=precision, **_origin(), **more,
    )  # fmt: skip
    if benchmark.enabled:
        median = benchmark.stats.stats.median
        least = sum(least_seconds(device, threads, precision, *each) for each in work)
        information["roofline_share"] = repeats * least / median
        if examples:
            information["examples_per_second"] = examples / median


@functools.cache
def least_seconds(device: str, threads: int, precision: str, operations: int, moved: int) -> float:
    """Of one call: what is possible with one thread is possible with several, even while others use the cores."""
    kind = "float64" if precision == "float64" else "float32"
    engine = engines.gpu() if device == "cuda" else engines.CPU
    return min(measure_limits(count, kind, engine).seconds(operations, moved) for count in {1, threads})


@functools.cache
def _origin() -> dict[str, Any]:
    """Asked once: it starts git."""
    return {"versions": versions(), "commit": commit()}
