"""Masks: layers with ReLU that keep one bit an element for their backward pass, instead of reading their output again.

cuBLASLt then does the derivative together with the product that makes dx, and may take the gradient of the bias with it.
Which of the variants is taken is for an engine to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from fastnn.program.shapes import elements
from fastnn.program.trace import Call, Program, Symbol
from fastnn_kernels.contract import mask_pitch

Variant = Mapping[Call, Call]
"""Calls of a program, and what is in their place."""


def choose_relu_masks(program: Program, choose: Callable[[Sequence[Variant]], Variant]) -> Program:
    """The program with one of the `alternatives` for each layer that has some."""
    replaced: dict[Call, Call] = {}
    for variants in alternatives(program):
        replaced |= choose(variants)
    return program.with_calls(replaced.get(call, call) for call in program.calls)


def alternatives(program: Program) -> Iterator[list[Variant]]:
    """For each dense layer with ReLU whose output is differentiated in one place: the calls as they are; with a mask and the
    gradient of its bias made with dx, where it may be made so early; with a mask alone."""
    for forward in program.calls:
        if forward.kernel != "dense" or forward.attributes["activation"] != "relu":
            continue
        (y,) = forward.outputs
        backward = _only(c for c in program.calls if c.kernel == "dense_backward_input" and c.inputs[2] is y)
        if backward is None or backward.attributes["activation"] != "relu":
            continue
        rows, columns = y.shape
        assert isinstance(columns, int)
        mask = Symbol(y.trace, (rows, mask_pitch(columns)), "uint8")
        dz, w, _, dx = backward.operands
        kept = Call("dense_with_mask", (*forward.operands, mask))
        variants: list[Variant] = [{forward: forward, backward: backward}]
        alone = {forward: kept, backward: Call("dense_backward_input_with_mask", (dz, w, mask, dx))}
        weight = _only(c for c in program.calls if c.kernel == "dense_backward_weight" and c.inputs[1] is dx)
        if weight is not None:
            x, _, dw, db = weight.operands
            variants[0] = {**variants[0], weight: weight}
            if _is_free(db, program.calls[program.calls.index(backward) : program.calls.index(weight)]):
                summed = Call("dense_backward_input_with_mask", (dz, w, mask, dx, db))
                product = Call("matmul", (x, dx, dw), {"transpose_a": True, "transpose_b": False})
                variants.append({forward: kept, backward: summed, weight: product})
            alone[weight] = weight
        yield [*variants, alone]


def _only(calls: Iterator[Call]) -> Call | None:
    candidates = list(calls)
    return candidates[0] if len(candidates) == 1 else None


def _is_free(symbol: Symbol, calls: Sequence[Call]) -> bool:
    """Whether none of the calls touches the memory of a symbol."""

    def apart(other: Symbol) -> bool:
        size, others = elements(symbol.shape), elements(other.shape)
        if not isinstance(size, int) or not isinstance(others, int):
            return False
        return symbol.start + size <= other.start or other.start + others <= symbol.start

    return all(other.root is not symbol.root or apart(other) for call in calls for other in call.operands)
