"""What each kernel is timed on: for every kernel of the contract shapes from the networks, and awkward ones.

`CASES[kernel]` are its cases. The first is timed in float32 and float64, the others in float32. Tolerances are those of the
kernel tests, in epsilons of the precision, relative to max(1, |expected|) (`assert_close` in tests/support/laws.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastnn.ops.windows import Padding, lay_windows
from fastnn.optimizers import NAMES, SGD, by_name
from fastnn_kernels.contract import (
    ACTIVATIONS_FROM_INPUT,
    ACTIVATIONS_FROM_OUTPUT,
    ALPHA_ACTIVATIONS,
    BINARY,
    COMPARISONS,
    LEAF_IMAGES,
    SUM_BLOCK,
    TRANSFORMS,
    UNARY,
    UPDATES,
    Step,
    control_points,
    mask_pitch,
)
from fastnn_kernels.memory import aligned_zeros

Shape = tuple[int, ...]
Outputs = Sequence[tuple[Shape, str]]
Make = Callable[[np.random.Generator, str], list[np.ndarray]]

KEY = (0x243F6A88, 0x85A308D3)
"""Of everything that is drawn by the kernels."""

PARAMETERS = 784 * 128 + 128 + 128 * 10 + 10
"""Of the network 784-128-10: the length of its arena."""


@dataclass(frozen=True)
class Case:
    """One call of a kernel.

    `make(rng, precision)` are the operands it reads and updates, `outputs(precision)` shape and dtype of those it writes.
    `examples` is the number of examples the call handles, 0 where that means nothing.
    """

    kernel: str
    label: str
    make: Make
    outputs: Callable[[str], Outputs]
    tolerance: float
    precisions: tuple[str, ...]
    attributes: dict[str, Any]
    examples: int = 0
    cancels: bool = False

    def arrays(self, precision: str) -> list[np.ndarray]:
        """All operands in the contract's order, each on a cache line of its own; outputs are NaN, or 1 without one."""
        arrays = self.make(np.random.default_rng(0), precision)
        for shape, dtype in self.outputs(precision):
            arrays.append(np.full(shape, np.nan if dtype.startswith("float") else 1, dtype))
        placed = [aligned_zeros(array.size, array.dtype).reshape(array.shape) for array in arrays]
        for place, array in zip(placed, arrays, strict=True):
            place[...] = array
        return placed


CASES: dict[str, list[Case]] = {}


def declare(
    kernel: str,
    label: str,
    make: Make,
    outputs: Callable[[str], Outputs],
    tolerance: float,
    *,
    integer: bool = False,
    examples: int = 0,
    cancels: bool = False,
    **attributes: Any,
) -> None:
    """Add a case; `integer` says that no operand is a float."""
    known = CASES.setdefault(kernel, [])
    precisions = ("int64",) if integer else ("float32",) if known else ("float32", "float64")
    known.append(Case(kernel, label, make, outputs, tolerance, precisions, attributes, examples, cancels))


def name(*shape: int) -> str:
    """`128x512`; `scalar` without axes."""
    return "x".join(map(str, shape)) or "scalar"


def normal(rng: np.random.Generator, precision: str, *shapes: Shape) -> list[np.ndarray]:
    return [np.asarray(rng.normal(size=shape)).astype(precision) for shape in shapes]


def uniform(rng: np.random.Generator, precision: str, *shapes: Shape, least: float = -1.0) -> list[np.ndarray]:
    """Between `least` and 1."""
    return [np.asarray(rng.uniform(least, 1, shape)).astype(precision) for shape in shapes]


def same(*shapes: Shape) -> Callable[[str], Outputs]:
    """Outputs of these shapes, in the precision of the case."""
    return lambda precision: [(shape, precision) for shape in shapes]


def as_is(*outputs: tuple[Shape, str]) -> Callable[[str], Outputs]:
    """Outputs whose dtype does not depend on the precision."""
    return lambda precision: outputs


def slope(kernel: str) -> dict[str, Any]:
    return {"alpha": 0.3} if kernel in ALPHA_ACTIVATIONS else {}


# --- dense layers -----------------------------------------------------------------------------------------------------


def dense(rows: int, inputs: int, outputs: int) -> None:
    """A layer forwards and backwards, with ReLU in it and below it."""
    label = f"{inputs}x{outputs}-at-{rows}"
    relu: dict[str, Any] = {"activation": "relu", "alpha": 0.0}
    x, w, y = (rows, inputs), (inputs, outputs), (rows, outputs)
    declare("dense", label, lambda rng, p: uniform(rng, p, x, w, (outputs,)), same(y), 8 + inputs / 4, examples=rows, **relu)
    declare(
        "dense_backward_input", label, lambda rng, p: uniform(rng, p, y, w, x), same(x), 8 + outputs / 4, examples=rows, **relu
    )
    declare(
        "dense_backward_weight", label, lambda rng, p: uniform(rng, p, x, y), same(w, (outputs,)), 8 + rows / 4, examples=rows
    )
    declare(
        "dense_with_mask", label, lambda rng, p: uniform(rng, p, x, w, (outputs,)),
        lambda p: [(y, p), ((rows, mask_pitch(outputs)), "uint8")], 8 + inputs / 4, examples=rows,
    )  # fmt: skip
    declare(
        "dense_backward_input_with_mask", label,
        lambda rng, p: [*uniform(rng, p, y, w), rng.integers(0, 256, (rows, mask_pitch(inputs)), np.uint8)],
        same(x), 8 + outputs / 4, examples=rows,
    )  # fmt: skip


def grouped_dense(rows: int, inputs: int, outputs: int, groups: int, shared: bool) -> None:
    """The linear layers of several models forwards and backwards; `shared`: all read the same inputs."""
    label = f"{groups}-of-{inputs}x{outputs}-at-{rows}{'-shared' if shared else ''}"
    x, w, y = (rows, inputs) if shared else (rows, inputs, groups), (inputs, outputs, groups), (rows, outputs, groups)
    b = (outputs, groups)
    declare("grouped_dense", label, lambda rng, p: uniform(rng, p, x, w, b), same(y), 8 + inputs / 4, examples=rows)
    if not shared:
        declare(
            "grouped_dense_backward_input", label, lambda rng, p: uniform(rng, p, y, w), same(x), 8 + outputs / 4, examples=rows
        )
    declare(
        "grouped_dense_backward_weight", label, lambda rng, p: uniform(rng, p, x, y), same(w, b), 8 + rows / 4, examples=rows
    )


def matmul(rows: int, inner: int, columns: int, transpose_a: bool, transpose_b: bool) -> None:
    a = (inner, rows) if transpose_a else (rows, inner)
    b = (columns, inner) if transpose_b else (inner, columns)
    label = f"{name(*a)}{'.T' * transpose_a}-{name(*b)}{'.T' * transpose_b}"
    declare(
        "matmul", label, lambda rng, p: uniform(rng, p, a, b), same((rows, columns)), 8 + inner / 4,
        transpose_a=transpose_a, transpose_b=transpose_b,
    )  # fmt: skip


for _rows, _inputs, _outputs in ((128, 784, 128), (32, 784, 128), (1, 784, 128), (32, 512, 512), (7, 33, 31)):
    dense(_rows, _inputs, _outputs)
grouped_dense(64, 2, 4, 32, shared=True)
grouped_dense(64, 4, 1, 32, shared=False)
matmul(128, 784, 128, False, False)
matmul(784, 32, 128, True, False)
matmul(32, 128, 784, False, True)
matmul(7, 33, 31, True, True)


# --- convolution and pooling of images ---------------------------------------------------------------------------------


def convolution(
    images: Shape, kernel: Shape, strides: tuple[int, int] = (1, 1), padding: Any = "valid",
    dilation: tuple[int, int] = (1, 1), groups: int = 1,
) -> None:  # fmt: skip
    """A layer of kernels (KH, KW, O) forwards, with ReLU in it, and backwards."""
    size, outputs, channels = kernel[:2], kernel[2], images[3] // groups
    windows, before = lay_windows("convolution", images[1:3], (kernel[0], kernel[1]), strides, padding, dilation)
    w, y, rows = (*size, channels, outputs), (images[0], *windows, outputs), -(-images[0] // LEAF_IMAGES)
    laid: dict[str, Any] = {"strides": strides, "padding": before, "dilation": dilation, "groups": groups}
    changed = "".join(f"-{what}" for what, is_so in (("strided", strides != (1, 1)), ("dilated", dilation != (1, 1)),
                                                     (f"groups-{groups}", groups > 1)) if is_so)  # fmt: skip
    label = f"{name(*images)}-{name(*kernel)}{changed}"
    inner, pixels, taken = math.prod(w[:3]), LEAF_IMAGES * math.prod(windows), images[0]
    declare(
        "conv2d", label, lambda rng, p: uniform(rng, p, images, w, (outputs,)), same(y), 8 + inner / 2, examples=taken,
        activation="relu", alpha=0.0, **laid,
    )  # fmt: skip
    declare(
        "conv2d_backward_input", label, lambda rng, p: uniform(rng, p, y, w), same(images), 8 + math.prod(size) * outputs / 2,
        examples=taken, **laid,
    )  # fmt: skip
    declare(
        "conv2d_backward_weight", label, lambda rng, p: uniform(rng, p, images, y), same((rows, math.prod(w) + outputs)),
        8 + pixels / 2, examples=taken, size=size, **laid,
    )  # fmt: skip


def pooled_convolution(images: Shape, kernel: Shape, padding: str = "valid") -> None:
    """The same with max pooling of 2 x 2 pixels behind it, of whole numbers: equal ones are equal in every precision."""
    size, outputs = kernel[:2], kernel[2]
    windows, before = lay_windows("convolution", images[1:3], (kernel[0], kernel[1]), (1, 1), padding)
    w, y, rows = (*size, images[3], outputs), (images[0], *(n // 2 for n in windows), outputs), -(-images[0] // LEAF_IMAGES)
    laid: dict[str, Any] = {
        "strides": (1, 1), "padding": before, "dilation": (1, 1), "groups": 1, "image": windows,
        "pool": ((2, 2), (2, 2), (0, 0)), "examples": images[0],
    }  # fmt: skip
    label = f"{name(*images)}-{name(*kernel)}"

    def whole(rng: np.random.Generator, precision: str, *shapes: Shape) -> list[np.ndarray]:
        return [rng.integers(-2, 3, shape).astype(precision) for shape in shapes]

    def places(rng: np.random.Generator) -> np.ndarray:
        return rng.integers(0, 4, y, "uint8")

    declare(
        "conv2d_max_pool", label, lambda rng, p: whole(rng, p, images, w, (outputs,)), lambda p: [(y, p), (y, "uint8")], 0,
        activation="relu", alpha=0.0, **laid,
    )  # fmt: skip
    declare(
        "conv2d_max_pool_backward_input", label, lambda rng, p: [*whole(rng, p, y), places(rng), *whole(rng, p, w)],
        same(images), 0, **laid,
    )  # fmt: skip
    declare(
        "conv2d_max_pool_backward_weight", label, lambda rng, p: [*whole(rng, p, images, y), places(rng)],
        same((rows, math.prod(w) + outputs)), 0, size=size, **laid,
    )  # fmt: skip


def add_leaves(leaves: int, numbers: int) -> None:
    """The sums of leaves of `numbers` numbers, 20 of them a bias where there are so many."""
    bias = min(numbers, 20)
    outputs = same((numbers - bias,), (bias,))
    declare("add_leaves", name(leaves, numbers), lambda rng, p: normal(rng, p, (leaves, numbers)), outputs, 8, cancels=True)


def pooling(images: Shape, size: tuple[int, int], strides: tuple[int, int] | None = None, padding: Padding = "valid") -> None:
    """The three kinds forwards and backwards."""
    strides = strides or size
    windows, before = lay_windows("pooling", images[1:3], size, strides, padding)
    shape, label = (images[0], *windows, images[3]), f"{name(*images)}-{name(*size)}"
    laid: dict[str, Any] = {"size": size, "strides": strides, "padding": before, "examples": images[0]}
    tolerance = 2 + math.prod(size)

    def with_places(rng: np.random.Generator, precision: str) -> list[np.ndarray]:
        """Places of the image, wherever the window lies."""
        corners = [np.arange(n) * step - first for n, step, first in zip(windows, strides, before, strict=True)]
        rows, columns = (np.maximum(0, -corner) for corner in corners)
        places = (rows[:, None] * size[1] + columns[None, :]).astype(np.uint8)
        return [*normal(rng, precision, shape), np.broadcast_to(places[None, :, :, None], shape).copy()]

    def with_roots(rng: np.random.Generator, precision: str) -> list[np.ndarray]:
        return [*normal(rng, precision, shape, images), *uniform(rng, precision, shape, least=0.5)]

    declare("max_pool2d", label, lambda rng, p: normal(rng, p, images), lambda p: [(shape, p), (shape, "uint8")], 0, **laid)
    declare("max_pool2d_backward", label, with_places, same(images), tolerance, cancels=True, **laid)
    declare("mean_pool2d", label, lambda rng, p: normal(rng, p, images), same(shape), tolerance, cancels=True, **laid)
    declare("mean_pool2d_backward", label, lambda rng, p: normal(rng, p, shape), same(images), tolerance, cancels=True, **laid)
    declare("l2_pool2d", label, lambda rng, p: normal(rng, p, images), same(shape), tolerance, **laid)
    declare("l2_pool2d_backward", label, with_roots, same(images), tolerance + 8, cancels=True, **laid)


for _images in (32, 128):
    convolution((_images, 28, 28, 1), (5, 5, 20))
    convolution((_images, 12, 12, 20), (5, 5, 40))
convolution((32, 32, 32, 3), (3, 3, 32), padding="same")
convolution((32, 32, 32, 32), (3, 3, 32), padding="same")
convolution((32, 16, 16, 32), (3, 3, 64), padding="same")
convolution((32, 16, 16, 64), (3, 3, 64), padding="same")
convolution((7, 13, 11, 31), (3, 2, 33), strides=(2, 1), padding="same")
convolution((32, 16, 16, 32), (3, 3, 32), padding="same", groups=32)
pooled_convolution((128, 28, 28, 1), (5, 5, 20))
pooled_convolution((128, 12, 12, 20), (5, 5, 40))
pooled_convolution((32, 32, 32, 32), (3, 3, 32), "same")
pooled_convolution((32, 16, 16, 64), (3, 3, 64), "same")
pooled_convolution((7, 13, 11, 3), (3, 2, 33))
add_leaves(32, 25 * 20 + 20)
add_leaves(32, 500 * 40 + 40)
add_leaves(31, 127)
pooling((128, 24, 24, 20), (2, 2))
pooling((128, 8, 8, 40), (2, 2))
pooling((32, 32, 32, 32), (2, 2))
pooling((32, 16, 16, 64), (2, 2))
pooling((7, 13, 11, 31), (3, 2), (2, 1), "same")


# --- elementwise ------------------------------------------------------------------------------------------------------

SHAPES: tuple[Shape, ...] = ((128, 512), (31, 33), (1,))
EXACT = {"identity": 0, "negative": 0, "abs": 0, "sign": 0, "step": 0, "relu": 0, "sqrt": 1, "leaky_relu": 1}


def unary(kernel: str, shape: Shape) -> None:
    least = 0.01 if kernel in ("log", "sqrt") else -1.0
    declare(
        kernel, name(*shape), lambda rng, p: uniform(rng, p, shape, least=least), same(shape), EXACT.get(kernel, 4),
        **slope(kernel),
    )  # fmt: skip


def backward(activation: str, shape: Shape) -> None:
    least = {"sigmoid": 0.0, "elu": -0.3}.get(activation, -1.0)  # what these two can put out
    declare(
        f"{activation}_backward", name(*shape),
        lambda rng, p: [*normal(rng, p, shape), *uniform(rng, p, shape, least=least)], same(shape),
        0 if activation == "relu" else 6, **slope(activation),
    )  # fmt: skip


def binary(kernel: str, a: Shape, b: Shape) -> None:
    """Both away from zero, and the base of a power above it."""
    shape, comparison = np.broadcast_shapes(a, b), kernel in COMPARISONS

    def make(rng: np.random.Generator, precision: str) -> list[np.ndarray]:
        if comparison:
            return [array.round() for array in normal(rng, precision, a, b)]
        return uniform(rng, precision, a, b, least=0.1)

    outputs = as_is((shape, "bool")) if comparison else same(shape)
    declare(kernel, f"{name(*a)}-{name(*b)}", make, outputs, 4 if kernel == "power" else 0.5)


def where(condition: Shape, a: Shape, b: Shape) -> None:
    declare(
        "where", f"{name(*condition)}-{name(*a)}-{name(*b)}",
        lambda rng, p: [np.asarray(rng.random(condition) < 0.5), *normal(rng, p, a, b)],
        same(np.broadcast_shapes(condition, a, b)), 0,
    )  # fmt: skip


for _shape in SHAPES:
    for _kernel in UNARY + ACTIVATIONS_FROM_OUTPUT + ACTIVATIONS_FROM_INPUT:
        unary(_kernel, _shape)
    for _kernel in ACTIVATIONS_FROM_OUTPUT + ACTIVATIONS_FROM_INPUT:
        backward(_kernel, _shape)
for _a, _b in (((128, 512), (128, 512)), ((128, 512), (512,)), ((31, 33), (31, 1))):
    for _kernel in BINARY + COMPARISONS:
        binary(_kernel, _a, _b)
where((128, 512), (128, 512), (128, 512))
where((128, 1), (128, 512), ())
where((31, 33), (33,), (31, 1))


# --- reductions, and moving elements ----------------------------------------------------------------------------------


def reductions(shape: Shape, axis: tuple[int, ...]) -> None:
    label = f"{name(*shape)}-over-{name(*axis)}"
    small = tuple(size for index, size in enumerate(shape) if index not in axis)
    count = math.prod(shape[index] for index in axis)
    for kernel, tolerance in (("sum", 4 + count / 4), ("mean", 4.0), ("max", 0.0)):
        declare(kernel, label, lambda rng, p: normal(rng, p, shape), same(small), tolerance, axis=axis)
    declare("expand", label, lambda rng, p: normal(rng, p, small), same(shape), 1, axis=axis, mean=True)


def transpose(shape: Shape, axes: tuple[int, ...]) -> None:
    outputs = same(tuple(shape[axis] for axis in axes))
    declare("transpose", name(*shape), lambda rng, p: normal(rng, p, shape), outputs, 0, axes=axes)


def concatenate(a: Shape, b: Shape, axis: int) -> None:
    shape = tuple(m + n if index == axis else m for index, (m, n) in enumerate(zip(a, b, strict=True)))
    declare("concatenate", f"{name(*a)}-{name(*b)}", lambda rng, p: normal(rng, p, a, b), same(shape), 0, axis=axis)


def cut(shape: Shape, axis: int, start: int, entries: int) -> None:
    part = tuple(entries if index == axis else size for index, size in enumerate(shape))
    declare(
        "slice", f"{name(*shape)}-to-{name(*part)}", lambda rng, p: normal(rng, p, shape), same(part), 0, axis=axis, start=start
    )


def gather(entries: int, count: int, width: int) -> None:
    """Rows of a table, and adding to them."""
    label, table, some = f"{count}-of-{entries}x{width}", (entries, width), (count, width)
    declare("gather", label, lambda rng, p: [*normal(rng, p, table), rng.integers(0, entries, count)], same(some), 0)
    declare(
        "scatter_add", label, lambda rng, p: [rng.integers(0, entries, count), *normal(rng, p, some)], same(table), 2 * count
    )


for _shape, _axis in (((128, 512), (0,)), ((128, 512), (1,)), ((31, 33), (0, 1)), ((127, 1), (0,))):
    reductions(_shape, _axis)
transpose((784, 128), (1, 0))
transpose((32, 28, 28), (0, 2, 1))
transpose((31, 33), (1, 0))
concatenate((64, 512), (64, 512), 0)
concatenate((31, 33), (31, 7), 1)
cut((128, 512), 1, 7, 100)
cut((1009, 31), 0, 13, 127)
gather(1009, 128, 64)
gather(31, 127, 33)
for _shape in ((128, 512), (1009,), ()):
    declare("fill", name(*_shape), lambda rng, p: [], same(_shape), 1, value=0.1)


# --- rows, norms, dropout ---------------------------------------------------------------------------------------------


def rows_of(rows: int, columns: int) -> None:
    shape, label = (rows, columns), name(rows, columns)

    def backward_of(result: Callable[[np.ndarray], np.ndarray]) -> Make:
        """dy, and what the kernel put out."""

        def make(rng: np.random.Generator, precision: str) -> list[np.ndarray]:
            dy, x = rng.normal(size=(2, *shape))
            shares = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
            return [dy.astype(precision), result(shares).astype(precision)]

        return make

    for kernel in ("softmax", "log_softmax"):
        declare(kernel, label, lambda rng, p: normal(rng, p, shape), same(shape), 4, examples=rows)
    declare("softmax_backward", label, backward_of(np.asarray), same(shape), 8, examples=rows, cancels=True)
    declare("log_softmax_backward", label, backward_of(np.log), same(shape), 20 + columns / 20, examples=rows)
    declare("argmax", label, lambda rng, p: normal(rng, p, shape), as_is(((rows,), "int64")), 0, examples=rows)
    declare("one_hot", label, lambda rng, p: [rng.integers(0, columns, rows)], same(shape), 0, examples=rows)


def batch_norm(rows: int, columns: int) -> None:
    shape, row, label = (rows, columns), (columns,), name(rows, columns)

    def forward(rng: np.random.Generator, precision: str) -> list[np.ndarray]:
        """x, gamma, beta, running mean and variance."""
        return [2 * normal(rng, precision, shape)[0] + 3, *normal(rng, precision, row, row, row),
                *uniform(rng, precision, row, least=0.5)]  # fmt: skip

    def backward(rng: np.random.Generator, precision: str) -> list[np.ndarray]:
        x, gamma, beta = forward(rng, precision)[:3]
        wide = x.astype(np.float64)
        mean, inverse = wide.mean(axis=0), 1 / np.sqrt(wide.var(axis=0) + 1e-3)
        dy = normal(rng, precision, shape)[0]
        dy *= np.abs(gamma * (wide - mean) * inverse + beta) > 1e-3  # what relu lets through is in doubt for smaller ones
        return [dy, x, gamma, beta, mean.astype(precision), inverse.astype(precision)]

    def with_step(make: Make, at: int) -> Make:
        """The operands of `make`, with the number of the step behind so many of them."""
        return lambda rng, precision: [*(made := make(rng, precision))[:at], np.array(5), *made[at:]]

    moments: dict[str, Any] = {"momentum": 0.9, "epsilon": 1e-3}
    drop: dict[str, Any] = {"rate": 0.2, "key": KEY, "activation": "relu"}
    written, tolerance = same(shape, row, row), 100 + rows
    for activation in (None, "relu"):
        each = f"{label}-{activation}" if activation else label
        declare("batch_norm", each, forward, written, 100, examples=rows, activation=activation, **moments)
        declare("batch_norm_inference", each, forward, same(shape), 10, examples=rows, activation=activation, epsilon=1e-3)
        declare("batch_norm_backward", each, backward, written, tolerance, examples=rows, activation=activation)
    declare("batch_norm_dropout", label, with_step(forward, 3), written, 100, examples=rows, **moments, **drop)
    declare("batch_norm_dropout_backward", label, with_step(backward, 6), written, tolerance, examples=rows, **drop)


def layer_norm(rows: int, columns: int) -> None:
    shape, row, column, label = (rows, columns), (columns,), (rows,), name(rows, columns)

    def forward(rng: np.random.Generator, precision: str) -> list[np.ndarray]:
        """x, gamma, beta."""
        return [2 * normal(rng, precision, shape)[0] + 3, *normal(rng, precision, row, row)]

    def backward(rng: np.random.Generator, precision: str) -> list[np.ndarray]:
        x, gamma, beta = forward(rng, precision)
        wide = x.astype(np.float64)
        mean, inverse = wide.mean(axis=1), 1 / np.sqrt(wide.var(axis=1) + 1e-5)
        dy = normal(rng, precision, shape)[0]
        dy *= np.abs(gamma * ((wide.T - mean) * inverse).T + beta) > 1e-3  # as in batch_norm
        return [dy, x, gamma, beta, mean.astype(precision), inverse.astype(precision)]

    for activation in (None, "relu"):
        each = f"{label}-{activation}" if activation else label
        declare(
            "layer_norm", each, forward, same(shape, column, column), 100, examples=rows, activation=activation, epsilon=1e-5
        )
        declare("layer_norm_backward", each, backward, same(shape, row, row), 100 + rows, examples=rows, activation=activation)


def dropout(*shape: int) -> None:
    declare("dropout", name(*shape), lambda rng, p: [*normal(rng, p, shape), np.array(5)], same(shape), 1, rate=0.2, key=KEY)


for _rows, _columns in ((128, 10), (31, 33), (3, 1025)):
    rows_of(_rows, _columns)
for _rows, _columns in ((128, 512), (8, 512), (31, 33)):
    batch_norm(_rows, _columns)
    layer_norm(_rows, _columns)
for _shape in SHAPES:
    dropout(*_shape)


# --- chains -----------------------------------------------------------------------------------------------------------

DROPPED = (("key", KEY), ("rate", 0.2))


def chain(shape: Shape, tolerance: float, *steps: Step, others: Sequence[Shape] = (), counter: int | None = None) -> None:
    """`steps` on an array of `shape` and `others`; operand `counter` is the step of a dropout."""
    inputs = 1 + len(others) + (counter is not None)

    def make(rng: np.random.Generator, precision: str) -> list[np.ndarray]:
        arrays = normal(rng, precision, shape, *others)
        return arrays if counter is None else [*arrays[:counter], np.array(5), *arrays[counter:]]

    declare(f"chain_{inputs}", name(*shape), make, same(shape), tolerance, steps=steps)


def chains(shape: Shape) -> None:
    """x tanh(x); GELU and dropout, and both backwards; the gradient of a Huber loss; a gate with bias and a residual."""
    row, column = shape[-1:], (*shape[:-1], 1)
    chain(shape, 8, Step("tanh", (0,)), Step("multiply", (1, 0)))
    chain(shape, 8, Step("gelu", (0,)), Step("dropout", (2, 1), DROPPED), counter=1)
    chain(shape, 8, Step("dropout", (0, 1), DROPPED), Step("gelu_backward", (3, 2)), others=(shape,), counter=1)
    chain(
        shape, 8, Step("subtract", (0, 1)), Step("abs", (4,)), Step("less_equal", (5, 2)), Step("sign", (4,)),
        Step("multiply", (7, 2)), Step("where", (6, 4, 8)), Step("multiply", (9, 3)), others=(shape, (), column),
    )  # fmt: skip
    chain(
        shape, 16, Step("add", (0, 2)), Step("sigmoid", (5,)), Step("add", (1, 3)), Step("multiply", (6, 7)),
        Step("add", (8, 4)), others=(shape, row, row, shape),
    )  # fmt: skip
    chain(
        shape, 16, Step("add", (0, 2)), Step("leaky_relu", (6,), (("alpha", 0.3),)), Step("multiply", (7, 4)),
        Step("dropout", (8, 3), DROPPED), Step("add", (9, 1)), Step("maximum", (10, 5)),
        others=(shape, row, column, ()), counter=3,
    )  # fmt: skip


for _shape in SHAPES:
    chains(_shape)


# --- losses -----------------------------------------------------------------------------------------------------------


def losses(kernel: str, rows: int, columns: int, classes: bool = False, **attributes: Any) -> None:
    """The loss, its gradient, and both; targets are class indices with `classes`, else shares that sum to 1 in a row."""
    shape, label = (rows, columns), f"{name(rows, columns)}{'-classes' * classes}"

    def make(rng: np.random.Generator, precision: str) -> list[np.ndarray]:
        shares = rng.uniform(size=shape)
        t = rng.integers(0, columns, rows) if classes else (shares / shares.sum(axis=1, keepdims=True)).astype(precision)
        return [*normal(rng, precision, shape), t]

    def with_dlosses(rng: np.random.Generator, precision: str) -> list[np.ndarray]:
        return [*make(rng, precision), *normal(rng, precision, (rows,))]

    tolerance = 20 + columns / 20
    declare(kernel, label, make, same((rows,)), tolerance, examples=rows, **attributes)
    declare(f"{kernel}_backward", label, with_dlosses, same(shape), tolerance, examples=rows, **attributes)
    declare(f"{kernel}_with_gradient", label, with_dlosses, same((rows,), shape), tolerance, examples=rows, **attributes)


def weighted_mean(rows: int) -> None:
    one, label = (rows,), name(rows)
    declare("weighted_mean", label, lambda rng, p: uniform(rng, p, one, one, least=0.0), same(()), 8, examples=rows)
    declare("weighted_mean_backward", label, lambda rng, p: uniform(rng, p, (), one, least=0.0), same(one), 8, examples=rows)


def is_correct(rows: int, columns: int, multilabel: bool) -> None:
    """Class indices, or yes and no in every column."""

    def make(rng: np.random.Generator, precision: str) -> list[np.ndarray]:
        z = rng.normal(size=(rows, columns)).astype(precision)
        if multilabel:
            return [z, rng.integers(0, 2, (rows, columns)).astype(precision)]
        return [z, rng.integers(0, max(2, columns), rows)]

    label = f"{name(rows, columns)}{'-multilabel' * multilabel}"
    declare("is_correct", label, make, same((rows,)), 1, examples=rows, threshold=0.0, multilabel=multilabel)


losses("softmax_cross_entropy", 128, 10, classes=True)
losses("softmax_cross_entropy", 1, 10, classes=True)
losses("softmax_cross_entropy", 31, 33)
losses("sigmoid_cross_entropy", 128, 1)
losses("sigmoid_cross_entropy", 31, 33)
losses("squared_error", 128, 10, scale=0.5)
losses("squared_error", 31, 33, scale=0.5)
for _rows in (128, 5003, 1):
    weighted_mean(_rows)
is_correct(128, 10, False)
is_correct(127, 1, False)
is_correct(31, 33, True)


# --- data, updates, control -------------------------------------------------------------------------------------------


def gather_rows(rows: int, source: str, width: int, scale: float) -> None:
    """A mini-batch of examples."""
    count, position = 1009, 97

    def make(rng: np.random.Generator, precision: str) -> list[np.ndarray]:
        data = rng.integers(0, 256, (count, width)).astype(source)
        return [data, rng.permutation(count), np.array(position)]

    declare("gather_rows", f"{name(rows, width)}-{source}", make, same((rows, width)), 2, examples=rows, scale=scale)


def gather_standardized(rows: int, source: str, width: int) -> None:
    """A mini-batch of examples that are standardized as they are read."""
    count, position = 1009, 97

    def make(rng: np.random.Generator, precision: str) -> list[np.ndarray]:
        data = rng.integers(0, 256, (count, width)).astype(source)
        return [data, rng.permutation(count), np.array(position), np.full(width, 127.5), np.full(width, 1 / 74)]

    declare("gather_standardized", f"{name(rows, width)}-{source}", make, same((rows, width)), 2, examples=rows, scale=1.0)


DRAWN = TRANSFORMS | {
    "rotation": (-0.03, 0.03), "zoom": (0.9, 1.1), "shift_rows": (-2.0, 2.0), "shift_columns": (-2.0, 2.0),
    "shear": (-0.02, 0.02), "flip_columns": (-1.0, 1.0), "contrast": (0.8, 1.2), "brightness": (-0.1, 0.1),
}  # fmt: skip
"""What `augment` draws from: each number but a flip of the rows."""


def augment(images: int, height: int, width: int, channels: int, spacing: int, edge: bool = False) -> None:
    """Transforms of images, displaced where `spacing` is not 0; and the images."""
    shape = (images, height, width, channels)
    label = f"{name(*shape)}{f'-distorted-{spacing}' * bool(spacing)}{'-edge' * edge}"
    points = control_points(height, spacing) * control_points(width, spacing) if spacing else 0
    rows = (images, 8 + 2 * points)
    drawn = {"key": KEY, "size": (height, width), "ranges": tuple(DRAWN.values()), "pivot": 0.5, "amplitude": 3.0}

    def transforms(rng: np.random.Generator) -> np.ndarray:
        near = np.array([1, 0.05, 0.3, -0.05, 1, -0.3, 1, 0]) + rng.uniform(-0.01, 0.01, (images, 8))
        return np.concatenate([near, rng.uniform(-3, 3, (images, 2 * points))], axis=1)

    def make(rng: np.random.Generator, precision: str) -> list[np.ndarray]:
        return [*uniform(rng, precision, shape, least=0.0), transforms(rng).astype(precision)]

    tolerance = 4.0 * (height + width)  # a rounded coordinate, times what neighbors differ by
    declare("draw_transforms", label, lambda rng, p: [np.array(5)], same(rows), tolerance, examples=images, **drawn)
    declare("transform_images", label, make, same(shape), tolerance, examples=images, spacing=spacing, fill=0.0, edge=edge)


def shuffle(count: int) -> None:
    declare("shuffle", name(count), lambda rng, p: [np.array(3)], as_is(((count,), "int64")), 0, integer=True, key=KEY)


UPDATERS = {
    made.update_kernel: made
    for plain in (SGD(momentum=0.9), *map(by_name, NAMES))
    for made in (plain, replace(plain, ema=0.999))
}
"""By update kernel, an optimizer that uses it."""


def penalties(precision: str, size: int) -> list[np.ndarray]:
    """Three segments, the first with l2 and l1, the second with nothing, the third with weight decay."""
    starts = np.array([0, size // 3, size // 2, size])
    return [starts, np.array([[1e-3, 1e-4, 0, 1], [0, 0, 0, 1], [0, 0, 0.1, 1]], precision)]


def update(kernel: str, size: int, clipped: bool) -> None:
    """A step at the learning rate 1e-3: however often it is repeated with the same gradient, everything stays finite."""

    def make(rng: np.random.Generator, precision: str) -> list[np.ndarray]:
        scalars = UPDATERS[kernel].scalars(np.array([1, 2]), np.full(2, 1e-3)).astype(precision)
        states = uniform(rng, precision, *((size,) for _ in UPDATES[kernel].slots), least=0.1)
        return [
            *normal(rng, precision, (size,)), np.array(1.7, precision), scalars, np.array(1), *penalties(precision, size),
            *normal(rng, precision, (size,)), *states,
        ]  # fmt: skip

    attributes = {**UPDATERS[kernel].attributes(), "clip_value": 0.7 * clipped, "clip_norm": 1.1 * clipped}
    declare(kernel, f"{name(size)}{'-clipped' * clipped}", make, same(), 16, **attributes)


def block_sums(size: int) -> None:
    """Over the whole arena."""
    label, blocks = name(size), (-(-size // SUM_BLOCK),)
    declare("block_sum_squares", label, lambda rng, p: normal(rng, p, (size,)), same(blocks), 8, clip_value=0.0, scale=1.0)
    declare("block_penalty", label, lambda rng, p: [*normal(rng, p, (size,)), *penalties(p, size)], same(blocks), 8)
    declare("count_nonfinite", label, lambda rng, p: normal(rng, p, (size,)), as_is((blocks, "int64")), 0)


gather_rows(128, "float32", 784, 1.0)
gather_rows(32, "uint8", 784, 1 / 255)
gather_rows(127, "float64", 31, 1.0)
gather_standardized(128, "float32", 784)
gather_standardized(32, "uint8", 784)
gather_standardized(127, "float64", 31)
augment(128, 28, 28, 1, 0)
augment(128, 28, 28, 1, 7)
augment(31, 33, 31, 3, 5, edge=True)
for _size in (60_000, 1009, 1):
    shuffle(_size)
for _size, _clipped in ((PARAMETERS, False), (1009, True)):
    for _kernel in UPDATES:
        update(_kernel, _size, _clipped)
    block_sums(_size)
declare("log_value", "1024x3", lambda rng, p: [np.array(2.5, p), np.array(17), np.zeros((1024, 3), p)], same(), 0, column=1)
declare(
    "log_value", "1024x64", lambda rng, p: [np.full(33, 2.5, p), np.array(17), np.zeros((1024, 64), p)], same(), 0, column=31
)
declare("advance", "8", lambda rng, p: [np.zeros(8, np.int64)], same(), 0, integer=True, rows=128)
