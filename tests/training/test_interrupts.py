"""Ctrl-C waits where a run and its model are not at the same place, so that a checkpoint is always left."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn.callbacks import Callback, Checkpoint
from fastnn.checkpoints import Folder
from fastnn.training import trainer as trainer_module
from fastnn.training.interrupts import Interrupts
from fastnn.training.trainer import Trainer

X = np.random.default_rng(0).standard_normal((60, 4)).astype("float32")
Y = (X[:, 0] > 0).astype(np.int64)
EPOCHS, PER_EPOCH = 6, 3

posix = pytest.mark.skipif(not hasattr(signal, "raise_signal"), reason="no signals to raise")


@pytest.fixture(autouse=True)
def pythons_handler() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "the handler is not there again"
    signal.signal(signal.SIGINT, before)


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def train(folder: Path, *callbacks: Callback, **options: Any) -> fastnn.Sequential:
    model = fastnn.Sequential([fastnn.Dense(3, activation="tanh"), fastnn.Dense(2)], seed=0)
    checkpoint = Checkpoint(folder, epochs=1000, best="loss")
    model.fit(X, Y, batch_size=20, epochs=EPOCHS, callbacks=[*callbacks, checkpoint], verbose=0, **options)
    return model


class Pressing(Callback):
    """Presses Ctrl-C so many times at the end of the fourth epoch."""

    def __init__(self, times: int) -> None:
        self.times, self.told = times, 0

    def epoch_end(self, run: Any, epoch: int, values: Any) -> None:
        if epoch == 3:
            for _ in range(self.times):
                press()
        self.told += 1


def at_call(function: Callable[..., Any], call: int) -> Callable[..., Any]:
    """The function, with Ctrl-C in its `call`-th call."""
    calls = 0

    def pressed(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            press()
        return function(*arguments)

    return pressed


@posix
@pytest.mark.parametrize("place", ["told", "closing", "counting", "playing"])
def test_once_leaves_a_checkpoint_of_the_last_whole_step(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = train(tmp_path / "whole")
    told = Pressing(1 if place == "told" else 0)
    with monkeypatch.context() as patch:
        if place == "closing":
            patch.setattr(Trainer, "_pad_history", at_call(Trainer._pad_history, 4))
        elif place == "counting":
            patch.setattr(trainer_module, "accumulate", at_call(trainer_module.accumulate, 4))
        elif place == "playing":
            patch.setattr(Trainer, "prepare", at_call(Trainer.prepare, 4))
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "run", told)
    latest = Folder(tmp_path / "run").latest()
    assert latest is not None
    step = fastnn.load(latest).counters.step
    if place in ("told", "closing"):
        assert (step, told.told) == (4 * PER_EPOCH, 4)
        assert (fastnn.load(Folder(tmp_path / "run").best).counters.step) == step, "the checkpoint was told as well"
    assert 0 < step < EPOCHS * PER_EPOCH
    resumed = train(tmp_path / "run", Pressing(0), resume=True)
    assert all(array.tobytes() == expected.weights[name].tobytes() for name, array in resumed.weights.items())


@posix
def test_twice_does_not_wait(tmp_path: Path) -> None:
    told = Pressing(2)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, told)
    assert told.told == 3
    assert Folder(tmp_path).latest() is None


@posix
def test_an_error_beside_it(tmp_path: Path) -> None:
    """What waited is answered, also where something else ends the run."""

    class Failing(Callback):
        def epoch_end(self, run: Any, epoch: int, values: Any) -> None:
            press()
            raise ZeroDivisionError

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, Failing())
    latest = Folder(tmp_path).latest()
    assert latest is not None
    assert fastnn.load(latest).counters.step == PER_EPOCH


@posix
def test_a_handler_of_ones_own_is_asked(tmp_path: Path) -> None:
    asked: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: asked.append(number))
    try:
        model = train(tmp_path, Pressing(1))
    finally:
        signal.signal(signal.SIGINT, before)
    assert asked == [signal.SIGINT]
    assert model.counters.epoch == EPOCHS


@posix
def test_what_is_ignored_stays_so(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert train(tmp_path, Pressing(1)).counters.epoch == EPOCHS
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_train_without_signals(tmp_path: Path) -> None:
    made: list[fastnn.Sequential] = []
    thread = threading.Thread(target=lambda: made.append(train(tmp_path)))
    thread.start()
    thread.join()
    assert made[0].counters.epoch == EPOCHS


@posix
def test_one_that_waits_is_answered_at_the_end() -> None:
    interrupts = Interrupts()
    interrupts.__enter__()
    interrupts.hold()
    press()
    with pytest.raises(KeyboardInterrupt):
        interrupts.__exit__()


@posix
def test_a_handler_that_was_set_within_stays() -> None:
    asked: list[int] = []

    def own(number: int, frame: Any) -> None:
        asked.append(number)

    with Interrupts():
        signal.signal(signal.SIGINT, own)
    assert signal.getsignal(signal.SIGINT) is own
    press()
    assert asked == [signal.SIGINT]
    signal.signal(signal.SIGINT, signal.default_int_handler)
