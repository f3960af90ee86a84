"""Memory for buffers."""

from __future__ import annotations

from typing import Any

import numpy as np

ALIGNMENT = 64
"""Bytes: buffers start on a cache line, which is also one AVX-512 register."""


def aligned_zeros(size: int, dtype: Any = np.uint8) -> np.ndarray:
    """A zeroed array of `size` elements that starts on a cache line."""
    dtype = np.dtype(dtype)
    raw = np.zeros(size * dtype.itemsize + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size * dtype.itemsize].view(dtype)


def aligned_copy(array: np.ndarray) -> np.ndarray:
    """A copy in memory of ours that compiled code may write to: C-contiguous, in native byte order, on a cache line.

    Arrays that others allocated may be read-only, lie between the boundaries of their elements, or belong to a file.
    """
    copy = aligned_zeros(array.size, array.dtype.newbyteorder("=")).reshape(array.shape)
    copy[...] = array
    return copy
