"""Convolution of images and its gradients, by bodies of our own.

All but depthwise convolutions are products in tiles, cut as the model of `fastnn_kernels.cuda.tiles` prefers. For the first
layer of Nielsen's network at 128 images, (128, 28, 28, 1) with (5, 5, 1, 20), that is 73,728 x 20 over 25 in 5 waves of tiles
of 128 x 32: 14,250 cycles, 8 us at 1.83 GHz, a third of them START; tiles of 64 x 64 would take 14 us, of 32 x 32 15 us. The
gradient of its weights, 25 x 20 over 2,304 in each of 32 leaves, is one wave of 128 tiles of 16 x 16: 14,824 cycles, 8 us.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fastnn_kernels.contract import LEAF_IMAGES
from fastnn_kernels.cuda.lowering import THREADS, WARPS, Request, Work, ceil, lowering, reading, spread
from fastnn_kernels.cuda.tiles import Cut, best_cut, tiles_of

TILES = tiles_of((8, 8), (16, 16), (32, 32), (64, 16), (64, 32), (128, 32), (64, 64))
"""Of convolutions, whose results have many rows and few columns."""

DEPTHWISE_UP_TO = 8
"""Outputs a channel of a depthwise convolution; with more of them it is a product for each group."""

COLUMNS = THREADS // WARPS
"""Columns that a block takes where its warps share the rows."""


@dataclass(frozen=True)
class Layout:
    """Where a call's windows lie: of images (B, H, W, C), kernels (KH, KW, C / groups, O), outputs (B, OH, OW, O)."""

    images: tuple[int, ...]
    size: tuple[int, int]
    outputs: tuple[int, ...]
    strides: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    @property
    def channels(self) -> int:
        """Of a group."""
        return self.images[3] // self.groups

    @property
    def filters(self) -> int:
        """Outputs of a group."""
        return self.outputs[3] // self.groups

    @property
    def taps(self) -> int:
        return math.prod(self.size)

    @property
    def is_depthwise(self) -> bool:
        return self.channels == 1 < self.groups and self.filters <= DEPTHWISE_UP_TO

    @property
    def is_divided(self) -> bool:
        """Whether not every pixel that a tap falls on is that of a window."""
        return max(self.strides) > 1

    def forward(self) -> Iterator[int]:
        """The numbers of `Laid`: the taps of windows in the images."""
        before = (-pixels for pixels in self.padding)
        return self._numbers(self.images, self.outputs, self.strides, tuple(before), (1, 1))

    def backward(self) -> Iterator[int]:
        """The numbers of `Laid`: the windows that pixels are in, by taps from the last one on."""
        reach = (step * (size - 1) for step, size in zip(self.dilation, self.size, strict=True))
        before = (pixels - all_of_it for pixels, all_of_it in zip(self.padding, reach, strict=True))
        return self._numbers(self.outputs, self.images, (1, 1), tuple(before), self.strides)

    def _numbers(
        self, source: tuple[int, ...], grid: tuple[int, ...], steps: tuple[int, int], first: tuple[int, ...],
        divisors: tuple[int, int],
    ) -> Iterator[int]:  # fmt: skip
        images = (*source[1:], math.prod(source[1:]))
        yield from (*images, *steps, *first, *self.dilation, self.size[1] * self.dilation[1], self.groups)
        for number in (source[3] // self.groups, self.size[1], grid[1] * grid[2], grid[2], *divisors):
            yield from divisor(number)


def divisor(number: int) -> tuple[int, int, int]:
    """What `Divisor` divides by the number with."""
    shift = 31 + (number - 1).bit_length()
    return number, (1 << shift) // number + 1, shift


def layout(call: Request) -> Layout:
    backward = call.name == "conv2d_backward_input"
    images, outputs = call.shape("dx" if backward else "x"), call.shape("y" if call.name == "conv2d" else "dz")
    size = call.attributes["size"] if "size" in call.attributes else call.shape("w")[:2]
    attributes = call.attributes
    return Layout(
        images, tuple(size), outputs, attributes["strides"], attributes["padding"], attributes["dilation"], attributes["groups"]
    )


def choose(call: Request, rows: int, columns: int, inner: int, copies: int) -> Cut:
    """How `copies` products of these sizes are computed. Says so in `call.note`."""
    cut = best_cut(TILES[8 if call.F == "double" else 4], rows, columns, inner, copies)
    call.note = cut.note
    return cut


@lowering("conv2d", family="convolution")
def conv2d(call: Request) -> Iterable[Work]:
    of = layout(call)
    x, w, b, y = (call[name] for name in call.operands)
    function, alpha = f"{call.attributes.get('activation') or 'none'}_function", float(call.attributes.get("alpha", 0.0))
    size = call.size("y")
    if of.is_depthwise:
        yield call.body(
            "depthwise", x, w, b, y, size, of.filters, of.size[0], alpha, *of.forward(),
            blocks=spread(size, call.device, 1), template=(function,),
        )  # fmt: skip
        return
    rows, outputs = call.matrix("y")
    product = rows, of.filters, of.taps * of.channels
    cut = choose(call, *product, of.groups)
    blocks, shared, tile = cut.blocks * of.groups, cut.tile.shared, cut.tile.template
    if cut.splits == 1:
        yield call.body(
            "conv2d", x, w, b, y, *product, alpha, *of.forward(), blocks=blocks, shared=shared, template=(*tile, function)
        )
        return
    parts = call.temporary(cut.splits * size)
    yield call.body(
        "conv2d_parts", x, w, parts, *product, cut.splits, cut.length, *of.forward(),
        blocks=blocks, shared=shared, template=tile,
    )  # fmt: skip
    yield call.body(
        "add_dense", reading(parts), b, y, cut.splits, rows, outputs, alpha,
        blocks=spread(size, call.device, 1), template=(function,),
    )  # fmt: skip


@lowering("conv2d_backward_input", family="convolution")
def conv2d_backward_input(call: Request) -> Iterable[Work]:
    of = layout(call)
    dz, w, dx = (call[name] for name in call.operands)
    size, divided = call.size("dx"), "true" if of.is_divided else "false"
    if of.is_depthwise:
        yield call.body(
            "depthwise_backward_input", dz, w, dx, size, of.filters, of.size[0], *of.backward(),
            blocks=spread(size, call.device, 1), template=(divided,),
        )  # fmt: skip
        return
    product = math.prod(of.images[:3]), of.channels, of.taps * of.filters
    cut = choose(call, *product, of.groups)
    parts = dx if cut.splits == 1 else call.temporary(cut.splits * size)
    yield call.body(
        "conv2d_backward_input", dz, w, parts, *product, cut.splits, cut.length, *of.backward(),
        blocks=cut.blocks * of.groups, shared=cut.tile.shared, template=(*cut.tile.template, divided),
    )  # fmt: skip
    if cut.splits > 1:
        yield call.body("add_input_parts", reading(parts), dx, cut.splits, size, blocks=spread(size, call.device, 1))


@lowering("conv2d_backward_weight", family="convolution")
def conv2d_backward_weight(call: Request) -> Iterable[Work]:
    """A leaf is a product; where there are few of them, it is split again, and what comes out is added up."""
    of = layout(call)
    x, dz, rows = (call[name] for name in call.operands)
    leaves, numbers = call.shape("leaves")
    windows = math.prod(of.outputs[1:3])
    leaf, inner = LEAF_IMAGES * windows, of.outputs[0] * windows
    if of.is_depthwise:
        yield call.body(
            "depthwise_backward_weight", x, dz, rows, leaves, of.taps, of.filters, leaf, inner, *of.forward(),
            blocks=leaves * (of.taps + 1) * ceil(of.outputs[3], COLUMNS), shared=THREADS * (8 if call.F == "double" else 4),
        )  # fmt: skip
        return
    product = of.taps * of.channels, of.filters
    cut = choose(call, *product, min(leaf, inner), max(leaves, 1) * of.groups)
    sums = rows if cut.splits == 1 else call.temporary(leaves * cut.splits * numbers)
    yield call.body(
        "conv2d_backward_weight", x, dz, sums, *product, inner, leaves, cut.splits, leaf, cut.length, *of.forward(),
        blocks=cut.blocks * leaves * of.groups, shared=cut.tile.shared, template=cut.tile.template,
    )  # fmt: skip
    if cut.splits > 1:
        size = call.size("leaves")
        yield call.body("add_splits", reading(sums), rows, leaves, cut.splits, numbers, blocks=spread(size, call.device, 1))


@lowering("add_leaves", family="convolution")
def add_leaves(call: Request) -> Iterable[Work]:
    count, size = call.shape("leaves")
    run = 1 << max(ceil(count, WARPS) - 1, 0).bit_length()
    yield call.body(
        "add_leaves", *(call[name] for name in call.operands), count, size, call.size("dw"), run,
        blocks=ceil(size, COLUMNS), shared=THREADS * (8 if call.F == "double" else 4),
    )  # fmt: skip
