"""The programs of a model. A recipe describes one program, and builds it from the forward passes of the layers.

Storage that lives longer than a step is an input: the parameter arena and its gradient, the optimizer's state, the statistics
of batch norm, the data, the order in which it is visited, and the control block (see `fastnn_kernels.contract`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np

from fastnn import engines, ops
from fastnn.data.prepared import DataLayout
from fastnn.engines.cache import SharedKey
from fastnn.losses import Loss, apply_link, mean_loss
from fastnn.network.layout import Network, forward
from fastnn.optimizers import Optimizer
from fastnn.program.differentiate import gradients, write_into
from fastnn.program.passes.fuse import fuse
from fastnn.program.passes.mixed_precision import bfloat16, mixed_precision
from fastnn.program.shapes import B, BatchDim, N
from fastnn.program.trace import Call, Program, Symbol, Trace, constant
from fastnn_kernels.contract import SCALARS, SUM_BLOCK, UPDATES

LOG_COLUMNS = {"loss": 0, "accuracy": 1, "weight": 2, "penalty": 3}
"""What a step writes down: its loss, the share it got right, the sum of its weights, and the penalty before its update."""

LOG_ROWS = 4096
"""Steps whose losses fit into the log: the longest chunk."""

CONTROL = {"index": 0, "position": 1, "step": 2}
"""The words of the control block: step of the chunk, position in the order, step since the model was made."""


PARAMETER_QUANTITIES = ("parameter_gradients", "parameters", "updates")
"""What `GradientMagnitudes` measures of each parameter."""

ARRAYS_OF_MODEL = ("parameters", "statistics", "gradient", *{slot for row in UPDATES.values() for slot in row.slots})
"""Inputs of programs that are as large as the model whose arrays they are."""

TINY = 1e-30
"""What an array is divided by at least before its squares are added up."""


class Decision(NamedTuple):
    """How answers are read off what a loss takes: the attributes of `ops.is_correct`."""

    threshold: float
    multilabel: bool

    @classmethod
    def of(cls, kind: str, link: str | None) -> Decision | None:
        """That of a kind of task; None for values. `link`: of the loss. Logits are yes above 0, everything else above 1/2."""
        return None if kind == "values" else cls(0.0 if link == "sigmoid" else 0.5, kind == "multilabel")


class Update(NamedTuple):
    """What a program knows of an optimizer: the kernel, and its attributes by name."""

    kernel: str
    attributes: tuple[tuple[str, Any], ...]

    @classmethod
    def of(cls, optimizer: Optimizer) -> Update:
        """That of this optimizer; its learning rate is data of the program."""
        return cls(optimizer.update_kernel, tuple(sorted(optimizer.attributes().items())))


class Recipe(ABC):
    """Which program is built of a network. Equal recipes build the same of one network, as long as its layers stay the same."""

    @abstractmethod
    def build(self, network: Network) -> Program:
        """The program."""


@dataclass(frozen=True)
class InstanceKey(SharedKey):
    """What tells the instances of a model apart."""

    of_model: ClassVar[tuple[str, ...]] = ARRAYS_OF_MODEL
    recipe: Recipe
    variant: tuple[Any, ...]
    engine: str
    precision: str
    tuned: int
    rows: int
    threads: int | None

    @classmethod
    def of(cls, recipe: Recipe, network: Network, engine: engines.Engine, rows: int, threads: int | None) -> InstanceKey:
        """That of a recipe for mini-batches of `rows` rows on this engine."""
        return cls(recipe, network.variant, engine.name, engine.precision, engine.tuned, rows, threads)

    @cached_property
    def _hash(self) -> int:
        return hash((self.recipe, self.variant, self.engine, self.precision, self.tuned, self.rows, self.threads))

    def __hash__(self) -> int:
        return self._hash  # found once: a key is looked up in every call


@dataclass(frozen=True)
class Prediction(Recipe):
    """x (B, ...) -> outputs of the last layer in inference mode, and of them what `link` makes."""

    link: str | None = None

    def build(self, network: Network) -> Program:
        trace = Trace(network.dtype)
        x = trace.input("x", (B, *network.features))
        outputs, _ = forward(trace, network, x, False, None)
        outputs = apply_link(self.link, outputs)
        if outputs is x:
            outputs = ops.identity(x)
        return fuse(trace.program({"outputs": outputs}))


@dataclass(frozen=True)
class Evaluation(Recipe):
    """Loss and accuracy of a mini-batch in inference mode, written to the log. `decision`: None for values."""

    loss: Loss
    data: DataLayout
    decision: Decision | None

    def build(self, network: Network) -> Program:
        trace = Trace(network.dtype)
        control, x, targets, weights = _batch(trace, network, self.data)
        mean, outputs, _ = cost(trace, network, self.loss, (x, targets, weights), False, None)
        _log(trace, control, "loss", mean)
        _log_common(trace, control, outputs, targets, weights, self.decision)
        trace.append("advance", (control,), [], {"rows": B})
        return fuse(trace.program({}))


@dataclass(frozen=True)
class TrainingStep(Recipe):
    """One step: mini-batch, forward pass, loss, gradients, update, what is written down, and the control block moved on.

    `mixed_precision`: with bfloat16 products, see the pass of that name. The gradient of frozen parameters is neither computed
    nor written: it must be 0 in `gradient`. `build` raises InputError where all parameters are frozen.
    """

    loss: Loss
    data: DataLayout
    decision: Decision | None
    update: Update
    penalized: bool
    fused: bool = True
    mixed_precision: bool = False
    normalize_weights: bool = True
    """Whether the mean of weighted losses is sum(w l) / sum(w), and not sum(w l) / B."""
    input_gradients: bool = False
    """Whether the gradient with respect to the rows as they were read is an output of this name."""
    counts_nonfinite: bool = False
    """Whether an output `nonfinite` counts the parameters that are NaN or infinite after the update, in parts."""

    def build(self, network: Network) -> Program:
        trace = Trace(network.dtype)
        control, x, targets, weights = _batch(trace, network, self.data)
        step = control.view((), CONTROL["step"], "step")
        index = control.view((), CONTROL["index"], "index")
        examples = (x, targets, weights)
        mean, outputs, parameters = cost(
            trace, network, self.loss, examples, True, step, normalize_weights=self.normalize_weights
        )
        of_inputs = [x] if self.input_gradients else []
        gradient, slopes = write_gradients(trace, network, mean, parameters, of_inputs)
        _log(trace, control, "loss", mean)
        _log_common(trace, control, outputs, targets, weights, self.decision)
        arena = trace.inputs["parameters"]
        count = len(network.penalty_table()[1])
        starts = trace.input("starts", (count + 1,), "int64")
        penalties = trace.input("penalties", (count, 4))
        if self.penalized:
            _log(trace, control, "penalty", ops.penalty(arena, starts, penalties))
        kernel, attributes = self.update.kernel, dict(self.update.attributes)
        clips = attributes["clip_norm"] > 0
        norm = ops.global_norm(gradient, attributes["clip_value"]) if clips else constant(gradient, 0.0)
        scalars = trace.input("scalars", (N, len(SCALARS)))
        state = [trace.input(slot, (network.size,)) for slot in UPDATES[kernel].slots]
        ops.update(kernel, arena, state, gradient, norm, scalars, index, starts, penalties, attributes)
        trace.append("advance", (control,), [], {"rows": B})
        results = {"input_gradients": slopes[0]} if slopes else {}
        if self.counts_nonfinite:
            results["nonfinite"] = Symbol(trace, (-(-network.size // SUM_BLOCK),), "int64")
            trace.calls.append(Call("count_nonfinite", (arena, results["nonfinite"])))
        program = trace.program(results)
        program = fuse(program) if self.fused else program
        return mixed_precision(program) if self.mixed_precision else program


@dataclass(frozen=True)
class Cost(Recipe):
    """x, t (and w, the weights) -> the mean loss, and with `gradient` its gradient too, written to the input of that name."""

    loss: Loss
    data: DataLayout
    training: bool
    gradient: bool
    fused: bool

    def build(self, network: Network) -> Program:
        trace = Trace(network.dtype)
        step = trace.input("step", (), "int64")
        mean, _, parameters = cost(trace, network, self.loss, _examples(trace, network, self.data), self.training, step)
        if self.gradient and network.trained():
            write_gradients(trace, network, mean, parameters)
        program = trace.program({"cost": ops.identity(mean)})
        return fuse(program) if self.fused else program


@dataclass(frozen=True)
class GradientMagnitudes(Recipe):
    """x, t (and w) -> a row of root mean squares, in the order of `columns`, written to row `index` of `log`.

    Of the outputs of each of `layers` layers, and of the derivative of the mean loss with respect to them; and of each
    parameter the derivative, the value, and the difference from the one in the input `before`.
    """

    loss: Loss
    data: DataLayout
    layers: int

    def columns(self, network: Network) -> list[tuple[str, str]]:
        """(quantity, number of the layer or name of the parameter)."""
        of_layers = [(quantity, str(i)) for i in range(self.layers) for quantity in ("activations", "gradients")]
        of_parameters = [(quantity, place.name) for place in network.parameters for quantity in PARAMETER_QUANTITIES]
        return of_layers + of_parameters

    def build(self, network: Network) -> Program:
        trace = Trace(network.dtype)
        examples = _examples(trace, network, self.data)
        each: list[Symbol] = []
        mean, _, parameters = cost(trace, network, self.loss, examples, True, trace.input("step", (), "int64"), each)
        # A last activation that the loss contains has no outputs of its own.
        each += (each[-1:] or [examples[0]]) * (self.layers - len(each))
        slopes = gradients(mean, [*each, *(parameters[place.name] for place in network.parameters)])
        before = trace.input("before", (network.size,))
        values = [symbol for pair in zip(each, slopes[: len(each)], strict=True) for symbol in pair]
        for place_, slope in zip(network.parameters, slopes[len(each) :], strict=True):
            value = parameters[place_.name]
            values += [slope, value, ops.subtract(value, before.view(place_.shape, place_.start))]
        return _log_program(trace, [root_mean_square(value) for value in values])


@dataclass(frozen=True)
class ActivationMoments(Recipe):
    """x -> of the outputs of each layer: mean, standard deviation, root mean square and share of zeros, in row `index` of
    `log`."""

    training: bool

    def build(self, network: Network) -> Program:
        trace = Trace(network.dtype)
        x, step = trace.input("x", (B, *network.features)), trace.input("step", (), "int64")
        each: list[Symbol] = []
        forward(trace, network, x, self.training, step, each)
        values: list[Symbol] = []
        for a in each:
            mean = ops.mean(a)
            off = ops.mean(ops.where(ops.equal(a, 0.0), ops.constant_like(a, 1.0), 0.0))
            values += [mean, root_mean_square(ops.subtract(a, mean)), root_mean_square(a), off]
        return _log_program(trace, values)


@dataclass(frozen=True)
class VectorizedStep(Recipe):
    """A step of training, or of evaluation where there is no `update`, of `groups` models of this network side by side.

    The arena holds the arenas of the models, one after another. `segments`: how many segments the update of each has, and
    whether it has a penalty. Rows are examples; behind the layers each has one row a model. A row of the log has the losses of
    all models, then their shares of what is right, if there is a `decision`, then the penalties.
    """

    loss: Loss
    data: DataLayout
    decision: Decision | None
    groups: int
    update: Update | None
    segments: tuple[tuple[int, bool], ...]

    @property
    def columns(self) -> int:
        """Numbers in a row of the log."""
        return (3 if self.decision is not None else 2) * self.groups

    def build(self, network: Network) -> Program:
        groups, size = self.groups, network.size
        trace = Trace(network.dtype)
        control, x, t, _ = _batch(trace, network, self.data, self.columns)
        index, log = control.view((), CONTROL["index"], "index"), trace.inputs["log"]
        arena = trace.input("parameters", (groups * size,))
        models = ops.transpose(arena.view((groups, size)))
        parameters = {p.name: models.view((*p.shape, groups), p.start * groups, p.name) for p in network.parameters}
        outputs = _forward_vectorized(network, x, parameters)
        classes = int(outputs.shape[1])  # type: ignore[arg-type]
        # The rows of a model lie together: the mean over them then has the bits that it has alone.
        rows = ops.reshape(ops.transpose(outputs, (2, 0, 1)), (BatchDim(groups), classes))
        if t.dtype.kind == "i":  # nothing but `gather` repeats integers
            copies = trace.input("copies", (BatchDim(groups),), "int64")
            (each_target,) = trace.append("gather", (t, copies), [((BatchDim(groups),), t.dtype)])
        else:
            each_target = ops.reshape(ops.expand(t, (groups, *t.shape), 0), (BatchDim(groups), *t.shape[1:]))
        losses = self.loss.function(rows, loss_targets(rows, each_target, self.loss))
        means = ops.mean(ops.reshape(losses, (groups, B)), 1)
        gradient = None if self.update is None else _vectorized_gradients(trace, network, means, parameters, groups)
        trace.append("log_value", (means, index, log), [], {"column": 0})
        if self.decision is not None:
            correct = ops.reshape(ops.is_correct(rows, each_target, **self.decision._asdict()), (groups, B))
            trace.append("log_value", (ops.mean(correct, 1), index, log), [], {"column": groups})
        if gradient is not None:
            self._update(trace, arena, gradient, index, size)
        trace.append("advance", (control,), [], {"rows": B})
        return fuse(trace.program({}))

    def _update(self, trace: Trace, arena: Symbol, gradient: Symbol, index: Symbol, size: int) -> None:
        """Record the penalties, and the update of all models at a time."""
        assert self.update is not None
        kernel, attributes = self.update
        total = sum(count for count, _ in self.segments)
        starts = trace.input("starts", (total + 1,), "int64")
        penalties = trace.input("penalties", (total, 4))
        own_starts, done = trace.input("own_starts", (total + self.groups,), "int64"), 0
        for g, (count, penalized) in enumerate(self.segments):
            table = own_starts.view((count + 1,), done + g), penalties.view((count, 4), 4 * done)
            if penalized:
                value = ops.penalty(arena.view((size,), g * size), *table)
                column = self.columns - self.groups + g
                trace.append("log_value", (value, index, trace.inputs["log"]), [], {"column": column})
            done += count
        state = [trace.input(slot, (self.groups * size,)) for slot in UPDATES[kernel].slots]
        scalars = trace.input("scalars", (N, len(SCALARS)))
        ops.update(
            kernel, arena, state, gradient, constant(gradient, 0.0), scalars, index, starts, penalties, dict(attributes)
        )  # fmt: skip


def cost(
    trace: Trace, network: Network, loss: Loss, examples: tuple[Symbol, Symbol, Symbol | None], training: bool,
    step: Symbol | None, each: list[Symbol] | None = None, normalize_weights: bool = True,
) -> tuple[Symbol, Symbol, dict[str, Symbol]]:  # fmt: skip
    """The mean loss of `examples` (x, targets, weights), the outputs, and the parameters by name; `each`: see `forward`,
    `normalize_weights`: see `mean_loss`."""
    x, targets, weights = examples
    outputs, parameters = forward(trace, network, x, training, step, each)
    mean = mean_loss(loss, outputs, loss_targets(outputs, targets, loss), weights, normalize_weights)
    return mean, outputs, parameters


def write_gradients(
    trace: Trace, network: Network, mean: Symbol, parameters: Mapping[str, Symbol], others: Sequence[Symbol] = ()
) -> tuple[Symbol, list[Symbol]]:
    """Write the gradient of `mean` for all parameters that are trained to the input `gradient`, which is returned, and those
    with respect to `others`."""
    gradient = trace.input("gradient", (network.size,))
    trained = network.trained()
    slopes: list[Symbol] = []
    if trained or others:
        slopes = list(gradients(mean, [*(parameters[p.name] for p in trained), *others]))
        views = [gradient.view(p.shape, p.start, f"d {p.name}") for p in trained]
        trace.calls = write_into(trace.calls, list(zip(slopes[: len(views)], views, strict=True)))
    return gradient, slopes[len(trained) :]


def _vectorized_gradients(
    trace: Trace, network: Network, means: Symbol, parameters: Mapping[str, Symbol], groups: int
) -> Symbol:
    """The same for models side by side, whose gradients are transposed into arenas one after another."""
    gradient = trace.input("gradient", (groups * network.size,))
    grouped = trace.input("grouped_gradient", (groups * network.size,))
    slopes = gradients(ops.sum(means), list(parameters.values()))
    views = [grouped.view(s.shape, p.start * groups) for p, s in zip(network.parameters, slopes, strict=True)]
    trace.calls = write_into(trace.calls, list(zip(slopes, views, strict=True)))
    whole = grouped.view((network.size, groups)), gradient.view((groups, network.size))
    trace.calls.append(Call("transpose", whole, {"axes": (1, 0)}))
    return gradient


def _forward_vectorized(network: Network, x: Symbol, parameters: Mapping[str, Symbol]) -> Symbol:
    """The outputs (B, O, G) of all models for the inputs x that all of them read."""
    grouped = False
    for number, layer in enumerate(network.layers):
        if not number and network.input_map.offset is not None:
            continue  # its arrays are no parameters of the models
        values = {p.attribute: parameters[p.name] for p in network.parameters if p.layer == number}
        x = layer.bound(values).forward_vectorized(x, grouped)
        grouped = grouped or bool(values)
    return x


def _batch(
    trace: Trace, network: Network, data: DataLayout, columns: int = len(LOG_COLUMNS)
) -> tuple[Symbol, Symbol, Symbol, Symbol | None]:
    """The mini-batch at the position of the control block: (control, x, targets, weights)."""
    control = trace.input("control", (8,), "int64")
    position = control.view((), CONTROL["position"], "position")
    order = trace.input("order", (N,), "int64")
    trace.input("log", (N, columns))
    source = trace.input("X", (N, *network.features), data.source)
    input_map = network.input_map
    maps = {name: trace.input(name, array.shape, "float64") for name, array in input_map.arrays().items()}
    x = ops.gather_rows(source, order, position, B, network.dtype, input_map.scale, **maps)
    target = trace.input("y", (N, *data.target_shape), data.target)
    t = ops.gather_rows(target, order, position, B, "int64" if data.target == "int64" else network.dtype)
    w = None
    if data.weighted:
        w = ops.gather_rows(trace.input("weights", (N,)), order, position, B, network.dtype)
    return control, x, t, w


def _examples(trace: Trace, network: Network, data: DataLayout) -> tuple[Symbol, Symbol, Symbol | None]:
    """Examples that are inputs as they are: (x, targets, weights)."""
    x = trace.input("x", (B, *network.features))
    t = trace.input("t", (B, *data.target_shape), data.target)
    return x, t, trace.input("w", (B,)) if data.weighted else None


def loss_targets(outputs: Any, targets: Any, loss: Loss) -> Any:
    """Class indices become one-hot rows where the loss wants values; of symbols or of arrays."""
    if targets.dtype.kind == "i" and loss.accepts != "classes":
        return ops.one_hot(targets, int(outputs.shape[1]), outputs.dtype)
    return targets


def is_of_all_rows(loss: Loss, outputs: tuple[int, ...], dtype: Any, data: DataLayout) -> bool:
    """Whether the loss is one number for a mini-batch, such as a root of a mean, and no mean over examples."""
    if loss.built_in:
        return False
    trace = Trace(dtype)
    a, t = trace.input("outputs", (B, *outputs)), trace.input("t", (B, *data.target_shape), data.target)
    value = loss.function(a, loss_targets(a, t, loss))
    return isinstance(value, Symbol) and value.shape == ()


def root_mean_square(x: Symbol) -> Symbol:
    """sqrt(mean x^2), of numbers whose squares may be beyond the dtype: m sqrt(mean (x/m)^2), m the largest |x|."""
    largest = ops.max(ops.abs(x))
    scaled = ops.divide(x, ops.maximum(largest, TINY))
    root: Symbol = ops.multiply(largest, ops.sqrt(ops.mean(ops.multiply(scaled, scaled))))
    return root


def _log_program(trace: Trace, values: Sequence[Symbol]) -> Program:
    """The program that writes these numbers into the row `index` of `log`."""
    index, log = trace.input("index", (), "int64"), trace.input("log", (N, len(values)))
    for column, value in enumerate(values):
        trace.append("log_value", (value, index, log), [], {"column": column})
    return fuse(trace.program({}))


def _log(trace: Trace, control: Symbol, column: str, value: Symbol) -> None:
    index = control.view((), CONTROL["index"], "index")
    trace.append("log_value", (value, index, trace.inputs["log"]), [], {"column": LOG_COLUMNS[column]})


def _log_common(
    trace: Trace, control: Symbol, outputs: Symbol, targets: Symbol, weights: Symbol | None, decision: Decision | None
) -> None:
    if decision is not None:
        correct = ops.is_correct(outputs, targets, **decision._asdict())
        _log(trace, control, "accuracy", ops.mean(correct) if weights is None else ops.weighted_mean(correct, weights))
    if weights is not None:
        _log(trace, control, "weight", ops.sum(weights))


class StepStorage(dict[str, Any]):
    """What a step needs beside data, parameters and state, by the names of its inputs."""

    def __init__(self, engine: engines.Engine, penalties: np.ndarray, **arrays: Any) -> None:
        super().__init__(arrays, penalties=engine.to_device(penalties.copy()))
        self._engine, self._penalties = engine, penalties

    def set_penalties(self, table: np.ndarray) -> None:
        """Write a table of `Network.penalty_table` where it is another one than before."""
        if table is not self._penalties and not np.array_equal(table, self._penalties):
            self._engine.write(self["penalties"], table)
        self._penalties = table


def step_storage(network: Network, engine: engines.Engine) -> StepStorage:
    """What a step needs beside data, parameters and state: control block, log, table, gradient, penalties.

    The gradient of frozen parameters stays 0, since no step writes it.
    """
    starts, penalties = network.penalty_table()
    arrays = {
        "control": engine.zeros((8,), np.int64, mirrored=True),
        "log": engine.zeros((LOG_ROWS, len(LOG_COLUMNS)), network.dtype, mirrored=True),
        "scalars": engine.zeros((LOG_ROWS, len(SCALARS)), network.dtype, mirrored=True),
        "gradient": engine.zeros((network.size,), network.dtype),
        "starts": engine.to_device(starts),
    }
    if engine.precision == "bf16":
        arrays["low_precision_weights"] = engine.empty((network.size,), bfloat16())
    return StepStorage(engine, penalties, **arrays)
