"""Sets of points in the plane to learn on: each is (X, y) with X (examples, 2) float32 and y (examples,) int64.

The points of a seed are the same bits on every machine: normals and uniforms come from `fastnn.random`, and sines and cosines
are computed here, by + - * alone, since those of mathematical libraries differ. Below, z is a normal of mean 0 and variance 1,
another one wherever it stands. The first half of the examples is of class 0 (the greater one, where their number is odd).
"""

from __future__ import annotations

import math
from numbers import Integral

import numpy as np

from fastnn import random
from fastnn.configurations import as_number
from fastnn.errors import InputError

Points = tuple[np.ndarray, np.ndarray]


def flower(examples: int = 400, noise: float = 0.2, seed: int = 0) -> Points:
    """A rose of eight petals, by turns of one class and the other; no line parts them.

    Class j has t from 3.12 j to 3.12 (j + 1) in equal steps, plus noise z; r = 4 sin(4 t) + noise z; x = (r sin t, r cos t).
    """
    y = _halves("flower", examples, noise)
    z = noise * random.normal(random.key(seed, random.POINTS, 0), (2, len(y)), np.float64)
    t = _along(y, 3.12) + 3.12 * y + z[0]
    r = 4.0 * _sine(4.0 * t) + z[1]
    return _points(r * _sine(t), r * _cosine(t), y)


def circles(examples: int = 200, noise: float = 0.3, seed: int = 0) -> Points:
    """Two rings around 0, of radius r = 1 (class 0) and r = 1/2 (class 1).

    The k-th of the n points of a class has t = 2 pi k / n; x = (r cos t + noise z, r sin t + noise z).
    """
    y = _halves("circles", examples, noise)
    z = noise * random.normal(random.key(seed, random.POINTS, 1), (2, len(y)), np.float64)
    t = _along(y, 2.0 * math.pi, closed=True)
    r = 1.0 - 0.5 * y
    return _points(r * _cosine(t) + z[0], r * _sine(t) + z[1], y)


def moons(examples: int = 200, noise: float = 0.2, seed: int = 0) -> Points:
    """Two half circles that reach into each other.

    With t from 0 to pi in equal steps, class 0 is (cos t, sin t) and class 1 (1 - cos t, 1/2 - sin t), each plus noise z.
    """
    y = _halves("moons", examples, noise)
    z = noise * random.normal(random.key(seed, random.POINTS, 2), (2, len(y)), np.float64)
    t = _along(y, math.pi)
    side = 1.0 - 2.0 * y
    return _points(y + side * _cosine(t) + z[0], 0.5 * y + side * _sine(t) + z[1], y)


def blobs(examples: int = 200, noise: float = 1.0, seed: int = 0, centers: int = 6) -> Points:
    """Clouds of points, those of even number of class 0 and those of odd number of class 1.

    The centers c are uniform in [-10, 10) x [-10, 10). Example i is of cloud k = i mod centers: x = c_k + noise z, y = k mod 2.
    """
    _check("blobs", examples, noise)
    if not isinstance(centers, Integral) or isinstance(centers, bool) or not 2 <= centers <= examples:
        raise InputError(f"blobs: expected 2 to {examples} centers for {examples} examples, got {centers!r}")
    c = 20.0 * random.uniform(random.key(seed, random.POINTS, 3), 0, (int(centers), 2), np.float64) - 10.0
    k = np.arange(examples) % centers
    x = c[k] + noise * random.normal(random.key(seed, random.POINTS, 4), (examples, 2), np.float64)
    return x.astype(np.float32), (k % 2).astype(np.int64)


def quantiles(examples: int = 200, noise: float = math.sqrt(0.5), seed: int = 0) -> Points:
    """One cloud x = (noise z, noise z) around 0: the half nearer to 0 is of class 0, the farther one of class 1."""
    y = _halves("quantiles", examples, noise)
    z = noise * random.normal(random.key(seed, random.POINTS, 5), (2, len(y)), np.float64)
    inside_out = np.argsort(z[0] * z[0] + z[1] * z[1], kind="stable")
    return _points(z[0][inside_out], z[1][inside_out], y)


PLANAR = {generator.__name__: generator for generator in (flower, circles, moons, blobs, quantiles)}
"""The sets by name."""


def _check(name: str, examples: int, noise: float) -> None:
    if not isinstance(examples, Integral) or isinstance(examples, bool) or examples < 2:
        raise InputError(f"{name}: examples: expected an integer >= 2, got {examples!r}")
    if not 0.0 <= as_number(noise) < math.inf:
        raise InputError(f"{name}: noise: expected a number >= 0, got {noise!r}")


def _halves(name: str, examples: int, noise: float) -> np.ndarray:
    _check(name, examples, noise)
    return np.repeat(np.arange(2), (examples - examples // 2, examples // 2))


def _along(y: np.ndarray, length: float, closed: bool = False) -> np.ndarray:
    """For the points of each class equal steps from 0 to `length`, which is 0 again on a `closed` line."""
    return np.concatenate([np.linspace(0.0, length, count, endpoint=not closed) for count in np.bincount(y)])


def _points(first: np.ndarray, second: np.ndarray, y: np.ndarray) -> Points:
    return np.stack([first, second], axis=1).astype(np.float32), y.astype(np.int64)


# pi / 2 as a sum: multiples of the first part, which has 33 bits, are exact for the angles met here.
_QUARTER = (math.ldexp(6746518852, -32), 6.077100506506192e-11)
# Taylor's series to the 17th and 18th power, highest first, of r**2: for |r| <= pi / 4 the first term left out is below 1e-18.
_SINE = tuple((-1) ** k / math.factorial(2 * k + 1) for k in range(8, -1, -1))
_COSINE = tuple((-1) ** k / math.factorial(2 * k) for k in range(9, -1, -1))


def _sine(x: np.ndarray, quarters: int = 0) -> np.ndarray:
    """sin(x + quarters pi / 2), to about 1e-16 for |x| < 1000."""
    n = np.rint(x * (2.0 / math.pi))
    r = (x - n * _QUARTER[0]) - n * _QUARTER[1]
    turn = (n.astype(np.int64) + quarters) % 4
    value = np.where(turn % 2 == 0, r * np.polyval(_SINE, r * r), np.polyval(_COSINE, r * r))
    return np.where(turn < 2, value, -value)


def _cosine(x: np.ndarray) -> np.ndarray:
    return _sine(x, 1)
