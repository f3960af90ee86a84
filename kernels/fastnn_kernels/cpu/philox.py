"""Philox 4x32-10 inside kernels; `fastnn_kernels.numpy.philox` is its definition.

Words are int64 with values below 2**32: products of two of them wrap as unsigned ones do, and loops over counters
vectorize into 32 x 32 -> 64 bit multiplications.
"""

from __future__ import annotations

from typing import Any

from numba import types

from fastnn_kernels.cpu.compiling import helper
from fastnn_kernels.cpu.intrinsics import _pointer

I64 = types.int64
MULTIPLIER_0, MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57
KEY_STEP_0, KEY_STEP_1 = 0x9E3779B9, 0xBB67AE85
WORD = 0xFFFFFFFF

word_pointer = _pointer(types.uint32)


@helper
def philox_round(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    p0 = c0 * I64(MULTIPLIER_0)
    p1 = c2 * I64(MULTIPLIER_1)
    mask = I64(WORD)
    return ((p1 >> 32) & mask) ^ c1 ^ k0, p1 & mask, ((p0 >> 32) & mask) ^ c3 ^ k1, p0 & mask


@helper
def philox(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    """Four words from a counter of four and a key of two; the rounds are written out, so that loops around them vectorize."""
    mask = I64(WORD)
    s0, s1 = I64(KEY_STEP_0), I64(KEY_STEP_1)
    c0, c1, c2, c3 = philox_round(c0, c1, c2, c3, k0, k1)
    c0, c1, c2, c3 = philox_round(c0, c1, c2, c3, (k0 + s0) & mask, (k1 + s1) & mask)
    c0, c1, c2, c3 = philox_round(c0, c1, c2, c3, (k0 + 2 * s0) & mask, (k1 + 2 * s1) & mask)
    c0, c1, c2, c3 = philox_round(c0, c1, c2, c3, (k0 + 3 * s0) & mask, (k1 + 3 * s1) & mask)
    c0, c1, c2, c3 = philox_round(c0, c1, c2, c3, (k0 + 4 * s0) & mask, (k1 + 4 * s1) & mask)
    c0, c1, c2, c3 = philox_round(c0, c1, c2, c3, (k0 + 5 * s0) & mask, (k1 + 5 * s1) & mask)
    c0, c1, c2, c3 = philox_round(c0, c1, c2, c3, (k0 + 6 * s0) & mask, (k1 + 6 * s1) & mask)
    c0, c1, c2, c3 = philox_round(c0, c1, c2, c3, (k0 + 7 * s0) & mask, (k1 + 7 * s1) & mask)
    c0, c1, c2, c3 = philox_round(c0, c1, c2, c3, (k0 + 8 * s0) & mask, (k1 + 8 * s1) & mask)
    return philox_round(c0, c1, c2, c3, (k0 + 9 * s0) & mask, (k1 + 9 * s1) & mask)
