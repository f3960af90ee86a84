"""The programs of a model: one training step, one step of evaluation, one of prediction. Forward mathematics goes in.

Storage that lives longer than a step is an input: the parameter arena and its gradient, the optimizer's state, the statistics
of batch norm, the data, the order in which it is visited, and the control block (see `fastnn_kernels.contract`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np

from fastnn import engines, ops
from fastnn.data.prepared import DataLayout
from fastnn.errors import InputError
from fastnn.layers import Layer, Parameter, Statistic
from fastnn.losses import Loss, mean_loss
from fastnn.program.differentiate import gradients, place
from fastnn.program.passes.fuse import fuse
from fastnn.program.passes.mixed_precision import bfloat16, narrow
from fastnn.program.shapes import B, N
from fastnn.program.trace import Program, Symbol, Trace, constant
from fastnn_kernels.contract import SCALARS, UPDATES

LOG_COLUMNS = {"loss": 0, "accuracy": 1, "weight": 2, "penalty": 3}
"""What a step writes down: its loss, the share it got right, the sum of its weights, and the penalty before its update."""

LOG_ROWS = 4096
"""Steps whose losses fit into the log: the longest chunk."""

CONTROL = {"index": 0, "position": 1, "step": 2}
"""The words of the control block: step of the chunk, position in the order, step since the model was made."""


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
        return int(np.prod(self.shape, dtype=np.int64))


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
        """The layers that training leaves as they are; of one's own they may have no parameters."""
        return tuple(index for index, layer in enumerate(self.layers) if not layer.trainable)

    @cached_property
    def cut_off(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The layers whose parameters no gradient reaches because of `step`, and the layers with steps, frozen or not."""
        trace = Trace(self.dtype)
        x, step = trace.input("x", (B, *self.features)), trace.input("step", (), "int64")
        each: list[Symbol] = []
        outputs, parameters = forward(trace, self, x, True, step, each)
        used, reached = {outputs}, {outputs}
        for call in reversed(trace.calls):
            for found in (used, reached) if call.kernel != "step" else (used,):
                if any(symbol in found for symbol in call.outputs):
                    found.update(call.inputs)
        using, learning = ({p.layer for p in self.parameters if parameters[p.name] in found} for found in (used, reached))
        made = [max((i for i, call in enumerate(trace.calls) if call.makes(output)), default=-1) for output in each]
        steps = [i for i, call in enumerate(trace.calls) if call.kernel == "step" and call.outputs[0] in used]
        stepping = {next(layer for layer, last in enumerate(made) if i <= last) for i in steps}
        return tuple(sorted(using - learning)), tuple(sorted(stepping))

    def trained(self) -> tuple[Place, ...]:
        """The parameters that training changes. Raises InputError where there are parameters and all are frozen."""
        found = tuple(p for p in self.parameters if self.layers[p.layer].trainable)
        if self.parameters and not found:
            raise InputError(
                "nothing is left to train: every layer with parameters is frozen; model.unfreeze() makes them trainable again"
            )
        return found

    def segments(self, l2: float = 0.0, l1: float = 0.0, weight_decay: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """`starts` (S + 1,) and `penalties` (S, 4) of the update kernels, for the numbers of a call of `fit`.

        Neighbors whose layers ask for the same are one segment, so that S does not depend on those numbers. Frozen
        parameters have no penalties, and a factor of 0.
        """

        def treatment(place: Place) -> tuple[Any, ...]:
            if not self.layers[place.layer].trainable:
                return 0.0, 0.0, 0.0, 0.0
            parameter = place.declaration
            assert isinstance(parameter, Parameter)
            if not parameter.regularized:
                return 0.0, 0.0, 0.0, parameter.learning_rate_factor
            return parameter.l2, parameter.l1, None, parameter.learning_rate_factor

        starts, table = [], []
        for own, places in groupby(self.parameters, treatment):
            starts.append(next(places).start)
            given = (l2, l1, weight_decay, 1.0)
            table.append([known if mine is None else mine for mine, known in zip(own, given, strict=True)])
        return np.array([*starts, self.size], np.int64), np.array(table, self.dtype).reshape(-1, 4)

    def without_last(self) -> Network:
        """The same network less its last layer, which must have no arrays."""
        return replace(self, layers=self.layers[:-1])


def forward(
    trace: Trace, network: Network, x: Symbol, training: bool, step: Symbol | None, each: list[Symbol] | None = None
) -> tuple[Symbol, dict[str, Symbol]]:
    """Record the layers one after another; returns the outputs and the parameters as views of the arena, by name.

    `each` gets the outputs of every layer.
    """
    arena = trace.inputs.get("parameters") or trace.input("parameters", (network.size,))
    kept = trace.inputs.get("statistics") or trace.input("statistics", (network.statistics_size,))
    parameters = {p.name: arena.view(p.shape, p.start, p.name) for p in network.parameters}
    statistics = {p.name: kept.view(p.shape, p.start, p.name) for p in network.statistics}
    for index, layer in enumerate(network.layers):
        values: dict[str, Any] = {p.attribute: parameters[p.name] for p in network.parameters if p.layer == index}
        values |= {p.attribute: statistics[p.name] for p in network.statistics if p.layer == index}
        values |= {"key": network.keys[index], "step": step}
        x = layer.bound(values).forward(x, training)
        if each is not None:
            each.append(x)
    return x, parameters


def prediction(network: Network) -> Program:
    """x (B, ...) -> outputs of the last layer in inference mode."""
    trace = Trace(network.dtype)
    x = trace.input("x", (B, *network.features))
    outputs, _ = forward(trace, network, x, False, None)
    if outputs is x:
        outputs = ops.identity(x)
    return fuse(trace.program({"outputs": outputs}))


def evaluation(network: Network, loss: Loss, data: DataLayout, metric: Mapping[str, Any] | None) -> Program:
    """Loss and accuracy of a mini-batch in inference mode, written to the log."""
    trace = Trace(network.dtype)
    control, x, targets, weights = _batch(trace, network, data)
    outputs, _ = forward(trace, network, x, False, None)
    t = loss_targets(outputs, targets, loss)
    _record(trace, control, "loss", mean_loss(loss, outputs, t, weights))
    _record_common(trace, control, outputs, targets, weights, metric)
    trace.record("advance", (control,), [], {"rows": B})
    return fuse(trace.program({}))


def training(
    network: Network,
    loss: Loss,
    data: DataLayout,
    metric: Mapping[str, Any] | None,
    update: str,
    attributes: Mapping[str, Any],
    penalized: bool,
    fused: bool = True,
    narrowed: bool = False,
) -> Program:
    """One step: mini-batch, forward pass, loss, gradients, update, what is written down, and the control block moved on.

    `narrowed`: with bfloat16 products, see `passes.mixed_precision`. The gradient of frozen parameters is neither computed nor
    written: it must be 0 in `gradient`. Raises InputError where all parameters are frozen.
    """
    trace = Trace(network.dtype)
    control, x, targets, weights = _batch(trace, network, data)
    step = control.view((), CONTROL["step"], "step")
    index = control.view((), CONTROL["index"], "index")
    outputs, parameters = forward(trace, network, x, True, step)
    mean = mean_loss(loss, outputs, loss_targets(outputs, targets, loss), weights)
    arena = trace.inputs["parameters"]
    gradient = trace.input("gradient", (network.size,))
    trained = network.trained()
    if trained:
        found = gradients(mean, [parameters[p.name] for p in trained])
        destinations = [gradient.view(p.shape, p.start, f"d {p.name}") for p in trained]
        trace.calls = place(trace.calls, list(zip(found, destinations, strict=True)))
    _record(trace, control, "loss", mean)
    _record_common(trace, control, outputs, targets, weights, metric)
    count = len(network.segments()[1])
    starts = trace.input("starts", (count + 1,), "int64")
    penalties = trace.input("penalties", (count, 4))
    if penalized:
        _record(trace, control, "penalty", ops.penalty(arena, starts, penalties))
    if attributes["clip_norm"] > 0:
        norm = ops.sqrt(ops.sum_of_squares(gradient, attributes["clip_value"]))
    else:
        norm = constant(gradient, 0.0)
    scalars = trace.input("scalars", (N, len(SCALARS)))
    state = [trace.input(slot, (network.size,)) for slot in UPDATES[update].slots]
    ops.update(update, arena, state, gradient, norm, scalars, index, starts, penalties, attributes)
    trace.record("advance", (control,), [], {"rows": B})
    program = trace.program({})
    program = fuse(program) if fused else program
    return narrow(program) if narrowed else program


def _batch(trace: Trace, network: Network, data: DataLayout) -> tuple[Symbol, Symbol, Symbol, Symbol | None]:
    """The mini-batch at the position of the control block: (control, x, targets, weights)."""
    control = trace.input("control", (8,), "int64")
    position = control.view((), CONTROL["position"], "position")
    order = trace.input("order", (N,), "int64")
    trace.input("log", (N, len(LOG_COLUMNS)))
    source = trace.input("X", (N, *network.features), data.source)
    x = ops.gather_rows(source, order, position, B, network.dtype, network.input_scale)
    target = trace.input("y", (N, *data.target_shape), data.target)
    t = ops.gather_rows(target, order, position, B, "int64" if data.target == "int64" else network.dtype)
    w = None
    if data.weighted:
        w = ops.gather_rows(trace.input("weights", (N,)), order, position, B, network.dtype)
    return control, x, t, w


def loss_targets(outputs: Symbol, targets: Symbol, loss: Loss) -> Symbol:
    """Class indices become one-hot rows where the loss wants values."""
    if targets.dtype.kind == "i" and loss.accepts != "classes":
        made: Symbol = ops.one_hot(targets, int(outputs.shape[1]), outputs.dtype)  # type: ignore[arg-type]
        return made
    return targets


def _record(trace: Trace, control: Symbol, column: str, value: Symbol) -> None:
    index = control.view((), CONTROL["index"], "index")
    trace.record("record", (value, index, trace.inputs["log"]), [], {"column": LOG_COLUMNS[column]})


def _record_common(
    trace: Trace, control: Symbol, outputs: Symbol, targets: Symbol, weights: Symbol | None, metric: Mapping[str, Any] | None
) -> None:
    if metric is not None:
        correct = ops.is_correct(outputs, targets, **metric)
        _record(trace, control, "accuracy", ops.mean(correct) if weights is None else ops.weighted_mean(correct, weights))
    if weights is not None:
        _record(trace, control, "weight", ops.sum(weights))


def lay_out(layers: Sequence[Layer], features: tuple[int, ...], dtype: Any) -> tuple[list[Any], list[Any], tuple[int, ...]]:
    """Ask the layers, one after another, for their parameters and statistics: lists of (layer, attribute, declaration).

    Shapes are found by recording the forward pass. Returns them and the shape of an output.
    """
    parameters: list[Any] = []
    statistics: list[Any] = []
    trace = Trace(dtype)
    x = trace.input("x", (B, *features))
    step = trace.input("step", (), "int64")
    for index, layer in enumerate(layers):
        shape = tuple(int(d) for d in x.shape[1:])  # type: ignore[arg-type]
        values: dict[str, Any] = {"key": (0, 0), "step": step}
        for found, declared in ((parameters, layer.parameters(shape)), (statistics, layer.statistics(shape))):
            for attribute, declaration in declared.items():
                found.append((index, attribute, declaration))
                values[attribute] = trace.input(f"{index}.{attribute}", declaration.shape)
        x = layer.bound(values).forward(x, False)
    return parameters, statistics, tuple(int(d) for d in x.shape[1:])  # type: ignore[arg-type]


def step_storage(network: Network, engine: engines.Engine) -> dict[str, Any]:
    """What a step needs beside data, parameters and state: control block, log, table, gradient, penalties.

    The gradient of frozen parameters stays 0, since no step writes it.
    """
    starts, penalties = network.segments()
    storage = {
        "control": engine.zeros((8,), np.int64, mirrored=True),
        "log": engine.zeros((LOG_ROWS, len(LOG_COLUMNS)), network.dtype, mirrored=True),
        "scalars": engine.zeros((LOG_ROWS, len(SCALARS)), network.dtype, mirrored=True),
        "gradient": engine.zeros((network.size,), network.dtype),
        "starts": engine.place(starts),
        "penalties": engine.place(penalties),
    }
    if engine.precision == "bf16":
        storage["shadow"] = engine.empty((network.size,), bfloat16())
    return storage
