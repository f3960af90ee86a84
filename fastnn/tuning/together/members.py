"""Models that are trained together: what each may have of its own, and what becomes of each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastnn.configurations import as_number
from fastnn.errors import InputError, InputTypeError
from fastnn.optimizers import Optimizer
from fastnn.sequential import Sequential
from fastnn.training.history import History

NUMBERS = ("learning_rate", "l2", "l1")
"""What models may differ in beside their initial weights."""


RESERVED = "one of the models is being trained already by another call of fit"


class MemberHistory(History):
    """The history of one of the models. `diverged`: where it became NaN or infinite, nothing if it did not; its lists then end
    with the epoch before, and the model is at its last finite step. `method`: "vectorized" or "threads".
    """

    diverged: str = ""
    method: str = ""


@dataclass(frozen=True)
class Member:
    """A model and the numbers that are its own; a `learning_rate` of None is the optimizer's."""

    model: Sequential
    learning_rate: float | None
    l2: float
    l1: float

    def optimizer(self, common: Optimizer) -> Optimizer:
        return common if self.learning_rate is None else replace(common, learning_rate=self.learning_rate)


def as_members(models: Any, learning_rate: Any, l2: Any, l1: Any) -> list[Member]:
    """The models that `train_together` is given, with their numbers; InputError or InputTypeError for what does not fit."""
    numbers: dict[str, Any] = {"learning_rate": learning_rate, "l2": l2, "l1": l1}
    if isinstance(models, tuple) and len(models) == 2 and callable(models[0]) and not isinstance(models[0], Sequential):
        build, settings = models
        if not all(isinstance(setting, Mapping) for setting in settings):
            raise InputTypeError("models: expected a function and a list of settings, each a dict")
        for name, value in numbers.items():
            numbers[name] = [setting.get(name, value) for setting in settings]
        models = [build(**{k: v for k, v in setting.items() if k not in NUMBERS}) for setting in settings]
    models = list(models)
    if not models:
        raise InputError("models: expected at least one model, got none")
    for index, model in enumerate(models):
        if not isinstance(model, Sequential):
            raise InputTypeError(f"models: expected Sequential models, got {type(model).__name__} at {index}")
        _same_shape(models[0], model, index)
    if len(set(map(id, models))) < len(models):
        raise InputError("models: the same model is there twice; make one for each place")
    columns = {}
    for name, value in numbers.items():
        each = [value] * len(models) if np.ndim(value) == 0 else list(value)
        if len(each) != len(models):
            raise InputError(f"{name}: expected a number or {len(models)} of them, one a model, got {len(each)}")
        for number in each:
            if number is not None and not 0.0 <= as_number(number) < math.inf:
                raise InputError(f"{name}: expected a finite number >= 0, got {number!r}")
        columns[name] = each
    return [Member(*values) for values in zip(models, *(columns[name] for name in NUMBERS), strict=True)]


def _same_shape(first: Sequential, model: Sequential, index: int) -> None:
    """Raise InputError where a model has other layers or another dtype than the first one."""
    described = [(str(m.dtype), m.input_scale, [_essence(layer) for layer in m.layers]) for m in (first, model)]
    if described[0] != described[1]:
        raise InputError(f"models: expected models of the same layers, dtype and input_scale, and model {index} is {model!r}")


def _essence(layer: Any) -> Any:
    """What a layer computes: its options but those of initial values."""
    return type(layer), {name: value for name, value in layer.config().items() if not name.endswith("_init")}
