"""What a call leaves behind wherever its arrays lie and however many blocks run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cuda_on_host import host
from fastnn_kernels.contract import Operand
from fastnn_kernels.cuda.lowering import Body, Device, lower

BOUNDARY = 64


def bodies(name: str, arrays: Sequence[np.ndarray], attributes: Mapping[str, Any]) -> list[Body]:
    """The bodies of a call."""
    works = lower(name, [Operand(array.shape, array.dtype) for array in arrays], attributes, Device(products=False)).works
    return [work for work in works if isinstance(work, Body)]


def placed(array: np.ndarray, beyond: int) -> np.ndarray:
    """A copy that starts `beyond` elements after a boundary of 64 bytes."""
    array = np.asarray(array)
    memory = np.empty(array.nbytes + beyond * array.itemsize + BOUNDARY, np.uint8)
    start = -memory.ctypes.data % BOUNDARY + beyond * array.itemsize
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def outcomes(name: str, arrays: Sequence[np.ndarray], attributes: Mapping[str, Any]) -> list[list[np.ndarray]]:
    """All operands after the call, on aligned arrays and on arrays one element further, by all its blocks and by one."""
    found = []
    for beyond in (0, 1):
        for blocks in (None, 1):
            copies = [placed(array, beyond) for array in arrays]
            host.run(name, copies, attributes, blocks=blocks)
            found.append(copies)
    return found
