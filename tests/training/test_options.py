"""The options of `fit`: whoever takes one takes it by the same name, with the same default, and hands it on."""

from __future__ import annotations

import dataclasses
import inspect
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, get_type_hints

import click
import numpy as np
import pytest

import fastnn
import fastnn.sequential
from fastnn.callbacks import Callback
from fastnn.cli.train import train
from fastnn.losses import LossLike
from fastnn.optimizers import Optimizer
from fastnn.training.fit import fit
from fastnn.training.history import History
from fastnn.training.options import FitOptions
from fastnn.training.trainer import Trainer
from fastnn.tuning.together.train import train_together

FIELDS = {field.name: field for field in dataclasses.fields(FitOptions)}
INTERNAL = {"part", "penalties_by_weight"}
"""Not of `fit`: what `partial_fit` and the estimators set."""

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


@pytest.mark.parametrize("device", ["cpu", "numpy"])
@pytest.mark.parametrize("weighted", [False, True])
def test_penalties_by_the_weight_of_a_mini_batch(device: str, weighted: bool) -> None:
    """Each step's penalty is divided by the weight of its mini-batch, the last and smaller one's too; steps that a Ctrl-C
    undoes leave the weights of the last whole one."""
    rng = np.random.default_rng(2)
    X, y = rng.standard_normal((50, 4)), rng.integers(0, 3, 50)
    weights = rng.integers(1, 9, 50).astype(float) if weighted else np.ones(50)
    options: dict[str, Any] = {"optimizer": fastnn.SGD(0.1), "order": lambda epoch: np.arange(50)[:: 1 - 2 * (epoch % 2)]}

    def make() -> fastnn.Sequential:
        return fastnn.Sequential([fastnn.Dense(5, activation="tanh"), fastnn.Dense(3)], seed=0, dtype="float64").build(4)

    expected, states = make(), []
    for epoch in range(2):
        visits = options["order"](epoch)
        for first in range(0, 50, 16):
            rows = visits[first : first + 16]
            total = weights[rows].sum()
            alone = {"batch_size": "all", "epochs": 1, "shuffle": False, "verbose": 0, "optimizer": options["optimizer"]}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of other examples
                expected.fit(
                    X[rows], y[rows], sample_weight=weights[rows], classes=range(3), l2=4.0 / total, device=device, **alone
                )
            states.append(expected.weights)

    settings = FitOptions(
        **options, epochs=2, batch_size=16, l2=4.0, penalties_by_weight=True, device=device, verbose=0,
        sample_weight=weights if weighted else None,
    )  # fmt: skip
    whole = make()
    history = fit(whole, X, y, settings)
    assert len(history["penalty"]) == 2
    for name, array in whole.weights.items():
        np.testing.assert_allclose(array, states[-1][name], rtol=1e-12, atol=1e-12)

    for call in range(1, 6):
        calls, stopped = 0, make()

        def count(self: Trainer, *arguments: Any, call: int = call, count: Any = Trainer.look) -> Any:
            nonlocal calls
            calls += 1
            if calls == call:
                raise KeyboardInterrupt
            return count(self, *arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trainer, "look", count)
            try:
                fit(stopped, X, y, settings)
            except KeyboardInterrupt:
                made = stopped.counters.step
                for name, array in stopped.weights.items():
                    np.testing.assert_allclose(
                        array, states[made - 1][name] if made else make().weights[name], rtol=1e-12, atol=1e-12
                    )
