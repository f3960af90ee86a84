"""The CPU kernel set: Numba kernels, compiled one by one on first use, and the player that runs lists of them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastnn_kernels.contract import Operand
from fastnn_kernels.cpu.beside import lower_all
from fastnn_kernels.cpu.compiling import Lowered, lower
from fastnn_kernels.cpu.player import play, state_words
from fastnn_kernels.memory import aligned_zeros

FAMILIES = (
    "augment", "batch_norm", "convolution", "data", "dense", "elementwise", "grouped", "layer_norm", "losses", "moving",
    "pooling", "reductions", "rows", "updates",
)  # fmt: skip
for _family in FAMILIES:
    importlib.import_module(f"fastnn_kernels.cpu.families.{_family}")


def run(name: str, arrays: Sequence[np.ndarray], attributes: Mapping[str, Any], parts: int = 1) -> None:
    """Run one kernel now on C-contiguous arrays, as `parts` parts one after another on this thread."""
    lowered = lower(name, [Operand(array.shape, array.dtype) for array in arrays], attributes)
    scratch = aligned_zeros(lowered.scratch or 0, np.uint8)
    words = np.array(lowered.words([array.ctypes.data for array in arrays], scratch.ctypes.data), np.int64)
    call = np.array([lowered.address, words.ctypes.data], np.int64)
    stage, state = np.array([0, 1, parts], np.int64), aligned_zeros(state_words(1), np.int64)
    play()(call.ctypes.data, stage.ctypes.data, 1, 1, 0, 1, state.ctypes.data)


__all__ = ["Lowered", "Operand", "lower", "lower_all", "play", "run"]
