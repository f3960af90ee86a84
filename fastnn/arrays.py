"""Whose array is this: its namespace, its device, and the way to the host."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from fastnn.errors import KindError


def kind(x: object) -> str:
    """`"numpy"`, `"cupy"` or `""` for anything else. Imports nothing that is not imported already."""
    if isinstance(x, np.ndarray | np.generic):
        return "numpy"
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(x, cupy.ndarray):
        return "cupy"
    return ""


def namespace(*arrays: object) -> Any:
    """The array namespace (array API standard) that all of `arrays` share; mixtures raise."""
    import array_api_compat

    kinds = {kind(x) for x in arrays}
    if "" in kinds:
        odd = next(x for x in arrays if not kind(x))
        raise KindError(f"expected NumPy or CuPy arrays, got {type(odd).__name__}; convert it with numpy.asarray")
    if len(kinds) > 1:
        raise KindError("expected arrays of one kind, got NumPy and CuPy arrays together; move one with fastnn.arrays.to_host")
    return array_api_compat.array_namespace(*arrays)


def to_host(x: Any) -> np.ndarray:
    """`x` as a NumPy array: itself where it is one, a copy of what lies on a GPU, else what `numpy.asarray` makes of it."""
    if kind(x) == "cupy":
        return np.asarray(x.get())
    return np.asarray(x)


def to_device(x: Any, like: Any) -> Any:
    """The NumPy array `x` in the namespace and on the device of `like`; as it is where `like` is no array of a GPU."""
    if kind(like) != "cupy":
        return x
    import array_api_compat

    return namespace(like).asarray(x, device=array_api_compat.device(like))
