"""The CPU kernel set: Numba kernels, compiled one by one on first use, and the player that runs lists of them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastnn_kernels.contract import Operand
from fastnn_kernels.cpu.compiling import Lowered, lower
from fastnn_kernels.cpu.player import play

FAMILIES = ("batch_norm", "data", "dense", "elementwise", "losses", "moving", "reductions", "rows", "updates")
for _family in FAMILIES:
    importlib.import_module(f"fastnn_kernels.cpu.{_family}")

ALIGNMENT = 64
"""Bytes: buffers start on a cache line, which is also one AVX-512 register."""


def run(name: str, arrays: Sequence[np.ndarray], attributes: Mapping[str, Any], parts: int = 1) -> None:
    """Run one kernel now on C-contiguous arrays, as `parts` parts one after another on this thread."""
    lowered = lower(name, [Operand(array.shape, array.dtype) for array in arrays], attributes)
    scratch = aligned((lowered.scratch or 0) * parts, np.uint8)
    words = np.array(lowered.words([array.ctypes.data for array in arrays], scratch.ctypes.data), np.int64)
    call = np.array([lowered.address, words.ctypes.data], np.int64)
    arrived = np.array([2**62])  # the barrier after the call finds everybody there already
    for part in range(parts):
        play()(call.ctypes.data, 1, 1, part, parts, arrived.ctypes.data)


def aligned(size: int, dtype: Any) -> np.ndarray:
    """A zeroed array of `size` elements that starts on a cache line."""
    dtype = np.dtype(dtype)
    raw = np.zeros(size * dtype.itemsize + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size * dtype.itemsize].view(dtype)


__all__ = ["Lowered", "Operand", "aligned", "lower", "play", "run"]
