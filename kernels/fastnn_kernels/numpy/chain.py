"""Definition of chains of elementwise kernels: the kernels one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fastnn_kernels.contract import CHAIN_INPUTS, COMPARISONS, Step
from fastnn_kernels.numpy import data, elementwise

__all__ = [f"chain_{inputs}" for inputs in range(1, CHAIN_INPUTS + 1)]


def chain(*operands: np.ndarray, steps: Sequence[Step]) -> None:
    """y, the last operand, = the result of the last step. Computed in float64 where an operand is float64, else in float32."""
    *inputs, y = operands
    F = np.dtype("float64" if any(operand.dtype == np.float64 for operand in operands) else "float32")
    values = [x.astype(F) if x.dtype.name == "bfloat16" else x for x in inputs]
    for step in steps:
        result = np.empty(y.shape, bool if step.kernel in COMPARISONS else F)
        kernel: Callable[..., None] = getattr(data if step.kernel in data.__all__ else elementwise, step.kernel)
        kernel(*(values[argument] for argument in step.arguments), result, **dict(step.attributes))
        values.append(_round_to_bfloat16(result) if step.stored else result)
    y[...] = values[-1]


def _round_to_bfloat16(x: np.ndarray) -> np.ndarray:
    """x rounded to bfloat16, in its own dtype."""
    import ml_dtypes

    return x.astype(ml_dtypes.bfloat16).astype(x.dtype)


chain_1 = chain_2 = chain_3 = chain_4 = chain_5 = chain_6 = chain
