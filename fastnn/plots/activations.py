"""Activation functions and their derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fastnn import engines, ops
from fastnn.configurations import as_number
from fastnn.errors import InputError, InputTypeError
from fastnn.ops.activations import DEFAULT_ALPHA, check_activation
from fastnn.plots import look
from fastnn.program.differentiate import gradients
from fastnn.program.shapes import B
from fastnn.program.trace import Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 601
"""Odd, so that 0, where rectifiers bend, is one of them."""


def activation(names: str | Sequence[str], alpha: float | None = None, *, reach: float = 4.0, ax: Axes | None = None) -> Axes:
    """Activations g(z) solid and their derivatives g'(z) dashed, for z from -`reach` to `reach`.

    `names`: one or several of `ops.ACTIVATIONS`, less softmax and log_softmax, which have no curve; `alpha` is that of
    leaky_relu and elu. Derivatives are what training multiplies by: the differentiated program computes them. Raises InputError
    for other names, for none, and for a `reach` that is not above 0, InputTypeError for what are no names.
    """
    if not isinstance(names, str | Sequence):
        raise InputTypeError(f"activation: expected names of activations, got {type(names).__name__}")
    names = (names,) if isinstance(names, str) else tuple(names)
    if not names:
        raise InputError("activation: expected the name of an activation, got none")
    if not 0.0 < as_number(reach) < np.inf:
        raise InputError(f"reach: expected a number above 0, got {reach!r}")
    z = np.linspace(-reach, reach, POINTS)
    z[POINTS // 2] = 0.0
    drawn = []
    for name in names:
        parameter = alpha if name in DEFAULT_ALPHA else None
        check_activation(name, parameter)
        if name in ("softmax", "log_softmax"):
            raise InputError(f"{name} depends on all outputs of a layer together, and has no curve")
        drawn.append((name, ops.activate(z, name, parameter), _derivative(z, name, parameter)))
    axes = look.axes_for(ax)
    for index, (name, values, slopes) in enumerate(drawn):
        axes.plot(z, values, color=look.color(index), label=name)
        axes.plot(z, slopes, "--", color=look.color(index), label="derivative" if len(names) == 1 else None, linewidth=1.2)
    return look.frame(axes, "z", "g(z), and g'(z) dashed")


def _derivative(z: np.ndarray, name: str, alpha: float | None) -> np.ndarray:
    trace = Trace(z.dtype)
    x = trace.input("z", (B,))
    (slope,) = gradients(ops.sum(ops.activate(x, name, alpha)), [x])
    instance = engines.instantiate(trace.program({"slope": ops.identity(slope)}), len(z), "cpu", 1)
    instance.bind(z=z)
    instance.play()
    return np.array(instance.output("slope"))
