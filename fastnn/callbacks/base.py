"""What a callback is, and what it sees of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from fastnn.configurations import Keywords
from fastnn.network.state import Snapshot


class RunState(Protocol):
    """What callbacks see of a training."""

    model: Any
    """The `Sequential` that is trained."""
    engine: Any
    """Where it is trained, a `fastnn.engines.Engine`."""
    epoch: int
    """How many epochs are over."""
    epochs: int
    """How many there are in all."""
    step: int
    """How many steps of all epochs are done."""
    in_epoch: int
    """How many of them are steps of this epoch."""
    batch_size: int
    held_back: tuple[int, int] | None
    """How many rows are trained on, and how many `validation_split` held back; None where it was not given."""

    @property
    def callbacks(self) -> Sequence[Callback]:
        """All of this training, in the order in which they are called."""

    @property
    def history(self) -> dict[str, list[float]]:
        """One list a quantity, one value an epoch."""

    @property
    def total_steps(self) -> int | None:
        """Steps of all epochs; None where an iterable does not tell how long it is."""

    @property
    def columns(self) -> list[str]:
        """What each epoch adds to the history, but for what callbacks measure."""

    @property
    def progress(self) -> tuple[int, int]:
        """Steps and epochs so far, to be compared."""

    @property
    def consistent(self) -> bool:
        """Whether model and counts belong to each other, so that a checkpoint may be written."""

    @property
    def learning_rate(self) -> float:
        """Of the next step. What is assigned takes the place of the optimizer's schedule."""

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None: ...

    def checkpoint_state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Plain values and arrays that a checkpoint keeps beside the model, so that the training can be resumed."""

    def keep(self, snapshot: Snapshot) -> None:
        """Restore this snapshot of the model when the training is over."""


class Callback(Keywords):
    """Override what you need.

    `run` (a `RunState`) tells how far the training is: `run.model`, `run.epoch` of `run.epochs` and `run.step` of
    `run.total_steps` (both count what is done), `run.history`, `run.batch_size`; `run.learning_rate` may be set.
    """

    every: int | None = None
    """How many steps lie between two calls of `step_end`, counted from the first of the run. None: it is never called."""

    def begin(self, run: RunState) -> bool | None:
        """Before the first step, or before the first that is left of a run that is resumed; return True to end the
        training at once."""
        return None

    def chunk_end(self, run: RunState, losses: np.ndarray) -> None:
        """After a chunk of steps with these losses (steps,), float64, each from before its update. How long chunks are depends
        on the machine: what is changed here changes the results from run to run."""

    def step_end(self, run: RunState) -> bool | None:
        """After each `every` steps; return True to end the training."""
        return None

    def epoch_end(self, run: RunState, epoch: int, values: Mapping[str, float]) -> bool | None:
        """After an epoch (counted from 0) with what the history gets; return True to end the training."""
        return None

    def end(self, run: RunState, error: BaseException | None) -> None:
        """After the last step; `error` is what ended the training before its time: an exception, KeyboardInterrupt."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of this callback: numbers, strings, lists, None and NumPy arrays by name."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned; called before `begin`."""
