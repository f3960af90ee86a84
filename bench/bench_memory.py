"""Peak memory of a process that does nothing but train: `extra_info["peak_bytes"]`. What is timed is an epoch in that process.

The peak is that of resident memory, from the first epoch on and with everything the process needs: Python, the library, its
kernels, the data. On a GPU it is that of the device's memory.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from measuring import check_losses, note, require, training_cells, work_of_epoch

from fastnn.benchmarks.grid import Cell, make_task
from fastnn.benchmarks.peers import CONTESTANTS
from fastnn.benchmarks.peers.ours import Fastnn
from fastnn.benchmarks.process import Process
from fastnn.engines import cores

SECONDS = 600.0
"""That any answer of the process may take."""


@pytest.mark.parametrize("cell", training_cells())
def test_memory(benchmark: Any, cell: Cell) -> None:
    require(cell.device)
    benchmark.group = f"memory: {cell.network} on {cell.device}"
    asked = msgspec.to_builtins(cell)
    with Process(CONTESTANTS["fastnn"], cell.device, cores()) as process:
        process.ask("hello", SECONDS)
        check_losses(cell, process.ask("losses", SECONDS, cell=asked, dropout=False)["losses"])
        process.ask("prepare", SECONDS, cell=asked)
        benchmark.pedantic(process.ask, ("run", SECONDS), {"runs": 1}, rounds=3)
        peak = process.ask("end", SECONDS)["peak_bytes"]
    here = Fastnn(make_task(cell, cores()))
    # Where the system does not tell the peak, there is nothing to compare.
    assert peak is None or peak > here.task.X.nbytes
    note(
        benchmark, work_of_epoch(here.model, cell.rows, cell.batch_size, loss=here.loss, optimizer=here.optimizer),
        threads=cores(), device=cell.device, precision=cell.precision, examples=cell.rows,
        network=cell.network, batch_size=cell.batch_size, peak_bytes=peak,
    )  # fmt: skip
