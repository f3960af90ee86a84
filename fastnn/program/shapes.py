"""Shapes that are known but for the number of rows, and what becomes of them where operands are broadcast."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fastnn.errors import InputError, TracingError


@dataclass(frozen=True)
class BatchDim:
    """`factor` times the number of rows, or of leaves of rows, a dimension that is known when the program is instantiated.

    `leaf`: rows of a leaf; the last one may have fewer.
    """

    factor: int = 1
    leaf: int = 1

    def of(self, rows: int) -> int:
        """The dimension for so many rows."""
        return self.factor * -(-rows // self.leaf)

    def __mul__(self, other: int) -> BatchDim:
        return BatchDim(self.factor * other, self.leaf)

    __rmul__ = __mul__

    def __str__(self) -> str:
        rows = "B" if self.leaf == 1 else f"ceil(B/{self.leaf})"
        return {0: "N", 1: rows}.get(self.factor, f"{self.factor}{rows}")


Dimension = int | BatchDim
Shape = tuple[Dimension, ...]
B = BatchDim()
N = BatchDim(0)
"""The length of an input that may be any: data, orders, tables. No kernel's cost or memory depends on it."""

MOST_AXES = 6
"""Axes that operations on several arrays, and transpose, can handle."""


def elements(shape: Shape) -> Dimension:
    """The product of the dimensions; at most one of them may depend on the number of rows."""
    fixed = math.prod(d for d in shape if isinstance(d, int))
    rows = [d for d in shape if isinstance(d, BatchDim)]
    if len(rows) > 1:
        raise TracingError(f"the shape {describe(shape)} depends on the number of rows twice, which no operation supports")
    return rows[0] * fixed if rows else fixed


def concrete(shape: Shape, rows: int) -> tuple[int, ...]:
    """The shape for a number of rows."""
    return tuple(d.of(rows) if isinstance(d, BatchDim) else d for d in shape)


def describe(shape: Shape) -> str:
    """`(B, 10)`, as it is written in documentation and messages."""
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"


def broadcast_shapes(name: str, *shapes: Shape) -> Shape:
    """The shape that NumPy's rules give; dimensions that depend on the number of rows match only themselves and 1."""
    result: list[Dimension] = []
    for position in range(1, max(map(len, shapes)) + 1):
        dimension: Dimension = 1
        for shape in shapes:
            d = shape[-position] if position <= len(shape) else 1
            if d == 1 or d == dimension:
                continue
            if dimension != 1:
                raise InputError(f"{name}: shapes {' and '.join(map(describe, shapes))} do not fit together")
            dimension = d
        result.append(dimension)
    if _row_axes(result) > max(map(_row_axes, shapes)):
        operands, result_shape = " and ".join(map(describe, shapes)), describe(tuple(reversed(result)))
        raise InputError(
            f"{name}: shapes {operands} would make {result_shape}, each example with every other; reshape (B,) to (B, 1)"
        )
    if len(result) > MOST_AXES:
        raise InputError(f"{name}: at most {MOST_AXES} axes can be broadcast, got {len(result)}")
    return tuple(reversed(result))


def _row_axes(shape: Sequence[Dimension]) -> int:
    return sum(isinstance(d, BatchDim) for d in shape)
