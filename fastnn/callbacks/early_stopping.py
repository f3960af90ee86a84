"""Ending a training that has stopped improving."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fastnn.callbacks.base import Callback, RunState
from fastnn.callbacks.monitor import Monitor
from fastnn.configurations import as_count, as_number
from fastnn.errors import InputError
from fastnn.network.state import Snapshot


class EarlyStopping(Callback):
    """End the training when `monitor` has not become better for `patience` epochs, and put the best epoch's model back.

    `monitor`: a column of the history such as "val_loss". Better means lower by more than `min_delta`, or higher where `mode`
    is "max"; by default it is what the name says ("loss", "penalty", "mae", "mse": lower; "accuracy", "r2", "f1", "precision",
    "recall": higher). Put back is the whole snapshot: parameters, running statistics, the optimizer's state and the counters.
    After the training `best_epoch` (from 0), `best` (its value) and `stopped` are known.
    """

    def __init__(
        self,
        monitor: str = "",
        *,
        patience: int = 5,
        min_delta: float = 0.0,
        mode: str | None = None,
        restore_best: bool = True,
    ) -> None:
        self.patience = as_count("patience", patience, 0)
        if not 0.0 <= as_number(min_delta) < math.inf:
            raise InputError(f"min_delta: expected a number >= 0, got {min_delta!r}")
        self.watched = Monitor("monitor", monitor, mode)
        self.min_delta, self.restore_best = float(min_delta), restore_best
        self._start()

    def _start(self) -> None:
        self.best, self.best_epoch, self.waited, self.stopped = math.nan, -1, 0, False
        self._snapshot: Snapshot | None = None
        self._restored = False

    def begin(self, run: RunState) -> bool:
        self.watched.check(run)
        if not self._restored:
            self._start()
        self._restored = False
        return self.stopped

    def epoch_end(self, run: RunState, epoch: int, values: Mapping[str, float]) -> bool:
        value = self.watched.value(values)
        if self.best_epoch < 0 or self.watched.is_better(value, self.best, self.min_delta):
            self.best, self.best_epoch, self.waited = value, epoch, 0
            if self.restore_best:
                self._snapshot = run.model.snapshot().on_host()
        else:
            self.waited += 1
        self.stopped = self.waited > 0 and self.waited >= self.patience
        return self.stopped

    def end(self, run: RunState, error: BaseException | None) -> None:
        if error is None and self._snapshot is not None:
            run.keep(self._snapshot)

    def state(self) -> dict[str, Any]:
        values = {"best": self.best, "best_epoch": self.best_epoch, "waited": self.waited, "stopped": self.stopped}
        return values if self._snapshot is None else {**values, **self._snapshot.to_config()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.best, self.best_epoch = float(state["best"]), int(state["best_epoch"])
        self.waited, self.stopped = int(state["waited"]), bool(state["stopped"])
        self._snapshot = Snapshot.from_config(state) if "optimizer" in state else None
        self._restored = True
