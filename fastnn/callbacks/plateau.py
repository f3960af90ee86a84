"""Lowering the learning rate when a training makes no progress any more."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fastnn.callbacks.base import Callback, RunState
from fastnn.callbacks.monitor import Monitor
from fastnn.configurations import as_count, as_number
from fastnn.errors import InputError
from fastnn.schedules import Constant, as_schedule

LEAST_CHANGE = 1e-8
"""Learning rates are lowered by more than this, or stay."""


class ReduceLROnPlateau(Callback):
    """Multiply the learning rate by `factor` when `monitor` has not become better for more than `patience` epochs.

    `monitor`: a column of the history such as "val_loss"; `mode` as for `EarlyStopping`. Better than the best value b so far is
    a value below b (1 - `threshold`), or above b (1 + `threshold`) where higher values are better. After the rate was lowered,
    epochs are counted anew, once `cooldown` more of them are over. The rate is not lowered below `min_lr`, nor by 1e-8 or less.

        plateau = fastnn.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=3)
        model.fit(X, y, validation_split=0.2, callbacks=[plateau])

    Epoch by epoch the rates are those of PyTorch's `torch.optim.lr_scheduler.ReduceLROnPlateau`. The optimizer's rate is a
    number: raises InputError, before the first step, for another schedule, and for options out of range. A training that is
    resumed from a checkpoint has the rates of one that was never interrupted.
    """

    def __init__(
        self,
        monitor: str = "",
        *,
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
        mode: str | None = None,
    ) -> None:
        if not 0.0 < as_number(factor) < 1.0:
            raise InputError(f"factor: expected a number, 0 < factor < 1, got {factor!r}")
        if not 0.0 <= as_number(threshold) < 1.0:
            raise InputError(f"threshold: expected a number, 0 <= threshold < 1, got {threshold!r}")
        if not 0.0 <= as_number(min_lr) < math.inf:
            raise InputError(f"min_lr: expected a finite number >= 0, got {min_lr!r}")
        self.watched = Monitor("monitor", monitor, mode)
        self.factor, self.threshold, self.min_lr = float(factor), float(threshold), float(min_lr)
        self.patience, self.cooldown = as_count("patience", patience, 0), as_count("cooldown", cooldown, 0)
        self._start()

    def _start(self) -> None:
        self.best, self.waited, self.cooling = self.watched.sign * math.inf, 0, 0
        self._restored = False

    def begin(self, run: RunState) -> None:
        self.watched.check(run)
        schedule = as_schedule(run.model.optimizer.learning_rate)
        if not isinstance(schedule, Constant):
            raise InputError(
                f"ReduceLROnPlateau lowers a learning rate that is a number, and the optimizer has {type(schedule).__name__}; "
                "leave one of them out"
            )
        if not self._restored:
            self._start()
        self._restored = False

    def epoch_end(self, run: RunState, epoch: int, values: Mapping[str, float]) -> None:
        value, sign = self.watched.value(values), self.watched.sign
        if sign * value < sign * self.best * (1.0 - sign * self.threshold):
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        if self.cooling:
            self.cooling, self.waited = self.cooling - 1, 0
        if self.waited > self.patience:
            self._lower(run)
            self.cooling, self.waited = self.cooldown, 0

    def _lower(self, run: RunState) -> None:
        before = run.learning_rate
        rate = max(before * self.factor, self.min_lr)
        if before - rate > LEAST_CHANGE:
            run.learning_rate = rate

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited, "cooling": self.cooling}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.best, self.waited, self.cooling = float(state["best"]), int(state["waited"]), int(state["cooling"])
        self._restored = True
