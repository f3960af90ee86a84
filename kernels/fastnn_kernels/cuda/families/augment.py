"""Kernels that change images at random."""

from __future__ import annotations

import math
from collections.abc import Iterable

from fastnn_kernels.contract import AFFINE, control_points
from fastnn_kernels.cuda.lowering import THREADS, Number, Request, Work, ceil, lowering, spread


@lowering("draw_transforms", family="augment")
def draw_transforms(call: Request) -> Iterable[Work]:
    examples, columns = call.shape("transforms")
    row, column = ((length - 1) * 0.5 for length in call.attributes["size"])
    bounds = [number for low, high in call.attributes["ranges"] for number in (low, high - low)]
    yield call.body(
        "draw_transforms", call["step"], call.ahead("step"), call["transforms"], examples, columns, *call.attributes["key"],
        *(Number("double", float(number)) for number in (row, column, call.attributes["pivot"])),
        float(call.attributes["amplitude"]), *(Number("double", float(number)) for number in bounds),
        blocks=spread(examples * (1 + ceil(columns - AFFINE, 4)), call.device, each=1),
    )  # fmt: skip


@lowering("transform_images", family="augment")
def transform_images(call: Request) -> Iterable[Work]:
    examples, height, width, channels = call.shape("x")
    spacing, fill, edge = (call.attributes[name] for name in ("spacing", "fill", "edge"))
    yield call.body(
        "transform_images", call["x"], call["transforms"], call["y"], examples, height, width, channels,
        call.shape("transforms")[1], spacing, control_points(width, spacing) if spacing else 0, float(fill), bool(edge),
        blocks=spread(examples * ceil(math.prod((height, width)), THREADS) * THREADS, call.device, each=1),
    )  # fmt: skip
