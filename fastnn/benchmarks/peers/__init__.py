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

from fastnn.benchmarks.grid import Call, Cell, Task, known_network


class Cannot(Exception):
    """A contestant has no way to train a cell; the message says why."""


class Contestant:
    """Trains one task, or infers. `__init__` prepares everything that may be prepared before, and raises `Cannot`."""

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

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Inference for rows of the host, as `host_data` has them: logits (n, outputs) of the host, or probabilities if asked.

        Those of a yes or no may come as (n, 2), no first.
        """
        raise Cannot("it has no inference")

    def sample(self) -> list[float]:
        """Some of what inference answers, to be compared: the last columns of the first and the last rows."""
        outputs = self.predict(self.host_data()[0])
        some = outputs[sorted({*range(min(3, len(outputs))), max(0, len(outputs) - 2), len(outputs) - 1})]
        return [float(value) for value in some[:, -1 if self.task.binary else -10 :].ravel()]

    def time(self, runs: int) -> float:
        """Seconds of one of `runs` epochs on end, or of as many calls of inference."""
        if self.task.cell.inference:
            return self.time_inference(runs)
        started = time.perf_counter()
        for _ in range(runs):
            loss = self.epoch()
        seconds = time.perf_counter() - started
        if not math.isfinite(loss):
            raise ArithmeticError(f"the loss of the last epoch is {loss}")
        return seconds / runs

    def time_inference(self, runs: int) -> float:
        """Seconds of one of `runs` calls on end, all for the same rows."""
        x, predict = self.host_data()[0], self.predict
        started = time.perf_counter()
        for _ in range(runs):
            outputs = predict(x)
        seconds = time.perf_counter() - started
        if len(outputs) != len(x) or not np.isfinite(outputs).all():
            raise ArithmeticError(f"it answered {len(outputs)} rows for {len(x)}, or with numbers that are not finite")
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

    def training_step(self, x: Any, t: Any) -> float:
        """The same in the fewest lines of a loop of one's own; of most that is the same step."""
        return self.partial_fit(x, t)

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

    `flags` are XLA's; `trains` and `infers`: in which cells it takes part, those of convolutional networks alone with `images`.
    """

    name: str
    label: str
    home: str
    needs: tuple[str, ...]
    devices: tuple[str, ...]
    notes: str = ""
    flags: str = ""
    trains: bool = True
    infers: bool = False
    images: bool = False

    def takes(self, cell: Cell) -> bool:
        """Whether its users would pick it for this."""
        network = known_network(cell.network)
        if self.images and (network is None or not network.image_layers):
            return False
        return cell.device in self.devices and (self.infers if cell.inference else self.trains)

    def missing(self) -> str:
        """Why it cannot take part at all; empty if it can."""
        absent = [package for package in self.needs if importlib.util.find_spec(package) is None]
        return f"{' and '.join(absent)} not installed: pip install {' '.join(absent)}" if absent else ""


def channels_first(X: np.ndarray) -> np.ndarray:
    """Images (n, H, W, C) as (n, C, H, W), whole in memory; rows that are no images as they are."""
    return np.ascontiguousarray(X.transpose(0, 3, 1, 2)) if X.ndim == 4 else X


def rows_of_channels_first(task: Task) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """The dense layers of a task where images are flattened in the order (C, H, W): the rows of the first one so."""
    if not task.network.image_layers:
        return task.weights
    (w, b), *others = task.weights
    height, width, channels = task.network.image_layers[-1].images
    rows = w.reshape(height, width, channels, -1).transpose(2, 0, 1, 3).reshape(w.shape)
    return (rows, b), *others


def load(home: str) -> type[Contestant]:
    """The class that `home` names."""
    module, name = home.split(":")
    contestant: type[Contestant] = getattr(importlib.import_module(module), name)
    return contestant


_HERE = "fastnn.benchmarks.peers"
CONTESTANTS = {
    entry.name: entry
    for entry in (
        Entry("fastnn", "fastnn", f"{_HERE}.ours:Fastnn", (), ("cpu", "cuda"), "denormals are flushed to zero", infers=True),
        Entry(
            "torch", "PyTorch eager", f"{_HERE}.pytorch:Eager", ("torch",), ("cpu", "cuda"),
            "fused Adam; keeps denormals; images lie as NCHW", infers=True,
        ),
        Entry(
            "torch-nhwc", "PyTorch eager NHWC", f"{_HERE}.pytorch:EagerChannelsLast", ("torch",), ("cpu", "cuda"),
            "fused Adam; keeps denormals; images and weights in memory format channels_last", infers=True, images=True,
        ),
        Entry(
            "torch-reduce", "torch.compile reduce-overhead", f"{_HERE}.pytorch:ReduceOverhead", ("torch",), ("cuda",),
            "fused Adam; images lie as NCHW",
        ),
        Entry(
            "torch-autotune", "torch.compile max-autotune", f"{_HERE}.pytorch:MaxAutotune", ("torch",), ("cuda",),
            "fused Adam; images lie as NCHW",
        ),
        Entry(
            "torch-graph", "PyTorch CUDA graph", f"{_HERE}.pytorch:WholeStepGraph", ("torch",), ("cuda",),
            "the whole step captured, capturable fused Adam; images lie as NCHW",
        ),
        Entry(
            "jax", "JAX jit + scan", f"{_HERE}.jax:Scan", ("jax",), ("cpu", "cuda"),
            "flushes denormals to zero; images lie as NHWC; convolutions on the CPU: a loop of jitted steps, since they are "
            "slow in a scan",
            infers=True,
        ),
        Entry(
            "jax-while", "JAX, WHILE command buffers", f"{_HERE}.jax:Scan", ("jax",), ("cuda",),
            "loops become CUDA graphs",
            "--xla_gpu_enable_command_buffer=FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CONDITIONAL,WHILE",
        ),
        Entry(
            "sklearn", "scikit-learn", f"{_HERE}.scikit_learn:Classifier", ("sklearn",), ("cpu",), "MLPClassifier", infers=True
        ),
        Entry(
            "torch-compile", "torch.compile", f"{_HERE}.pytorch:Compiled", ("torch",), ("cpu",),
            "fused Adam; keeps denormals; images lie as NCHW",
        ),
        Entry(
            "compile-nhwc", "torch.compile NHWC", f"{_HERE}.pytorch:CompiledChannelsLast", ("torch",), ("cpu",),
            "fused Adam; keeps denormals; images and weights in memory format channels_last", images=True,
        ),
        Entry(
            "onnxruntime", "ONNX Runtime", f"{_HERE}.onnx_runtime:Session", ("onnx", "onnxruntime"), ("cpu",),
            "inference alone; images lie as NCHW", trains=False, infers=True,
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
