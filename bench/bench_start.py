"""Cold start: a process that imports the library and trains for the first time, with and without compiled kernels at hand.

What is timed is the process from its start to its end: Python, imports, NumPy's included, data, compiling or loading, and one
epoch. Its loss must be that of the definition.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import first_fit
import pytest
from measuring import note, work_of_epoch

from fastnn.benchmarks.grid import NETWORKS
from fastnn.engines import cores


def start(folder: Path) -> float:
    """The loss of a first fit in a process of its own that keeps its kernels in `folder`."""
    ended = subprocess.run(
        [sys.executable, first_fit.__file__, "cpu"], env={**os.environ, "FASTNN_CACHE_DIR": str(folder)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(ended.stdout)


def check_and_note(benchmark: Any, loss: float, **more: Any) -> None:
    benchmark.group = "start"
    assert abs(loss - first_fit.fit("numpy")) <= NETWORKS["mnist"].tolerance * max(1.0, loss)
    model = first_fit.network().build(784)
    note(
        benchmark, work_of_epoch(model, first_fit.ROWS, first_fit.BATCH_SIZE), threads=cores(), examples=first_fit.ROWS, **more
    )


def test_filled_cache(benchmark: Any, tmp_path: Path) -> None:
    start(tmp_path / "kernels")
    before = set(tmp_path.glob("kernels/*.kernel"))
    assert before
    loss = benchmark.pedantic(start, (tmp_path / "kernels",), rounds=5)
    assert set(tmp_path.glob("kernels/*.kernel")) == before, "something was compiled"
    check_and_note(benchmark, loss, kernel_cache="filled")


@pytest.mark.slow
def test_empty_cache(benchmark: Any, tmp_path: Path) -> None:
    def another() -> tuple[tuple[Path], dict[str, Any]]:
        return (Path(tempfile.mkdtemp(dir=tmp_path)),), {}

    loss = benchmark.pedantic(start, setup=another, rounds=3)
    check_and_note(benchmark, loss, kernel_cache="empty")
