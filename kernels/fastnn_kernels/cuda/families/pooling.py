"""Kernels that pool images."""

from __future__ import annotations

from collections.abc import Iterable

from fastnn_kernels.cuda.lowering import Request, Work, lowering, spread


@lowering(
    "max_pool2d", "max_pool2d_backward", "mean_pool2d", "mean_pool2d_backward", "l2_pool2d", "l2_pool2d_backward",
    family="pooling",
)  # fmt: skip
def pool(call: Request) -> Iterable[Work]:
    """Backward, a thread makes an element of dx from its windows; forward, an element of y from its pixels."""
    images, windows, made = ("dx", "dy", "dx") if "dx" in call.operands else ("x", "y", "y")
    numbers = *call.shape(images)[1:], *call.shape(windows)[1:3]
    how = (number for name in ("size", "strides", "padding") for number in call.attributes[name])
    size = call.size(made)
    operands = (call[name] for name in call.operands)
    yield call.body(call.name, *operands, size, *numbers, *how, blocks=spread(size, call.device, each=1))
