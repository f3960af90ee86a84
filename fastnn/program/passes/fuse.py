"""Fusion: rewrites of a program into fewer calls that give the same bits. Each takes a program and returns a program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable

from fastnn.program.trace import Call, Program, Symbol
from fastnn_kernels.contract import ACTIVATIONS_FROM_OUTPUT, NO_ACTIVATION

LOSSES = ("softmax_cross_entropy", "sigmoid_cross_entropy", "squared_error")
ACTIVATED = ("dense", "conv2d", "batch_norm", "batch_norm_inference", "layer_norm")
NORMS = {"batch_norm_backward": "batch_norm", "layer_norm_backward": "layer_norm"}
COMPARED = ("relu", "leaky_relu")
"""Activations that cost a comparison: computing them anew is as fast on every engine as reading what was computed."""
GRADIENTS = {f"{name}_backward": name for name in ACTIVATIONS_FROM_OUTPUT}


def fuse(program: Program) -> Program:
    """All rewrites, in the order in which they make room for each other, then without what nobody reads."""
    for rewrite in FUSIONS:
        program = rewrite(program)
    return drop_unread(program)


def drop_unread(program: Program) -> Program:
    """Without the calls whose results nothing reads: only outputs, updates in place and what they need remain."""
    read = {symbol.root for symbol in program.outputs.values()} | {symbol.root for symbol in program.inputs.values()}
    kept: list[Call] = []
    for call in reversed(program.calls):
        if call.updated or any(symbol.root in read for symbol in call.outputs):
            kept.append(call)
            read.update(symbol.root for symbol in call.reads)
    return program.with_calls(reversed(kept))


def fuse_bias(program: Program) -> Program:
    """matmul, then adding a row vector -> dense."""
    uses, makers = count_uses(program), find_makers(program)
    replaced: dict[Call, Call | None] = {}
    for call in program.calls:
        if call.kernel != "add":
            continue
        product, bias = call.operands[0], call.operands[1]
        maker = makers.get(product)
        if maker is None or maker.kernel != "matmul" or uses[product] != 1 or any(maker.attributes.values()):
            continue
        if bias.shape == (product.shape[1],) and call.operands[2].shape == product.shape and bias not in makers:
            replaced[maker] = None
            replaced[call] = Call("dense", (*maker.inputs, bias, call.operands[2]), NO_ACTIVATION)
    return replace_calls(program, replaced)


def fuse_activation(program: Program) -> Program:
    """A layer that takes one, then an activation whose derivative is a function of its output -> the layer with it."""
    uses, makers = count_uses(program), find_makers(program)
    replaced: dict[Call, Call | None] = {}
    for call in program.calls:
        if call.kernel not in ACTIVATIONS_FROM_OUTPUT:
            continue
        x, y = call.operands
        maker = makers.get(x)
        if maker is None or maker.kernel not in ACTIVATED or uses[x] != 1 or maker.attributes["activation"]:
            continue
        attributes = {**maker.attributes, **_activation(call.kernel, call)}
        replaced[maker] = Call(maker.kernel, maker.replace({x: y}).operands, attributes)
        replaced[call] = None
    return replace_calls(program, replaced)


def fuse_norm_gradient(program: Program, activations: Collection[str] = COMPARED) -> Program:
    """The derivative of one of these activations behind a norm, then the norm's backward call -> the latter with both."""
    uses, makers = count_uses(program), find_makers(program)
    replaced: dict[Call, Call | None] = {}
    for call in program.calls:
        if call.kernel not in NORMS or call.attributes["activation"]:
            continue
        dz, *of_norm = call.inputs
        slope = makers.get(dz)
        if slope is None or GRADIENTS.get(slope.kernel) not in activations or uses[dz] != 1:
            continue
        dy, y = slope.inputs
        norm, activation = makers.get(y), _activation(GRADIENTS[slope.kernel], slope)
        if norm is None or norm.kernel != NORMS[call.kernel] or not activation.items() <= norm.attributes.items():
            continue
        if all(a is b for a, b in zip(of_norm, (*norm.inputs, *norm.outputs[1:]), strict=True)):
            replaced[slope] = None
            replaced[call] = Call(call.kernel, (dy, *call.operands[1:]), activation)
    return replace_calls(program, replaced)


def fuse_activation_gradient(program: Program) -> Program:
    """dz @ w.T, then the derivative of the activation below -> dense_backward_input."""
    uses, makers = count_uses(program), find_makers(program)
    replaced: dict[Call, Call | None] = {}
    for call in program.calls:
        if call.kernel not in GRADIENTS:
            continue
        product, y = call.inputs
        maker = makers.get(product)
        if maker is None or maker.kernel != "matmul" or uses[product] != 1:
            continue
        if maker.attributes["transpose_b"] and not maker.attributes["transpose_a"]:
            replaced[maker] = None
            operands = (*maker.inputs, y, call.outputs[0])
            replaced[call] = Call("dense_backward_input", operands, _activation(GRADIENTS[call.kernel], call))
    return replace_calls(program, replaced)


def move_activation_gradient(program: Program) -> Program:
    """max_pool2d_backward, then the derivative of the activation in front -> the derivative first, of fewer numbers.

    A pixel that is the largest of its window has the window's value, and the others have no gradient. Where windows do not
    overlap, the bits are the same.
    """
    uses, makers = count_uses(program), find_makers(program)
    poolings = {call.outputs[1]: call for call in program.calls if call.kernel == "max_pool2d"}
    replaced: dict[Call, Call | None] = {}
    for call in program.calls:
        if call.kernel not in GRADIENTS:
            continue
        dy, z = call.inputs
        spread = makers.get(dy)
        if spread is None or spread.kernel != "max_pool2d_backward" or uses[dy] != 1 or not are_apart(spread):
            continue
        slope, places = spread.inputs
        pooling = poolings.get(places)
        if pooling is None or pooling.inputs[0] is not z:
            continue
        moved = Symbol(slope.trace, slope.shape, slope.dtype, slope.name)
        replaced[spread] = Call(call.kernel, (slope, pooling.outputs[0], moved), call.attributes)
        replaced[call] = Call(spread.kernel, (moved, places, *call.outputs), spread.attributes)
    return replace_calls(program, replaced)


def are_apart(pooling: Call) -> bool:
    """Whether no pixel is in two windows."""
    return all(step >= size for size, step in zip(pooling.attributes["size"], pooling.attributes["strides"], strict=True))


def fuse_bias_gradient(program: Program) -> Program:
    """x.T @ dz and the sum of dz over its rows -> dense_backward_weight."""
    position = {call: index for index, call in enumerate(program.calls)}
    first_use = _first_uses(program)
    sums = {call.inputs[0]: call for call in program.calls if call.kernel == "sum" and call.attributes["axis"] == (0,)}
    replaced: dict[Call, Call | None] = {}
    for call in program.calls:
        if call.kernel != "matmul" or not call.attributes["transpose_a"] or call.attributes["transpose_b"]:
            continue
        x, dz = call.inputs
        total = sums.get(dz)
        if total is None or dz.ndim != 2 or total in replaced:
            continue
        early, late = sorted((call, total), key=position.__getitem__)
        if first_use.get(early.outputs[0].root, len(position)) < position[late]:
            continue
        replaced[early] = None
        replaced[late] = Call("dense_backward_weight", (x, dz, call.outputs[0], total.outputs[0]))
    return replace_calls(program, replaced)


def fuse_loss_gradient(program: Program) -> Program:
    """A loss and its backward call -> both in one pass, with what the backward call is fed moved in front."""
    calls = list(program.calls)
    for loss in [call for call in calls if call.kernel in LOSSES]:
        z, t = loss.inputs
        name = f"{loss.kernel}_backward"
        twins = [
            c for c in calls if c.kernel == name and c.inputs[0] is z and c.inputs[1] is t and c.attributes == loss.attributes
        ]
        if len(twins) != 1:
            continue
        (twin,) = twins
        at = calls.index(loss)
        feeding = _feeding(calls[at:], twin.inputs[2], set(loss.outputs))
        if feeding is None:
            continue
        fused = Call(f"{loss.kernel}_with_gradient", (*twin.inputs, *loss.outputs, *twin.outputs), loss.attributes)
        rest = [c for c in calls[at + 1 :] if c is not twin and c not in feeding]
        calls = [*calls[:at], *feeding, fused, *rest]
    return program.with_calls(calls)


FUSIONS: tuple[Callable[[Program], Program], ...] = (
    fuse_bias,
    fuse_activation,
    fuse_norm_gradient,
    move_activation_gradient,
    fuse_activation_gradient,
    fuse_bias_gradient,
    fuse_loss_gradient,
)


def _activation(name: str, call: Call) -> dict[str, object]:
    return {"activation": name, "alpha": float(call.attributes.get("alpha", 0.0))}


def _feeding(calls: list[Call], symbol: Symbol, forbidden: set[Symbol]) -> list[Call] | None:
    """The calls among `calls` that `symbol` needs, in order; None where they need a forbidden symbol or update something."""
    needed, feeding = {symbol}, []
    for call in reversed(calls):
        if any(output in needed for output in call.outputs):
            if call.updated or any(read in forbidden for read in call.reads):
                return None
            feeding.append(call)
            needed.update(call.reads)
    return list(reversed(feeding))


def count_uses(program: Program) -> Counter[Symbol]:
    """How often each symbol is read, a program's result counting as read."""
    count: Counter[Symbol] = Counter(program.outputs.values())
    for call in program.calls:
        count.update(call.reads)
    for call in program.calls:  # what lies in storage given from outside is read by whoever gave it
        count.update(symbol for symbol in call.outputs if symbol.base is not None and not call.is_view)
    return count


def find_makers(program: Program) -> dict[Symbol, Call]:
    """The call that makes each symbol; inputs have none."""
    return {symbol: call for call in program.calls for symbol in call.outputs}


def _first_uses(program: Program) -> dict[Symbol, int]:
    first: dict[Symbol, int] = {}
    for index, call in enumerate(program.calls):
        for symbol in call.reads:
            first.setdefault(symbol.root, index)
    return first


def replace_calls(program: Program, replaced: dict[Call, Call | None]) -> Program:
    """The program with other calls instead of some, or without those for which there is None."""

    def calls() -> Iterable[Call]:
        for call in program.calls:
            new = replaced.get(call, call)
            if new is not None:
                yield new

    return program.with_calls(calls())
