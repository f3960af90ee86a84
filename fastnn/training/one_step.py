"""Calls of `fit` that make one step each, one after another: loops of one's own around `fit`, data that come bit by bit.

The first of them have a `Trainer`, as any other. When a few in a row have asked for the same and nothing else has changed the
model, the next ones make their steps by `fastnn.training.step.SingleSteps`, as `partial_fit` does, on the rows in the order of
the epoch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnn.data.orders import shuffle
from fastnn.data.prepared import PreparedData, prepare_indexed
from fastnn.network.model import ModelState
from fastnn.network.state import State
from fastnn.schedules import Constant
from fastnn.training.history import History
from fastnn.training.method import LastMethod, values_of
from fastnn.training.options import ALL, FitOptions, as_optimizer
from fastnn.training.start import glance_at, known_task, needs_two_rows
from fastnn.training.step import SingleSteps, StepOptions, values_of_step
from fastnn.training.trainer import Trainer

MOST_BYTES = 2**20
"""The rows of a step are copied, which takes more time than it saves where they are many."""

TRAINED_BEFORE = 30
"""Calls in a row that have a trainer: to make the program and the storage of single steps takes as long as what these save."""

ABSENT = (
    "validation_data", "validation_split", "sample_weight", "class_weight", "classes", "order", "resume", "steps_per_epoch",
    "shard_rows",
)  # fmt: skip
"""Options that are None where there is nothing to do but the step."""


def is_one_step(model: ModelState, X: Any, y: Any, settings: FitOptions) -> bool:
    """Whether this is a `fit` of one step on arrays, of a model with parameters, and of nothing else."""
    return (
        type(X) is type(y) is np.ndarray
        and X.ndim > 1
        and X.nbytes <= MOST_BYTES
        and type(settings.epochs) is int
        and settings.epochs == 1
        and type(settings.batch_size) in (int, str)
        and settings.batch_size in (len(X), ALL)
        and not settings.verbose
        and not settings.part
        and not settings.penalties_by_weight
        and type(settings.callbacks) in (tuple, list)
        and type(settings.metrics) in (tuple, list)
        and not (settings.callbacks or settings.metrics)
        and model.built
        and (len(X) > 1 or not needs_two_rows(model))
        and all(getattr(settings, name) is None for name in ABSENT)
    )


class OneStep:
    """What the last `fit` of one step leaves for the next one."""

    def __init__(self) -> None:
        self._asked: tuple[Any, ...] | None = None
        """What that one was asked for, but for the values of its data; None where its steps cannot be made here."""
        self._alike = 0
        """Calls in a row that were asked for that."""
        self._state: State | None = None
        self._version: tuple[int, ...] = ()
        """Of the state behind it: others have changed it since where it is another now."""
        self._options: StepOptions
        self._reason = ""
        self._steps: SingleSteps | None = None
        self._order = np.zeros(0, np.int64)

    def fit(self, model: ModelState, X: np.ndarray, y: np.ndarray, settings: FitOptions) -> History:
        """`fit` of one step."""
        optimizer = as_optimizer(settings.optimizer)
        options = (
            settings.loss, settings.label_smoothing, settings.l2, settings.l1, settings.shuffle, settings.device,
            settings.precision, settings.autotune, settings.threads,
        )  # fmt: skip
        asked = *map(type, options), *options, values_of(optimizer), model.network.variant, len(X), X.dtype
        examples, version, self._version = None, self._version, ()
        if self._state is not model.state or version != model.state.version or self._asked != asked:
            self._alike = 0
        elif self._alike >= TRAINED_BEFORE:
            examples = prepare_indexed(model.expected, X, y, self._options.loss, known_task(model, settings))
            if examples is None:
                self._alike = 0
        self._alike += 1
        if examples is None and self._steps is not None:
            self._steps.close(model.instances)
            self._steps = None
        history = self._train(model, X, y, settings, asked) if examples is None else self._step(model, examples, settings)
        self._state, self._version = model.state, model.state.version
        return history

    def _train(self, model: ModelState, X: np.ndarray, y: np.ndarray, settings: FitOptions, asked: tuple[Any, ...]) -> History:
        """By a trainer; the next call may find what it was asked for."""
        trainer = Trainer(model, X, y, settings)
        history = trainer.train()
        plain = trainer.engine.is_host and trainer.examples.kind == "classes" and type(trainer.schedule) is Constant
        if not plain or not trainer.loss.built_in or model.network.cut_off[0]:
            # what a loss of one's own closes over may change, and of layers that are cut off every call warns
            self._asked = None
        elif self._asked != asked:
            self._asked, self._reason = asked, history.reason
            self._options = StepOptions(
                trainer.loss, trainer.optimizer, trainer.engine, trainer.decision, settings.l2, settings.l1, settings.threads
            )
        return history

    def _step(self, model: ModelState, examples: PreparedData, settings: FitOptions) -> History:
        """By a single step."""
        n, engine, options = len(examples.X), self._options.engine, self._options
        glance = glance_at(model, examples)
        if self._steps is None:
            self._steps = SingleSteps(options, examples.layout, n)
            with model.instances.take("method", LastMethod) as last:
                last.forget()  # two ways back are one too many
        visits = None
        if settings.shuffle:
            if len(self._order) != n:
                self._order = engine.empty((n,), np.int64)
            visits = shuffle(model.instances, n, model.seed, model.counters.epoch, engine, self._order)
        row = self._steps.make(model, examples.X, examples.y, None, visits)
        model.device, model.task, model.data_glance = engine.name, examples.task(options.loss, model.task), glance
        model.loss, model.optimizer, model.feature_names = options.loss, options.optimizer, model.column_names
        history = History({name: [value] for name, value in values_of_step(self._steps, row, n).items()})
        history.device, history.reason, history.seed = engine.name, self._reason, model.seed
        history.training_rows = history.batch_size = n
        history.threads = self._steps.threads(n)
        return history
