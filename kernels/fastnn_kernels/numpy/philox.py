"""Philox 4x32-10: the random bits of every kernel set (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy
as 1, 2, 3", SC 2011). What the counter and the key mean is written in `fastnn/random.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
WORD = 0xFFFFFFFF


def philox(counter: tuple[Any, Any, Any, Any], key: tuple[int, int]) -> tuple[Any, Any, Any, Any]:
    """Four 32-bit words for each counter of four 32-bit words, under a key of two.

    Words are integers or arrays of them, which are broadcast; the result is uint64 arrays with values below 2**32.
    """
    mask, half = np.uint64(WORD), np.uint64(32)
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(word, np.uint64) for word in counter))
    k0, k1 = key
    for _ in range(ROUNDS):
        p0, p1 = c0 * np.uint64(MULTIPLIERS[0]), c2 * np.uint64(MULTIPLIERS[1])
        c0, c1, c2, c3 = (p1 >> half) ^ c1 ^ np.uint64(k0), p1 & mask, (p0 >> half) ^ c3 ^ np.uint64(k1), p0 & mask
        k0, k1 = (k0 + KEY_STEPS[0]) & WORD, (k1 + KEY_STEPS[1]) & WORD
    return c0, c1, c2, c3


def words(key: tuple[int, int], step: int, count: int) -> np.ndarray:
    """The first `count` words of the stream of (key, step), uint32: word e is word e % 4 of block e // 4.

    Block n is Philox of the counter (n low, n high, step low, step high).
    """
    blocks = np.arange(-(-count // 4), dtype=np.uint64)
    half = np.uint64(32)
    counter = (blocks & np.uint64(WORD), blocks >> half, step & WORD, step >> 32 & WORD)
    return np.stack(philox(counter, key), axis=-1).reshape(-1)[:count].astype(np.uint32)


UNIFORM_BITS = 24


def uniform_integers(key: tuple[int, int], step: int, count: int) -> np.ndarray:
    """The upper 24 bits of each word of (key, step): int64 in [0, 2**24)."""
    return (words(key, step, count) >> np.uint32(32 - UNIFORM_BITS)).astype(np.int64)


LEAST_SHUFFLE_BITS = 8


def shuffle_bits(n: int) -> tuple[int, int]:
    """Widths (left, right) in bits of the halves of a position when n positions are shuffled.

    Their sum is the least number of bits that holds n - 1, but at least 8: eight rounds leave the orders of two to six
    elements measurably unequal on domains of fewer than 128.
    """
    total = max(LEAST_SHUFFLE_BITS, (n - 1).bit_length() if n else 0)
    return total // 2, total - total // 2


def shuffle_tables(key: tuple[int, int], epoch: int, widths: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The round functions of the shuffle as tables: (2**left, 4) of right-hand masks and (2**right, 4) of left-hand ones."""
    left, right = widths
    low, high = epoch & WORD, epoch >> 32 & WORD
    to_right = np.stack(philox((np.arange(2**left), 0, low, high), key), axis=-1).astype(np.int64) & (2**right - 1)
    to_left = np.stack(philox((np.arange(2**right), 1, low, high), key), axis=-1).astype(np.int64) & (2**left - 1)
    return to_right, to_left
