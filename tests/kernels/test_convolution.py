"""Convolution of images and its gradients: every shape, stride, padding, dilation and number of groups; PyTorch as oracle."""

from __future__ import annotations

import math

import numpy as np
import pytest
from laws import FLOATS, by_turns, check_definition, check_kernel, check_scratch

from fastnn.ops.windows import lay_windows
from fastnn_kernels.contract import ACTIVATIONS_FROM_OUTPUT, KERNELS, LEAF_IMAGES

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
    # Padding as long as the windows or longer, some of which lie beyond the image.
    ((2, 4, 5, 3), (1, 1, 4), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    ((3, 3, 4, 2), (2, 3, 5), (1, 1), ((2, 3), (5, 3)), (1, 1), 1),
    ((2, 6, 5, 3), (3, 3, 33), (1, 1), ((2, 2), (7, 1)), (1, 1), 1),
    ((2, 3, 4, 4), (2, 2, 6), (2, 3), ((5, 2), (4, 9)), (1, 1), 2),
    ((2, 4, 3, 6), (2, 2, 6), (1, 1), ((4, 4), (3, 2)), (2, 1), 6),
    ((1, 2, 1, 3), (2, 1, 2), (7, 5), ((7, 7), (4, 8)), (1, 1), 1),
    ((5, 8, 8, 16), (3, 3, 8), (1, 1), ((0, 4), (0, 3)), (1, 1), 1),
    ((2, 3, 5, 16), (3, 2, 4), (1, 1), ((0, 40), (1, 0)), (1, 1), 1),
    # A few outputs beyond whole vectors, and pixels or taps that lie behind each other.
    ((2, 6, 33, 1), (3, 4, 20), (1, 1), "same", (1, 1), 1),
    ((5, 4, 37, 1), (2, 3, 3), (1, 1), "valid", (2, 1), 1),
    ((6, 5, 9, 7), (3, 3, 37), (1, 1), "same", (1, 1), 1),
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
    slopes = math.prod(kernel[:2]) * kernel[3] // attributes["groups"]
    check_kernel(
        "conv2d", [x, w, b], [(windows, dtype)], tolerance=8 + taps / 4, cancels=True, **attributes, activation=None, alpha=0.0
    )
    check_kernel("conv2d_backward_input", [dz, w], [(image, dtype)], tolerance=8 + slopes / 4, cancels=True, **attributes)
    leaves = (-(-image[0] // LEAF_IMAGES), math.prod(kernel) + kernel[3])
    (summed,) = check_kernel(
        "conv2d_backward_weight", [x, dz], [(leaves, dtype)], tolerance=8 + pixels / 4, cancels=True, parts=(1, 2, 3, 7),
        size=kernel[:2], **attributes,
    )  # fmt: skip
    check_kernel("add_leaves", [summed], [(kernel, dtype), (kernel[3:], dtype)], tolerance=8, cancels=True)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("outputs", [1, 2, 3, 4, 5, 6, 7, 8, 17, 20, 24, 33, 36, 40])
@pytest.mark.parametrize("image", [(5, 9, 27, 1), (6, 8, 43, 1), (5, 12, 9, 6), (9, 10, 11, 20)])
def test_an_output_has_the_same_bits_beside_any_others(image, outputs, dtype, rng):
    """A few are computed with pixels or taps as lanes."""
    kernel = (7, 8, outputs) if image[3] == 1 else (3, 5, outputs)
    case = (image, kernel, (1, 1), "valid", (1, 1), 1)
    _, kernel, windows, attributes = laid(case)
    more = 64 - outputs
    x, w, b, dz = (rng.normal(size=shape).astype(dtype) for shape in (image, kernel, kernel[3:], windows))
    wide_w, wide_b, wide_dz = (np.concatenate([a, np.ones((*a.shape[:-1], more), dtype)], -1) for a in (w, b, dz))
    plain = {**attributes, "activation": None, "alpha": 0.0}
    (y,) = run_on_cpu("conv2d", [x, w, b], [(windows, dtype)], **plain)
    (wide,) = run_on_cpu("conv2d", [x, wide_w, wide_b], [((*windows[:3], 64), dtype)], **plain)
    assert np.array_equal(y, wide[..., :outputs])
    count, size = -(-image[0] // LEAF_IMAGES), {"size": kernel[:2], **attributes}
    taps = math.prod(kernel[:3])
    (leaves,) = run_on_cpu("conv2d_backward_weight", [x, dz], [((count, (taps + 1) * outputs), dtype)], **size)
    (wide,) = run_on_cpu("conv2d_backward_weight", [x, wide_dz], [((count, (taps + 1) * 64), dtype)], **size)
    assert np.array_equal(leaves.reshape(count, -1, outputs), wide.reshape(count, -1, 64)[..., :outputs])


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


POOLS = [((2, 2), (2, 2), (0, 0)), ((2, 3), (2, 4), (1, 1)), ((1, 1), (1, 1), (0, 0)), ((3, 2), (3, 2), (2, 0))]


def fits(case, pool):
    """Whether a window lies in what the convolution makes."""
    return all(length + before >= over for length, over, before in zip(laid(case)[2][1:3], pool[0], pool[2], strict=True))


POOLED = [
    (SHAPES[index], pool)
    for index in (0, 1, 3, 4, 5, 8, 11, 12, 19, 20, 22, -5, -4, -3, -1)
    for pool in POOLS
    if fits(SHAPES[index], pool)
]


@pytest.mark.parametrize(("case", "pool"), POOLED)
def test_with_pooling_the_bits_are_those_of_two_calls(case, pool, rng):
    image, kernel, windows, attributes = laid(case)
    size, strides, padding = pool
    pooled = [(length + before - over) // step + 1 for length, over, step, before in zip(windows[1:3], *pool, strict=True)]
    pooled_shape = (image[0], *pooled, kernel[3])
    x, w, b = (rng.normal(size=shape).astype("float32") for shape in (image, kernel, kernel[3]))
    dy = rng.normal(size=pooled_shape).astype("float32")
    relu = {"activation": "relu", "alpha": 0.0}
    pool_attributes = {"size": size, "strides": strides, "padding": padding}
    both = {**attributes, "image": windows[1:3], "pool": pool}
    tolerance = 8 + math.prod(kernel[:3]) / 2
    (z,) = check_kernel("conv2d", [x, w, b], [(windows, "float32")], tolerance=tolerance, cancels=True, **attributes, **relu)
    outputs = [(pooled_shape, "float32"), (pooled_shape, "uint8")]
    y, places = check_kernel("max_pool2d", [z], outputs, tolerance=0, **pool_attributes)
    written = run_on_cpu("conv2d_max_pool", [x, w, b], outputs, **both, **relu)
    assert [a.tobytes() for a in written] == [y.tobytes(), places.tobytes()]
    (dz,) = check_kernel("max_pool2d_backward", [dy, places], [(windows, "float32")], tolerance=0, **pool_attributes)
    (dx,) = run_on_cpu("conv2d_backward_input", [dz, w], [(image, "float32")], **attributes)
    (found,) = run_on_cpu("conv2d_max_pool_backward_input", [dy, places, w], [(image, "float32")], **both)
    assert found.tobytes() == dx.tobytes()
    leaves = [((-(-image[0] // LEAF_IMAGES), math.prod(kernel) + kernel[3]), "float32")]
    (summed,) = run_on_cpu("conv2d_backward_weight", [x, dz], leaves, size=kernel[:2], **attributes)
    (found,) = run_on_cpu("conv2d_max_pool_backward_weight", [x, dy, places], leaves, size=kernel[:2], **both)
    assert found.tobytes() == summed.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("pool", [None, POOLS[0], POOLS[3]])
@pytest.mark.parametrize(("case", "dtype"), by_turns([case for case in SHAPES if case[0][0]], FLOATS))
def test_workers_write_to_scratch_memory_of_their_own(case, dtype, pool, rng):
    image, kernel, windows, attributes = laid(case)
    if pool is None:
        shape, names, both, places = windows, ("conv2d", "conv2d_backward_input", "conv2d_backward_weight"), attributes, []
    else:
        pooled = [(length + before - over) // step + 1 for length, over, step, before in zip(windows[1:3], *pool, strict=True)]
        if min(pooled) < 1:
            return
        names = ("conv2d_max_pool", "conv2d_max_pool_backward_input", "conv2d_max_pool_backward_weight")
        shape, both = (image[0], *pooled, kernel[3]), {**attributes, "image": windows[1:3], "pool": pool}
        places = [rng.integers(0, math.prod(pool[0]), shape, "uint8")]
    x, w, b, y = (rng.normal(size=each).astype(dtype) for each in (image, kernel, kernel[3], shape))
    leaves = rng.normal(size=(-(-image[0] // LEAF_IMAGES), w.size + kernel[3])).astype(dtype)
    check_scratch(names[0], [x, w, b, y.copy(), *places], {**both, "activation": "relu", "alpha": 0.0})
    check_scratch(names[1], [y, *places, w, x.copy()], both)
    check_scratch(names[2], [x, y, *places, leaves], {**both, "size": kernel[:2]})
    check_scratch("add_leaves", [leaves, w.copy(), b.copy()], {})


def run_on_cpu(name, inputs, outputs, **attributes):
    """What the CPU writes, the same in 1, 2, 3 and 7 parts and close to the definition."""
    return check_kernel(
        name, inputs, outputs, tolerance=math.inf if "places" in KERNELS[name].outputs else 2000, cancels=True,
        parts=(1, 2, 3, 7), **attributes,
    )  # fmt: skip


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
