"""Batch norm and dropout, one behind the other: one call in each direction, for kernel sets that have them.

The mask is drawn again where it is needed, so that nothing between the two is ever stored. The bits stay the same.
"""

from __future__ import annotations

from fastnn.program.passes.fuse import count_uses, find_makers, fuse_norm_gradient, replace_calls
from fastnn.program.trace import Call, Program
from fastnn_kernels.contract import ACTIVATIONS_FROM_OUTPUT


def merge_norm_dropout(program: Program) -> Program:
    """The program with every batch norm, the activation behind it and dropout behind that in one call, and their gradients."""
    return _merge_gradient(_merge(fuse_norm_gradient(program, ACTIVATIONS_FROM_OUTPUT)))


def _merge(program: Program) -> Program:
    """batch_norm, then dropout of what it alone reads -> batch_norm_dropout."""
    uses, makers = count_uses(program), find_makers(program)
    replaced: dict[Call, Call | None] = {}
    for call in program.calls:
        if call.kernel != "dropout":
            continue
        y, step = call.inputs
        norm = makers.get(y)
        if norm is None or norm.kernel != "batch_norm" or uses[y] != 1 or step in makers:
            continue
        operands = (*norm.inputs, step, *norm.updated, *call.outputs, *norm.outputs[1:])
        replaced[norm] = Call("batch_norm_dropout", operands, {**norm.attributes, **call.attributes})
        replaced[call] = None
    return replace_calls(program, replaced)


def _merge_gradient(program: Program) -> Program:
    """dropout, then batch_norm_backward which alone reads its result -> batch_norm_dropout_backward."""
    uses, makers = count_uses(program), find_makers(program)
    replaced: dict[Call, Call | None] = {}
    for call in program.calls:
        if call.kernel != "batch_norm_backward":
            continue
        dz, *others = call.inputs
        drop = makers.get(dz)
        if drop is None or drop.kernel != "dropout" or uses[dz] != 1:
            continue
        dy, step = drop.inputs
        operands = (dy, *others, step, *call.outputs)
        replaced[drop] = None
        replaced[call] = Call("batch_norm_dropout_backward", operands, {**call.attributes, **drop.attributes})
    return replace_calls(program, replaced)
