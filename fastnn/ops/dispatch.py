"""Whose call it is: `Symbol`s are recorded, arrays of NumPy and CuPy are computed at once by the kernels of their device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastnn import engines
from fastnn.errors import InputError, InputTypeError
from fastnn.program.shapes import Dimension, Shape, concrete
from fastnn.program.trace import Symbol, family, floats
from fastnn_kernels.contract import KERNELS
from fastnn_kernels.memory import aligned_copy

Array = Any
"""A NumPy array, a CuPy array or a Symbol; in one call all of the same kind."""


def apply(
    kernel: str, reads: Sequence[Array], outputs: Sequence[tuple[Shape, Any]], attributes: Mapping[str, Any] | None = None
) -> Any:
    """Record the call on symbols, or run it on arrays; returns its output, or a tuple of them."""
    attributes = dict(attributes or {})
    results: Sequence[Any]
    if isinstance(reads[0], Symbol):
        results = reads[0].trace.append(kernel, reads, outputs, attributes)
    else:
        results = compute(kernel, reads, outputs, attributes)
    return results[0] if len(results) == 1 else tuple(results)  # an update in place has none


def compute(
    kernel: str, reads: Sequence[np.ndarray], outputs: Sequence[tuple[Shape, Any]], attributes: Mapping[str, Any]
) -> list[np.ndarray]:
    with engines.translate_errors():
        engine = engines.of(reads[0])
        entry = KERNELS[kernel]
        inputs = [engine.to_device(x) for x in reads[: len(entry.inputs)]]
        targets = dict(zip(entry.updated, reads[len(inputs) :], strict=True))
        for name, target in targets.items():
            if isinstance(target, np.ndarray) and not target.flags.writeable:
                raise InputError(f"{kernel}: {name} is updated in place, and this array is read-only; pass a copy")
        # Kernels never write to memory of others, which may have any strides and alignment: NumPy does.
        updated = [aligned_copy(x) if isinstance(x, np.ndarray) else engine.to_device(x) for x in targets.values()]
        results = [engine.outputs(reads[0], concrete(shape, 0), dtype) for shape, dtype in outputs]
        engine.compute(kernel, [*inputs, *updated, *results], attributes)
        for target, values in zip(targets.values(), updated, strict=True):
            if isinstance(target, np.ndarray):
                target[...] = values
        return [engine.export(array) for array in results]


def integers(name: str, x: Any) -> Any:
    """Integer labels or indices as int64."""
    family(name, x)
    if np.dtype(x.dtype).kind not in "iu":
        raise InputTypeError(f"{name}: expected integers, got {x.dtype}")
    return x if isinstance(x, Symbol) else x.astype(np.int64, copy=False)


def as_axes(name: str, axis: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(ndim))
    axes = (axis,) if isinstance(axis, int | np.integer) else tuple(axis)
    for a in axes:
        if not -ndim <= a < ndim:
            raise InputError(f"{name}: axis {a} of an array with {ndim} axes")
    result = tuple(sorted(int(a) % ndim for a in axes))
    if len(set(result)) < len(result):
        raise InputError(f"{name}: an axis is named twice in {axes}")
    return result


def without(shape: Shape, axes: Sequence[int]) -> Shape:
    return tuple(d for a, d in enumerate(shape) if a not in axes)


def unary(name: str, x: Array, **attributes: Any) -> Array:
    dtype = floats(name, x)
    return apply(name, (x,), [(tuple(x.shape), dtype)], attributes)


def check_rows(name: str, x: Array) -> np.dtype[Any]:
    dtype = floats(name, x)
    if len(x.shape) < 1:
        raise InputError(f"{name}: expected at least one axis, got a single number")
    return dtype


def check_labels(name: str, t: Any, classes: Dimension) -> None:
    if isinstance(t, Symbol) or t.size == 0 or not isinstance(classes, int):
        return
    if t.min() < 0 or t.max() >= classes:
        raise InputError(f"{name}: expected class indices 0 to {classes - 1}, got {t.min()} to {t.max()}")
