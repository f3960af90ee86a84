"""Shapes as kernels walk through them: axes of one entry left out, neighbors that lie in one stride taken together."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fastnn_kernels.contract import Operand

AXES = 6
"""Axes that broadcasting goes up to."""


def power_of_two(number: int) -> int:
    """The smallest power of two that is not smaller."""
    return 1 << max(0, number - 1).bit_length()


def collapse(shape: Sequence[int], *operands: Operand) -> list[tuple[int, ...]]:
    """The axes of a broadcast result, innermost first: (length, then the step of each operand in elements).

    Axes of length 1 are dropped, and neighbors that every operand walks through in one stride are merged.
    """
    steps: list[list[int]] = []
    for operand in operands:
        lengths = (1,) * (len(shape) - len(operand.shape)) + tuple(operand.shape)
        step, operand_steps = 1, []
        for length in reversed(lengths):
            operand_steps.append(step if length != 1 else 0)
            step *= length
        steps.append(operand_steps)
    axes: list[tuple[int, ...]] = []
    for axis, length in enumerate(reversed(shape)):
        axis_steps = tuple(step[axis] for step in steps)
        if length == 1:
            continue
        if axes and all(outer == inner * axes[-1][0] for outer, inner in zip(axis_steps, axes[-1][1:], strict=True)):
            axes[-1] = (axes[-1][0] * length, *axes[-1][1:])
        else:
            axes.append((length, *axis_steps))
    return axes


def broadcast_axes(output: Operand, *inputs: Operand) -> list[tuple[int, ...]]:
    """`collapse` for a kernel: at least one axis (of length 1 where the output has one element or none), at most AXES.

    Raises:
        ValueError: more than AXES axes are left.
    """
    axes = collapse(output.shape, *inputs) if output.size else []
    if len(axes) > AXES:
        raise ValueError(f"elementwise kernels broadcast over up to {AXES} axes; these shapes need {len(axes)}")
    return axes or [(1, *(1 for _ in inputs))]


def grouped_axes(shape: tuple[int, ...], axis: tuple[int, ...]) -> list[tuple[bool, int, int]]:
    """Adjacent axes that are all reduced or all kept, as one each: (reduced, size, stride); axes of size 1 are left out."""
    groups: list[tuple[bool, int, int]] = []
    stride = 1
    for i in reversed(range(len(shape))):
        if shape[i] != 1:
            if groups and groups[-1][0] == (i in axis):
                groups[-1] = (groups[-1][0], groups[-1][1] * shape[i], groups[-1][2])
            else:
                groups.append((i in axis, shape[i], stride))
        stride *= shape[i]
    return groups[::-1]


def transposed_axes(shape: tuple[int, ...], axes: tuple[int, ...]) -> list[tuple[int, int]]:
    """The axes of y as (extent, stride in x), without those of one entry, neighbors in both arrays merged into one."""
    strides = [math.prod(shape[k + 1 :]) for k in range(len(shape))]
    merged: list[tuple[int, int]] = []
    for axis in axes:
        extent, stride = shape[axis], strides[axis]
        if extent == 1:
            continue
        if merged and merged[-1][1] == stride * extent:
            merged[-1] = (merged[-1][0] * extent, stride)
        else:
            merged.append((extent, stride))
    return merged
