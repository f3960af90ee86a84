"""Perceptrons with weights set by hand, and the logical circuits that are built of them. Source: Nielsen, chapter 1.

A perceptron answers 1 where w.x + b > 0, else 0. One with weights (-2, -2) and bias 3 is a NAND gate, and every logical
function can be built of those.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastnn.configurations import as_number
from fastnn.errors import InputError, InputTypeError, nearest
from fastnn.layers import Dense
from fastnn.sequential import Sequential

NAND = ((-2.0, -2.0), 3.0)
"""Weights and bias of a gate that answers 0 where both inputs are 1, else 1."""
PASS = ((1.0,), -0.5)
"""Weight and bias of a perceptron that answers what it is given, 0 or 1."""


def perceptron(weights: Any, bias: float) -> Sequential:
    """A network of one unit with the step activation: (n, I) -> (n, 1), 1 where x @ weights + bias > 0, else 0.

    `weights` (I,), float32 in the model. Its answers are `model(X)`. It cannot be trained by gradients: the derivative of a
    step is 0. Raises InputError for weights of another shape and for numbers that are not finite, InputTypeError for what are
    none.
    """
    try:
        w = np.asarray(weights, np.float32)
    except (TypeError, ValueError) as error:
        raise InputTypeError(f"perceptron: expected weights (I,), got {weights!r}") from error
    if not math.isfinite(as_number(bias)):
        raise InputError(f"perceptron: bias: expected a finite number, got {bias!r}")
    if w.ndim != 1 or not w.size:
        raise InputError(f"perceptron: expected weights (I,), I >= 1, got shape {w.shape}")
    return _steps([(w[:, np.newaxis], np.array([bias], np.float32))])


def nand() -> Sequential:
    """The NAND gate as a perceptron: (n, 2) of 0 and 1 -> (n, 1)."""
    return perceptron(*NAND)


def circuit(gates: Mapping[str, tuple[str, str]], inputs: Sequence[str], outputs: Sequence[str]) -> Sequential:
    """A circuit of NAND gates as one network: (n, inputs) of 0 and 1 -> (n, outputs).

    `gates`: the two signals that each gate takes, inputs or other gates, which may be the same. A gate lies in the layer after
    the later of its signals; a signal that is used further on is passed on by a perceptron in each layer between.

        inverter = fastnn.circuits.circuit({"not": ("a", "a")}, inputs=["a"], outputs=["not"])
        inverter(np.array([[0], [1]]))      # [[1], [0]]

    Raises InputError for names that are not there or there twice, and for gates that wait for each other, InputTypeError for
    gates that are no mapping.
    """
    if not isinstance(gates, Mapping):
        raise InputTypeError(
            f"circuit: gates: expected a dict of pairs such as {{'not': ('a', 'a')}}, got {type(gates).__name__}"
        )
    if not inputs or not outputs or len({*inputs, *gates}) < len(inputs) + len(gates):
        raise InputError("circuit: expected at least one input and one output, and a name of its own for each signal")
    for name, pair in gates.items():
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InputError(f"circuit: a gate takes two signals, which may be the same, and {name!r} takes {pair!r}")
    depth = dict.fromkeys(inputs, 0)
    for name in [*(signal for pair in gates.values() for signal in pair), *outputs]:
        if name not in gates and name not in depth:
            raise InputError(f"circuit: there is no {name!r}{nearest(name, [*inputs, *gates])}")
    waiting = dict(gates)
    while waiting:
        ready = {name: 1 + max(depth[s] for s in pair) for name, pair in waiting.items() if depth.keys() >= set(pair)}
        if not ready:
            raise InputError(f"circuit: these gates wait for each other: {', '.join(waiting)}")
        depth |= ready
        waiting = {name: pair for name, pair in waiting.items() if name not in ready}
    last = max(1, *(depth[name] for name in outputs))
    layers, signals = [], list(inputs)
    for level in range(1, last + 1):
        later = {*outputs, *(signal for name, pair in gates.items() if level < depth[name] <= last for signal in pair)}
        next_signals = list(outputs) if level == last else [name for name in depth if depth[name] <= level and name in later]
        weight, bias = np.zeros((len(signals), len(next_signals)), np.float32), np.zeros(len(next_signals), np.float32)
        for column, name in enumerate(next_signals):
            w, bias[column] = NAND if depth[name] == level else PASS
            for signal, value in zip(gates[name] if depth[name] == level else (name,), w, strict=True):
                weight[signals.index(signal), column] += value
        layers.append((weight, bias))
        signals = next_signals
    return _steps(layers)


def _steps(layers: Sequence[tuple[np.ndarray, np.ndarray]]) -> Sequential:
    """Layers of perceptrons with these weights (I, O) and biases (O,)."""
    model = Sequential([Dense(len(bias), "step", weight_init="zeros") for _, bias in layers], seed=0)
    model.build(len(layers[0][0]))
    for index, (weight, bias) in enumerate(layers):
        model.set_weights({f"{index}.weight": weight, f"{index}.bias": bias})
    return model


__all__ = ["NAND", "PASS", "circuit", "nand", "perceptron"]
