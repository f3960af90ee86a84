"""Whole training: one call of `fit` for one epoch, for the cells of the grid. The losses of the first steps are checked first.

The large cells are marked `slow`: `pytest bench/bench_training.py -m ''` runs them too.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
from measuring import check_losses, note, require, training_cells, work_of_epoch

from fastnn.benchmarks.grid import Cell, check_order, make_task
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
