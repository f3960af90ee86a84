"""What is trained: networks, mini-batch sizes and devices, and the data and initial weights that every contestant gets.

A cell is one network at one mini-batch size on one device in one precision: a call of `fit` for one epoch, or, where its method
is another one, a call of that for so many rows.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
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
ACTIVATIONS = ("relu", "sigmoid", "tanh")
"""Of hidden layers, as every contestant has them."""
MOST_UNITS, MOST_LAYERS, MOST_PARAMETERS = 2**16, 100, 2**28
"""Of a network of one's own."""
MOST_DATA = 2**28
"""Bytes of X on the CPU, as long as one mini-batch is not more: every contestant holds it once or twice."""


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

    @property
    def parameters(self) -> int:
        """Of its dense layers, with biases."""
        return sum((inputs + 1) * outputs for inputs, outputs in itertools.pairwise(self.sizes))

    @property
    def small(self) -> bool:
        """Whether it is a small network where means are taken: below 262,144 parameters, more than twice those of mnist."""
        return self.parameters < 2**18


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
"""Those of the grid. `find_network` knows those of one's own too."""


@dataclass(frozen=True)
class Call:
    """A kind of short calls, on arrays of the host: the `steps` of one, and the method of a contestant that does one.

    `fresh`: each gets the next rows of the data; else all get the same ones, as a loop over a small data set does.
    """

    name: str
    steps: int
    method: str
    fresh: bool = False


CALLS = {
    call.name: call
    for call in (
        Call("fit-1", 1, "short_fit"),
        Call("fit-4", 4, "short_fit"),
        Call("fit-16", 16, "short_fit"),
        Call("partial_fit", 1, "partial_fit", fresh=True),
        Call("training_step", 1, "training_step", fresh=True),
    )
}
"""What else is timed if it is asked for. Another kind is a row here, and its method in the contestants that have one."""
NEIGHBOR = "neighbor"
"""A kind of timings too: an epoch while another process keeps one core busy."""

METHODS = {"fit": "", "model": "model(x)", "predict_proba": "predict_proba"}
"""Of a cell, with what is said of it: training, or inference, of the outputs before a link (logits) or of probabilities."""
ROWS = (1, 32, 1024, 16384)
"""Of X in a call of inference."""

BATCH_SIZES = {"cpu": (1, 8, 32, 128, 512, 2048), "cuda": (1, 8, 32, 128, 512, 2048, 8192, 65536)}


def own_network(sizes: Sequence[int], activation: str = "relu") -> Network:
    """A network of one's own, whose name says what it is: `512-768-768-20`, `33-77x5-3-tanh`; ReLU is not said.

    Its losses are compared as those of the large networks are. Raises InputError for what is no network, or is too large.
    """
    sizes = tuple(sizes)
    if not 2 <= len(sizes) <= MOST_LAYERS or not all(1 <= size <= MOST_UNITS for size in sizes):
        raise InputError(
            f"network: expected 2 to {MOST_LAYERS} sizes from 1 to {MOST_UNITS}, inputs first and outputs last, got "
            + "-".join(map(str, sizes))
        )
    check_names("activation", [activation], ACTIVATIONS)
    network = Network("", sizes, activation, tolerance=1e-3)
    if network.parameters > MOST_PARAMETERS:
        raise InputError(
            f"network: {network.label} has {network.parameters:,} parameters; at most {MOST_PARAMETERS:,} are timed"
        )
    return replace(network, name=network.label + ("" if activation == "relu" else f"-{activation}"))


@functools.cache
def find_network(name: str) -> Network:
    """One of `NETWORKS`, or the one that its name describes (`own_network`). Raises InputError for other names."""
    if name in NETWORKS:
        return NETWORKS[name]
    *sizes, last = name.split("-")
    sizes, activation = ([*sizes, last], "relu") if last[:1].isdecimal() else (sizes, last)
    runs = [re.fullmatch(r"([0-9]{1,9})(?:x([1-9][0-9]?))?", size) for size in sizes]
    found = [run for run in runs if run is not None]
    if not found or len(found) < len(runs):
        check_names("network", [name], NETWORKS)
    return own_network([int(run[1]) for run in found for _ in range(int(run[2] or 1))], activation)


def known_network(name: str) -> Network | None:
    """The same, and None for other names: a record may have them from another version."""
    try:
        return find_network(name)
    except InputError:
        return None


class Cell(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One network at one mini-batch size on one device in one precision; `method`: of `METHODS`, what is called."""

    network: str
    batch_size: Annotated[int, msgspec.Meta(ge=1)]
    device: str = "cpu"
    precision: str = "float32"
    method: str = "fit"

    def __str__(self) -> str:
        precision = "" if self.precision == "float32" else f" in {self.precision}"
        through = f" through {METHODS.get(self.method, self.method)}" if self.inference else ""
        return f"{self.network} at {self.batch_size} on {self.device}{precision}{through}"

    @property
    def inference(self) -> bool:
        return self.method != "fit"

    @property
    def rows(self) -> int:
        """Examples of one call: in inference the mini-batch, in training an epoch.

        An epoch has 200 mini-batches, at least 2,000 rows, at most 60,000; on a GPU at least four mini-batches. X of a network
        with many inputs is no larger than `MOST_DATA`, unless one mini-batch is.
        """
        if self.inference:
            return self.batch_size
        rows = min(60_000, max(2_000, 200 * self.batch_size))
        network = known_network(self.network)
        if network is not None:
            rows = min(rows, max(self.batch_size, MOST_DATA // (4 * network.sizes[0])))
        return max(rows, 4 * self.batch_size) if self.device == "cuda" else rows

    @property
    def steps(self) -> int:
        return -(-self.rows // self.batch_size)


QUICK = (Cell("planar", 32), Cell("nielsen", 8), Cell("mnist", 128), Cell("deep", 32))
"""Four cells for a first look: from the one that overhead decides to the one that arithmetic decides."""

QUICK_INFERENCE = (
    Cell("nielsen", 1, method="model"), Cell("nielsen", 1, method="predict_proba"), Cell("mnist", 32, method="model"),
    Cell("mnist", 1024, method="model"), Cell("deep", 16384, method="model"),
)  # fmt: skip


def inference_cells(networks: Sequence[str] = (), rows: Sequence[int] = ()) -> tuple[Cell, ...]:
    """Inference on the CPU: `model(x)` for each number of rows, and `predict_proba` for a single one.

    Everything where nothing is named. Raises InputError for unknown names and numbers that are none.
    """
    grid = []
    for network in [find_network(name) for name in networks or NETWORKS]:
        for size in rows or ROWS:
            check_batch_size(size)
            methods = ("model", "predict_proba") if size == 1 else ("model",)
            grid += [Cell(network.name, size, method=method) for method in methods]
    return tuple(dict.fromkeys(grid))


def check_batch_size(size: int) -> None:
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 2**20:
        raise InputError(f"mini-batch size: expected an integer from 1 to {2**20}, got {size!r}")


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
        ("device", devices, DEVICES), ("precision", precisions, PRECISIONS["cuda"]),
    ):  # fmt: skip
        check_names(kind, names, known)
    for size in batch_sizes:
        check_batch_size(size)
    grid = []
    asked = [find_network(name) for name in networks or NETWORKS]
    for device, precision, network in itertools.product(devices, precisions, asked):
        sizes = batch_sizes or sorted({*BATCH_SIZES[device], *network.more_batches})
        if precision in PRECISIONS[device]:
            grid += [Cell(network.name, size, device, precision) for size in sizes if size >= network.least_batch]
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

    @property
    def probabilities(self) -> bool:
        """Whether inference is to answer with them."""
        return self.cell.method == "predict_proba"


def make_task(cell: Cell, threads: int, checking: bool = False) -> Task:
    """The same for everybody who calls it, in whatever process."""
    network = find_network(cell.network)
    rng = np.random.default_rng(0)
    X = rng.random((cell.rows, network.sizes[0]), dtype=np.float32)
    outputs = network.sizes[-1]
    other = X[:, 1:2] if X.shape[1] > 1 else 0.5
    y: Any = (X[:, :1] > other).astype(np.float32) if outputs == 1 else rng.integers(0, outputs, cell.rows)
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
