"""Convolution of images and its gradients: every shape, stride, padding, dilation and number of groups; PyTorch as oracle."""

from __future__ import annotations

import math

import numpy as np
import pytest
from laws import FLOATS, by_turns, check_definition, check_kernel

from fastnn.ops.windows import lay_windows
from fastnn_kernels.contract import ACTIVATIONS_FROM_OUTPUT, LEAF_IMAGES

SHAPES = [
    # (B, H, W, C), (KH, KW, O), strides, padding, dilation, groups
    ((0, 5, 5, 3), (2, 2, 4), (1, 1), "valid", (1, 1), 1),
    ((1, 1, 1, 1), (1, 1, 1), (1, 1), "valid", (1, 1), 1),
    ((1, 3, 3, 2), (3, 3, 5), (1, 1), "valid", (1, 1), 1),
    ((2, 28, 28, 1), (5, 5, 20), (1, 1), "valid", (1, 1), 1),
    ((5, 12, 12, 20), (5, 5, 40), (1, 1), "valid", (1, 1), 1),
    ((3, 8, 9, 3), (3, 3, 33), (1, 1), "same", (1, 1), 1),
    ((2, 7, 31, 33), (3, 3, 1), (1, 1), "same", (1, 1), 1),
    ((9, 6, 5, 4), (2, 4, 7), (1, 1), "same", (1, 1), 1),
    ((2, 9, 8, 3), (3, 2, 17), (2, 3), ((1, 0), (0, 1)), (1, 1), 1),
    ((2, 9, 11, 5), (3, 3, 6), (1, 1), "valid", (2, 3), 1),
    ((3, 10, 9, 2), (3, 2, 3), (2, 1), "same", (3, 2), 1),
    ((2, 6, 7, 4), (3, 3, 6), (1, 1), "same", (1, 1), 2),
    ((2, 7, 7, 6), (3, 3, 6), (2, 2), "same", (1, 1), 6),
    ((2, 7, 7, 31), (3, 3, 62), (1, 1), "valid", (2, 1), 31),
    ((3, 5, 5, 64), (1, 1, 48), (1, 1), "valid", (1, 1), 1),
    ((2, 6, 6, 8), (1, 1, 8), (2, 2), "valid", (1, 1), 4),
    ((1, 2, 2, 3), (4, 4, 2), (1, 1), "same", (1, 1), 1),
    ((2, 4, 4, 127), (2, 2, 129), (3, 3), ((1, 1), (1, 1)), (1, 1), 1),
]


def laid(case):
    image, (height, width, outputs), strides, padding, dilation, groups = case
    (rows, columns), before = lay_windows("conv2d", image[1:3], (height, width), strides, padding, dilation)
    attributes = {"strides": strides, "padding": before, "dilation": dilation, "groups": groups}
    return image, (height, width, image[3] // groups, outputs), (image[0], rows, columns, outputs), attributes


@pytest.mark.parametrize(("case", "dtype"), by_turns(SHAPES, FLOATS))
def test_every_shape(case, dtype, rng):
    image, kernel, windows, attributes = laid(case)
    x, w, b, dz = (rng.uniform(-1, 1, shape).astype(dtype) for shape in (image, kernel, kernel[3], windows))
    taps, pixels = math.prod(kernel[:3]), LEAF_IMAGES * windows[1] * windows[2]
    turned = math.prod(kernel[:2]) * kernel[3] // attributes["groups"]
    check_kernel(
        "conv2d", [x, w, b], [(windows, dtype)], tolerance=8 + taps / 4, cancels=True, **attributes, activation=None, alpha=0.0
    )
    check_kernel("conv2d_backward_input", [dz, w], [(image, dtype)], tolerance=8 + turned / 4, cancels=True, **attributes)
    leaves = (-(-image[0] // LEAF_IMAGES), math.prod(kernel) + kernel[3])
    (summed,) = check_kernel(
        "conv2d_backward_weight", [x, dz], [(leaves, dtype)], tolerance=8 + pixels / 4, cancels=True, parts=(1, 2, 3, 7),
        size=kernel[:2], **attributes,
    )  # fmt: skip
    check_kernel("add_leaves", [summed], [(kernel, dtype), (kernel[3:], dtype)], tolerance=8, cancels=True)


@pytest.mark.parametrize("activation", ACTIVATIONS_FROM_OUTPUT)
def test_activations_are_those_of_the_kernels_behind_it(activation, rng):
    image, kernel, windows, attributes = laid(SHAPES[5])
    x, w, b = (rng.normal(size=shape).astype("float32") for shape in (image, kernel, kernel[3]))
    plain = {"activation": None, "alpha": 0.0}
    (z,) = check_kernel("conv2d", [x, w, b], [(windows, "float32")], tolerance=20, cancels=True, **attributes, **plain)
    fused = {"activation": activation, "alpha": 0.3}
    (y,) = check_kernel("conv2d", [x, w, b], [(windows, "float32")], tolerance=20, cancels=True, **attributes, **fused)
    alpha = {"alpha": 0.3} if activation in ("leaky_relu", "elu") else {}
    (expected,) = check_kernel(activation, [z], [(windows, "float32")], tolerance=8, cancels=True, **alpha)
    assert y.tobytes() == expected.tobytes()


@pytest.mark.parametrize("leaves", [0, 1, 2, 3, 5, 8, 13])
@pytest.mark.parametrize("dtype", FLOATS)
def test_leaves_are_added_in_a_tree(leaves, dtype, rng):
    """(l0 + l1) + (l2 + l3), then these: the bits say so."""
    rows = rng.normal(size=(leaves, 7 * 33 + 33)).astype(dtype)
    dw, db = check_kernel("add_leaves", [rows], [((7, 33), dtype), ((33,), dtype)], tolerance=8, cancels=True)
    sums = {(n, n + 1): rows[n] for n in range(leaves)}
    span = 1
    while span < leaves:
        for first in range(0, leaves - span, 2 * span):
            middle, end = first + span, min(first + 2 * span, leaves)
            sums[first, end] = sums[first, middle] + sums[middle, end]
        span *= 2
    expected = sums[0, leaves] if leaves else np.zeros(7 * 33 + 33, dtype)
    assert np.concatenate([dw.reshape(-1), db]).tobytes() == expected.tobytes()


@pytest.mark.parametrize("case", [case for case in SHAPES if case[0][0]])
def test_definition_is_what_torch_computes(case, rng):
    torch = pytest.importorskip("torch")
    image, kernel, windows, attributes = laid(case)
    x, w, b, dz = (rng.normal(size=shape) for shape in (image, kernel, kernel[3], windows))
    images = torch.tensor(x.transpose(0, 3, 1, 2).copy(), requires_grad=True)
    weights = torch.tensor(w.transpose(3, 2, 0, 1).copy(), requires_grad=True)
    bias = torch.tensor(b, requires_grad=True)
    sides = []
    for axis in (1, 0):  # PyTorch pads the last axis first
        needed = (windows[1 + axis] - 1) * attributes["strides"][axis] + attributes["dilation"][axis] * (kernel[axis] - 1) + 1
        before = attributes["padding"][axis]
        sides += [before, max(0, needed - image[1 + axis] - before)]
    padded = torch.nn.functional.pad(images, sides)
    y = torch.nn.functional.conv2d(
        padded, weights, bias, attributes["strides"], 0, attributes["dilation"], attributes["groups"]
    )
    y = y[:, :, : windows[1], : windows[2]]
    y.backward(torch.tensor(dz.transpose(0, 3, 1, 2).copy()))
    plain = {"activation": None, "alpha": 0.0}
    back = (0, 2, 3, 1)
    check_definition("conv2d", [x, w, b], {"y": y.detach().numpy().transpose(back)}, tolerance=400, **attributes, **plain)
    dx = images.grad.numpy().transpose(back)
    check_definition("conv2d_backward_input", [dz, w], {"dx": dx}, tolerance=400, **attributes)
    leaves = np.zeros((-(-image[0] // LEAF_IMAGES), w.size + len(b)))
    numpy_leaves = {"size": kernel[:2], **attributes}
    import fastnn_kernels.numpy as numpy_set

    numpy_set.conv2d_backward_weight(x, dz, leaves, **numpy_leaves)
    dw = weights.grad.numpy().transpose(2, 3, 1, 0)
    check_definition("add_leaves", [leaves], {"dw": dw, "db": bias.grad.numpy()}, tolerance=2000)
