"""`Trainer`: one training, from the first step to the last.

A run plays its step program in chunks (`fastnn.training.chunks`), and tells its callbacks between them.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fastnn import arrays, engines, random
from fastnn.callbacks import Callback, Checkpoint, Progress
from fastnn.configurations import as_number
from fastnn.data.batches import Batches, is_batches
from fastnn.data.feeds import Feed, feed
from fastnn.data.inputs import Inputs, read
from fastnn.data.orders import as_order, batch_runs, shuffle
from fastnn.data.prepared import (
    DataLayout,
    Expected,
    Glance,
    PreparedData,
    hold_back,
    prepare,
    prepare_indexed,
    prepare_validation,
)
from fastnn.datasets.splitting import draw_parts
from fastnn.errors import DeviceError, DivergenceError, InputError, warn
from fastnn.losses import as_loss, smooth_labels
from fastnn.metrics import as_metrics
from fastnn.network.layout import Layout
from fastnn.network.model import Before, ModelState, expected_of
from fastnn.network.programs import LOG_COLUMNS, Decision, InstanceKey, TrainingStep
from fastnn.network.state import Snapshot, Trained
from fastnn.program.plan import plan
from fastnn.program.trace import Program
from fastnn.schedules import as_schedule
from fastnn.training import resume
from fastnn.training.chunks import Chunks, accumulate, learning_rates, write_tables
from fastnn.training.divergence import Spoiled, first_nonfinite
from fastnn.training.evaluation import check_measures, evaluate_metrics, loss_and_accuracy, measures
from fastnn.training.history import History
from fastnn.training.interrupts import Interrupts
from fastnn.training.method import method_of
from fastnn.training.options import ALL, AUTO, FitOptions, as_callbacks, as_optimizer, check_options
from fastnn.training.start import (
    BACKUP_SECONDS,
    check_endless,
    choose_engine,
    continues,
    glance_at,
    known_task,
    needs_two_rows,
    start_optimizer,
)
from fastnn.training.undo import Chunk, Mark

WEIGHT = LOG_COLUMNS["weight"]


class Trainer:
    """One call of `fit`. Callbacks read `model`, `epoch`, `epochs`, `step`, `total_steps`, `in_epoch`, `history` and
    `batch_size`, and may set `learning_rate`.

    `like`: a run on the same examples, for a model of the same layers: what was checked and placed for it is used here too.
    """

    def __init__(self, model: ModelState, X: Any, y: Any, settings: FitOptions, like: Trainer | None = None) -> None:
        self.model, self.order, self.shard_rows, self.like = model, settings.order, settings.shard_rows, like
        self.part, self.shuffle = settings.part, settings.shuffle
        self.validation_split: float | None = None
        self.held_back: tuple[int, int] | None = None
        self.loss = smooth_labels(as_loss(settings.loss), settings.label_smoothing)
        self.optimizer = as_optimizer(settings.optimizer)
        validated = settings.validation_data is not None or settings.validation_split is not None
        self.metrics = as_metrics(settings.metrics, validated)
        callbacks = [*as_callbacks(settings.callbacks), *([Progress()] if settings.verbose else [])]
        self.callbacks = sorted(callbacks, key=lambda callback: isinstance(callback, Checkpoint))
        """As given, but checkpoints last: they write down what the others know."""
        self.layout: Layout
        self.expected: Expected
        self.batch_size = 0
        self.validation: PreparedData | None = None
        self.batches = Batches(X, settings.epochs) if is_batches(X, y) else None
        self.engine, self.reason = self._choose_engine(X, settings)
        check_options(settings)
        self.epochs, self.autotune, self.threads = int(settings.epochs), settings.autotune, settings.threads
        self.penalties = (settings.l2, settings.l1)
        self.penalties_by_weight = settings.penalties_by_weight
        self.pairs = needs_two_rows(model)
        if self.batches is None:
            self.examples = self._whole(X, y, settings)
            self.runs = batch_runs(len(self.examples.X), self.batch_size, self.pairs)
            self.steps_per_epoch: int = sum(count for _, count in self.runs)
        else:
            self.examples = self._first_of(self.batches, settings)
            self.steps_per_epoch = settings.steps_per_epoch or 0
        if like is not None:
            self.validation = like.validation
        elif settings.validation_data is not None:
            self.validation = prepare_validation(self.expected, settings.validation_data, self.loss, self.examples)
        if self.validation is not None:
            check_measures(self.layout.network, self.validation, self.loss, self.metrics)
        self.schedule = as_schedule(self.optimizer.learning_rate)
        if self.part:
            check_endless(self.schedule, "partial_fit")
        self.history = History()
        self.epoch: int = 0
        self.step, self.in_epoch, self.seen = 0, 0, 0
        self.own_rate: float | None = None
        """The learning rate that was set instead of the optimizer's schedule."""
        self.sums = np.zeros(len(LOG_COLUMNS))
        """Of this epoch so far, by `LOG_COLUMNS`."""
        self._last: Snapshot | None = None
        self.stopped = False
        self._closing = False
        """Whether an epoch has ended, but not all callbacks have been told."""
        self._interrupts = Interrupts()
        """Held while the run is not `consistent`."""
        self._borrowed: dict[InstanceKey, engines.Instance] = {}
        """Instances that are the model's, and go back to it."""
        self._prepared: tuple[int, int, np.ndarray, np.ndarray]
        """Of the chunk that is played: its position in the order, its first step, its tables of rates and of penalties."""
        self._visits = np.zeros(0, np.int64)
        """The order of this epoch on the host, where penalties follow the weights of its mini-batches."""
        self.started = False
        """Whether a step was made, or an earlier run's steps were taken over."""
        self.earlier = resume.read(self, settings.resume)

    # --- what is trained on, and where --------------------------------------------------------------------------

    def _choose_engine(self, X: Any, settings: FitOptions) -> tuple[engines.Engine, str]:
        """The engine, and why it is that one."""
        device = settings.device
        if self.batches is None and device == "auto" and not arrays.on_host(X):
            device = arrays.device(X)
        return choose_engine(self.model, device, settings)

    def _hold_back(self, whole: PreparedData, share: float, settings: FitOptions) -> PreparedData:
        """The rows that are trained on; the others, a share of each class, become the validation data."""
        labels = None if whole.classes is None else whole.labels(whole.task(self.loss))
        parts = draw_parts(len(whole.X), (1.0 - share, share), self.model.seed, labels, "validation_split")
        training, validation = map(np.sort, parts)
        if labels is not None and len(missing := np.setdiff1d(labels, labels[training])):
            label = missing[0].item()
            raise InputError(f"validation_split: {share:g} leaves no row of {label!r} to train on; hold back fewer rows")
        examples, self.validation = hold_back(
            self.expected, whole, training, validation, settings.sample_weight, settings.class_weight
        )
        self.held_back = len(training), len(validation)
        return examples

    def _whole(self, X: Any, y: Any, settings: FitOptions) -> PreparedData:
        """All examples at hand, and the size of their mini-batches."""
        if y is None:
            raise InputError("y is missing: give targets, or an iterable of mini-batches (X, y) instead of X")
        if settings.steps_per_epoch is not None:
            raise InputError("steps_per_epoch: arrays are gone through whole; it is for iterables of mini-batches")
        share = settings.validation_split
        examples = self._prepare(X, y, settings)
        if share is not None:
            self.validation_split = float(share)
            examples = self._hold_back(examples, self.validation_split, settings)
        self._configure(examples)
        n, batch_size = len(examples.X), settings.batch_size
        if batch_size == ALL:
            batch_size = n
        elif batch_size == AUTO:
            self.examples = examples
            batch_size = self._largest_batch(n)
        elif int(batch_size) > n:
            warn(f"batch_size {batch_size} is more than the {n} examples; {n} is used")
        self.batch_size = min(int(batch_size), n)
        if self.pairs and self.batch_size == 1:
            raise InputError("batch norm cannot be trained with mini-batches of one example; use batch_size >= 2")
        return examples

    def _prepare(self, X: Any, y: Any, settings: FitOptions) -> PreparedData:
        """All examples at hand, checked; layout and expectations follow from X, or are the model's."""
        model, known = self.model, known_task(self.model, settings)
        weighted = settings.sample_weight is not None or settings.class_weight is not None
        if self.like is None and model.built and not weighted:
            self.layout, self.expected = model.layout, model.expected
            examples = prepare_indexed(self.expected, X, y, self.loss, known)
            if examples is not None:
                return examples
        inputs = self._read(X)
        if self.like is not None:
            return self.like.examples
        return prepare(
            self.expected, inputs, y, self.loss, settings.sample_weight,
            None if settings.validation_split else settings.class_weight, known=known, classes=settings.classes,
            part=settings.part,
        )  # fmt: skip

    def _first_of(self, batches: Batches, settings: FitOptions) -> PreparedData:
        """The first mini-batch of an iterable: what the others must be like."""
        for name in ("sample_weight", "class_weight", "order", "shard_rows"):
            if getattr(settings, name) is not None:
                raise InputError(f"{name}: mini-batches come as they are; give their weights as (X, y, weights)")
        if not settings.shuffle:
            raise InputError("shuffle: mini-batches are never shuffled: they come in the order of the iterable; leave it out")
        if settings.validation_split is not None:
            raise InputError("validation_split: mini-batches come as they are; give validation_data=(X, y)")
        X, y, weights = batches.first()
        inputs = self._read(X, "mini-batch 0: X")
        self._batch_classes = settings.classes
        self._batch_known = known_task(self.model, settings)
        examples = self._batch(inputs, y, weights, "mini-batch 0: ")
        self._configure(examples)
        self.batch_size = len(examples.X)
        self._batch_known = examples.task(self.loss)
        return examples

    def _configure(self, examples: PreparedData) -> None:
        """What follows from the model and the kind of the examples."""
        self.method = method_of(
            self.model, self.layout.network, self.engine, self.loss, self.optimizer, *self.penalties, self.threads
        )
        self.network, self.penalized = self.method.network, self.method.penalized
        self.decision = Decision.of(examples.kind, self.loss.link)
        if not self.part:
            self._warn_of_steps()

    def _warn_of_steps(self) -> None:
        """Say which layers get no gradient because of `step`."""
        layers, (cut_off, stepping) = self.model.layers, self.layout.network.cut_off
        cut = [i for i in cut_off if layers[i].trainable]
        if cut:
            named = [", ".join(f"{i} {layers[i]!r}" for i in of) for of in (cut, [i for i in stepping if i >= cut[0]])]
            warn(
                f"no gradient passes through step, whose derivative is 0, and these layers do not learn: {named[0]}; "
                f"train with sigmoid instead of step in: {named[1]}"
            )

    def _batch(self, X: Any, y: Any, weights: Any, what: str = "") -> PreparedData:
        """One mini-batch of an iterable, checked."""
        examples = prepare(
            self.expected, X, y, self.loss, weights, None, what, self._batch_known, classes=self._batch_classes, part=True
        )
        if self.pairs and len(examples.X) == 1:
            raise InputError(f"{what}X: batch norm cannot be trained on a mini-batch of one example")
        return examples

    def _read(self, X: Any, what: str = "X") -> Inputs:
        """Inputs for the model, and what the model is, or will be, for such."""
        model = self.model
        inputs = read(X, model.network.features if model.built else None, what, model.column_names)
        self.layout = model.layout_for(inputs.array.shape[1:])
        self.expected = expected_of(self.layout, inputs.names or model.column_names)
        return inputs

    # --- what callbacks see -------------------------------------------------------------------------------------

    @property
    def total_steps(self) -> int | None:
        """Steps of the whole run; None where an iterable does not tell how long it is."""
        return self.epochs * self.steps_per_epoch or None

    @property
    def columns(self) -> list[str]:
        """What each epoch puts into the history, but for what callbacks add."""
        columns = [
            "loss",
            *(["accuracy"] if self.decision is not None else []),
            *(["penalty"] if self.penalized else []),
        ]
        if self.validation is not None:
            columns += [f"val_{name}" for name in measures(self.decision, self.metrics)]
        return columns

    @property
    def progress(self) -> tuple[int, int]:
        """How far the run is, to be compared."""
        return self.step, self.epoch

    @property
    def consistent(self) -> bool:
        """Whether the run's counts are those of the model: an error, or a second Ctrl-C, may come between two of them."""
        return not self._closing and self.model.counters.step == self._first_step + self.step

    @property
    def learning_rate(self) -> float:
        """Of the next step; set it, and it takes the place of the optimizer's schedule."""
        if self.own_rate is not None:
            return self.own_rate
        return float(self._rates(1, self.epoch)[0])

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        if not 0.0 <= as_number(rate) < math.inf:
            raise InputError(f"learning_rate: expected a finite number >= 0, got {rate!r}")
        self.own_rate = float(rate)

    def checkpoint_state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """How far the run is, as plain values and arrays: what a checkpoint keeps beside the model."""
        return resume.checkpoint_state(self)

    def keep(self, snapshot: Snapshot) -> None:
        """Put this snapshot of the model back when the run is over, unless an error ends it."""
        self._last = snapshot

    # --- the loop -----------------------------------------------------------------------------------------------

    def train(self) -> History:
        """All epochs. An error before the first step leaves the model as it was, a later one at its last whole step."""
        before = Before(self.model, self._may_change_early())
        try:
            return self._train()
        except (DeviceError, DivergenceError):
            raise  # the model is at its last whole step, as far as it can be brought back
        except BaseException:
            if not self.started:
                before.put_back()
            raise

    def _may_change_early(self) -> bool:
        """Whether the arrays of the model may change before the first step, from whose snapshot they could be put back."""
        asked = self.callbacks or self.order or self.batches or self.earlier  # these may set weights, and take them over
        return bool(asked) or not continues(self.model.state, self.optimizer)

    def _train(self) -> History:
        if self.autotune and self.batches is None:
            for rows, _ in sorted(self.runs):
                self.engine.tune(self.program(), rows)
        with contextlib.ExitStack() as open_:
            if any(isinstance(callback, Checkpoint) for callback in self.callbacks):
                open_.enter_context(self._interrupts)
            self.setup(open_)
            begun: list[Callback] = []
            open_.push(lambda kind, error, trace: self._end(begun, error))
            for callback in self.callbacks:
                begun.append(callback)
                self.stopped = bool(callback.begin(self)) or self.stopped
            chunks = Chunks(self)
            while self.epoch < self.epochs and not self.stopped:
                values = self._epoch(chunks)
                if values is None:  # a callback ended the training within the epoch
                    break
                self.close_epoch(values)
            self._pad_history(self._columns_before, self.epoch)
        if self._last is not None:
            self.model.restore(self._last)
        return self.history

    def setup(self, open_: contextlib.ExitStack) -> None:
        """Make model and history those of this run, with all that the steps need until `open_` closes."""
        model, engine, history = self.model, self.engine, self.history
        if not model.built:
            model.build(self.layout.network.features)
        model.feature_names = self.expected.feature_names
        if self.earlier is not None:
            resume.take_over(self, self.earlier)
            self.started = True
        self._columns_before = tuple(history)
        start_optimizer(model.state, self.optimizer)
        self._bind_data(open_)
        self.storage = self.method.prepare_storage()
        self._undo = self.method.undo
        if not self.loss.built_in:  # what it closes over may have changed since the last call
            self._undo.end()
        model.state.begin(engine, BACKUP_SECONDS)
        model.device, model.trained = engine.name, Trained(engine.name, engine.precision)
        model.task = self.examples.task(self.loss, model.task)
        model.loss, model.optimizer = self.loss, self.optimizer
        model.data_glance = self._glance_at_data()
        history.device, history.reason, history.seed = engine.name, self.reason, model.seed
        history.training_rows = len(self.examples.X) if self.batches is None else 0
        history.validation_rows = 0 if self.validation is None else len(self.validation.X)
        history.precision, history.autotuned, history.batch_size = engine.precision, engine.tuned > 0, self.batch_size
        self._first_step = model.counters.step - self.step
        open_.callback(self._release)

    def _glance_at_data(self) -> Glance | None:
        """What tells the examples from others, of which `glance_at` warns."""
        if self.batches is not None or self.part:
            return None
        return self.examples.glance() if self.earlier is not None else glance_at(self.model, self.examples)

    def _bind_data(self, open_: contextlib.ExitStack) -> None:
        """Get what the steps need, to be given back when `open_` closes."""
        model, engine = self.model, self.engine
        self.validation_feed: Feed | None = None
        self.feed: Feed
        self.fed = self.examples
        """Where mini-batches are taken from, and what these examples are: all, or those of a block of an iterable."""
        if self.batches is None and self.like is None:
            self.feed = feed(engine, self.examples, self.batch_size, kept=model.instances)
            open_.callback(self.feed.close)
        if self.like is not None:
            self.feed, self.validation_feed = self.like.feed, self.like.validation_feed
        elif self.validation is not None:
            like = self.feed if self.held_back is not None else None
            rows = min(len(self.validation.X), engine.block_rows)
            self.validation_feed = feed(engine, self.validation, rows, like, model.instances)
            open_.callback(self.validation_feed.close)

    def _release(self) -> None:
        """Give the borrowed instances back."""
        self.history.threads = max((instance.threads for instance in self._borrowed.values()), default=1)
        state = self.model.state.on(self.engine)
        for key, instance in self._borrowed.items():
            instance.loosen(*state)
            instance.unbind(*(instance.bound.keys() - self.storage.keys()))  # the data may go
            if self.loss.built_in:  # what a loss of the user's own closes over may change
                self.model.instances.give_back(key, instance)
        self._borrowed.clear()

    def _end(self, begun: Sequence[Callback], error: BaseException | None) -> None:
        """Tell every callback that the run is over; the first of their own errors is raised unless another ended the run."""
        failed: BaseException | None = None
        for callback in begun:
            try:
                callback.end(self, error)
            except BaseException as callback_error:
                if error is None and failed is None:
                    failed = callback_error
                elif isinstance(callback_error, Exception):
                    warn(f"{type(callback).__name__}.end failed too: {callback_error}", RuntimeWarning)
                else:
                    failed = callback_error
        if failed is not None:
            raise failed

    def close_epoch(self, values: Mapping[str, float]) -> None:
        """Count an epoch that is over, and tell the callbacks."""
        self._interrupts.hold()
        self._closing = True
        self.sums, self.seen, self.in_epoch = np.zeros(len(LOG_COLUMNS)), 0, 0
        self.epoch += 1
        self.model.state.advance(self.engine, 0, epochs=1)
        self._pad_history((*values, *self._columns_before), self.epoch - 1)
        for name, value in values.items():
            self.history[name].append(value)
        self._notify(self.callbacks, lambda callback: callback.epoch_end(self, self.epoch - 1, values))

    def _pad_history(self, names: Iterable[str], epochs: int) -> None:
        """Let these columns of the history be so long."""
        for name in names:
            column = self.history.setdefault(name, [])
            column += [math.nan] * (epochs - len(column))

    def _notify(self, callbacks: Sequence[Callback], call: Callable[[Callback], bool | None]) -> None:
        """Ask all, even if one fails, so that a checkpoint that is written then holds what each of them knows."""
        failed: Exception | None = None
        for callback in callbacks:
            if isinstance(callback, Checkpoint):  # all others are told
                self._closing = False
            try:
                if call(callback):
                    self.stopped = True
            except Exception as error:
                failed = failed or error
        self._closing = False
        self._interrupts.release()
        if failed is not None:
            try:
                raise failed
            finally:
                del failed  # else this frame, and the whole run with it, would hold itself by the error's traceback

    def _epoch(self, chunks: Chunks) -> dict[str, float] | None:
        """The steps of an epoch that are left, and what the history gets of it; None where a callback ended the training."""
        if self.batches is None:
            played = chunks.epoch(self.order_of(self.epoch), self.batch_size, self.pairs, self.in_epoch)
        else:
            played = self._epoch_of_batches(self.batches, chunks)
        with contextlib.closing(played) as logs:
            for log in logs:
                for callback in self.callbacks:
                    callback.chunk_end(self, log[:, LOG_COLUMNS["loss"]])
                due = [each for each in self.callbacks if each.every is not None and self.step % each.every == 0]
                self._notify(due, lambda callback: callback.step_end(self))
                if self.stopped:
                    return None
        return self.epoch_values()

    def epoch_values(self) -> dict[str, float]:
        """What the history gets of an epoch whose steps are done."""
        sums, seen = dict(zip(LOG_COLUMNS, self.sums.tolist(), strict=True)), self.seen
        total = sums["weight"]
        values = {"loss": sums["loss"] / total if total else 0.0}
        if self.decision is not None:
            values["accuracy"] = sums["accuracy"] / total if total else 0.0
        if self.penalized:
            values["penalty"] = sums["penalty"] / seen if seen else 0.0
        if self.validation is not None:
            arguments = self.model, self.validation, self.loss, self.threads, self.engine
            val_values = loss_and_accuracy(*arguments, self.validation_feed)
            if not math.isfinite(val_values["loss"]):
                raise DivergenceError(
                    f"training diverged in epoch {self.epoch + 1}: after step {self.model.counters.step} the loss of the "
                    "validation data is NaN or infinite. The model is at that step. Lower the learning rate or clip the "
                    "gradient (clip_norm=1.0)"
                )
            val_values |= evaluate_metrics(*arguments, self.metrics)
            values |= {f"val_{name}": value for name, value in val_values.items()}
        return values

    def _epoch_of_batches(self, batches: Batches, chunks: Chunks) -> Generator[np.ndarray]:
        """Play an epoch of an iterable of mini-batches; yields what each chunk wrote down."""
        for block in batches.blocks(self.in_epoch, self._batch, self.steps_per_epoch or None):
            rows = len(block[0].X)
            self.fed = block[0] if len(block) == 1 else PreparedData.concatenate(block)
            self.feed = feed(self.engine, self.fed, rows, kept=self.model.instances)
            with contextlib.closing(self.feed):
                self.feed.begin(np.arange(len(self.fed.X)))
                yield from chunks.play(rows, 0, len(block), 0)
        if not self.in_epoch:
            raise InputError(f"the iterable of mini-batches is empty in epoch {self.epoch + 1}")

    # --- the steps of this run, as `Steps` of `fastnn.training.divergence` ------------------------------------------

    def until_call(self) -> int | None:
        """Steps until a callback wants to be called, or other penalties are due; None where there is neither."""
        if self.penalties_by_weight and self.fed.weights is not None:
            return 1
        if not self.callbacks:
            return None
        left = [callback.every - self.step % callback.every for callback in self.callbacks if callback.every is not None]
        return min(left, default=None)

    def instance(self, rows: int) -> engines.Instance:
        """The step for `rows` rows of what is fed, with data, storage and the model's arrays bound to it."""
        instance = self._instance(self._key(rows))
        instance.bind(**self.feed.bindings(), **self.model.state.on(self.engine))  # callbacks may have set the weights
        return instance

    def snapshot(self) -> Snapshot | Mark:
        """What brings everything back that a step changes."""
        state = self.model.state
        return self._undo.mark(state) if self.engine.is_host else state.snapshot()

    def restore(self, before: Snapshot | Mark) -> None:
        """Bring the model back to there, where this run works."""
        state, engine, undo = self.model.state, self.engine, self._undo
        undo.end()  # unless this comes to its end, the next snapshot is a new one
        self.model.restore(undo.snapshot if isinstance(before, Mark) else before)
        state.on(engine)
        state.mark_changed(engine)
        if isinstance(before, Mark):
            for chunk in undo.chunks[: before.chunks]:
                self._play_again(chunk)
            state.progress = before.progress
            undo.cut(state, before)

    def _play_again(self, chunk: Chunk) -> None:
        """Make the steps of a chunk on the rows that were kept of it."""
        instance, engine, state = self._instance(chunk.key), self.engine, self.model.state
        order = np.arange(len(chunk.data["y"]))
        instance.bind(**chunk.data, order=order, **self.network.input_map.arrays(), **state.on(engine))
        engine.write(self.storage["control"], (0, 0, chunk.step))
        engine.write(self.storage["scalars"], chunk.scalars)
        self.storage.set_penalties(chunk.penalties)
        instance.play(chunk.steps)
        state.advance(engine, chunk.steps)

    def prepare(self, count: int, position: int) -> None:
        """Write what the next `count` steps read, which belong to this epoch."""
        model, kept, engine = self.model, self.model.state.optimizer, self.engine
        assert kept is not None
        if "low_precision_weights" in self.storage:
            weights = self.storage["low_precision_weights"]
            engine.compute("identity", (model.state.on(engine)["parameters"], weights), {})
        rates = self._rates(count, self.epoch) if self.own_rate is None else np.full(count, self.own_rate)
        scalars = self.method.scalars(self.optimizer, kept.updates + 1, rates)
        write_tables(engine, self.storage, self.feed, position, model.counters.step, scalars)
        penalties = self._penalties_at(position) if self.penalties_by_weight else self.method.penalty_table
        self.storage.set_penalties(penalties)
        self._prepared = position, model.counters.step, scalars, penalties

    def _penalties_at(self, position: int) -> np.ndarray:
        """The table of penalties of a mini-batch that begins at `position` of the order."""
        visits, start = self._visits, 0
        for rows, count in batch_runs(len(visits), self.batch_size, self.pairs):
            if position < start + rows * count:
                break
            start += rows * count
        weights = self.fed.weights
        weight = rows if weights is None else float(weights[visits[position : position + rows]].sum(dtype=np.float64))
        l2, l1 = (penalty / weight if weight else 0.0 for penalty in self.penalties)
        return self.network.penalty_table(l2, l1, self.optimizer.weight_decay)[1]

    def look(self, count: int) -> tuple[np.ndarray, Sequence[int]]:
        """What the last `count` steps wrote down, float64 (count, columns); and [0] where one or a parameter is not finite."""
        parameters = self.model.state.on(self.engine)["parameters"]
        nonfinite, log = self.engine.read(self.engine.count_nonfinite(parameters), self.storage["log"][:count])
        table = log.astype(np.float64)
        finite = np.logical_and.reduce(np.isfinite(table[:, 0])) and not np.logical_or.reduce(nonfinite)
        return table, [] if finite else [0]

    def advance(self, count: int) -> None:
        """The model is `count` whole steps further; what the run notes of them follows in `count`."""
        self._interrupts.hold()
        self.model.state.advance(self.engine, count)
        self.started = True

    def count(self, log: np.ndarray, rows: int) -> None:
        """Note what whole steps of `rows` rows each wrote down."""
        steps = len(log)
        self._keep_rows(steps, rows)
        factors: Any = rows
        if self.fed.weights is not None:  # means over what was weighted
            factors = np.full(log.shape, rows, np.float64)
            factors[:, :WEIGHT] = log[:, WEIGHT : WEIGHT + 1]
        added = log * factors
        added[:, WEIGHT] = rows if self.fed.weights is None else log[:, WEIGHT]
        self.sums = accumulate(self.sums, added)
        self.seen += rows * steps
        self.in_epoch += steps
        self.step += steps
        self._interrupts.release()
        self.model.state.back_up(BACKUP_SECONDS)

    def _keep_rows(self, steps: int, rows: int) -> None:
        """Let the way back lead through the steps that are whole now, where that is less work than a snapshot."""
        size = self.feed.bytes_of(steps * rows)
        if size is not None and self._undo.has_room(size):
            position, step, scalars, penalties = self._prepared
            data = self.feed.copy_rows(position, steps * rows)
            chunk = Chunk(self._key(rows), steps, data, step, scalars, penalties)
            self._undo.add(self.model.state, chunk, size)

    def drop(self, spoiled: Spoiled) -> Any:
        """Raise DivergenceError with the name of the tensor that this step spoils."""
        self.restore(spoiled.before)
        self.prepare(1, spoiled.position)
        name = first_nonfinite(self.instance(spoiled.rows))
        self.restore(spoiled.before)
        rate = float(self.engine.read(self.storage["scalars"])[0][0, 0])
        raise DivergenceError.of(self.epoch + 1, self.model.counters.step + 1, name, rate)

    def _rates(self, count: int, epoch: int) -> np.ndarray:
        """The schedule's learning rates of the next `count` steps, which belong to `epoch`."""
        if self.schedule.per != "epoch" and not self.steps_per_epoch:
            raise InputError(
                "the schedule counts steps, and the iterable does not tell how many there are: give steps_per_epoch"
            )
        step = self.model.counters.step - self._first_step
        if self.part:  # the training goes on from call to call
            kept = self.model.state.optimizer
            step = 0 if kept is None else kept.updates
        return learning_rates(self.schedule, count, step, epoch, max(1, self.steps_per_epoch), self.epochs)

    # --- the program and its storage --------------------------------------------------------------------------------

    def recipe(self, data: DataLayout | None = None) -> TrainingStep:
        """Of the step that this run plays, for examples such as `data`."""
        return self.method.recipe(data or self.examples.layout, self.decision)

    def program(self) -> Program:
        """The step that this run plays."""
        return self.recipe().build(self.network)

    def _largest_batch(self, n: int) -> int:
        """The largest power of two, or n, whose buffers fit into half of the free memory; at least 2 where n is."""
        program, room = self.program(), self.engine.free() // 2
        sizes = [*(1 << exponent for exponent in range(1, (n - 1).bit_length())), n]
        fitting = [rows for rows in sizes if plan(program, rows).size <= room]
        return max(fitting, default=min(2, n))

    def _key(self, rows: int) -> InstanceKey:
        """Of the step for `rows` rows of what is fed."""
        return self.method.key(rows, self.fed.layout, self.decision)

    def _instance(self, key: InstanceKey) -> engines.Instance:
        """The step of this key, with this run's storage bound to it."""
        instance = self._borrowed.get(key)
        if instance is None:

            def make() -> engines.Instance:
                return self.engine.instantiate(key.recipe.build(self.network), key.rows, self.threads)

            instance = self.model.instances.take(key, make).item if self.loss.built_in else make()
            instance.bind(**self.storage)
            self._borrowed[key] = instance
        return instance

    def _shuffle(self, n: int) -> Any:
        """The library's order of this epoch, on the engine."""
        model = self.model
        return shuffle(model.instances, n, model.seed, model.counters.epoch, self.engine, self.feed.order_buffer(n))

    def order_of(self, epoch: int) -> Any:
        """The order of an epoch: the user's, or the library's shuffle."""
        order = self._order_of(epoch)
        if self.penalties_by_weight:
            self._visits = order if isinstance(order, np.ndarray) else self.engine.read(order)[0]
        return order

    def _order_of(self, epoch: int) -> Any:
        n = len(self.examples.X)
        if self.part or not self.shuffle:  # one mini-batch as it is, or all rows as they are
            return np.arange(n)
        if self.order is None and self.shard_rows is not None:
            key = random.key(self.model.seed, random.SHUFFLE)
            return random.sharded_permutation(key, self.model.counters.epoch, n, self.shard_rows)
        if self.order is None:
            return self._shuffle(n)
        order = as_order(self.order(epoch), n)
        if self.pairs and len(order) == 1:
            raise InputError("order(epoch): batch norm cannot be trained on an epoch of one example")
        return order
