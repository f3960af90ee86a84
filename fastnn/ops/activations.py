"""Activations, elementwise and over the last axis."""

from __future__ import annotations

from collections.abc import Callable

from fastnn.errors import InputError, nearest
from fastnn.ops.dispatch import Array, apply, check_rows, unary
from fastnn.program.differentiate import backward
from fastnn.program.trace import Call, Symbol
from fastnn_kernels.contract import ACTIVATIONS_FROM_INPUT, ACTIVATIONS_FROM_OUTPUT, ALPHA_ACTIVATIONS

__all__ = [
    "ACTIVATIONS",
    "activate",
    "elu",
    "gelu",
    "identity",
    "leaky_relu",
    "log_softmax",
    "mish",
    "relu",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "step",
    "tanh",
]

ACTIVATIONS = ("identity", "step", *ACTIVATIONS_FROM_OUTPUT, *ACTIVATIONS_FROM_INPUT, "softmax", "log_softmax")
"""Names that `activate`, `Dense` and `Activation` take."""


DEFAULT_ALPHA = {"leaky_relu": 0.01, "elu": 1.0}


def check_activation(name: str, alpha: float | None) -> float | None:
    """The alpha that the activation uses, None for one that takes none; InputError for an unknown name or a wrong alpha."""
    if name not in ACTIVATIONS:
        raise InputError(f"no activation is called {name!r}{nearest(name, ACTIVATIONS)}")
    if name not in ALPHA_ACTIVATIONS:
        if alpha is not None:
            raise InputError(f"{name} takes no alpha; leaky_relu and elu do")
        return None
    value = DEFAULT_ALPHA[name] if alpha is None else float(alpha)
    if not 0.0 <= value < float("inf"):
        raise InputError(f"{name}: expected alpha >= 0, got {value}")
    return value


def activate(x: Array, activation: str, alpha: float | None = None) -> Array:
    """The activation of that name, elementwise (softmax and log_softmax over the last axis)."""
    alpha = check_activation(activation, alpha)
    if activation == "identity":
        return x
    function: Callable[..., Array] = globals()[activation]
    return function(x) if alpha is None else function(x, alpha)


def identity(x: Array) -> Array:
    """y = x, as a new array."""
    return unary("identity", x)


def step(x: Array) -> Array:
    """y = 1 where x > 0, else 0: the perceptron's. Its derivative is taken as 0."""
    return unary("step", x)


def sigmoid(x: Array) -> Array:
    """y = 1 / (1 + exp(-x)); dy/dx = y (1 - y)."""
    return unary("sigmoid", x)


def tanh(x: Array) -> Array:
    """y = tanh(x); dy/dx = 1 - y^2."""
    return unary("tanh", x)


def relu(x: Array) -> Array:
    """y = max(x, 0); the derivative at 0 is taken as 0. NaN stays NaN."""
    return unary("relu", x)


def leaky_relu(x: Array, alpha: float = 0.01) -> Array:
    """y = x where x > 0, else alpha x, with alpha >= 0."""
    return unary("leaky_relu", x, alpha=float(alpha))


def elu(x: Array, alpha: float = 1.0) -> Array:
    """y = x where x > 0, else alpha (exp(x) - 1). Source: Clevert et al. 2016."""
    return unary("elu", x, alpha=float(alpha))


def gelu(x: Array) -> Array:
    """y = x Phi(x), Phi the normal distribution function (exact, not the tanh form). Source: Hendrycks & Gimpel 2016."""
    return unary("gelu", x)


def silu(x: Array) -> Array:
    """y = x sigmoid(x), also called swish."""
    return unary("silu", x)


def softplus(x: Array) -> Array:
    """y = log(1 + exp(x)); dy/dx = sigmoid(x)."""
    return unary("softplus", x)


def mish(x: Array) -> Array:
    """y = x tanh(softplus(x)). Source: Misra 2019, Mish: a self regularized non-monotonic activation function."""
    return unary("mish", x)


def _activation_rule(name: str) -> None:
    from_output = name in ACTIVATIONS_FROM_OUTPUT

    @backward(name)
    def rule(call: Call, dy: Symbol) -> tuple[Symbol]:
        at = call.outputs[0] if from_output else call.inputs[0]
        return (apply(f"{name}_backward", (dy, at), [(dy.shape, dy.dtype)], call.attributes),)


for _name in ACTIVATIONS_FROM_OUTPUT + ACTIVATIONS_FROM_INPUT:
    _activation_rule(_name)


def softmax(x: Array) -> Array:
    """y_j = exp(x_j) / sum_k exp(x_k) over the last axis, with the largest x taken off first."""
    dtype = check_rows("softmax", x)
    return apply("softmax", (x,), [(tuple(x.shape), dtype)])


def log_softmax(x: Array) -> Array:
    """y_j = x_j - log sum_k exp(x_k) over the last axis, with the largest x taken off first."""
    dtype = check_rows("log_softmax", x)
    return apply("log_softmax", (x,), [(tuple(x.shape), dtype)])


@backward("softmax", "log_softmax")
def _softmax_backward(call: Call, dy: Symbol) -> tuple[Symbol]:
    return (apply(f"{call.kernel}_backward", (dy, call.outputs[0]), [(dy.shape, dy.dtype)]),)


@backward("step")
def _step_backward(call: Call, dy: Symbol) -> tuple[None]:
    return (None,)
