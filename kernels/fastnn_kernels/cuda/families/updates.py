"""Optimizers: one pass over the arena of parameters; and the block sums over it."""

from __future__ import annotations

import math
from collections.abc import Iterable

from fastnn_kernels.contract import AVERAGE, SUM_BLOCK, UPDATES
from fastnn_kernels.cuda.lowering import WARPS, Request, Work, ceil, lowering, spread


@lowering(*UPDATES, family="updates")
def update(call: Request) -> Iterable[Work]:
    step = UPDATES[call.name].step or call.name
    copy = (call["low_precision_weights"],) if "low_precision_weights" in call.operands else ()
    attributes = dict(call.attributes)
    clip, clip_norm = bound(attributes.pop("clip_value")), float(attributes.pop("clip_norm"))
    average = (1.0 - attributes.pop("ema"), call[AVERAGE]) if step != call.name else ()
    size = call.size("parameters")
    numbers = (float(number) for number in UPDATES[step].numbers(**attributes))
    yield call.body(
        step, call["parameters"], *(call[state] for state in UPDATES[step].slots), *numbers,
        call["gradient"], call["norm"], call["scalars"], call["index"], call.ahead("index"),
        call["starts"], call["penalties"], size, call.shape("penalties")[0], clip, clip_norm, *average, *copy,
        blocks=spread(size, call.device, each=16 // call.operands["parameters"].dtype.itemsize),
    )  # fmt: skip


@lowering("block_sum_squares", family="updates")
def block_sum_squares(call: Request) -> Iterable[Work]:
    size, clip, scale = call.size("x"), bound(call.attributes["clip_value"]), call.attributes["scale"]
    blocks = ceil(size, SUM_BLOCK)
    yield call.body("block_sum_squares", call["x"], call["partial"], size, clip, scale, blocks=blocks, shared=8 * WARPS)


@lowering("block_penalty", family="updates")
def block_penalty(call: Request) -> Iterable[Work]:
    size, segments = call.size("parameters"), call.shape("penalties")[0]
    yield call.body(
        "block_penalty", call["parameters"], call["starts"], call["penalties"], call["partial"], size, segments,
        blocks=ceil(size, SUM_BLOCK), shared=8 * WARPS,
    )  # fmt: skip


def bound(clip_value: float) -> float:
    """Where values are clipped: infinity where `clip_value` is 0, which turns clipping off."""
    return float(clip_value) or math.inf
