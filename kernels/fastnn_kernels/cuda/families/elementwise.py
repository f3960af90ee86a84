"""Elementwise kernels."""

from __future__ import annotations

from collections.abc import Iterable

from fastnn_kernels.contract import ACTIVATIONS_FROM_INPUT, ACTIVATIONS_FROM_OUTPUT, BINARY, COMPARISONS, KERNELS, UNARY
from fastnn_kernels.cuda import strided
from fastnn_kernels.cuda.lowering import Request, Work, lowering
from fastnn_kernels.shapes import broadcast_axes

ACTIVATIONS = ACTIVATIONS_FROM_OUTPUT + ACTIVATIONS_FROM_INPUT


def _blocks(call: Request) -> int:
    itemsize = max(operand.dtype.itemsize for operand in call.operands.values())
    (output,) = KERNELS[call.name].outputs
    return strided.blocks(call.size(output), itemsize)


@lowering(*UNARY, family="elementwise")
def unary(call: Request) -> Iterable[Work]:
    yield call.body("unary", call["x"], call["y"], call.size("y"), blocks=_blocks(call), template=(f"{call.name}_function",))


@lowering(*ACTIVATIONS, *(f"{name}_backward" for name in ACTIVATIONS), family="elementwise")
def activation(call: Request) -> Iterable[Work]:
    name = call.name.removesuffix("_backward")
    operands = KERNELS[call.name].operands
    alpha = float(call.attributes.get("alpha", 0.0))
    yield call.body(
        "activation" if call.name == name else "activation_backward",
        *(call[operand] for operand in operands), call.size(operands[-1]), alpha,
        blocks=_blocks(call), template=(f"{name}_function",),
    )  # fmt: skip


@lowering(*BINARY, *COMPARISONS, "where", family="elementwise")
def broadcast(call: Request) -> Iterable[Work]:
    operands = KERNELS[call.name].operands
    *inputs, output = (call.operands[name] for name in operands)
    function, template = ("where", ()) if call.name == "where" else ("binary", (f"{call.name}_function",))
    yield call.body(
        function,
        *(call[name] for name in operands), output.size, *strided.numbers(broadcast_axes(output, *inputs)),
        blocks=_blocks(call), template=template,
    )  # fmt: skip
