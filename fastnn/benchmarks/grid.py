"""What is trained: networks, mini-batch sizes and devices, and the data and initial weights that every contestant gets.

A cell is one network at one mini-batch size on one device in one precision: a call of `fit` for one epoch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np

from fastnn.errors import InputError, nearest

LEARNING_RATE = 1e-3
"""Of Adam, with beta1 0.9, beta2 0.999 and epsilon 1e-8, for every cell."""

CHECK_STEPS = 5
"""Steps that every contestant trains on the same mini-batches before it is timed, and whose losses must agree."""

DEVICES = ("cpu", "cuda")
PRECISIONS = {"cpu": ("float32",), "cuda": ("float32", "tf32", "bf16")}


@dataclass(frozen=True)
class Network:
    """A dense network: units of every layer, inputs first. One output is a yes or no, more are classes.

    With `norm`, a hidden layer is dense without bias, batch norm, activation, dropout.
    `tolerance`: how far the losses of the first steps may differ (relative, above 1) by rounding alone: ten times what was
    seen. One ReLU that flips moves the losses of the larger networks by 1e-4.
    """

    name: str
    sizes: tuple[int, ...]
    activation: str
    norm: bool = False
    dropout: float = 0.0
    least_batch: int = 1
    more_batches: tuple[int, ...] = ()
    tolerance: float = 2e-5

    @property
    def label(self) -> str:
        """`784-1024x4-10`."""
        runs = [(size, len(list(group))) for size, group in itertools.groupby(self.sizes)]
        return "-".join(f"{size}x{count}" if count > 2 else "-".join([str(size)] * count) for size, count in runs)


NETWORKS = {
    network.name: network
    for network in (
        Network("planar", (2, 5, 1), "tanh", more_batches=(400,)),
        Network("nielsen", (784, 30, 10), "sigmoid"),
        Network("mnist", (784, 128, 10), "relu"),
        Network("deep", (784, 512, 512, 10), "relu", norm=True, dropout=0.2, least_batch=8, tolerance=1e-3),
        Network("wide", (784, 1024, 1024, 1024, 1024, 10), "relu", tolerance=1e-3),
    )
}
BATCH_SIZES = {"cpu": (1, 8, 32, 128, 512, 2048), "cuda": (1, 8, 32, 128, 512, 2048, 8192, 65536)}


class Cell(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One network at one mini-batch size on one device in one precision."""

    network: str
    batch_size: Annotated[int, msgspec.Meta(ge=1)]
    device: str = "cpu"
    precision: str = "float32"

    def __str__(self) -> str:
        return f"{self.network} at {self.batch_size} on {self.device}" + (
            "" if self.precision == "float32" else f" in {self.precision}"
        )

    @property
    def rows(self) -> int:
        """Examples of an epoch: 200 mini-batches, at least 2,000 rows, at most 60,000; on a GPU at least four mini-batches."""
        rows = min(60_000, max(2_000, 200 * self.batch_size))
        return max(rows, 4 * self.batch_size) if self.device == "cuda" else rows

    @property
    def steps(self) -> int:
        return -(-self.rows // self.batch_size)


QUICK = (Cell("planar", 32), Cell("nielsen", 8), Cell("mnist", 128), Cell("deep", 32))
"""Four cells for a first look: from the one that overhead decides to the one that arithmetic decides."""


def cells(
    networks: Sequence[str] = (),
    batch_sizes: Sequence[int] = (),
    devices: Sequence[str] = ("cpu",),
    precisions: Sequence[str] = ("float32",),
) -> tuple[Cell, ...]:
    """The cells of the grid for what is named, everything where nothing is named.

    Raises InputError for unknown names, and where nothing is left.
    """
    for kind, names, known in (
        ("network", networks, NETWORKS), ("device", devices, DEVICES), ("precision", precisions, PRECISIONS["cuda"]),
    ):  # fmt: skip
        check_names(kind, names, known)
    for size in batch_sizes:
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 2**20:
            raise InputError(f"mini-batch size: expected an integer from 1 to {2**20}, got {size!r}")
    grid = []
    for device, precision, name in itertools.product(devices, precisions, networks or NETWORKS):
        network = NETWORKS[name]
        sizes = batch_sizes or sorted({*BATCH_SIZES[device], *network.more_batches})
        if precision in PRECISIONS[device]:
            grid += [Cell(name, size, device, precision) for size in sizes if size >= network.least_batch]
    if not grid:
        raise InputError(
            "no cell is left: deep starts at a mini-batch of 8 (batch norm), and the CPU has no precision but float32"
        )
    return tuple(dict.fromkeys(grid))


def check_names(kind: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raise InputError for the first of `names` that is not known, with the nearest that is."""
    known = tuple(known)
    for name in names:
        if name not in known:
            meant = {"gpu": "cuda"}.get(name, name)  # by its letters, cpu would be nearer
            raise InputError(f"no {kind} is called {name!r}{nearest(meant, known)}")


@dataclass(frozen=True)
class Task:
    """What a contestant gets: the cell, its data and initial weights.

    X (rows, inputs) float32, uniform in [0, 1); y (rows,) int64 classes, or (rows, 1) float32 of 0 and 1.
    `weights`: (W (I, O), b (O,)) float32 of every dense layer; b is unused where batch norm follows.
    `dropout` is the network's, or 0 while losses are compared, since every library draws masks of its own.
    """

    cell: Cell
    network: Network
    threads: int
    X: np.ndarray
    y: np.ndarray
    weights: tuple[tuple[np.ndarray, np.ndarray], ...]
    dropout: float

    @property
    def binary(self) -> bool:
        return self.network.sizes[-1] == 1


def make_task(cell: Cell, threads: int, checking: bool = False) -> Task:
    """The same for everybody who calls it, in whatever process."""
    network = NETWORKS[cell.network]
    rng = np.random.default_rng(0)
    X = rng.random((cell.rows, network.sizes[0]), dtype=np.float32)
    outputs = network.sizes[-1]
    y: Any = (X[:, :1] > X[:, 1:2]).astype(np.float32) if outputs == 1 else rng.integers(0, outputs, cell.rows)
    rng = np.random.default_rng(1)
    weights = tuple(
        ((rng.standard_normal((i, o)) / math.sqrt(i)).astype(np.float32), np.zeros(o, np.float32))
        for i, o in itertools.pairwise(network.sizes)
    )
    return Task(cell, network, threads, X, y, weights, 0.0 if checking else network.dropout)


def check_order(cell: Cell) -> np.ndarray:
    """(steps, B) int64: the mini-batches of the steps whose losses are compared."""
    steps = min(CHECK_STEPS, cell.rows // cell.batch_size)
    order = np.random.default_rng(2).permutation(cell.rows)[: steps * cell.batch_size]
    return order.reshape(steps, cell.batch_size)
