"""A column of the history that is watched."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from fastnn.callbacks.base import Callback, RunState
from fastnn.errors import InputError, InputTypeError, nearest
from fastnn.metrics import METRICS

LOWER = ("loss", "penalty", "mae", "mse", "rmse", "log_loss", "brier")
HIGHER = tuple(name for name in METRICS if name not in LOWER)
"""Columns whose lower, or higher, values are better."""


class Monitor:
    """A column of the history, and which of its values are better."""

    def __init__(self, option: str, name: str, mode: str | None) -> None:
        if not isinstance(name, str) or not name:
            raise InputTypeError(
                f'{option}: expected the name of a column of the history, such as "val_loss", "val_accuracy" or "loss", '
                f"got {name!r}"
            )
        if mode is None:
            bare = name.removeprefix("val_")
            if bare not in LOWER + HIGHER:
                near = nearest(name, [prefix + known for known in LOWER + HIGHER for prefix in ("", "val_")])
                if "did you mean" in near:
                    raise InputError(f"{option}: unknown {name!r}{near} A column of your own needs mode='min' or mode='max'")
                raise InputError(
                    f"{option} {name!r}: say whether a lower or a higher value is better: mode='min' or mode='max'"
                )
            mode = "min" if bare in LOWER else "max"
        if mode not in ("min", "max"):
            raise InputError(f"mode: unknown {mode!r}{nearest(mode, ('min', 'max'))}")
        self.option, self.name, self.sign = option, name, 1.0 if mode == "min" else -1.0

    def check(self, run: RunState) -> None:
        """Raise, before the first step, where no epoch will have the column. A callback of the user's own may add it."""
        kinds = [type(callback) for callback in run.callbacks if type(callback).epoch_end is not Callback.epoch_end]
        if all(kind.__module__.startswith("fastnn.") for kind in kinds):
            self._check(run.columns)

    def value(self, values: Mapping[str, float]) -> float:
        self._check(values)
        return float(values[self.name])

    def _check(self, columns: Collection[str]) -> None:
        if self.name in columns:
            return
        bare = self.name.removeprefix("val_")
        hint = nearest(self.name, columns)
        if bare != self.name and not any(column.startswith("val_") for column in columns):
            hint = "; give validation_data or validation_split"
        elif bare != self.name and bare in METRICS and bare not in ("accuracy", "r2", "mae"):  # which come by themselves
            hint = f"; give metrics=[{bare!r}]"
        elif self.name == "penalty":
            hint = "; give l1 or l2"
        raise InputError(f"{self.option}: the history has no {self.name!r}{hint}")

    def is_better(self, value: float, best: float, least: float) -> bool:
        """Whether `value` is better than `best` by more than `least`; NaN never is, and everything else is better than NaN."""
        if math.isnan(value):
            return False
        return math.isnan(best) or self.sign * (best - value) > least
