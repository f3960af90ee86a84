"""Elementwise kernels: functions of one array, activations and their backwards, functions of two with broadcasting."""

from __future__ import annotations

import math

import numpy as np

from fastnn_kernels.contract import ALPHA_ACTIVATIONS

Array = np.ndarray

quiet = np.errstate(all="ignore")
"""Kernels print nothing: infinities and NaN are results like others."""


def identity(x: Array, y: Array) -> None:
    y[...] = x


def negative(x: Array, y: Array) -> None:
    np.negative(x, out=y)


@quiet
def exp(x: Array, y: Array) -> None:
    np.exp(x, out=y)


@quiet
def log(x: Array, y: Array) -> None:
    np.log(x, out=y)


@quiet
def sqrt(x: Array, y: Array) -> None:
    np.sqrt(x, out=y)


def abs(x: Array, y: Array) -> None:
    np.abs(x, out=y)


@quiet
def sign(x: Array, y: Array) -> None:
    """-1, 0 or 1; NaN of NaN."""
    np.sign(x, out=y)


@quiet
def step(x: Array, y: Array) -> None:
    """1 where x > 0, else 0: the perceptron's activation (Rosenblatt 1958)."""
    y[...] = x > 0


# Activations. Each backward takes the output y where the derivative is a function of it, else the input x.


def relu(x: Array, y: Array) -> None:
    """max(x, 0); NaN of NaN."""
    np.maximum(x, 0, out=y)


def relu_backward(dy: Array, y: Array, dx: Array) -> None:
    """dy where y > 0, else 0; the derivative at 0 is 0."""
    dx[...] = np.where(y <= 0, 0, dy)


@quiet
def leaky_relu(x: Array, y: Array, *, alpha: float) -> None:
    """x where x > 0, else alpha x (Maas, Hannun and Ng 2013)."""
    y[...] = np.where(x > 0, x, alpha * x)


@quiet
def leaky_relu_backward(dy: Array, y: Array, dx: Array, *, alpha: float) -> None:
    dx[...] = np.where(y > 0, dy, alpha * dy)


@quiet
def elu(x: Array, y: Array, *, alpha: float) -> None:
    """x where x > 0, else alpha (exp(x) - 1) (Clevert, Unterthiner and Hochreiter 2015)."""
    y[...] = np.where(x > 0, x, alpha * np.expm1(x))


@quiet
def elu_backward(dy: Array, y: Array, dx: Array, *, alpha: float) -> None:
    """dy where y > 0, else dy alpha exp(x) = dy (y + alpha)."""
    dx[...] = np.where(y > 0, dy, dy * (y + alpha))


@quiet
def logistic(x: Array) -> Array:
    """1 / (1 + exp(-x))."""
    y: Array = 1 / (1 + np.exp(-x))
    return y


def sigmoid(x: Array, y: Array) -> None:
    y[...] = logistic(x)


@quiet
def sigmoid_backward(dy: Array, y: Array, dx: Array) -> None:
    dx[...] = dy * (y * (1 - y))


def tanh(x: Array, y: Array) -> None:
    np.tanh(x, out=y)


@quiet
def tanh_backward(dy: Array, y: Array, dx: Array) -> None:
    dx[...] = dy * (1 - y * y)


def normal_distribution(x: Array) -> Array:
    """Phi(x), the distribution function of the standard normal distribution."""
    phi = [0.5 * math.erfc(-value / math.sqrt(2)) for value in x.ravel().tolist()]
    return np.array(phi, x.dtype).reshape(x.shape)


@quiet
def gelu(x: Array, y: Array) -> None:
    """x Phi(x), exactly (Hendrycks and Gimpel 2016)."""
    y[...] = x * normal_distribution(x)


@quiet
def gelu_backward(dy: Array, x: Array, dx: Array) -> None:
    """dy (Phi(x) + x phi(x)), phi the density."""
    density = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    dx[...] = dy * (normal_distribution(x) + x * density)


@quiet
def silu(x: Array, y: Array) -> None:
    """x sigmoid(x) (Elfwing, Uchibe and Doya 2017)."""
    y[...] = x * logistic(x)


@quiet
def silu_backward(dy: Array, x: Array, dx: Array) -> None:
    s = logistic(x)
    dx[...] = dy * (s * (1 + x * (1 - s)))


@quiet
def softplus(x: Array, y: Array) -> None:
    """log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|)), which does not overflow."""
    y[...] = np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


@quiet
def softplus_backward(dy: Array, x: Array, dx: Array) -> None:
    dx[...] = dy * logistic(x)


@quiet
def mish(x: Array, y: Array) -> None:
    """x tanh(log(1 + exp(x))) (Misra 2019), by tanh(log u) = (u^2 - 1) / (u^2 + 1); see `mish_terms`."""
    over, under, _ = mish_terms(x)
    y[...] = x * (over / under)


@quiet
def mish_backward(dy: Array, x: Array, dx: Array) -> None:
    """dy (t + x (1 - t^2) / (1 + exp(-x))), t = tanh(log(1 + exp(x)))."""
    over, under, rest = mish_terms(x)
    dx[...] = dy * (over / under + x * (rest / (under * under)))


def mish_terms(x: Array) -> tuple[Array, Array, Array]:
    """a, b, c of which tanh(log(1 + exp(x))) = a / b and its derivative = c / b^2, without overflow or cancellation."""
    w = np.exp(-np.abs(x))
    over = np.where(x > 0, 1 + 2 * w, w * (w + 2))
    under = over + np.where(x > 0, 2 * w * w, 2)
    rest = 4 * w * (1 + w) * np.where(x > 0, w, 1)
    return over, under, rest


def slope(activation: str, alpha: float) -> dict[str, float]:
    """What an activation takes beside its operands: `alpha` where it has one."""
    return {"alpha": alpha} if activation in ALPHA_ACTIVATIONS else {}


def activate(z: Array, y: Array, activation: str | None, alpha: float) -> None:
    """y = activation(z), the activation that a layer applies, if any."""
    if activation is None:
        y[...] = z
    else:
        globals()[activation](z, y, **slope(activation, alpha))


def activate_backward(dy: Array, y: Array, dz: Array, activation: str | None, alpha: float) -> None:
    """dz = dy * activation'(at its output y)."""
    if activation is None:
        dz[...] = dy
    else:
        globals()[f"{activation}_backward"](dy, y, dz, **slope(activation, alpha))


# Two operands, with broadcasting.


@quiet
def add(a: Array, b: Array, c: Array) -> None:
    np.add(a, b, out=c)


@quiet
def subtract(a: Array, b: Array, c: Array) -> None:
    np.subtract(a, b, out=c)


@quiet
def multiply(a: Array, b: Array, c: Array) -> None:
    np.multiply(a, b, out=c)


@quiet
def divide(a: Array, b: Array, c: Array) -> None:
    np.divide(a, b, out=c)


@quiet
def power(a: Array, b: Array, c: Array) -> None:
    """a to the power b; 1 where b is 0, NaN where a is negative and b no integer."""
    np.power(a, b, out=c)


@quiet
def maximum(a: Array, b: Array, c: Array) -> None:
    """The larger; NaN where either is."""
    np.maximum(a, b, out=c)


@quiet
def minimum(a: Array, b: Array, c: Array) -> None:
    """The smaller; NaN where either is."""
    np.minimum(a, b, out=c)


def equal(a: Array, b: Array, c: Array) -> None:
    np.equal(a, b, out=c)


def not_equal(a: Array, b: Array, c: Array) -> None:
    np.not_equal(a, b, out=c)


@quiet
def less(a: Array, b: Array, c: Array) -> None:
    np.less(a, b, out=c)


@quiet
def less_equal(a: Array, b: Array, c: Array) -> None:
    np.less_equal(a, b, out=c)


@quiet
def greater(a: Array, b: Array, c: Array) -> None:
    np.greater(a, b, out=c)


@quiet
def greater_equal(a: Array, b: Array, c: Array) -> None:
    np.greater_equal(a, b, out=c)


def where(condition: Array, a: Array, b: Array, c: Array) -> None:
    c[...] = np.where(condition, a, b)


__all__ = [
    "abs", "add", "divide", "elu", "elu_backward", "equal", "exp", "gelu", "gelu_backward", "greater", "greater_equal",
    "identity", "leaky_relu", "leaky_relu_backward", "less", "less_equal", "log", "maximum", "minimum", "mish",
    "mish_backward", "multiply",
    "negative", "not_equal", "power", "relu", "relu_backward", "sigmoid", "sigmoid_backward", "sign", "silu",
    "silu_backward", "softplus", "softplus_backward", "sqrt", "step", "subtract", "tanh", "tanh_backward", "where",
]  # fmt: skip
