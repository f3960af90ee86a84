"""What the loops of `strided.cuh` are called with."""

from __future__ import annotations

from collections.abc import Sequence

from fastnn_kernels.cuda.lowering import THREADS, ceil
from fastnn_kernels.shapes import AXES

VARIANTS = (1, 2, AXES)
"""Numbers of axes that there is code for."""


def numbers(axes: Sequence[tuple[int, ...]]) -> list[int]:
    """Axes, innermost first, as (length, step of each input), filled up with axes of length 1: one number after another.

    Raises:
        ValueError: there are more than AXES.
    """
    if len(axes) > AXES:
        raise ValueError(f"arrays are walked through along up to {AXES} axes; these shapes need {len(axes)}")
    missing = next(variant for variant in VARIANTS if variant >= len(axes)) - len(axes)
    filled = [*axes, *[(1, *(0 for _ in axes[0][1:]))] * missing]
    return [number for axis in filled for number in axis]


def blocks(size: int, itemsize: int) -> int:
    """Blocks for `size` elements of which the widest operand has `itemsize` bytes each: each thread takes 16 bytes, once.

    Blocks that do nothing but that need no even share of the multiprocessors, whatever number of them fits on one.
    """
    return ceil(size * itemsize, 16 * THREADS)
