"""`Method`: how the steps of a training are made, as far as it follows from the layers and the options, and not from the data.

A model keeps that of its last training. A call that asks for the same finds it; what counts is compared by value in every call.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastnn import engines
from fastnn.data.prepared import DataLayout
from fastnn.engines.cache import make_with_room
from fastnn.losses import Loss
from fastnn.network.layout import Network, as_loss_network
from fastnn.network.model import ModelState
from fastnn.network.programs import Decision, InstanceKey, StepStorage, TrainingStep, Update, step_storage
from fastnn.optimizers import Optimizer
from fastnn.training.undo import Undo

AHEAD = 64
"""Updates that a table is computed for at a time, where all have the same rate."""


class Asked(NamedTuple):
    """What a method follows from, beside the network."""

    variant: tuple[Any, ...]
    engine: engines.Engine
    loss: Loss
    update: Update
    penalties: tuple[float, float, float]
    """L2, L1 and weight decay; see `fastnn.network.layout.Network.penalty_table`."""
    threads: int | None


class Method:
    """Of steps on `network`. Raises InputError where all of it is frozen, or its last layer does not go with the loss.

    `last`: a method that nobody needs any more, and whose storage is used again where it fits.
    """

    def __init__(self, network: Network, asked: Asked, last: Method | None = None) -> None:
        network.trained()  # refuses a model of which everything is frozen
        self.engine, self.threads, self._loss, self._update = asked.engine, asked.threads, asked.loss, asked.update
        self.network = as_loss_network(network, asked.loss)
        """Whose outputs the loss takes."""
        self.penalty_table = self.network.penalty_table(*asked.penalties)[1]
        self.penalized = bool(self.penalty_table[:, :2].any())
        """Whether the cost has a penalty: an L2 or L1 of something that is trained."""
        self.undo = Undo()
        """The way back to before a chunk of these steps, on the host."""
        self._stored_as = self.engine.name, self.engine.precision, self.network.variant
        self._storage: StepStorage | None = None
        if last is not None and last._stored_as == self._stored_as:
            self._storage = last._storage
        self._keys: dict[Any, InstanceKey] = {}
        self._ahead: tuple[Any, int, np.ndarray] = (None, 0, np.zeros((0, 0)))
        """Of which optimizer and rate, from which update on, and the table of some updates from there on."""

    def prepare_storage(self) -> StepStorage:
        """What the steps need beside data, parameters and state, with the penalties of this method; made once."""
        storage: StepStorage = self._storage or make_with_room(lambda: step_storage(self.network, self.engine))
        storage.set_penalties(self.penalty_table)
        self._storage = storage
        return storage

    def recipe(self, data: DataLayout, decision: Decision | None) -> TrainingStep:
        """Of the step on examples such as `data`, which notes how many `decision` says are right."""
        mixed = self.engine.precision == "bf16"
        return TrainingStep(self._loss, data, decision, self._update, self.penalized, mixed_precision=mixed)

    def key(self, rows: int, data: DataLayout, decision: Decision | None) -> InstanceKey:
        """That of the step for mini-batches of `rows` rows among what a model keeps."""
        asked = rows, data, decision, self.engine.tuned
        key = self._keys.get(asked)
        if key is None:
            recipe = self.recipe(data, decision)
            key = self._keys[asked] = InstanceKey.of(recipe, self.network, self.engine, rows, self.threads)
        return key

    def scalars(self, optimizer: Optimizer, first: int, rates: np.ndarray) -> np.ndarray:
        """`optimizer.scalars` of the updates from number `first` on at these rates. Rows depend on number and rate alone: those
        of a single rate are computed for some updates ahead."""
        count = len(rates)
        if count > AHEAD or not np.logical_and.reduce(rates == rates[0]):
            return optimizer.scalars(np.arange(first, first + count), rates)
        asked = values_of(optimizer), rates[0]
        known, start, table = self._ahead
        if known != asked or not start <= first <= start + len(table) - count:
            table = optimizer.scalars(np.arange(first, first + AHEAD), np.full(AHEAD, rates[0]))
            self._ahead, start = (asked, first, table), first
        return table[first - start : first - start + count]


class LastMethod:
    """The method of the last training of a model, for the next one that asks for the same."""

    def __init__(self) -> None:
        self._last: tuple[Network, Asked, Method] | None = None
        self._update: tuple[Any, Update] | None = None

    def update_of(self, optimizer: Optimizer) -> Update:
        """`Update.of`, found once for an optimizer of these values."""
        values = values_of(optimizer)
        known = self._update
        if known is None or known[0] != values:
            known = self._update = values, Update.of(optimizer)
        return known[1]

    def of(self, network: Network, asked: Asked) -> Method:
        """The last method, or a new one where anything that it follows from is another now."""
        last = self._last
        if last is None or last[0] is not network or last[1] != asked:
            last = self._last = network, asked, Method(network, asked, None if last is None else last[2])
        return last[2]

    def forget(self) -> None:
        """Let go of what the last method holds of a model's size: others make the steps now."""
        self._last = None


def method_of(
    model: ModelState, network: Network, engine: engines.Engine, loss: Loss, optimizer: Optimizer, l2: float, l1: float,
    threads: int | None,
) -> Method:  # fmt: skip
    """The method of a training of `model` whose network is, or will be, this one."""
    with model.instances.take("method", LastMethod) as last:
        penalties = l2, l1, optimizer.weight_decay
        asked = Asked(network.variant, engine, loss, last.update_of(optimizer), penalties, threads)
        method: Method = last.of(network, asked)
        return method


def values_of(optimizer: Optimizer) -> tuple[Any, ...]:
    """What tells optimizers apart: the class, and the values of everything that it has."""
    return type(optimizer), *vars(optimizer).values()
