"""Reverse-mode differentiation of a recording: each operation's own backward rule, played from the last call to the first.

A rule belongs to a kernel: `rule(call, *gradients)` gets the gradient of each output of the call (None where the loss does not
depend on it) and returns one of each input (None where there is none). It is written in the vocabulary, so that what it records
can be fused, printed and played like the forward pass. Source: the chain rule, as in Griewank & Walther, Evaluating
Derivatives, chapter 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastnn.errors import TracingError
from fastnn.program.shapes import describe
from fastnn.program.trace import Call, Symbol, constant

Rule = Callable[..., Sequence[Symbol | None]]
RULES: dict[str, Rule] = {}


def backward(*kernels: str) -> Callable[[Rule], Rule]:
    """Declare a rule for these kernels."""

    def declare(rule: Rule) -> Rule:
        for kernel in kernels:
            RULES[kernel] = rule
        return rule

    return declare


def gradients(loss: Symbol, wanted: Sequence[Symbol]) -> list[Symbol]:
    """Record the gradient of `loss` (0-d) with respect to each symbol of `wanted`; zeros where it does not depend on one."""
    trace = loss.trace
    if loss.shape != ():
        raise TracingError(f"a gradient is taken of a single number, and this has shape {describe(loss.shape)}; use ops.mean")
    forward = list(trace.calls)
    depends = set(wanted)
    for call in forward:
        if any(symbol in depends for symbol in call.reads):
            depends.update(call.outputs)
    if loss not in depends:
        raise TracingError("the loss does not depend on any parameter")
    gradient_of: dict[Symbol, Symbol] = {loss: constant(loss, 1.0)}
    for call in reversed(forward):
        if not any(symbol in depends for symbol in call.inputs):
            continue
        incoming = [gradient_of.get(symbol) for symbol in call.outputs]
        if all(gradient is None for gradient in incoming):
            continue
        if call.kernel not in RULES:
            raise TracingError(f"{call.kernel} has no derivative, and the loss depends on a parameter through it")
        for symbol, gradient in zip(call.inputs, RULES[call.kernel](call, *incoming), strict=True):
            if gradient is None or symbol not in depends:
                continue
            gradient_of[symbol] = _accumulate(gradient_of[symbol], gradient) if symbol in gradient_of else gradient
    return [gradient_of[symbol] if symbol in gradient_of else _zeros(symbol) for symbol in wanted]


def write_into(calls: Sequence[Call], destinations: Sequence[tuple[Symbol, Symbol]]) -> list[Call]:
    """Let each gradient of `(gradient, destination)` be made in its destination: by its own call, or else by a copy."""
    calls = list(calls)
    moved: dict[Symbol, Symbol] = {}
    for gradient, destination in destinations:
        is_output = any(call.makes(gradient) for call in calls if not call.is_view)
        viewed = any(call.is_view and (call.makes(gradient) or call.operands[0] is gradient) for call in calls)
        if is_output and not viewed:
            calls = [call.replace({gradient: destination}) for call in calls]
            moved[gradient] = destination
        else:
            calls.append(Call("identity", (moved.get(gradient, gradient), destination)))
    return calls


def _accumulate(a: Symbol, b: Symbol) -> Symbol:
    return a.trace.append("add", (a, b), [(a.shape, a.dtype)])[0]


def _zeros(symbol: Symbol) -> Symbol:
    return constant(symbol, 0.0, symbol.shape)
