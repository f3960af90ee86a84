"""The CUDA bodies of convolutions: every tile and split, whatever the place of operands and the number of blocks; bfloat16."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from cuda_on_host import host
from cuda_on_host.outcomes import outcomes
from laws import EPSILON, FLOATS, assert_close, by_turns, empty_like_outputs, wide

import fastnn_kernels.numpy as numpy_set
from fastnn.ops.windows import lay_windows
from fastnn_kernels.contract import ACTIVATIONS_FROM_OUTPUT, ALPHA_ACTIVATIONS, LEAF_IMAGES, NO_ACTIVATION, Operand
from fastnn_kernels.cuda import tiles
from fastnn_kernels.cuda.families import convolution
from fastnn_kernels.cuda.lowering import Device, lower

ml_dtypes = pytest.importorskip("ml_dtypes")

SHAPES = {
    # (B, H, W, C), (KH, KW, O), strides, padding, dilation, groups
    "one channel": ((6, 9, 8, 1), (5, 5, 20), (1, 1), "valid", (1, 1), 1),
    "whole pieces": ((2, 5, 6, 8), (3, 3, 12), (1, 1), "same", (1, 1), 1),
    "strided and dilated": ((5, 11, 9, 3), (3, 2, 33), (2, 3), "same", (2, 1), 1),
    "groups": ((3, 6, 7, 8), (2, 3, 8), (2, 1), ((1, 0), (0, 2)), (1, 1), 2),
    "groups beside pieces": ((3, 6, 5, 6), (3, 3, 12), (1, 1), "same", (1, 1), 2),
    "larger than the image": ((1, 2, 1, 5), (4, 3, 3), (1, 1), "same", (1, 1), 1),
    "a pixel": ((131, 1, 1, 4), (1, 1, 5), (1, 1), "valid", (1, 1), 1),
    "deep": ((1, 4, 4, 40), (3, 3, 24), (1, 1), "same", (1, 1), 1),
    "depthwise": ((5, 7, 6, 33), (3, 2, 33), (1, 2), "same", (2, 1), 33),
    "depthwise, three each": ((3, 6, 7, 4), (3, 3, 12), (2, 2), "same", (1, 1), 4),
    "padding beyond": ((3, 3, 4, 8), (2, 3, 12), (1, 1), ((2, 3), (5, 3)), (1, 1), 1),
    "padding beyond, strided": ((2, 3, 4, 4), (2, 2, 6), (2, 3), ((5, 2), (4, 9)), (2, 1), 2),
    "padding beyond, depthwise": ((2, 4, 3, 6), (2, 2, 6), (1, 2), ((4, 4), (3, 2)), (2, 1), 6),
    "no images": ((0, 5, 5, 3), (2, 2, 4), (1, 1), "valid", (1, 1), 1),
}


def three(case: Any, rng: np.random.Generator, dtype: str) -> list[tuple[str, list[np.ndarray], dict[str, Any], int]]:
    """The kernels with all of their operands, their attributes, and how many numbers a sum has."""
    image, (height, width, outputs), strides, padding, dilation, groups = case
    windows, before = lay_windows("conv2d", image[1:3], (height, width), strides, padding, dilation)
    w, y = (height, width, image[3] // groups, outputs), (image[0], *windows, outputs)
    leaves = (-(-image[0] // LEAF_IMAGES), math.prod(w) + outputs)
    laid: dict[str, Any] = {"strides": strides, "padding": before, "dilation": dilation, "groups": groups}
    made: list[tuple[str, list[tuple[int, ...]], tuple[int, ...], dict[str, Any], int]] = [
        ("conv2d", [image, w, (outputs,)], y, NO_ACTIVATION, math.prod(w[:3])),
        ("conv2d_backward_input", [y, w], image, {}, height * width * outputs // groups),
        ("conv2d_backward_weight", [image, y], leaves, {"size": (height, width)}, LEAF_IMAGES * math.prod(windows)),
    ]
    return [
        (name, [*(rng.uniform(-1, 1, s).astype(dtype) for s in read), *empty_like_outputs([(written, dtype)])], laid | more, n)
        for name, read, written, more, n in made
    ]


def check(name: str, arrays: list[np.ndarray], attributes: dict[str, Any], inner: int) -> np.ndarray:
    """Wherever the operands lie and however many blocks run, one result; it is the definition's."""
    first, *others = (found[-1] for found in outcomes(name, arrays, attributes))
    for other in others:
        assert other.tobytes() == first.tobytes(), name
    expected = [wide(array) for array in arrays]
    getattr(numpy_set, name)(*expected, **attributes)
    assert_close(first, expected[-1], (8 + inner / 4) * EPSILON[first.dtype.name], name, cancels=True)
    return first


@pytest.mark.parametrize(("shape", "dtype"), by_turns(SHAPES, FLOATS))
def test_every_shape(shape: str, dtype: str, rng: np.random.Generator) -> None:
    for call in three(SHAPES[shape], rng, dtype):
        check(*call)


@pytest.mark.parametrize(("index", "splits", "dtype"), by_turns(range(len(convolution.TILES[4])), [1, 3], FLOATS))
def test_every_tile(index: int, splits: int, dtype: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """In so many splits where the inner axis is that long."""
    chosen: list[tiles.Cut] = []

    def best_cut(among: Any, rows: int, columns: int, inner: int, copies: int) -> tiles.Cut:
        chosen.append(tiles.divide(among[index], splits, rows, columns, inner))
        return chosen[-1]

    monkeypatch.setattr(convolution, "best_cut", best_cut)
    for shape in ("one channel", "whole pieces", "strided and dilated", "groups"):
        for call in three(SHAPES[shape], rng, dtype):
            check(*call)
    many = 2 * chosen[0].tile.depth + 3
    long = ((2, 3, 4, many), (2, 2, many), (1, 1), "same", (1, 1), 1)
    del chosen[:]
    for call in three(long, rng, dtype)[:2]:
        check(*call)
    assert {cut.splits for cut in chosen} == {splits}


@pytest.mark.parametrize("activation", ACTIVATIONS_FROM_OUTPUT)
@pytest.mark.parametrize("shape", ["one channel", "deep", "depthwise"])
def test_activations_are_those_of_the_kernels_behind_it(shape: str, activation: str, rng: np.random.Generator) -> None:
    (name, arrays, attributes, _), *_ = three(SHAPES[shape], rng, "float32")
    host.run(name, arrays, attributes)
    z, y = arrays[-1].copy(), np.empty_like(arrays[-1])
    host.run(name, arrays, {**attributes, "activation": activation, "alpha": 0.3})
    host.run(activation, [z, y], {"alpha": 0.3} if activation in ALPHA_ACTIVATIONS else {})
    assert arrays[-1].tobytes() == y.tobytes()


@pytest.mark.parametrize("shape", ["one channel", "whole pieces", "groups", "deep", "depthwise"])
def test_bfloat16_is_stored_and_float32_computed(shape: str, rng: np.random.Generator) -> None:
    """The bits are those of float32 operands with the same values, rounded where bfloat16 is written."""
    for name, arrays, attributes, _ in three(SHAPES[shape], rng, "float32"):
        short = [array.astype(ml_dtypes.bfloat16) for array in arrays]
        if name == "conv2d_backward_weight":
            short[-1] = arrays[-1].copy()
        same = [array.astype(np.float32) for array in short]
        host.run(name, short, attributes)
        host.run(name, same, attributes)
        assert short[-1].tobytes() == same[-1].astype(short[-1].dtype).tobytes(), name


@pytest.mark.parametrize("leaves", [0, 1, 2, 3, 7, 8, 9, 31, 33, 64, 67, 300])
@pytest.mark.parametrize("dtype", FLOATS)
def test_leaves_are_added_in_their_tree(leaves: int, dtype: str, rng: np.random.Generator) -> None:
    arrays = [rng.normal(size=(leaves, 37 * 3 + 3)).astype(dtype), *empty_like_outputs([((37, 3), dtype), ((3,), dtype)])]
    expected = [array.copy() for array in arrays]
    numpy_set.add_leaves(*expected)
    for found in outcomes("add_leaves", arrays, {}):
        for made, right in zip(found, expected, strict=True):
            assert made.tobytes() == right.tobytes()


def test_dividing_is_exact(rng: np.random.Generator) -> None:
    """A multiplication in place of it is right up to 2^31 - 1, for any divisor."""
    limit = 2**31
    divisors = {*range(1, 200), *(2**k + near for k in range(1, 31) for near in (-1, 0, 1)), limit - 1}
    for number in sorted(divisors):
        _, multiplier, shift = convolution.divisor(number)
        assert multiplier < 2**32
        multiples = number * rng.integers(0, limit // number, 50)
        for n in (0, 1, limit - 1, *(int(m) + near for m in multiples for near in (-1, 0, 1) if 0 <= m + near < limit)):
            assert n * multiplier >> shift == n // number


@pytest.mark.parametrize("itemsize", [4, 8])
def test_tiles_fit_into_the_shared_memory_that_every_gpu_has(itemsize: int) -> None:
    sizes = (1, 20, 40, 500, 4096, 65_536)
    for rows, columns, inner, copies in itertools.product(sizes, sizes, sizes, (1, 32)):
        cut = tiles.best_cut(convolution.TILES[itemsize], rows, columns, inner, copies)
        assert cut.length * cut.splits >= inner > cut.length * (cut.splits - 1)
        assert cut.tile.shared <= 48 * 1024


def test_scratch_holds_the_splits_of_leaves() -> None:
    """A few leaves of many pixels are split once more, and what they need of memory is what their parts hold."""
    shapes, how = ((8, 64, 64, 8), (8, 64, 64, 8), (2, 9 * 64 + 8)), {"strides": (1, 1), "padding": (1, 1), "dilation": (1, 1)}
    operands = [Operand(shape, np.dtype("float32")) for shape in shapes]
    lowered = lower("conv2d_backward_weight", operands, {**how, "size": (3, 3), "groups": 1}, Device(products=False))
    assert len(lowered.works) == 2
    splits = int(lowered.note.split()[-2])
    assert splits > 1
    needed = 4 * splits * math.prod(shapes[2])
    assert needed <= lowered.scratch < needed + 256


def test_no_buffer_of_patches() -> None:
    """Convolutions of many images need no memory beside their operands."""
    shapes = ((512, 28, 28, 1), (5, 5, 1, 20), (20,), (512, 24, 24, 20))
    how: dict[str, Any] = {"strides": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1, **NO_ACTIVATION}
    assert lower("conv2d", [Operand(shape, np.dtype("float32")) for shape in shapes], how, Device()).scratch == 0
