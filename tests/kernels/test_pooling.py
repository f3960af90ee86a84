"""Pooling of images: every shape, windows that overlap, leave a rest or reach beyond the edge, ties, NaN; PyTorch as oracle."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from laws import FLOATS, check_definition, check_kernel

import fastnn_kernels.numpy as numpy_set
from fastnn.ops.windows import lay_windows

IMAGES = [(0, 4, 5, 3), (1, 1, 1, 1), (2, 5, 7, 33), (3, 8, 8, 20), (1, 31, 2, 1), (2, 13, 6, 31)]
WINDOWS = [
    ((2, 2), (2, 2), "valid"), ((3, 2), (1, 2), "same"), ((2, 3), (3, 1), "same"), ((4, 4), (2, 3), ((1, 3), (2, 0))),
    ((1, 1), (2, 2), "valid"), ((15, 17), (1, 1), "same"),
]  # fmt: skip
PLACED = [
    (image, how)
    for image, how in itertools.product(IMAGES, WINDOWS)
    if how[2] == "same" or all(length >= size for length, size in zip(image[1:3], how[0], strict=True))
]


def laid(image, how):
    size, strides, padding = how
    outputs, before = lay_windows("pool", image[1:3], size, strides, padding)
    return (image[0], *outputs, image[3]), {"size": size, "strides": strides, "padding": before}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("image", "how"), PLACED)
def test_every_shape(image, how, dtype, rng):
    shape, attributes = laid(image, how)
    x, dy = rng.normal(size=image).astype(dtype), rng.normal(size=shape).astype(dtype)
    y, places = check_kernel("max_pool2d", [x], [(shape, dtype), (shape, "uint8")], tolerance=0, **attributes)
    windows = how[0][0] * how[0][1]
    check_kernel("max_pool2d_backward", [dy, places], [(image, dtype)], tolerance=2 + windows, cancels=True, **attributes)
    check_kernel("mean_pool2d", [x], [(shape, dtype)], tolerance=2 + windows, cancels=True, **attributes)
    check_kernel("mean_pool2d_backward", [dy], [(image, dtype)], tolerance=2 + windows, cancels=True, **attributes)
    (y,) = check_kernel("l2_pool2d", [x], [(shape, dtype)], tolerance=2 + windows, **attributes)
    check_kernel("l2_pool2d_backward", [dy, x, y], [(image, dtype)], tolerance=8 + windows, cancels=True, **attributes)


@pytest.mark.parametrize("dtype", FLOATS)
def test_ties_nan_and_infinities(dtype):
    """The first of equal pixels is the largest, and NaN is larger than all; a window of -inf has a place inside the image."""
    inf, nan = np.inf, np.nan
    rows = [[1, 1, nan, 3], [1, 1, 5, nan], [-inf, -inf, inf, inf], [-inf, -inf, 2, inf]]
    x = np.array(rows, dtype).reshape(1, 4, 4, 1)
    attributes = {"size": (2, 2), "strides": (2, 2), "padding": (0, 0)}
    shape = (1, 2, 2, 1)
    y, places = check_kernel("max_pool2d", [x], [(shape, dtype), (shape, "uint8")], tolerance=0, **attributes)
    np.testing.assert_array_equal(y.reshape(2, 2), np.array([[1, nan], [-inf, inf]], dtype))
    assert places.reshape(-1).tolist() == [0, 0, 0, 0]
    padded = {"size": (2, 2), "strides": (4, 4), "padding": (1, 1)}
    corner = (1, 1, 1, 1)
    _, places = check_kernel(
        "max_pool2d", [np.full((1, 1, 1, 1), -inf, dtype)], [(corner, dtype), (corner, "uint8")], tolerance=0, **padded
    )
    assert places.item() == 3
    zero = np.zeros((1, 4, 4, 1), dtype)
    (dx,) = check_kernel(
        "l2_pool2d_backward", [np.ones(shape, dtype), zero, np.zeros(shape, dtype)], [(zero.shape, dtype)], tolerance=0,
        **attributes,
    )  # fmt: skip
    assert not dx.any()


def test_a_pixel_gathers_from_its_windows_in_their_order():
    """The definition's float32 is exact about the order: 2**24 + 1 - 2**24 is 0 one way and 1 another."""
    dy = np.array([2.0**24, 1.0, -(2.0**24)], "float32").reshape(1, 1, 3, 1)
    dx = np.zeros((1, 1, 5, 1), "float32")
    numpy_set.max_pool2d_backward(
        dy, np.array([2, 1, 0], "uint8").reshape(dy.shape), dx, size=(1, 3), strides=(1, 1), padding=(0, 0)
    )
    assert dx.reshape(-1).tolist() == [0, 0, 0, 0, 0]
    (found,) = check_kernel(
        "max_pool2d_backward", [dy, np.array([2, 1, 0], "uint8").reshape(dy.shape)], [(dx.shape, "float32")],
        tolerance=2.0**23, cancels=True, size=(1, 3), strides=(1, 1), padding=(0, 0),
    )  # fmt: skip
    assert found.tobytes() == dx.tobytes()


@pytest.mark.parametrize(("size", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 1), ((3, 2), (2, 3), (1, 0))])
def test_definition_is_what_torch_computes(size, stride, padding, rng):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    x = rng.normal(size=(2, 9, 8, 3))
    pairs = [(value, value) if isinstance(value, int) else value for value in (size, stride, padding)]
    outputs, before = lay_windows("pool", (9, 8), pairs[0], pairs[1], tuple((p, p) for p in pairs[2]))
    attributes = {"size": pairs[0], "strides": pairs[1], "padding": before}
    theirs = {
        "max_pool2d": lambda t: functional.max_pool2d(t, pairs[0], pairs[1], pairs[2]),
        "mean_pool2d": lambda t: functional.avg_pool2d(t, pairs[0], pairs[1], pairs[2], count_include_pad=False),
        "l2_pool2d": lambda t: functional.lp_pool2d(functional.pad(t, [pairs[2][1]] * 2 + [pairs[2][0]] * 2), 2, *pairs[:2]),
    }
    for name, function in theirs.items():
        images = torch.tensor(x.transpose(0, 3, 1, 2).copy(), requires_grad=True)
        made = function(images)
        dy = rng.normal(size=(2, *outputs, 3))
        made.backward(torch.tensor(dy.transpose(0, 3, 1, 2).copy()))
        y = made.detach().numpy().transpose(0, 2, 3, 1)
        dx = images.grad.numpy().transpose(0, 2, 3, 1)
        expected = {"y": y}
        if name == "max_pool2d":
            places = np.empty(y.shape, "uint8")
            numpy_set.max_pool2d(x, np.empty(y.shape), places, **attributes)
            check_definition("max_pool2d_backward", [dy, places], {"dx": dx}, tolerance=8, **attributes)
            expected["places"] = places
        elif name == "mean_pool2d":
            check_definition("mean_pool2d_backward", [dy], {"dx": dx}, tolerance=8, **attributes)
        else:
            check_definition("l2_pool2d_backward", [dy, x, y], {"dx": dx}, tolerance=30, **attributes)
        check_definition(name, [x], expected, tolerance=8, **attributes)
