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
from fastnn.ops.windows import Pair, as_pair, lay_windows
from fastnn.pieces import read_pieces

LEARNING_RATE = 1e-3
"""Of Adam, with beta1 0.9, beta2 0.999 and epsilon 1e-8, for every cell."""

CHECK_STEPS = 5
"""Steps that every contestant trains on the same mini-batches before it is timed, and whose losses must agree."""

DEVICES = ("cpu", "cuda")
PRECISIONS = {"cpu": ("float32",), "cuda": ("float32", "tf32", "bf16")}
ACTIVATIONS = ("relu", "sigmoid", "tanh")
"""Of hidden layers, as every contestant has them."""
MOST_UNITS, MOST_LAYERS, MOST_PARAMETERS, MOST_NUMBERS = 2**16, 100, 2**28, 2**20
"""Of a network of one's own; `MOST_NUMBERS`: of an image, and of what a layer makes of one."""
MOST_DATA = 2**28
"""Bytes of X on the CPU, as long as one mini-batch is not more: every contestant holds it once or twice."""
MOST_OPERATIONS = 2**36
"""Of an epoch of a network with convolutions on the CPU, as long as four mini-batches are not more: about a second."""

KINDS = ("small networks", "large networks", "convolutional networks")
"""Of networks, where means are taken."""

Image = tuple[int, int, int]
"""Height, width and channels."""


@dataclass(frozen=True)
class ImageLayer:
    """A convolution of so many `filters`, with its activation, or, of none, max pooling whose windows do not overlap.

    `size` (KH, KW) of its windows, which lie in the image, or with `same` reach beyond it, so that there are as many as pixels.
    `images` (H, W, C) it makes of such as `of`.
    """

    size: Pair
    filters: int
    same: bool
    of: Image
    images: Image

    def __str__(self) -> str:
        """As `--conv` has it: `20x5`, `32x3:same`, `pool2`."""
        size = f"{self.size[0]}" if self.size[0] == self.size[1] else f"{self.size[0]}x{self.size[1]}"
        return f"{self.filters}x{size}{':same' * self.same}" if self.filters else f"pool{size}"

    @property
    def padding(self) -> tuple[Pair, Pair]:
        """Pixels ((above, below), (left, right))."""
        pairs = [((size - 1) // 2, size // 2) if self.same else (0, 0) for size in self.size]
        return pairs[0], pairs[1]

    @property
    def weight(self) -> tuple[int, int, int, int]:
        """(KH, KW, C, O) of a convolution."""
        return (*self.size, self.of[2], self.filters)

    @property
    def operations(self) -> int:
        """Of an example, forwards: two for every weight of a convolution, wherever it lies."""
        return 2 * math.prod(self.weight[:3]) * math.prod(self.images) if self.filters else math.prod(self.of)


@dataclass(frozen=True)
class Network:
    """A dense network: units of every layer, inputs first. One output is a yes or no, more are classes.

    With an `image` (H, W, C), convolutions and pooling come first, `image_layers`; the inputs of the dense layers are what the
    last of them makes of an example, flattened in the order (H, W, C).
    With `norm`, a hidden layer is dense without bias, batch norm, activation, dropout. `batches`: those of the grid, if not
    `BATCH_SIZES`.
    `tolerance`: how far the losses of the first steps may differ (relative, above 1) by rounding alone: ten times what was
    seen. One ReLU that flips moves the losses of the larger networks by 1e-4.
    """

    name: str
    sizes: tuple[int, ...]
    activation: str
    norm: bool = False
    dropout: float = 0.0
    image: Image | None = None
    image_layers: tuple[ImageLayer, ...] = ()
    least_batch: int = 1
    batches: tuple[int, ...] = ()
    more_batches: tuple[int, ...] = ()
    tolerance: float = 2e-5

    @property
    def label(self) -> str:
        """`784-1024x4-10`, `28x28x1-20x5,pool2-100-10`."""
        images = ["x".join(map(str, self.image)), ",".join(map(str, self.image_layers))] if self.image else []
        runs = [(size, len(list(group))) for size, group in itertools.groupby(self.sizes[bool(self.image) :])]
        units = [f"{size}x{count}" if count > 2 else "-".join([str(size)] * count) for size, count in runs]
        return "-".join([*images, *units])

    @property
    def example(self) -> tuple[int, ...]:
        """Shape of one."""
        return self.image or self.sizes[:1]

    @property
    def convolutions(self) -> tuple[ImageLayer, ...]:
        return tuple(layer for layer in self.image_layers if layer.filters)

    @property
    def parameters(self) -> int:
        """Of its convolutions and dense layers, with biases."""
        dense = sum((inputs + 1) * outputs for inputs, outputs in itertools.pairwise(self.sizes))
        return dense + sum(math.prod(layer.weight) + layer.filters for layer in self.convolutions)

    @property
    def operations(self) -> int:
        """Of a training step, per example, about: twice those forwards for the gradients."""
        forwards = 2 * sum(inputs * outputs for inputs, outputs in itertools.pairwise(self.sizes))
        return 3 * (forwards + sum(layer.operations for layer in self.image_layers))

    @property
    def kind(self) -> str:
        """One of `KINDS`; small is below 262,144 parameters, more than twice those of mnist."""
        small, large, convolutional = KINDS
        return convolutional if self.image else small if self.parameters < 2**18 else large


def lay_images(image: Image, conv: str) -> tuple[ImageLayer, ...]:
    """The layers in front of the dense ones, as `--conv` of the command has them: `20x5,pool2,40x3:same`.

    Raises InputError for what is no such layer, does not fit, is too large, or is what no contestant is asked for.
    """
    layers: list[ImageLayer] = []
    for piece in read_pieces(conv):
        if piece.kind not in ("conv", "pool") or piece.options not in ({}, {"padding": "same"} if piece.kind == "conv" else {}):
            raise InputError(
                f"network: {piece.text!r}: in the benchmark images go through convolutions such as 20x5 or 32x3:same, and "
                "max pooling such as pool2"
            )
        owner = f"network: {piece.text!r}"
        size, filters = as_pair(owner, "size", piece.numbers["size"]), piece.numbers.get("filters", 0)
        padding = piece.options.get("padding", "valid")
        (rows, columns), _ = lay_windows(owner, image[:2], size, (1, 1) if filters else size, padding)
        layers.append(ImageLayer(size, filters, padding == "same", image, (rows, columns, filters or image[2])))
        image = layers[-1].images
    return tuple(layers)


def image_network(name: str, image: Image, conv: str, units: Sequence[int], activation: str = "relu", **more: Any) -> Network:
    """Convolutions and pooling (`lay_images`), then dense layers of these units. Raises InputError for what is no network."""
    layers = lay_images(image, conv)
    inputs = math.prod(layers[-1].images if layers else image)
    return Network(name, (inputs, *units), activation, image=image, image_layers=layers, **more)


IMAGE_BATCHES = (10, 32, 128, 512)


NETWORKS = {
    network.name: network
    for network in (
        Network("planar", (2, 5, 1), "tanh", more_batches=(400,)),
        Network("nielsen", (784, 30, 10), "sigmoid"),
        Network("mnist", (784, 128, 10), "relu"),
        Network("deep", (784, 512, 512, 10), "relu", norm=True, dropout=0.2, least_batch=8, tolerance=1e-3),
        Network("wide", (784, 1024, 1024, 1024, 1024, 10), "relu", tolerance=1e-3),
        image_network("nielsen1", (28, 28, 1), "20x5,pool2", (100, 10), batches=IMAGE_BATCHES, tolerance=1e-3),
        image_network("nielsen2", (28, 28, 1), "20x5,pool2,40x5,pool2", (100, 10), batches=IMAGE_BATCHES, tolerance=1e-3),
        image_network(
            "cifar", (32, 32, 3), "32x3:same,32x3:same,pool2,64x3:same,64x3:same,pool2", (128, 10), batches=IMAGE_BATCHES,
            tolerance=1e-3,
        ),
    )
}  # fmt: skip
"""Those of the grid; nielsen1 and nielsen2 are those of Nielsen 2015, chapter 6, with ReLU. `find_network` knows more."""


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
ROWS, IMAGE_ROWS = (1, 32, 1024, 16384), (1, 32, 1024)
"""Of X in a call of inference."""

BATCH_SIZES = {"cpu": (1, 8, 32, 128, 512, 2048), "cuda": (1, 8, 32, 128, 512, 2048, 8192, 65536)}


def own_network(sizes: Sequence[int], activation: str = "relu", image: Sequence[int] = (), conv: str = "") -> Network:
    """A network of one's own, whose name says what it is: `512-768-768-20`, `33-77x5-3-tanh`; ReLU is not said.

    With an `image` (H, W, C) and layers for it (`lay_images`), `sizes` are those of the dense layers behind:
    `28x28x1-20x5,pool2-100-10`. Its losses are compared as those of the large networks are. Raises InputError for what is no
    network, or is too large.
    """
    sizes = tuple(sizes)
    check_names("activation", [activation], ACTIVATIONS)
    if not 2 - bool(image) <= len(sizes) <= MOST_LAYERS or not all(1 <= size <= MOST_UNITS for size in sizes):
        expected = "sizes of dense layers" if image else f"2 to {MOST_LAYERS} sizes"
        raise InputError(
            f"network: expected {expected} from 1 to {MOST_UNITS}, {'' if image else 'inputs first and '}outputs last, got "
            + "-".join(map(str, sizes))
        )
    if not image:
        network = Network("", sizes, activation, tolerance=1e-3)
    else:
        if len(image) != 3 or not all(1 <= length <= MOST_UNITS for length in image):
            raise InputError(f"network: expected height, width and channels of images, got {'x'.join(map(str, image))}")
        height, width, channels = image
        network = image_network("", (height, width, channels), conv, sizes, activation, tolerance=1e-3)
        if not 1 <= len(network.image_layers) <= MOST_LAYERS:
            raise InputError(f"network: expected 1 to {MOST_LAYERS} layers for images, got {conv!r}")
        numbers = max(math.prod(image), *(math.prod(layer.images) for layer in network.image_layers))
        if numbers > MOST_NUMBERS:
            raise InputError(f"network: {network.label} has images of {numbers:,} numbers; at most {MOST_NUMBERS:,} are timed")
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
    words, image, conv = name.split("-"), [], ""
    if re.fullmatch(r"[0-9]{1,9}(x[0-9]{1,9}){2}", words[0]) and len(words) > 2:
        image, conv, words = [int(length) for length in words[0].split("x")], words[1], words[2:]
    activation = "relu" if words[-1][:1].isdecimal() else words.pop()
    runs = [re.fullmatch(r"([0-9]{1,9})(?:x([1-9][0-9]?))?", word) for word in words]
    found = [run for run in runs if run is not None]
    if not found or len(found) < len(runs):
        check_names("network", [name], NETWORKS)
    return own_network([int(run[1]) for run in found for _ in range(int(run[2] or 1))], activation, image, conv)


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
        with many inputs is no larger than `MOST_DATA`, unless one mini-batch is. With convolutions an epoch on the CPU has as
        many whole mini-batches as `MOST_OPERATIONS` allows, at least four.
        """
        if self.inference:
            return self.batch_size
        rows = min(60_000, max(2_000, 200 * self.batch_size))
        network = known_network(self.network)
        if network is not None:
            rows = min(rows, max(self.batch_size, MOST_DATA // (4 * math.prod(network.example))))
            if network.image_layers and self.device == "cpu":
                rows = min(rows, max(4, MOST_OPERATIONS // network.operations // self.batch_size) * self.batch_size)
        return max(rows, 4 * self.batch_size) if self.device == "cuda" else rows

    @property
    def steps(self) -> int:
        return -(-self.rows // self.batch_size)


QUICK = (Cell("planar", 32), Cell("nielsen", 8), Cell("mnist", 128), Cell("deep", 32), Cell("nielsen1", 10))
"""Five cells for a first look: from the one that overhead decides to those that arithmetic decides, one with convolutions."""

QUICK_INFERENCE = (
    Cell("nielsen", 1, method="model"), Cell("nielsen", 1, method="predict_proba"), Cell("mnist", 32, method="model"),
    Cell("mnist", 1024, method="model"), Cell("deep", 16384, method="model"),
    Cell("nielsen1", 32, method="model"),
)  # fmt: skip


def inference_cells(networks: Sequence[str] = (), rows: Sequence[int] = ()) -> tuple[Cell, ...]:
    """Inference on the CPU: `model(x)` for each number of rows, and `predict_proba` for a single one.

    Everything where nothing is named. Raises InputError for unknown names and numbers that are none.
    """
    grid = []
    for network in [find_network(name) for name in networks or NETWORKS]:
        for size in rows or (IMAGE_ROWS if network.image else ROWS):
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
        sizes = batch_sizes or sorted({*(network.batches or BATCH_SIZES[device]), *network.more_batches})
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

    X (rows, inputs) or (rows, H, W, C) float32, uniform in [0, 1); y (rows,) int64 classes, or (rows, 1) float32 of 0 and 1.
    `kernels`: (W (KH, KW, C, O), b (O,)) float32 of every convolution. `weights`: (W (I, O), b (O,)) float32 of every dense
    layer; b is unused where batch norm follows.
    `dropout` is the network's, or 0 while losses are compared, since every library draws masks of its own.
    """

    cell: Cell
    network: Network
    threads: int
    X: np.ndarray
    y: np.ndarray
    kernels: tuple[tuple[np.ndarray, np.ndarray], ...]
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
    X = rng.random((cell.rows, math.prod(network.example)), dtype=np.float32)
    outputs = network.sizes[-1]
    other = X[:, 1:2] if X.shape[1] > 1 else 0.5
    y: Any = (X[:, :1] > other).astype(np.float32) if outputs == 1 else rng.integers(0, outputs, cell.rows)
    X = X.reshape(cell.rows, *network.example)
    rng = np.random.default_rng(1)
    kernels = tuple(_draw_weights(rng, layer.weight) for layer in network.convolutions)
    weights = tuple(_draw_weights(rng, shape) for shape in itertools.pairwise(network.sizes))
    return Task(cell, network, threads, X, y, kernels, weights, 0.0 if checking else network.dropout)


def _draw_weights(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """W of this shape, normal with variance 1 / fan-in, and b = 0."""
    W = rng.standard_normal(shape) / math.sqrt(math.prod(shape[:-1]))
    return W.astype(np.float32), np.zeros(shape[-1], np.float32)


def check_order(cell: Cell) -> np.ndarray:
    """(steps, B) int64: the mini-batches of the steps whose losses are compared."""
    steps = min(CHECK_STEPS, cell.rows // cell.batch_size)
    order = np.random.default_rng(2).permutation(cell.rows)[: steps * cell.batch_size]
    return order.reshape(steps, cell.batch_size)
