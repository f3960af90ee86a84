"""Gradient checking: the program's gradients against two-sided differences, in float64.

Source: Andrew Ng, Improving Deep Neural Networks, week 1; Nielsen, chapter 2.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastnn.configurations import as_count
from fastnn.data.prepared import prepare
from fastnn.engines.host import convert_rows
from fastnn.errors import InputError, InputTypeError, nearest
from fastnn.losses import LossLike, as_loss
from fastnn.network.cost import CostFunction
from fastnn.notebooks import Printed
from fastnn.sequential import Sequential, as_model
from fastnn.training.options import check_penalties

EPSILON = 1e-5
"""The step of the differences, relative to max(1, |w|)."""


KINKS = "relu or |w| at 0, equal pixels of a max pooling"
"""Where the losses on both sides of a point tell nothing of the slope there."""

SHOWN = 5
"""Parameters that the report names."""


class Element(NamedTuple):
    """One number of a parameter, and its derivative by the program and by differences."""

    name: str
    spot: tuple[int, ...]
    analytic: float
    numeric: float


@dataclass(frozen=True)
class GradientCheck(Printed):
    """What was found. `relative` of each tensor is ||g - g'|| / (||g|| + ||g'||), 0 where both are 0.

    `directional` is the relative error of the derivative along random directions, the worst of several. `layers`: the class
    of each layer. `frozen`: the parameters of frozen layers, which have no gradient.
    """

    names: tuple[str, ...]
    analytic: dict[str, np.ndarray]
    numeric: dict[str, np.ndarray]
    directional: float
    layers: tuple[str, ...]
    frozen: tuple[str, ...] = ()

    @property
    def relative(self) -> dict[str, float]:
        relative_errors = {}
        for name in self.names:
            g, n = self.analytic[name], self.numeric[name]
            total = float(np.linalg.norm(g) + np.linalg.norm(n))
            relative_errors[name] = float(np.linalg.norm(g - n)) / total if total else 0.0
        return relative_errors

    @property
    def failed(self) -> tuple[str, ...]:
        """The tensors with ||g - g'|| > 1e-7 (||g|| + ||g'||) + 1e-10 sqrt(size), or NaN, in the order of the layers."""
        return tuple(sorted((name for name in self.names if not self._excess(name) <= 1.0), key=_layer))

    def _excess(self, name: str) -> float:
        """||g - g'|| as a multiple of what is allowed: a gradient of 0 has relative errors of rounding alone."""
        g, n = self.analytic[name], self.numeric[name]
        allowed = 1e-7 * (np.linalg.norm(g) + np.linalg.norm(n)) + 1e-10 * np.sqrt(g.size)
        return float(np.linalg.norm(g - n) / allowed) if g.size else 0.0

    @property
    def passed(self) -> bool:
        """Whether no tensor failed, and every direction is within 1e-7."""
        return not self.failed and self.directional < 1e-7

    def worst(self, count: int = SHOWN) -> tuple[Element, ...]:
        """The element with the largest |g - g'| of each tensor, for the `count` tensors that disagree most."""
        elements = []
        for name in sorted(self.names, key=lambda name: -np.nan_to_num(self._excess(name), nan=np.inf)):
            g, n = self.analytic[name], self.numeric[name]
            if g.size:
                spot = tuple(int(i) for i in np.unravel_index(int(np.abs(g - n).argmax()), g.shape))
                elements.append(Element(name, spot, float(g[spot]), float(n[spot])))
        return tuple(elements[:count])

    def __str__(self) -> str:
        if self.passed:
            g, n = (
                np.concatenate([np.zeros(0), *(of[name].ravel() for name in self.names)])
                for of in (self.analytic, self.numeric)
            )
            whole = np.linalg.norm(g - n) / max(float(np.linalg.norm(g) + np.linalg.norm(n)), 1e-300)
            agreement = f"gradients agree: relative error {whole:.1e}, along random directions {self.directional:.1e}"
            return "\n".join((agreement, *self._frozen()))
        relative = self.relative
        rows = ["GRADIENTS DO NOT AGREE", "the relative error of the worst parameters, and their worst elements:"]
        for name, spot, analytic, numeric in self.worst():
            if name in self.failed or not self.failed:
                called = f"{self._layer_label(_layer(name))}: {name.split('.', 1)[1]}[{', '.join(map(str, spot))}]"
                rows.append(f"{relative[name]:9.1e}  {called}: {analytic:.4g} analytic, {numeric:.4g} numeric")
        rows.append(f"{self.directional:9.1e}  along random directions")
        return "\n".join((*rows, *self._frozen(), *textwrap.wrap(self._advice(), 80)))

    def _frozen(self) -> list[str]:
        return [f"   frozen  {self._layer_label(_layer(name))}: {name.split('.', 1)[1]}" for name in self.frozen]

    def _layer_label(self, layer: int) -> str:
        return f"layer {layer}, {self.layers[layer]}"

    def _advice(self) -> str:
        """Where to look. A wrong rule spoils the gradients of what lies in front of it, and of nothing behind it."""
        if not self.failed:
            return f"Each parameter agrees on its own: the point lies near a kink ({KINKS}); check other examples or weights."
        last = _layer(self.failed[-1])
        behind = next((layer for layer in sorted(set(map(_layer, self.names))) if layer > last), None)
        end = "the loss" if behind is None else f"{self._layer_label(behind)}, whose parameters agree"
        return (
            f"The mistake lies in {self._layer_label(last)}, or behind it, up to {end}: look at the backward rules of the "
            "operations there, and check them one by one with fused=False, another loss, or a model without what follows. "
            f"Where few elements differ, a kink ({KINKS}) may be near: check other examples or weights."
        )


def _layer(name: str) -> int:
    """The number of the layer in the name of a parameter, `2.weight`."""
    return int(name.split(".", 1)[0])


def check_gradients(
    model: Sequential,
    X: Any,
    y: Any,
    *,
    loss: LossLike = "softmax_cross_entropy",
    sample_weight: Any = None,
    l2: float = 0.0,
    l1: float = 0.0,
    training: bool = True,
    fused: bool = True,
    directions: int = 4,
    dropout: str = "refused",
) -> GradientCheck:
    """Compare the gradients of the cost of (X, y) with two-sided differences, in float64, for every parameter that is trained.

    The cost is that of `fit`, with `l2` and `l1` of layers that have their own. What is frozen is reported as such.
    The model is not changed; a float32 model is checked on a float64 copy of it. `training=True` checks the training
    forward pass (batch statistics in batch norm).

    `dropout`: "refused" raises InputError for a model with layers that draw random numbers, since training draws other ones at
    each step and the cost is then no function of the parameters. "frozen" lets them draw those of the first step of the model
    at every evaluation, forwards and backwards: the cost of the thinned network, whose gradients can be checked exactly.

    `directions`: along how many random directions it is differentiated too. Raises InputTypeError and InputError for what `fit`
    would not take.
    """
    if dropout not in ("refused", "frozen"):
        raise InputError(f"dropout: unknown {dropout!r}{nearest(dropout, ('refused', 'frozen'))}")
    model = as_model(model)
    if dropout == "refused" and training:
        _refuse_random(model)
    check_penalties(l2, l1)
    directions = as_count("directions", directions, 0)
    chosen = as_loss(loss)
    try:
        inputs = np.asarray(X, np.float64)
    except (TypeError, ValueError) as error:
        raise InputTypeError(f"X: expected numbers, got {type(X).__name__}: {error}") from error
    twin = _in_float64(model, inputs.shape[1:])
    examples = prepare(twin.expected, inputs, y, chosen, sample_weight, None)
    rows = np.empty(examples.X.shape)
    convert_rows(rows, examples.X, twin.network.input_map)
    statistics = twin.snapshot().arrays["statistics"]
    cost = CostFunction(
        twin.network, chosen, rows, examples.y, examples.weights, statistics, l2, l1, training=training, fused=fused
    )
    places = cost.network.trained()
    start = twin.snapshot().arrays["parameters"]
    moved = np.concatenate([np.arange(0), *(np.arange(p.start, p.start + p.size) for p in places)])
    _, analytic = cost.value_and_gradient(start)
    numeric = _differences(cost, start, moved)
    worst = _worst_direction(cost, start, moved, analytic, directions)

    def split(values: np.ndarray) -> dict[str, np.ndarray]:
        return {p.name: values[p.start : p.start + p.size].reshape(p.shape) for p in places}

    layers = tuple(type(layer).__name__ for layer in model.layers)
    frozen = tuple(p.name for p in cost.network.parameters if p.layer in cost.network.frozen)
    return GradientCheck(tuple(p.name for p in places), split(analytic), split(numeric), worst, layers, frozen)


def _refuse_random(model: Sequential) -> None:
    """Raise InputError for a layer with which the cost is another one at each step."""
    for index, layer in enumerate(model.layers):
        if layer.draws_random and getattr(layer, "rate", 1.0) > 0:
            raise InputError(
                f"layer {index} ({layer!r}) draws other numbers at each step: the cost is then no function of the parameters; "
                "give dropout='frozen' to let it draw the same ones at every evaluation, training=False to have it do nothing, "
                "or check a model without it"
            )


def _in_float64(model: Sequential, features: tuple[int, ...]) -> Sequential:
    """A copy of the model in float64, built for inputs of that shape if the model has no parameters yet."""
    twin = Sequential(model.layers, seed=model.seed, dtype="float64", input_scale=model.input_scale)
    twin.build(model.network.features if model.built else features)
    if model.built:
        twin.set_weights({name: value.astype(np.float64) for name, value in model.weights.items()})
    return twin


def _differences(cost: CostFunction, start: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """The derivative of the cost by each of the parameters `moved`; 0 elsewhere."""
    numeric, point = np.zeros_like(start), start.copy()
    for index in moved:

        def at(t: float, index: int = index) -> float:
            point[index] = start[index] + t
            return cost.value(point)

        numeric[index] = _extrapolate(at, EPSILON * max(1.0, abs(start[index])))
        point[index] = start[index]
    return numeric


def _worst_direction(cost: CostFunction, start: np.ndarray, moved: np.ndarray, analytic: np.ndarray, directions: int) -> float:
    """The largest relative error of the derivative along so many random directions of the parameters `moved`."""
    worst = 0.0
    generator = np.random.default_rng(0)
    step = EPSILON * max(1.0, float(np.abs(start).max(initial=0.0)))
    for _ in range(directions):
        direction = np.zeros(start.size)
        direction[moved] = generator.standard_normal(moved.size)
        direction /= max(float(np.linalg.norm(direction)), 1e-300)
        measured = _extrapolate(lambda t, d=direction: cost.value(start + t * d), step)  # type: ignore[misc]
        expected = float(analytic @ direction)
        scale = abs(measured) + abs(expected)
        worst = max(worst, abs(measured - expected) / scale if scale > 1e-10 else 0.0)
    return worst


def _extrapolate(f: Callable[[float], float], step: float) -> float:
    """The derivative at 0 from two two-sided differences, their leading error taken out (Richardson)."""
    wide = 8.0 * step
    near = (f(wide) - f(-wide)) / (2 * wide)
    far = (f(2 * wide) - f(-2 * wide)) / (4 * wide)
    return near + (near - far) / 3.0
