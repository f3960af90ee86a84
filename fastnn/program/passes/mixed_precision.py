"""Narrowing: a training step whose matrix products read bfloat16 and add up in float32, as tensor cores do.

Parameters, the optimizer's state, losses, logits, sums and gradients of parameters stay float32. A second arena, the shadow,
holds the parameters rounded to bfloat16: the products read it, and the update writes it in the same pass. What products,
activations, dropout, norms and the gathering of examples hand to each other is stored as bfloat16 and computed with as
float32. Everything else, such as what a loss of the user's own computes, is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from fastnn.errors import PackageError
from fastnn.program.trace import Call, Program, Symbol
from fastnn_kernels.contract import ACTIVATIONS_FROM_INPUT, ACTIVATIONS_FROM_OUTPUT, UPDATES

PRODUCTS = ("matmul", "dense", "dense_backward_input", "dense_backward_weight")
"""The matrix products; their factors are their first two operands."""

_ACTIVATIONS = ACTIVATIONS_FROM_OUTPUT + ACTIVATIONS_FROM_INPUT
CARRIERS = {
    *PRODUCTS, *_ACTIVATIONS, *(f"{name}_backward" for name in _ACTIVATIONS),
    "dropout", "batch_norm", "batch_norm_backward", "layer_norm", "layer_norm_backward", "gather_rows", "gather_standardized",
    "identity",
}  # fmt: skip
"""Kernels between which rows are handed on as bfloat16."""


def bfloat16() -> np.dtype[Any]:
    """The dtype, which NumPy has from another package."""
    try:
        import ml_dtypes
    except ImportError as error:
        raise PackageError.of("ml-dtypes", 'precision="bf16"', error) from error
    made: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return made


def narrow(program: Program) -> Program:
    """The program with a further input, `shadow`, bfloat16 of the parameters, for its products to read."""
    narrower = bfloat16()
    arena = program.inputs["parameters"]
    shadow = Symbol(arena.trace, arena.shape, narrower, "shadow")
    narrowed = {symbol: Symbol(symbol.trace, symbol.shape, narrower, symbol.name) for symbol in _narrowed(program)}
    for call in program.calls:  # what is read in another shape, and that in yet another one
        if call.is_view and call.operands[0] in narrowed:
            of, view = call.operands
            narrowed[view] = narrowed[of].view(view.shape, view.offset, view.name)

    def rounded(symbols: Iterable[Symbol]) -> dict[Symbol, Symbol]:
        return {s: shadow.view(s.shape, s.start, s.name) for s in symbols if s.root is arena}

    calls = []
    for call in program.calls:
        replaced = call.replace(narrowed)
        if call.kernel in PRODUCTS:
            with_bias = call.kernel == "dense" and replaced.outputs[0].dtype == narrower
            replaced = replaced.replace(rounded(call.inputs if with_bias else call.inputs[:2]))
        elif call.kernel in UPDATES:
            replaced = Call(call.kernel, (*replaced.operands, shadow), call.attributes)
        calls.append(replaced)
    return Program({**program.inputs, "shadow": shadow}, tuple(calls), program.outputs)


def _narrowed(program: Program) -> list[Symbol]:
    """The symbols that become bfloat16: factors of products, and what carriers hand to carriers."""
    given = {symbol.root for symbol in (*program.inputs.values(), *program.outputs.values())}
    makers: dict[Symbol, list[str]] = {}
    readers: dict[Symbol, list[str]] = {}
    factors: set[Symbol] = set()
    for call in program.calls:
        if call.is_view:
            continue
        for symbol in (*call.outputs, *call.updated):
            makers.setdefault(symbol.root, []).append(call.kernel)
        for symbol in call.reads:
            readers.setdefault(symbol.root, []).append(call.kernel)
        factors |= {symbol.root for symbol in call.inputs[:2] if call.kernel in PRODUCTS}

    def carried(kernels: Iterable[str]) -> bool:
        return all(kernel in CARRIERS for kernel in kernels)

    return [
        root
        for root, made in makers.items()
        if root not in given
        and root.dtype == np.float32
        and root.ndim >= 2
        and (root in factors or carried(made))
        and carried(readers.get(root, ()))
    ]
