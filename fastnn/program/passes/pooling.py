"""A convolution and the max pooling behind it: one call in each direction, for kernel sets that have them.

The outputs of the convolution, and their gradient, are made image by image and never stored. The bits stay the same.
"""

from __future__ import annotations

from typing import Any

from fastnn.program.passes.fuse import are_apart, count_uses, find_makers, replace_calls
from fastnn.program.trace import Call, Program, Symbol


def merge_pooling(program: Program) -> Program:
    """The program with every convolution and the max pooling that alone reads it in one call, and so their gradients."""
    return _merge_gradient(_merge(program))


def _merge(program: Program) -> Program:
    """conv2d, then max_pool2d of what it alone reads -> conv2d_max_pool."""
    uses, makers = count_uses(program), find_makers(program)
    replaced: dict[Call, Call | None] = {}
    for call in program.calls:
        if call.kernel != "max_pool2d" or not are_apart(call):
            continue
        (z,) = call.inputs
        convolution = makers.get(z)
        if convolution is None or convolution.kernel != "conv2d" or uses[z] != 1:
            continue
        attributes = {**convolution.attributes, **_pooled(z, call)}
        replaced[convolution] = None
        replaced[call] = Call("conv2d_max_pool", (*convolution.inputs, *call.outputs), attributes)
    return replace_calls(program, replaced)


def _merge_gradient(program: Program) -> Program:
    """max_pool2d_backward, then nothing but the gradients of a convolution -> these with it."""
    readers: dict[Symbol, list[Call]] = {}
    for call in program.calls:
        for symbol in call.reads:
            readers.setdefault(symbol, []).append(call)
    uses = count_uses(program)
    replaced: dict[Call, Call | None] = {}
    for call in program.calls:
        if call.kernel != "max_pool2d_backward" or not are_apart(call):
            continue
        (dy, places), (dz,) = call.inputs, call.outputs
        gradients = [reader for reader in readers.get(dz, ()) if _is_gradient_of(reader, dz)]
        if not gradients or len(gradients) != uses[dz]:
            continue
        replaced[call] = None
        for gradient in gradients:
            name = gradient.kernel.replace("conv2d", "conv2d_max_pool")
            others = [symbol for symbol in gradient.inputs if symbol is not dz]
            reads = (dy, places, *others) if gradient.kernel == "conv2d_backward_input" else (*others, dy, places)
            replaced[gradient] = Call(name, (*reads, *gradient.outputs), {**gradient.attributes, **_pooled(dz, call)})
    return replace_calls(program, replaced)


def _is_gradient_of(call: Call, dz: Symbol) -> bool:
    """Whether a call is a gradient of the convolution whose outputs have the gradient dz."""
    if call.kernel == "conv2d_backward_input":
        return call.inputs[0] is dz and call.inputs[1] is not dz
    return call.kernel == "conv2d_backward_weight" and call.inputs[1] is dz and call.inputs[0] is not dz


def _pooled(z: Symbol, pooling: Call) -> dict[str, Any]:
    pool = tuple(pooling.attributes[name] for name in ("size", "strides", "padding"))
    return {"image": tuple(z.shape[1:3]), "pool": pool}
