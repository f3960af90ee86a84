"""The options of `fit`: whoever takes one takes it by the same name, with the same default, and hands it on."""

from __future__ import annotations

import dataclasses
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any, get_type_hints

import click
import pytest

import fastnn
import fastnn.sequential
from fastnn.callbacks import Callback
from fastnn.cli.train import train
from fastnn.losses import LossLike
from fastnn.optimizers import Optimizer
from fastnn.training.history import History
from fastnn.training.options import FitOptions
from fastnn.tuning.together.train import train_together

FIELDS = {field.name: field for field in dataclasses.fields(FitOptions)}
INTERNAL = {"part"}
"""Not of `fit`: what `partial_fit` sets."""

ON_THE_COMMAND_LINE = {
    "sample_weight": "sample_weight", "class_weight": "class_weight", "validation_data": "validation",
    "validation_split": "validation", "metrics": "metrics", "resume": "resume", "verbose": "quiet",
}  # fmt: skip
"""Options that the command takes in another form, and the name that they have there."""
IN_PYTHON_ONLY = {"classes", "order", "callbacks", "steps_per_epoch"}
"""Options that are Python objects, or for iterables of mini-batches."""


def keywords(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters that are given by name only."""
    parameters = inspect.signature(function).parameters
    return {name: parameter for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}


def test_fit_takes_all_of_them_in_their_order() -> None:
    found = keywords(fastnn.Sequential.fit)
    assert list(found) == [name for name in FIELDS if name not in INTERNAL]
    assert {name: parameter.default for name, parameter in found.items()} == {name: FIELDS[name].default for name in found}


def test_each_has_one_type() -> None:
    names = {"Callback": Callback, "History": History, "LossLike": LossLike, "Optimizer": Optimizer, "os": os}
    ours, theirs = (
        get_type_hints(of, {**vars(sys.modules[of.__module__]), **names}) for of in (FitOptions, fastnn.Sequential.fit)
    )
    assert {name: hint for name, hint in theirs.items() if name in FIELDS} == {
        name: hint for name, hint in ours.items() if name not in INTERNAL
    }


@pytest.mark.parametrize("function", [fastnn.Sequential.partial_fit, train_together])
def test_others_take_some_of_them(function: Callable[..., Any]) -> None:
    """With the same defaults, but for those of the call before, and for numbers of which a model may have its own."""
    common = {name: parameter.default for name, parameter in keywords(function).items() if name in FIELDS}
    assert len(common) >= 8
    differing = {name for name, default in common.items() if default != FIELDS[name].default}
    assert differing <= {"loss"}


def test_every_one_is_documented() -> None:
    text = inspect.getdoc(fastnn.Sequential.fit) or ""
    assert [name for name in FIELDS if name not in INTERNAL and f"`{name}" not in text] == []


def test_fit_hands_each_on(monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[FitOptions] = []
    monkeypatch.setattr(fastnn.sequential, "fit", lambda model, X, y, settings: handed.append(settings))
    given = {name: object() for name in FIELDS if name not in INTERNAL}
    fastnn.Sequential([fastnn.Dense(1)], seed=0).fit(None, None, **given)  # type: ignore[arg-type]
    (settings,) = handed
    assert {name: getattr(settings, name) for name in given} == given


def test_the_command_takes_them() -> None:
    options = {parameter.name for parameter in train.params if isinstance(parameter, click.Option)}
    missing = {name for name in FIELDS if ON_THE_COMMAND_LINE.get(name, name) not in options}
    assert missing == INTERNAL | IN_PYTHON_ONLY
