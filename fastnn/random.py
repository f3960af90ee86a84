"""Random numbers that are the same bits on every device: the stream, its keys, and what the host draws from it.

Everything random is a function of (seed, purpose, layer) and a count; there is no generator with a state. All words are
unsigned 32-bit numbers; a 64-bit number is two words, `low` first. The stream, version 1:

**Bits.** Philox 4x32-10 (Salmon et al., SC 2011) maps a counter of four words, under a key of two, to four words:
multipliers 0xD2511F53 and 0xCD9E8D57, key steps 0x9E3779B9 and 0xBB67AE85. Counter (0, 0, 0, 0) under key (0, 0) gives
6627e8d5 e169c58d bc57ac4c 9b00dbd8.

**Keys.** The key of (seed, purpose, layer) is the first two words of Philox of the counter (purpose, layer, 0, 0) under the
key (seed low, seed high). Purposes are the constants below; `layer` tells layers, or arrays, of one purpose apart.

**Words.** Word e of (key, step) is word e % 4 of Philox of the counter (e // 4 low, e // 4 high, step low, step high).

**Uniforms.** Uniform e is the upper 24 bits of word e, times 2**-24: in [0, 1), exact in float32. float64 gets the same
values, so that a mask does not depend on the dtype.

**Dropout.** Element e = row * columns + column of a mini-batch is kept where uniform e of (key, step) is >= rate, step being
the count of steps since the model was made. Kept elements are multiplied by 1 / (1 - rate), rounded once to the dtype.

**Augmentation.** Example b of a mini-batch has m Philox blocks of its own: word w of it is word w % 4 of Philox of the counter
(n low, n high, step low, step high), n = m b + w // 4. Words 0 to 8 are rotation, zoom, shift of rows and of columns, shear,
flip of rows and of columns, contrast and brightness, each low + (high - low) u in float64; words from 12 on are displacements,
row and column by turns, of the control points in C order. m is the number of blocks that these words fill.

**Normals.** Normal e takes words 2e and 2e + 1 of step 0: k = (word 2e) * 2**20 + (word 2e + 1) // 2**12 is an integer of
52 bits, and the normal is the inverse of the standard normal distribution function at (k + 1/2) * 2**-52, computed in
float64 by + - * / and square roots alone, which every IEEE machine rounds alike, and rounded once to the dtype.

**Shuffle.** `permutation(key, epoch, n)[i]` is where position i is sent by a Feistel network on 2**bits positions, bits
being the least number with 2**bits >= n, but at least 8. A position is a left half of bits // 2 bits above a right half of
the other bits (the wider one where bits is odd). There are eight rounds: r = 0, 2, 4, 6 replace right by
right ^ F(r, left), r = 1, 3, 5, 7 replace left by left ^ F(r, right), halves are not exchanged, and F(r, half) is word
r // 2 of Philox of the counter (half, r % 2, epoch low, epoch high), masked to the width of the half it changes. A position
sent to n or above is sent on until it is below n. (On the fewest positions that hold n, eight rounds are not enough for
tiny sets: some orders of five elements would come almost twice as often as others. From 128 positions on, 16 million
orders of 3 and of 5 elements show no difference.)
"""

from __future__ import annotations

import secrets

import numpy as np
from numpy.typing import DTypeLike

import fastnn_kernels.numpy as definition
from fastnn.errors import InputError
from fastnn_kernels.numpy.philox import UNIFORM_BITS, WORD, philox, uniform_integers, words

STREAM_VERSION = 1
"""Changes with any change of bits; stored in checkpoints."""

INITIAL_WEIGHTS = 1
"""The purpose of keys for the first values of parameters."""
SHUFFLE = 2
"""The purpose of keys for the order of an epoch."""
DROPOUT = 3
"""The purpose of keys for the masks of dropout."""
SPLIT = 4
"""The purpose of keys for splits of a data set."""
AUGMENTATION = 5
"""The purpose of keys for images changed at random."""
POINTS = 6
"""The purpose of keys for the planar data sets and the sample tables."""

Key = tuple[int, int]


def key(seed: int, purpose: int, layer: int = 0) -> Key:
    """The key of everything that is drawn from `seed` (0 <= seed < 2**64) for one purpose and layer."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**64:
        raise InputError(f"seed must be an integer from 0 to 2**64 - 1, not {seed!r}")
    seed = int(seed)
    k0, k1, _, _ = philox((purpose, layer, 0, 0), (seed & WORD, seed >> 32))
    return int(k0), int(k1)


def draw_seed() -> int:
    """A seed from the operating system, for whoever gave none; below 2**63, so that it fits a signed word too."""
    return secrets.randbits(63)


def uniform(key: Key, step: int, shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> np.ndarray:
    """Uniforms of (key, step) in [0, 1), multiples of 2**-24, in C order."""
    integers = uniform_integers(key, step, int(np.prod(shape, dtype=np.int64)))
    values: np.ndarray = (integers * 2.0**-UNIFORM_BITS).astype(dtype).reshape(shape)
    return values


def normal(key: Key, shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> np.ndarray:
    """Normals of mean 0 and variance 1, in C order."""
    pairs = words(key, 0, 2 * int(np.prod(shape, dtype=np.int64))).reshape(-1, 2).astype(np.int64)
    odd = 2 * (pairs[:, 0] << 20 | pairs[:, 1] >> 12) + 1
    values: np.ndarray = _inverse_normal(odd).astype(dtype).reshape(shape)
    return values


def permutation(key: Key, epoch: int, n: int) -> np.ndarray:
    """The order of `n` examples in one epoch: an int64 permutation of 0 .. n - 1."""
    order = np.empty(n, np.int64)
    definition.shuffle(np.array(epoch, np.int64), order, key=key)
    return order


def sharded_permutation(key: Key, epoch: int, n: int, shard_rows: int) -> np.ndarray:
    """The order of `n` examples in one epoch when they are shuffled shard by shard: an int64 permutation of 0 .. n - 1.

    Shard s holds examples s * shard_rows up to (s + 1) * shard_rows (the last one fewer). Shards are visited in the order
    `permutation` of (key, epoch, number of shards); the examples of shard s in the order `permutation` of (Philox of the
    counter (s low, s high, 1, 0) under key, first two words; epoch; rows of the shard).
    """
    starts = range(0, n, shard_rows)
    visited = []
    for shard in permutation(key, epoch, len(starts)).tolist():
        k0, k1, _, _ = philox((shard & WORD, shard >> 32, 1, 0), key)
        start = starts[shard]
        visited.append(start + permutation((int(k0), int(k1)), epoch, min(shard_rows, n - start)))
    return np.concatenate(visited)


# Coefficients, lowest order first, of Wichura's algorithm AS 241 (PPND16), Applied Statistics 37 (1988), 477-484: the normal
# deviate as a ratio of polynomials, to about 1 part in 10**16. First for the middle, then for the tails, then far out.
_MIDDLE = (
    (3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
     4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3),
    (1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
     2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3),
)  # fmt: skip
_TAIL = (
    (1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0,
     1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4),
    (1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
     1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9),
)  # fmt: skip
_FAR = (
    (6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0, 2.96560571828504891230e-1,
     2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7),
    (1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2,
     7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15),
)  # fmt: skip
_LN_2 = 0.6931471805599453


def _polynomial(coefficients: tuple[float, ...], x: np.ndarray) -> np.ndarray:
    total = np.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total


def _ratio(coefficients: tuple[tuple[float, ...], tuple[float, ...]], x: np.ndarray) -> np.ndarray:
    ratio: np.ndarray = _polynomial(coefficients[0], x) / _polynomial(coefficients[1], x)
    return ratio


def _logarithm(x: np.ndarray) -> np.ndarray:
    """ln x of x > 0 by + - * /: x = 2**exponent * m with 1/sqrt(2) <= m < sqrt(2), ln m = 2 artanh((m - 1) / (m + 1))."""
    m, exponent = np.frexp(x)
    small = m < 0.7071067811865476
    m, exponent = np.where(small, 2 * m, m), exponent - small
    s = (m - 1) / (m + 1)
    # |s| < 0.172: the first term left out is below 2e-20 of the sum.
    series = _polynomial(tuple(1 / (2 * k + 1) for k in range(12)), s * s)
    logarithm: np.ndarray = exponent * _LN_2 + 2 * s * series
    return logarithm


def _inverse_normal(odd: np.ndarray) -> np.ndarray:
    """The normal deviate whose distribution function is odd * 2**-53; `odd` is odd, so neither 0 nor 1 is met."""
    q = (odd - 2**52) * 2.0**-53  # exact, as is 0.5 - |q| below
    middle = np.abs(q) <= 0.425
    result = np.empty(odd.shape)
    inner = q[middle]
    result[middle] = inner * _ratio(_MIDDLE, 0.180625 - inner * inner)
    outer = q[~middle]
    distance = np.sqrt(-_logarithm(0.5 - np.abs(outer)))
    size = np.where(distance <= 5, _ratio(_TAIL, distance - 1.6), _ratio(_FAR, distance - 5))
    result[~middle] = np.where(outer < 0, -size, size)
    return result


__all__ = [
    "AUGMENTATION",
    "DROPOUT",
    "INITIAL_WEIGHTS",
    "POINTS",
    "SHUFFLE",
    "SPLIT",
    "STREAM_VERSION",
    "draw_seed",
    "key",
    "normal",
    "permutation",
    "sharded_permutation",
    "uniform",
]
