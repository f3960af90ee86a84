"""Mixed precision: a training step whose matrix products read bfloat16 and add up in float32, as tensor cores do.

Parameters, the optimizer's state, losses, logits, sums and gradients of parameters stay float32. A second arena, the
low-precision weights, holds the parameters rounded to bfloat16: the products read it, and the update writes it in the same
pass. What products, activations, pooling, dropout, norms and the gathering of examples hand to each other is stored as bfloat16
and computed with as float32. Everything else, such as what a loss of the user's own computes, is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from fastnn.errors import PackageError
from fastnn.program.trace import Call, Program, Symbol
from fastnn_kernels.contract import ACTIVATIONS_FROM_INPUT, ACTIVATIONS_FROM_OUTPUT, UPDATES

PRODUCTS = (
    "matmul", "dense", "dense_backward_input", "dense_backward_weight",
    "conv2d", "conv2d_backward_input", "conv2d_backward_weight",
)  # fmt: skip
"""The matrix products, convolutions among them; their factors are their first two operands."""

_ACTIVATIONS = ACTIVATIONS_FROM_OUTPUT + ACTIVATIONS_FROM_INPUT
CARRIERS = {
    *PRODUCTS, *_ACTIVATIONS, *(f"{name}_backward" for name in _ACTIVATIONS),
    "dropout", "batch_norm", "batch_norm_backward", "layer_norm", "layer_norm_backward", "gather_rows", "gather_standardized",
    "identity", *(f"{kind}_pool2d{of}" for kind in ("max", "mean", "l2") for of in ("", "_backward")),
}  # fmt: skip
"""Kernels between which rows are handed on as bfloat16."""


def bfloat16() -> np.dtype[Any]:
    """The dtype, which NumPy has from another package."""
    try:
        import ml_dtypes
    except ImportError as error:
        raise PackageError.of("ml-dtypes", 'precision="bf16"', error) from error
    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


def mixed_precision(program: Program) -> Program:
    """The program with a further input, `low_precision_weights`, the parameters in bfloat16, for its products to read."""
    dtype = bfloat16()
    arena = program.inputs["parameters"]
    weights = Symbol(arena.trace, arena.shape, dtype, "low_precision_weights")
    replacements = {symbol: Symbol(symbol.trace, symbol.shape, dtype, symbol.name) for symbol in _low_precision(program)}
    for call in program.calls:  # what is read in another shape, and that in yet another one
        if call.is_view and call.operands[0] in replacements:
            of, view = call.operands
            replacements[view] = replacements[of].view(view.shape, view.offset, view.name)

    def low_precision_views(symbols: Iterable[Symbol]) -> dict[Symbol, Symbol]:
        return {s: weights.view(s.shape, s.start, s.name) for s in symbols if s.root is arena}

    calls = []
    for call in program.calls:
        replaced = call.replace(replacements)
        if call.kernel in PRODUCTS:
            with_bias = call.kernel in ("dense", "conv2d") and replaced.outputs[0].dtype == dtype
            replaced = replaced.replace(low_precision_views(call.inputs if with_bias else call.inputs[:2]))
        elif call.kernel in UPDATES:
            replaced = Call(call.kernel, (*replaced.operands, weights), call.attributes)
        calls.append(replaced)
    return Program({**program.inputs, "low_precision_weights": weights}, tuple(calls), program.outputs)


def _low_precision(program: Program) -> list[Symbol]:
    """The symbols that become bfloat16: factors of products, and what carriers hand to carriers."""
    bound = {symbol.root for symbol in (*program.inputs.values(), *program.outputs.values())}
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

    def are_carriers(kernels: Iterable[str]) -> bool:
        return all(kernel in CARRIERS for kernel in kernels)

    return [
        root
        for root, kernels in makers.items()
        if root not in bound
        and root.dtype == np.float32
        and root.ndim >= 2
        and (root in factors or are_carriers(kernels))
        and are_carriers(readers.get(root, ()))
    ]
