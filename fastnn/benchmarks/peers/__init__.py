"""Who takes part: fastnn and what a user would pick instead, each in the strongest form that its users would write.

A contestant is a small class in a module of its library (`Contestant` is what it must do), and a row of `CONTESTANTS`. The
modules are imported in the contestants' own processes only.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastnn.benchmarks.grid import Call, Task


class Cannot(Exception):
    """A contestant has no way to train a cell; the message says why."""


class Contestant:
    """Trains one task. Everything that may be prepared before training is prepared by `__init__`, which raises `Cannot`."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.calls = 0
        """Short calls so far."""

    def losses(self, order: np.ndarray) -> list[float]:
        """Train one step on each row of indices; the loss of each mini-batch before its update."""
        raise NotImplementedError

    def epoch(self) -> float:
        """Train one epoch in a new random order, as a user would; its loss, read back to the host."""
        raise NotImplementedError

    def time(self, runs: int) -> float:
        """Seconds of one of `runs` epochs on end."""
        started = time.perf_counter()
        for _ in range(runs):
            loss = self.epoch()
        seconds = time.perf_counter() - started
        if not math.isfinite(loss):
            raise ArithmeticError(f"the loss of the last epoch is {loss}")
        return seconds / runs

    def host_data(self) -> tuple[Any, Any]:
        """X and y on the host, as a user of the library would hold them; short calls get rows of them."""
        return self.task.X, self.task.y

    def short_fit(self, X: Any, y: Any) -> float:
        """Train one epoch on these rows of the host, from call to return: like `epoch`."""
        raise Cannot("it has no short calls")

    def partial_fit(self, x: Any, t: Any) -> float:
        """Train one step on this mini-batch of the host; its loss, read back."""
        raise Cannot("it has no single steps")

    def time_calls(self, call: Call, runs: int) -> float:
        """Seconds of one of `runs` short calls on end."""
        (X, y), rows, cell = self.host_data(), call.steps * self.task.cell.batch_size, self.task.cell
        if rows > cell.rows:
            raise Cannot(f"the data have {cell.rows} rows, and {rows} are needed")
        starts = [(self.calls + run) % (cell.rows // rows) * rows if call.fresh else 0 for run in range(runs)]
        parts = [(X[start : start + rows], y[start : start + rows]) for start in starts]
        self.calls += runs
        train = getattr(self, call.method)
        started = time.perf_counter()
        for part in parts:
            loss = train(*part)
        seconds = time.perf_counter() - started
        if not math.isfinite(loss):
            raise ArithmeticError(f"the loss of the last call is {loss}")
        return seconds / runs

    def work(self) -> list[tuple[int, int]]:
        """(floating-point operations, bytes) of each call of a training step, where that is known."""
        return []

    def peak_bytes(self) -> int | None:
        """The most device memory that was used; None on the CPU, where the process knows it."""
        return None


@dataclass(frozen=True)
class Entry:
    """A row of the table: `home` is `module:class`, `needs` the packages to import, `notes` what a reader should know.

    `flags` are XLA's.
    """

    name: str
    label: str
    home: str
    needs: tuple[str, ...]
    devices: tuple[str, ...]
    notes: str = ""
    flags: str = ""

    def missing(self) -> str:
        """Why it cannot take part at all; empty if it can."""
        absent = [package for package in self.needs if importlib.util.find_spec(package) is None]
        return f"{' and '.join(absent)} not installed: pip install {' '.join(absent)}" if absent else ""


def load(home: str) -> type[Contestant]:
    """The class that `home` names."""
    module, name = home.split(":")
    contestant: type[Contestant] = getattr(importlib.import_module(module), name)
    return contestant


_HERE = "fastnn.benchmarks.peers"
CONTESTANTS = {
    entry.name: entry
    for entry in (
        Entry("fastnn", "fastnn", f"{_HERE}.ours:Fastnn", (), ("cpu", "cuda"), "denormals are flushed to zero"),
        Entry(
            "torch", "PyTorch eager", f"{_HERE}.pytorch:Eager", ("torch",), ("cpu", "cuda"), "fused Adam; keeps denormals"
        ),
        Entry(
            "torch-reduce", "torch.compile reduce-overhead", f"{_HERE}.pytorch:ReduceOverhead", ("torch",), ("cuda",),
            "fused Adam",
        ),
        Entry(
            "torch-autotune", "torch.compile max-autotune", f"{_HERE}.pytorch:MaxAutotune", ("torch",), ("cuda",),
            "fused Adam",
        ),
        Entry(
            "torch-graph", "PyTorch CUDA graph", f"{_HERE}.pytorch:WholeStepGraph", ("torch",), ("cuda",),
            "the whole step captured, capturable fused Adam",
        ),
        Entry("jax", "JAX jit + scan", f"{_HERE}.jax:Scan", ("jax",), ("cpu", "cuda"), "flushes denormals to zero"),
        Entry(
            "jax-while", "JAX, WHILE command buffers", f"{_HERE}.jax:Scan", ("jax",), ("cuda",),
            "loops become CUDA graphs",
            "--xla_gpu_enable_command_buffer=FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CONDITIONAL,WHILE",
        ),
        Entry("sklearn", "scikit-learn", f"{_HERE}.scikit_learn:Classifier", ("sklearn",), ("cpu",), "MLPClassifier"),
        Entry(
            "torch-compile", "torch.compile", f"{_HERE}.pytorch:Compiled", ("torch",), ("cpu",), "fused Adam; keeps denormals"
        ),
    )
}  # fmt: skip
"""Name -> contestant, ours first."""

REFERENCES = (
    Entry("one_core", "NumPy on one core", f"{_HERE}.reference:OneCore", (), ("cpu",)),
    Entry("all_cores", "NumPy on every core", f"{_HERE}.reference:AllCores", (), ("cpu",)),
)
"""Fixed workloads that take their turns in every round: runs are compared relative to both."""

METER = Entry("limits", "the machine's limits", "fastnn.benchmarks.limits:Meter", (), ("cpu", "cuda"))
"""Measures the limits of a device, in a process like theirs, on the same cores."""
