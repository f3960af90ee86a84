"""`Trial`: what the function that is searched over is given beside the parameters."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from fastnn.callbacks import Callback, RunState
from fastnn.callbacks.monitor import Monitor
from fastnn.errors import InputError, InputTypeError, nearest

Train = Callable[[dict[str, Any], "Trial"], Any]
"""A function of (parameters, trial) that returns a number: what the search makes small, or large."""

LONGEST_ERROR = 500


class Parameters(dict[str, Any]):
    """The values of a trial; a name that the space does not have is an InputError which says the nearest."""

    def __missing__(self, name: str) -> Any:
        raise InputError(f"the space has no {name!r}{nearest(name, self)}")


@dataclass(frozen=True)
class Job:
    """A trial that is to be run: its number, from 0, and the values at which it lies."""

    number: int
    parameters: dict[str, Any]
    seed: int
    mode: str


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: its state ("complete", "pruned" or "failed") and its value or its error."""

    state: str
    value: float | None = None
    error: str = ""


class Trial:
    """One trial of a search: its `number` (from 0), its `parameters`, and a `seed` of its own, for the model."""

    def __init__(self, job: Job, report: Callable[[float, int], bool]) -> None:
        self.number, self.parameters, self.seed = job.number, Parameters(job.parameters), job.seed
        self.mode = job.mode
        self.stopped = False
        """Whether the pruner has ended this trial."""
        self._report = report
        self._steps: set[int] = set()

    def report(self, value: float, step: int) -> bool:
        """Tell how good the model is after `step`; True where it is so much worse than others that the trial should end."""
        number = _number(value)
        if number is None:
            raise InputTypeError(f"report: expected a number, got {value!r}")
        if isinstance(step, bool) or not isinstance(step, int | np.integer) or step < 0 or step in self._steps:
            raise InputError(f"report: expected a step of at least 0 that was not reported yet, got {step!r}")
        self._steps.add(int(step))
        self.stopped = self._report(number, int(step)) or self.stopped
        return self.stopped

    def callback(self, monitor: str = "val_loss") -> Callback:
        """For `fit(callbacks=[...])`: reports this column of the history after each epoch, and ends the training early where
        the pruner says so. Raises InputError where its better values are not those that the search looks for.
        """
        return _Report(self, monitor)


class _Report(Callback):
    def __init__(self, trial: Trial, monitor: str) -> None:
        self.watched = Monitor("monitor", monitor, trial.mode)
        try:
            natural = Monitor("monitor", monitor, None).sign
        except InputError:  # a metric of the user's own
            natural = self.watched.sign
        if natural != self.watched.sign:
            other = "max" if trial.mode == "min" else "min"
            raise InputError(f"monitor {monitor!r} and a search with mode={trial.mode!r}: expected mode={other!r}")
        self.trial = trial

    def begin(self, run: RunState) -> None:
        self.watched.check(run)

    def epoch_end(self, run: RunState, epoch: int, values: Mapping[str, float]) -> bool:
        return self.trial.report(self.watched.value(values), epoch)


def outcome_of(train: Train, trial: Trial) -> Outcome:
    """Run a trial; its exceptions become a failed outcome, all but KeyboardInterrupt and SystemExit."""
    try:
        value = train(trial.parameters, trial)
        if trial.stopped:
            return Outcome("pruned")
        number = _number(value)
        if number is None or not math.isfinite(number):
            return Outcome("failed", error=f"expected a finite number from the function, got {value!r}"[:LONGEST_ERROR])
    except Exception as error:  # of what was returned too: an integer beyond float64
        return Outcome("failed", error=_describe(error))
    return Outcome("complete", number)


def _describe(error: Exception) -> str:
    """The exception, and the line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}"[:LONGEST_ERROR] + place


def _number(value: Any) -> float | None:
    """A number, also as an array with one value of it; None for what is none."""
    if isinstance(value, np.ndarray) and value.shape == ():
        value = value[()]
    return float(value) if isinstance(value, Real) and not isinstance(value, bool | np.bool_) else None
