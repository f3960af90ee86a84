"""Initial values of weights and biases, as functions of a random key and of nothing else.

An initializer is called as `init(key, shape, dtype)` and returns a new array. Values are computed in float64 from the
random bits of `fastnn.random` with + - * / and square roots only, then rounded once to the dtype: the same on every machine.

The shape of weights is (I, O): fan_in is I and fan_out is O; with further axes in front, (..., I, O), both are multiplied
by the product of those (the size of a convolution's receptive field). Normals are not truncated (as in PyTorch; Keras cuts
its own off at two deviations).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from fastnn import random
from fastnn.configurations import Configuration, set_choice, set_number
from fastnn.errors import InputError, InputTypeError, nearest
from fastnn_kernels.contract import RECTIFIERS

Key = tuple[int, int]
Shape = tuple[int, ...]
Array = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Initializer(Configuration):
    """The base of all initializers. One of your own defines `values(key, shape)` and is a frozen dataclass too."""

    types: ClassVar[dict[str, type[Configuration]]] = {}

    def __call__(self, key: Key, shape: Shape, dtype: npt.DTypeLike) -> Array:
        """A new C-contiguous array of `shape` and `dtype` (float32 or float64). Raises InputTypeError for other dtypes."""
        kind = np.dtype(dtype)
        if kind not in (np.float32, np.float64):
            raise InputTypeError(f"{type(self).__name__}: dtype: expected float32 or float64, got {kind}")
        return np.array(self.values(key, tuple(shape)), dtype=kind, order="C")

    def values(self, key: Key, shape: Shape) -> Array:
        """The values in float64."""
        raise NotImplementedError(f"{type(self).__name__} does not define values")


@dataclass(frozen=True)
class Zeros(Initializer):
    """0 everywhere. Right for biases; for the weights of a hidden layer it keeps all units alike for ever."""

    def values(self, key: Key, shape: Shape) -> Array:
        return np.zeros(shape)


@dataclass(frozen=True)
class Constant(Initializer):
    """`value` everywhere."""

    value: float

    def __post_init__(self) -> None:
        set_number(self, "value")

    def values(self, key: Key, shape: Shape) -> Array:
        return np.full(shape, self.value)


@dataclass(frozen=True)
class Normal(Initializer):
    """N(0, deviation^2). With deviation 1 the weights and biases of Nielsen's book, chapter 1; 0.01 is Andrew Ng's."""

    deviation: float = 1.0

    def __post_init__(self) -> None:
        set_number(self, "deviation", least=0)

    def values(self, key: Key, shape: Shape) -> Array:
        return self.deviation * random.normal(key, shape, np.float64)


@dataclass(frozen=True)
class _Scaled(Initializer):
    """Weights of mean 0 and a variance that depends on the fans.

    `distribution` is "normal": N(0, variance), or "uniform": [-limit, limit) with limit = sqrt(3 * variance), which has the
    same variance. Raises InputError for a shape of fewer than two axes, which has no fans.
    """

    distribution: Literal["normal", "uniform"] = "normal"

    def __post_init__(self) -> None:
        set_choice(self, "distribution", ("normal", "uniform"))

    def variance(self, fan_in: int, fan_out: int) -> float:
        raise NotImplementedError

    def values(self, key: Key, shape: Shape) -> Array:
        if len(shape) < 2:
            raise InputError(f"{type(self).__name__}: expected the shape (inputs, outputs) of weights, got {shape}")
        field = math.prod(shape[:-2])
        # A layer without inputs has no weights to fill; a fan of 1 keeps the variance finite.
        variance = self.variance(max(1, field * shape[-2]), max(1, field * shape[-1]))
        if self.distribution == "normal":
            return math.sqrt(variance) * random.normal(key, shape, np.float64)
        return math.sqrt(3.0 * variance) * (2.0 * random.uniform(key, 0, shape, np.float64) - 1.0)


@dataclass(frozen=True)
class LeCun(_Scaled):
    """Variance 1 / fan_in: unit inputs give unit sums. LeCun, Bottou, Orr & Müller 1998, section 4.6; Nielsen, chapter 3."""

    def variance(self, fan_in: int, fan_out: int) -> float:
        return 1.0 / fan_in


@dataclass(frozen=True)
class Glorot(_Scaled):
    """Variance 2 / (fan_in + fan_out), also called Xavier. Glorot & Bengio 2010, equations 12 and 16 (uniform)."""

    def variance(self, fan_in: int, fan_out: int) -> float:
        return 2.0 / (fan_in + fan_out)


@dataclass(frozen=True)
class He(_Scaled):
    """Variance 2 / fan_in, for rectifiers. He, Zhang, Ren & Sun 2015, equation 10 (their rectifier with slope 0)."""

    def variance(self, fan_in: int, fan_out: int) -> float:
        return 2.0 / fan_in


Initializer.types.update({cls.__name__: cls for cls in (Zeros, Constant, Normal, LeCun, Glorot, He)})

NAMES: dict[str, Initializer] = {
    "zeros": Zeros(),
    "normal": Normal(),
    "lecun": LeCun(),
    "lecun_normal": LeCun(),
    "lecun_uniform": LeCun("uniform"),
    "glorot": Glorot(),
    "glorot_normal": Glorot(),
    "glorot_uniform": Glorot("uniform"),
    "xavier": Glorot(),
    "xavier_normal": Glorot(),
    "xavier_uniform": Glorot("uniform"),
    "he": He(),
    "he_normal": He(),
    "he_uniform": He("uniform"),
}
"""The names of `by_name`; one without a distribution means the normal one."""


def by_name(initializer: str | Initializer) -> Initializer:
    """The initializer of that name; an initializer as it is. Anything else raises InputError."""
    if isinstance(initializer, Initializer):
        return initializer
    if not isinstance(initializer, str) or initializer not in NAMES:
        hint = nearest(initializer, NAMES)
        raise InputError(f"expected an initializer such as He() or one of its names, got {initializer!r}{hint}")
    return NAMES[initializer]


def default_for(activation: str | None) -> Initializer:
    """The weights of a layer before `activation`: He normal before the ReLU family, else Glorot uniform.

    He's are those of the paper; Glorot's uniform is what its paper proposes and what Keras and TensorFlow start with.
    """
    return He("normal") if activation in RECTIFIERS else Glorot("uniform")


__all__ = ["NAMES", "Constant", "Glorot", "He", "Initializer", "LeCun", "Normal", "Zeros", "by_name"]
