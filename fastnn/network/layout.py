"""What a network is: its layers, where their arrays lie in the arenas, and the layers recorded one after another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np

from fastnn import random
from fastnn.engines import InputMap
from fastnn.errors import InputError
from fastnn.layers import Layer, Parameter, Statistic, final_activation
from fastnn.losses import Loss
from fastnn.program.shapes import B
from fastnn.program.trace import Symbol, Trace


@dataclass(frozen=True)
class Place:
    """Where a parameter or statistic lies: its name, the layer that declared it, shape and first element in the arena."""

    name: str
    layer: int
    attribute: str
    shape: tuple[int, ...]
    start: int
    declaration: Parameter | Statistic

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Network:
    """What tracing needs of a model: layers, where their arrays lie, and the random keys of its layers."""

    layers: tuple[Layer, ...]
    features: tuple[int, ...]
    dtype: np.dtype[Any]
    parameters: tuple[Place, ...]
    statistics: tuple[Place, ...]
    keys: tuple[tuple[int, int], ...]
    input_scale: float = 1.0

    @property
    def size(self) -> int:
        return sum(place.size for place in self.parameters)

    @property
    def statistics_size(self) -> int:
        return sum(place.size for place in self.statistics)

    @property
    def frozen(self) -> tuple[int, ...]:
        """The layers that training leaves as they are; user-defined ones among them may have no parameters."""
        return tuple(index for index, layer in enumerate(self.layers) if not layer.trainable)

    @cached_property
    def input_map(self) -> InputMap:
        """What becomes of examples as they are read: `input_scale`, and the first layer where it is an `input_map`."""
        first = self.layers[0].input_map() if self.layers else None
        return InputMap(self.input_scale, *(first or ()))

    @property
    def variant(self) -> tuple[Any, ...]:
        """What tells the networks of one model apart: before `build` it may be tried with other inputs, it may lack the last
        activation, and other layers may be frozen."""
        return self.features, len(self.layers), final_activation(self.layers), self.frozen

    @cached_property
    def cut_off(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The layers whose parameters no gradient reaches because of `step`, and the layers with steps, frozen or not."""
        trace = Trace(self.dtype)
        x, step = trace.input("x", (B, *self.features)), trace.input("step", (), "int64")
        each: list[Symbol] = []
        outputs, parameters = forward(trace, self, x, True, step, each)
        used, reached = {outputs}, {outputs}
        for call in reversed(trace.calls):
            for symbols in (used, reached) if call.kernel != "step" else (used,):
                if any(symbol in symbols for symbol in call.outputs):
                    symbols.update(call.inputs)
        using, learning = ({p.layer for p in self.parameters if parameters[p.name] in symbols} for symbols in (used, reached))
        last_calls = [max((i for i, call in enumerate(trace.calls) if call.makes(output)), default=-1) for output in each]
        steps = [i for i, call in enumerate(trace.calls) if call.kernel == "step" and call.outputs[0] in used]
        stepping = {next(layer for layer, last in enumerate(last_calls) if i <= last) for i in steps}
        return tuple(sorted(using - learning)), tuple(sorted(stepping))

    def trained(self) -> tuple[Place, ...]:
        """The parameters that training changes. Raises InputError where there are parameters and all are frozen."""
        places = tuple(p for p in self.parameters if self.layers[p.layer].trainable)
        if self.parameters and not places:
            raise InputError(
                "nothing is left to train: every layer with parameters is frozen; model.unfreeze() makes them trainable again"
            )
        return places

    def penalty_table(self, l2: float = 0.0, l1: float = 0.0, weight_decay: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """`starts` (S + 1,) and `penalties` (S, 4) of the update kernels, for the numbers of a call of `fit`.

        Neighbors whose layers ask for the same are one segment, so that S does not depend on those numbers. Frozen
        parameters have no penalties, and a factor of 0.
        """

        def penalties_of(place: Place) -> tuple[Any, ...]:
            if not self.layers[place.layer].trainable:
                return 0.0, 0.0, 0.0, 0.0
            parameter = place.declaration
            assert isinstance(parameter, Parameter)
            if not parameter.regularized:
                return 0.0, 0.0, 0.0, parameter.learning_rate_factor
            return parameter.l2, parameter.l1, None, parameter.learning_rate_factor

        starts, table = [], []
        for penalties, places in groupby(self.parameters, penalties_of):
            starts.append(next(places).start)
            defaults = (l2, l1, weight_decay, 1.0)
            table.append([known if mine is None else mine for mine, known in zip(penalties, defaults, strict=True)])
        return np.array([*starts, self.size], np.int64), np.array(table, self.dtype).reshape(-1, 4)

    def without_activation(self, link: str | None) -> Network:
        """The network without a final activation `link`, which a loss takes the place of; itself where it has none."""
        if link is None or final_activation(self.layers) != link:
            return self
        bare = self.layers[-1].without_activation()  # None: the layer does nothing else
        return replace(self, layers=self.layers[:-1] if bare is None else (*self.layers[:-1], bare))


def forward(
    trace: Trace, network: Network, x: Symbol, training: bool, step: Symbol | None, each: list[Symbol] | None = None
) -> tuple[Symbol, dict[str, Symbol]]:
    """Record the layers one after another; returns the outputs and the parameters as views of the arena, by name.

    `x`: examples as they are after the network's `input_map`. `each` gets the outputs of every layer.
    """
    arena = trace.inputs.get("parameters") or trace.input("parameters", (network.size,))
    kept = trace.inputs.get("statistics") or trace.input("statistics", (network.statistics_size,))
    parameters = {p.name: arena.view(p.shape, p.start, p.name) for p in network.parameters}
    statistics = {p.name: kept.view(p.shape, p.start, p.name) for p in network.statistics}
    for index, layer in enumerate(network.layers):
        values: dict[str, Any] = {p.attribute: parameters[p.name] for p in network.parameters if p.layer == index}
        values |= {p.attribute: statistics[p.name] for p in network.statistics if p.layer == index}
        values |= {"key": network.keys[index], "step": step}
        if index or network.input_map.offset is None:
            x = layer.bound(values).forward(x, training)
        if each is not None:
            each.append(x)
    return x, parameters


@dataclass(frozen=True)
class Layout:
    """A network for inputs of a shape, and the shape of its outputs for one example."""

    network: Network
    outputs: tuple[int, ...]


def lay_out(layers: Sequence[Layer], features: tuple[int, ...], dtype: Any, seed: int = 0, input_scale: float = 1.0) -> Layout:
    """Ask the layers, one after another, for their parameters and statistics, and give each its place.

    Shapes are found by recording the forward pass.
    """
    parameters: list[Any] = []
    statistics: list[Any] = []
    trace = Trace(dtype)
    x = trace.input("x", (B, *features))
    step = trace.input("step", (), "int64")
    for index, layer in enumerate(layers):
        shape = tuple(int(d) for d in x.shape[1:])  # type: ignore[arg-type]
        values: dict[str, Any] = {"key": (0, 0), "step": step}
        for entries, declared in ((parameters, layer.parameters(shape)), (statistics, layer.statistics(shape))):
            for attribute, declaration in declared.items():
                entries.append((index, attribute, declaration))
                values[attribute] = trace.input(f"{index}.{attribute}", declaration.shape)
        x = layer.bound(values).forward(x, False)
    outputs = tuple(int(d) for d in x.shape[1:])  # type: ignore[arg-type]
    parameters.sort(key=lambda item: not item[2].regularized)  # stable: weights first, so that L1 and L2 act on one range
    keys = tuple(random.key(seed, layer.purpose, index) for index, layer in enumerate(layers))
    network = Network(tuple(layers), features, np.dtype(dtype), _places(parameters), _places(statistics), keys, input_scale)
    return Layout(network, outputs)


def _places(declared: Sequence[Any]) -> tuple[Place, ...]:
    """Where declarations (layer, attribute, declaration) lie, one after another."""
    places, start = [], 0
    for index, attribute, declaration in declared:
        place = Place(f"{index}.{attribute}", index, attribute, tuple(declaration.shape), start, declaration)
        places.append(place)
        start += place.size
    return tuple(places)


def as_loss_network(network: Network, loss: Loss) -> Network:
    """The network whose outputs the loss takes: logits where it has a link.

    Raises InputError where the last layer already applies the link of another loss.
    """
    last = final_activation(network.layers)
    if loss.link is not None and last in ("softmax", "sigmoid", "log_softmax") and last != loss.link:
        raise InputError(f"{loss.name} takes logits or a final {loss.link}, and the last layer applies {last}")
    return network.without_activation(loss.link)
