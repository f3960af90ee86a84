"""Models side by side in one program: the parameters of all lie beside each other, a lane of a register a model.

Each operation is done for all models at a time, on the same mini-batch (`ops.grouped_dense`); each has the bits it has alone.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fastnn import engines, ops
from fastnn.data.feeds import Feed, feed
from fastnn.data.prepared import PreparedData, prepare
from fastnn.errors import NotReadyError
from fastnn.losses import Loss
from fastnn.metrics import as_metrics
from fastnn.network import programs
from fastnn.network.model import as_loss_network
from fastnn.network.programs import LOG_ROWS
from fastnn.network.state import Trained
from fastnn.optimizers import Optimizer
from fastnn.program.differentiate import gradients, place
from fastnn.program.passes.fuse import fuse
from fastnn.program.shapes import B, BatchDim, N
from fastnn.program.trace import Call, Program, Symbol, Trace, constant
from fastnn.schedules import as_schedule
from fastnn.training.evaluation import accuracy_attributes, check_measures, measured
from fastnn.training.options import ALL, FitOptions
from fastnn.training.trainer import CHUNK_SECONDS
from fastnn.tuning.together.members import Member, MemberHistory
from fastnn_kernels.contract import SCALARS, UPDATES
from fastnn_kernels.memory import aligned


def train_vectorized(
    members: Sequence[Member],
    X: Any,
    y: Any,
    settings: FitOptions,
    optimizer: Optimizer,
    loss: Loss,
    visit: Callable[[int], Any],
) -> list[MemberHistory]:
    """Train all models in one program, and give each what became of it."""
    model = members[0].model
    engine, reason = engines.choose(settings.device)
    with contextlib.ExitStack() as open_:
        for member in members:
            if not member.model._training.acquire(blocking=False):
                raise NotReadyError("one of the models is being trained already by another call of fit")
            open_.callback(member.model._training.release)
        examples = prepare(model.expected, X, y, loss, None, None)
        validation = None
        if settings.validation_data is not None:
            known = examples.task(loss)
            validation = prepare(model.expected, *settings.validation_data, loss, None, None, "validation ", known, part=True)
            check_measures(model, validation, loss, as_metrics(settings.metrics))
        with engines.translated():
            models = _Vectorized(members, examples, validation, loss, optimizer, engine, settings)
            open_.callback(models.close)
            models.train(visit)
        for g, member in enumerate(members):
            models.give_back(g, member)
            history = models.histories[g]
            history.device, history.reason, history.seed = engine.name, reason, member.model.seed
    return models.histories


class _Vectorized:
    """One training of G models in one program. The arena holds the arenas of the models, one after another."""

    def __init__(
        self, members: Sequence[Member], examples: PreparedData, validation: PreparedData | None, loss: Loss,
        optimizer: Optimizer, engine: engines.Engine, settings: FitOptions,
    ) -> None:  # fmt: skip
        self.members, self.examples, self.validation = members, examples, validation
        self.loss, self.optimizer, self.engine, self.settings = loss, optimizer, engine, settings
        self.network = network = as_loss_network(members[0].model, loss)
        self.accuracy = accuracy_attributes(loss, examples.kind)
        self.metrics = as_metrics(settings.metrics)
        self.columns = ("loss",) if self.accuracy is None else ("loss", "accuracy")
        """What a step of training and one of evaluation write down of each model; the former its penalty too."""
        own_rates = any(member.learning_rate is not None for member in members)  # then they are the factors of a rate of 1
        self.groups, self.schedule = len(members), as_schedule(1.0 if own_rates else optimizer.learning_rate)
        n, given = len(examples.X), settings.batch_size
        self.batch_size = n if given == ALL else min(int(given), n)
        self.feed = feed(engine, examples, self.batch_size)
        self.validation_feed = None
        if validation is not None:
            self.validation_feed = feed(engine, validation, min(len(validation.X), engine.block_rows))
        arena = aligned(self.groups * network.size, network.dtype).reshape(self.groups, network.size)
        for g, member in enumerate(members):
            arena[g] = member.model._parameters
        self.segments = [_segments(member, optimizer, own_rates) for member in members]
        self.penalized = [bool(table[:, :2].any()) for _, table in self.segments]
        """Which of the models have a penalty."""
        ends = [first[1:] + g * network.size for g, (first, _) in enumerate(self.segments)]
        self.kept = ("parameters", *optimizer.slots)
        self.storage = {
            "parameters": engine.place(arena.reshape(-1)),
            **{name: engine.zeros((arena.size,), network.dtype) for name in (*optimizer.slots, "gradient", "grouped_gradient")},
            "control": engine.zeros((8,), np.int64, mirrored=True),
            "log": engine.zeros((LOG_ROWS, (len(self.columns) + 1) * self.groups), network.dtype, mirrored=True),
            "scalars": engine.zeros((LOG_ROWS, len(SCALARS)), network.dtype, mirrored=True),
            "starts": engine.place(np.concatenate([[0], *ends])),
            "own_starts": engine.place(np.concatenate([first for first, _ in self.segments])),
            "penalties": engine.place(np.concatenate([table for _, table in self.segments])),
        }  # fmt: skip
        self.instances: dict[Any, engines.Instance] = {}
        self.step, self.pace = 0, 1e-4
        self.histories = [MemberHistory() for _ in members]
        self.left: dict[int, tuple[list[np.ndarray], int, int]] = {}
        """Of models that diverged: their arrays at the last finite step, that step and the epoch."""

    def train(self, visit: Callable[[int], Any]) -> None:
        """All epochs."""
        epochs = int(self.settings.epochs)
        for epoch in range(epochs):
            order = visit(epoch)
            self.feed.begin(order)
            self.per_epoch = -(-len(order) // self.batch_size)
            sums = np.zeros(self.storage["log"].shape[1])
            for start, rows, count in _batch_segments(len(order), self.batch_size):
                for log in self._stretch(start, rows, count, epoch):
                    for of_step in log * rows:  # one by one: the bits do not depend on chunks
                        sums += of_step
            self._note("", sums / len(order))
            if self.validation is not None:
                self._note("val_", self._evaluate())
                if self.accuracy is None or self.metrics:
                    self._measure()
            if len(self.left) == self.groups:
                break
        threads = max((instance.threads for instance in self.instances.values()), default=1)
        for history in self.histories:
            history.batch_size, history.threads, history.method = self.batch_size, threads, "vectorized"

    def _note(self, prefix: str, means: np.ndarray) -> None:
        """Put the means of an epoch into the histories; (columns, G), of training with the penalties as the last column."""
        for g in self._going():
            names = (*self.columns, "penalty") if not prefix and self.penalized[g] else self.columns
            for name, value in zip(names, means.reshape(-1, self.groups)[:, g], strict=False):
                self.histories[g].setdefault(prefix + name, []).append(float(value))

    def _measure(self) -> None:
        """Put what the program of evaluation does not compute into the histories."""
        assert self.validation is not None
        parameters = self.engine.read(self.storage["parameters"])[0].reshape(self.groups, -1)
        for g in self._going():
            model = self.members[g].model
            model._state.host()["parameters"][...] = parameters[g]
            found = measured(model, self.validation, self.loss, self.settings.threads, self.engine, self.metrics)
            for name, value in found.items():
                self.histories[g].setdefault(f"val_{name}", []).append(value)

    def _going(self) -> list[int]:
        return [g for g in range(self.groups) if g not in self.left]

    def _stretch(self, start: int, rows: int, count: int, epoch: int) -> Any:
        """Play `count` mini-batches of `rows` rows from position `start` of the order on; yields what chunks wrote down."""
        instance = self._instance(rows, True)
        instance.bind(**self.feed.bindings())
        done = 0
        while done < count:
            here = start + done * rows
            chunk = min(count - done, LOG_ROWS, max(1, int(CHUNK_SECONDS / self.pace)), self.feed.most(here, rows) or count)
            before = self._arrays()
            began = time.perf_counter()
            log = self._play(instance, here, chunk, epoch)
            self.pace = (time.perf_counter() - began) / chunk
            if self._spoilt(log, self._arrays()):
                log = self._replay(instance, before, here, chunk, epoch)
            else:
                self.step += chunk
            yield log
            done += chunk

    def _play(self, instance: engines.Instance, position: int, count: int, epoch: int) -> np.ndarray:
        engine = self.engine
        numbers = np.full(count, epoch * self.per_epoch) if self.schedule.per == "epoch" else np.arange(count) + self.step
        rates = self.schedule.rates(numbers, self.per_epoch, int(self.settings.epochs) * self.per_epoch)
        engine.write(self.storage["control"], (0, self.feed.ready(position), self.step))
        engine.write(self.storage["scalars"], self.optimizer.scalars(np.arange(count) + self.step + 1, rates))
        instance.play(count)
        return engine.read(self.storage["log"][:count])[0].astype(np.float64)

    def _arrays(self) -> list[np.ndarray]:
        """Copies of what training changes, (G, P) each."""
        found = self.engine.read(*(self.storage[name] for name in self.kept))
        return [array.reshape(self.groups, -1).copy() for array in found]

    def _write(self, values: Sequence[np.ndarray]) -> None:
        for name, array in zip(self.kept, values, strict=True):
            self.engine.write(self.storage[name], array.reshape(-1))

    def _spoilt(self, log: np.ndarray, found: Sequence[np.ndarray]) -> list[int]:
        """The models that are newly NaN or infinite, in a loss or a parameter."""
        whole = np.isfinite(log[:, : self.groups]).all(axis=0) & np.isfinite(found[0]).all(axis=1)
        return [g for g in self._going() if not whole[g]]

    def _replay(
        self, instance: engines.Instance, before: Sequence[np.ndarray], position: int, count: int, epoch: int
    ) -> np.ndarray:
        """Play a chunk again step by step, and leave each model that it spoils at its last finite step.

        Its place is filled with zeros, which continue without meaning.
        """
        self._write(before)
        logs = []
        for index in range(count):
            before = self._arrays()
            logs.append(self._play(instance, position + index * instance.rows, 1, epoch))
            after = self._arrays()
            for g in self._spoilt(logs[-1], after):
                self.left[g] = ([array[g] for array in before], self.step, epoch)
                self.histories[g].diverged = f"epoch {epoch + 1}, step {self.step + 1}"
                for array in after:
                    array[g] = 0
            self._write(after)
            self.step += 1
        return np.concatenate(logs)

    def _evaluate(self) -> np.ndarray:
        """Loss and accuracy of each model on the validation data."""
        source, engine = self.validation_feed, self.engine
        assert self.validation is not None
        assert source is not None
        n = len(self.validation.X)
        source.begin(np.arange(n))
        sums = np.zeros(self.storage["log"].shape[1])
        for start, rows, count in _batch_segments(n, min(n, engine.block_rows)):
            instance = self._instance(rows, False)
            instance.bind(**source.bindings())
            done = 0
            while done < count:
                here = start + done * rows
                chunk = min(count - done, LOG_ROWS, source.most(here, rows) or count)
                engine.write(self.storage["control"], (0, source.ready(here), 0))
                instance.play(chunk)
                table = engine.read(self.storage["log"][:chunk])[0].astype(np.float64) * rows
                sums += np.ascontiguousarray(table.T).sum(axis=1)  # as `evaluate` sums: one column after another
                done += chunk
        return sums / n

    def _instance(self, rows: int, training: bool) -> engines.Instance:
        instance = self.instances.get((rows, training))
        if instance is None:
            program = self._program(training)
            instance = self.engine.instantiate(program, rows, self.settings.threads)
            own = {"copies": self.engine.place(np.tile(np.arange(rows), self.groups))}
            instance.bind(**{k: v for k, v in (self.storage | own).items() if k in program.inputs})
            self.instances[rows, training] = instance
        return instance

    def _program(self, training: bool) -> Program:
        """A step of training, or of evaluation. Rows are examples; behind the layers each has one row a model."""
        network, groups, size = self.network, self.groups, self.network.size
        examples = self.examples if training else self.validation
        assert examples is not None
        data = examples.layout
        trace = Trace(network.dtype)
        control = trace.input("control", (8,), "int64")
        index, position = (control.view((), programs.CONTROL[name], name) for name in ("index", "position"))
        order = trace.input("order", (N,), "int64")
        log = trace.input("log", (N, self.storage["log"].shape[1]))
        source = trace.input("X", (N, *network.features), data.source)
        x = ops.gather_rows(source, order, position, B, network.dtype, network.input_scale)
        target = trace.input("y", (N, *data.target_shape), data.target)
        t = ops.gather_rows(target, order, position, B, "int64" if data.target == "int64" else network.dtype)
        arena = trace.input("parameters", (groups * size,))
        models = ops.transpose(arena.view((groups, size)))
        parameters = {p.name: models.view((*p.shape, groups), p.start * groups, p.name) for p in network.parameters}
        outputs = _forward(network, x, parameters, groups)
        classes = self.members[0].model._outputs[0]
        # The rows of a model lie together: the mean over them then has the bits that it has alone.
        rows = ops.reshape(ops.transpose(outputs, (2, 0, 1)), (BatchDim(groups), classes))
        if t.dtype.kind == "i":  # nothing but `gather` repeats integers
            copies = trace.input("copies", (BatchDim(groups),), "int64")
            (each_target,) = trace.record("gather", (t, copies), [((BatchDim(groups),), t.dtype)])
        else:
            each_target = ops.reshape(ops.expand(t, (groups, *t.shape), 0), (BatchDim(groups), *t.shape[1:]))
        losses = self.loss.function(rows, programs.loss_targets(rows, each_target, self.loss))
        means = ops.mean(ops.reshape(losses, (groups, B)), 1)
        if training:
            gradient = trace.input("gradient", (groups * size,))
            grouped = trace.input("grouped_gradient", (groups * size,))
            found = gradients(ops.sum(means), list(parameters.values()))
            views = [grouped.view(s.shape, p.start * groups) for p, s in zip(network.parameters, found, strict=True)]
            trace.calls = place(trace.calls, list(zip(found, views, strict=True)))
            whole = grouped.view((size, groups)), gradient.view((groups, size))
            trace.calls.append(Call("transpose", whole, {"axes": (1, 0)}))
        trace.record("record", (means, index, log), [], {"column": 0})
        if self.accuracy is not None:
            correct = ops.reshape(ops.is_correct(rows, each_target, **self.accuracy), (groups, B))
            trace.record("record", (ops.mean(correct, 1), index, log), [], {"column": groups})
        if training:
            starts = trace.input("starts", tuple(self.storage["starts"].shape), "int64")
            penalties = trace.input("penalties", tuple(self.storage["penalties"].shape))
            own_starts, done = trace.input("own_starts", tuple(self.storage["own_starts"].shape), "int64"), 0
            for g, (first, table) in enumerate(self.segments):
                own = own_starts.view(first.shape, done + g), penalties.view(table.shape, 4 * done)
                if self.penalized[g]:
                    value = ops.penalty(arena.view((size,), g * size), *own)
                    trace.record("record", (value, index, log), [], {"column": len(self.columns) * groups + g})
                done += len(table)
            state = [trace.input(slot, (groups * size,)) for slot in UPDATES[self.optimizer.kernel].slots]
            ops.update(
                self.optimizer.kernel, arena, state, gradient, constant(gradient, 0.0),
                trace.input("scalars", (N, len(SCALARS))), index, starts, penalties, self.optimizer.attributes(),
            )  # fmt: skip
        trace.record("advance", (control,), [], {"rows": B})
        return fuse(trace.program({}))

    def give_back(self, g: int, member: Member) -> None:
        """Write what became of a model into it."""
        if g in self.left:
            (parameters, *state), step, epoch = self.left[g]
        else:
            parameters, *state = (array[g] for array in self._arrays())
            step, epoch = self.step, int(self.settings.epochs)
        model = member.model
        slots = model._start_slots(type(self.optimizer).__name__, self.optimizer.slots, step)
        for slot, values in zip(slots.values(), state, strict=True):
            slot[...] = values
        model._state.host()["parameters"][...] = parameters
        model.counters.step, model.counters.epoch = step, epoch
        model.task, model._loss = self.examples.task(self.loss), self.loss
        model._optimizer = member.optimizer(self.optimizer)
        model.device, model.trained = self.engine.name, Trained(self.engine.name, "float32")

    def close(self) -> None:
        for source in (self.feed, self.validation_feed):
            if isinstance(source, Feed):
                source.close()


def _forward(network: programs.Network, x: Symbol, parameters: Mapping[str, Symbol], groups: int) -> Symbol:
    """The outputs (B, O, G) of all models for the inputs x that all of them read."""
    grouped = False
    for number, layer in enumerate(network.layers):
        own = {p.attribute: parameters[p.name] for p in network.parameters if p.layer == number}
        x = layer.bound(own).forward_vectorized(x, grouped)
        grouped = grouped or bool(own)
    return x


def _segments(member: Member, optimizer: Optimizer, own_rates: bool) -> tuple[np.ndarray, np.ndarray]:
    """`Network.segments` of a model, with its rate as a factor where some have rates of their own."""
    starts, table = member.model.network.segments(member.l2, member.l1, optimizer.weight_decay)  # of its own frozen layers
    if own_rates:
        table[:, 3] *= member.optimizer(optimizer).learning_rate
    return starts, table


def _batch_segments(n: int, batch_size: int) -> list[tuple[int, int, int]]:
    """(start, rows, how many such mini-batches in a row) of an epoch of n examples."""
    whole, rest = divmod(n, batch_size)
    return [s for s in ((0, batch_size, whole), (whole * batch_size, rest, 1 if rest else 0)) if s[2]]
