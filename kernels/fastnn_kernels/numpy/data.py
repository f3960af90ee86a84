"""Definition of the data kernels: dropout, mini-batches, the shuffle, and the bookkeeping of a program."""

from __future__ import annotations

import math

import numpy as np

from fastnn_kernels.contract import SUM_BLOCK
from fastnn_kernels.numpy.philox import UNIFORM_BITS, shuffle_bits, shuffle_tables, uniform_integers

__all__ = ["advance", "count_nonfinite", "dropout", "fill", "gather_rows", "gather_standardized", "log_value", "shuffle"]


def dropout(x: np.ndarray, step: np.ndarray, y: np.ndarray, *, rate: float, key: tuple[int, int]) -> None:
    """y = x / (1 - rate) where the uniform of (key, step, element) is at least `rate`, else 0.

    Uniforms are multiples of 2**-24, so they are compared as integers: u >= rate where 2**24 u >= ceil(2**24 rate).
    1 / (1 - rate) is rounded once to the dtype of x; 0 <= rate <= 1, and a rate of 1 drops everything.
    """
    integers = uniform_integers(key, int(step[()]), x.size).reshape(x.shape)
    kept = integers >= math.ceil(rate * 2**UNIFORM_BITS)
    scale = x.dtype.type(1 / (1 - rate) if rate < 1 else 0)
    y[...] = np.where(kept, x * scale, 0)


def gather_rows(source: np.ndarray, order: np.ndarray, position: np.ndarray, y: np.ndarray, *, scale: float) -> None:
    """y[b] = source[order[position + b]] * scale, converted to the dtype of y before it is scaled."""
    start = int(position[()])
    y[...] = source[order[start : start + len(y)]].astype(y.dtype) * y.dtype.type(scale)


def gather_standardized(
    source: np.ndarray, order: np.ndarray, position: np.ndarray, offset: np.ndarray, factor: np.ndarray, y: np.ndarray,
    *, scale: float,
) -> None:  # fmt: skip
    """y[b] = (source[order[position + b]] * scale - offset) * factor, in float64, rounded once to the dtype of y."""
    start = int(position[()])
    rows = source[order[start : start + len(y)]].astype(np.float64) * scale
    y[...] = (rows - offset.reshape(y.shape[1:])) * factor.reshape(y.shape[1:])


def shuffle(epoch: np.ndarray, order: np.ndarray, *, key: tuple[int, int]) -> None:
    """order[i] = the place of i in the permutation of (key, epoch): a cycle-walking Feistel network of eight rounds.

    A position is a left half of h = bits // 2 bits above a right half of bits - h bits (`shuffle_bits`). Rounds
    0, 2, 4, 6 replace right by right ^ F(left), rounds 1, 3, 5, 7 left by left ^ F(right), with F of round r, masked to
    the width of the half it changes, being word r // 2 of Philox of the counter (half, r % 2, epoch low, epoch high).
    Places of n and above are sent through the network again until they are below n.
    """
    widths = shuffle_bits(len(order))
    to_right, to_left = shuffle_tables(key, int(epoch[()]), widths)
    width = widths[1]
    place = np.arange(len(order))
    walking = np.arange(len(order))
    while len(walking):
        left, right = place[walking] >> width, place[walking] & (2**width - 1)
        for k in range(4):
            right ^= to_right[left, k]
            left ^= to_left[right, k]
        place[walking] = left << width | right
        walking = walking[place[walking] >= len(order)]
    order[...] = place


def log_value(value: np.ndarray, index: np.ndarray, log: np.ndarray, *, column: int) -> None:
    """log[index, column : column + K] = value, K numbers."""
    log[int(index[()]), column : column + value.size] = value


def advance(control: np.ndarray, *, rows: int) -> None:
    """control[:3] += (1, rows, 1)."""
    control[:3] += (1, rows, 1)


def fill(y: np.ndarray, *, value: float) -> None:
    """y = value, everywhere."""
    y[...] = value


def count_nonfinite(x: np.ndarray, counts: np.ndarray) -> None:
    """counts[k] = how many elements of block k of `SUM_BLOCK` elements of x are NaN or infinite."""
    flat = x.reshape(-1)
    for k in range(len(counts)):
        counts[k] = np.count_nonzero(~np.isfinite(flat[k * SUM_BLOCK : (k + 1) * SUM_BLOCK]))
