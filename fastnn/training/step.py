"""Steps that are made one at a time: what `Sequential.training_step` returns, and what `partial_fit` plays.

A step is played at once, and undone if it, or the model after it, is not finite. No copy of the model is made for that in
every step: a snapshot stands at the beginning of a stretch of steps, and their mini-batches are kept until it ends. To undo
a step the snapshot is put back, and the steps before the last are played again, which gives the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastnn import arrays, engines
from fastnn.data.prepared import DataLayout, PreparedData, are_indexed, prepare
from fastnn.data.targets import Task, task_of
from fastnn.engines import AS_IT_IS, Engine, Instance
from fastnn.engines.cache import Instances
from fastnn.errors import DeviceError, DivergenceError, InputError, InputTypeError
from fastnn.losses import Loss, as_loss
from fastnn.network.layout import Network, as_loss_network
from fastnn.network.model import Before, ModelState
from fastnn.network.programs import (
    LOG_COLUMNS,
    LOG_ROWS,
    Decision,
    InstanceKey,
    StepStorage,
    TrainingStep,
    Update,
    step_storage,
)
from fastnn.network.state import Snapshot, Trained
from fastnn.optimizers import Optimizer
from fastnn.schedules import as_schedule
from fastnn.training.chunks import learning_rates
from fastnn.training.divergence import first_nonfinite, insist
from fastnn.training.options import FitOptions, as_optimizer, check_options
from fastnn.training.start import BACKUP_SECONDS, check_endless, continues, known_task, needs_two_rows, start_optimizer

LONGEST = 64
"""Steps between two snapshots, at most."""

KEPT_BYTES = 2**21
"""Mini-batches of about so many bytes are kept, or of as many as the model has; one at least."""

LARGEST_BYTES = 2**24
"""Larger mini-batches are not copied for the next step of `partial_fit`, but trained on where they lie."""


@dataclass(frozen=True)
class StepOptions:
    """What the steps of a `SingleSteps` have in common."""

    loss: Loss
    optimizer: Optimizer
    engine: Engine
    decision: Decision | None = None
    """Of a step that notes its accuracy."""
    l2: float = 0.0
    l1: float = 0.0
    threads: int | None = None
    normalize_weights: bool = True
    input_gradients: bool = False


class SingleSteps:
    """Makes steps of a model one by one. It holds no model: each call names it, and it is always the same one.

    `layout`: what mini-batches look like; those with weights and those without take turns as they please.
    """

    def __init__(self, options: StepOptions, layout: DataLayout, batch_size: int) -> None:
        self.options, self.layout, self.batch_size = options, layout, batch_size
        self.network: Network
        self.storage: StepStorage
        self.penalized = False
        self._layers: Any = None
        self._state: Any = None
        self._version: tuple[int, ...] = ()
        """Of the state when the last step was counted: others have changed it since where it is another now."""
        self._instances: dict[tuple[int, bool], Instance] = {}
        self._borrowed: list[tuple[InstanceKey, Instance]] = []
        """Those of them that are the model's."""
        self._bound: set[tuple[int, bool]] = set()
        self._kept: dict[str, Any] = {}
        """The mini-batches of the stretch one after another, and the order in which they are visited."""
        self._capacity = self._position = self._length = 0
        self._made: list[tuple[int, bool]] = []
        """Rows of each step of the stretch, and whether it has weights; the last one may not be counted yet."""
        self._before = Snapshot({})
        self._fresh: Before | None = None
        """The model before an optimizer began anew for a step that is not counted yet."""
        self._log: Any

    def make(
        self, model: ModelState, X: Any, y: np.ndarray, weights: np.ndarray | None, visits: np.ndarray | None = None
    ) -> np.ndarray:
        """One step on a mini-batch of `layout`; returns what it wrote down, a row of the log. The model is reserved.

        `visits`: the order of its rows, on the host; None: as they are.

        Raises DivergenceError; then, and after any other error, the model is as it was before.
        """
        rows, step = len(X), (len(X), weights is not None)
        if (
            self._state is not model.state
            or self._version != self._state.version
            or self._layers is not model.layers
            or len(self._made) == self._length
            or self._position + rows > self._capacity
        ):
            try:
                self._begin(model, rows)
            except BaseException as error:
                self._put_back(error)
                raise
        start, made, state, engine = self._position, self._made.copy(), model.state, self.options.engine
        number = len(made)
        try:
            self._version = ()
            instance = self._instance(model, step)
            kept, end = self._kept, start + rows
            if visits is None:
                engine.write(kept["X"][start:end], X)
                engine.write(kept["y"][start:end], y)
            else:
                X.take(visits, 0, kept["X"][start:end], "clip")  # "raise" would copy twice
                y.take(visits, 0, kept["y"][start:end], "clip")
            if weights is not None:
                engine.write(kept["weights"][start:end], weights)
            instance.play()
            counts, log = engine.read(instance.output("nonfinite"), self._log[number : number + 1])
            if not math.isfinite(log[0, 0]) or np.logical_or.reduce(counts):
                raise self._diverge(model, step, made)
            state.advance(engine, 1, epochs=1)
            self._made.append(step)
            self._position, self._version = end, state.version
            self._fresh = None
        except BaseException as error:
            insist(lambda: self._undo(model, made))
            self._put_back(error)
            raise
        row: np.ndarray = log[0]
        return row

    def _put_back(self, error: BaseException) -> None:
        """Let the optimizer be what it was, where one began anew for a step that this error prevented."""
        if self._fresh is not None:
            if not isinstance(error, DeviceError | DivergenceError):
                insist(self._fresh.put_back)
                self._version = ()
            self._fresh = None

    def threads(self, rows: int) -> int:
        """How many threads the last step of `rows` rows without weights had."""
        return self._instances[rows, False].threads

    def input_gradients(self, rows: int, weighted: bool) -> np.ndarray:
        """The gradient of the loss of the last step with respect to X, such as X."""
        (gradient,) = self.options.engine.read(self._instances[rows, weighted].output("input_gradients"))
        scale, offset, factor = self.network.input_map
        if self.network.input_map == AS_IT_IS:
            return gradient.copy()
        slope = scale if offset is None or factor is None else scale * factor.reshape(gradient.shape[1:])
        return (gradient * slope).astype(gradient.dtype)

    def close(self, instances: Instances) -> None:
        """Give the programs back that others can use; a step that follows begins anew."""
        self._version = ()
        self._instances.clear()
        self._bound.clear()
        while self._borrowed:
            key, instance = self._borrowed.pop()
            instance.unbind()
            instances.give_back(key, instance)

    # --- a stretch of steps -----------------------------------------------------------------------------------------

    def _begin(self, model: ModelState, rows: int) -> None:
        """A stretch of steps begins, the first of them of `rows` rows: everything is as the model is now."""
        options, state, engine = self.options, model.state, self.options.engine
        self._version = ()
        if self._layers is not model.layers or self._state is not state:
            self._configure(model)
        if not continues(state, options.optimizer):
            self._fresh = Before(model)
        with model.guard_device():  # where the last training was on one
            start_optimizer(state, options.optimizer)
            state.begin(engine, BACKUP_SECONDS)
            self._make_room(model, rows)
            self._before = state.snapshot(self._before)
        model.device, model.trained = engine.name, Trained(engine.name, engine.precision)
        model.loss, model.optimizer = options.loss, options.optimizer
        self._state, self._layers = state, model.layers
        self._bound.clear()
        self._log = self.storage["log"]
        assert state.optimizer is not None
        updates = state.optimizer.updates
        schedule = as_schedule(options.optimizer.learning_rate)
        rates = learning_rates(schedule, self._length, updates, 0, 1, 1)
        engine.write(self.storage["scalars"], options.optimizer.scalars(np.arange(self._length) + (updates + 1), rates))
        self._rewind(model)
        self._version = state.version

    def _configure(self, model: ModelState) -> None:
        """What follows from the layers."""
        options = self.options
        self.network = as_loss_network(model.network, options.loss)
        self.network.trained()  # refuses a model of which everything is frozen
        table = self.network.penalty_table(options.l2, options.l1, options.optimizer.weight_decay)[1]
        self.penalized = bool(table[:, :2].any())
        self.storage = step_storage(self.network, options.engine)
        self.storage.set_penalties(table)
        self.close(model.instances)

    def _make_room(self, model: ModelState, rows: int) -> None:
        """Room for the mini-batches of a stretch."""
        engine, network, layout = self.options.engine, self.network, self.layout
        if self._capacity and rows <= self.batch_size:
            return
        self._capacity, self.batch_size = 0, max(rows, self.batch_size)
        dtype, each = np.dtype(layout.source), math.prod(network.features)
        size = sum(array.nbytes for array in model.state.on(engine).values())
        steps = max(KEPT_BYTES, size) // (each * dtype.itemsize * self.batch_size)
        self._length = min(max(1, steps), LONGEST, LOG_ROWS)
        capacity = self._length * self.batch_size
        self._kept = {
            "X": engine.empty((capacity, *network.features), dtype),
            "y": engine.empty((capacity, *layout.target_shape), np.dtype(layout.target)),
            "weights": engine.empty((capacity,), network.dtype),
            "order": engine.to_device(np.arange(capacity)),
            **{name: engine.to_device(array) for name, array in network.input_map.arrays().items()},
        }
        self._capacity = capacity  # there is room now

    def _instance(self, model: ModelState, step: tuple[int, bool]) -> Instance:
        """The program of such a step, with everything bound to it."""
        instance = self._instances.get(step)
        if instance is None:
            instance = self._instances[step] = self._make_instance(model, *step)
        if step not in self._bound:
            kept = self._kept if step[1] else {name: array for name, array in self._kept.items() if name != "weights"}
            instance.bind(**kept, **self.storage, **model.state.on(self.options.engine))
            self._bound.add(step)
        return instance

    def _make_instance(self, model: ModelState, rows: int, weighted: bool) -> Instance:
        options, network, engine = self.options, self.network, self.options.engine
        layout = DataLayout(self.layout.source, self.layout.target, self.layout.target_shape, weighted)
        recipe = TrainingStep(
            options.loss, layout, options.decision, Update.of(options.optimizer), self.penalized,
            mixed_precision=engine.precision == "bf16", normalize_weights=options.normalize_weights or not weighted,
            input_gradients=options.input_gradients, counts_nonfinite=True,
        )  # fmt: skip

        def make() -> Instance:
            program = recipe.build(network)
            engine.tune(program, rows)
            return engine.instantiate(program, rows, options.threads)

        if not options.loss.built_in:
            return make()
        key = InstanceKey.of(recipe, network, engine, rows, options.threads)
        instance: Instance = model.instances.take(key, make).item
        self._borrowed.append((key, instance))
        return instance

    # --- going back -------------------------------------------------------------------------------------------------

    def _rewind(self, model: ModelState) -> None:
        """The next step is the first of the stretch."""
        engine = self.options.engine
        self._made, self._position = [], 0
        engine.write(self.storage["control"], (0, 0, model.counters.step))
        if "low_precision_weights" in self.storage:
            weights = self.storage["low_precision_weights"]
            engine.compute("identity", (model.state.on(engine)["parameters"], weights), {})

    def _undo(self, model: ModelState, made: Sequence[tuple[int, bool]]) -> None:
        """Let these first steps of the stretch be all that were made."""
        engine, state = self.options.engine, model.state
        self._version = ()  # unless this comes to its end, another stretch begins
        engine.wait()
        state.restore(self._before)
        state.on(engine)
        state.mark_changed(engine)
        self._rewind(model)
        for step in made:
            self._instances[step].play()
            state.advance(engine, 1, epochs=1)
            self._made.append(step)
            self._position += step[0]
        engine.wait()
        self._version = state.version

    def _diverge(self, model: ModelState, step: tuple[int, bool], made: Sequence[tuple[int, bool]]) -> DivergenceError:
        """The error that names the tensor that this step, which was played behind those, spoils."""
        self._undo(model, made)
        name = first_nonfinite(self._instances[step])
        rate = float(self.options.engine.read(self.storage["scalars"])[0][len(made), 0])
        return DivergenceError.of(1, model.counters.step + 1, name, rate)


class StepFunction:
    """What `Sequential.training_step` returns: a function that makes one step."""

    def __init__(self, model: ModelState, options: StepOptions, batch_size: int) -> None:
        self.model, self.options, self.batch_size = model, options, batch_size
        check_endless(as_schedule(options.optimizer.learning_rate), "training_step")
        network, loss = as_loss_network(model.network, options.loss), options.loss
        network.trained()
        self._dtype, self._features, self._outputs = network.dtype, network.features, model.expected.columns
        known = model.task if model.task is not None and model.task.loss == loss.name else None
        self._task = known or task_of(loss, self._outputs, model.expected.squashed)
        self._compares = loss.accepts == "classes" or not loss.of_numbers
        self._steps: dict[bool, SingleSteps] = {}
        """By whether targets are class indices."""

    def __call__(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Make a step on X (B, ...) and y; returns its loss, from before the step, a float; see `Sequential.training_step`."""
        X, y = self._as_inputs(X), self._as_targets(y, len(X))
        weights = None if sample_weight is None else self._as_weights(sample_weight, len(X))
        model, indices = self.model, y.dtype.kind == "i"
        steps = self._steps.get(indices)
        if steps is None:
            layout = DataLayout(self._dtype.name, y.dtype.name, y.shape[1:])
            steps = self._steps[indices] = SingleSteps(self.options, layout, self.batch_size)
            self._as_task(indices)
        with model.reserve():
            if self.options.engine.is_host:
                return self._make(steps, X, y, weights)
            with model.guard_device():
                result = self._make(steps, X, y, weights)
                model.state.back_up(BACKUP_SECONDS)
                return result

    def _make(self, steps: SingleSteps, X: np.ndarray, y: np.ndarray, weights: np.ndarray | None) -> Any:
        loss = float(steps.make(self.model, X, y, weights)[0])
        self.model.task, self.model.data_glance = self._task, None
        if self.options.input_gradients:
            return loss, steps.input_gradients(len(X), weights is not None)
        return loss

    def _as_task(self, indices: bool) -> None:
        """Note what the model is trained for, where its first targets say it."""
        if indices and self._task.kind != "classes":
            self._task = Task(self.options.loss.name, "classes", np.arange(self._outputs), self.options.loss.link)

    def _as_inputs(self, X: Any) -> np.ndarray:
        array: np.ndarray = X if type(X) is np.ndarray else arrays.to_host(X)
        if array.dtype != self._dtype:
            raise InputTypeError(f"X: expected {self._dtype}, got {array.dtype}; convert it with .astype('{self._dtype}')")
        if array.shape[1:] != self._features or not array.ndim or not len(array):
            raise InputError(f"X: expected shape {('B', *self._features)} with B >= 1, got {array.shape}")
        if len(array) == 1 and needs_two_rows(self.model):
            raise InputError("X: batch norm cannot be trained on a mini-batch of one example")
        return array

    def _as_targets(self, y: Any, rows: int) -> np.ndarray:
        array: np.ndarray = y if type(y) is np.ndarray else arrays.to_host(y)
        outputs, kind = self._outputs, array.dtype.kind
        if outputs > 1 and kind in "iu" and array.shape == (rows,) and self._compares:
            array = array.astype(np.int64, copy=False)
            if np.maximum.reduce(array.view(np.uint64)) >= outputs:  # a negative one is large there
                raise InputError(f"y: expected class indices 0 to {outputs - 1}, got {array.min()} to {array.max()}")
            return array
        if kind not in "iub" and array.dtype != self._dtype:
            raise InputTypeError(f"y: expected integers or {self._dtype}, got {array.dtype}")
        if array.shape == (rows,) and outputs == 1:
            return array.astype(self._dtype, copy=False).reshape(rows, 1)
        if array.shape != (rows, outputs):
            also = f"class indices ({rows},) or " if self._compares and outputs > 1 else f"({rows},) or " * (outputs == 1)
            raise InputError(f"y: expected {also}rows {(rows, outputs)}, got {array.dtype} of shape {array.shape}")
        return array.astype(self._dtype, copy=False)

    def _as_weights(self, sample_weight: Any, rows: int) -> np.ndarray:
        array: np.ndarray = sample_weight if type(sample_weight) is np.ndarray else arrays.to_host(sample_weight)
        if array.dtype != self._dtype or array.shape != (rows,):
            raise InputError(
                f"sample_weight: expected {self._dtype} of shape {(rows,)}, got {array.dtype} of shape {array.shape}"
            )
        return array


class Continuation:
    """What the last call of `partial_fit` on the host leaves for the next one that asks for the same."""

    def __init__(self) -> None:
        self._asked: tuple[Any, ...] | None = None
        self._options: StepOptions
        self._steps: SingleSteps
        self._task: Task | None = None
        self._kind: tuple[Any, ...] = ()
        """Of the examples: their layout and what else tells their tasks apart."""
        self._indices = False
        """Whether targets are class indices, and labels are too."""

    def prepare(self, model: ModelState, settings: FitOptions) -> bool:
        """Be ready for a call with these settings; whether it is one that can be answered here."""
        asked = (settings.loss, settings.optimizer, settings.l2, settings.l1, settings.device, settings.threads)
        if asked != self._asked:
            loss, optimizer = as_loss(settings.loss), as_optimizer(settings.optimizer)
            engine, _ = engines.choose(settings.device)
            if not engine.is_host or not loss.built_in:  # what a loss of the user's own closes over may change
                return False
            check_options(settings)
            check_endless(as_schedule(optimizer.learning_rate), "partial_fit")
            if self._kind:
                self._steps.close(model.instances)
            self._options = StepOptions(loss, optimizer, engine, None, settings.l2, settings.l1, settings.threads)
            self._asked, self._kind, self._task, self._indices = asked, (), None, False
        return True

    def make(self, model: ModelState, X: np.ndarray, y: Any, settings: FitOptions) -> dict[str, float]:
        """One step; returns what `partial_fit` does."""
        if settings.sample_weight is None and self._is_as_before(model, X, y):
            weights = None
        else:
            examples = self._examples(model, X, y, settings)
            X, y, weights = examples.X, examples.y, examples.weights
        row = self._steps.make(model, X, y, weights)
        model.task, model.feature_names, model.data_glance = self._task, model.column_names, None
        return values_of_step(self._steps, row, len(X), weights is not None)

    def _is_as_before(self, model: ModelState, X: np.ndarray, y: Any) -> bool:
        """Whether these are surely examples such as the last ones, whose class indices and values are valid."""
        known = self._indices and model.task is self._task
        return known and X.dtype == self._steps.layout.source and are_indexed(model.expected, X, y)

    def _examples(self, model: ModelState, X: Any, y: Any, settings: FitOptions) -> PreparedData:
        """The examples, checked, and the steps for such."""
        loss = self._options.loss
        examples = prepare(
            model.expected, X, y, loss, settings.sample_weight, None, known=known_task(model, settings),
            classes=settings.classes, part=True,
        )  # fmt: skip
        layout = replace(examples.layout, weighted=False)
        self._task = task = examples.task(loss, model.task)
        kind = layout, Decision.of(examples.kind, loss.link)
        if kind != self._kind:
            if self._kind:
                self._steps.close(model.instances)
            self._steps = SingleSteps(replace(self._options, decision=kind[1]), layout, len(examples.X))
            self._kind = kind
        self._indices = examples.kind == "classes" and layout.target == "int64" and task.indices
        return examples


def values_of_step(steps: SingleSteps, row: np.ndarray, rows: int, weighted: bool = False) -> dict[str, float]:
    """What a step of `rows` rows wrote down, with the names and the bits that `fit` gives the means of an epoch of one step."""
    written = row.tolist()
    weight = written[LOG_COLUMNS["weight"]] if weighted else float(rows)
    weights = {"loss": weight}
    if steps.options.decision is not None:
        weights["accuracy"] = weight
    if steps.penalized:
        weights["penalty"] = rows
    return {name: written[LOG_COLUMNS[name]] * w / w if w else 0.0 for name, w in weights.items()}


def continue_with(model: ModelState, X: Any, y: Any, settings: FitOptions) -> dict[str, float] | None:
    """What `partial_fit` returns where the step is one of a model with parameters, on the host, on an array; None where `fit`
    has to look at everything: other arrays, losses of one's own, mini-batches that it refuses."""
    if not model.built or type(X) is not np.ndarray or X.ndim < 2 or X.nbytes > LARGEST_BYTES or y is None:
        return None
    if len(X) < 2 and (not len(X) or needs_two_rows(model)):
        return None
    with model.reserve(), model.instances.take("partial_fit", Continuation) as kept:
        return kept.make(model, X, y, settings) if kept.prepare(model, settings) else None
