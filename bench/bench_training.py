"""Whole training: one call of `fit` for one epoch, for the cells of the grid, and short calls: `fit`, `partial_fit`
and a `training_step`.

The losses of the first steps are checked first.

The large cells are marked `slow`: `pytest bench/bench_training.py -m ''` runs them too.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
from measuring import check_losses, note, require, training_cells, work_of_epoch

from fastnn.benchmarks.grid import CALLS, QUICK, Call, Cell, check_order, make_task
from fastnn.benchmarks.peers.ours import Fastnn
from fastnn.engines import cores

ROUNDS = 5


@pytest.mark.parametrize("cell", training_cells())
def test_training(benchmark: Any, cell: Cell) -> None:
    require(cell.device)
    benchmark.group = f"training: {cell.network} on {cell.device}"
    check_losses(cell, Fastnn(make_task(cell, cores(), checking=True)).losses(check_order(cell)))
    contestant = Fastnn(make_task(cell, cores()))
    work = work_of_epoch(contestant.model, cell.rows, cell.batch_size, loss=contestant.loss, optimizer=contestant.optimizer)
    loss = benchmark.pedantic(contestant.epoch, rounds=ROUNDS, warmup_rounds=1)
    assert math.isfinite(loss)
    note(
        benchmark, work, threads=cores(), device=cell.device, precision=cell.precision, examples=cell.rows,
        network=cell.network, batch_size=cell.batch_size,
    )  # fmt: skip


@pytest.mark.parametrize("call", CALLS.values(), ids=lambda call: call.name)
@pytest.mark.parametrize("cell", QUICK, ids=lambda cell: f"{cell.network}-at-{cell.batch_size}")
@pytest.mark.benchmark(max_time=0.2, min_rounds=5)
def test_short_calls(benchmark: Any, cell: Cell, call: Call) -> None:
    """On arrays of the host, from the call to the loss; `extra_info["steps"]` steps in each."""
    benchmark.group = f"short calls: {cell.network}"
    order = check_order(cell)
    checked = Fastnn(make_task(cell, cores(), checking=True))
    X, y = checked.host_data()
    # `fit` on other rows than before warns; `losses` gives it the same ones in another order.
    train = getattr(checked, call.method)
    check_losses(cell, [train(X[index], y[index]) for index in order] if call.fresh else checked.losses(order))
    contestant = Fastnn(make_task(cell, cores()))
    contestant.time_calls(call, 1)
    rows = call.steps * cell.batch_size
    loss = benchmark(getattr(contestant, call.method), *(array[:rows] for array in contestant.host_data()))
    assert math.isfinite(loss)
    work = contestant.model.program(cell.batch_size, loss=contestant.loss, optimizer=contestant.optimizer).instance.work()
    note(
        benchmark, work, threads=cores(), repeats=call.steps, examples=rows, network=cell.network, batch_size=cell.batch_size,
        call=call.name, steps=call.steps,
    )  # fmt: skip
