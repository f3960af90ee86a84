"""`ReduceLROnPlateau`: the rates of PyTorch, epoch by epoch, also of a run that is resumed."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trainings import blobs, classifier

import fastnn
from fastnn import schedules
from fastnn.callbacks import Callback, Checkpoint, LearningRate, ReduceLROnPlateau
from fastnn.errors import FastnnError, InputError


class Run:
    """What the callback sees of a training."""

    def __init__(self, rate: float) -> None:
        self.learning_rate, self.columns, self.callbacks = rate, ["watched"], []
        self.model = type("Model", (), {"optimizer": fastnn.SGD(rate)})


def rates_of(values: list[float], rate: float, mode: str, cut: int | None = None, **options: Any) -> list[float]:
    """The rate after each epoch; after `cut` epochs the callback goes through its state."""
    run: Any = Run(rate)
    plateau = ReduceLROnPlateau("watched", mode=mode, **options)
    plateau.begin(run)
    rates = []
    for epoch, value in enumerate(values):
        if epoch == cut:
            state = plateau.state()
            plateau = ReduceLROnPlateau("watched", mode=mode, **options)
            plateau.restore(state)
            plateau.begin(run)
        plateau.epoch_end(run, epoch, {"watched": value})
        rates.append(run.learning_rate)
    return rates


def rates_of_pytorch(values: list[float], rate: float, mode: str, **options: Any) -> list[float]:
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode=mode, **options)
    rates = []
    for value in values:
        scheduler.step(value)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


@settings(max_examples=400, deadline=None)
@given(
    values=st.lists(
        st.one_of(st.sampled_from([0.0, 1.0, 1.0001, 0.9999, -1.0, math.nan, math.inf]), st.floats(-3, 3)),
        min_size=1,
        max_size=30,
    ),
    mode=st.sampled_from(["min", "max"]),
    rate=st.sampled_from([1.0, 0.1, 1e-7, 3e-8, 0.0]),
    factor=st.sampled_from([0.1, 0.5, 0.999]),
    patience=st.integers(0, 3),
    threshold=st.sampled_from([0.0, 1e-4, 0.1, 0.5]),
    cooldown=st.integers(0, 3),
    min_lr=st.sampled_from([0.0, 1e-3, 0.2, 2.0]),
    cut=st.one_of(st.none(), st.integers(0, 10)),
)
def test_its_rates_are_those_of_pytorch(values: list[float], mode: str, rate: float, cut: int | None, **options: Any) -> None:
    assert rates_of(values, rate, mode, cut, **options) == rates_of_pytorch(values, rate, mode, **options)


def test_its_defaults_are_those_of_pytorch() -> None:
    values = [1.0, 0.99995, *[1.0] * 40]
    rates = rates_of(values, 1.0, "min")
    assert rates == rates_of_pytorch(values, 1.0, "min")
    assert len(set(rates)) == 4


class Rates(Callback):
    """The rate of the first step of each epoch."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def begin(self, run: Any) -> None:
        self.rates.append(run.learning_rate)

    def epoch_end(self, run: Any, epoch: int, values: Any) -> None:
        self.rates.append(run.learning_rate)


OPTIONS: dict[str, Any] = {"epochs": 12, "batch_size": 64, "verbose": 0, "optimizer": fastnn.SGD(2.0), "validation_split": 0.3}


def test_a_training_takes_the_rates_from_its_validation() -> None:
    X, y = blobs()
    plateau, rates, model = ReduceLROnPlateau("val_loss", factor=0.5, patience=1), Rates(), classifier()
    history = model.fit(X, y, callbacks=[plateau, rates], **OPTIONS)
    assert rates.rates[1:] == rates_of_pytorch(history["val_loss"], 2.0, "min", factor=0.5, patience=1)
    assert len(set(rates.rates)) > 2
    table = dict(enumerate(rates.rates[:-1]))
    other = classifier()
    other.fit(X, y, callbacks=[LearningRate(table)], **OPTIONS)
    assert all((other.weights[name] == value).all() for name, value in model.weights.items())


@pytest.mark.parametrize("cut", [1, 4, 11])
def test_a_training_that_is_resumed(cut: int, tmp_path: Path) -> None:
    X, y = blobs()
    whole, second = classifier(), classifier()
    rates, left = Rates(), Rates()
    expected = whole.fit(X, y, callbacks=[ReduceLROnPlateau("val_loss", patience=0, cooldown=1), rates], **OPTIONS)
    first = [ReduceLROnPlateau("val_loss", patience=0, cooldown=1), Checkpoint(tmp_path)]
    classifier().fit(X, y, callbacks=first, **{**OPTIONS, "epochs": cut})
    again = [ReduceLROnPlateau("val_loss", patience=0, cooldown=1), left]
    history = second.fit(X, y, callbacks=again, resume=tmp_path, **OPTIONS)
    assert dict(history) == dict(expected)
    assert left.rates == rates.rates[cut:]
    assert len(set(rates.rates)) > 2


def test_the_same_callback_begins_afresh_in_the_next_training() -> None:
    X, y = blobs()
    plateau = ReduceLROnPlateau("loss", patience=0, mode="max")
    runs = [Rates(), Rates()]
    for rates in runs:
        classifier().fit(X, y, callbacks=[plateau, rates], **OPTIONS)
    assert runs[0].rates == runs[1].rates


@pytest.mark.parametrize(("monitor", "lower"), [("val_loss", True), ("loss", True), ("val_accuracy", False)])
def test_the_name_says_what_is_better(monitor: str, lower: bool) -> None:
    assert (ReduceLROnPlateau(monitor).watched.sign > 0) == lower


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        *(({"factor": v}, "factor: expected a number, 0 < factor < 1, got") for v in (0, 1, 1.5, -0.1, "x", math.nan, True)),
        *(({"threshold": v}, "threshold: expected a number, 0 <= threshold < 1, got") for v in (-1e-9, 1, math.inf, None)),
        *(({"min_lr": v}, "min_lr: expected a finite number >= 0, got") for v in (-1, math.inf, [0.1])),
        *(({name: v}, f"{name}: expected an integer >= 0, got") for name, v in
          itertools.product(("patience", "cooldown"), (-1, 1.5, True, None))),
        ({"monitor": ""}, "monitor: expected the name of a column"),
        ({"monitor": "val_los"}, "monitor: unknown 'val_los'; did you mean 'val_loss'"),
        ({"min_delta": 1e-3}, "ReduceLROnPlateau has no 'min_delta'; did you mean 'threshold'"),
        ({"verbose": 1}, "ReduceLROnPlateau has no 'verbose'"),
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(FastnnError, match=says):
        ReduceLROnPlateau(**{"monitor": "val_loss", **arguments})


def test_a_schedule_is_refused_before_the_first_step() -> None:
    X, y = blobs()
    model = classifier()
    options = {**OPTIONS, "callbacks": [ReduceLROnPlateau("val_loss")]}
    with pytest.raises(InputError, match="lowers a learning rate that is a number, and the optimizer has Cosine"):
        model.fit(X, y, **{**options, "optimizer": fastnn.Adam(schedules.Cosine(0.1))})
    with pytest.raises(InputError, match="the history has no 'val_loss'; give validation_data or validation_split"):
        model.fit(X, y, **{**options, "validation_split": None})
    assert not model.built
    model.fit(X, y, **{**options, "optimizer": fastnn.Adam(schedules.Constant(0.1)), "epochs": 1})
    assert np.isfinite(model(X)).all()
