"""Whose array is this: its namespace, its device, and the way to the host."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from fastnn.errors import InputTypeError, PackageError

GPU = 2
"""The number of NVIDIA GPUs among DLPack's kinds of device (dlpack.h, kDLCUDA)."""


def kind(x: object) -> str:
    """`"numpy"`, `"cupy"` or `""` for anything else. Imports nothing that is not imported already."""
    if isinstance(x, np.ndarray | np.generic):
        return "numpy"
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(x, cupy.ndarray):
        return "cupy"
    return ""


def ordinal(x: Any) -> int | None:
    """The number of the GPU that an array of any library that speaks DLPack lies on; None for arrays of the host."""
    if isinstance(x, np.ndarray) or not hasattr(x, "__dlpack_device__"):
        return None
    device, number = x.__dlpack_device__()
    return int(number) if int(device) == GPU else None


def device(x: Any) -> str:
    """The name of the device that `x` lies on, as `fit` takes it: "cpu" or, say, "cuda:1"."""
    number = ordinal(x)
    return "cpu" if number is None else f"cuda:{number}"


def on_host(x: Any) -> bool:
    """Whether `x` lies on the host."""
    return ordinal(x) is None


def namespace(*arrays: object) -> Any:
    """The array namespace (array API standard) that all of `arrays` share; mixtures raise."""
    array_api_compat = _array_api_compat()
    kinds = {kind(x) for x in arrays}
    if "" in kinds:
        odd = next(x for x in arrays if not kind(x))
        raise InputTypeError(f"expected NumPy or CuPy arrays, got {type(odd).__name__}; convert it with numpy.asarray")
    if len(kinds) > 1:
        raise InputTypeError(
            "expected arrays of one kind, got NumPy and CuPy arrays together; move one with fastnn.arrays.to_host"
        )
    return array_api_compat.array_namespace(*arrays)


def _array_api_compat() -> Any:
    try:
        import array_api_compat
    except ImportError as error:
        raise PackageError.of("array-api-compat", "an array of another library than NumPy", error) from error
    return array_api_compat


def to_host(x: Any) -> np.ndarray:
    """`x` as a NumPy array: itself where it is one, a copy of what lies on a GPU, else what `numpy.asarray` makes of it."""
    if kind(x) == "cupy":
        return np.asarray(x.get())
    number = ordinal(x)
    if number is not None:  # another library's array on a GPU
        import cupy

        with cupy.cuda.Device(number):
            return np.asarray(cupy.from_dlpack(x).get())
    if hasattr(x, "detach"):  # a PyTorch tensor that takes part in a differentiation refuses to be a NumPy array
        x = x.detach()
    return np.asarray(x)


def to_device(x: Any, like: Any) -> Any:
    """The array `x`, of the host or of the GPU of `like`, in the namespace of `like`; as it is where that is NumPy or none."""
    if isinstance(like, np.ndarray) or kind(like) == "cupy" == kind(x):
        return x
    array_api_compat = _array_api_compat()
    if not array_api_compat.is_array_api_obj(like):
        return x
    space = array_api_compat.array_namespace(like)
    if not on_host(like) and not isinstance(x, np.ndarray):
        return space.from_dlpack(x)
    return space.asarray(x, device=array_api_compat.device(like))
