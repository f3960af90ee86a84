"""Models side by side in one program: the parameters of all lie beside each other, a lane of a register a model.

Each operation is done for all models at a time, on the same mini-batch (`ops.grouped_dense`); each has the bits it has alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastnn import engines
from fastnn.data.feeds import Feed, feed
from fastnn.data.orders import batch_count
from fastnn.data.prepared import PreparedData, prepare, prepare_validation
from fastnn.errors import DivergenceError
from fastnn.losses import Loss
from fastnn.metrics import as_metrics
from fastnn.network.layout import as_loss_network
from fastnn.network.programs import LOG_ROWS, Decision, Update, VectorizedStep
from fastnn.network.state import Trained
from fastnn.optimizers import Optimizer
from fastnn.schedules import as_schedule
from fastnn.training.chunks import Chunks, accumulate, learning_rates, write_tables
from fastnn.training.divergence import Spoiled
from fastnn.training.evaluation import check_measures, evaluate_metrics, loss_and_accuracy, play_blocks
from fastnn.training.options import ALL, FitOptions
from fastnn.tuning.together.members import RESERVED, Member, MemberHistory
from fastnn_kernels.contract import AVERAGE, SCALARS
from fastnn_kernels.memory import aligned_zeros


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
            open_.enter_context(member.model.reserve(RESERVED))
        examples = prepare(model.expected, X, y, loss, None, None)
        validation = None
        if settings.validation_data is not None:
            validation = prepare_validation(model.expected, settings.validation_data, loss, examples)
            check_measures(model.network, validation, loss, as_metrics(settings.metrics))
        with engines.translate_errors():
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
        self.network = network = as_loss_network(members[0].model.network, loss)
        self.decision = Decision.of(examples.kind, loss.link)
        self.metrics = as_metrics(settings.metrics)
        self.columns = ("loss",) if self.decision is None else ("loss", "accuracy")
        """What a step of training and one of evaluation write down of each model; the former its penalty too."""
        own_rates = any(member.learning_rate is not None for member in members)  # then they are the factors of a rate of 1
        self.groups, self.schedule = len(members), as_schedule(1.0 if own_rates else optimizer.learning_rate)
        n, batch_size = len(examples.X), settings.batch_size
        self.batch_size = n if batch_size == ALL else min(int(batch_size), n)
        self.feed = feed(engine, examples, self.batch_size)
        self.validation_feed = None
        if validation is not None:
            self.validation_feed = feed(engine, validation, min(len(validation.X), engine.block_rows))
        arena = aligned_zeros(self.groups * network.size, network.dtype).reshape(self.groups, network.size)
        for g, member in enumerate(members):
            arena[g] = member.model.state.read()["parameters"]
        self.segments = [_segments(member, optimizer, own_rates) for member in members]
        self.penalized = [bool(table[:, :2].any()) for _, table in self.segments]
        """Which of the models have a penalty."""
        segments = tuple(zip((len(table) for _, table in self.segments), self.penalized, strict=True))
        self.recipe = VectorizedStep(loss, examples.layout, self.decision, self.groups, Update.of(optimizer), segments)
        if validation is not None:
            self.evaluation = VectorizedStep(loss, validation.layout, self.decision, self.groups, None, ())
        ends = [first[1:] + g * network.size for g, (first, _) in enumerate(self.segments)]
        self.kept = ("parameters", *optimizer.slots)
        self.storage = {
            "parameters": engine.to_device(arena.reshape(-1)),
            **{name: engine.zeros((arena.size,), network.dtype) for name in (*optimizer.slots, "gradient", "grouped_gradient")},
            "control": engine.zeros((8,), np.int64, mirrored=True),
            "log": engine.zeros((LOG_ROWS, self.recipe.columns), network.dtype, mirrored=True),
            "scalars": engine.zeros((LOG_ROWS, len(SCALARS)), network.dtype, mirrored=True),
            "starts": engine.to_device(np.concatenate([[0], *ends])),
            "own_starts": engine.to_device(np.concatenate([first for first, _ in self.segments])),
            "penalties": engine.to_device(np.concatenate([table for _, table in self.segments])),
        }  # fmt: skip
        if AVERAGE in optimizer.slots:
            engine.write(self.storage[AVERAGE], arena.reshape(-1))
        self.instances: dict[Any, engines.Instance] = {}
        self.step, self.epoch, self.per_epoch = 0, 0, 1
        self.sums = np.zeros(self.storage["log"].shape[1])
        self.histories = [MemberHistory() for _ in members]
        self.left: dict[int, tuple[list[np.ndarray], int, int]] = {}
        """Of models that diverged: their arrays at the last finite step, that step and the epoch."""

    def train(self, visit: Callable[[int], Any]) -> None:
        """All epochs."""
        chunks = Chunks(self)
        for epoch in range(int(self.settings.epochs)):
            self.epoch, order = epoch, visit(epoch)
            self.per_epoch = batch_count(len(order), self.batch_size)
            self.sums = np.zeros_like(self.sums)
            try:
                for _ in chunks.epoch(order, self.batch_size):
                    pass
            except DivergenceError:  # of the last one
                break
            validation = None if self.validation is None else self._evaluate()
            if validation is not None:
                self._leave_nonfinite(validation[: self.groups])
            self._note("", self.sums / len(order))
            if len(self.left) == self.groups:
                break
            if validation is not None:
                self._note("val_", validation)
                if self.decision is None or self.metrics:
                    self._measure()
        threads = max((instance.threads for instance in self.instances.values()), default=1)
        for history in self.histories:
            history.batch_size, history.threads, history.method = self.batch_size, threads, "vectorized"
            history.training_rows = len(self.examples.X)
            history.validation_rows = 0 if self.validation is None else len(self.validation.X)

    def _leave_nonfinite(self, losses: np.ndarray) -> None:
        """Leave the models where they are whose losses on the validation data are not finite."""
        spoiled = [g for g in self._going() if not np.isfinite(losses[g])]
        arrays = self.snapshot() if spoiled else []
        for g in spoiled:
            self.left[g] = ([array[g] for array in arrays], self.step, self.epoch)
            self.histories[g].diverged = f"epoch {self.epoch + 1}: after step {self.step}"

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
            model.state.host()["parameters"][...] = parameters[g]
            values = evaluate_metrics(model, self.validation, self.loss, self.settings.threads, self.engine, self.metrics)
            for name, value in values.items():
                self.histories[g].setdefault(f"val_{name}", []).append(value)

    def _going(self) -> list[int]:
        return [g for g in range(self.groups) if g not in self.left]

    # --- the steps of all models, as `Steps` of `fastnn.training.divergence` ------------------------------------------

    def until_call(self) -> None:
        """Nobody is called within an epoch."""

    def instance(self, rows: int) -> engines.Instance:
        """The step of all models for mini-batches of `rows` rows."""
        instance = self._instance(rows, True)
        instance.bind(**self.feed.bindings())
        return instance

    def snapshot(self) -> list[np.ndarray]:
        """Copies of what training changes, (G, P) each."""
        arrays = self.engine.read(*(self.storage[name] for name in self.kept))
        return [array.reshape(self.groups, -1).copy() for array in arrays]

    def restore(self, snapshot: Sequence[np.ndarray]) -> None:
        """Put them back."""
        for name, array in zip(self.kept, snapshot, strict=True):
            self.engine.write(self.storage[name], array.reshape(-1))

    def prepare(self, count: int, position: int) -> None:
        """Write what the next `count` steps read, which belong to this epoch."""
        epochs = int(self.settings.epochs)
        rates = learning_rates(self.schedule, count, self.step, self.epoch, self.per_epoch, epochs)
        scalars = self.optimizer.scalars(np.arange(count) + self.step + 1, rates)
        write_tables(self.engine, self.storage, self.feed, position, self.step, scalars)

    def look(self, count: int) -> tuple[np.ndarray, list[int]]:
        """What the last `count` steps wrote down, float64 (count, columns x G); and the models that are newly not finite."""
        log, parameters = self.engine.read(self.storage["log"][:count], self.storage["parameters"])
        finite = np.isfinite(log[:, : self.groups]).all(axis=0)
        finite &= np.isfinite(parameters.reshape(self.groups, -1)).all(axis=1)
        return log.astype(np.float64), [g for g in self._going() if not finite[g]]

    def advance(self, count: int) -> None:
        """The models are `count` whole steps further."""
        self.step += count

    def count(self, log: np.ndarray, rows: int) -> None:
        """Note what whole steps of `rows` rows each wrote down."""
        self.sums = accumulate(self.sums, log * rows)

    def drop(self, spoiled: Spoiled) -> np.ndarray:
        """Leave the models that this step spoils where they were before it. Zeros take their place, which mean nothing."""
        after = self.snapshot()
        for g in spoiled.nonfinite:
            self.left[g] = ([array[g] for array in spoiled.before], self.step, self.epoch)
            self.histories[g].diverged = f"epoch {self.epoch + 1}, step {self.step + 1}"
            for array in after:
                array[g] = 0
        if len(self.left) == self.groups:
            raise DivergenceError("all models diverged")
        self.restore(after)
        log: np.ndarray = spoiled.log
        return log

    # --- evaluation, and the programs -------------------------------------------------------------------------------

    def _evaluate(self) -> np.ndarray:
        """Loss and accuracy of each model on the validation data; where these have weights, of one model after another."""
        source = self.validation_feed
        assert self.validation is not None
        if self.validation.weights is not None:
            return self._evaluate_each(self.validation)
        assert source is not None
        n, sums = len(self.validation.X), np.zeros(self.storage["log"].shape[1])
        for rows, table in play_blocks(
            self.engine, source, n, lambda rows: contextlib.nullcontext(self._instance(rows, False))
        ):
            sums += np.ascontiguousarray((table * rows).T).sum(axis=1)  # as `evaluate` sums: one column after another
        return sums / n

    def _evaluate_each(self, validation: PreparedData) -> np.ndarray:
        parameters = self.engine.read(self.storage["parameters"])[0].reshape(self.groups, -1)
        means = np.zeros((len(self.columns), self.groups))
        for g in self._going():
            model = self.members[g].model
            model.state.host()["parameters"][...] = parameters[g]
            arguments = validation, self.loss, self.settings.threads, self.engine, self.validation_feed
            values = loss_and_accuracy(model, *arguments)
            means[:, g] = [values[name] for name in self.columns]
        return means.reshape(-1)

    def _instance(self, rows: int, training: bool) -> engines.Instance:
        instance = self.instances.get((rows, training))
        if instance is None:
            program = (self.recipe if training else self.evaluation).build(self.network)
            instance = self.engine.instantiate(program, rows, self.settings.threads)
            copies = {"copies": self.engine.to_device(np.tile(np.arange(rows), self.groups))}
            instance.bind(**{k: v for k, v in (self.storage | copies).items() if k in program.inputs})
            self.instances[rows, training] = instance
        return instance

    def give_back(self, g: int, member: Member) -> None:
        """Write what became of a model into it."""
        if g in self.left:
            (parameters, *state), step, epoch = self.left[g]
        else:
            parameters, *state = (array[g] for array in self.snapshot())
            step, epoch = self.step, int(self.settings.epochs)
        model = member.model
        slots = model.state.start_optimizer(type(self.optimizer).__name__, self.optimizer.slots, step)
        for slot, values in zip(slots.values(), state, strict=True):
            slot[...] = values
        model.state.host()["parameters"][...] = parameters
        model.counters.step, model.counters.epoch = step, epoch
        model.task, model.loss = self.examples.task(self.loss), self.loss
        model.optimizer = member.optimizer(self.optimizer)
        model.device, model.trained = self.engine.name, Trained(self.engine.name, "float32")

    def close(self) -> None:
        for source in (self.feed, self.validation_feed):
            if isinstance(source, Feed):
                source.close()


def _segments(member: Member, optimizer: Optimizer, own_rates: bool) -> tuple[np.ndarray, np.ndarray]:
    """`Network.penalty_table` of a model, with its rate as a factor where some have rates of their own."""
    starts, table = member.model.network.penalty_table(member.l2, member.l1, optimizer.weight_decay)  # of its own frozen layers
    if own_rates:
        table[:, 3] *= member.optimizer(optimizer).learning_rate
    return starts, table
