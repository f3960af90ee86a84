"""Whose array is this: its namespace, its device, and the way to the host."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import numpy as np

from fastnn.errors import InputTypeError, PackageError

HOST = 1
"""The number of the host among DLPack's kinds of devices (dlpack.h, kDLCPU)."""


class Elsewhere(NamedTuple):
    """Devices that are not the host: what the names of such begin with, and the library whose arrays users have there."""

    prefix: str
    library: str


ELSEWHERE: dict[int, Elsewhere] = {2: Elsewhere("cuda", "cupy")}
"""The devices that there is an engine for, by DLPack's number of their kind (dlpack.h, DLDeviceType). What lies on others is
taken for an array of the host, where NumPy has the last word."""


def kind(x: object) -> str:
    """`"numpy"`; the name of the library, such as `"cupy"`, of an array that an engine takes where it lies; `""` for others."""
    if isinstance(x, np.ndarray | np.generic):
        return "numpy"
    location = _place(x)
    if location is None:
        return ""
    library = location[0].library
    return library if any(base.__module__.partition(".")[0] == library for base in type(x).__mro__) else ""


def _place(x: Any) -> tuple[Elsewhere, int] | None:
    """The kind of device that an array of any library that speaks DLPack lies on, and its number; None: the host."""
    if isinstance(x, np.ndarray) or not hasattr(x, "__dlpack_device__"):
        return None
    try:
        number, ordinal = x.__dlpack_device__()
    except (ValueError, RuntimeError):  # a device that DLPack has no number for, such as PyTorch's "meta"
        return None
    elsewhere = ELSEWHERE.get(int(number))
    return None if elsewhere is None else (elsewhere, int(ordinal))


def device(x: Any) -> str:
    """The name of the device that `x` lies on, as `fit` takes it: "cpu" or, say, "cuda:1"."""
    location = _place(x)
    return "cpu" if location is None else f"{location[0].prefix}:{location[1]}"


def on_host(x: Any) -> bool:
    """Whether `x` lies on the host."""
    return _place(x) is None


def namespace(*arrays: object) -> Any:
    """The array namespace (array API standard) that all of `arrays` share; mixtures raise."""
    array_api_compat = _array_api_compat()
    kinds = {kind(x) for x in arrays}
    if "" in kinds:
        odd = next(x for x in arrays if not kind(x))
        known = " or ".join(["numpy", *(elsewhere.library for elsewhere in ELSEWHERE.values())])
        raise InputTypeError(f"expected arrays of {known}, got {type(odd).__name__}; convert it with numpy.asarray")
    if len(kinds) > 1:
        raise InputTypeError(
            f"expected arrays of one library, got {describe_kinds(kinds)} together; move one with fastnn.arrays.to_host"
        )
    return array_api_compat.array_namespace(*arrays)


def describe_kinds(kinds: set[str]) -> str:
    """Several kinds, for messages: `arrays of cupy and numpy`."""
    return f"arrays of {' and '.join(sorted(kinds))}"


def _array_api_compat() -> Any:
    try:
        import array_api_compat
    except ImportError as error:
        raise PackageError.of("array-api-compat", "an array of another library than NumPy", error) from error
    return array_api_compat


def to_host(x: Any) -> np.ndarray:
    """`x` as a NumPy array: itself where it is one, a copy of what lies elsewhere, else what `numpy.asarray` makes of it."""
    if type(x) is np.ndarray:
        return x
    location = _place(x)
    if location is not None:
        x = x.read() if hasattr(x, "read") else _fetch(x, location[0].library)  # those of engines are read
    if hasattr(x, "detach"):
        x = _plain_tensor(x)
    if isinstance(x, list | tuple):
        return np.asarray(x)
    try:
        array = np.asarray(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputTypeError(f"expected an array that NumPy can read, got a {type(x).__name__}: {error}") from error
    small = array.dtype.kind == "V" and array.dtype.names is None and not isinstance(x, np.ndarray)
    return array.astype(np.float32) if small else array  # JAX has bfloat16 and the like, all of which float32 holds


def _plain_tensor(x: Any) -> Any:
    """A PyTorch tensor as one that NumPy reads: without its part in a differentiation, and small numbers as float32."""
    x = x.detach()
    if getattr(x, "is_quantized", False):
        raise InputTypeError("expected a plain tensor, got a quantized one; convert it with .dequantize()")
    if str(x.layout) != "torch.strided":
        raise InputTypeError(f"expected a dense tensor, got one of the layout {x.layout}; convert it with .to_dense()")
    if x.is_floating_point() and x.element_size() < 4 and str(x.dtype) != "torch.float16":
        x = x.float()  # bfloat16 and the kinds of float8 are unknown to NumPy
    return x.resolve_conj().resolve_neg()


def _fetch(x: Any, library: str) -> Any:
    """An array of another library that does not lie on the host, copied there by that library."""
    if hasattr(x, "get"):  # the method of CuPy, which needs no other package
        return x.get()
    array_api_compat = _array_api_compat()
    if array_api_compat.is_jax_array(x):  # which knows no device "cpu", and copies when it is made a NumPy array
        return x
    if not array_api_compat.is_array_api_obj(x):
        x = importlib.import_module(library).from_dlpack(x)
    return array_api_compat.to_device(x, "cpu")


def to_device(x: Any, like: Any) -> Any:
    """The array `x`, of the host or of the device of `like`, in the namespace of `like`; as it is if that is NumPy or none."""
    if isinstance(like, np.ndarray):
        return x
    elsewhere = not on_host(like)
    if elsewhere and kind(x) and kind(x) == kind(like):
        return x
    array_api_compat = _array_api_compat()
    if not array_api_compat.is_array_api_obj(like):
        return x
    space = array_api_compat.array_namespace(like)
    if elsewhere and not isinstance(x, np.ndarray):
        return space.from_dlpack(x)
    return space.asarray(x, device=array_api_compat.device(like))
