"""Convolution of images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastnn.arrays import to_device
from fastnn.errors import InputError
from fastnn.ops.activations import activate, check_activation
from fastnn.ops.dispatch import Array, apply
from fastnn.ops.windows import Padding, as_padding, as_pair, check_images, lay_windows
from fastnn.program.differentiate import backward
from fastnn.program.shapes import BatchDim, concrete, describe
from fastnn.program.trace import Call, Symbol, constant, floats
from fastnn_kernels.contract import ACTIVATIONS_FROM_OUTPUT, LEAF_IMAGES, NO_ACTIVATION

__all__ = ["conv2d"]


def conv2d(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    strides: int | tuple[int, int] = 1,
    padding: Padding = "valid",
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    activation: str | None = None,
    alpha: float | None = None,
) -> Array:
    """y (B, OH, OW, O) = activation(b (O,) + the sum of x[r, c] @ w[i, j] over the taps i, j), images x (B, H, W, C).

    w is (KH, KW, C / groups, O). The tap (i, j) of the output at (r, c) is the pixel (r strides + i dilation - padding, ...):
    it is a cross-correlation, as everywhere in this field, and the kernel is not flipped. `strides`, `dilation`: a number, or
    (rows, columns). `padding`, with zeros: "valid" for none, OH = (H - dilation (KH - 1) - 1) // stride + 1; "same" for
    OH = ceil(H / stride), where it is odd with one row more below and one column more on the right; or numbers: of pixels on
    all sides, of (rows, columns), or ((above, below), (left, right)); of what sees padding alone, y is activation(b). `groups`:
    channels and outputs are cut into so many groups, each output made of the channels of its own; as many as channels for a
    depthwise convolution. `activation`, `alpha`: as for `dense`.

    Raises InputError for shapes that do not fit, such as a kernel that is larger than the padded image, and InputTypeError for
    other dtypes than float32 and float64. Source: Nielsen, Neural Networks and Deep Learning, chapter 6, equation 125.

        ops.conv2d(images, w, b, padding="same", activation="relu")    # (B, 28, 28, 1), (5, 5, 1, 20) -> (B, 28, 28, 20)
    """
    dtype = floats("conv2d", x, w) if b is None else floats("conv2d", x, w, b)
    check_images("conv2d", x)
    if len(w.shape) != 4 or 0 in w.shape:
        raise InputError(f"conv2d: expected w (KH, KW, C / groups, O), got {describe(tuple(w.shape))}")
    height, width, inputs, outputs = w.shape
    if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1 or outputs % groups:
        raise InputError(f"conv2d: groups: expected a divisor of the {outputs} outputs of w, got {groups!r}")
    if x.shape[3] != inputs * groups:
        of = f" in each of {groups} groups" if groups > 1 else ""
        raise InputError(f"conv2d: w {describe(tuple(w.shape))} is for {inputs} channels{of}, and x has {x.shape[3]}")
    if b is not None and tuple(b.shape) != (outputs,):
        raise InputError(f"conv2d: expected b of shape ({outputs},), got {describe(tuple(b.shape))}")
    if activation is not None:
        alpha = check_activation(activation, alpha)
    steps, spread = as_pair("conv2d", "strides", strides), as_pair("conv2d", "dilation", dilation)
    (rows, columns), before = lay_windows(
        "conv2d", x.shape[1:3], (height, width), steps, as_padding("conv2d", padding), spread
    )  # fmt: skip
    if b is None:
        b = constant(w, 0.0, (outputs,)) if isinstance(w, Symbol) else to_device(np.zeros(outputs, dtype), w)
    attributes: dict[str, Any] = {"strides": steps, "padding": before, "dilation": spread, "groups": groups, **NO_ACTIVATION}
    fused = not isinstance(x, Symbol) and activation in ACTIVATIONS_FROM_OUTPUT
    if fused:
        attributes |= {"activation": activation, "alpha": float(alpha or 0.0)}
    y = apply("conv2d", (x, w, b), [((x.shape[0], rows, columns, outputs), dtype)], attributes)
    return y if activation is None or fused else activate(y, activation, alpha)


@backward("conv2d")
def _conv2d_backward(call: Call, dz: Symbol) -> tuple[Symbol, Symbol, Symbol]:
    x, w, b = call.inputs
    laid: dict[str, Any] = {name: call.attributes[name] for name in ("strides", "padding", "dilation", "groups")}
    dx = apply("conv2d_backward_input", (dz, w), [(x.shape, x.dtype)], laid)
    *size, inputs, outputs = concrete(w.shape, 0)
    leaves = (BatchDim(1, LEAF_IMAGES), (math.prod(size) * inputs + 1) * outputs)
    summed = apply("conv2d_backward_weight", (x, dz), [(leaves, w.dtype)], {"size": tuple(size), **laid})
    dw, db = apply("add_leaves", (summed,), [(w.shape, w.dtype), (b.shape, b.dtype)])
    return dx, dw, db
