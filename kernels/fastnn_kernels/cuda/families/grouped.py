"""Linear layers of several small models side by side: a thread an element."""

from __future__ import annotations

import math
from collections.abc import Iterable

from fastnn_kernels.cuda.lowering import Request, Work, lowering, spread


def _steps(call: Request) -> tuple[int, int]:
    """The steps from one input of a row to the next, and from one model's to the next one's."""
    groups = call.shape("x")[2:]
    return math.prod(groups), len(groups)


@lowering("grouped_dense", family="grouped")
def grouped_dense(call: Request) -> Iterable[Work]:
    size = call.size("y")
    yield call.body(
        call.name, call["x"], call["w"], call["b"], call["y"], size, *call.shape("w"), *_steps(call),
        blocks=spread(size, call.device, 1),
    )  # fmt: skip


@lowering("grouped_dense_backward_input", family="grouped")
def grouped_dense_backward_input(call: Request) -> Iterable[Work]:
    size = call.size("dx")
    yield call.body(call.name, call["dz"], call["w"], call["dx"], size, *call.shape("w"), blocks=spread(size, call.device, 1))


@lowering("grouped_dense_backward_weight", family="grouped")
def grouped_dense_backward_weight(call: Request) -> Iterable[Work]:
    size = call.size("dw") + call.size("db")
    yield call.body(
        call.name, call["x"], call["dz"], call["dw"], call["db"], call.shape("dz")[0], *call.shape("dw"), *_steps(call),
        blocks=spread(size, call.device, 1),
    )  # fmt: skip
