"""Learning rates set by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from fastnn.callbacks.base import Callback, RunState
from fastnn.configurations import as_count, as_number
from fastnn.errors import InputError, InputTypeError


class LearningRate(Callback):
    """Set the learning rate of each epoch by hand, instead of the optimizer's schedule.

    `rates`: a table {epoch: rate} (epochs from 0; a rate holds until the next entry), or a function of (epoch, rate before).
    """

    def __init__(self, rates: Mapping[int, float] | Callable[[int, float], float]) -> None:
        if isinstance(rates, Mapping):
            for epoch, rate in rates.items():
                as_count("rates: epoch", epoch, 0)
                _rate(rate)
        elif not callable(rates):
            raise InputTypeError(f"rates: expected a dict of rates by epoch or a function, got {type(rates).__name__}")
        self.rates = rates
        self._epoch = -1
        self._restored = False

    def begin(self, run: RunState) -> None:
        if not self._restored:
            self._epoch = -1
        self._restored = False
        self._set(run, run.epoch)

    def epoch_end(self, run: RunState, epoch: int, values: Mapping[str, float]) -> None:
        if run.epoch < run.epochs:
            self._set(run, run.epoch)

    def _set(self, run: RunState, epoch: int) -> None:
        if epoch == self._epoch:  # resumed in an epoch whose rate the run has kept
            return
        self._epoch = epoch
        if isinstance(self.rates, Mapping):
            if epoch in self.rates:
                run.learning_rate = _rate(self.rates[epoch])
        else:
            run.learning_rate = _rate(self.rates(epoch, run.learning_rate))

    def state(self) -> dict[str, Any]:
        return {"epoch": self._epoch}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._epoch = int(state["epoch"])
        self._restored = True


def _rate(value: Any) -> float:
    if not 0.0 <= as_number(value) < math.inf:
        raise InputError(f"learning_rate: expected a finite number >= 0, got {value!r}")
    return float(value)
