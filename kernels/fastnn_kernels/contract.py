"""The kernel table: every kernel once, with what it reads, what it writes, and what it costs.

A kernel set (`numpy`, `cpu`, `cuda`) exports every name below with the same operands in the same order:
inputs (read), then updated (read and written in place), then outputs (written), then attributes by keyword.
Kernels check nothing, allocate nothing that outlives the call and print nothing; they are right for every shape,
0 rows included, in float32 and float64. `F` stands for either of the two; `B` batch, `I` inputs, `O` outputs, `C` classes.

Arrays are C-contiguous. 0-d operands are arrays with one element. Comparisons write `bool`; labels, orders and
counters are `int64`. Floating-point operations count a fused multiply-add as two and any other arithmetic or
elementary function as one; bytes count what is touched of each operand once, of updated ones twice.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # nothing is loaded for the names alone
    import numpy as np


class Operand(NamedTuple):
    """What a kernel is told of an array before it runs: its shape and dtype."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize


Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Kernel:
    """One row of the table. `partly`: operands of which only as many elements are touched as another operand has.
    `optional`: an output that a call may have behind all others, in the `numpy` and `cuda` sets.
    `sets`: the kernel sets that have it.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    updated: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    count: Callable[[Shapes], int] = lambda shapes: 0
    partly: Mapping[str, str] = field(default_factory=dict)
    optional: str = ""
    sets: tuple[str, ...] = ("numpy", "cpu", "cuda")

    @property
    def operands(self) -> tuple[str, ...]:
        return self.inputs + self.updated + self.outputs

    def by_name(self, operands: Sequence[Operand]) -> dict[str, Operand]:
        """The operands of a call by name."""
        names = self.operands if len(operands) == len(self.operands) else (*self.operands, self.optional)
        return dict(zip(names, operands, strict=True))

    def operations(self, operands: Sequence[Operand], attributes: Mapping[str, Any] | None = None) -> int:
        """Floating-point operations of one call; those of a chain are those of the `steps` among its attributes, and what is
        pooled of an `image` counts too."""
        steps = (KERNELS[step.kernel] for step in (attributes or {}).get("steps", ()))
        inner = sum(each.count(dict.fromkeys(each.operands, operands[-1].shape)) for each in steps)
        shapes = {name: operand.shape for name, operand in self.by_name(operands).items()}
        return inner + self.count({**shapes, "image": (attributes or {}).get("image", ())})

    def traffic(self, operands: Sequence[Operand]) -> int:
        """Bytes that one call must move at least: every operand once, updated ones there and back."""
        operands_by_name = self.by_name(operands)
        total = 0
        for name, operand in operands_by_name.items():
            elements = operands_by_name[self.partly.get(name, name)].size
            total += elements * operand.dtype.itemsize * (2 if name in self.updated else 1)
        return total


class Step(NamedTuple):
    """A kernel of a chain: its arguments are numbers of the chain's inputs and, counted on from them, of earlier steps.

    `attributes`: (name, value) pairs. `stored`: "bfloat16" where the result is rounded to it before later steps read it.
    """

    kernel: str
    arguments: tuple[int, ...]
    attributes: tuple[tuple[str, Any], ...] = ()
    stored: str = ""

    def __repr__(self) -> str:
        arguments = [*map(str, self.arguments), *(f"{name}={value}" for name, value in self.attributes)]
        return f"{self.kernel}({', '.join(arguments)})"


KERNELS: dict[str, Kernel] = {}

ACTIVATIONS_FROM_OUTPUT = ("relu", "leaky_relu", "elu", "sigmoid", "tanh")
"""Activations whose derivative is a function of their output: only these can be fused into `dense`."""

ACTIVATIONS_FROM_INPUT = ("gelu", "mish", "silu", "softplus")
"""Activations whose derivative needs their input."""

RECTIFIERS = ("relu", "leaky_relu", "elu", "gelu", "mish", "silu")
"""Activations that pass about half of their inputs, for which initial weights make up."""

ALPHA_ACTIVATIONS = ("leaky_relu", "elu")
"""Activations with a slope or scale `alpha` for negative inputs."""

NO_ACTIVATION = {"activation": None, "alpha": 0.0}
"""The attributes of a layer that applies none."""

UNARY = ("identity", "negative", "exp", "log", "sqrt", "abs", "sign", "step")
BINARY = ("add", "subtract", "multiply", "divide", "power", "maximum", "minimum")
COMPARISONS = ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")
CHAINED = (
    *UNARY, *ACTIVATIONS_FROM_OUTPUT, *ACTIVATIONS_FROM_INPUT,
    *(f"{name}_backward" for name in ACTIVATIONS_FROM_OUTPUT + ACTIVATIONS_FROM_INPUT),
    *BINARY, *COMPARISONS, "where", "dropout",
)  # fmt: skip
"""Kernels that may be a step of a chain."""

CHAIN_INPUTS = 6
"""Inputs that a chain has at most."""


@dataclass(frozen=True)
class Update:
    """One optimizer: the `slots` it keeps, (P,) each, and from its attributes the numbers of its formula, in the order of the
    compiled bodies. Numbers such as 1 - beta are computed in float64 here and rounded once to the dtype of the arena.

    `step`: of an update that averages the parameters after each step, the update that makes the step; its last slot is AVERAGE.
    """

    slots: tuple[str, ...]
    numbers: Callable[..., tuple[float, ...]]
    step: str = ""

    @cached_property
    def attributes(self) -> tuple[str, ...]:
        """The names of its own attributes; all updates have `clip_value` and `clip_norm` as well."""
        return (*inspect.signature(self.numbers).parameters, *(("ema",) if self.step else ()))


def _rmsprop_numbers(beta: float, epsilon: float, epsilon_inside: bool) -> tuple[float, ...]:
    return beta, 1.0 - beta, *_epsilons(epsilon, epsilon_inside)


def _adam_numbers(beta1: float, beta2: float, epsilon: float, epsilon_inside: bool) -> tuple[float, ...]:
    return beta1, 1.0 - beta1, beta2, 1.0 - beta2, *_epsilons(epsilon, epsilon_inside)


def _epsilons(epsilon: float, inside: bool) -> tuple[float, float]:
    """What is added under the root, and to the root."""
    return (epsilon, 0.0) if inside else (0.0, epsilon)


UPDATES: dict[str, Update] = {
    "sgd": Update((), lambda: ()),
    "momentum": Update(("velocity",), lambda beta: (beta,)),
    "nesterov": Update(("velocity",), lambda beta: (beta,)),
    "averaged_momentum": Update(("velocity",), lambda beta: (beta, 1.0 - beta)),
    "rmsprop": Update(("square",), _rmsprop_numbers),
    "adagrad": Update(("square",), lambda epsilon: (epsilon,)),
    "adam": Update(("mean", "square"), _adam_numbers),
    "nadam": Update(("mean", "square"), _adam_numbers),
    "lion": Update(("mean",), lambda beta1, beta2: (beta1, 1.0 - beta1, beta2, 1.0 - beta2)),
}
"""The update kernels."""

AVERAGE = "average"
"""The slot of the moving average of the parameters. It starts from them, and every other slot from 0."""


def with_average(name: str) -> str:
    """The update that makes the step of this one, and then averages the parameters."""
    return f"{name}_with_average"


UPDATES |= {with_average(name): Update((*row.slots, AVERAGE), row.numbers, name) for name, row in UPDATES.items()}

SCALARS = ("rate", "correction1", "correction2", "gradient_factor")
"""The columns of the table `scalars` of the update kernels: what changes from step to step."""

TRANSFORMS = {
    "rotation": (0.0, 0.0),  # turns
    "zoom": (1.0, 1.0),  # size of what is seen, as a factor
    "shift_rows": (0.0, 0.0),  # pixels
    "shift_columns": (0.0, 0.0),
    "shear": (0.0, 0.0),  # turns between the columns and the vertical
    "flip_rows": (1.0, 1.0),  # flipped where below 0
    "flip_columns": (1.0, 1.0),
    "contrast": (1.0, 1.0),  # factor of the distance to the pivot
    "brightness": (0.0, 0.0),  # what is added
}
"""What is drawn for each example of `draw_transforms`, in this order, and the ranges that change nothing."""

AFFINE = 8
"""Numbers of a row of transforms before the displacements."""

LEAF_ROWS = 64
"""Rows of a mini-batch that are summed in a row; the sums of such leaves are added in a tree, see `numpy.leaves`. On a CPU
every sum over the rows of a mini-batch is such a one, on a GPU none.
"""

LEAF_IMAGES = 4
"""Images whose gradients of a convolution are summed in one chain. It divides LEAF_ROWS, so that an aligned run of that many
images has a sum of its own."""

ARITHMETIC = 2
"""Version of the order in which a CPU adds: 1 summed all rows of a mini-batch in one row, 2 in leaves."""

SUM_BLOCK = 4096
"""Elements a block in sums over a whole arena: set by nothing but this number, so that results do not depend on threads."""


def _each(name: str, factor: int = 1) -> Callable[[Shapes], int]:
    return lambda shapes: factor * math.prod(shapes[name])


def _declare(
    name: str,
    inputs: str,
    outputs: str,
    *,
    updated: str = "",
    attributes: str = "",
    count: Callable[[Shapes], int] = lambda shapes: 0,
    optional: str = "",
    sets: str = "numpy cpu cuda",
    **partly: str,
) -> None:
    KERNELS[name] = Kernel(
        name, tuple(inputs.split()), tuple(outputs.split()), tuple(updated.split()), tuple(attributes.split()), count, partly,
        optional, tuple(sets.split()),
    )  # fmt: skip


def mask_pitch(columns: int) -> int:
    """Bytes of a row of a mask of so many columns: rows start at multiples of 128 bits."""
    return -(-columns // 128) * 16


def control_points(length: int, spacing: int) -> int:
    """Control points of the splines along an axis of so many pixels."""
    return (max(length, 1) - 1) // spacing + 4


def _matmul_operations(shapes: Shapes) -> int:
    rows, columns = shapes["c"]
    return 2 * rows * columns * (math.prod(shapes["a"]) // rows if rows else 0)


def _unpooled(shapes: Shapes) -> int:
    """Pixels of the outputs of a convolution that are pooled."""
    return shapes["y" if "y" in shapes else "dy"][0] * math.prod(shapes["image"])


# Dense layers. c (M, N) = op(a) @ op(b), op the transpose where asked for.
_declare("matmul", "a b", "c", attributes="transpose_a transpose_b", count=_matmul_operations)
# y (B, O) = activation(x (B, I) @ w (I, O) + b (O,)); activation None or one of ACTIVATIONS_FROM_OUTPUT.
_declare(
    "dense", "x w b", "y", attributes="activation alpha",
    count=lambda s: 2 * math.prod(s["x"]) * s["w"][1] + 2 * math.prod(s["y"]),
)  # fmt: skip
# dx (B, I) = (dz (B, O) @ w.T) * activation'(at output y (B, I) of the layer below).
_declare(
    "dense_backward_input", "dz w y", "dx", attributes="activation alpha",
    count=lambda s: 2 * math.prod(s["dz"]) * s["w"][0] + 2 * math.prod(s["dx"]),
)  # fmt: skip
# dw (I, O) = x.T @ dz, db (O,) = sum of dz over rows.
_declare(
    "dense_backward_weight", "x dz", "dw db",
    count=lambda s: 2 * math.prod(s["x"]) * s["dz"][1] + math.prod(s["dz"]),
)  # fmt: skip
# The same with ReLU, and a mask of y > 0 instead of y. mask (B, P) uint8 is laid out as cuBLASLt wants it: bit j % 8,
# counted from the lowest, of byte j // 8 of a row is that of column j; P is `mask_pitch`; bits beyond the columns mean nothing.
# The optional operand `db` (I,) becomes the sum of dx over its rows, the gradient of the bias of the layer below.
_declare(
    "dense_with_mask", "x w b", "y mask", sets="numpy cuda",
    count=lambda s: 2 * math.prod(s["x"]) * s["w"][1] + 2 * math.prod(s["y"]),
)  # fmt: skip
_declare(
    "dense_backward_input_with_mask", "dz w mask", "dx", optional="db", sets="numpy cuda",
    count=lambda s: 2 * math.prod(s["dz"]) * s["w"][0] + (2 if "db" in s else 1) * math.prod(s["dx"]),
)  # fmt: skip

# Linear layers of G models side by side: y (B, O, G) = x (B, I, G), or (B, I) for all models, @ w (I, O, G) + b (O, G) for each
# model; dx (B, I, G) = dz (B, O, G) @ w.T; dw (I, O, G) = x.T @ dz, db (O, G) = sum of dz over B. On the CPU each model has the
# bits of `dense`, `matmul` and `dense_backward_weight`.
_declare("grouped_dense", "x w b", "y", count=lambda s: 2 * math.prod(s["y"]) * s["w"][0] + math.prod(s["y"]))
_declare("grouped_dense_backward_input", "dz w", "dx", count=lambda s: 2 * math.prod(s["dz"]) * s["w"][0])
_declare(
    "grouped_dense_backward_weight", "x dz", "dw db",
    count=lambda s: 2 * math.prod(s["dz"]) * s["dw"][0] + math.prod(s["dz"]),
)  # fmt: skip

# Elementwise, all of one shape.
for _name in UNARY:
    _declare(_name, "x", "y", count=_each("y"))
for _name in ACTIVATIONS_FROM_OUTPUT + ACTIVATIONS_FROM_INPUT:
    _alpha = "alpha" if _name in ALPHA_ACTIVATIONS else ""
    _at = "y" if _name in ACTIVATIONS_FROM_OUTPUT else "x"
    _declare(_name, "x", "y", attributes=_alpha, count=_each("y"))
    _declare(f"{_name}_backward", f"dy {_at}", "dx", attributes=_alpha, count=_each("dx", 2))

# Elementwise with NumPy broadcasting, up to six axes.
for _name in BINARY + COMPARISONS:
    _declare(_name, "a b", "c", count=_each("c"))
_declare("where", "condition a b", "c", count=_each("c"))

# Reductions over `axis` (a tuple, ascending, never empty; reduced axes are dropped) and their converse:
# y = x repeated along `axis`, divided by the number of repeats if `mean`. Of nothing, sum is 0, mean is NaN, max is -inf.
# A CPU sums in leaves along the first of the axes.
_declare("sum", "x", "y", attributes="axis", count=_each("x"))
_declare("mean", "x", "y", attributes="axis", count=_each("x"))
_declare("max", "x", "y", attributes="axis", count=_each("x"))
_declare("expand", "x", "y", attributes="axis mean", count=_each("y"))

# Moving elements: any dtype. `slice` takes y.shape[axis] entries from `start`. `gather` takes rows x[indices];
# `scatter_add` adds row i of dy to row indices[i] of dx, which starts at zero, in the order of i.
_declare("transpose", "x", "y", attributes="axes")
_declare("concatenate", "a b", "c", attributes="axis")
_declare("slice", "x", "y", attributes="axis start", x="y")
_declare("gather", "x indices", "y", x="y")
_declare("scatter_add", "indices dy", "dx", count=_each("dy"))
_declare("fill", "", "y", attributes="value")

# Over the last axis of (B, C). argmax takes the first of equal ones; NaN counts as the largest, as in NumPy.
_declare("softmax", "x", "y", count=_each("x", 4))
_declare("softmax_backward", "dy y", "dx", count=_each("y", 4))
_declare("log_softmax", "x", "y", count=_each("x", 4))
_declare("log_softmax_backward", "dy y", "dx", count=_each("y", 4))
_declare("argmax", "x", "indices", count=_each("x"))
_declare("one_hot", "labels", "y")

# Batch normalization of x (B, O) over B; mean and inverse_deviation (O,) are kept for the backward pass:
# y = activation(gamma * (x - mean) * inverse_deviation + beta), inverse_deviation = 1 / sqrt(biased variance + epsilon);
# running = momentum * running + (1 - momentum) * batch, with the unbiased variance; activation None or one of
# ACTIVATIONS_FROM_OUTPUT. The backward pass computes y anew, with the same bits, for the derivative of the activation.
_declare(
    "batch_norm", "x gamma beta", "y mean inverse_deviation", updated="running_mean running_variance",
    attributes="momentum epsilon activation alpha", count=_each("x", 7),
)  # fmt: skip
_declare(
    "batch_norm_inference", "x gamma beta running_mean running_variance", "y", attributes="epsilon activation alpha",
    count=_each("x", 3),
)  # fmt: skip
_declare(
    "batch_norm_backward", "dy x gamma beta mean inverse_deviation", "dx dgamma dbeta", attributes="activation alpha",
    count=_each("x", 10),
)  # fmt: skip

# batch_norm, then dropout (below); and the gradient of both: batch_norm_backward of dropout(dy), the mask drawn again.
_declare(
    "batch_norm_dropout", "x gamma beta step", "y mean inverse_deviation", updated="running_mean running_variance",
    attributes="momentum epsilon activation alpha rate key", count=_each("x", 9), sets="numpy cuda",
)  # fmt: skip
_declare(
    "batch_norm_dropout_backward", "dy x gamma beta mean inverse_deviation step", "dx dgamma dbeta",
    attributes="activation alpha rate key", count=_each("x", 12), sets="numpy cuda",
)  # fmt: skip

# Layer normalization of the rows of x (B, O); mean and inverse_deviation (B,) are kept for the backward pass:
# y = activation(gamma * (x - mean) * inverse_deviation + beta), inverse_deviation = 1 / sqrt(biased variance + epsilon);
# activation as in batch_norm, and y is computed anew in the same way.
_declare("layer_norm", "x gamma beta", "y mean inverse_deviation", attributes="epsilon activation alpha", count=_each("x", 8))
_declare(
    "layer_norm_backward", "dy x gamma beta mean inverse_deviation", "dx dgamma dbeta", attributes="activation alpha",
    count=_each("x", 13),
)  # fmt: skip

# y = x / (1 - rate) where the uniform of (key, step, element) is >= rate, else 0. The same call on dy is the backward.
# `step` is a 0-d int64 operand, `key` a pair of 32-bit words. See fastnn/random.py for the stream.
_declare("dropout", "x step", "y", attributes="rate key", count=_each("x", 2))

# Images changed at random, in two calls. The first draws for each example, a row of `transforms`, by Philox of (key, step): see
# fastnn/random.py. `ranges`: a (low, high) pair for each name of TRANSFORMS; `size`: (H, W) of the images. A row holds
# (m00, m01, m02, m10, m11, m12, gain, offset), then (P, Q, 2) displacements in pixels, each below `amplitude` in size: none, or
# the control points of cubic B-splines every `spacing` pixels, `control_points` of them along an axis.
_declare("draw_transforms", "step", "transforms", attributes="key size ranges pivot amplitude", count=_each("transforms", 3))
# y (B, H, W, C): pixel (r, c) is gain v + offset, v being x interpolated between the pixels around
# (m00 r + m01 c + m02, m10 r + m11 c + m12), displaced by the splines at (r, c) where `spacing` is not 0. Outside the image
# everything is `fill`, or with `edge` the nearest pixel.
_declare(
    "transform_images", "x transforms", "y", attributes="spacing fill edge",
    count=lambda s: 11 * math.prod(s["y"]) + 12 * math.prod(s["y"][:3]),
)  # fmt: skip

# y = the result of the last of `steps`, a tuple of `Step`s of kernels of CHAINED and of `fill`, all of the shape of y. The
# inputs, one of them a float array at least, are broadcast to it: arrays of that shape, of one element, rows (columns,) or
# columns (rows, 1); or the step of a dropout. The bits are those of the kernels called one after another, with results of
# comparisons kept as bool.
for _inputs in range(1, CHAIN_INPUTS + 1):
    _declare(f"chain_{_inputs}", " ".join("abcdef"[:_inputs]), "y", attributes="steps", sets="numpy cuda")

# Convolution of images x (B, H, W, C) with w (KH, KW, C / groups, O): y (B, OH, OW, O),
#   y[b, r, c, o] = activation(b[o] + sum over i, j, k, ascending, of x[b, R + i dilation[0], S + j dilation[1], g C/groups + k]
#                   * w[i, j, k, o]),  R = r strides[0] - padding[0],  S = c strides[1] - padding[1],  g = o // (O / groups);
# what lies outside the image is 0, and each axis of y has the length that its operand has. Backward, dx sums over the outputs
# that a pixel went into, row by row, and in each over o; the gradients of w and b are summed in leaves of LEAF_IMAGES images,
# over (image, r, c) in each: a row of `leaves`, dw (KH KW C/groups O numbers), then db. `add_leaves` adds these rows up in the
# tree that the leaves of rows have.
_CONVOLVED = "strides padding dilation groups"
_declare(
    "conv2d", "x w b", "y", attributes=f"{_CONVOLVED} activation alpha",
    count=lambda s: 2 * math.prod(s["y"]) * (math.prod(s["w"][:3]) + 1),
)  # fmt: skip
_declare(
    "conv2d_backward_input", "dz w", "dx", attributes=_CONVOLVED, count=lambda s: 2 * math.prod(s["dz"]) * math.prod(s["w"][:3])
)
_declare(
    "conv2d_backward_weight", "x dz", "leaves", attributes=f"size {_CONVOLVED}",
    count=lambda s: 2 * math.prod(s["dz"][:3]) * (s["leaves"][1] - s["dz"][3]) + math.prod(s["dz"]),
)  # fmt: skip
_declare("add_leaves", "leaves", "dw db", count=_each("leaves"))

# Pooling of images x (B, H, W, C) over windows of `size` (KH, KW) pixels: window (r, c) begins at pixel
# (r * strides[0] - padding[0], c * strides[1] - padding[1]), and has one pixel of the image at least; what lies outside is left
# out. y (B, OH, OW, C) is the largest, the mean or the root of the sum of squares of a window's pixels, added up row by row.
# places: which pixel is the first largest, counted row by row from the window's corner; NaN counts as largest. Backward, dx is
# the sum over the windows that a pixel is in, row by row: of dy where it is the largest; of dy / pixels of the window;
# and of dy / y (0 where y is 0), times x.
_POOLED = "size strides padding"
_declare("max_pool2d", "x", "y places", attributes=_POOLED, count=_each("x"))
_declare("max_pool2d_backward", "dy places", "dx", attributes=_POOLED, count=_each("dy"))
_declare("mean_pool2d", "x", "y", attributes=_POOLED, count=_each("x"))
_declare("mean_pool2d_backward", "dy", "dx", attributes=_POOLED, count=_each("dx", 2))
_declare("l2_pool2d", "x", "y", attributes=_POOLED, count=_each("x", 2))
_declare("l2_pool2d_backward", "dy x y", "dx", attributes=_POOLED, count=_each("dx", 3))

# A convolution and the max_pool2d of its outputs, of `image` (OH, OW) pixels, which are not kept; `pool` = (size, strides,
# padding) of windows that do not overlap. Backward, dz is max_pool2d_backward of dy. The bits are those of the two calls.
_CONVOLVED_POOLED = f"{_CONVOLVED} image pool"
_declare(
    "conv2d_max_pool", "x w b", "y places", attributes=f"{_CONVOLVED_POOLED} activation alpha", sets="numpy cpu",
    count=lambda s: _unpooled(s) * (2 * math.prod(s["w"]) + 3 * s["w"][3]),
)  # fmt: skip
_declare(
    "conv2d_max_pool_backward_input", "dy places w", "dx", attributes=_CONVOLVED_POOLED, sets="numpy cpu",
    count=lambda s: _unpooled(s) * 2 * math.prod(s["w"]),
)  # fmt: skip
_declare(
    "conv2d_max_pool_backward_weight", "x dy places", "leaves", attributes=f"size {_CONVOLVED_POOLED}", sets="numpy cpu",
    count=lambda s: _unpooled(s) * (2 * s["leaves"][1] - s["dy"][3]),
)  # fmt: skip

# Losses, one value an example; t is (B,) int64 class indices or (B, C) F for softmax, (B, O) F for the others.
# softmax_cross_entropy: -sum_j t_j log p_j; sigmoid_cross_entropy: sum_j of max(z,0) - z t + log(1 + exp(-|z|));
# squared_error: scale * sum_j (z_j - t_j)^2. Backward: dz = dlosses * dloss/dz. With gradient: both in one pass.
for _name, _flops in (("softmax_cross_entropy", 6), ("sigmoid_cross_entropy", 6), ("squared_error", 3)):
    _scale = "scale" if _name == "squared_error" else ""
    _declare(_name, "z t", "losses", attributes=_scale, count=_each("z", _flops))
    _declare(f"{_name}_backward", "z t dlosses", "dz", attributes=_scale, count=_each("z", _flops))
    _declare(f"{_name}_with_gradient", "z t dlosses", "losses dz", attributes=_scale, count=_each("z", _flops + 2))
# sum(w * losses) / sum(w) over (B,), 0 where sum(w) is 0; dlosses = dmean * w / sum(w), likewise.
_declare("weighted_mean", "losses weights", "mean", count=_each("losses", 3))
_declare("weighted_mean_backward", "dmean weights", "dlosses", count=_each("weights", 2))
# 1.0 or 0.0 an example (B,): argmax of z equals t (int64 (B,)) or argmax of t (F (B, C)); where z has one column, or
# `multilabel`, the share of columns in which (z > threshold) == (t > 0.5).
_declare("is_correct", "z t", "correct", attributes="threshold multilabel", count=_each("z"))

# Data. y[b] = source[order[position + b]] * scale for rows of any shape and of dtype uint8, int64, float32, float64;
# y is F, or int64 where the source is (scale is then 1). position, epoch: 0-d int64.
_declare("gather_rows", "source order position", "y", attributes="scale", count=_each("y"), source="y")
# The same, standardized: y[b] = (source[order[position + b]] * scale - offset) * factor, computed in float64 and rounded once;
# offset and factor (K,) float64 for rows of K elements.
_declare("gather_standardized", "source order position offset factor", "y", attributes="scale", count=_each("y", 3), source="y")
# A permutation of 0 .. n-1, (n,) int64: the stateless bijection of fastnn/random.py for (key, epoch).
_declare("shuffle", "epoch", "order", attributes="key")

# Updates over the whole arena of P parameters. `scalars` (steps, len(SCALARS)) F holds for each step of a chunk the learning
# rate, the bias corrections 1/(1 - beta1^t) and 1/(1 - beta2^t), and the factor of the gradient; of these an update reads what
# its formula names (correction1 of nadam is another one, see fastnn/optimizers.py:NAdam). `index` (0-d int64) names the row.
# `starts` (S + 1,) int64 cuts the arena into segments, `penalties` (S, 4) F holds l2, l1, decoupled weight decay and the factor
# of the learning rate of each. Where the factor is 0, w and its states stay exactly as they are.
# g = clip(gradient): first to [-clip_value, clip_value] (0: off), then times min(1, clip_norm / norm) (0: off), with
# norm (0-d F) that of the value-clipped gradient; then g += l2 * w + l1 * sign(w). Then, with rate the learning rate times
# the factor, rounded:
#   sgd                w -= rate * g
#   momentum           v = beta * v + g;              w -= rate * v
#   nesterov           v = beta * v + g;              w -= rate * (g + beta * v)
#   averaged_momentum  v = beta * v + (1 - beta) * g; w -= rate * v
#   rmsprop            s = beta * s + (1 - beta) * g^2;  w -= rate * g / (sqrt(s) + epsilon), or / sqrt(s + epsilon)
#   adagrad            s += g^2;  w -= rate * g / (sqrt(s) + epsilon)
#   lion               w -= rate * sign(beta1 * m + (1 - beta1) * g); m = beta2 * m + (1 - beta2) * g
#   adam               m = beta1 * m + (1 - beta1) * g; s = beta2 * s + (1 - beta2) * g^2;
#                      w -= rate * decay * w;  w -= rate * (m * correction1) / (sqrt(s * correction2) + epsilon),
#                      or / sqrt(s * correction2 + epsilon)
#   nadam              m and s as in adam;
#                      w -= rate * (gradient_factor * g + m * correction1) / (sqrt(s * correction2) + epsilon), or as in adam
# NAME_with_average is NAME, and then a += (1 - ema) * (w - a) with the new w: a = ema * a + (1 - ema) * w, written so that the
# average of what does not move is exactly that. Where the factor of the learning rate is 0, a = w.
# The optional operand `low_precision_weights` (P,) bfloat16 becomes a copy of the new parameters.
# Every update writes w after w -= rate * decay * w with the old w, decay being the third column of penalties.
for _name, _update in UPDATES.items():
    _declare(
        _name, "gradient norm scalars index starts penalties", "", updated=" ".join(("parameters", *_update.slots)),
        attributes=" ".join(("clip_value", "clip_norm", *_update.attributes)),
        count=_each("gradient", 4 + 5 * len(_update.slots)), optional="low_precision_weights",
    )  # fmt: skip
# Partial sums over blocks of SUM_BLOCK elements, one a block: of (scale * min(max(x, -clip), clip))^2, clip 0 being no clip;
# and of l2/2 * w^2 + l1 * |w| (segments as above; blocks run over the arena, not over the segment).
_declare("block_sum_squares", "x", "partial", attributes="clip_value scale", count=_each("x", 3))
_declare("block_penalty", "parameters starts penalties", "partial", count=_each("parameters", 4))

# The control block (8,) int64: [0] step of the chunk, [1] position in the order, [2] step since the model was made.
# log_value: log[index, column : column + K] = value (K numbers F, or a 0-d one). advance: control += (1, rows, 1).
_declare("log_value", "value index", "", updated="log", attributes="column", log="value")
_declare("advance", "", "", updated="control", attributes="rows")
# How many elements of each block of SUM_BLOCK are NaN or infinite.
_declare("count_nonfinite", "x", "counts", count=_each("x"))
