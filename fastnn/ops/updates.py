"""Steps of optimizers over a whole arena, in place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastnn.errors import InputError, TracingError, nearest
from fastnn.ops.algebra import less, multiply, sqrt, sum, where
from fastnn.ops.dispatch import Array, apply, integers
from fastnn.program.shapes import describe, elements
from fastnn.program.trace import floats
from fastnn_kernels.contract import SCALARS, SUM_BLOCK, UPDATES

SCALES = {"float32": 2.0**-96, "float64": 2.0**-768}
"""Numbers whose squares overflow are multiplied by it; what is lost then is far below the last digit of the sum."""

__all__ = ["global_norm", "penalty", "sum_of_squares", "update"]


def update(
    name: str,
    parameters: Array,
    state: Sequence[Array],
    gradient: Array,
    norm: Array,
    scalars: Array,
    index: Array,
    starts: Array,
    penalties: Array,
    attributes: Mapping[str, Any],
) -> None:
    """One step of an optimizer over a whole arena, **in place** in `parameters` (P,) and in each array of `state` (P,).

    `name`: of `fastnn_kernels.contract.UPDATES`, such as adam (AdamW where `penalties` hold a decay); equations, `scalars`,
    `index`, `starts`, `penalties` and `attributes` as in that module.
    """
    if name not in UPDATES:
        raise InputError(f"no update is called {name!r}{nearest(name, UPDATES)}")
    floats(name, gradient, norm, scalars, penalties, parameters, *state)
    expected = {"clip_value", "clip_norm", *UPDATES[name].attributes}
    if set(attributes) != expected:
        raise InputError(
            f"{name}: expected the attributes {', '.join(sorted(expected))}, got {', '.join(sorted(attributes)) or 'none'}"
        )
    slots = UPDATES[name].slots
    if len(state) != len(slots) or any(tuple(s.shape) != tuple(parameters.shape) for s in (gradient, *state)):
        raise InputError(f"{name}: expected a gradient and {len(slots)} arrays of state, all of the parameters' shape")
    index, starts = integers(name, index), _segments(name, parameters, starts, penalties)
    columns = len(SCALARS)
    if tuple(norm.shape) != () or tuple(index.shape) != () or len(scalars.shape) != 2 or scalars.shape[1] != columns:
        got = ", ".join(describe(tuple(x.shape)) for x in (norm, scalars, index))
        raise InputError(f"{name}: expected norm (), scalars (N, {columns}) and index (), got {got}")
    if isinstance(index, np.ndarray) and not 0 <= int(index) < len(scalars):
        raise InputError(f"{name}: expected an index from 0 to {len(scalars) - 1}, got {int(index)}")
    apply(name, (gradient, norm, scalars, index, starts, penalties, parameters, *state), [], attributes)


def sum_of_squares(x: Array, clip_value: float = 0.0, scale: float = 1.0) -> Array:
    """sum (scale x)^2 over everything, a 0-d array; with clip_value > 0 of min(max(x, -clip_value), clip_value) for x."""
    dtype = floats("sum_of_squares", x)
    blocks = _blocks("sum_of_squares", x)
    attributes = {"clip_value": float(clip_value), "scale": float(scale)}
    return sum(apply("block_sum_squares", (x,), [((blocks,), dtype)], attributes))


def global_norm(x: Array, clip_value: float = 0.0) -> Array:
    """sqrt(sum x^2) over everything, a 0-d array, also where the sum of the squares overflows; `clip_value` as in
    `sum_of_squares`.

    Where the squares overflow, it is sqrt(sum (x / s)^2) s with s a power of two.
    """
    scale = SCALES[floats("global_norm", x).name]
    squares = sum_of_squares(x, clip_value)
    scaled = multiply(sqrt(sum_of_squares(x, clip_value, scale)), 1.0 / scale)
    return where(less(squares, math.inf), sqrt(squares), scaled)


def penalty(parameters: Array, starts: Array, penalties: Array) -> Array:
    """sum over segments of l2/2 sum w^2 + l1 sum |w|, a 0-d array; `starts` and `penalties` as in `update`."""
    dtype = floats("penalty", parameters, penalties)
    starts = _segments("penalty", parameters, starts, penalties)
    blocks = _blocks("penalty", parameters)
    return sum(apply("block_penalty", (parameters, starts, penalties), [((blocks,), dtype)]))


def _segments(name: str, parameters: Array, starts: Array, penalties: Array) -> Array:
    """The checked `starts` (S + 1,) of the segments of an arena (P,), as int64."""
    starts = integers(name, starts)
    if len(parameters.shape) != 1 or len(starts.shape) != 1 or tuple(penalties.shape) != (starts.shape[0] - 1, 4):
        got = ", ".join(describe(tuple(x.shape)) for x in (parameters, starts, penalties))
        raise InputError(f"{name}: expected parameters (P,), starts (S + 1,) and penalties (S, 4), got {got}")
    if isinstance(starts, np.ndarray) and (starts[0] != 0 or starts[-1] != len(parameters) or (np.diff(starts) < 0).any()):
        raise InputError(f"{name}: expected starts that rise from 0 to {len(parameters)}, the number of parameters")
    return starts


def _blocks(name: str, x: Array) -> int:
    size = elements(tuple(x.shape))
    if not isinstance(size, int):
        raise TracingError(f"{name}: the size of the array must not depend on the number of rows")
    return -(-size // SUM_BLOCK)
